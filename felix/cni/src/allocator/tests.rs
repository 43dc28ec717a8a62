//! Tests of what an attachment cannot see from outside: blocks given back, pods that move, and contradicting blocks.

use super::*;
use crate::addresses::StatedAddresses;
use crate::holder;
use crate::journal::{Attachment, Origin};
use crate::protocol::{AddressWishes, AttachmentKey};
use policy_model::WorkloadEndpointSpec;
use policy_model_datastore::{MemoryStore, Selection};
use policy_model_ipam::{annotation, block};

struct Node {
    allocator: Arc<Allocator>,
    works: Vec<tokio::task::JoinHandle<()>>,
    _place: tempfile::TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.works.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

fn key(id: &str) -> AttachmentKey {
    AttachmentKey {
        network: "net".into(),
        container_id: id.into(),
        interface: "eth0".into(),
    }
}

fn pod(id: &str) -> PodRef {
    PodRef {
        namespace: "shop".into(),
        name: format!("pod-{id}"),
        uid: format!("uid-{id}"),
    }
}

impl Node {
    async fn start(name: &str, store: &MemoryStore) -> Node {
        Node::start_reserving(true, name, store).await
    }

    async fn start_reserving(reserves: bool, name: &str, store: &MemoryStore) -> Node {
        let place = tempfile::tempdir().unwrap();
        let view = Arc::new(ClusterView::of_node(name));
        let allocator = Arc::new(Allocator::new(Parts {
            node: name.to_owned(),
            boot_id: "boot".into(),
            workloads: WorkloadSettings::default(),
            store: Arc::new(store.clone()),
            view: view.clone(),
            journal: Arc::new(Journal::open(place.path()).unwrap()),
            programmed: watch::Sender::default().subscribe(),
            patience: Duration::from_secs(60),
            takes_abandoned: true,
            reserves,
            keeps_tunnels: false,
        }));
        let following = tokio::spawn({
            let store = Arc::new(store.clone());
            async move { view.follow(store).await }
        });
        let working = tokio::spawn({
            let allocator = allocator.clone();
            async move { allocator.run().await }
        });
        allocator.wait_begun().await.unwrap();
        Node {
            allocator,
            works: vec![following, working],
            _place: place,
        }
    }

    fn holder(&self, id: &str) -> Holder {
        Holder {
            handle: key(id).handle(),
            attribute: holder::attribute(self.allocator.node(), &key(id), &pod(id)),
        }
    }

    /// What an ADD does about addresses; `asked` is what the pod's annotation says.
    async fn add(&self, id: &str, asked: Option<&str>) -> Result<Vec<IpAddr>, Failure> {
        let mut endpoint = Object::namespaced("shop", "e", WorkloadEndpointSpec::default());
        let asked = asked.map(|asked| (annotation::IP_ADDRS.to_owned(), format!("[{asked:?}]")));
        endpoint.metadata.annotations.extend(asked);
        let holder = self.holder(id);
        let _under_way = self.allocator.under_way(&holder.handle);
        let wishes = AddressWishes::default();
        let promise = self
            .allocator
            .of_endpoint(&holder, &endpoint, &wishes, StatedAddresses::default())
            .await?;
        let addresses = promise.addresses();
        let attachment = Attachment {
            key: key(id),
            namespace: "shop".into(),
            pod: pod(id).name,
            uid: pod(id).uid,
            addresses: addresses.clone(),
            host_interface: String::new(),
            boot_id: "boot".into(),
            mtu: 0,
            host_ports: Vec::new(),
        };
        self.allocator
            .journal()
            .put(attachment, Origin::Made)
            .await
            .unwrap();
        self.allocator.keep(promise, &holder);
        Ok(addresses)
    }

    async fn delete(&self, id: &str) {
        let attachment = self.allocator.journal().get(&key(id)).unwrap();
        self.allocator.journal().remove(&key(id)).await.unwrap();
        self.allocator.free(&attachment.addresses, &key(id).handle());
    }

