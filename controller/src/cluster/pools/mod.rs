//! Lets no pool go while its addresses are in use.
//!
//! Each pool carries a finalizer. A pool that is deleted is first disabled, which every agent understands; then its
//! condition says whom it waits for; its empty blocks are taken back; and when nothing of it is left it may go. The
//! range of a pool that is still in use can thus never be made into another pool whose addresses are given twice.
//!
//! A pool of which others have addresses says so, in a condition and in the log, for as long as they have.

mod conditions;
mod plan;
mod services;

use super::leader::tenure::Tenure;
use super::nodes::now_in_microseconds;
use super::picture::Picture;
use super::reach::{Reach, is_conflict};
use super::vitals::Pulse;
use crate::departed::{ReleaseError, drive};
use crate::overlap::Claims;
use conditions::{ALLOCATABLE, Told};
use ipnet::IpNet;
use k8s_openapi::jiff::Timestamp;
use plan::{FINALIZER, Holders, Pool, Step};
use policy_model::{IpamBlockSpec, Kind, Resource};
use policy_model_datastore::{Datastore, DatastoreError, Selection};
use policy_model_ipam::engine::{ReleaseBlocks, Request, Which};
use policy_model_ipam::name::block_key;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use thiserror::Error;

/// For how long a pool must have been disabled, and empty, before it may go: an agent that took a block of it before
/// it knew has written that by then.
const SETTLED: Duration = Duration::from_secs(5);

/// Why a pool is not as it should be.
#[derive(Debug, Error)]
pub(crate) enum PoolError {
    #[error(transparent)]
    Ask(#[from] DatastoreError),
    #[error(transparent)]
    Release(#[from] ReleaseError),
}

/// What the protection works with.
pub(crate) struct Ground<'a> {
    pub(crate) store: &'a dyn Datastore,
    pub(crate) reach: &'a Reach,
    pub(crate) tenure: &'a Tenure,
    pub(crate) pulse: &'a Pulse,
    /// Where the nodes are.
    pub(crate) picture: &'a Picture,
    /// The API server's address as pods reach it.
    pub(crate) service_host: Option<&'a str>,
}

/// What is remembered of pools from one look to the next.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    /// Since when each of those that are on their way out is disabled and empty, as far as we saw.
    empty_since: BTreeMap<String, Instant>,
    /// What was last written into the log of those of which others have addresses.
    overlapping: BTreeMap<String, String>,
}

impl Pools {
    /// Whether a pool is on its way out, so that its addresses must be watched.
    pub(crate) fn waits(&self) -> bool {
        !self.empty_since.is_empty()
    }

    /// Whether others have addresses of a pool.
    pub(crate) fn has_overlap(&self) -> bool {
        !self.overlapping.is_empty()
    }

