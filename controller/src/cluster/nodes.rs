//! Gives back what vanished nodes held.
//!
//! A node that is away is not gone: its pods run on, with their addresses. Gone is what the API server does not know,
//! asked for afresh, twice, with a pause between. Even then an address stays with a pod that the API server still has.

use super::figures::Figures;
use super::picture::Picture;
use super::reach::Reach;
use super::vitals::Pulse;
use crate::departed::{ReleaseError, release_node};
use policy_model_datastore::{Datastore, DatastoreError};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use thiserror::Error;

/// The pause between two looks at a node that is not there: a node that is made anew is back by then.
const DOUBT: Duration = Duration::from_secs(5);
/// How long after a release a node is looked at again that still holds something: its pods' objects go one by one.
const AGAIN: Duration = Duration::from_secs(15);

/// Why a vanished node still holds what it held.
#[derive(Debug, Error)]
pub(crate) enum DepartureError {
    #[error(transparent)]
    Ask(#[from] DatastoreError),
    #[error(transparent)]
    Release(#[from] ReleaseError),
}

/// What is due for a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// Look for the first time.
    First,
    /// Look again, and release it if it is still not there.
    Second,
}

/// Nodes that were not there when they were last looked for. Pure: the time is a parameter.
#[derive(Debug, Default)]
pub(crate) struct Departed {
    /// When the next look is due.
    missing: BTreeMap<String, Instant>,
}

impl Departed {
    /// What is due now, when these nodes seem to be missing; the others are forgotten.
    fn due(&mut self, missing: &BTreeSet<String>, now: Instant) -> Vec<(String, Due)> {
        self.missing.retain(|node, _| missing.contains(node));
        missing
            .iter()
            .filter_map(|node| match self.missing.get(node) {
                None => Some((node.clone(), Due::First)),
                Some(next) if *next <= now => Some((node.clone(), Due::Second)),
                Some(_) => None,
            })
            .collect()
    }

    fn was_missing(&mut self, node: &str, now: Instant) {
        self.missing.insert(node.to_owned(), now + DOUBT);
    }

    fn was_there(&mut self, node: &str) {
        self.missing.remove(node);
    }

    fn was_released(&mut self, node: &str, now: Instant) {
        self.missing.insert(node.to_owned(), now + AGAIN);
    }

    /// Whether no node is missing as far as is known.
    pub(crate) fn is_idle(&self) -> bool {
        self.missing.is_empty()
    }

    /// Looks at whatever is due, and releases what is gone.
    pub(crate) async fn pass(
        &mut self,
        picture: &Picture,
        store: &dyn Datastore,
        reach: &Reach,
        pulse: &Pulse,
        figures: &Figures,
    ) -> Result<(), DepartureError> {
        for (node, due) in self.due(&picture.missing_nodes(), Instant::now()) {
            pulse.moves("look for a node");
            if reach.node(&node).await?.is_some() {
                self.was_there(&node);
                continue;
            }
            if due == Due::First {
                tracing::info!("the node {node} holds addresses and does not exist; it is looked for again");
                self.was_missing(&node, Instant::now());
                continue;
            }
            pulse.moves("give back what a node held");
            let live: BTreeSet<(String, String)> = reach
                .pods_of_node(&node)
                .await?
                .into_iter()
                .map(|pod| {
                    let metadata = pod.metadata;
                    (
                        metadata.namespace.unwrap_or_default(),
                        metadata.name.unwrap_or_default(),
                    )
                })
                .collect();
            let is_live = |namespace: &str, pod: &str| live.contains(&(namespace.to_owned(), pod.to_owned()));
            let freed = release_node(store, &node, is_live, now_in_microseconds()).await?;
            figures.node_released(freed);
            tracing::info!(
                "the node {node} is gone: its blocks and {freed} addresses are given back; {} of its pods still exist",
                live.len()
            );
            self.was_released(&node, Instant::now());
        }
        Ok(())
    }
}

/// The time as the bookkeeping of addresses counts it.
pub(crate) fn now_in_microseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_node_is_looked_for_twice_with_a_pause() {
        let start = Instant::now();
        let mut departed = Departed::default();
        let missing = names(&["a"]);
        assert_eq!(departed.due(&missing, start), [("a".to_owned(), Due::First)]);
        departed.was_missing("a", start);
        assert!(departed.due(&missing, start + DOUBT / 2).is_empty());
        assert_eq!(
            departed.due(&missing, start + DOUBT),
            [("a".to_owned(), Due::Second)]
        );
        // It came back in between: everything begins anew.
        assert!(departed.due(&names(&[]), start + DOUBT).is_empty());
        assert_eq!(
            departed.due(&missing, start + 2 * DOUBT),
            [("a".to_owned(), Due::First)]
        );
    }

    #[test]
    fn what_is_left_is_looked_at_again_later() {
        let start = Instant::now();
        let mut departed = Departed::default();
        departed.was_released("a", start);
        assert!(departed.due(&names(&["a"]), start + AGAIN / 2).is_empty());
        assert_eq!(
            departed.due(&names(&["a"]), start + AGAIN),
            [("a".to_owned(), Due::Second)]
        );
        departed.was_there("a");
        assert_eq!(
            departed.due(&names(&["a"]), start + AGAIN),
            [("a".to_owned(), Due::First)]
        );
    }
}
