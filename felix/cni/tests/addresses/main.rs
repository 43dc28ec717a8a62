//! Addresses as whoever starts pods sees them: given from memory, written behind, none twice, none lost, whatever dies;
//! and those of the node's own tunnels beside them.
//!
//! No interface is made here (the attachments are those of an address-only plugin), so that hundreds come and go quickly;
//! the datastores and the journal are the real ones.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is the failure itself"
)]

mod bed;
mod tunnels;

use bed::{Node, handle_of, held, pool, settings, until};
use felix_cni::journal::{Attachment, Journal, Origin};
use felix_cni::{Handler, code};
use policy_model::{Key, Kind, Object, Resource};
use policy_model_datastore::{Datastore, MemoryStore, Selection};
use policy_model_datastore_file::FileStore;
use policy_model_ipam::{block, handle};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

/// Pods come and go on two nodes, many at once; one node dies and comes back in the middle.
async fn five_hundred_come_and_go(store: Arc<dyn Datastore>) {
    pool(store.as_ref(), "four", "10.0.0.0/24", 27).await;
    pool(store.as_ref(), "six", "fd00::/120", 123).await;
    let place = tempfile::tempdir().unwrap();
    let start = |n: usize| Node::start(&format!("n{n}"), &place.path().join(format!("j{n}")), &store);
    let mut nodes = [Arc::new(start(0)), Arc::new(start(1))];
    let live: Arc<Mutex<BTreeMap<IpAddr, String>>> = Arc::default();
    for round in 0..2 {
        let mut works = Vec::new();
        for worker in 0..10usize {
            let node = nodes[worker % 2].clone();
            let live = live.clone();
            works.push(tokio::spawn(async move {
                let mut mine: Vec<(String, Vec<IpAddr>)> = Vec::new();
                for n in 0..25 {
                    let id = format!("{round}-{worker}-{n}");
                    let addresses = node.assign(&id).await.unwrap();
                    assert_eq!(addresses.len(), 2, "one of each family");
                    for address in &addresses {
                        let before = live.lock().unwrap().insert(*address, id.clone());
                        assert_eq!(before, None, "{address} has two pods");
                    }
                    assert_eq!(node.assign(&id).await.unwrap(), addresses, "the same again");
                    mine.push((id, addresses));
                    if mine.len() > 5 {
                        let (old, addresses) = mine.remove(n % 5);
                        addresses
                            .iter()
                            .for_each(|a| drop(live.lock().unwrap().remove(a)));
                        node.delete(&old).await;
                    }
                }
                mine
            }));
        }
        let mut left = Vec::new();
        for (worker, work) in works.into_iter().enumerate() {
            left.extend(work.await.unwrap().into_iter().map(|(id, _)| (worker % 2, id)));
        }
        // What was given is known to everybody soon.
        let expected: BTreeMap<IpAddr, String> = live
            .lock()
            .unwrap()
            .iter()
            .map(|(a, id)| (*a, handle_of(id)))
            .collect();
        until("the blocks say what is true", || async {
            held(store.as_ref()).await == expected
        })
        .await;
        // The first node dies at a moment of its choice, and knows everything when it is back.
        let [first, second] = nodes;
        let Ok(first) = Arc::try_unwrap(first) else {
            panic!("in use")
        };
        let last = first.assign("last").await.unwrap();
        first.kill().await;
        nodes = [Arc::new(start(0)), second];
        assert_eq!(nodes[0].assign("last").await.unwrap(), last);
        nodes[0].delete("last").await;
        for (node, id) in left {
            nodes[node].delete(&id).await;
        }
        live.lock().unwrap().clear();
        until("nothing is held", || async {
            held(store.as_ref()).await.is_empty()
        })
        .await;
    }
    let handles = store.list(Selection::kinds([Kind::IPAMHandle])).await.unwrap();
    assert!(handles.items.is_empty(), "no object for each pod");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_pods_come_and_go_on_two_nodes() {
    five_hundred_come_and_go(Arc::new(MemoryStore::new())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_pods_come_and_go_on_two_nodes_with_files() {
    let place = tempfile::tempdir().unwrap();
    let store = FileStore::open(place.path().join("datastore"), Default::default()).unwrap();
    five_hundred_come_and_go(Arc::new(store)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_given_an_address_while_the_datastore_is_away() {
    let memory = MemoryStore::new();
    let store: Arc<dyn Datastore> = Arc::new(memory.clone());
    pool(store.as_ref(), "four", "10.0.0.0/24", 26).await;
    let place = tempfile::tempdir().unwrap();
    let node = Node::start("n0", place.path(), &store);
    let first = node.assign("first").await.unwrap();
    until("the block says it", || async {
        held(store.as_ref()).await.len() == 1
    })
    .await;

    memory.set_available(false);
    let second = node.assign("second").await.unwrap();
    node.delete("first").await;
    let third = node.assign("third").await.unwrap();
    assert_eq!(
        [&first, &second, &third]
            .into_iter()
            .collect::<BTreeSet<_>>()
            .len(),
        3
    );
    // What was given in that time outlives the process that gave it.
    node.kill().await;
    memory.set_available(true);
    let node = Node::start("n0", place.path(), &store);
    let expected = BTreeMap::from([(second[0], handle_of("second")), (third[0], handle_of("third"))]);
    until("the block says it", || async {
        held(store.as_ref()).await == expected
    })
    .await;
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_boot_attached_is_released() {
    let store: Arc<dyn Datastore> = Arc::new(MemoryStore::new());
    pool(store.as_ref(), "four", "10.0.0.0/28", 28).await;
    let place = tempfile::tempdir().unwrap();
    let node = Node::start("n0", place.path(), &store);
    for id in ["a", "b", "c"] {
        node.assign(id).await.unwrap();
    }
    until("the blocks say it", || async {
        held(store.as_ref()).await.len() == 3
    })
    .await;
    node.kill().await;
    // The machine starts anew: what the journal says is of another boot. One was not even written to its block.
    let journal = Journal::open(place.path()).unwrap();
    for attachment in journal.all().iter() {
        let boot_id = "another".to_owned();
        journal
            .put(
                Attachment {
                    boot_id,
                    ..attachment.as_ref().clone()
                },
                Origin::Made,
            )
            .await
            .unwrap();
    }
    drop(journal);
    let node = Node::start("n0", place.path(), &store);
    let anew = node.assign("a").await.unwrap();
    until("all is settled", || async { node.attacher.settle().await }).await;
    let expected = BTreeMap::from([(anew[0], handle_of("a"))]);
    until("the dead are gone", || async {
        held(store.as_ref()).await == expected
    })
    .await;
    assert_eq!(node.attacher.attachments().borrow().len(), 1);
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_wiped_disk_only_pods_that_are_gone_are_forgotten() {
    let store: Arc<dyn Datastore> = Arc::new(MemoryStore::new());
    pool(store.as_ref(), "four", "10.0.0.0/28", 28).await;
    let place = tempfile::tempdir().unwrap();
    let node = Node::start("n0", &place.path().join("old"), &store);
    let stays = node.assign("stays").await.unwrap();
    node.assign("goes").await.unwrap();
    until("the blocks say it", || async {
        held(store.as_ref()).await.len() == 2
    })
    .await;
    node.kill().await;

    let mut endpoint = Object::namespaced(
        "shop",
        "n0-k8s-pod--stays-eth0",
        policy_model::WorkloadEndpointSpec {
            node: "n0".into(),
            pod: "pod-stays".into(),
            ..Default::default()
        },
    );
    endpoint.metadata.uid = "uid-stays".into();
    store.create(endpoint.into()).await.unwrap();
    let node = Node::start("n0", &place.path().join("new"), &store);
    let expected = BTreeMap::from([(stays[0], handle_of("stays"))]);
    until("what is gone is forgotten", || async {
        held(store.as_ref()).await == expected
    })
    .await;
    // The attachment has an entry again, and its address is nobody else's.
    until("it is found", || async {
        node.attacher.attachments().borrow().len() == 1
    })
    .await;
    assert_eq!(node.assign("stays").await.unwrap(), stays);
    assert_ne!(node.assign("other").await.unwrap(), stays);
    node.delete("stays").await;
    until("it is released", || async {
        !held(store.as_ref()).await.contains_key(&stays[0])
    })
    .await;
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_node_says_what_to_change_and_recovers() {
    let store: Arc<dyn Datastore> = Arc::new(MemoryStore::new());
    pool(store.as_ref(), "four", "10.0.0.0/24", 30).await;
    settings(store.as_ref(), true, 2).await;
    let place = tempfile::tempdir().unwrap();
    let node = Node::start("n0", place.path(), &store);
    for n in 0..8 {
        node.assign(&n.to_string()).await.unwrap();
    }
    let failure = node.assign("more").await.unwrap_err();
    assert_eq!(failure.code, code::NO_ADDRESS);
    for part in ["maxBlocksPerHost", "may own 2", "pool four (10.0.0.0/24)"] {
        assert!(failure.message.contains(part), "{failure}");
    }
    assert_eq!(node.status().await.unwrap_err(), failure);
    node.delete("3").await;
    until("there is an address again", || async {
        node.status().await.is_ok()
    })
    .await;
    assert_eq!(node.assign("more").await.unwrap().len(), 1);
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_pool_is_borrowed_from_but_for_what_is_reserved() {
    let store: Arc<dyn Datastore> = Arc::new(MemoryStore::new());
    pool(store.as_ref(), "four", "10.0.0.0/28", 28).await;
    let place = tempfile::tempdir().unwrap();
    let owner = Node::start("n0", &place.path().join("0"), &store);
    owner.assign("first").await.unwrap();
    let borrower = Node::start("n1", &place.path().join("1"), &store);
    let mut borrowed = 0;
    let failure = loop {
        match borrower.assign(&format!("b{borrowed}")).await {
            Ok(_) => borrowed += 1,
            Err(failure) => break failure,
        }
    };
    // Sixteen addresses, one of them given and up to four reserved.
    assert!((11..=15).contains(&borrowed), "{borrowed}");
    assert!(failure.message.contains("pool four (10.0.0.0/28)"), "{failure}");
    for n in 0..16 - 1 - borrowed {
        owner.assign(&format!("o{n}")).await.unwrap();
    }
    assert!(owner.assign("more").await.is_err());
    until("all is said", || async { held(store.as_ref()).await.len() == 16 }).await;
    owner.kill().await;
    borrower.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_is_switched_off_gives_nothing_more() {
    let store: Arc<dyn Datastore> = Arc::new(MemoryStore::new());
    pool(store.as_ref(), "old", "10.0.0.0/28", 28).await;
    let place = tempfile::tempdir().unwrap();
    let node = Node::start("n0", place.path(), &store);
    let kept = node.assign("kept").await.unwrap();
    pool(store.as_ref(), "new", "10.0.1.0/28", 28).await;
    let key = Key::global(Kind::IPPool, "old");
    let found = store.get(&key).await.unwrap().unwrap();
    let Resource::IPPool(mut old) = found.resource.as_ref().clone() else {
        panic!()
    };
    old.spec.disabled = true;
    store.update(old.into(), &found.version).await.unwrap();
    until("new addresses are of the new pool", || async {
        let id = "probe";
        let given = node.assign(id).await.unwrap();
        node.delete(id).await;
        given[0].to_string().starts_with("10.0.1.")
    })
    .await;
    let reserve = handle::of_reserve("n0");
    let of_old = |all: Vec<policy_model_datastore::Versioned>| {
        let mut handles = BTreeSet::new();
        for item in all {
            if let Resource::IPAMBlock(block) = item.resource.as_ref() {
                let old =
                    block::holders(&block.spec).filter(|h| h.address.to_string().starts_with("10.0.0."));
                handles.extend(old.filter_map(|h| h.attribute.handle_id.clone()));
            }
        }
        handles
    };
    until("nothing of the old pool is reserved", || async {
        let all = store
            .list(Selection::kinds([Kind::IPAMBlock]))
            .await
            .unwrap()
            .items;
        of_old(all) == BTreeSet::from([handle_of("kept")])
    })
    .await;
    assert_eq!(node.assign("kept").await.unwrap(), kept);
    // With its last pod the block goes.
    node.delete("kept").await;
    until("the block is given back", || async {
        let all = store
            .list(Selection::kinds([Kind::IPAMBlock]))
            .await
            .unwrap()
            .items;
        let handles = of_old(all);
        !handles.contains(&reserve) && handles.is_empty()
    })
    .await;
    node.kill().await;
}
