//! A datastore whose writes only the leader can make.
//!
//! Whoever works for the leader is given this and nothing else, so no loop can forget to ask. What passes is still a
//! compare-and-swap: a write that was sent a moment before the right ended, and arrives late, changes nothing that the
//! next leader has changed.

use super::tenure::Tenure;
use crate::cluster::vitals::Vitals;
use policy_model::{Key, Resource};
use policy_model_datastore::{
    BoxFuture, Datastore, DatastoreError, Fault, Listing, Revision, Selection, Version, Versioned, Watch,
};
use std::sync::Arc;

/// A datastore behind a tenure.
#[derive(Clone)]
pub(crate) struct Fenced {
    store: Arc<dyn Datastore>,
    tenure: Tenure,
    /// Whom a request tells that the work moves: many small ones, each of which comes back, are no silence.
    vitals: Vitals,
    worker: &'static str,
}

impl Fenced {
    /// A datastore for the loop `worker`.
    pub(crate) fn new(
        store: Arc<dyn Datastore>,
        tenure: Tenure,
        vitals: Vitals,
        worker: &'static str,
    ) -> Self {
        Fenced {
            store,
            tenure,
            vitals,
            worker,
        }
    }
}

impl Datastore for Fenced {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Versioned>, DatastoreError>> {
        self.vitals.moved(self.worker);
        self.store.get(key)
    }

    fn list(&self, selection: Selection) -> BoxFuture<'_, Result<Listing, DatastoreError>> {
        self.vitals.moved(self.worker);
        self.store.list(selection)
    }

    fn watch(&self, selection: Selection, from: Revision) -> BoxFuture<'_, Result<Watch, DatastoreError>> {
        self.store.watch(selection, from)
    }

    fn create(&self, resource: Resource) -> BoxFuture<'_, Result<Versioned, DatastoreError>> {
        let key = resource.key();
        Box::pin(async move {
            self.vitals.moved(self.worker);
            let work = self.store.create(resource);
            self.tenure.act(|| format!("create {key}"), work).await
        })
    }

    fn update<'a>(
        &'a self,
        resource: Resource,
        expected: &'a Version,
    ) -> BoxFuture<'a, Result<Versioned, DatastoreError>> {
        let key = resource.key();
        Box::pin(async move {
            self.vitals.moved(self.worker);
            let work = self.store.update(resource, expected);
            self.tenure.act(|| format!("update {key}"), work).await
        })
    }

    fn delete<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
    ) -> BoxFuture<'a, Result<(), DatastoreError>> {
        Box::pin(async move {
            self.vitals.moved(self.worker);
            let work = self.store.delete(key, expected);
            self.tenure.act(|| format!("delete {key}"), work).await
        })
    }

    fn faults(&self) -> Vec<Fault> {
        self.store.faults()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy_model::{Kind, Object, TierSpec};
    use policy_model_datastore::MemoryStore;
    use std::time::{Duration, Instant};

    #[tokio::test]
    async fn a_former_leader_reads_and_writes_nothing() {
        let store = MemoryStore::new();
        let tenure = Tenure::new(Instant::now() + Duration::from_secs(600), Duration::from_secs(5));
        let fenced = Fenced::new(Arc::new(store.clone()), tenure.clone(), Vitals::default(), "work");
        let tier = |name: &str| Resource::from(Object::named(name, TierSpec::default()));
        let made = fenced.create(tier("a")).await.unwrap();
        tenure.end();
        assert!(fenced.create(tier("b")).await.is_err());
        assert!(fenced.update(tier("a"), &made.version).await.is_err());
        assert!(fenced.delete(&made.key(), None).await.is_err());
        let left = fenced.list(Selection::kinds([Kind::Tier])).await.unwrap();
        assert_eq!(left.items.len(), 1);
        assert_eq!(left.items[0].version, made.version);
    }
}
