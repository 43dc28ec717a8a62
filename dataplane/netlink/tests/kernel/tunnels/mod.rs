//! Tunnels between nodes: devices, what they know of other nodes, and packets that pass.

mod device;
mod ipip;
mod peers;
mod traffic;

use std::process::Command;

use dataplane_netlink::tunnels::vxlan::{Family, VxlanIdentity, VxlanSpec};
use dataplane_netlink::{NetworkNamespace, Rtnetlink, links, sysctl};

use crate::bed::{ip, iproute, name, up};

/// What a node of this name with these addresses wants of its device; the family is that of the addresses.
pub(crate) fn vxlan(node: &str, local: &str, address: &str) -> VxlanSpec {
    let (family, mtu) = if local.contains(':') {
        (Family::V6, 1430)
    } else {
        (Family::V4, 1450)
    };
    VxlanSpec {
        identity: VxlanIdentity::of_node(node, family).unwrap(),
        local: ip(local),
        carrier: None,
        mtu,
        address: Some(ip(address)),
    }
}

/// Makes a second node, joined to the calling thread's by a cable `eth0` at 192.0.2.1 and .2, 2001:db8::1 and ::2.
pub(crate) fn other_node() -> NetworkNamespace {
    let other = NetworkNamespace::anonymous().unwrap();
    let mut netlink = Rtnetlink::open().unwrap();
    let end = || links::VethEnd {
        name: name("eth0"),
        mac: None,
    };
    links::create_veth(&mut netlink, &end(), &end(), &other, 1500).unwrap();
    address_cable(1);
    other
        .run(|| {
            sysctl::Sysctls::default().apply(&sysctl::forwarding()).unwrap();
            up(&mut Rtnetlink::open().unwrap(), "lo");
            address_cable(2);
        })
        .unwrap();
    other
}

fn address_cable(last: u8) {
    iproute(&format!("addr add 192.0.2.{last}/24 dev eth0"));
    iproute(&format!("addr add 2001:db8::{last}/64 dev eth0 nodad"));
    iproute("link set eth0 up");
}

/// What `ip` says of a device, on one line.
pub(crate) fn shown(device: &str) -> String {
    iproute(&format!("-o -d link show dev {device}"))
}

/// The addresses that `ip` shows of a device beyond its link.
pub(crate) fn addresses_of(device: &str) -> Vec<String> {
    iproute(&format!("-o addr show dev {device} scope global"))
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3))
        .map(str::to_owned)
        .collect()
}

/// Runs `bridge` in the calling thread's namespace, for a second opinion and for what others do.
pub(crate) fn bridge(arguments: &str) -> String {
    let output = Command::new("/usr/sbin/bridge")
        .args(arguments.split_whitespace())
        .output()
        .expect("the tests need /usr/sbin/bridge (package iproute2)");
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "bridge {arguments}: {problem}");
    String::from_utf8(output.stdout).unwrap()
}
