//! Read, decide, write, and decide again where somebody else was faster.

use crate::{Datastore, DatastoreError, Versioned};
use policy_model::{Key, Resource};

/// How often [`upsert_with_retry`] decides before it gives up. Each repetition means that somebody else's write
/// succeeded, so only a store that conflicts with itself comes near it.
pub const RETRY_LIMIT: usize = 1_000;

/// Brings an object to what `decide` makes of its present state, creating it where it is absent.
///
/// `decide` gets the object as it is (or `None`) and returns what it should be, or `None` to leave it as it is; it
/// is asked again, from the new state, whenever somebody else wrote in between. The resource that it returns must
/// have the key. Returns the object as it stands afterwards.
///
/// # Errors
/// Whatever the store says, except that `Conflict`, `AlreadyExists` and `NotFound` are returned only after
/// [`RETRY_LIMIT`] decisions.
pub async fn upsert_with_retry(
    store: &dyn Datastore,
    key: &Key,
    mut decide: impl FnMut(Option<&Resource>) -> Option<Resource>,
) -> Result<Option<Versioned>, DatastoreError> {
    let mut current = store.get(key).await?;
    let mut tries = 0;
    loop {
        let Some(wanted) = decide(current.as_ref().map(|v| v.resource.as_ref())) else {
            return Ok(current);
        };
        let result = match &current {
            Some(versioned) => store.update(wanted, &versioned.version).await,
            None => store.create(wanted).await,
        };
        tries += 1;
        current = match result {
            Ok(versioned) => return Ok(Some(versioned)),
            Err(DatastoreError::Conflict { current, .. }) if tries < RETRY_LIMIT => Some(*current),
            Err(DatastoreError::AlreadyExists { .. } | DatastoreError::NotFound { .. })
                if tries < RETRY_LIMIT =>
            {
                store.get(key).await?
            }
            Err(error) => return Err(error),
        };
    }
}
