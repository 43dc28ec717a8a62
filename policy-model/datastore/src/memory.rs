//! The store in memory, for tests and for programs that keep nothing.
//!
//! It can be made to fail in the ways of real stores: absent, forgetful, breaking its watches.

use crate::{
    BoxFuture, ChangeLog, DEFAULT_REMEMBERED_REMOVALS, Datastore, DatastoreError, Listing, Revision,
    Selection, SharedLog, Version, Versioned, Watch,
};
use policy_model::{Key, Resource};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A store in memory. Clones are handles on the same store.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    log: Arc<SharedLog>,
    available: Arc<AtomicBool>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        MemoryStore::new()
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        MemoryStore::remembering(DEFAULT_REMEMBERED_REMOVALS)
    }

    /// An empty store whose watches expire when they are more than so many removals behind.
    pub fn remembering(removals: usize) -> Self {
        MemoryStore {
            log: Arc::new(SharedLog::new(ChangeLog::new(removals))),
            available: Arc::new(AtomicBool::new(true)),
        }
    }

    /// Forgets all history: a watch from any earlier revision expires, running ones that are behind included.
    pub fn compact(&self) {
        self.log.write(|log| log.compact(log.revision()));
    }

    /// Breaks all running watches.
    pub fn break_watches(&self) {
        self.log.interrupt();
    }

    /// Makes every request fail from now on, and running watches break; or makes the store answer again.
    pub fn set_available(&self, available: bool) {
        self.available.store(available, Ordering::SeqCst);
        if !available {
            self.log.interrupt();
        }
    }

    fn available(&self, operation: &str) -> Result<(), DatastoreError> {
        if self.available.load(Ordering::SeqCst) {
            Ok(())
        } else {
            Err(DatastoreError::unavailable(operation, "it was made unavailable"))
        }
    }

    fn put(log: &mut ChangeLog, resource: Resource) -> Versioned {
        let revision = log.revision().next();
        // A counter, unlike a hash, tells a content that came back from the same content before.
        log.put(
            resource.key(),
            Arc::new(resource),
            Version::new(revision.to_string()),
            revision,
        )
    }
}

fn valid(resource: &Resource) -> Result<(), DatastoreError> {
    resource.validate().map_err(|error| DatastoreError::Invalid {
        place: resource.key().to_string(),
        error,
    })
}

impl Datastore for MemoryStore {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Versioned>, DatastoreError>> {
        Box::pin(async move {
            self.available("get an object")?;
            Ok(self.log.read(|log| log.get(key).cloned()))
        })
    }

    fn list(&self, selection: Selection) -> BoxFuture<'_, Result<Listing, DatastoreError>> {
        Box::pin(async move {
            self.available("list objects")?;
            Ok(self.log.read(|log| log.list(&selection)))
        })
    }

    fn watch(&self, selection: Selection, from: Revision) -> BoxFuture<'_, Result<Watch, DatastoreError>> {
        Box::pin(async move {
            self.available("watch objects")?;
            self.log.watch(selection, from)
        })
    }

    fn create(&self, resource: Resource) -> BoxFuture<'_, Result<Versioned, DatastoreError>> {
        Box::pin(async move {
            self.available("create an object")?;
            valid(&resource)?;
            self.log.write(|log| {
                let key = resource.key();
                if log.get(&key).is_some() {
                    return Err(DatastoreError::AlreadyExists { key });
                }
                Ok(Self::put(log, resource))
            })
        })
    }

    fn update<'a>(
        &'a self,
        resource: Resource,
        expected: &'a Version,
    ) -> BoxFuture<'a, Result<Versioned, DatastoreError>> {
        Box::pin(async move {
            self.available("update an object")?;
            valid(&resource)?;
            self.log.write(|log| {
                let current = check(log, &resource.key(), Some(expected))?;
                if *current.resource == resource {
                    return Ok(current);
                }
                Ok(Self::put(log, resource))
            })
        })
    }

    fn delete<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
    ) -> BoxFuture<'a, Result<(), DatastoreError>> {
        Box::pin(async move {
            self.available("delete an object")?;
            self.log.write(|log| {
                check(log, key, expected)?;
                log.remove(key, log.revision().next());
                Ok(())
            })
        })
    }
}

/// The object as it is, if it has the expected version.
fn check(log: &ChangeLog, key: &Key, expected: Option<&Version>) -> Result<Versioned, DatastoreError> {
    let current = log
        .get(key)
        .ok_or_else(|| DatastoreError::NotFound { key: key.clone() })?;
    if expected.is_some_and(|version| *version != current.version) {
        return Err(DatastoreError::Conflict {
            key: key.clone(),
            current: Box::new(current.clone()),
        });
    }
    Ok(current.clone())
}
