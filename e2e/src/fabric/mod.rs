//! Several nodes in several subnets, with their pods, a router that knows only nodes, and a server outside.
//!
//! Every node has its own brain and hands ([`crate::engine`]), told the objects of one cluster. Pods are connected as
//! the product connects them, and programs in them talk by the kernel's own ways. Rooms, in reading order:
//! [`addresses`] (who has which), [`objects`] (the cluster's), [`router`] (the network between), `worn` (a cable that
//! spoils checksums), [`node`] (one machine),
//! [`talking`] (whether one hears another), [`flow`] (a conversation that goes on while things change),
//! [`capture`] (what was on a wire), [`shown`] (what the kernel holds, as the distribution's tools show it).

pub mod addresses;
pub mod capture;
pub mod flow;
pub mod node;
pub mod objects;
pub mod router;
pub mod shown;
pub mod talking;
mod worn;

pub use addresses::Family;
pub use capture::{Capture, Load, Seen};
pub use node::{Node, Pod};
pub use objects::{Mode, WayOut};
pub use router::{Cables, Router};
pub use talking::Spot;

use crate::bed::{namespace, wait_for, within};
use crate::manifest::open_profile;
use crate::rules::Rules;
use crate::wire::PATIENCE;
use dataplane::DataplaneSettings;
use dataplane_netlink::NetworkNamespace;
use policy_model::{Key, Resource};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The namespace of all pods. Its profile allows everything that no policy says anything of.
pub const TEAM: &str = "red";

/// Where pods have their addresses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressesFrom {
    /// From blocks of the pools.
    Blocks,
    /// From the ranges that the nodes' own objects say, as the plugin `host-local` takes them.
    NodeRanges,
}

/// The nodes, what is between them, and the cluster that they are told of.
#[derive(Debug)]
pub struct Fabric {
    /// The nodes. Declared first: their engines end before the namespaces do.
    pub nodes: Vec<Node>,
    /// What is between them.
    pub router: Router,
    /// The server outside, without a route to any pod.
    pub outside: NetworkNamespace,
    /// What the server outside sends.
    pub outside_capture: Capture,
    /// How nodes that join program the kernel.
    pub settings: DataplaneSettings,
    cluster: BTreeMap<Key, Resource>,
    from: AddressesFrom,
    joined: u8,
}

impl Fabric {
    /// Nodes in these subnets. Each has blocks of the first range; the pools are still to be put.
    pub fn new(subnets: &[u8]) -> Self {
        Fabric::with(subnets, AddressesFrom::Blocks, Rules::first())
    }

    /// The same with another way to hold policy, and where pods have their addresses from elsewhere; nodes with ranges of
    /// their own have no blocks.
    pub fn with(subnets: &[u8], from: AddressesFrom, rules: Rules) -> Self {
        let mut router = Router::new();
        let outside = namespace();
        let outside_capture = router.plug_outside(&outside);
        let mut fabric = Fabric {
            nodes: Vec::new(),
            router,
            outside,
            outside_capture,
            settings: rules.settings(),
            cluster: BTreeMap::new(),
            from,
            joined: 0,
        };
        fabric.put(vec![open_profile(TEAM)]);
        for subnet in subnets {
            fabric.join(*subnet);
        }
        fabric
    }

    /// A machine of a subnet joins as a node, with its object and its blocks of the first range. Returns its place.
    pub fn join(&mut self, subnet: u8) -> usize {
        self.joined += 1;
        let number = self.joined;
        let settings = self.settings.clone();
        let node = Node::start(&mut self.router, number, subnet, self.from, settings);
        let known: Vec<Resource> = self.cluster.values().cloned().collect();
        node.engine.run(move |core| core.upsert(&known));
        let object = node.object();
        self.nodes.push(node);
        match self.from {
            AddressesFrom::Blocks => {
                self.put(vec![object]);
                self.put(objects::blocks(number, 0));
            }
            AddressesFrom::NodeRanges => self.put(vec![objects::with_ranges(object, number)]),
        }
        self.nodes.len() - 1
    }

