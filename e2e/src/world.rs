//! A node with its pods and what lies outside, wired as the product wires them.
//!
//! Pods are connected by the code that the CNI plugin uses. Outside is one namespace behind a virtual cable that has
//! every address that no pod has: other nodes' pods, and the world.

use crate::bed::{ip, namespace, nft, until_it_carries, within};
use crate::engine::Engine;
use crate::packet::{Probe, number_of, tail};
use crate::rules::{Lock, Others, Rules};
use crate::wire::{Sender, Wire};
use dataplane::{DataplaneSettings, PassReport};
use dataplane_netlink::conntrack::{Conntrack, FlowFilter};
use dataplane_netlink::sysctl::{Sysctls, forwarding};
use dataplane_netlink::workload::{ConnectRequest, Workloads};
use dataplane_netlink::{InterfaceName, NetworkNamespace};
use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;
use policy_model::{Key, Protocol, Resource};
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// The node's addresses on the cable to the outside.
pub const NODE_ADDRESSES: [&str; 2] = ["192.0.2.1", "2001:db8:ffff::1"];
/// The outside's own addresses on the cable.
pub const OUTSIDE_ADDRESSES: [&str; 2] = ["192.0.2.2", "2001:db8:ffff::2"];
/// Numbers of the last probes of a batch, which are always let through.
const SENTINELS: u32 = 0xf000_0000;
/// Numbers that are handed out begin here.
const NUMBERS: u32 = 0x0100_0000;
/// So many probes are on their way at once.
const BATCH: usize = 2_000;
/// Largest packet of every interface here, in bytes, where nothing else is said.
pub const MTU: u32 = 1500;

/// A pod as a test wants it.
#[derive(Clone, Debug)]
pub struct PodSpec {
    /// Interface on the node.
    pub interface: String,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// The largest packet of its interface, in bytes.
    pub mtu: u32,
}

impl PodSpec {
    /// A pod with these addresses, written with spaces between them.
    pub fn new(interface: &str, addresses: &str) -> Self {
        let address = |text: &str| text.parse().expect("an address");
        PodSpec {
            interface: interface.to_string(),
            addresses: addresses.split_whitespace().map(address).collect(),
            mtu: MTU,
        }
    }
}

/// A pod's namespace with its interface.
#[derive(Debug)]
pub struct Pod {
    /// What was wanted.
    pub spec: PodSpec,
    /// Its namespace.
    pub namespace: NetworkNamespace,
    /// Its interface, seen from inside.
    pub wire: Wire,
    /// The node's side of it: what is sent here meets no rule and needs no route.
    pub near: Sender,
}

/// Where something is: the number of a pod, or outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// A pod, by its position.
    Pod(usize),
    /// Outside.
    Outside,
}

/// A node, its pods and the outside.
#[derive(Debug)]
pub struct World {
    /// Calculates and programs. Declared first: it ends before its namespaces do.
    pub engine: Engine,
    /// The node's namespace.
    pub node: NetworkNamespace,
    /// The pods.
    pub pods: Vec<Pod>,
    /// The outside.
    pub outside: Pod,
    /// The Ethernet address of the node's end of the cable.
    pub node_mac: [u8; 6],
    /// What holds policy.
    pub rules: Rules,
    /// The node's lock file.
    pub lock: Lock,
    by_address: HashMap<IpAddr, usize>,
    sentinels: u32,
    numbers: u32,
}

/// A probe that arrived.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Where.
    pub place: Place,
    /// Its number.
    pub number: u32,
    /// As it was then.
    pub frame: Vec<u8>,
}

