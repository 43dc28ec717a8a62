//! The addresses of a node's tunnels, beside those of its pods.

use crate::bed::{Node, held, pool, settings, until};
use felix_cni::{Attacher, TunnelAddresses};
use policy_model::{EncapsulationMode, IpPoolSpec, Key, Kind, NodeSpec, Object, Resource};
use policy_model_datastore::{Datastore, MemoryStore};
use policy_model_datastore_file::FileStore;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

const IPIP: &str = "ipip-tunnel-addr-n0";
const VXLAN: &str = "vxlan-tunnel-addr-n0";
const VXLAN_V6: &str = "vxlan-v6-tunnel-addr-n0";

fn start(name: &str, journal: &Path, store: &Arc<dyn Datastore>) -> Node {
    Node::start_as(name, journal, store, Attacher::keeping_tunnel_addresses)
}

async fn join(store: &dyn Datastore, name: &str) {
    let node = Object::named(name, NodeSpec::default());
    store.create(node.into()).await.unwrap();
}

/// A pool with blocks of sixteen addresses.
async fn wrapped(store: &dyn Datastore, name: &str, cidr: &str, change: impl Fn(&mut IpPoolSpec)) {
    let size = if cidr.contains(':') { 124 } else { 28 };
    pool(store, name, cidr, size).await;
    alter(store, name, change).await;
}

async fn alter(store: &dyn Datastore, name: &str, change: impl Fn(&mut IpPoolSpec)) {
    let key = Key::global(Kind::IPPool, name);
    let found = store.get(&key).await.unwrap().unwrap();
    let Resource::IPPool(mut pool) = found.resource.as_ref().clone() else {
        panic!()
    };
    change(&mut pool.spec);
    store.update(pool.into(), &found.version).await.unwrap();
}

fn ipip(spec: &mut IpPoolSpec) {
    spec.ipip_mode = EncapsulationMode::Always;
}

fn vxlan(spec: &mut IpPoolSpec) {
    spec.vxlan_mode = EncapsulationMode::CrossSubnet;
}

/// The addresses of a handle, by the blocks' word.
async fn of(store: &dyn Datastore, handle: &str) -> Vec<IpAddr> {
    let all = held(store).await;
    let own = all.into_iter().filter(|(_, holder)| holder == handle);
    own.map(|(address, _)| address).collect()
}

/// Waits until a handle has one address, which lies in this range.
async fn one_of(store: &dyn Datastore, handle: &str, range: &str) -> IpAddr {
    let range: ipnet::IpNet = range.parse().unwrap();
    until(&format!("{handle} has an address of {range}"), || async {
        matches!(of(store, handle).await[..], [address] if range.contains(&address))
    })
    .await;
    of(store, handle).await[0]
}

fn told(node: &Node) -> Option<TunnelAddresses> {
    *node.attacher.tunnel_addresses().borrow()
}