    /// Looks at every pool, and does what is to be done. Says whether one waits for something.
    pub(crate) async fn pass(&mut self, ground: &Ground<'_>) -> Result<bool, PoolError> {
        ground.pulse.moves("list pools");
        let found = ground.reach.pools().await?;
        let pools: Vec<Pool> = found.iter().filter_map(Pool::read).collect();
        self.empty_since
            .retain(|name, _| pools.iter().any(|pool| pool.is_leaving() && pool.name == *name));
        self.overlapping
            .retain(|name, _| pools.iter().any(|pool| pool.name == *name));
        let claims = claims(ground, &pools).await?;
        let mut waits = false;
        for pool in &pools {
            let holders = if pool.is_leaving() {
                waits = true;
                // Asked for afresh: what goes cannot be had back.
                Holders::of(&pool.cidr, &blocks(ground.store).await?)
            } else {
                Holders::default()
            };
            let is_settled = self.is_settled(pool, &holders, Instant::now());
            let overlap = claims.on(&pool.name, &pool.cidr).map(Told::from);
            self.warn(&pool.name, overlap.as_ref());
            for step in pool.plan(&holders, is_settled, overlap) {
                match carry_out(ground, pool, step).await {
                    Ok(()) => {}
                    // Somebody changed it meanwhile: the next pass decides from what it is now.
                    Err(PoolError::Ask(error)) if is_conflict(&error) => {
                        waits = true;
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(waits)
    }

    /// Writes what is new about others that have addresses of a pool into the log.
    fn warn(&mut self, name: &str, overlap: Option<&Told>) {
        match overlap {
            Some(told) if self.overlapping.get(name) != Some(&told.message) => {
                tracing::warn!("the pool {name}: {}", told.message);
                self.overlapping.insert(name.to_owned(), told.message.clone());
            }
            Some(_) => {}
            None => {
                if self.overlapping.remove(name).is_some() {
                    tracing::info!("the pool {name}: nobody else has addresses of it any more");
                }
            }
        }
    }

    fn is_settled(&mut self, pool: &Pool, holders: &Holders, now: Instant) -> bool {
        if !pool.is_leaving() || !pool.is_empty_and_disabled(holders) {
            self.empty_since.remove(&pool.name);
            return false;
        }
        let since = *self.empty_since.entry(pool.name.clone()).or_insert(now);
        now.saturating_duration_since(since) >= SETTLED
    }
}

/// Everything that has addresses.
async fn claims(ground: &Ground<'_>, pools: &[Pool]) -> Result<Claims, DatastoreError> {
    ground.pulse.moves("list the ranges of Services");
    let nodes = ground.picture.node_addresses();
    Ok(Claims {
        pools: pools
            .iter()
            .map(|pool| (pool.name.clone(), pool.cidr.trunc()))
            .collect(),
        nodes: nodes.map(|(name, address)| (name.to_owned(), address)).collect(),
        services: services::ranges(ground.reach, ground.service_host).await?,
    })
}

async fn blocks(store: &dyn Datastore) -> Result<Vec<IpamBlockSpec>, DatastoreError> {
    let listing = store.list(Selection::kinds([Kind::IPAMBlock])).await?;
    let blocks = listing
        .items
        .iter()
        .filter_map(|item| match item.resource.as_ref() {
            Resource::IPAMBlock(block) => Some(block.spec.clone()),
            _ => None,
        });
    Ok(blocks.collect())
}

async fn carry_out(ground: &Ground<'_>, pool: &Pool, step: Step) -> Result<(), PoolError> {
    let name = &pool.name;
    match step {
        Step::Protect => {
            let mut finalizers = pool.finalizers.clone();
            finalizers.push(FINALIZER.to_owned());
            patch(
                ground,
                pool,
                json!({ "metadata": { "finalizers": finalizers } }),
                false,
            )
            .await?;
            tracing::info!("the pool {name} is protected: it will not go while its addresses are in use");
        }
        Step::Disable => {
            patch(ground, pool, json!({ "spec": { "disabled": true } }), false).await?;
            tracing::info!("the pool {name} is deleted: nobody takes addresses of it any more");
        }
        Step::Tell(wanted) => {
            let news = wanted.iter().filter(|told| !pool.conditions.says(told));
            for told in news.filter(|told| told.kind == ALLOCATABLE && !told.is_true) {
                tracing::info!("the pool {name}: {}", told.message);
            }
            patch(ground, pool, status(pool, &wanted), true).await?;
        }
        Step::GiveBack(empty) => {
            for (cidr, owner) in empty {
                ground.pulse.moves("give back a block");
                give_back(ground.store, cidr, owner).await?;
            }
        }
        Step::Free => {
            let others = pool.finalizers.iter().filter(|other| *other != FINALIZER);
            let others: Vec<&String> = others.collect();
            patch(
                ground,
                pool,
                json!({ "metadata": { "finalizers": others } }),
                false,
            )
            .await?;
            tracing::info!("the pool {name} is gone: nothing of it was in use any more");
        }
    }
    Ok(())
}

async fn patch(
    ground: &Ground<'_>,
    pool: &Pool,
    mut patch: Value,
    is_status: bool,
) -> Result<(), DatastoreError> {
    ground.pulse.moves("change a pool");
    // With the version that it was decided from, so that the API server compares and swaps.
    patch["metadata"]["resourceVersion"] = json!(pool.version);
    let operation = || format!("patch the pool {}", pool.name);
    let work = ground.reach.patch_pool(&pool.name, &patch, is_status);
    ground.tenure.act(operation, work).await
}

/// The status of a pool with our conditions in it; those of others stay.
fn status(pool: &Pool, wanted: &[Told]) -> Value {
    let now = now_in_microseconds() / 1_000_000;
    let now = i64::try_from(now)
        .ok()
        .and_then(|s| Timestamp::from_second(s).ok());
    let now = now.unwrap_or(Timestamp::UNIX_EPOCH).to_string();
    json!({ "status": { "conditions": pool.conditions.with(wanted, &now) } })
}

async fn give_back(store: &dyn Datastore, cidr: IpNet, owner: Option<String>) -> Result<(), PoolError> {
    let Some(node) = owner else {
        let key = block_key(&cidr);
        let found = store.get(&key).await?;
        // Only as it was found: whoever took an address of it meanwhile keeps it.
        if let Some(found) = found
            && matches!(found.resource.as_ref(), Resource::IPAMBlock(block)
                if block.spec.affinity.is_none() && policy_model_ipam::block::is_empty(&block.spec))
        {
            return match store.delete(&key, Some(&found.version)).await {
                Ok(()) | Err(DatastoreError::NotFound { .. } | DatastoreError::Conflict { .. }) => Ok(()),
                Err(error) => Err(error.into()),
            };
        }
        return Ok(());
    };
    let request = Request::ReleaseBlocks(ReleaseBlocks {
        node: node.clone(),
        which: Which::OneIfEmpty(cidr),
    });
    drive(store, &node, request, now_in_microseconds()).await?;
    Ok(())
}
