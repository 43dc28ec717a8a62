//! What tunnels alone lead to leaves the node in no other way, whatever became of the routes.

use crate::bed::{Bed, NODE, SERVER, apply, at, ip, next, on_a_node, run_ip, udp};
use dataplane::Dataplane;
use dataplane_api::{ClusterNode, PoolRange, Update};
use policy_model::EncapsulationMode;
use std::net::UdpSocket;

/// Addresses of the pools that lie in no block, and those of a smaller range within each.
const NOWHERE: [&str; 2] = ["10.65.9.9", "fd00:65::9:9"];
const SMALLER: [&str; 2] = ["10.65.200.9", "fd00:65:0:8::9"];
/// An address of each pool that is the node's own, as that of a tunnel's device is.
const OWN: [&str; 2] = ["10.65.0.1", "fd00:65::1"];
const PORT: u16 = 7000;

fn pool(cidr: &str, vxlan: EncapsulationMode) -> Update {
    Update::Pool(PoolRange {
        cidr: cidr.parse().unwrap(),
        nat_outgoing: false,
        ipip: EncapsulationMode::Never,
        vxlan,
    })
}

fn pools(mode: EncapsulationMode) -> [Update; 2] {
    ["10.65.0.0/16", "fd00:65::/48"].map(|cidr| pool(cidr, mode))
}

fn node(name: &str, addresses: [&str; 2], is_here: bool) -> Update {
    Update::Node(ClusterNode {
        name: name.into(),
        is_here,
        addresses: addresses.map(ip).into(),
        ipip: None,
        vxlan4: None,
        vxlan6: None,
        vxlan_mac: None,
    })
}

/// Tells updates; what is confined from now on is so after the second pass.
fn tell(dataplane: &mut Dataplane, updates: &[Update]) {
    dataplane.take(updates);
    apply(dataplane);
    while dataplane.is_dirty() {
        apply(dataplane);
    }
}

/// Gives the calling thread's namespace an address of no network, in use at once.
fn give_alone(address: &str) {
    let rest = if ip(address).is_ipv4() {
        "/32 dev lo"
    } else {
        "/128 dev lo nodad"
    };
    run_ip(&format!("addr add {address}{rest}"));
}

/// A neighbour who has addresses of the pools, and is where the default route leads.
struct Neighbour {
    listeners: Vec<UdpSocket>,
}

impl Neighbour {
    fn new(bed: &Bed) -> Self {
        let all: Vec<&str> = NOWHERE.into_iter().chain(SMALLER).collect();
        let take_addresses = || {
            all.iter().for_each(|address| give_alone(address));
        };
        bed.outside.run(take_addresses).unwrap();
        for gateway in ["192.0.2.9", "2001:db8::9"] {
            run_ip(&format!("route add default via {gateway}"));
        }
        OWN.iter().for_each(|address| give_alone(address));
        Neighbour {
            listeners: all
                .iter()
                .map(|address| udp(&bed.outside, address, PORT))
                .collect(),
        }
    }

    /// Which of the datagrams that are sent to its addresses arrive. `sentinel` is heard whatever is confined, so that what
    /// did not come before it does not come at all.
    fn hears(&self, senders: &[UdpSocket], sentinel: &[UdpSocket]) -> Vec<bool> {
        let mut arrived = Vec::new();
        for listener in &self.listeners {
            let to = listener.local_addr().unwrap();
            let n = usize::from(to.is_ipv6());
            // A refused datagram may come back as an error of the socket.
            let _ = senders[n].send_to(b"pod", to);
            sentinel[n].send_to(b"node", to).unwrap();
            let (word, from) = next(listener);
            arrived.push(word == "pod");
            if word == "pod" {
                assert_eq!(from.ip(), senders[n].local_addr().unwrap().ip());
                assert_eq!(next(listener).0, "node");
            }
        }
        arrived
    }
}

#[test]
fn what_tunnels_alone_lead_to_leaves_by_no_other_way() {
    use EncapsulationMode::{Always, CrossSubnet, Never};
    on_a_node(|bed| {
        let mut dataplane = bed.dataplane();
        let neighbour = Neighbour::new(bed);
        tell(&mut dataplane, &[node("here", NODE, true)]);
        // One socket a family through all that follows: its flows are known to connection tracking, and stop all the same.
        let pod = SERVER.map(|address| udp(&bed.server, address, 0));
        let node_itself = NODE.map(|address| UdpSocket::bind(at(address, 0)).unwrap());
        let by_pools_address = OWN.map(|address| UdpSocket::bind(at(address, 0)).unwrap());
        let hears = |senders: &[UdpSocket]| neighbour.hears(senders, &node_itself);
        let everything = [true; 4];
        let nothing = [false; 4];
        assert_eq!(hears(&pod), everything, "without pools");
        tell(&mut dataplane, &pools(Never));
        assert_eq!(hears(&pod), everything, "of plain pools");
        tell(&mut dataplane, &pools(CrossSubnet));
        assert_eq!(hears(&pod), everything, "of pools that wrap across subnets");
        tell(&mut dataplane, &pools(Always));
        assert_eq!(hears(&pod), nothing, "of pools that always wrap");
        assert_eq!(
            hears(&by_pools_address),
            nothing,
            "by the node's address in a pool"
        );
        // The next life finds it so, and leaves it so.
        drop(dataplane);
        let mut dataplane = Dataplane::open(bed.settings()).unwrap();
        let mut all = crate::bed::updates();
        all.splice(0..0, pools(Always).into_iter().chain([node("here", NODE, true)]));
        tell(&mut dataplane, &all);
        assert_eq!(hears(&pod), nothing, "in the next life");
        // Of ranges within each other the smaller one counts.
        let smaller = ["10.65.200.0/24", "fd00:65:0:8::/64"];
        tell(&mut dataplane, &smaller.map(|cidr| pool(cidr, Never)));
        assert_eq!(
            hears(&pod),
            [false, false, true, true],
            "where the smaller range is plain"
        );
        let gone = smaller.map(|cidr| Update::PoolRemoved(cidr.parse().unwrap()));
        tell(&mut dataplane, &gone);
        assert_eq!(hears(&pod), nothing, "without the smaller range");
        // Nodes are reached as they are, wherever their addresses are from.
        tell(&mut dataplane, &[node("there", NOWHERE, false)]);
        assert_eq!(hears(&pod), [true, true, false, false], "to a node");
        tell(&mut dataplane, &[Update::NodeRemoved("there".into())]);
        assert_eq!(hears(&pod), nothing, "to who was a node");
        tell(&mut dataplane, &pools(Never));
        assert_eq!(hears(&pod), everything, "of plain pools again");
    });
}
