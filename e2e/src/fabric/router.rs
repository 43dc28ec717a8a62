//! The network between the nodes: a segment for each subnet, and a router between the segments that knows nodes alone.
//!
//! Whatever comes to the router from or for an address that is no machine's of its own subnets is dropped and counted:
//! it is what leaks where pods' packets have to be wrapped. What a node's kernel itself answers to another's trial of
//! checksums is dropped without being counted: it may come before the node has the other's block, and no pod said it. Within a
//! segment nobody stands between the machines, and [`super::Capture`]s see what they send.

use super::addresses::{self, Family};
use super::capture::Capture;
use super::worn::{self, Worn};
use crate::bed::{ip, namespace, nft, tool, within};
use crate::wire::Wire;
use crate::world::MTU;
use dataplane_netlink::links::{VethEnd, create_veth};
use dataplane_netlink::sysctl::{Sysctls, forwarding};
use dataplane_netlink::{InterfaceName, NetworkNamespace, Rtnetlink};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Who may pass: machines of the segments and the server outside, and what machines of a segment settle among themselves.
/// It stands before the choice of a route, which would drop most of the rest without a word.
const GUARD: &str = "
table inet guard {
  counter strangers { }
  set known4 { type ipv4_addr; flags interval; elements = { 172.30.0.0/16, 172.31.0.0/24, 224.0.0.0/4 }; }
  set known6 { type ipv6_addr; flags interval; elements = { ::/128, fd00:30::/32, fd00:31::/64, fe80::/10, ff00::/8 }; }
  set tunnels4 { type ipv4_addr; elements = { 0.0.0.1, 0.0.0.2 }; }
  set tunnels6 { type ipv6_addr; elements = { ::1, ::2 }; }
  chain prerouting {
    type filter hook prerouting priority raw; policy drop;
    ip saddr @known4 ip daddr @known4 accept
    ip6 saddr @known6 ip6 daddr @known6 accept
    ip saddr & 0.0.0.255 @tunnels4 ip daddr & 0.0.0.255 @tunnels4 icmp type { echo-reply, destination-unreachable } drop
    ip6 saddr & ::ffff @tunnels6 ip6 daddr & ::ffff @tunnels6 icmpv6 type { echo-reply, destination-unreachable } drop
    counter name strangers
  }
}
";
/// The segment of the server outside; those of nodes have smaller numbers.
const OUTSIDE: &str = "out";

/// What the machines are plugged in with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cables {
    /// They carry what they should.
    Sound,
    /// They complete the outermost checksum of a frame only, and spoil what is wrapped in it.
    Worn,
}

/// The router with its segments.
#[derive(Debug)]
pub struct Router {
    /// What machines are plugged in with from now on.
    pub cables: Cables,
    worn: Vec<Worn>,
    /// Its namespace.
    pub namespace: NetworkNamespace,
    segments: BTreeSet<String>,
    ports: u32,
}

