//! What the node must know of the cluster to connect a pod: its endpoints, pools, blocks and settings, held in memory.
//!
//! An attachment asks here and not the datastore: a list for each would be far too slow, and no write may be waited for.
//! Either the view follows the datastore itself ([`ClusterView::follow`], one watch for the node's whole life), or
//! whoever follows it already hands every event over ([`ClusterView::take`]). What this node writes is noted at once,
//! so an event that tells of an older state changes nothing.
//!
//! Of the blocks of other nodes only outlines are held: with their holders those of a large cluster would be most of
//! what felix has in memory, and who wants to write one has to read it anyway.

use ipnet::IpNet;
use policy_model::{Key, Kind, Metadata, NAMESPACE_PROFILE_PREFIX, Object, Resource, WorkloadEndpointSpec};
use policy_model_datastore::{
    Datastore, Revision, Selection, SyncEvent, SyncStatus, Syncer, Version, Versioned,
};
use policy_model_ipam::engine::Stored;
use policy_model_ipam::reservation::Reservations;
use policy_model_ipam::{block, handle};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Most events that are taken in at once.
const LARGEST_BATCH: usize = 10_000;
/// Annotation of a pod of a node's own (static) manifests: by this the container runtime calls it, while the cluster knows
/// it by a UID of its own.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// See the module.
#[derive(Debug)]
pub struct ClusterView {
    node: String,
    /// The handles of the node itself.
    handles: [String; 5],
    state: Mutex<State>,
    /// Counts changes of this node's endpoints.
    endpoints: watch::Sender<u64>,
    /// Counts changes of everything that decides about addresses.
    ground: watch::Sender<u64>,
    in_sync: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<Key, Versioned>,
    /// Names of the blocks in which this node has anything: those that it owns and those that it has addresses of.
    own_blocks: BTreeSet<String>,
    /// What this node deleted, until the datastore says so too.
    deleted: HashMap<Key, (Version, Revision)>,
    status: Option<SyncStatus>,
}

impl ClusterView {
    /// The kinds that the view has to hear of.
    pub const KINDS: [Kind; 8] = [
        Kind::WorkloadEndpoint,
        Kind::Profile,
        Kind::IPPool,
        Kind::IPReservation,
        Kind::IPAMBlock,
        Kind::BlockAffinity,
        Kind::IPAMConfig,
        Kind::Node,
    ];

    /// A view that knows nothing yet.
    pub fn of_node(node: &str) -> Self {
        ClusterView {
            node: node.to_owned(),
            handles: handle::all_of_node(node),
            state: Mutex::default(),
            endpoints: watch::Sender::new(0),
            ground: watch::Sender::new(0),
            in_sync: watch::Sender::new(false),
        }
    }

    /// Follows the datastore for good.
    pub async fn follow(&self, store: Arc<dyn Datastore>) {
        let mut syncer = Syncer::with_usual_pauses(store, Selection::kinds(Self::KINDS));
        loop {
            let batch = syncer.next_batch(LARGEST_BATCH).await;
            self.take(&batch);
        }
    }

    /// Takes in what a [`Syncer`] tells, in its order. Kinds that the view does not need are passed over.
    pub fn take(&self, events: &[SyncEvent]) {
        let (mut endpoints, mut ground, mut in_sync) = (false, false, false);
        {
            let mut state = self.state();
            for event in events {
                match event {
                    SyncEvent::Upsert(versioned) if Self::KINDS.contains(&versioned.resource.kind()) => {
                        let is_endpoint = versioned.resource.kind() == Kind::WorkloadEndpoint;
                        let changed = state.upsert(self, versioned);
                        (endpoints, ground) = (
                            endpoints | (changed && is_endpoint),
                            ground | (changed && !is_endpoint),
                        );
                    }
                    SyncEvent::Upsert(_) => {}
                    SyncEvent::Delete(key) => {
                        let changed = state.delete(key);
                        let is_endpoint = key.kind == Kind::WorkloadEndpoint;
                        (endpoints, ground) = (
                            endpoints | (changed && is_endpoint),
                            ground | (changed && !is_endpoint),
                        );
                    }
                    SyncEvent::InSync => in_sync = true,
                    SyncEvent::Status(status) => state.status = Some(*status),
                }
            }
        }
        if endpoints {
            self.endpoints.send_modify(|count| *count += 1);
        }
        if ground {
            self.ground.send_modify(|count| *count += 1);
        }
        if in_sync {
            self.in_sync.send_replace(true);
        }
    }

    /// Says when everything has been told for the first time.
    pub(crate) fn in_sync(&self) -> watch::Receiver<bool> {
        self.in_sync.subscribe()
    }

    /// Says when an endpoint of this node has changed.
    pub(crate) fn endpoint_changes(&self) -> watch::Receiver<u64> {
        self.endpoints.subscribe()
    }

    /// Says when something has changed that decides about this node's addresses.
    pub(crate) fn ground_changes(&self) -> watch::Receiver<u64> {
        self.ground.subscribe()
    }

