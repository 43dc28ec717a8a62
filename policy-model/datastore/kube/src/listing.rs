//! Reads all objects of one resource: as a streaming list where there may be many, else as a plain one.

use crate::api::Api;
use crate::failure::RequestError;
use crate::held::Held;
use crate::origin::Origin;
use crate::position::Position;
use crate::read::{self, Event};
use policy_model::Key;
use policy_model_datastore::Versioned;
use std::collections::BTreeSet;

/// All objects of one resource, and where a watch of them continues.
pub(crate) struct Listed {
    pub(crate) items: Vec<Versioned>,
    pub(crate) position: Position,
}

/// Reads all objects of a resource, of one namespace or of all.
pub(crate) async fn list(
    api: &Api,
    held: &Held,
    origin: Origin,
    namespace: Option<&str>,
) -> Result<Listed, RequestError> {
    // Streaming spares the API server the memory for the whole answer; where there is little, a plain list costs one
    // connection less.
    let is_large = matches!(origin, Origin::Pods | Origin::Policies | Origin::EndpointSlices);
    if api.settings().streaming && is_large && !held.streaming_is_refused() {
        match streamed(api, held, origin, namespace).await? {
            Streamed::Listed(listed) => return Ok(listed),
            Streamed::Unsupported(why) => held.refuse_streaming(&why),
        }
    }
    plain(api, held, origin, namespace).await
}

async fn plain(
    api: &Api,
    held: &Held,
    origin: Origin,
    namespace: Option<&str>,
) -> Result<Listed, RequestError> {
    let answer = match api.read(&origin.path(namespace)).await {
        Err(RequestError::Refused(refusal)) if refusal.code == 404 && origin.may_be_absent() => {
            held.note_absence(origin, true);
            return Ok(Listed {
                items: Vec::new(),
                position: Position::Absent,
            });
        }
        answer => answer?,
    };
    let (readings, revision) = read::list(origin, answer.format, &answer.bytes)?;
    drop(answer);
    held.note_absence(origin, false);
    if namespace.is_none() {
        held.keep_only(
            origin,
            &readings.iter().map(|reading| reading.place.clone()).collect(),
        );
    }
    held.seen(revision);
    Ok(Listed {
        items: readings
            .into_iter()
            .filter_map(|one| held.versioned(origin, one))
            .collect(),
        position: Position::After(revision),
    })
}

enum Streamed {
    Listed(Listed),
    /// The server has no streaming lists, and says so in one of several ways.
    Unsupported(String),
}

async fn streamed(
    api: &Api,
    held: &Held,
    origin: Origin,
    namespace: Option<&str>,
) -> Result<Streamed, RequestError> {
    let path = format!(
        "{}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true{}",
        origin.path(namespace),
        timeout(api)
    );
    let mut stream = match api.stream(&path).await {
        Ok(stream) => stream,
        Err(RequestError::Refused(refusal)) if matches!(refusal.code, 400 | 422) => {
            return Ok(Streamed::Unsupported(refusal.to_string()));
        }
        Err(error) => return Err(error),
    };
    let mut items: Vec<Versioned> = Vec::new();
    let mut places = BTreeSet::new();
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
                if namespace.is_none() && has_faults_to_forget(origin) {
                    places.insert(reading.place.clone());
                }
                let key = reading.outcome.key().filter(|_| !is_new);
                let versioned = held.versioned(origin, reading);
                match key {
                    Some(key) => replace(&mut items, &key, versioned),
                    None => items.extend(versioned),
                }
            }
            Event::Gone(reading) => {
                if let Some(key) = reading.outcome.key() {
                    replace(&mut items, &key, None);
                }
            }
            Event::Bookmark {
                revision,
                ends_list: true,
            } => {
                held.seen(revision);
                if namespace.is_none() && has_faults_to_forget(origin) {
                    held.keep_only(origin, &places);
                }
                return Ok(Streamed::Listed(Listed {
                    items,
                    position: Position::Open(Box::new(stream), revision),
                }));
            }
            Event::Bookmark { .. } => {}
            // Overload is no lack of ability.
            Event::Refused(refusal) if matches!(refusal.code, 410 | 429 | 503 | 504) => {
                return Err(refusal.into());
            }
            Event::Refused(refusal) => return Ok(Streamed::Unsupported(refusal.to_string())),
        }
    }
}

/// Puts an object in the place of its older form. Rare: something has to change while the list is on its way.
fn replace(items: &mut Vec<Versioned>, key: &Key, by: Option<Versioned>) {
    items.retain(|item| item.key() != *key);
    items.extend(by);
}

/// Whether it is worth to remember which objects were listed. Faults of pods are not, and pods are many.
fn has_faults_to_forget(origin: Origin) -> bool {
    origin != Origin::Pods
}

/// How long the server may keep a watch before it ends it: at random, so that the watches of many agents, opened in
/// the same moment, do not end in one.
pub(crate) fn timeout(api: &Api) -> String {
    let least = api.settings().silence.as_secs().max(1) * 2;
    format!("&timeoutSeconds={}", rand::random_range(least..=least * 2))
}