async fn come_and_go(store: Arc<dyn Datastore>) {
    let store = &store;
    join(store.as_ref(), "n0").await;
    wrapped(store.as_ref(), "four", "10.0.0.0/24", ipip).await;
    wrapped(store.as_ref(), "other", "10.1.0.0/24", vxlan).await;
    wrapped(store.as_ref(), "six", "fd00::/112", vxlan).await;
    let place = tempfile::tempdir().unwrap();
    let node = start("n0", place.path(), store);
    let first = one_of(store.as_ref(), IPIP, "10.0.0.0/24").await;
    let vxlan_v4 = one_of(store.as_ref(), VXLAN, "10.1.0.0/24").await;
    let vxlan_v6 = one_of(store.as_ref(), VXLAN_V6, "fd00::/112").await;
    until("it is told", || async {
        let said = told(&node).unwrap_or_default();
        let said = [
            said.ipip.map(IpAddr::V4),
            said.vxlan_v4.map(IpAddr::V4),
            said.vxlan_v6.map(IpAddr::V6),
        ];
        said == [first, vxlan_v4, vxlan_v6].map(Some)
    })
    .await;
    // Pods have others, as many as there are.
    let mut given = BTreeSet::new();
    for n in 0..40 {
        given.extend(node.assign(&n.to_string()).await.unwrap());
    }
    assert!([first, vxlan_v4, vxlan_v6].iter().all(|a| !given.contains(a)));
    // The next life finds them.
    node.kill().await;
    let node = start("n0", place.path(), store);
    until("it is told again", || async { told(&node).is_some() }).await;
    assert_eq!(told(&node).unwrap().ipip.map(IpAddr::V4), Some(first));
    for n in 0..40 {
        node.delete(&n.to_string()).await;
    }

    // The pool is switched off, and another takes its place: the new address comes before the old one goes.
    let mut said = node.attacher.tunnel_addresses();
    said.borrow_and_update();
    wrapped(store.as_ref(), "next", "10.2.0.0/24", ipip).await;
    alter(store.as_ref(), "four", |spec| spec.disabled = true).await;
    said.changed().await.unwrap();
    let next = said.borrow().unwrap().ipip.map(IpAddr::V4).unwrap();
    assert!(next.to_string().starts_with("10.2.0."), "{next}");
    assert_eq!(one_of(store.as_ref(), IPIP, "10.2.0.0/24").await, next);

    // Nothing is wrapped any more.
    for name in ["next", "other", "six"] {
        alter(store.as_ref(), name, |spec| {
            spec.ipip_mode = EncapsulationMode::Never;
            spec.vxlan_mode = EncapsulationMode::Never;
        })
        .await;
    }
    until("nothing is held", || async {
        held(store.as_ref()).await.is_empty()
    })
    .await;
    until("it is told", || async {
        told(&node) == Some(TunnelAddresses::default())
    })
    .await;
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnels_have_addresses_while_pools_ask_for_them() {
    come_and_go(Arc::new(MemoryStore::new())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnels_have_addresses_while_pools_ask_for_them_with_files() {
    let place = tempfile::tempdir().unwrap();
    let store = FileStore::open(place.path().join("datastore"), Default::default()).unwrap();
    come_and_go(Arc::new(store)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_node_reserves_whole_blocks_its_tunnel_takes_no_block_more() {
    let store: Arc<dyn Datastore> = Arc::new(MemoryStore::new());
    settings(store.as_ref(), true, 1).await;
    pool(store.as_ref(), "four", "10.0.0.0/24", 28).await;
    join(store.as_ref(), "n0").await;
    let place = tempfile::tempdir().unwrap();
    let node = start("n0", place.path(), &store);
    let mut given = vec![node.assign("first").await.unwrap()[0]];
    alter(store.as_ref(), "four", ipip).await;
    let own = one_of(store.as_ref(), IPIP, "10.0.0.0/24").await;
    // The rest of the one block is still for pods, and only that.
    for n in 0..14 {
        given.push(node.assign(&n.to_string()).await.unwrap()[0]);
    }
    assert!(!given.contains(&own), "{own} in {given:?}");
    assert!(node.assign("more").await.is_err());
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_waits_for_room_and_then_has_its_address() {
    let store: Arc<dyn Datastore> = Arc::new(MemoryStore::new());
    pool(store.as_ref(), "four", "10.0.0.0/30", 30).await;
    join(store.as_ref(), "n0").await;
    let place = tempfile::tempdir().unwrap();
    let node = start("n0", place.path(), &store);
    for n in 0..4 {
        node.assign(&n.to_string()).await.unwrap();
    }
    alter(store.as_ref(), "four", ipip).await;
    assert!(node.assign("more").await.is_err());
    assert_eq!(of(store.as_ref(), IPIP).await, [] as [IpAddr; 0]);
    // It is found without anybody's word.
    node.delete("0").await;
    one_of(store.as_ref(), IPIP, "10.0.0.0/30").await;
    // Where there is no room for the other tunnel, a pool more is enough.
    alter(store.as_ref(), "four", |spec| {
        spec.ipip_mode = EncapsulationMode::Never;
        vxlan(spec);
    })
    .await;
    one_of(store.as_ref(), VXLAN, "10.0.0.0/30").await;
    wrapped(store.as_ref(), "next", "10.1.0.0/24", ipip).await;
    one_of(store.as_ref(), IPIP, "10.1.0.0/24").await;
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_datastore_does_not_hear_now_it_hears_later() {
    let memory = MemoryStore::new();
    let store: Arc<dyn Datastore> = Arc::new(memory.clone());
    join(store.as_ref(), "n0").await;
    wrapped(store.as_ref(), "four", "10.0.0.0/24", ipip).await;
    let place = tempfile::tempdir().unwrap();
    let node = start("n0", place.path(), &store);
    let first = one_of(store.as_ref(), IPIP, "10.0.0.0/24").await;
    memory.set_available(false);
    node.assign("pod").await.unwrap();
    memory.set_available(true);
    wrapped(store.as_ref(), "six", "fd00::/112", vxlan).await;
    one_of(store.as_ref(), VXLAN_V6, "fd00::/112").await;
    // Somebody believed the node to be gone: it takes an address again.
    let key = policy_model_ipam::name::block_key(&"10.0.0.0/28".parse().unwrap());
    let blocks = store
        .list(policy_model_datastore::Selection::kinds([Kind::IPAMBlock]))
        .await
        .unwrap();
    for found in blocks.items {
        let Resource::IPAMBlock(mut block) = found.resource.as_ref().clone() else {
            panic!()
        };
        if block.metadata.name == key.name || block.spec.cidr.contains(&first) {
            policy_model_ipam::block::release_handle(&mut block.spec, IPIP);
            store.update(block.into(), &found.version).await.unwrap();
        }
    }
    one_of(store.as_ref(), IPIP, "10.0.0.0/24").await;
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_taken_for_a_node_that_the_cluster_has_not_or_that_keeps_none() {
    let store: Arc<dyn Datastore> = Arc::new(MemoryStore::new());
    wrapped(store.as_ref(), "four", "10.0.0.0/24", ipip).await;
    join(store.as_ref(), "n1").await;
    let place = tempfile::tempdir().unwrap();
    let unknown = start("n0", &place.path().join("0"), &store);
    let plain = Node::start("n1", &place.path().join("1"), &store);
    unknown.assign("a").await.unwrap();
    plain.assign("b").await.unwrap();
    until("pods are said", || async {
        held(store.as_ref()).await.len() == 2
    })
    .await;
    assert_eq!((told(&unknown), told(&plain)), (None, None));
    // It joins the cluster.
    join(store.as_ref(), "n0").await;
    one_of(store.as_ref(), IPIP, "10.0.0.0/24").await;
    assert_eq!(told(&plain), None);
    unknown.kill().await;
    plain.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_nodes_that_begin_at_once_have_an_address_each() {
    let store: Arc<dyn Datastore> = Arc::new(MemoryStore::new());
    wrapped(store.as_ref(), "four", "10.0.0.0/24", ipip).await;
    let place = tempfile::tempdir().unwrap();
    let mut nodes = Vec::new();
    for n in 0..20 {
        let name = format!("n{n}");
        join(store.as_ref(), &name).await;
        nodes.push(start(&name, &place.path().join(&name), &store));
    }
    // Sixteen of them own a block, and the others borrow.
    until("each has one", || async {
        let all = held(store.as_ref()).await;
        let handles: BTreeSet<&String> = all.values().collect();
        handles.len() == 20 && all.len() == 20
    })
    .await;
    for node in nodes {
        node.kill().await;
    }
}