    /// The endpoint of a pod on this node. An empty UID is any.
    ///
    /// A pod of the node's own manifests is called by the hash of its manifest, which its annotation says.
    pub fn endpoint(&self, namespace: &str, pod: &str, uid: &str) -> Option<Object<WorkloadEndpointSpec>> {
        let state = self.state();
        let from = Key::namespaced(Kind::WorkloadEndpoint, namespace, "");
        let endpoints = state
            .objects
            .range(from..)
            .take_while(|(key, _)| key.kind == Kind::WorkloadEndpoint && key.namespace == namespace);
        let mut endpoints = endpoints.filter_map(|(_, versioned)| as_endpoint(&versioned.resource));
        endpoints
            .find(|endpoint| endpoint.spec.pod == pod && is_called(&endpoint.metadata, uid))
            .cloned()
    }

    /// All endpoints of this node.
    pub(crate) fn local_endpoints(&self) -> Vec<Arc<Resource>> {
        self.all(Kind::WorkloadEndpoint)
    }

    /// All objects of a kind that is watched, with their versions; nothing while they may be out of date. Blocks in which
    /// this node has nothing are outlines.
    pub(crate) fn current(&self, kind: Kind) -> Option<Vec<Stored<Version>>> {
        let state = self.state();
        let all = state.of_kind(kind).map(|versioned| state.stored(versioned));
        (state.is_current() && Self::KINDS.contains(&kind)).then(|| all.collect())
    }

    /// The blocks that contain one of these addresses; nothing while they may be out of date.
    pub(crate) fn current_blocks_with(&self, addresses: &[IpAddr]) -> Option<Vec<Stored<Version>>> {
        let state = self.state();
        let concerns = |versioned: &&Versioned| match versioned.resource.as_ref() {
            Resource::IPAMBlock(block) => addresses.iter().any(|a| block.spec.cidr.contains(a)),
            _ => false,
        };
        let all = state.of_kind(Kind::IPAMBlock).filter(concerns);
        let all = all.map(|versioned| state.stored(versioned));
        state.is_current().then(|| all.collect())
    }

    /// One object that is watched, which is no block.
    pub(crate) fn get(&self, key: &Key) -> Option<Versioned> {
        self.state().objects.get(key).cloned()
    }

    /// All objects of a kind, as they were last heard of; of blocks in which this node has nothing their outlines.
    pub(crate) fn all(&self, kind: Kind) -> Vec<Arc<Resource>> {
        let state = self.state();
        state
            .of_kind(kind)
            .map(|versioned| versioned.resource.clone())
            .collect()
    }

    /// The blocks in which this node has anything.
    pub(crate) fn own_blocks(&self) -> Vec<Arc<Resource>> {
        let state = self.state();
        let keys = state
            .own_blocks
            .iter()
            .map(|name| Key::global(Kind::IPAMBlock, name.clone()));
        keys.filter_map(|key| state.objects.get(&key))
            .map(|versioned| versioned.resource.clone())
            .collect()
    }

    /// All reservations, joined.
    pub(crate) fn reservations(&self) -> Reservations {
        let all = self.all(Kind::IPReservation);
        let ranges = all.iter().flat_map(|resource| match resource.as_ref() {
            Resource::IPReservation(reservation) => reservation.spec.reserved_cidrs.as_slice(),
            _ => &[],
        });
        Reservations::new(ranges)
    }

    /// What a namespace's annotations say to address management.
    pub(crate) fn namespace_annotations(&self, namespace: &str) -> BTreeMap<String, String> {
        let name = format!("{NAMESPACE_PROFILE_PREFIX}{namespace}");
        let profile = self.get(&Key::global(Kind::Profile, name));
        profile
            .map(|profile| profile.resource.metadata().annotations.clone())
            .unwrap_or_default()
    }

    /// The node's own ranges for pods.
    pub(crate) fn node_ranges(&self) -> Vec<IpNet> {
        let node = self.get(&Key::global(Kind::Node, self.node.clone()));
        match node.as_ref().map(|node| node.resource.as_ref()) {
            Some(Resource::Node(node)) => node.spec.pod_cidrs.clone(),
            _ => Vec::new(),
        }
    }

    /// The labels of this node.
    pub(crate) fn node_labels(&self) -> BTreeMap<String, String> {
        self.stated_node_labels().unwrap_or_default()
    }

    /// The same; nothing where the cluster does not have the node.
    pub(crate) fn stated_node_labels(&self) -> Option<BTreeMap<String, String>> {
        let node = self.get(&Key::global(Kind::Node, self.node.clone()));
        node.map(|node| node.resource.metadata().labels.clone())
    }

    /// Notes what the datastore just answered.
    pub(crate) fn note(&self, versioned: &Versioned) {
        let is_endpoint = versioned.resource.kind() == Kind::WorkloadEndpoint;
        let changed = self.state().upsert(self, versioned);
        if changed && is_endpoint {
            self.endpoints.send_modify(|count| *count += 1);
        }
    }

