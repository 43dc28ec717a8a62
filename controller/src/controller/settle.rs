//! Brings the datastore in step: the half of the loop that writes.
//!
//! One pass looks at the objects that may differ, orders what is to be done, and does it. A write that fails ends the
//! pass, because what comes after may need what failed; the rest stays to be done.

use super::{Cause, Controller};
use crate::decide::{Decision, Turn, decide};
use crate::departed::{self, ReleaseError};
use crate::wanted::{is_incomplete, source_of};
use policy_model::{Key, Kind, Resource};
use policy_model_datastore::{DatastoreError, RETRY_LIMIT, Versioned};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// Why a pass ended early.
#[derive(Debug, thiserror::Error)]
enum PassError {
    #[error("{key} cannot be written")]
    Write { key: Key, source: DatastoreError },
    #[error(transparent)]
    Release(#[from] ReleaseError),
    #[error("the blocks of addresses cannot be read")]
    Blocks { source: DatastoreError },
}

impl Controller {
    /// Does everything that is to be done and can be.
    pub(super) async fn settle(&mut self) {
        if !self.is_listed || self.retry_at.is_some() {
            return;
        }
        for key in self.wanted.place_pods(&self.observed) {
            self.dirty.insert(key, Cause::Manifests);
            self.are_faults_due = true;
        }
        if self.dirty.is_empty() && !self.is_collection_due {
            return;
        }
        self.standing.passes += 1;
        self.metrics.passes.inc();
        match self.pass().await {
            Ok(()) => {
                self.trouble = None;
                self.failures = 0;
                if let Some(since) = self.changed_at.take() {
                    self.metrics.change_seconds.observe(since.elapsed().as_secs_f64());
                }
            }
            Err(error) => {
                let text = crate::chain(&error);
                if self.trouble.as_ref() != Some(&text) {
                    tracing::error!("{text}; it is tried again");
                }
                self.trouble = Some(text);
                self.metrics.write_errors.inc();
                let pause = self
                    .options
                    .back_off
                    .pause(self.failures, rand::random_range(0.0..=1.0));
                self.failures = self.failures.saturating_add(1);
                self.retry_at = Some(Instant::now() + pause);
            }
        }
    }

    async fn pass(&mut self) -> Result<(), PassError> {
        let mut steps: Vec<(Turn, Key, Cause)> = Vec::new();
        for (key, cause) in std::mem::take(&mut self.dirty) {
            match self.decision(&key) {
                Decision::Nothing | Decision::Foreign => {}
                decision => steps.push((Turn::of(&decision, key.kind), key, cause)),
            }
        }
        steps.sort_by(|one, other| (one.0, &one.1).cmp(&(other.0, &other.1)));
        let mut steps = steps.into_iter();
        while let Some((_, key, cause)) = steps.next() {
            self.health.moves("write an object");
            if let Err(error) = self.bring_in_step(&key, cause).await {
                self.dirty.insert(key, cause);
                for (_, key, cause) in steps {
                    self.dirty.entry(key).or_insert(cause);
                }
                return Err(error);
            }
        }
        self.release_departed().await
    }

    /// What is to be done about an object as it is known now.
    fn decision(&mut self, key: &Key) -> Decision {
        let form = self.form(key);
        let decision = decide(form.as_ref(), self.observed.get(key));
        let is_foreign = decision == Decision::Foreign;
        let is_news = if is_foreign {
            self.foreign.insert(key.clone())
        } else {
            self.foreign.remove(key)
        };
        let was_rejected = decision == Decision::Nothing && self.rejected.remove(key).is_some();
        self.are_faults_due |= is_news || was_rejected;
        decision
    }

    /// The form that an object is to have: what the manifests say, unless they are broken and a former form is known.
    fn form(&mut self, key: &Key) -> Option<Resource> {
        let wanted = self.wanted.get(key);
        let stored = self.observed.get(key).map(|stored| &stored.resource);
        let own = stored.filter(|stored| source_of(stored).is_some());
        let former = self.kept.get(key).or(own).cloned();
        let stays = |former: &Arc<Resource>| match &wanted {
            Some(wanted) => is_incomplete(wanted) && !is_incomplete(former),
            None => self.wanted.keeps(former),
        };
        match former.filter(stays) {
            Some(former) => {
                let form = former.as_ref().clone();
                self.kept.insert(key.clone(), former);
                Some(form)
            }
            None => {
                self.kept.remove(key);
                wanted
            }
        }
    }

