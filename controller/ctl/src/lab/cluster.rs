//! Makes and removes the lab's network: the wire, the nodes, the host outside.

use super::names::{self, FABRIC, OUTSIDE, OUTSIDE_ADDRESSES};
use super::namespaces::{self, ip};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Largest packet of the wire, in bytes.
const MTU: &str = "1500";

/// Makes the wire between the nodes: a bridge in a namespace of its own.
pub fn make_fabric() -> anyhow::Result<()> {
    namespaces::create(FABRIC)?;
    ip(Some(FABRIC), &["link", "add", "wire", "type", "bridge"])?;
    ip(Some(FABRIC), &["link", "set", "wire", "up"])
}

/// Plugs a namespace into the wire, as its `eth0`.
fn plug(namespace: &str, number: usize) -> anyhow::Result<()> {
    let port = format!("port{number}");
    ip(Some(FABRIC), &["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", namespace])?;
    ip(Some(FABRIC), &["link", "set", &port, "mtu", MTU, "master", "wire", "up"])?;
    // Addresses are single ones, so that nodes of any subnets share the wire; duplicate address detection would delay
    // the start for nothing.
    namespaces::inside(namespace, || std::fs::write("/proc/sys/net/ipv6/conf/eth0/accept_dad", "0"))??;
    ip(Some(namespace), &["link", "set", "eth0", "mtu", MTU, "up"])
}

fn address(namespace: &str, address: IpAddr) -> anyhow::Result<()> {
    let (family, length) = family(address);
    let net = format!("{address}/{length}");
    let mut arguments = vec![family, "address", "add", net.as_str(), "dev", "eth0"];
    if address.is_ipv6() {
        arguments.push("nodad");
    }
    ip(Some(namespace), &arguments)
}

fn family(address: IpAddr) -> (&'static str, u8) {
    if address.is_ipv4() { ("-4", 32) } else { ("-6", 128) }
}

/// A route to an address on the wire.
fn neighbour_route(namespace: &str, to: IpAddr) -> anyhow::Result<()> {
    let (family, length) = family(to);
    ip(Some(namespace), &[family, "route", "replace", &format!("{to}/{length}"), "dev", "eth0"])
}

/// Makes all nodes and the host outside, each with a way to every other.
pub fn make_nodes(nodes: &BTreeMap<String, Vec<IpAddr>>) -> anyhow::Result<()> {
    let mut places: Vec<(String, Vec<IpAddr>)> =
        nodes.iter().map(|(n, a)| (names::node_namespace(n), a.clone())).collect();
    places.push((OUTSIDE.to_string(), OUTSIDE_ADDRESSES.to_vec()));
    for (number, (namespace, addresses)) in places.iter().enumerate() {
        namespaces::create(namespace)?;
        plug(namespace, number)?;
        for a in addresses {
            address(namespace, *a)?;
        }
        namespaces::inside(namespace, forwarding)??;
    }
    for (namespace, addresses) in &places {
        for (other, theirs) in &places {
            if other != namespace {
                theirs.iter().try_for_each(|a| neighbour_route(namespace, *a))?;
            }
        }
        if namespace != OUTSIDE {
            // What is nobody's on the wire is outside.
            for gateway in OUTSIDE_ADDRESSES.iter().filter(|g| addresses.iter().any(|a| a.is_ipv4() == g.is_ipv4())) {
                let (family, _) = family(*gateway);
                let gateway = gateway.to_string();
                ip(Some(namespace), &[family, "route", "replace", "default", "via", &gateway, "dev", "eth0"])?;
            }
        }
    }
    Ok(())
}

/// A node forwards, and answers redirects and reverse-path questions as a router does.
fn forwarding() -> std::io::Result<()> {
    for (setting, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv4/conf/all/send_redirects", "0"),
        ("ipv4/conf/eth0/send_redirects", "0"),
    ] {
        std::fs::write(format!("/proc/sys/net/{setting}"), value)?;
    }
    Ok(())
}

/// Lets the host outside reach a pod through its node.
pub fn outside_route(pod: IpAddr, node: &[IpAddr]) -> anyhow::Result<()> {
    let Some(via) = node.iter().find(|n| n.is_ipv4() == pod.is_ipv4()) else { return Ok(()) };
    let (family, length) = family(pod);
    ip(Some(OUTSIDE), &[family, "route", "replace", &format!("{pod}/{length}"), "via", &via.to_string(), "dev", "eth0"])
}

/// Removes every network namespace of the lab, whatever made it.
pub fn remove_all() -> anyhow::Result<usize> {
    let all = namespaces::list();
    for name in &all {
        namespaces::remove(name)?;
    }
    Ok(all.len())
}
