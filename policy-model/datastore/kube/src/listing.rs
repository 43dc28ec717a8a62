//! Reads all objects of one resource: as a streaming list where there may be many, else as a plain one.

use crate::api::Api;
use crate::failure::RequestError;
use crate::gathering::Taker;
use crate::held::Held;
use crate::origin::Origin;
use crate::position::Position;
use crate::read::{self, Event};
use policy_model::Kind;
use policy_model_datastore::{Revision, WatchEvent};
use std::collections::BTreeSet;

/// Reads all objects of a resource, of one namespace or of all. Returns where a watch of them continues.
pub(crate) async fn list(
    api: &Api,
    held: &Held,
    origin: Origin,
    namespace: Option<&str>,
    taker: &mut impl Taker,
) -> Result<Position, RequestError> {
    // Streaming spares the API server the memory for the whole answer, and us ours; where there is little, a plain list
    // costs one connection less.
    let is_large = matches!(
        origin,
        Origin::Pods | Origin::Policies | Origin::EndpointSlices | Origin::Custom(Kind::IPAMBlock)
    );
    if api.settings().streaming && is_large && !held.streaming_is_refused() {
        match streamed(api, held, origin, namespace, taker).await? {
            Streamed::Listed(position) => return Ok(position),
            Streamed::Unsupported(why) => {
                held.refuse_streaming(&why);
                // What was told cannot be taken back by a plain list, which says nothing of what has gone.
                if !taker.forget() {
                    return Err(RequestError::Unreadable(format!(
                        "a streaming list without an end ({why})"
                    )));
                }
            }
        }
    }
    plain(api, held, origin, namespace, taker).await
}

async fn plain(
    api: &Api,
    held: &Held,
    origin: Origin,
    namespace: Option<&str>,
    taker: &mut impl Taker,
) -> Result<Position, RequestError> {
    let answer = match api.read(&origin.path(namespace)).await {
        Err(RequestError::Refused(refusal)) if refusal.code == 404 && origin.may_be_absent() => {
            held.note_absence(origin, true);
            return Ok(Position::Absent);
        }
        answer => answer?,
    };
    held.note_absence(origin, false);
    let list = read::list(origin, answer.format, &answer.bytes)?;
    let mut places = Places::of(held, origin, namespace);
    for reading in list.readings() {
        let reading = reading?;
        places.saw(&reading.place);
        if let Some(versioned) = held.versioned(origin, reading) {
            taker.take(WatchEvent::Upsert(versioned), true);
            taker.hand_over().await?;
        }
    }
    places.keep_only(held, origin);
    held.seen(list.revision);
    taker.finish().await?;
    Ok(Position::After(list.revision))
}

enum Streamed {
    Listed(Position),
    /// The server has no streaming lists, and says so in one of several ways.
    Unsupported(String),
}

async fn streamed(
    api: &Api,
    held: &Held,
    origin: Origin,
    namespace: Option<&str>,
    taker: &mut impl Taker,
) -> Result<Streamed, RequestError> {
    let path = format!(
        "{}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true{}",
        origin.path(namespace),
        timeout(api)
    );
    let mut stream = match api.stream(&path).await {
        Ok(stream) => stream,
        Err(RequestError::Refused(refusal)) if refusal.code == 404 && origin.may_be_absent() => {
            held.note_absence(origin, true);
            return Ok(Streamed::Listed(Position::Absent));
        }
        Err(RequestError::Refused(refusal)) if matches!(refusal.code, 400 | 422) => {
            return Ok(Streamed::Unsupported(refusal.to_string()));
        }
        Err(error) => return Err(error),
    };
    held.note_absence(origin, false);
    let mut places = Places::of(held, origin, namespace);
    let format = stream.format();
    loop {
        let message = match stream.next(api.settings().request_timeout).await {
            // An older server takes the request for a plain watch, shows what there is, and then says no more.
            Err(RequestError::Silent(limit)) => {
                return Ok(Streamed::Unsupported(format!(
                    "no end of the list within {limit:?}"
                )));
            }
            Ok(None) => {
                return Err(RequestError::Unreadable(
                    "a streaming list that breaks off".into(),
                ));
            }
            message => message?.unwrap_or_default(),
        };
        match read::event(origin, format, message)? {
            Event::Seen { reading, is_new } => {
                places.saw(&reading.place);
                let revision = Revision::new(reading.revision);
                let key = reading.outcome.key().filter(|_| !is_new);
                match (held.versioned(origin, reading), key) {
                    (Some(versioned), _) => taker.take(WatchEvent::Upsert(versioned), is_new),
                    // Something has to change while the list is on its way: rare.
                    (None, Some(key)) => taker.take(WatchEvent::Delete { key, revision }, false),
                    (None, None) => {}
                }
            }
            Event::Gone(reading) => {
                if let Some(key) = reading.outcome.key() {
                    let revision = Revision::new(reading.revision);
                    taker.take(WatchEvent::Delete { key, revision }, false);
                }
            }
            Event::Bookmark {
                revision,
                ends_list: true,
            } => {
                held.seen(revision);
                places.keep_only(held, origin);
                taker.finish().await?;
                stream.shrink();
                return Ok(Streamed::Listed(Position::Open(Box::new(stream), revision)));
            }
            Event::Bookmark { .. } => {}
            // Overload is no lack of ability.
            Event::Refused(refusal) if matches!(refusal.code, 410 | 429 | 503 | 504) => {
                return Err(refusal.into());
            }
            Event::Refused(refusal) => return Ok(Streamed::Unsupported(refusal.to_string())),
        }
        taker.hand_over().await?;
    }
}

/// The places of the objects of a whole listing, to forget what is remembered of others. Empty where nothing is
/// remembered, which is the rule, or where the listing is not whole.
struct Places(Option<BTreeSet<String>>);

impl Places {
    fn of(held: &Held, origin: Origin, namespace: Option<&str>) -> Self {
        Places((namespace.is_none() && held.remembers(origin)).then(BTreeSet::new))
    }

    fn saw(&mut self, place: &str) {
        if let Some(places) = &mut self.0 {
            places.insert(place.to_owned());
        }
    }

    fn keep_only(&self, held: &Held, origin: Origin) {
        if let Some(places) = &self.0 {
            held.keep_only(origin, places);
        }
    }
}

/// How long the server may keep a watch before it ends it: at random, so that the watches of many agents, opened in
/// the same moment, do not end in one.
pub(crate) fn timeout(api: &Api) -> String {
    let least = api.settings().silence.as_secs().max(1) * 2;
    format!("&timeoutSeconds={}", rand::random_range(least..=least * 2))
}
