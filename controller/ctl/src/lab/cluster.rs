//! Makes and removes the lab's network: the wire, the nodes, the host outside.

use super::names::{self, FABRIC, OUTSIDE, OUTSIDE_ADDRESSES};
use super::namespaces::{self, ip_batch};
use anyhow::Context;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Largest packet of the wire, in bytes.
const MTU: &str = "1500";

/// What a node's or outside's namespace needs before its interface is up.
const SETTINGS: [(&str, &str); 5] = [
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/eth0/send_redirects", "0"),
    // Duplicate address detection would delay the start for nothing: the lab gives every address once.
    ("ipv6/conf/eth0/accept_dad", "0"),
];

/// Makes the wire between the nodes (a bridge in a namespace of its own), all nodes and the host outside, each with a
/// way to every other. Addresses are single ones, so that nodes of any subnets share the wire.
pub(super) fn make(nodes: &BTreeMap<String, Vec<IpAddr>>) -> anyhow::Result<()> {
    let mut places: Vec<(String, Vec<IpAddr>)> = nodes
        .iter()
        .map(|(n, a)| (names::node_namespace(n), a.clone()))
        .collect();
    places.push((OUTSIDE.to_string(), OUTSIDE_ADDRESSES.to_vec()));
    namespaces::create(FABRIC)?;
    let mut wire = vec![
        "link add wire type bridge".to_string(),
        "link set wire up".to_string(),
    ];
    for (number, (namespace, _)) in places.iter().enumerate() {
        namespaces::create(namespace)?;
        wire.push(format!(
            "link add port{number} type veth peer name eth0 netns {namespace}"
        ));
        wire.push(format!("link set port{number} mtu {MTU} master wire up"));
    }
    ip_batch(FABRIC, &wire)?;
    for (namespace, addresses) in &places {
        namespaces::inside(namespace, settings)??;
        let mut lines = vec![format!("link set eth0 mtu {MTU} up")];
        lines.extend(addresses.iter().map(|address| add_address(*address)));
        let others = places.iter().filter(|(other, _)| other != namespace);
        for address in others.flat_map(|(_, theirs)| theirs) {
            lines.push(format!("route replace {} dev eth0", single(*address)));
        }
        if namespace != OUTSIDE {
            // What is nobody's on the wire is outside.
            for is_v4 in [true, false] {
                let gateway = OUTSIDE_ADDRESSES.iter().find(|g| g.is_ipv4() == is_v4);
                let own = addresses.iter().find(|a| a.is_ipv4() == is_v4);
                if let (Some(gateway), Some(own)) = (gateway, own) {
                    lines.push(format!("route replace default via {gateway} dev eth0 src {own}"));
                }
            }
        }
        ip_batch(namespace, &lines)?;
    }
    Ok(())
}

fn settings() -> anyhow::Result<()> {
    for (setting, value) in SETTINGS {
        let path = format!("/proc/sys/net/{setting}");
        std::fs::write(&path, value).with_context(|| format!("writing {path}"))?;
    }
    Ok(())
}

fn single(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

/// The line that gives an address to a node or to the host outside.
fn add_address(address: IpAddr) -> String {
    let nodad = if address.is_ipv6() { " nodad" } else { "" };
    format!("address replace {} dev eth0{nodad}", single(address))
}

/// Gives the host outside further addresses, for flows from and to the world.
pub(super) fn widen_outside(addresses: &[IpAddr]) -> anyhow::Result<()> {
    ip_batch(
        OUTSIDE,
        &addresses
            .iter()
            .map(|address| add_address(*address))
            .collect::<Vec<_>>(),
    )
}

/// Takes them away again.
pub(super) fn narrow_outside(addresses: &[IpAddr]) -> anyhow::Result<()> {
    let remove = |address: &IpAddr| format!("address del {} dev eth0", single(*address));
    ip_batch(OUTSIDE, &addresses.iter().map(remove).collect::<Vec<_>>())
}

/// Lets the host outside reach a pod through its node.
pub(super) fn outside_routes(pod: &[IpAddr], node: &[IpAddr]) -> anyhow::Result<()> {
    let route = |pod: &IpAddr| {
        let via = node.iter().find(|n| n.is_ipv4() == pod.is_ipv4())?;
        Some(format!("route replace {} via {via} dev eth0", single(*pod)))
    };
    ip_batch(OUTSIDE, &pod.iter().filter_map(route).collect::<Vec<_>>())
}

/// Forgets the way to a pod that is gone. A way that is gone too is fine.
pub(super) fn forget_outside_routes(pod: &[IpAddr]) {
    for address in pod {
        let _ = ip_batch(OUTSIDE, &[format!("route del {}", single(*address))]);
    }
}

/// Removes every network namespace of the lab, whatever made it, and goes on where one resists. Returns how many.
pub(super) fn remove_all() -> anyhow::Result<usize> {
    let all = namespaces::list();
    let mut failure = Ok(());
    for name in &all {
        if let Err(error) = namespaces::remove(name) {
            failure = Err(error);
        }
    }
    failure.map(|()| all.len())
}
