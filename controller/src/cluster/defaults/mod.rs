//! The objects that every cluster has: made once by the leader where they are absent, never overwritten.
//!
//! One writer, so that nodes need no right to make them and cannot race. What a user made or changed stays; an object
//! of the same name is an answer, whatever it says. Only what the cluster says of itself follows the version that runs.

mod facts;
mod range;
pub(crate) mod wanted;

use super::reach::Reach;
use ipnet::IpNet;
use policy_model::{
    ClusterInformationSpec, FelixConfigurationSpec, InvalidResource, Key, Kind, Object, Resource, TierSpec,
};
use policy_model_datastore::{Datastore, DatastoreError, Selection};
use policy_model_ipam::Family;
use range::{Choice, NoRange};
use std::collections::BTreeSet;
use thiserror::Error;
use wanted::{WantedPool, WantedPools};

/// Name of the objects that hold for the whole cluster.
const DEFAULT: &str = "default";
/// Calico's order of the tier `default`: far behind every tier that somebody puts before it.
const DEFAULT_TIER_ORDER: f64 = 1_000_000.0;
/// What the cluster is made of.
const CLUSTER_TYPE: &str = "k8s,manx";

/// Why a default is not there.
#[derive(Debug, Error)]
pub(crate) enum DefaultError {
    /// The datastore did not do its part.
    #[error(transparent)]
    Datastore(#[from] DatastoreError),
    /// There is no range for a pool.
    #[error(
        "{pool} cannot be made: {source}; set {variable} to a range that is free, or NO_DEFAULT_POOLS=true and make a pool yourself"
    )]
    NoRange {
        /// The pool.
        pool: &'static str,
        /// Where a range can be named.
        variable: String,
        /// Why there is none.
        source: NoRange,
    },
    /// What is asked of a pool does not fit the range that the cluster has.
    #[error("{pool} cannot be made in {cidr} ({reason}): {source}; set {variable}")]
    Unfit {
        /// The pool.
        pool: &'static str,
        /// The range.
        cidr: IpNet,
        /// Why it is that one.
        reason: &'static str,
        /// Where another can be named.
        variable: String,
        /// What does not fit.
        source: InvalidResource,
    },
}

/// What is needed to make the defaults.
pub(crate) struct Defaults<'a> {
    pub(crate) store: &'a dyn Datastore,
    pub(crate) reach: &'a Reach,
    pub(crate) wanted: &'a WantedPools,
    /// The API server's address as pods reach it; no pool may hold it.
    pub(crate) service_host: Option<&'a str>,
    /// Whether nodes may yet be given ranges.
    pub(crate) is_patient: bool,
}

