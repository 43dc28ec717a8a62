//! What the kernel does in the background before packets pass between two namespaces.

use crate::bed::{ip, run_ip};
use dataplane_netlink::links::{self, OperState};
use dataplane_netlink::{InterfaceName, MacAddress, NetworkNamespace, Rtnetlink, routes};
use std::time::{Duration, Instant};

/// Waits until an interface of the calling thread's namespace, both of whose ends were set up, carries packets, and packets
/// to these addresses are taken in. Until the kernel has noticed, it drops what is sent.
pub(crate) fn until_it_carries(interface: &str, addresses: &[&str]) {
    let name = InterfaceName::new(interface).unwrap();
    let mut netlink = Rtnetlink::open().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut carries = || {
        let link = links::find(&mut netlink, &name).unwrap();
        link.is_some_and(|link| link.oper_state == OperState::Up)
            && addresses
                .iter()
                .all(|address| routes::is_local(&mut netlink, ip(address)).unwrap())
    };
    while !carries() {
        assert!(Instant::now() < deadline, "{interface} carries nothing");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Tells an interface of the calling thread's namespace and the one at its other end each other's Ethernet addresses, for
/// good. The kernel asks three times, a second apart, and drops what waits for the answer: a machine that stands still for
/// a moment makes of that a datagram that never comes.
pub(crate) fn introduce(
    (interface, here): (&str, &[&str]),
    (namespace, other, there): (&NetworkNamespace, &str, &[&str]),
) {
    let (near, far) = (mac_of(interface), namespace.run(|| mac_of(other)).unwrap());
    know(interface, there, far);
    namespace.run(|| know(other, here, near)).unwrap();
}

fn mac_of(interface: &str) -> MacAddress {
    let (mut netlink, name) = (Rtnetlink::open().unwrap(), InterfaceName::new(interface).unwrap());
    let link = links::find(&mut netlink, &name).unwrap().unwrap();
    link.mac.expect("an Ethernet address")
}

fn know(interface: &str, neighbours: &[&str], mac: MacAddress) {
    for neighbour in neighbours {
        run_ip(&format!(
            "neigh replace {neighbour} lladdr {mac} dev {interface} nud permanent"
        ));
    }
}