    async fn idle_for_long(&self) {
        let _turn = self.allocator.turn.lock().await;
        let long_ago = Instant::now().checked_sub(Duration::from_secs(3600)).unwrap();
        let mut idle = locked(&self.allocator.idle);
        for resource in self.allocator.view().own_blocks() {
            let block = begin::as_block(&resource).unwrap();
            idle.blocks_mut().insert(block.cidr, long_ago);
        }
    }

    async fn upkeep(&self) {
        let _turn = self.allocator.turn.lock().await;
        self.allocator.write_behind().await.unwrap();
        self.allocator.upkeep().await.unwrap();
    }
}

async fn world(cidr: &str, size: u8) -> MemoryStore {
    let store = MemoryStore::new();
    let mut spec = IpPoolSpec::of(cidr.parse().unwrap());
    spec.block_size = Some(size);
    store.create(Object::named("pool", spec).into()).await.unwrap();
    store
}

async fn blocks(store: &MemoryStore) -> Vec<policy_model::IpamBlockSpec> {
    let all = store
        .list(Selection::kinds([Kind::IPAMBlock]))
        .await
        .unwrap()
        .items;
    all.iter()
        .filter_map(|item| begin::as_block(&item.resource).cloned())
        .collect()
}

async fn holder_of(store: &MemoryStore, address: IpAddr) -> Option<String> {
    let blocks = blocks(store).await;
    let held = blocks.iter().find_map(|spec| block::holder(spec, address))?;
    held.attribute.handle_id.clone()
}

#[tokio::test]
async fn a_block_without_pods_is_given_back_and_one_stays() {
    let store = world("10.0.0.0/24", 28).await;
    let node = Node::start("n0", &store).await;
    for n in 0..40 {
        node.add(&n.to_string(), None).await.unwrap();
    }
    node.allocator.flush().await.unwrap();
    assert!(blocks(&store).await.len() >= 3);
    node.upkeep().await;
    for n in 0..40 {
        node.delete(&n.to_string()).await;
    }
    node.allocator.flush().await.unwrap();
    node.upkeep().await;
    assert!(blocks(&store).await.len() >= 3, "not at once");
    node.idle_for_long().await;
    node.upkeep().await;
    assert_eq!(blocks(&store).await.len(), 1);
    let affinities = store
        .list(Selection::kinds([Kind::BlockAffinity]))
        .await
        .unwrap()
        .items;
    assert_eq!(affinities.len(), 1);
    // Another node may have what was given back, and nothing is given from it here any more.
    let other = Node::start("n1", &store).await;
    let mut given = BTreeSet::new();
    for n in 0..60 {
        let here = node.add(&format!("here-{n}"), None).await.unwrap();
        let there = other.add(&format!("there-{n}"), None).await.unwrap();
        assert!(
            given.insert(here[0]) && given.insert(there[0]),
            "{here:?} {there:?}"
        );
    }
}

#[tokio::test]
async fn where_pods_have_their_addresses_from_elsewhere_nothing_is_reserved_nor_guarded() {
    for (reserves, pool) in [(true, "10.0.0.0/24"), (false, "10.0.1.0/24")] {
        let store = world(pool, 28).await;
        let node = Node::start_reserving(reserves, "n0", &store).await;
        node.allocator.flush().await.unwrap();
        node.upkeep().await;
        node.allocator.publish_kept();
        let kept = node.allocator.kept().borrow().len();
        assert_eq!(blocks(&store).await.is_empty(), !reserves);
        assert_eq!(kept == 0, !reserves, "{kept} kept");
        // Who asks for one of a pool all the same is given it, and what was taken along is not guarded.
        node.add("a", None).await.unwrap();
        node.allocator.flush().await.unwrap();
        node.allocator.publish_kept();
        let kept = node.allocator.kept().borrow().len();
        assert_eq!(kept == 0, !reserves, "{kept} kept");
    }
}

#[tokio::test]
async fn a_pod_with_a_named_address_moves_once_its_old_node_is_released() {
    let store = world("10.0.0.0/24", 28).await;
    let old = Node::start("n0", &store).await;
    let address = old.add("db-0", Some("10.0.0.7")).await.unwrap();
    assert_eq!(holder_of(&store, address[0]).await.as_deref(), Some("net.db-0"));
    // The node dies; its pod is made anew on another one.
    drop(old);
    let new = Node::start("n1", &store).await;
    let failure = new.add("db-0-again", Some("10.0.0.7")).await.unwrap_err();
    assert!(
        failure
            .message
            .contains("10.0.0.7 is taken by pod shop/pod-db-0 on node n0"),
        "{failure}"
    );
    // Without a name it has an address at once, and not that one.
    assert_ne!(new.add("db-1", None).await.unwrap(), address);
    new.allocator
        .request(Request::ReleaseNode("n0".into()))
        .await
        .unwrap();
    assert_eq!(new.add("db-0-again", Some("10.0.0.7")).await.unwrap(), address);
    assert_eq!(
        holder_of(&store, address[0]).await.as_deref(),
        Some("net.db-0-again")
    );
}

#[tokio::test]
async fn a_named_address_of_the_own_reserve_is_given_and_comes_back() {
    let store = world("10.0.0.0/26", 26).await;
    let node = Node::start("n0", &store).await;
    node.add("first", None).await.unwrap();
    let ready = locked(&node.allocator.reserve).ready_addresses().last().unwrap();
    let text = ready.to_string();
    assert_eq!(node.add("named", Some(&text)).await.unwrap(), [ready]);
    assert_eq!(
        node.add("again", Some(&text)).await.unwrap_err().code,
        code::NO_ADDRESS
    );
    node.delete("named").await;
    // The next sandbox of the same pod gets it at once: what was given back is written first.
    assert_eq!(node.add("again", Some(&text)).await.unwrap(), [ready]);
}

#[tokio::test]
async fn what_somebody_took_from_the_reserve_is_not_given() {
    let store = world("10.0.0.0/25", 25).await;
    let node = Node::start("n0", &store).await;
    let mine = node.add("mine", None).await.unwrap();
    node.allocator.flush().await.unwrap();
    // Somebody believes the node to be gone, and others take what it had.
    let other = Node::start("n1", &store).await;
    other
        .allocator
        .request(Request::ReleaseNode("n0".into()))
        .await
        .unwrap();
    let mut theirs = BTreeSet::new();
    for n in 0..20 {
        theirs.extend(other.add(&format!("theirs-{n}"), None).await.unwrap());
    }
    // The node hears of it before it gives the next one.
    let mut ground = node.allocator.view().ground_changes();
    let numbers = |blocks: Vec<Arc<Resource>>| -> BTreeMap<String, u64> {
        let blocks = blocks.iter().filter_map(|resource| begin::as_block(resource));
        blocks
            .map(|block| (block.cidr.to_string(), block.sequence_number))
            .collect()
    };
    let written = store.list(Selection::kinds([Kind::IPAMBlock])).await.unwrap();
    let newest = numbers(written.items.into_iter().map(|found| found.resource).collect());
    let is_heard = || numbers(node.allocator.view().all(Kind::IPAMBlock)) == newest;
    while !is_heard() {
        let _ = tokio::time::timeout(Duration::from_millis(10), ground.changed()).await;
    }
    node.allocator.observe();
    for n in 0..20 {
        let given = node.add(&format!("later-{n}"), None).await.unwrap();
        assert!(!theirs.contains(&given[0]), "{given:?}");
    }
    assert_eq!(mine.len(), 1);
}

#[tokio::test]
async fn a_pool_that_is_exhausted_is_told_until_it_has_an_address_again() {
    let store = world("10.0.0.0/30", 30).await;
    let node = Node::start("n0", &store).await;
    let mut shortages = node.allocator.shortages().follow();
    for n in 0..4 {
        node.add(&n.to_string(), None).await.unwrap();
    }
    assert_eq!(*shortages.borrow(), []);
    let failure = node.add("one-more", None).await.unwrap_err();
    assert_eq!(failure.code, code::NO_ADDRESS);
    for words in [
        "pool pool (10.0.0.0/30)",
        "no room for another block",
        "To do: make another IPPool",
    ] {
        assert!(failure.message.contains(words), "{failure}");
    }
    let told = shortages.borrow_and_update().clone();
    assert_eq!(told.len(), 1);
    assert_eq!(
        (told[0].family, told[0].pools.as_slice(), &told[0].reason),
        (Family::V4, ["pool".to_owned()].as_slice(), &failure.message)
    );
    let wishes = AddressWishes::default();
    assert_eq!(node.allocator.lack(&wishes).as_ref(), Some(&failure.message));
    node.delete("0").await;
    // The one task finds it out by itself.
    shortages.wait_for(Vec::is_empty).await.unwrap();
    assert_eq!(node.allocator.lack(&wishes), None);
    node.add("one-more", None).await.unwrap();
}

#[tokio::test]
async fn what_a_pod_asks_for_in_vain_says_nothing_about_the_node() {
    let store = world("10.0.0.0/30", 30).await;
    let spec = IpPoolSpec::of("10.0.1.0/24".parse().unwrap());
    store.create(Object::named("wide", spec).into()).await.unwrap();
    let node = Node::start("n0", &store).await;
    let ask = async |id: &str| {
        let holder = node.holder(id);
        let want = Want {
            family: Family::V4,
            pools: vec![PoolRef::Name("pool".into())],
        };
        let promise = node.allocator.any(&holder, &[want]).await?;
        node.allocator.keep(promise, &holder);
        Ok::<_, Failure>(())
    };
    for n in 0..4 {
        ask(&format!("asking-{n}")).await.unwrap();
    }
    let failure = ask("in-vain").await.unwrap_err();
    assert_eq!(failure.code, code::NO_ADDRESS);
    let told = node.allocator.shortages().follow().borrow().clone();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].pools, ["pool"]);
    assert_eq!(node.allocator.lack(&AddressWishes::default()), None);
    node.add("any", None).await.unwrap();
}

