//! The resources that objects become, who made each, and what changed since it was last asked.

use crate::manifest::ManifestId;
use crate::translate::{namespace_profile_name, service_account_profile_name};
use policy_model::{KUBERNETES_POLICY_PREFIX, Key, Kind, Resource};
use std::collections::{BTreeMap, BTreeSet};

/// What changed. No key appears twice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Resources that are new or differ from before, in the order of their keys.
    pub upserts: Vec<Resource>,
    /// Resources that are gone, in the reverse order of their keys: endpoints before the policies that they need.
    pub deletes: Vec<Key>,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.deletes.is_empty()
    }
}

/// What a resource was made of. The first in this order wins where two are made alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    Object(ManifestId),
    /// Nobody defines it, but pods need it.
    Implied,
}

#[derive(Debug, Default)]
pub(super) struct Outcome {
    candidates: BTreeMap<Key, BTreeMap<Origin, Resource>>,
    made_of: BTreeMap<ManifestId, Vec<Key>>,
    /// Keys that more than one object became.
    collided: BTreeSet<Key>,
    /// For each key that may have changed: what it was when changes were last taken.
    touched: BTreeMap<Key, Option<Resource>>,
}

impl Outcome {
    pub(super) fn resources(&self) -> impl Iterator<Item = &Resource> {
        self.candidates.values().filter_map(|made| made.values().next())
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Resource> {
        self.candidates.get(key)?.values().next()
    }

    /// The object that a resource was made of.
    pub(super) fn origin(&self, key: &Key) -> Option<&ManifestId> {
        match self.candidates.get(key)?.keys().next()? {
            Origin::Object(id) => Some(id),
            Origin::Implied => None,
        }
    }

    /// Keys that several objects became: the one that counts and the others.
    pub(super) fn collisions(&self) -> impl Iterator<Item = (&Key, &ManifestId, Vec<&ManifestId>)> {
        self.collided.iter().filter_map(|key| {
            let mut objects = self
                .candidates
                .get(key)?
                .keys()
                .filter_map(|origin| match origin {
                    Origin::Object(id) => Some(id),
                    Origin::Implied => None,
                });
            Some((key, objects.next()?, objects.collect()))
        })
    }

    /// Replaces what an object became.
    pub(super) fn set_object(&mut self, id: &ManifestId, resources: Vec<Resource>) {
        let keys: Vec<Key> = resources.iter().map(Resource::key).collect();
        let before = if keys.is_empty() {
            self.made_of.remove(id)
        } else {
            self.made_of.insert(id.clone(), keys.clone())
        };
        for (key, resource) in keys.iter().zip(resources) {
            self.set(key.clone(), Origin::Object(id.clone()), Some(resource));
        }
        for key in before.into_iter().flatten().filter(|key| !keys.contains(key)) {
            self.set(key, Origin::Object(id.clone()), None);
        }
    }

    pub(super) fn set_implied(&mut self, key: Key, resource: Option<Resource>) {
        self.set(key, Origin::Implied, resource);
    }

    fn set(&mut self, key: Key, origin: Origin, resource: Option<Resource>) {
        let made = self.candidates.entry(key.clone()).or_default();
        let winner = made.values().next();
        self.touched.entry(key.clone()).or_insert_with(|| winner.cloned());
        match resource {
            Some(resource) => drop(made.insert(origin, resource)),
            None => drop(made.remove(&origin)),
        }
        if made.keys().filter(|origin| **origin != Origin::Implied).count() > 1 {
            self.collided.insert(key.clone());
        } else {
            self.collided.remove(&key);
        }
        if made.is_empty() {
            self.candidates.remove(&key);
        }
    }

    /// What changed since this was last asked.
    pub(super) fn take_changes(&mut self) -> Changes {
        let mut changes = Changes::default();
        for (key, before) in std::mem::take(&mut self.touched) {
            match (before, self.get(&key)) {
                (Some(_), None) => changes.deletes.push(key),
                (before, Some(after)) if before.as_ref() != Some(after) => {
                    changes.upserts.push(after.clone())
                }
                _ => {}
            }
        }
        changes.deletes.reverse();
        changes
    }
}

/// Whether an object, were it valid, could become the resource.
pub(super) fn would_produce(id: &ManifestId, key: &Key) -> bool {
    let is = |kind: Kind, namespace: &str, name: &str| {
        key.kind == kind && key.namespace == namespace && key.name == name
    };
    match (id.group.as_str(), id.kind.as_str()) {
        ("", "Namespace") => is(Kind::Profile, "", &namespace_profile_name(&id.name)),
        ("", "ServiceAccount") => is(
            Kind::Profile,
            "",
            &service_account_profile_name(&id.namespace, &id.name),
        ),
        // The name of an endpoint holds its node, which an invalid pod may not say.
        ("", "Pod") => key.kind == Kind::WorkloadEndpoint && key.namespace == id.namespace,
        ("", "Node") => is(Kind::Node, "", &id.name),
        ("discovery.k8s.io", _) => is(Kind::ServiceEndpoints, &id.namespace, &id.name),
        ("networking.k8s.io", _) => is(
            Kind::NetworkPolicy,
            &id.namespace,
            &format!("{KUBERNETES_POLICY_PREFIX}{}", id.name),
        ),
        _ => id
            .kind
            .parse()
            .is_ok_and(|kind| is(kind, &id.namespace, &id.name)),
    }
}