    /// Writes one object until it is as it is to be, however often others write it meanwhile.
    async fn bring_in_step(&mut self, key: &Key, cause: Cause) -> Result<(), PassError> {
        let failed = |source| PassError::Write {
            key: key.clone(),
            source,
        };
        for _ in 0..RETRY_LIMIT {
            let store = Arc::clone(&self.store);
            let outcome = match self.decision(key) {
                Decision::Nothing | Decision::Foreign => return Ok(()),
                Decision::Create(resource) => {
                    let written = store.create(resource).await;
                    self.written(written, "create", None)
                }
                Decision::Update(resource, version) => {
                    let written = store.update(resource, &version).await;
                    self.written(written, "update", Some(&version))
                }
                Decision::Delete(key, version) => {
                    if key.kind == Kind::Node {
                        // The node's object is what remembers the work until it is done.
                        self.release(&key.name).await?;
                        self.departed.insert(key.name.clone());
                    }
                    store.delete(&key, Some(&version)).await.map(|()| {
                        self.observed.remove(&key);
                        self.rejected.remove(&key);
                        self.count("delete")
                    })
                }
            };
            match outcome {
                Ok(()) => {
                    self.log_write(key, cause);
                    return Ok(());
                }
                Err(DatastoreError::Conflict { current, .. }) => self.observed.put(*current),
                Err(DatastoreError::AlreadyExists { .. } | DatastoreError::NotFound { .. }) => {
                    match store.get(key).await.map_err(failed)? {
                        Some(current) => self.observed.put(current),
                        None => drop(self.observed.remove(key)),
                    }
                }
                Err(DatastoreError::Invalid { error, .. }) => {
                    self.rejected.insert(key.clone(), error.to_string());
                    self.are_faults_due = true;
                    return Ok(());
                }
                Err(source) => return Err(failed(source)),
            }
        }
        tracing::warn!("{key} is changed by somebody else all the time; it is left until it changes again");
        Ok(())
    }

    fn written(
        &mut self,
        written: Result<Versioned, DatastoreError>,
        operation: &str,
        before: Option<&policy_model_datastore::Version>,
    ) -> Result<(), DatastoreError> {
        let written = written?;
        self.rejected.remove(&written.key());
        // A store that finds nothing to change writes nothing.
        if before != Some(&written.version) {
            self.count(operation);
        }
        self.observed.put(written);
        Ok(())
    }

    fn count(&mut self, operation: &str) {
        self.standing.writes += 1;
        self.metrics.writes.with_label_values(&[operation]).inc();
    }

    fn log_write(&mut self, key: &Key, cause: Cause) {
        match cause {
            Cause::Manifests => tracing::debug!("{key} is in step"),
            Cause::Datastore => {
                self.standing.repairs += 1;
                self.metrics.repairs.inc();
                tracing::info!("{key} was changed by somebody else and is put right");
            }
        }
    }

    /// Gives back what nodes that are gone still hold, as far as no endpoint uses it.
    async fn release_departed(&mut self) -> Result<(), PassError> {
        if self.departed.is_empty() && !self.is_collection_due {
            return Ok(());
        }
        let used: BTreeSet<String> = self
            .observed
            .endpoints()
            .map(|(_, _, node)| node.to_owned())
            .collect();
        if self.is_collection_due {
            let found = departed::ownerless_holders(self.store.as_ref()).await;
            let found = found.map_err(|source| PassError::Blocks { source })?;
            self.departed.extend(found);
            self.is_collection_due = false;
        }
        self.departed.retain(|node| !self.observed.has_node(node));
        let free: Vec<String> = self
            .departed
            .iter()
            .filter(|node| !used.contains(*node))
            .cloned()
            .collect();
        for node in free {
            self.release(&node).await?;
            self.departed.remove(&node);
        }
        Ok(())
    }

    async fn release(&mut self, node: &str) -> Result<(), ReleaseError> {
        self.health.moves("give back the addresses of a node");
        let live: BTreeSet<(&str, &str)> = self
            .observed
            .endpoints()
            .filter(|(_, _, found)| *found == node)
            .map(|(namespace, pod, _)| (namespace, pod))
            .collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| u64::try_from(now.as_micros()).unwrap_or(u64::MAX));
        let is_live = |namespace: &str, pod: &str| live.contains(&(namespace, pod));
        let freed = departed::release_node(self.store.as_ref(), node, is_live, now).await?;
        if freed > 0 {
            self.metrics.addresses_released.inc_by(freed as u64);
            tracing::info!("{freed} addresses of the node {node}, which is gone, are given back");
        }
        Ok(())
    }
}