#[tokio::test]
async fn what_was_found_and_is_gone_is_named_and_stays_in_the_journal() {
    let store = world("10.0.0.0/24", 28).await;
    let node = Node::start("n0", &store).await;
    let attachment = |id: &str, host_interface: &str| Attachment {
        key: key(id),
        namespace: "shop".into(),
        pod: pod(id).name,
        uid: pod(id).uid,
        addresses: vec!["10.0.0.7".parse().unwrap()],
        host_interface: host_interface.into(),
        boot_id: "boot".into(),
        mtu: 0,
        host_ports: Vec::new(),
    };
    let journal = node.allocator.journal();
    for (id, interface, origin) in [
        ("gone", "cali-nowhere", Origin::Found),
        ("made", "cali-nowhere-either", Origin::Made),
        ("leaving", "cali-nowhere-too", Origin::Leaving),
    ] {
        journal.put(attachment(id, interface), origin).await.unwrap();
    }
    let gone = node.allocator.gone();
    node.upkeep().await;
    assert_eq!(*gone.borrow(), [key("gone")]);
    // Whose it is to end it does so at the gates, and not while its runtime does.
    assert!(journal.is_found(&key("gone")) && journal.is_leaving(&key("leaving")));
    journal
        .put(attachment("gone", "cali-nowhere"), Origin::Leaving)
        .await
        .unwrap();
    node.upkeep().await;
    assert!(journal.is_leaving(&key("gone")));
}