    /// All objects of a node leave the cluster; the machine stays where it is, with what is in force there.
    pub fn leave(&mut self, place: usize) {
        let name = self.nodes[place].name.clone();
        let is_its = |resource: &Resource| match resource {
            Resource::Node(node) => node.metadata.name == name,
            Resource::IPAMBlock(block) => block.spec.affinity == Some(format!("host:{name}")),
            Resource::WorkloadEndpoint(endpoint) => endpoint.spec.node == name,
            _ => false,
        };
        let gone: Vec<Key> = self
            .cluster
            .values()
            .filter(|resource| is_its(resource))
            .map(Resource::key)
            .collect();
        self.remove(&gone);
    }

    /// A machine that is no node, in the segment of a subnet.
    pub fn stranger(&mut self, subnet: u8, k: u8) -> (NetworkNamespace, Capture) {
        let machine = namespace();
        let capture = self.router.plug(&machine, subnet, k);
        (machine, capture)
    }

    /// Puts objects into the cluster and tells every node; nothing is applied yet.
    pub fn put(&mut self, resources: Vec<Resource>) {
        self.put_unheard(&resources);
        for node in &self.nodes {
            node.tell(&resources, &[]);
        }
    }

    /// Removes objects from the cluster and tells every node; nothing is applied yet.
    pub fn remove(&mut self, keys: &[Key]) {
        for key in keys {
            self.cluster.remove(key);
        }
        for node in &self.nodes {
            node.tell(&[], keys);
        }
    }

    /// Puts objects and has every node apply them, one after the other.
    pub fn program(&mut self, resources: Vec<Resource>) {
        self.put(resources);
        self.apply();
    }

    /// Puts objects into the cluster while no node hears of it.
    pub fn put_unheard(&mut self, resources: &[Resource]) {
        self.cluster.extend(
            resources
                .iter()
                .map(|resource| (resource.key(), resource.clone())),
        );
    }

    /// All objects of the cluster.
    pub fn resources(&self) -> Vec<Resource> {
        self.cluster.values().cloned().collect()
    }

    /// Connects a pod of the first range on a node, with labels; returns its place on the node. Nothing is applied yet.
    pub fn connect(&mut self, place: usize, labels: &str) -> usize {
        self.connect_in(place, 0, labels)
    }

    /// The same with addresses of another range, whose blocks have to be put as well.
    pub fn connect_in(&mut self, place: usize, range: u8, labels: &str) -> usize {
        let addresses = self.nodes[place].next_addresses(range);
        self.connect_at(place, addresses, labels)
    }

    /// The same with any addresses, one of each family.
    pub fn connect_at(&mut self, place: usize, addresses: [IpAddr; 2], labels: &str) -> usize {
        let (pod, endpoint) = self.nodes[place].connect(addresses, labels);
        self.put(vec![endpoint]);
        pod
    }

    /// A pod.
    pub fn pod(&self, place: usize, pod: usize) -> &Pod {
        &self.nodes[place].pods[pod]
    }

    /// Has every node apply what it was told; everything has to succeed.
    pub fn apply(&self) {
        for node in &self.nodes {
            node.engine.run(|core| core.apply());
        }
    }

    /// Has every node do what its agent's loop would do now.
    pub fn tend(&self) {
        for node in &self.nodes {
            node.engine.run(|core| core.tend());
        }
    }

    /// Lets so much time pass on every node that what waits for its removal goes.
    pub fn settle(&self) {
        for node in &self.nodes {
            node.engine.run(|core| {
                core.settle();
                core.pass();
            });
        }
    }

    /// Has the nodes go on until something is so.
    pub fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        wait_for(what, PATIENCE, || {
            self.tend();
            look()
        })
    }

    /// Has the nodes go on until something is so in a node's namespace.
    pub fn until_on(&self, place: usize, what: &str, mut so: impl FnMut() -> bool + Send) {
        self.until(what, || {
            within(&self.nodes[place].namespace, &mut so).then_some(())
        });
    }

    /// Drops all that was captured so far.
    pub fn forget_captures(&self) {
        for node in &self.nodes {
            node.capture.look();
        }
        self.outside_capture.look();
    }
}
