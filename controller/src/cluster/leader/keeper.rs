//! Reads and writes the Lease object: what `lease` decided, as requests of the API server.

use super::lease::{Record, Timings};
use crate::cluster::reach::bounded;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use policy_model_datastore::DatastoreError;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// One lease of one namespace, and who wants it.
pub(super) struct LeaseKeeper {
    api: Api<Lease>,
    namespace: String,
    name: String,
    identity: String,
    timings: Timings,
    /// Since when it is ours, for people to read.
    acquired: Option<MicroTime>,
}

impl LeaseKeeper {
    pub(super) fn new(client: Client, namespace: &str, name: &str, identity: &str, timings: Timings) -> Self {
        LeaseKeeper {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            timings,
            acquired: None,
        }
    }

    /// The lease as it stands; nothing where there is none.
    pub(super) async fn read(&self) -> Result<Option<Record>, DatastoreError> {
        let found = bounded(
            self.operation("get"),
            self.patience(),
            self.api.get_opt(&self.name),
        )
        .await?;
        Ok(found.as_ref().map(record))
    }

    /// Makes the lease, ours.
    pub(super) async fn create(&mut self) -> Result<Record, DatastoreError> {
        let operation = self.operation("create");
        self.acquired = Some(now());
        let lease = self.lease(&self.identity, self.timings.duration, 0, None);
        let how = PostParams::default();
        let made = self.api.create(&how, &lease);
        Ok(record(&bounded(operation, self.patience(), made).await?))
    }

    /// Writes our name into a version of the lease. `is_new` says that it was another's, or nobody's.
    pub(super) async fn take(
        &mut self,
        version: &str,
        transitions: i32,
        is_new: bool,
    ) -> Result<Record, DatastoreError> {
        if is_new || self.acquired.is_none() {
            self.acquired = Some(now());
        }
        let lease = self.lease(
            &self.identity,
            self.timings.duration,
            transitions,
            Some(version.to_owned()),
        );
        self.replace("renew", lease).await
    }

    /// Writes that nobody holds it, so that another need not wait for its end.
    pub(super) async fn release(&mut self, held: &Record) -> Result<(), DatastoreError> {
        self.acquired = None;
        // As short as a lease can be, for readers that go by its times.
        let free = self.lease(
            "",
            Duration::from_secs(1),
            held.transitions,
            Some(held.version.clone()),
        );
        self.replace("release", free).await.map(drop)
    }

    async fn replace(&self, what: &str, lease: Lease) -> Result<Record, DatastoreError> {
        let how = PostParams::default();
        let replaced = self.api.replace(&self.name, &how, &lease);
        Ok(record(
            &bounded(self.operation(what), self.patience(), replaced).await?,
        ))
    }

    fn lease(&self, holder: &str, duration: Duration, transitions: i32, version: Option<String>) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                resource_version: version,
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: i32::try_from(duration.as_secs().max(1)).ok(),
                acquire_time: self.acquired.clone(),
                renew_time: Some(now()),
                lease_transitions: Some(transitions),
                ..LeaseSpec::default()
            }),
        }
    }

    fn operation(&self, what: &str) -> String {
        format!("{what} the lease {}/{}", self.namespace, self.name)
    }

    /// How long one request may take: one that hangs must leave time for another before the deadline.
    fn patience(&self) -> Duration {
        self.timings.renew_deadline / 2
    }
}

fn record(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok());
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        duration: seconds.filter(|s| *s > 0).map(Duration::from_secs),
        transitions: spec.lease_transitions.unwrap_or_default(),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
    }
}

fn now() -> MicroTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let micros = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
    MicroTime(Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH))
}
