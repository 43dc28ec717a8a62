//! Which file speaks of which object, and how well.
//!
//! [`ManifestSet`](policy_model_kubernetes::ManifestSet) knows what is in force; this room knows the file that it came
//! from, so that a stored object can say where it was written down, and so that a fresh process can tell an object
//! whose file is broken now (it stays) from one whose file is gone (it goes).

use policy_model::{KUBERNETES_POLICY_PREFIX, Key, Kind, Resource};
use policy_model_kubernetes::{
    Manifest, ManifestId, namespace_profile_name, read_documents, service_account_profile_name,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a document speaks of. A pod's endpoint is named after its node too, which the document may not say.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Handle {
    /// The endpoint of a pod, on whichever node.
    Pod {
        /// Namespace of the pod.
        namespace: String,
        /// Name of the pod.
        name: String,
    },
    /// A resource.
    Object(Key),
}

/// How well a file speaks of an object. The best comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// It defines it.
    Valid,
    /// It defined it before it became invalid.
    LastValid,
    /// It names it, and never defined it as far as this process knows.
    Invalid,
}

#[derive(Debug, Default)]
struct FileSays {
    handles: BTreeMap<Handle, Standing>,
    /// Whether it holds something that cannot be read, so that nobody knows what else it speaks of.
    is_unreadable: bool,
}

/// The files and what they speak of.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    files: BTreeMap<Arc<str>, FileSays>,
    speakers: BTreeMap<Handle, BTreeMap<Arc<str>, Standing>>,
}

impl Handle {
    /// What a manifest of this identity speaks of; none where nothing is made of such objects.
    fn of(id: &ManifestId) -> Option<Handle> {
        let (namespace, name) = (id.namespace.as_str(), id.name.as_str());
        let profile = |name: String| Some(Handle::Object(Key::global(Kind::Profile, name)));
        let inside = |kind, name: String| Some(Handle::Object(Key::namespaced(kind, namespace, name)));
        match (id.group.as_str(), id.kind.as_str()) {
            ("", "Pod") => Some(Handle::Pod {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            }),
            ("", "Namespace") => profile(namespace_profile_name(name)),
            ("", "ServiceAccount") => profile(service_account_profile_name(namespace, name)),
            ("", "Node") => Some(Handle::Object(Key::global(Kind::Node, name))),
            ("discovery.k8s.io", "EndpointSlice") => inside(Kind::ServiceEndpoints, name.to_owned()),
            ("networking.k8s.io", "NetworkPolicy") => {
                inside(Kind::NetworkPolicy, format!("{KUBERNETES_POLICY_PREFIX}{name}"))
            }
            ("projectcalico.org", kind) => inside(kind.parse().ok()?, name.to_owned()),
            _ => None,
        }
    }

    /// The handles under which a resource may have been spoken of, the more exact one first.
    fn candidates(resource: &Resource) -> Vec<Handle> {
        let mut found = vec![Handle::Object(resource.key())];
        if let Resource::WorkloadEndpoint(endpoint) = resource {
            found.push(Handle::Pod {
                namespace: endpoint.metadata.namespace.clone(),
                name: endpoint.spec.pod.clone(),
            });
        }
        found
    }

    /// Whether it matters to where pods run.
    pub(crate) fn is_of_placement(&self) -> bool {
        match self {
            Handle::Pod { .. } => true,
            Handle::Object(key) => key.kind == Kind::Node,
        }
    }
}

impl Sources {
    /// Takes the text of a file; returns what it speaks of now or spoke of before.
    pub(crate) fn set_text(&mut self, path: &str, text: &str) -> BTreeSet<Handle> {
        let before = self.files.get(path).map(|file| &file.handles);
        let knew = |handle: &Handle| {
            let known = before.and_then(|handles| handles.get(handle));
            matches!(known, Some(Standing::Valid | Standing::LastValid))
        };
        let mut says = FileSays::default();
        for document in read_documents(text) {
            let (id, is_valid) = match document.body.map(Manifest::parse) {
                Ok(Ok(manifest)) => (manifest.id(), true),
                Ok(Err(invalid)) => {
                    says.is_unreadable |= invalid.id.is_none();
                    (invalid.id.map(|id| *id), false)
                }
                Err(_) => {
                    says.is_unreadable = true;
                    (None, false)
                }
            };
            let Some(handle) = id.as_ref().and_then(Handle::of) else {
                continue;
            };
            let standing = match is_valid {
                true => Standing::Valid,
                false if knew(&handle) => Standing::LastValid,
                false => Standing::Invalid,
            };
            let best = says.handles.entry(handle).or_insert(standing);
            *best = standing.min(*best);
        }
        if says.is_unreadable {
            for handle in before
                .into_iter()
                .flat_map(BTreeMap::keys)
                .filter(|handle| knew(handle))
            {
                says.handles.entry(handle.clone()).or_insert(Standing::LastValid);
            }
        }
        self.replace(path, Some(says))
    }

    /// Notes that a file cannot be read: what it said before stays. A path that ends in a slash is a folder.
    pub(crate) fn set_unreadable(&mut self, path: &str) {
        let path: Arc<str> = path.into();
        self.files.entry(path).or_default().is_unreadable = true;
    }

    /// Forgets a file; returns what it spoke of.
    pub(crate) fn remove(&mut self, path: &str) -> BTreeSet<Handle> {
        self.replace(path, None)
    }