impl Defaults<'_> {
    /// Makes what is absent. May be repeated until it succeeds; what is there already stays.
    pub(crate) async fn make(&self) -> Result<(), DefaultError> {
        self.cluster_information().await?;
        let tier = TierSpec {
            order: Some(DEFAULT_TIER_ORDER),
            ..TierSpec::default()
        };
        self.ensure(Object::named(DEFAULT, tier).into()).await?;
        let agents = FelixConfigurationSpec::default();
        self.ensure(Object::named(DEFAULT, agents).into()).await?;
        self.pools().await
    }

    /// Creates an object unless there is one of its name.
    async fn ensure(&self, resource: Resource) -> Result<(), DatastoreError> {
        let key = resource.key();
        if self.store.get(&key).await?.is_some() {
            return Ok(());
        }
        match self.store.create(resource).await {
            Ok(_) => {
                tracing::info!("{key} was absent and is made");
                Ok(())
            }
            // Somebody else made it meanwhile: theirs stays.
            Err(DatastoreError::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn cluster_information(&self) -> Result<(), DatastoreError> {
        let key = Key::global(Kind::ClusterInformation, DEFAULT);
        let identity = format!("{:032x}", rand::random::<u128>());
        policy_model_datastore::upsert_with_retry(self.store, &key, |current| {
            told(current, &identity, env!("CARGO_PKG_VERSION"))
        })
        .await
        .map(drop)
    }

    async fn pools(&self) -> Result<(), DefaultError> {
        if self.wanted.pools.is_empty() {
            return Ok(());
        }
        // A pool that is being deleted is still listed, and still the answer: its addresses are in use.
        let listing = self.store.list(Selection::kinds([Kind::IPPool])).await?;
        let present: BTreeSet<Family> = listing
            .items
            .iter()
            .filter_map(|item| match item.resource.as_ref() {
                Resource::IPPool(pool) => Some(Family::of_net(&pool.spec.cidr)),
                _ => None,
            })
            .collect();
        let mut facts = None;
        for wanted in self.wanted.pools.iter().filter(|w| !present.contains(&w.family)) {
            let choice = match wanted.cidr {
                Some(cidr) => Some(Choice {
                    cidr,
                    reason: "as it was asked for",
                }),
                None => {
                    let known = match facts.take() {
                        Some(known) => known,
                        None => facts::gather(self.reach, self.service_host).await?,
                    };
                    let choice = range::choose(wanted.family, &known, self.is_patient);
                    facts = Some(known);
                    choice.map_err(|source| DefaultError::NoRange {
                        pool: wanted.name(),
                        variable: wanted.variable("CIDR"),
                        source,
                    })?
                }
            };
            match choice {
                Some(choice) => self.pool(wanted, &choice).await?,
                None => tracing::debug!("there is no use for a pool of {} addresses", wanted.family),
            }
        }
        Ok(())
    }

    async fn pool(&self, wanted: &WantedPool, choice: &Choice) -> Result<(), DefaultError> {
        let pool = wanted.pool(choice.cidr).map_err(|source| DefaultError::Unfit {
            pool: wanted.name(),
            cidr: choice.cidr,
            reason: choice.reason,
            variable: wanted.variable("CIDR"),
            source,
        })?;
        tracing::info!(
            "there is no pool of {} addresses: {} with {} ({})",
            wanted.family,
            wanted.name(),
            choice.cidr,
            choice.reason
        );
        Ok(self.ensure(pool).await?)
    }
}

/// What the cluster is to say of itself; none if it says it already.
///
/// Whether the datastore may be used is the operator's word, and so is a type that somebody wrote.
fn told(current: Option<&Resource>, identity: &str, version: &str) -> Option<Resource> {
    let Some(Resource::ClusterInformation(current)) = current else {
        let spec = ClusterInformationSpec {
            cluster_guid: identity.to_owned(),
            cluster_type: CLUSTER_TYPE.to_owned(),
            calico_version: version.to_owned(),
            datastore_ready: Some(true),
        };
        return Some(Object::named(DEFAULT, spec).into());
    };
    let mut changed = current.clone();
    if changed.spec.cluster_guid.is_empty() {
        changed.spec.cluster_guid = identity.to_owned();
    }
    version.clone_into(&mut changed.spec.calico_version);
    (changed != *current).then(|| changed.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(resource: &Resource) -> &ClusterInformationSpec {
        match resource {
            Resource::ClusterInformation(object) => &object.spec,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_cluster_keeps_its_identity_and_the_operators_words() {
        let first = told(None, "abc", "1.0").unwrap();
        assert_eq!(spec(&first).cluster_guid, "abc");
        assert_eq!(spec(&first).datastore_ready, Some(true));
        assert_eq!(told(Some(&first), "def", "1.0"), None, "nothing to say twice");
        let mut locked = first.clone();
        if let Resource::ClusterInformation(object) = &mut locked {
            object.spec.datastore_ready = Some(false);
            object.spec.cluster_type = "mine".into();
        }
        let newer = told(Some(&locked), "def", "1.1").unwrap();
        assert_eq!(spec(&newer).cluster_guid, "abc");
        assert_eq!(spec(&newer).datastore_ready, Some(false));
        assert_eq!(spec(&newer).cluster_type, "mine");
        assert_eq!(spec(&newer).calico_version, "1.1");
    }
}
