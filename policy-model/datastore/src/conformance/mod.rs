//! What the words of the port mean, as cases that every adapter passes.
//!
//! An adapter's test gives a function that makes a fresh store with several handles (as several processes would have)
//! and runs [`run`]. No case measures time; each waits for a condition, with one generous deadline per case.

mod following;
mod load;
mod objects;
mod syncing;

use crate::{BoxFuture, Datastore, DatastoreError, Version, Versioned};
use policy_model::{GlobalNetworkPolicySpec, Key, Kind, NetworkSetSpec, Object, Resource, TierSpec};
use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

/// How long one case may take in all; a store that is merely slow is within it.
pub const DEADLINE: Duration = Duration::from_secs(300);

/// Makes a fresh, empty store and returns so many handles on it.
pub type Factory<'a> = &'a (dyn Fn(usize) -> BoxFuture<'a, Vec<Arc<dyn Datastore>>> + Send + Sync);

type Outcome = BoxFuture<'static, Result<(), Failure>>;

/// One case of the suite.
pub struct Case {
    /// What holds, as a sentence with underscores.
    pub name: &'static str,
    run: fn(Vec<Arc<dyn Datastore>>) -> Outcome,
}

/// A case that an adapter fails, and how.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failure(String);

impl Failure {
    fn new(what: impl fmt::Display) -> Self {
        Failure(what.to_string())
    }
}

impl From<DatastoreError> for Failure {
    fn from(error: DatastoreError) -> Self {
        Failure(format!("unexpected error: {error} ({error:?})"))
    }
}

macro_rules! case {
    ($room:ident :: $name:ident) => {
        Case {
            name: stringify!($name),
            run: |handles| Box::pin($room::$name(handles)),
        }
    };
}

/// All cases.
pub const CASES: &[Case] = &[
    case!(objects::an_absent_object_is_none),
    case!(objects::what_is_created_is_read_through_every_handle),
    case!(objects::nothing_is_created_twice),
    case!(objects::an_update_needs_the_current_version),
    case!(objects::an_update_by_the_equal_changes_nothing),
    case!(objects::a_delete_needs_the_current_version_or_none),
    case!(objects::an_invalid_object_changes_nothing),
    case!(objects::every_kind_comes_back_as_it_was),
    case!(objects::names_of_kinds_and_namespaces_do_not_mix),
    case!(objects::a_listing_is_sorted_and_selected),
    case!(objects::of_many_writers_one_wins),
    case!(objects::counters_that_many_handles_raise_lose_nothing),
    case!(objects::upsert_creates_updates_and_leaves),
    case!(following::a_watch_shows_what_other_handles_do),
    case!(following::a_watch_continues_where_a_listing_ended),
    case!(following::a_listing_in_parts_tells_what_a_listing_tells),
    case!(following::a_watch_continues_after_any_event),
    case!(following::a_watch_shows_its_selection_only),
    case!(following::a_refused_write_shows_nowhere),
    case!(following::a_dropped_wait_loses_nothing),
    case!(following::a_batch_holds_what_is_there),
    case!(following::a_revision_of_the_future_expires),
    case!(load::a_watcher_ends_at_the_listing_whatever_happened),
    case!(syncing::a_syncer_tells_the_listing_then_in_sync_then_changes),
    case!(syncing::a_syncer_of_an_empty_store_is_in_sync),
];

/// Runs all cases, each on a fresh store.
///
/// # Errors
/// Every case that failed, with its name.
pub async fn run(factory: Factory<'_>) -> Result<(), Failure> {
    let mut failures = Vec::new();
    for case in CASES {
        let handles = factory(4).await;
        let result = match tokio::time::timeout(DEADLINE, (case.run)(handles)).await {
            Ok(result) => result,
            Err(_) => Err(Failure::new(format!("not done within {DEADLINE:?}"))),
        };
        if let Err(failure) = result {
            failures.push(format!("{}: {failure}", case.name));
        }
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(Failure(failures.join("\n")))
    }
}

/// Says what differs, where two values must be equal.
fn same<T: PartialEq + Debug>(what: &str, found: T, expected: T) -> Result<(), Failure> {
    if found == expected {
        Ok(())
    } else {
        Err(Failure(format!("{what}: found {found:?}, expected {expected:?}")))
    }
}

/// Says what does not hold.
fn holds(what: &str, condition: bool) -> Result<(), Failure> {
    if condition {
        Ok(())
    } else {
        Err(Failure(format!("does not hold: {what}")))
    }
}

/// Says what was found in place of an error.
fn refused<T: Debug>(what: &str, result: Result<T, DatastoreError>) -> Result<DatastoreError, Failure> {
    match result {
        Ok(value) => Err(Failure(format!("{what}: was accepted with {value:?}"))),
        Err(error) => Ok(error),
    }
}

/// Reads an object that must exist.
async fn present(store: &dyn Datastore, key: &Key) -> Result<Versioned, Failure> {
    store
        .get(key)
        .await?
        .ok_or_else(|| Failure(format!("{key} is not there")))
}

/// The handle with this number; the factory may give fewer, and then handles are shared.
fn handle(handles: &[Arc<dyn Datastore>], n: usize) -> Result<Arc<dyn Datastore>, Failure> {
    let index = n
        .checked_rem(handles.len())
        .ok_or_else(|| Failure::new("the factory gave no handle"))?;
    handles
        .get(index)
        .cloned()
        .ok_or_else(|| Failure::new("the factory gave no handle"))
}

/// A tier whose order is its content.
fn tier(name: &str, order: f64) -> Resource {
    Object::named(
        name,
        TierSpec {
            order: Some(order),
            default_action: None,
        },
    )
    .into()
}

fn tier_key(name: &str) -> Key {
    Key::global(Kind::Tier, name)
}

/// The content of a tier made by [`tier`].
fn order(resource: &Resource) -> f64 {
    match resource {
        Resource::Tier(tier) => tier.spec.order.unwrap_or(f64::NAN),
        _ => f64::NAN,
    }
}

fn network_set(namespace: &str, name: &str) -> Resource {
    Resource::NetworkSet(Object::namespaced(namespace, name, NetworkSetSpec::default()))
}

/// An object that every adapter must refuse: its selector cannot be read.
fn invalid_policy(name: &str) -> Resource {
    let spec = GlobalNetworkPolicySpec {
        selector: "this is ( no selector".into(),
        ..Default::default()
    };
    Object::named(name, spec).into()
}

/// A version that no object has.
fn strange_version() -> Version {
    Version::new("0-no-object-has-this-version")
}
