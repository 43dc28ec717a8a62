//! What the node must know of the cluster to connect a pod: its endpoints, pools, blocks and settings, held in memory.
//!
//! An attachment asks here and not the datastore: a list for each would be far too slow, and no write may be waited for.
//! Either the view follows the datastore itself ([`ClusterView::follow`], one watch for the node's whole life), or
//! whoever follows it already hands every event over ([`ClusterView::take`]). What this node writes is noted at once,
//! so an event that tells of an older state changes nothing.

use ipnet::IpNet;
use policy_model::{Key, Kind, Metadata, NAMESPACE_PROFILE_PREFIX, Object, Resource, WorkloadEndpointSpec};
use policy_model_datastore::{
    Datastore, Revision, Selection, SyncEvent, SyncStatus, Syncer, Version, Versioned,
};
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

    /// All objects of a kind that is watched, with their versions; nothing while they may be out of date.
    pub(crate) fn current(&self, kind: Kind) -> Option<Vec<Versioned>> {
        let state = self.state();
        let is_current = state.status == Some(SyncStatus::InSync) && Self::KINDS.contains(&kind);
        is_current.then(|| state.of_kind(kind).cloned().collect())
    }

    /// The blocks that contain one of these addresses; nothing while they may be out of date.
    pub(crate) fn current_blocks_with(&self, addresses: &[IpAddr]) -> Option<Vec<Versioned>> {
        let state = self.state();
        let concerns = |versioned: &&Versioned| match versioned.resource.as_ref() {
            Resource::IPAMBlock(block) => addresses.iter().any(|a| block.spec.cidr.contains(a)),
            _ => false,
        };
        let is_current = state.status == Some(SyncStatus::InSync);
        is_current.then(|| state.of_kind(Kind::IPAMBlock).filter(concerns).cloned().collect())
    }

    /// One object that is watched.
    pub(crate) fn get(&self, key: &Key) -> Option<Versioned> {
        self.state().objects.get(key).cloned()
    }

    /// All objects of a kind, as they were last heard of.
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
        let counts = self.status == Some(SyncStatus::InSync);
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
mod tests {
    use super::*;
    use policy_model::IpPoolSpec;
    use policy_model_datastore::MemoryStore;

    fn endpoint(node: &str, pod: &str, uid: &str) -> Resource {
        let mut endpoint = Object::namespaced(
            "shop",
            usual_name(node, pod),
            WorkloadEndpointSpec {
                node: node.into(),
                pod: pod.into(),
                ..WorkloadEndpointSpec::default()
            },
        );
        endpoint.metadata.uid = uid.into();
        endpoint.into()
    }

    async fn until(mut changes: watch::Receiver<u64>, holds: impl Fn() -> bool) {
        let waiting = async {
            while !holds() {
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), waiting)
            .await
            .expect("it comes true");
    }

    #[tokio::test]
    async fn one_watch_tells_of_this_nodes_pods_as_they_come_and_go() {
        let store = MemoryStore::new();
        store.create(endpoint("n1", "early", "u0")).await.unwrap();
        store.create(endpoint("n2", "elsewhere", "u9")).await.unwrap();
        let view = Arc::new(ClusterView::of_node("n1"));
        let following = tokio::spawn({
            let (view, store) = (view.clone(), Arc::new(store.clone()));
            async move { view.follow(store).await }
        });
        let mut in_sync = view.in_sync();
        in_sync.wait_for(|yes| *yes).await.unwrap();
        assert!(view.endpoint("shop", "early", "").is_some());
        assert!(view.endpoint("shop", "early", "u0").is_some());
        assert!(
            view.endpoint("shop", "early", "u1").is_none(),
            "an earlier pod of the name"
        );
        assert!(view.endpoint("shop", "elsewhere", "").is_none());
        assert!(view.endpoint("other", "early", "").is_none());

        let changes = view.endpoint_changes();
        store.create(endpoint("n1", "late", "u2")).await.unwrap();
        until(changes.clone(), || view.endpoint("shop", "late", "u2").is_some()).await;
        store.break_watches();
        let key = endpoint("n1", "late", "").key();
        store.delete(&key, None).await.unwrap();
        until(changes, || view.endpoint("shop", "late", "").is_none()).await;
        following.abort();
    }

    #[test]
    fn a_pod_of_the_nodes_own_manifests_is_called_by_its_hash() {
        let view = ClusterView::of_node("n1");
        let mut mirror = endpoint("n1", "apiserver-n1", "uid-of-the-mirror");
        let hash = ("kubernetes.io/config.hash".to_owned(), "0123abcd".to_owned());
        mirror.metadata_mut().annotations.extend([hash]);
        view.note(&versioned(mirror, 1));
        for uid in ["0123abcd", "uid-of-the-mirror", ""] {
            assert!(view.endpoint("shop", "apiserver-n1", uid).is_some(), "{uid}");
        }
        assert!(view.endpoint("shop", "apiserver-n1", "other").is_none());
    }

    fn versioned(resource: Resource, number: u64) -> Versioned {
        Versioned {
            resource: Arc::new(resource),
            version: Version::new(number.to_string()),
            revision: Revision::new(number),
        }
    }

    #[test]
    fn what_this_node_wrote_is_not_undone_by_what_is_told_late() {
        let view = ClusterView::of_node("n1");
        let pool = |disabled| {
            let mut spec = IpPoolSpec::of("10.0.0.0/24".parse().unwrap());
            spec.disabled = disabled;
            Resource::from(Object::named("p", spec))
        };
        let key = pool(false).key();
        let is_disabled = || match view.get(&key).map(|v| v.resource) {
            Some(resource) => match resource.as_ref() {
                Resource::IPPool(pool) => Some(pool.spec.disabled),
                _ => None,
            },
            None => None,
        };
        let upsert = |disabled, number| SyncEvent::Upsert(versioned(pool(disabled), number));
        assert!(view.current(Kind::IPPool).is_none());
        view.take(&[SyncEvent::Status(SyncStatus::InSync), SyncEvent::InSync]);
        assert!(view.current(Kind::IPPool).is_some() && view.current(Kind::Tier).is_none());
        view.note(&versioned(pool(true), 5));
        view.take(&[upsert(false, 4)]);
        assert_eq!(is_disabled(), Some(true));
        view.note_deleted(&key);
        view.take(&[upsert(true, 5), upsert(false, 4)]);
        assert_eq!(is_disabled(), None, "it is deleted");
        view.take(&[SyncEvent::Delete(key.clone()), upsert(false, 7)]);
        assert_eq!(is_disabled(), Some(false), "it was made anew");
        // A store that was put back to an earlier state begins with a listing, and counts from there.
        view.take(&[SyncEvent::Status(SyncStatus::ResyncInProgress), upsert(true, 3)]);
        assert_eq!(is_disabled(), Some(true));
    }
}
