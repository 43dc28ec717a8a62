//! What the manifests amount to, in the form in which it is stored.
//!
//! Pure: files' contents in, objects out. Every object carries the file that it comes from ([`ANNOTATION_SOURCE`]): by
//! that the controller knows its own objects again, and never touches another's.

use crate::folder::{Content, Edit};
use crate::observed::Observed;
use crate::placement::{self, Scene};
use crate::sources::{Handle, Sources};
use ipnet::IpNet;
use policy_model::{Key, Kind, Resource};
use policy_model_kubernetes::{Changes, Fault, ManifestSet, workload_endpoint_name};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Annotation of every object that the controller wrote: the file that it comes from, relative to the folder.
pub const ANNOTATION_SOURCE: &str = "manx.dev/source";
/// Annotation of a policy of which no valid form was ever in force: it lacks the rules that cannot be understood.
pub const ANNOTATION_INCOMPLETE: &str = "manx.dev/incomplete";
/// The source of profiles that no file defines and that pods need.
pub const IMPLIED_SOURCE: &str = "(implied)";
/// Annotation by which a pod asks for addresses.
const ANNOTATION_REQUESTED: &str = "cni.projectcalico.org/ipAddrs";

/// How manifests become objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WantedOptions {
    /// Whether pods whose manifest names no node are given one.
    pub assign_nodes: bool,
    /// Whether an endpoint has the addresses that its pod asks for by annotation.
    pub requested_addresses: bool,
}

/// The manifests and what they amount to.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    options: WantedOptions,
    set: ManifestSet,
    sources: Sources,
    /// Files and folders that cannot be read, and why.
    unreadable: BTreeMap<String, String>,
    is_placement_due: bool,
}

/// The source of an object of ours; `None` where it is foreign.
pub(crate) fn source_of(resource: &Resource) -> Option<&str> {
    let annotations = &resource.metadata().annotations;
    annotations.get(ANNOTATION_SOURCE).map(String::as_str)
}

/// Whether an object is a policy of which some rules could not be understood.
pub(crate) fn is_incomplete(resource: &Resource) -> bool {
    resource
        .metadata()
        .annotations
        .contains_key(ANNOTATION_INCOMPLETE)
}

/// Whether two objects are equal but for whose they are.
pub(crate) fn says_the_same(one: &Resource, other: &Resource) -> bool {
    let bare = |resource: &Resource| {
        let mut bare = resource.clone();
        bare.metadata_mut().annotations.remove(ANNOTATION_SOURCE);
        bare
    };
    bare(one) == bare(other)
}

impl Wanted {
    pub(crate) fn new(options: WantedOptions) -> Self {
        Wanted {
            options,
            ..Wanted::default()
        }
    }

    /// Takes changed files, all at once; returns the keys of the objects that may have changed.
    pub(crate) fn apply(&mut self, edits: &[Edit]) -> BTreeSet<Key> {
        let mut handles = BTreeSet::new();
        let mut texts: Vec<(&str, Option<&str>)> = Vec::new();
        for Edit { path, content } in edits {
            self.unreadable.remove(path);
            match content {
                Content::Text(text) => {
                    handles.extend(self.sources.set_text(path, text));
                    texts.push((path, Some(text)));
                }
                Content::Gone => {
                    handles.extend(self.sources.remove(path));
                    texts.push((path, None));
                }
                Content::Unreadable(reason) => {
                    self.sources.set_unreadable(path);
                    self.unreadable.insert(path.clone(), reason.clone());
                }
            }
        }
        let changes = self.set.update(texts);
        let mut dirty = keys(changes);
        for handle in handles {
            self.is_placement_due |= handle.is_of_placement();
            match handle {
                Handle::Object(key) => {
                    dirty.insert(key);
                }
                Handle::Pod { namespace, name } => dirty.extend(self.endpoint_key(&namespace, &name)),
            }
        }
        dirty
    }

    /// Says that nodes or endpoints changed elsewhere.
    pub(crate) fn placement_is_due(&mut self) {
        self.is_placement_due = true;
    }