    /// The file that a resource comes from.
    pub(crate) fn of(&self, resource: &Resource) -> Option<&str> {
        Handle::candidates(resource).iter().find_map(|handle| {
            let speakers = self.speakers.get(handle)?;
            let best = speakers.iter().min_by_key(|(file, standing)| (**standing, *file));
            best.map(|(file, _)| file.as_ref())
        })
    }

    /// Whether a stored resource that no manifest in force amounts to may still be wanted: a document that names it is
    /// invalid, or the file that it came from has something in it that cannot be read.
    pub(crate) fn may_want(&self, stored: &Resource, source: &str) -> bool {
        let mut is_named = false;
        for handle in Handle::candidates(stored) {
            for standing in self.speakers.get(&handle).into_iter().flat_map(BTreeMap::values) {
                match standing {
                    // A form of it is in force; that it does not amount to this resource is what it says.
                    Standing::Valid | Standing::LastValid => return false,
                    Standing::Invalid => is_named = true,
                }
            }
        }
        is_named || self.is_unreadable(source)
    }

    /// Whether a file, or a folder that it is in, cannot be read or has something in it that cannot.
    fn is_unreadable(&self, source: &str) -> bool {
        let unreadable = |path: &str| self.files.get(path).is_some_and(|file| file.is_unreadable);
        let folders = source.match_indices('/').filter_map(|(at, _)| source.get(..=at));
        unreadable(source) || unreadable("/") || folders.into_iter().any(unreadable)
    }

    fn replace(&mut self, path: &str, says: Option<FileSays>) -> BTreeSet<Handle> {
        let path: Arc<str> = path.into();
        let before = self.files.remove(&path).unwrap_or_default();
        let mut touched: BTreeSet<Handle> = BTreeSet::new();
        for handle in before.handles.into_keys() {
            if let Some(speakers) = self.speakers.get_mut(&handle) {
                speakers.remove(&path);
                if speakers.is_empty() {
                    self.speakers.remove(&handle);
                }
            }
            touched.insert(handle);
        }
        let Some(says) = says else { return touched };
        for (handle, standing) in &says.handles {
            let speakers = self.speakers.entry(handle.clone()).or_default();
            speakers.insert(Arc::clone(&path), *standing);
            touched.insert(handle.clone());
        }
        self.files.insert(path, says);
        touched
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy_model_kubernetes::translate;

    const POLICY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: n}\n\
                          spec: {podSelector: {}}\n";
    const BROKEN: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: n}\n\
                          spec: {podSelecter: {}}\n";

    fn policy() -> Resource {
        let document = read_documents(POLICY).remove(0);
        translate(&Manifest::parse(document.body.unwrap()).unwrap())
            .resources
            .remove(0)
    }

    #[test]
    fn every_kind_is_found_by_what_it_becomes() {
        for text in [
            POLICY,
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: n}\n",
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a, namespace: n}\n",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a-b, namespace: n}\nspec: {nodeName: x-y, containers: [{name: c}]}\n",
            "apiVersion: v1\nkind: Node\nmetadata: {name: n}\n",
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nendpoints: []\nmetadata: {name: e, namespace: n, labels: {kubernetes.io/service-name: s}}\n",
            "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: i}\nspec: {cidr: 10.0.0.0/16}\n",
            "apiVersion: projectcalico.org/v3\nkind: NetworkSet\nmetadata: {name: s, namespace: n}\nspec: {nets: [10.0.0.0/8]}\n",
        ] {
            let mut sources = Sources::default();
            sources.set_text("f", text);
            let document = read_documents(text).remove(0);
            let made = translate(&Manifest::parse(document.body.unwrap()).unwrap()).resources;
            assert_eq!(made.len(), 1, "{text}");
            assert_eq!(sources.of(&made[0]), Some("f"), "{text}");
        }
    }

    #[test]
    fn the_best_speaker_wins_then_the_first() {
        let mut sources = Sources::default();
        sources.set_text("b", POLICY);
        sources.set_text("a", BROKEN);
        assert_eq!(sources.of(&policy()), Some("b"));
        sources.set_text("a", POLICY);
        assert_eq!(sources.of(&policy()), Some("a"));
        sources.set_text("a", "x: [");
        assert_eq!(
            sources.of(&policy()),
            Some("b"),
            "a valid document comes before a former one"
        );
        sources.remove("b");
        assert_eq!(sources.of(&policy()), Some("a"), "it may still be in there");
        sources.set_text("a", "");
        assert_eq!(sources.of(&policy()), None);
        assert!(sources.speakers.is_empty());
    }

    #[test]
    fn what_may_still_be_wanted_is_told_from_what_is_gone() {
        let mut sources = Sources::default();
        assert!(!sources.may_want(&policy(), "a"));
        sources.set_text("a", "x: [");
        assert!(sources.may_want(&policy(), "a"));
        assert!(!sources.may_want(&policy(), "b"), "its own file is gone");
        sources.set_text("c", BROKEN);
        assert!(sources.may_want(&policy(), "b"), "a document names it");
        sources.set_text("d", POLICY);
        assert!(!sources.may_want(&policy(), "b"));
        sources.remove("c");
        sources.remove("d");
        sources.set_unreadable("sub/");
        assert!(sources.may_want(&policy(), "sub/x/a"));
        assert!(!sources.may_want(&policy(), "sub2/a"));
    }
}