impl World {
    /// Wires a node with these pods. The dataplane is open, and nothing is programmed yet.
    pub fn new(pods: &[PodSpec], mut settings: DataplaneSettings) -> Self {
        let (rules, lock) = (Rules::of(&settings), Lock::named_in(&mut settings));
        let node = namespace();
        within(&node, || {
            Sysctls::default()
                .apply(&forwarding())
                .expect("switch forwarding on")
        });
        let (outside, node_mac) = wire_outside(&node);
        let connected: Vec<Pod> = pods.iter().map(|spec| connect(&node, spec)).collect();
        let of = |(n, spec): (usize, &PodSpec)| spec.addresses.iter().map(|a| (*a, n)).collect::<Vec<_>>();
        let by_address = pods.iter().enumerate().flat_map(of).collect();
        let engine = Engine::start(&node, settings);
        World {
            engine,
            node,
            pods: connected,
            outside,
            node_mac,
            rules,
            lock,
            by_address,
            sentinels: SENTINELS,
            numbers: NUMBERS,
        }
    }

    /// A number that no probe has had.
    pub fn number(&mut self) -> u32 {
        self.numbers += 1;
        self.numbers
    }

    /// Programs in the hands of somebody else on the node.
    pub fn others(&self) -> Others {
        Others::new(self.rules, &self.lock)
    }

    /// Everything of ours on the node that holds policy, object by object.
    pub fn our_objects(&self) -> Vec<String> {
        within(&self.node, || self.others().our_objects())
    }

    /// The last pod's interface goes, as the CNI plugin removes it.
    pub fn disconnect_last(&mut self) {
        let Some(pod) = self.pods.pop() else { return };
        let gone = self.pods.len();
        self.by_address.retain(|_, n| *n != gone);
        within(&self.node, || {
            let mut workloads = Workloads::open(Default::default()).expect("open the driver of workloads");
            workloads
                .disconnect(&name(&pod.spec.interface))
                .expect("disconnect a pod");
        });
    }

    /// Connects one more pod.
    pub fn connect(&mut self, spec: &PodSpec) {
        let n = self.pods.len();
        self.by_address.extend(spec.addresses.iter().map(|a| (*a, n)));
        self.pods.push(connect(&self.node, spec));
    }

    /// Keeps pods and outside from answering: what they would say is nobody's question, and costs time.
    pub fn silence(&self) {
        let quiet =
            "table inet quiet { chain c { type filter hook prerouting priority -400; policy drop; }; }";
        for pod in self.pods.iter().chain([&self.outside]) {
            within(&pod.namespace, || nft(quiet));
        }
    }

    /// Tells the engine of objects and brings them into force.
    pub fn program(&self, resources: &[Resource]) -> PassReport {
        self.change(resources, &[])
    }

    /// Tells the engine which addresses nobody may have but workloads here, and brings that into force.
    pub fn keep(&self, addresses: BTreeSet<IpAddr>) {
        self.engine.run(move |core| {
            core.dataplane.keep(Arc::new(addresses));
            core.apply();
        });
    }

    /// Tells the engine of objects and of keys of objects that are gone, and brings that into force in one pass.
    pub fn change(&self, resources: &[Resource], gone: &[Key]) -> PassReport {
        let (resources, gone) = (resources.to_vec(), gone.to_vec());
        self.engine.run(move |core| {
            core.upsert(&resources);
            core.delete(&gone);
            core.apply()
        })
    }

    /// Sends one UDP packet from where its source is, and says whether it arrived at its destination.
    pub fn passes(&mut self, source: &str, destination: &str, port: u16) -> bool {
        let address = |text: &str| text.parse().expect("an address");
        let (source, destination) = (address(source), address(destination));
        let probe = Probe {
            number: 1,
            source,
            destination,
            protocol: Protocol::UDP,
            x: port,
            y: 40_000,
        };
        let there = self.place(destination);
        self.send(&[probe])
            .get(&1)
            .is_some_and(|places| places == &[there])
    }

    /// Who has an address.
    pub fn place(&self, address: IpAddr) -> Place {
        self.by_address
            .get(&address)
            .map_or(Place::Outside, |n| Place::Pod(*n))
    }

    /// The pod or the outside.
    pub fn at(&self, place: Place) -> &Pod {
        match place {
            Place::Pod(n) => &self.pods[n],
            Place::Outside => &self.outside,
        }
    }

