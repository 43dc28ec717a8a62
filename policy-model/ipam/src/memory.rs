//! Drives the engine over a map in memory: for `manx simulate`, and for tests of everything above.
//!
//! Nothing here depends on chance or time: the same objects and requests give the same addresses.

use crate::IpamError;
use crate::engine::{Answer, Machine, Outcome, Request, Step, Stored, Write};
use policy_model::{IpamBlockSpec, Key, Kind, Resource};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A datastore in memory: each object with its version, which no two writes share.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    objects: BTreeMap<Key, (Arc<Resource>, u64)>,
    version: u64,
    /// The blocks in which each handle holds addresses.
    holding: BTreeMap<String, BTreeSet<Key>>,
}

impl MemoryStore {
    /// A store that holds some objects.
    pub fn with(resources: impl IntoIterator<Item = Resource>) -> Self {
        let mut store = MemoryStore::default();
        for resource in resources {
            store.put(resource);
        }
        store
    }

    /// Creates or replaces an object, whatever is there.
    pub fn put(&mut self, resource: Resource) {
        self.insert(Arc::new(resource));
    }

    /// Deletes an object, if it is there.
    pub fn remove(&mut self, key: &Key) {
        self.forget(key);
    }

    /// An object and its version.
    pub fn get(&self, key: &Key) -> Option<Stored<u64>> {
        let found = self.objects.get(key);
        found.map(|(resource, version)| Stored::whole(resource.clone(), *version))
    }

    /// All objects, in the order of their keys.
    pub fn resources(&self) -> impl Iterator<Item = &Resource> {
        self.objects.values().map(|(resource, _)| &**resource)
    }

    /// All blocks.
    pub fn blocks(&self) -> impl Iterator<Item = &IpamBlockSpec> {
        self.of_kind(Kind::IPAMBlock)
            .filter_map(|(resource, _)| match &**resource {
                Resource::IPAMBlock(block) => Some(&block.spec),
                _ => None,
            })
    }

    /// Answers a step of a machine; nothing for the last one.
    pub fn answer(&mut self, step: &Step<u64>) -> Option<Answer<u64>> {
        match step {
            Step::Get(key) => Some(Answer::Object(self.get(key))),
            Step::List(kind) => {
                let all = self.of_kind(*kind);
                let stored = all.map(|(resource, version)| Stored::whole(resource.clone(), *version));
                Some(Answer::Objects(stored.collect()))
            }
            Step::Write(write) => Some(self.write(write)),
            Step::Done(_) | Step::Failed(_) => None,
        }
    }

    /// Runs a request to its end. `now` is in microseconds since the Unix epoch.
    ///
    /// # Errors
    /// What the engine says.
    pub fn run(&mut self, request: Request, now: u64) -> Result<Outcome, IpamError> {
        let mut machine = match request.handle() {
            Some(handle) => {
                let blocks = self.holding.get(handle).cloned().unwrap_or_default();
                Machine::new(request, now).looking_only_into(blocks)
            }
            None => Machine::new(request, now),
        };
        let mut answer = Answer::Start;
        loop {
            let step = machine.next(answer);
            answer = match step {
                Step::Done(outcome) => return Ok(outcome),
                Step::Failed(error) => return Err(error),
                // Answering the remaining steps always gives an answer; starting anew would be harmless.
                going_on => self.answer(&going_on).unwrap_or(Answer::Start),
            };
        }
    }

    fn write(&mut self, write: &Write<u64>) -> Answer<u64> {
        let found = self.objects.get(&write.key()).map(|(_, version)| *version);
        match write {
            Write::Create { resource } if found.is_none() => Answer::Written(self.insert(resource.clone())),
            Write::Update { resource, version } if found == Some(*version) => {
                Answer::Written(self.insert(resource.clone()))
            }
            Write::Delete { key, version } if found == Some(*version) => {
                self.forget(key);
                Answer::Deleted
            }
            Write::Create { .. } | Write::Update { .. } | Write::Delete { .. } => Answer::Conflict,
        }
    }

    fn insert(&mut self, resource: Arc<Resource>) -> u64 {
        let key = resource.key();
        self.forget(&key);
        for handle in handles(&resource) {
            self.holding
                .entry(handle.to_owned())
                .or_default()
                .insert(key.clone());
        }
        self.version += 1;
        self.objects.insert(key, (resource, self.version));
        self.version
    }

    fn forget(&mut self, key: &Key) {
        let Some((resource, _)) = self.objects.remove(key) else {
            return;
        };
        for handle in handles(&resource) {
            if let Some(blocks) = self.holding.get_mut(handle) {
                blocks.remove(key);
                if blocks.is_empty() {
                    self.holding.remove(handle);
                }
            }
        }
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &(Arc<Resource>, u64)> {
        let from = Key::global(kind, "");
        self.objects
            .range(from..)
            .take_while(move |(key, _)| key.kind == kind)
            .map(|(_, stored)| stored)
    }
}

fn handles(resource: &Resource) -> impl Iterator<Item = &str> {
    let attributes = match resource {
        Resource::IPAMBlock(block) => block.spec.attributes.as_slice(),
        _ => &[],
    };
    attributes.iter().filter_map(|a| a.handle_id.as_deref())
}
