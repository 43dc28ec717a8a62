//! One machine of a fabric that is a node: its namespace, its brain and hands, its pods.

use super::addresses::{self, Family};
use super::capture::Capture;
use super::router::{self, Router};
use super::talking::Spot;
use super::{AddressesFrom, TEAM, objects};
use crate::bed::{ip, namespace, within};
use crate::engine::Engine;
use crate::manifest::endpoint;
use crate::rules::Lock;
use crate::world::{self, PodSpec};
use dataplane::DataplaneSettings;
use dataplane_netlink::{MacAddress, NetworkNamespace};
use felix_calc::CalcConfig;
use policy_model::{Key, Resource};
use std::net::IpAddr;

/// The port of every pod's programs.
pub const POD_PORT: u16 = 7_000;
/// The port of every node's programs.
pub const NODE_PORT: u16 = 7_001;

/// The largest packet of pods, in bytes: what fits into VXLAN of either family.
const POD_MTU: u32 = 1430;

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Calculates and programs. Declared first: it ends before its namespace does.
    pub engine: Engine,
    /// Its name.
    pub name: String,
    /// Its number, from 1.
    pub number: u8,
    /// The subnet that it stands in.
    pub subnet: u8,
    /// Its place there: the last part of its addresses.
    pub k: u8,
    /// Its namespace.
    pub namespace: NetworkNamespace,
    /// What it sends, seen at the other end of its wire.
    pub capture: Capture,
    /// Programs at its own addresses.
    pub spot: Spot,
    /// Its pods.
    pub pods: Vec<Pod>,
    _lock: Lock,
}

/// A pod of a node.
#[derive(Debug)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its namespace and its interface.
    pub side: world::Pod,
    /// Programs at its addresses.
    pub spot: Spot,
}

impl Pod {
    /// Its address of a family.
    pub fn address(&self, family: Family) -> IpAddr {
        self.spot.address(family)
    }
}

impl Node {
    pub(super) fn start(
        router: &mut Router,
        number: u8,
        subnet: u8,
        from: AddressesFrom,
        mut settings: DataplaneSettings,
    ) -> Self {
        let lock = Lock::named_in(&mut settings);
        let namespace = namespace();
        within(&namespace, router::forward);
        let k = addresses::place_of_node(number);
        let capture = router.plug(&namespace, subnet, k);
        let name = objects::node_name(number);
        let config = CalcConfig::for_node(&name).with_node_ranges(from == AddressesFrom::NodeRanges);
        let engine = Engine::start_as(config, &namespace, settings);
        let own = Family::BOTH.map(|family| addresses::in_subnet(family, subnet, k));
        let spot = Spot::new(&namespace, &own, NODE_PORT);
        Node {
            engine,
            name,
            number,
            subnet,
            k,
            namespace,
            capture,
            spot,
            pods: Vec::new(),
            _lock: lock,
        }
    }

    /// Tells the brain of objects, and of keys of objects that are gone.
    pub fn tell(&self, resources: &[Resource], gone: &[Key]) {
        let (resources, gone) = (resources.to_vec(), gone.to_vec());
        self.engine.run(move |core| {
            core.upsert(&resources);
            core.delete(&gone);
        });
    }

    /// The addresses that the next pod of the node's block of a range gets.
    pub(super) fn next_addresses(&self, range: u8) -> [IpAddr; 2] {
        let k = u8::try_from(self.pods.len()).expect("a few pods");
        Family::BOTH.map(|family| addresses::of_pod(family, range, self.number, k))
    }

    /// Connects one more pod; returns its place and its object.
    pub(super) fn connect(&mut self, own: [IpAddr; 2], labels: &str) -> (usize, Resource) {
        let place = self.pods.len();
        let name = format!("{}-p{place}", self.name);
        let interface = format!("cali{place}");
        let spec = PodSpec {
            interface: interface.clone(),
            addresses: own.into(),
            mtu: POD_MTU,
        };
        let side = world::connect(&self.namespace, &spec);
        within(&side.namespace, know_the_gateways);
        let spot = Spot::new(&side.namespace, &own, POD_PORT);
        let resource = endpoint(TEAM, &name, &self.name, &interface, &own, labels);
        self.pods.push(Pod { name, side, spot });
        (place, resource)
    }

    /// Its own address of a family.
    pub fn address(&self, family: Family) -> IpAddr {
        addresses::in_subnet(family, self.subnet, self.k)
    }

    /// Its object.
    pub fn object(&self) -> Resource {
        objects::node(self.number, self.subnet, self.k)
    }

    /// The machine takes other addresses in its subnet. Its object, which says the new ones from now on, is still to be
    /// put.
    pub fn renumber(&mut self, k: u8) {
        let old = Family::BOTH.map(|family| self.address(family));
        self.k = k;
        let new = Family::BOTH.map(|family| self.address(family));
        within(&self.namespace, || {
            for (old, new) in old.into_iter().zip(new) {
                let (family, length) = (Family::of(new), addresses::subnet_length(Family::of(new)));
                // With the first address of a subnet the kernel drops all others of it.
                ip(&format!("{} addr del {old}/{length} dev eth0", family.flag()));
                router::address("eth0", family, new);
            }
        });
        self.default_routes();
        self.spot = Spot::new(&self.namespace, &new, NODE_PORT);
    }

    /// Gives the node its way to other subnets again, as whoever manages its network does after its wire was away.
    pub fn default_routes(&self) {
        within(&self.namespace, || {
            for family in Family::BOTH {
                router::default_route(family, addresses::in_subnet(family, self.subnet, 1));
            }
        });
    }
}

/// A node answers for the gateways of its pods in its own time. Who knows them has nothing to wait for, so that what a
/// pod says first is on its way first.
fn know_the_gateways() {
    let mac = MacAddress::HOST_SIDE;
    for family in Family::BOTH {
        let shown = ip(&format!("{} route show default", family.flag()));
        let mut words = shown.split_whitespace().skip_while(|word| *word != "via");
        let gateway = words.nth(1).expect("a pod has a way out");
        ip(&format!(
            "{} neigh replace {gateway} lladdr {mac} dev eth0 nud permanent",
            family.flag()
        ));
    }
}
