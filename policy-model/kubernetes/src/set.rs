//! A changing set of manifest files, and the resources that it amounts to.
//!
//! Files change one at a time, and people make mistakes in them: an object that was valid before stays in force as
//! it was while its document is wrong, and an object that two documents define is what the first of them says. The
//! result depends on the present texts alone, not on the order in which they came, as long as all are valid. The
//! cost of a change is that of the files that changed.

mod fault;
mod file;
mod implied;
mod outcome;

pub use fault::{Consequence, Fault};
pub use outcome::Changes;

use crate::manifest::{Manifest, ManifestId};
use crate::translate::{PodFacts, WrittenPolicy, pod_facts, translate, translate_pod, written_policy};
use fault::DocumentPlace;
use file::{Claim, File};
use implied::ImpliedProfiles;
use outcome::Outcome;
use policy_model::{Key, Kind, Resource};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The files, what they say, and what is in force.
#[derive(Debug, Default)]
pub struct ManifestSet {
    files: BTreeMap<Arc<str>, File>,
    /// Who speaks of an object, in the order of paths and documents.
    claims: BTreeMap<ManifestId, BTreeMap<DocumentPlace, Claim>>,
    in_force: BTreeMap<ManifestId, InForce>,
    /// Objects that more than one document speaks of.
    contested: BTreeSet<ManifestId>,
    pods: BTreeMap<(String, String), PodFacts>,
    assignments: BTreeMap<(String, String), String>,
    implied: ImpliedProfiles,
    outcome: Outcome,
}

/// The form of an object that counts.
#[derive(Debug)]
struct InForce {
    manifest: Arc<Manifest>,
    consequence: Option<Consequence>,
    place: DocumentPlace,
}

impl ManifestSet {
    /// An empty set.
    pub fn new() -> Self {
        ManifestSet::default()
    }

    /// Takes the text of a file, new or changed.
    pub fn set_file(&mut self, path: &str, text: &str) -> Changes {
        self.update([(path, Some(text))])
    }

    /// Forgets a file: its objects vanish, unless another document defines them.
    pub fn remove_file(&mut self, path: &str) -> Changes {
        self.update([(path, None)])
    }