    /// The interface of the node that leads to a pod; `None` for the outside.
    pub fn interface(&self, place: Place) -> Option<&str> {
        match place {
            Place::Pod(n) => Some(&self.pods[n].spec.interface),
            Place::Outside => None,
        }
    }

    /// The Ethernet address that a place sends to.
    pub fn gateway_mac(&self, place: Place) -> [u8; 6] {
        match place {
            Place::Pod(_) => dataplane_netlink::MacAddress::HOST_SIDE.bytes(),
            Place::Outside => self.node_mac,
        }
    }

    /// The frame of a probe, as the place that has its source sends it.
    pub fn frame(&self, probe: &Probe) -> Vec<u8> {
        self.frame_from(self.place(probe.source), probe)
    }

    /// The frame of a probe, as a place sends it that need not have its source.
    pub fn frame_from(&self, place: Place, probe: &Probe) -> Vec<u8> {
        probe.frame(self.gateway_mac(place), self.at(place).wire.mac)
    }

    /// Sends all probes and says at which places each arrived.
    pub fn send(&mut self, probes: &[Probe]) -> HashMap<u32, Vec<Place>> {
        let from: Vec<(Place, Probe)> = probes.iter().map(|p| (self.place(p.source), *p)).collect();
        self.send_from(&from)
    }

    /// Sends all probes, each from a place, and says at which places each arrived.
    pub fn send_from(&mut self, probes: &[(Place, Probe)]) -> HashMap<u32, Vec<Place>> {
        // One processor: the kernel treats what one processor sends in its order, so that when the last probe has
        // arrived, all others have had their chance.
        let _pinned = Pinned::here();
        let mut arrived: HashMap<u32, Vec<Place>> = HashMap::new();
        for batch in probes.chunks(BATCH) {
            for (place, probe) in batch {
                self.at(*place).wire.send(&self.frame_from(*place, probe));
            }
            self.collect(&mut arrived);
        }
        arrived
    }

    /// Waits until all that was sent has had its chance, and says what arrived where.
    ///
    /// A packet waits in two queues, one before the node and one after it, and what is put on the node's side of an
    /// interface waits in one: when a second last packet arrives that was sent after a first, everything before has passed both.
    pub fn collect(&mut self, arrived: &mut HashMap<u32, Vec<Place>>) {
        self.collect_frames(|place, number, _| arrived.entry(number).or_default().push(place));
    }

    /// Sends frames, each from a place, and says what arrived where.
    pub fn deliver(&mut self, frames: &[(Place, Vec<u8>)]) -> Vec<Arrival> {
        let _pinned = Pinned::here();
        for (place, frame) in frames {
            self.at(*place).wire.send(frame);
        }
        let mut arrived = Vec::new();
        self.collect_frames(|place, number, frame| {
            arrived.push(Arrival {
                place,
                number,
                frame: frame.to_vec(),
            });
        });
        arrived
    }

    /// [`World::collect`], with the frames.
    fn collect_frames(&mut self, mut seen: impl FnMut(Place, u32, &[u8])) {
        let places: Vec<Place> = (0..self.pods.len())
            .map(Place::Pod)
            .chain([Place::Outside])
            .collect();
        for _ in 0..2 {
            // A tap also holds what its own side sent, and one that is full loses what comes next: room first.
            for place in &places {
                self.at(*place).wire.drain(|frame| {
                    if let Some(number) = number_of(frame) {
                        seen(*place, number, frame);
                    }
                });
            }
            self.sentinels += 1;
            for place in &places {
                self.speak(*place, self.sentinels);
            }
            for place in &places {
                let at = self.at(*place);
                at.wire
                    .probes_until(self.sentinels, |number, frame| seen(*place, number, frame));
            }
        }
    }

    fn speak(&self, place: Place, number: u32) {
        let at = self.at(place);
        let mut frame = [at.wire.mac, at.near.mac].concat();
        // An EtherType for experiments (IEEE 802): nobody but the tap looks at it.
        frame.extend([0x88, 0xb5]);
        frame.extend(tail(number));
        at.near.send(&frame);
    }

