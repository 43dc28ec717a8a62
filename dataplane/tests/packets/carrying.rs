//! What the kernel does in the background before packets pass between two namespaces.

use dataplane_netlink::links::{self, OperState};
use dataplane_netlink::{InterfaceName, Rtnetlink, routes};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Waits until an interface of the calling thread's namespace, both of whose ends were set up, carries packets, and packets
/// to these addresses are taken in. Until the kernel has noticed, it drops what is sent.
pub(crate) fn until_it_carries(interface: &str, addresses: &[&str]) {
    let name = InterfaceName::new(interface).unwrap();
    let addresses: Vec<IpAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
    let mut netlink = Rtnetlink::open().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut carries = || {
        let link = links::find(&mut netlink, &name).unwrap();
        link.is_some_and(|link| link.oper_state == OperState::Up)
            && addresses
                .iter()
                .all(|address| routes::is_local(&mut netlink, *address).unwrap())
    };
    while !carries() {
        assert!(Instant::now() < deadline, "{interface} carries nothing");
        std::thread::sleep(Duration::from_millis(1));
    }
}