impl Router {
    /// A router without any segment.
    pub(super) fn new() -> Self {
        let namespace = namespace();
        within(&namespace, || {
            quiet_addresses();
            forward();
            // Frames between two ports of a segment are nobody's business here.
            for file in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
                let path = format!("/proc/sys/net/bridge/{file}");
                if std::fs::exists(&path).expect("look for a setting of bridges") {
                    std::fs::write(&path, "0").expect("keep bridged frames from the guard");
                }
            }
            nft(GUARD);
        });
        Router {
            cables: Cables::Sound,
            worn: Vec::new(),
            namespace,
            segments: BTreeSet::new(),
            ports: 0,
        }
    }

    /// How many packets from or for strangers came so far.
    pub fn strangers(&self) -> u64 {
        let listed = within(&self.namespace, || {
            tool("nft", &["list", "counter", "inet", "guard", "strangers"])
        });
        let words: Vec<&str> = listed.split_whitespace().collect();
        let place = words
            .iter()
            .position(|word| *word == "packets")
            .expect("a counter");
        words[place + 1].parse().expect("a number of packets")
    }

    /// Plugs a machine into the segment of a subnet, as its `eth0` with an address of each family.
    pub(super) fn plug(&mut self, machine: &NetworkNamespace, subnet: u8, k: u8) -> Capture {
        let at = |family, k| addresses::in_subnet(family, subnet, k);
        self.segment(&format!("s{subnet}"), |family| at(family, 1));
        let capture = self.cable(machine, &format!("s{subnet}"));
        set_up(machine, |family| at(family, k), |family| at(family, 1));
        capture
    }

    /// Plugs the server outside in.
    pub(super) fn plug_outside(&mut self, machine: &NetworkNamespace) -> Capture {
        self.segment(OUTSIDE, |family| addresses::outside(family, 1));
        let capture = self.cable(machine, OUTSIDE);
        set_up(
            machine,
            |family| addresses::outside(family, 2),
            |family| addresses::outside(family, 1),
        );
        capture
    }

    fn segment(&mut self, name: &str, own: impl Fn(Family) -> IpAddr + Sync) {
        if !self.segments.insert(name.to_string()) {
            return;
        }
        within(&self.namespace, || {
            ip(&format!("link add {name} type bridge"));
            ip(&format!("link set {name} up"));
            for family in Family::BOTH {
                address(name, family, own(family));
            }
        });
    }

    fn cable(&mut self, machine: &NetworkNamespace, segment: &str) -> Capture {
        self.ports += 1;
        let port = format!("port{}", self.ports);
        within(machine, quiet_addresses);
        match self.cables {
            Cables::Sound => within(&self.namespace, || lay(&port, "eth0", machine)),
            Cables::Worn => {
                let [left, right] = worn::ENDS;
                self.worn.push(Worn::new(|place| {
                    within(&self.namespace, || lay(&port, right, place));
                    within(place, || lay(left, "eth0", machine));
                }));
            }
        }
        within(&self.namespace, || {
            ip(&format!("link set {port} master {segment} up"));
            Capture::new(Wire::open_here(&port))
        })
    }
}

/// Lays a cable from the calling thread's namespace to a machine.
fn lay(here: &str, there: &str, machine: &NetworkNamespace) {
    let end = |text: &str| VethEnd {
        name: InterfaceName::new(text).expect("an interface's name"),
        mac: None,
    };
    let mut netlink = Rtnetlink::open().expect("open rtnetlink");
    create_veth(&mut netlink, &end(here), &end(there), machine, MTU).expect("make a cable");
}

/// Addresses count at once: nobody here has one twice.
fn quiet_addresses() {
    for file in ["default", "all"] {
        let path = format!("/proc/sys/net/ipv6/conf/{file}/accept_dad");
        std::fs::write(path, "0").expect("switch the search for duplicate addresses off");
    }
}

/// Has the calling thread's namespace forward packets.
pub(super) fn forward() {
    Sysctls::default()
        .apply(&forwarding())
        .expect("switch forwarding on");
}

fn set_up(
    machine: &NetworkNamespace,
    own: impl Fn(Family) -> IpAddr + Sync,
    gateway: impl Fn(Family) -> IpAddr + Sync,
) {
    within(machine, || {
        ip("link set eth0 up");
        for family in Family::BOTH {
            address("eth0", family, own(family));
            default_route(family, gateway(family));
        }
    });
}

/// Gives an interface of the calling thread's namespace an address in its subnet.
pub(super) fn address(interface: &str, family: Family, own: IpAddr) {
    let length = addresses::subnet_length(family);
    let nodad = if family == Family::V6 { "nodad" } else { "" };
    ip(&format!(
        "{} addr add {own}/{length} dev {interface} {nodad}",
        family.flag()
    ));
}

/// Gives the calling thread's namespace its way to other subnets.
pub(super) fn default_route(family: Family, gateway: IpAddr) {
    ip(&format!(
        "{} route replace default via {gateway} dev eth0",
        family.flag()
    ));
}