    /// Makes the node forget all flows.
    pub fn forget_flows(&self) {
        within(&self.node, || {
            let mut conntrack = Conntrack::open().expect("open connection tracking");
            conntrack
                .forget_where(&FlowFilter::default(), |_| true)
                .expect("forget flows");
        });
    }
}

/// The calling thread on one processor, as long as this lives.
pub(crate) struct Pinned(CpuSet);

impl Pinned {
    pub(crate) fn here() -> Self {
        let this = Pid::from_raw(0);
        let before = sched_getaffinity(this).expect("ask for the processors");
        let mut one = CpuSet::new();
        one.set(sched_getcpu().expect("ask for the processor"))
            .expect("one of the processors");
        sched_setaffinity(this, &one).expect("stay on one processor");
        Pinned(before)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = sched_setaffinity(Pid::from_raw(0), &self.0);
    }
}

fn name(text: &str) -> InterfaceName {
    InterfaceName::new(text).expect("an interface's name")
}

/// Connects a new namespace as a pod.
pub fn connect(node: &NetworkNamespace, spec: &PodSpec) -> Pod {
    let namespace = namespace();
    let request = ConnectRequest {
        namespace: &namespace,
        container_interface: name("eth0"),
        host_interface: name(&spec.interface),
        addresses: spec.addresses.clone(),
        mtu: spec.mtu,
        container_mac: None,
        routes: Vec::new(),
    };
    within(node, || {
        let mut workloads = Workloads::open(Default::default()).expect("open the driver of workloads");
        workloads.connect(&request).expect("connect a pod");
    });
    let wire = Wire::open(&namespace, "eth0");
    let near = within(node, || Sender::open_here(&spec.interface));
    Pod {
        spec: spec.clone(),
        namespace,
        wire,
        near,
    }
}

/// Makes the outside, with the node's end of the cable as `up0`.
fn wire_outside(node: &NetworkNamespace) -> (Pod, [u8; 6]) {
    let outside = namespace();
    within(node, || {
        let mut netlink = dataplane_netlink::Rtnetlink::open().expect("open rtnetlink");
        let end = |text: &str| dataplane_netlink::links::VethEnd {
            name: name(text),
            mac: None,
        };
        dataplane_netlink::links::create_veth(&mut netlink, &end("up0"), &end("eth0"), &outside, MTU)
            .expect("make the cable");
    });
    let near = within(node, || Sender::open_here("up0"));
    let node_mac = near.mac;
    let wire = Wire::open(&outside, "eth0");
    let side = |interface: &str, own: [&str; 2], other: [&str; 2], mac: [u8; 6]| {
        ip(&format!("link set {interface} up"));
        let mac = mac.map(|b| format!("{b:02x}")).join(":");
        for (family, n, length) in [("-4", 0, 24), ("-6", 1, 64)] {
            let nodad = if n == 1 { "nodad" } else { "" };
            ip(&format!(
                "{family} addr add {}/{length} dev {interface} {nodad}",
                own[n]
            ));
            ip(&format!(
                "{family} neigh replace {} lladdr {mac} dev {interface} nud permanent",
                other[n]
            ));
            ip(&format!(
                "{family} route add default via {} dev {interface}",
                other[n]
            ));
        }
    };
    within(&outside, || {
        side("eth0", OUTSIDE_ADDRESSES, NODE_ADDRESSES, node_mac)
    });
    within(node, || side("up0", NODE_ADDRESSES, OUTSIDE_ADDRESSES, wire.mac));
    let parsed = |addresses: [&str; 2]| addresses.map(|a| a.parse().expect("an address"));
    until_it_carries(&outside, "eth0", &parsed(OUTSIDE_ADDRESSES));
    until_it_carries(node, "up0", &parsed(NODE_ADDRESSES));
    let addresses = parsed(OUTSIDE_ADDRESSES).to_vec();
    let spec = PodSpec {
        interface: "up0".to_string(),
        addresses,
        mtu: MTU,
    };
    (
        Pod {
            spec,
            namespace: outside,
            wire,
            near,
        },
        node_mac,
    )
}