    /// Takes several files at once, `None` for those that vanished.
    ///
    /// An object that moves from one file to another is then never absent in between.
    pub fn update<'a>(&mut self, edits: impl IntoIterator<Item = (&'a str, Option<&'a str>)>) -> Changes {
        let mut dirty = BTreeSet::new();
        for (path, text) in edits {
            self.replace_file(path, text, &mut dirty);
        }
        self.settle(dirty)
    }

    /// Says on which node a pod runs whose manifest does not; `None` takes the word back.
    pub fn assign(&mut self, namespace: &str, pod: &str, node: Option<&str>) -> Changes {
        let key = (namespace.to_string(), pod.to_string());
        match node {
            Some(node) => self.assignments.insert(key, node.to_string()),
            None => self.assignments.remove(&key),
        };
        let id = ManifestId::new("", "Pod", namespace, pod);
        self.produce(&id);
        self.outcome.take_changes()
    }

    /// Says it of many pods at once, and takes back what was said of all others.
    pub fn set_assignments(&mut self, assignments: BTreeMap<(String, String), String>) -> Changes {
        let before = std::mem::replace(&mut self.assignments, assignments);
        let pods: BTreeSet<&(String, String)> = before.keys().chain(self.assignments.keys()).collect();
        let changed = pods
            .into_iter()
            .filter(|pod| before.get(*pod) != self.assignments.get(*pod));
        let ids: Vec<ManifestId> = changed
            .map(|(ns, pod)| ManifestId::new("", "Pod", ns.as_str(), pod.as_str()))
            .collect();
        for id in ids {
            self.produce(&id);
        }
        self.outcome.take_changes()
    }

    /// The pods that need a node and have none, in the order of namespace and name.
    pub fn unassigned_pods(&self) -> impl Iterator<Item = &PodFacts> {
        self.pods
            .values()
            .filter(|pod| !pod.finished && self.node_of(&pod.namespace, &pod.name).is_none())
    }

    /// The node of a pod: what its manifest says, else what was assigned.
    pub fn node_of(&self, namespace: &str, pod: &str) -> Option<&str> {
        let key = (namespace.to_string(), pod.to_string());
        let said = self.pods.get(&key).and_then(|pod| pod.node.as_deref());
        said.or_else(|| self.assignments.get(&key).map(String::as_str))
    }

    /// Every pod in force, endpoint or not, in the order of namespace and name.
    pub fn pods(&self) -> impl Iterator<Item = &PodFacts> {
        self.pods.values()
    }

    /// The nodes that Node objects define or pods name, sorted.
    pub fn node_names(&self) -> BTreeSet<&str> {
        let nodes = self
            .resources()
            .filter(|r| r.kind() == Kind::Node)
            .map(|r| r.metadata().name.as_str());
        nodes
            .chain(self.pods.values().filter_map(|pod| pod.node.as_deref()))
            .collect()
    }

    /// Every object in force.
    pub fn manifests(&self) -> impl Iterator<Item = (&ManifestId, &Manifest)> {
        self.in_force.iter().map(|(id, found)| (id, &*found.manifest))
    }

    /// Every resource that the files amount to, in the order of their keys.
    pub fn resources(&self) -> impl Iterator<Item = &Resource> {
        self.outcome.resources()
    }

    /// One resource.
    pub fn get(&self, key: &Key) -> Option<&Resource> {
        self.outcome.get(key)
    }

    /// Whether a resource that an earlier process stored, and that this set does not amount to, must stay.
    ///
    /// A set that was just made knows no former valid forms. Where a document is broken, what it defined may be that
    /// very resource; deleting a policy for a misprint would open what it closed.
    pub fn may_define(&self, key: &Key) -> bool {
        if self.outcome.get(key).is_some() {
            return false;
        }
        let nameless = |file: &File| file.hides_unknown;
        self.files.values().any(nameless) || self.undecided().any(|(id, _)| outcome::would_produce(id, key))
    }

    /// Whether the resource is what was left of an invalid policy that never was valid here.
    ///
    /// It belongs into the datastore only where that has no former form of the policy.
    pub fn is_remainder(&self, key: &Key) -> bool {
        let origin = self.outcome.origin(key).and_then(|id| self.in_force.get(id));
        origin.is_some_and(|found| found.consequence == Some(Consequence::RestInForce))
    }

    /// What the author of a Kubernetes policy wrote that became this resource; none for every other resource.
    ///
    /// Of a policy with invalid rules it speaks of the form that is in force, from which those are left out.
    pub fn written_policy(&self, key: &Key) -> Option<WrittenPolicy> {
        let found = self.in_force.get(self.outcome.origin(key)?)?;
        match &*found.manifest {
            Manifest::NetworkPolicy(policy) => Some(written_policy(policy)),
            _ => None,
        }
    }

    /// Everything that is wrong now, in the order of paths and documents.
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults: Vec<Fault> = Vec::new();
        for (path, file) in &self.files {
            for found in &file.faults {
                let consequence = found
                    .id
                    .as_ref()
                    .map_or(file.consequence_of_broken(), |id| self.consequence(id));
                faults.push(found.fault(path, consequence));
            }
        }
        for id in &self.contested {
            self.contest(id, &mut faults);
        }
        for (key, winner, losers) in self.outcome.collisions() {
            for loser in losers {
                if let Some(found) = self.in_force.get(loser) {
                    let reason = format!("becomes {key}, which is already made of {winner}");
                    faults.push(self.fault_at(&found.place, loser, reason));
                }
            }
        }
        faults.sort_by(|a, b| (&a.file, a.document, a.item).cmp(&(&b.file, b.document, b.item)));
        faults
    }

    fn consequence(&self, id: &ManifestId) -> Consequence {
        let found = self.in_force.get(id).map(|found| found.consequence);
        match found {
            Some(Some(consequence)) => consequence,
            Some(None) => Consequence::OtherDocumentInForce,
            None => Consequence::NotInForce,
        }
    }

    /// Faults of an object that several documents speak of.
    fn contest(&self, id: &ManifestId, faults: &mut Vec<Fault>) {
        let (Some(claims), Some(winner)) = (self.claims.get(id), self.in_force.get(id)) else {
            return;
        };
        for (place, claim) in claims {
            if *place != winner.place && claim.is_written() {
                let reason = format!("is also defined in {}, which is in force", winner.place);
                faults.push(self.fault_at(place, id, reason));
            }
        }
    }

    fn fault_at(&self, place: &DocumentPlace, id: &ManifestId, reason: String) -> Fault {
        Fault {
            file: place.file.to_string(),
            document: place.document,
            item: place.item,
            line: place.line,
            subject: id.to_string(),
            field: "metadata.name".to_string(),
            reason,
            consequence: Consequence::OtherDocumentInForce,
        }
    }

    /// Objects that documents speak of and that have no form in force.
    fn undecided(&self) -> impl Iterator<Item = (&ManifestId, &BTreeMap<DocumentPlace, Claim>)> {
        self.claims
            .iter()
            .filter(|(id, _)| !self.in_force.contains_key(*id))
    }

    fn replace_file(&mut self, path: &str, text: Option<&str>, dirty: &mut BTreeSet<ManifestId>) {
        let path: Arc<str> = path.into();
        let before = self.files.remove(&path).unwrap_or_default();
        let mut known = BTreeMap::new();
        for (id, place) in &before.claims {
            dirty.insert(id.clone());
            let Some(claims) = self.claims.get_mut(id) else {
                continue;
            };
            if let Some(form) = claims.remove(place).and_then(Claim::last_valid) {
                // The first of several in one file is the one that counted.
                known.entry(id.clone()).or_insert(form);
            }
            if claims.is_empty() {
                self.claims.remove(id);
            }
        }
        let Some(text) = text else { return };
        let (file, claims) = file::read(&path, text, &known, before.hides_unknown);
        for (id, place, claim) in claims {
            dirty.insert(id.clone());
            self.claims.entry(id).or_default().insert(place, claim);
        }
        self.files.insert(path, file);
    }

    fn settle(&mut self, dirty: BTreeSet<ManifestId>) -> Changes {
        for id in &dirty {
            self.decide(id);
            self.produce(id);
        }
        self.outcome.take_changes()
    }

    /// Finds the form of an object that counts: the first valid document's, else the last valid form, else what is
    /// left of an invalid one.
    fn decide(&mut self, id: &ManifestId) {
        let none = BTreeMap::new();
        let claims = self.claims.get(id).unwrap_or(&none);
        let valid = claims.iter().find_map(|(place, claim)| match claim {
            Claim::Valid(form) => Some((place, form, None)),
            Claim::Invalid { .. } => None,
        });
        let last_valid = || {
            claims.iter().find_map(|(place, claim)| match claim {
                Claim::Invalid {
                    last_valid: Some(form),
                    ..
                } => Some((place, form, Some(Consequence::LastValidInForce))),
                _ => None,
            })
        };
        let remainder = || {
            claims.iter().find_map(|(place, claim)| match claim {
                Claim::Invalid {
                    remainder: Some(form),
                    ..
                } => Some((place, form, Some(Consequence::RestInForce))),
                _ => None,
            })
        };
        let found = valid.or_else(last_valid).or_else(remainder);
        if claims.values().filter(|claim| claim.is_written()).count() > 1 {
            self.contested.insert(id.clone());
        } else {
            self.contested.remove(id);
        }
        match found {
            Some((place, form, consequence)) => {
                let found = InForce {
                    manifest: Arc::clone(form),
                    consequence,
                    place: place.clone(),
                };
                self.in_force.insert(id.clone(), found);
            }
            None => drop(self.in_force.remove(id)),
        }
    }

    /// Makes the resources of an object anew.
    fn produce(&mut self, id: &ManifestId) {
        let manifest = self.in_force.get(id).map(|found| Arc::clone(&found.manifest));
        if id.group.is_empty() && id.kind == "Pod" {
            self.note_pod(id, manifest.as_deref());
        }
        self.implied
            .note_definition(id, self.claims.contains_key(id), &mut self.outcome);
        let translation = match manifest.as_deref() {
            None => Vec::new(),
            Some(Manifest::Pod(pod)) => translate_pod(pod, self.node_of(&id.namespace, &id.name)).resources,
            Some(other) => translate(other).resources,
        };
        self.outcome.set_object(id, translation);
    }

    fn note_pod(&mut self, id: &ManifestId, manifest: Option<&Manifest>) {
        let key = (id.namespace.clone(), id.name.clone());
        let facts = match manifest {
            Some(Manifest::Pod(pod)) => Some(pod_facts(pod)),
            _ => None,
        };
        let before = match &facts {
            Some(facts) => self.pods.insert(key, facts.clone()),
            None => self.pods.remove(&key),
        };
        self.implied
            .replace_pod(before.as_ref(), facts.as_ref(), &mut self.outcome);
    }
}