    /// Places the pods that name no node, if something changed for them; returns the keys of the endpoints that moved.
    /// A pod of which nothing is known stays where its stored endpoint is.
    pub(crate) fn place_pods(&mut self, observed: &Observed) -> BTreeSet<Key> {
        if !std::mem::take(&mut self.is_placement_due) || !self.options.assign_nodes {
            return BTreeSet::new();
        }
        let homes = observed.homes();
        let mut scene = Scene {
            nodes: self.own_nodes().chain(observed.foreign_nodes()).collect(),
            ..Scene::default()
        };
        for pod in self.set.pods().filter(|pod| pod.is_endpoint()) {
            let name = (pod.namespace.clone(), pod.name.clone());
            if let Some(node) = pod.node.as_deref() {
                *scene.fixed.entry(node).or_default() += 1;
                continue;
            }
            let now = self.set.node_of(&pod.namespace, &pod.name);
            let now = now.filter(|node| scene.nodes.contains(node));
            let now = now.or_else(|| homes.get(&name).map(String::as_str));
            scene.pods.insert(name, now);
        }
        let placed = placement::place(&scene);
        keys(self.set.set_assignments(placed))
    }

    /// An object as it is to be stored; none where the manifests do not amount to it.
    pub(crate) fn get(&self, key: &Key) -> Option<Resource> {
        self.set.get(key).map(|resource| self.stored_form(resource))
    }

    /// The file that an object comes from.
    pub(crate) fn source(&self, key: &Key) -> Option<String> {
        let resource = self.set.get(key)?;
        self.sources.of(resource).map(str::to_owned)
    }

    /// The keys of everything that the manifests amount to.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> {
        self.set.resources().map(Resource::key)
    }

    /// How many objects the manifests amount to.
    pub(crate) fn len(&self) -> usize {
        self.set.resources().count()
    }

    /// Whether a stored object of ours, which the manifests do not amount to, must stay because the file that would
    /// say it is broken.
    pub(crate) fn keeps(&self, stored: &Resource) -> bool {
        source_of(stored).is_some_and(|source| self.sources.may_want(stored, source))
    }

    /// What is wrong in the documents.
    pub(crate) fn faults(&self) -> Vec<Fault> {
        self.set.faults()
    }

    /// Files and folders that cannot be read, and why.
    pub(crate) fn unreadable(&self) -> impl Iterator<Item = (&str, &str)> {
        self.unreadable
            .iter()
            .map(|(path, reason)| (path.as_str(), reason.as_str()))
    }

    /// Pods that need a node and have none.
    pub(crate) fn homeless_pods(&self) -> impl Iterator<Item = (&str, &str)> {
        let pods = self.set.unassigned_pods().filter(|pod| pod.is_endpoint());
        pods.map(|pod| (pod.namespace.as_str(), pod.name.as_str()))
    }

    /// The nodes that manifests define.
    fn own_nodes(&self) -> impl Iterator<Item = &str> {
        let nodes = self
            .set
            .resources()
            .filter(|resource| resource.kind() == Kind::Node);
        nodes.map(|resource| resource.metadata().name.as_str())
    }

    fn endpoint_key(&self, namespace: &str, pod: &str) -> Option<Key> {
        let node = self.set.node_of(namespace, pod)?;
        Some(Key::namespaced(
            Kind::WorkloadEndpoint,
            namespace,
            workload_endpoint_name(node, pod),
        ))
    }

    fn stored_form(&self, resource: &Resource) -> Resource {
        let mut stored = resource.clone();
        let source = self.sources.of(resource).unwrap_or(IMPLIED_SOURCE).to_owned();
        let annotations = &mut stored.metadata_mut().annotations;
        annotations.insert(ANNOTATION_SOURCE.to_owned(), source);
        if self.set.is_remainder(&resource.key()) {
            annotations.insert(ANNOTATION_INCOMPLETE.to_owned(), "true".to_owned());
        } else {
            annotations.remove(ANNOTATION_INCOMPLETE);
        }
        if let (true, Resource::WorkloadEndpoint(endpoint)) = (self.options.requested_addresses, &mut stored)
            && let Some(text) = endpoint.metadata.annotations.get(ANNOTATION_REQUESTED)
            // A pod whose annotation is no such list was refused before.
            && let Ok(addresses) = serde_json::from_str::<Vec<IpAddr>>(text)
            && !addresses.is_empty()
        {
            endpoint.spec.ip_networks = addresses.into_iter().map(IpNet::from).collect();
        }
        stored
    }
}

fn keys(changes: Changes) -> BTreeSet<Key> {
    let Changes { upserts, deletes } = changes;
    upserts.iter().map(Resource::key).chain(deletes).collect()
}