    /// Notes that the datastore just deleted an object.
    pub(crate) fn note_deleted(&self, key: &Key) {
        let mut state = self.state();
        let known = state
            .objects
            .get(key)
            .map(|known| (known.version.clone(), known.revision));
        if let Some(known) = known {
            state.delete(key);
            state.deleted.insert(key.clone(), known);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What the lock guards is written in single steps; a panic between them leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an object is worth holding: of endpoints and nodes only this node's are, of profiles those of namespaces
    /// that say something to address management.
    fn concerns(&self, resource: &Resource) -> bool {
        match resource {
            Resource::WorkloadEndpoint(endpoint) => endpoint.spec.node == self.node,
            Resource::Node(node) => node.metadata.name == self.node,
            Resource::Profile(profile) => {
                !profile.metadata.annotations.is_empty()
                    && profile.metadata.name.starts_with(NAMESPACE_PROFILE_PREFIX)
            }
            _ => true,
        }
    }

    fn has_own(&self, resource: &Resource) -> bool {
        let Resource::IPAMBlock(block) = resource else {
            return false;
        };
        let is_mine = |attribute: &policy_model::AllocationAttribute| {
            attribute
                .handle_id
                .as_ref()
                .is_some_and(|held| self.handles.contains(held))
                || attribute.secondary.get(handle::ATTRIBUTE_NODE) == Some(&self.node)
        };
        block::owner(&block.spec) == Some(&self.node) || block.spec.attributes.iter().any(is_mine)
    }
}

impl State {
    fn is_current(&self) -> bool {
        self.status == Some(SyncStatus::InSync)
    }

    /// An object that is held, as the address engine takes it.
    fn stored(&self, held: &Versioned) -> Stored<Version> {
        let (resource, version) = (held.resource.clone(), held.version.clone());
        let name = &resource.metadata().name;
        if resource.kind() == Kind::IPAMBlock && !self.own_blocks.contains(name) {
            return Stored::outline(resource, version);
        }
        Stored::whole(resource, version)
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Versioned> {
        let from = Key {
            kind,
            namespace: String::new(),
            name: String::new(),
        };
        self.objects
            .range(from..)
            .take_while(move |(key, _)| key.kind == kind)
            .map(|(_, versioned)| versioned)
    }

    /// Notes an object; says whether this node has to know.
    fn upsert(&mut self, view: &ClusterView, versioned: &Versioned) -> bool {
        let key = versioned.key();
        if !view.concerns(&versioned.resource) {
            return self.objects.remove(&key).is_some();
        }
        // While a listing is told, numbers of an earlier life of the store mean nothing.
        let counts = self.is_current();
        if let Some((version, revision)) = self.deleted.get(&key) {
            if *version == versioned.version || (counts && *revision >= versioned.revision) {
                return false;
            }
            self.deleted.remove(&key);
        }
        if let Some(known) = self.objects.get(&key)
            && (known.version == versioned.version || (counts && known.revision > versioned.revision))
        {
            return false;
        }
        let was_own = self.own_blocks.contains(&key.name);
        let mut matters = true;
        if key.kind == Kind::IPAMBlock {
            let is_own = view.has_own(&versioned.resource);
            if is_own {
                self.own_blocks.insert(key.name.clone());
            } else {
                self.own_blocks.remove(&key.name);
            }
            // What happens in other nodes' blocks happens all the time.
            matters = is_own || was_own;
            if !is_own {
                self.objects.insert(key, outline(versioned));
                return matters;
            }
        }
        self.objects.insert(key, versioned.clone());
        matters
    }

    fn delete(&mut self, key: &Key) -> bool {
        self.deleted.remove(key);
        let was_own = key.kind == Kind::IPAMBlock && self.own_blocks.remove(&key.name);
        self.objects.remove(key).is_some() && (key.kind != Kind::IPAMBlock || was_own)
    }
}

/// What is held of a block in which this node has nothing.
fn outline(versioned: &Versioned) -> Versioned {
    let Resource::IPAMBlock(block) = versioned.resource.as_ref() else {
        return versioned.clone();
    };
    let outline = Object::named(&block.metadata.name, block::outline(&block.spec));
    Versioned {
        resource: Arc::new(outline.into()),
        ..versioned.clone()
    }
}

fn as_endpoint(resource: &Resource) -> Option<&Object<WorkloadEndpointSpec>> {
    match resource {
        Resource::WorkloadEndpoint(endpoint) => Some(endpoint),
        _ => None,
    }
}

fn is_called(metadata: &Metadata, uid: &str) -> bool {
    uid.is_empty()
        || metadata.uid.is_empty()
        || metadata.uid == uid
        || metadata
            .annotations
            .get(CONFIG_HASH)
            .is_some_and(|hash| hash == uid)
}

/// The usual name of the endpoint of a pod: node and pod with their dashes doubled.
pub(crate) fn usual_name(node: &str, pod: &str) -> String {
    let part = |text: &str| text.replace('-', "--");
    format!("{}-k8s-{}-eth0", part(node), part(pod))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is the failure itself")]
#[path = "view_tests.rs"]
mod tests;
