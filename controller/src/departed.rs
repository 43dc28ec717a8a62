//! Gives back the addresses and blocks of a node that is gone.
//!
//! An address goes only if the endpoint that held it is gone too: freeing one that is in use gives it to two, which is
//! worse than keeping one that is not. Blocks lose their owner in any case, so that another node can take what is
//! free in them.

use policy_model::{IpamBlockSpec, Kind, Resource};
use policy_model_datastore::{Datastore, DatastoreError, Selection, Version};
use policy_model_ipam::block::{self, Guard, Holding};
use policy_model_ipam::engine::{
    Answer, Machine, Outcome, ReleaseAddresses, ReleaseBlocks, Request, Step, Stored, Target, Which, Write,
};
use policy_model_ipam::{IpamError, handle};
use std::collections::BTreeSet;
use std::sync::Arc;
use thiserror::Error;

/// Why a node's addresses could not be given back.
#[derive(Debug, Error)]
pub enum ReleaseError {
    /// The datastore did not do its part.
    #[error("addresses of node {node} cannot be given back")]
    Datastore {
        /// The node.
        node: String,
        /// What the datastore said.
        source: DatastoreError,
    },
    /// The bookkeeping of addresses refused.
    #[error("addresses of node {node} cannot be given back")]
    Ipam {
        /// The node.
        node: String,
        /// Why.
        source: IpamError,
    },
}

/// Frees the addresses that were used on a node by endpoints that are gone, and gives back all of its blocks.
///
/// `is_live` says whether a pod, by namespace and name, still has an endpoint on the node. `now` is in microseconds
/// since the Unix epoch. Returns how many addresses were freed. Repeating it is harmless.
///
/// # Errors
/// What the datastore or the bookkeeping says; what was done until then stays done, and a repetition does the rest.
pub async fn release_node(
    store: &dyn Datastore,
    node: &str,
    is_live: impl Fn(&str, &str) -> bool,
    now: u64,
) -> Result<usize, ReleaseError> {
    let failed = |source| ReleaseError::Datastore {
        node: node.to_owned(),
        source,
    };
    let mut targets = Vec::new();
    for spec in &blocks(store).await.map_err(failed)? {
        for held in block::holders(spec).filter(|held| is_used_on(held, node)) {
            let secondary = &held.attribute.secondary;
            let name = |key: &str| secondary.get(key).map(String::as_str);
            let pod = name(handle::ATTRIBUTE_NAMESPACE).zip(name(handle::ATTRIBUTE_POD));
            if pod.is_some_and(|(namespace, pod)| is_live(namespace, pod)) {
                continue;
            }
            targets.push(Target {
                address: held.address,
                guard: Guard {
                    handle: held.attribute.handle_id.clone(),
                    sequence: (held.sequence != 0).then_some(held.sequence),
                },
            });
        }
    }
    let mut freed = 0;
    if !targets.is_empty() {
        let request = Request::ReleaseAddresses(ReleaseAddresses { targets });
        if let Outcome::Released(released) = drive(store, node, request, now).await? {
            freed = released.freed.len();
        }
    }
    let request = Request::ReleaseBlocks(ReleaseBlocks {
        node: node.to_owned(),
        which: Which::All,
    });
    drive(store, node, request, now).await?;
    Ok(freed)
}

/// Nodes that hold addresses and own no block. A node that lives owns the block that its addresses are of, or will own
/// one again before it takes another address; so where such a node is otherwise unknown, nobody is left to object.
///
/// # Errors
/// What the datastore says.
pub(crate) async fn ownerless_holders(store: &dyn Datastore) -> Result<BTreeSet<String>, DatastoreError> {
    let blocks = blocks(store).await?;
    let owners: BTreeSet<&str> = blocks.iter().filter_map(block::owner).collect();
    let affinities = store.list(Selection::kinds([Kind::BlockAffinity])).await?;
    let claims = |node: &str| {
        affinities.items.iter().any(|found| match &*found.resource {
            Resource::BlockAffinity(claim) => claim.spec.node == node,
            _ => false,
        })
    };
    let holders = blocks.iter().flat_map(block::holders);
    let nodes = holders.filter_map(|held| held.attribute.secondary.get(handle::ATTRIBUTE_NODE));
    Ok(nodes
        .filter(|node| !owners.contains(node.as_str()) && !claims(node))
        .cloned()
        .collect())
}

fn is_used_on(held: &Holding<'_>, node: &str) -> bool {
    let by_attribute = held
        .attribute
        .secondary
        .get(handle::ATTRIBUTE_NODE)
        .is_some_and(|n| n == node);
    let by_handle = held.attribute.handle_id.as_deref();
    by_attribute || by_handle.is_some_and(|found| handle::is_of_node(found, node))
}

async fn blocks(store: &dyn Datastore) -> Result<Vec<IpamBlockSpec>, DatastoreError> {
    let listing = store.list(Selection::kinds([Kind::IPAMBlock])).await?;
    let blocks = listing.items.iter().filter_map(|found| match &*found.resource {
        Resource::IPAMBlock(block) => Some(block.spec.clone()),
        _ => None,
    });
    Ok(blocks.collect())
}

/// Runs a request of the bookkeeping to its end; `node` is named where it fails.
pub(crate) async fn drive(
    store: &dyn Datastore,
    node: &str,
    request: Request,
    now: u64,
) -> Result<Outcome, ReleaseError> {
    let failed = |source| ReleaseError::Datastore {
        node: node.to_owned(),
        source,
    };
    let mut machine: Machine<Version> = Machine::new(request, now);
    let mut answer = Answer::Start;
    loop {
        answer = match machine.next(answer) {
            Step::Get(key) => {
                let found = store.get(&key).await.map_err(failed)?;
                Answer::Object(found.map(|found| Stored::whole(found.resource, found.version)))
            }
            Step::List(kind) => {
                let listing = store.list(Selection::kinds([kind])).await.map_err(failed)?;
                let all = listing.items.into_iter();
                Answer::Objects(
                    all.map(|found| Stored::whole(found.resource, found.version))
                        .collect(),
                )
            }
            Step::Write(write) => carry_out(store, write).await.map_err(failed)?,
            Step::Done(outcome) => return Ok(outcome),
            Step::Failed(source) => {
                return Err(ReleaseError::Ipam {
                    node: node.to_owned(),
                    source,
                });
            }
        };
    }
}

async fn carry_out(store: &dyn Datastore, write: Write<Version>) -> Result<Answer<Version>, DatastoreError> {
    let outcome = match write {
        Write::Create { resource } => store.create(Arc::unwrap_or_clone(resource)).await.map(Some),
        Write::Update { resource, version } => store
            .update(Arc::unwrap_or_clone(resource), &version)
            .await
            .map(Some),
        Write::Delete { key, version } => store.delete(&key, Some(&version)).await.map(|()| None),
    };
    match outcome {
        Ok(Some(written)) => Ok(Answer::Written(written.version)),
        Ok(None) => Ok(Answer::Deleted),
        Err(
            DatastoreError::Conflict { .. }
            | DatastoreError::AlreadyExists { .. }
            | DatastoreError::NotFound { .. },
        ) => Ok(Answer::Conflict),
        Err(error) => Err(error),
    }
}
