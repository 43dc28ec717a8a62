//! Random flows that a cluster's rules may say something about.

use super::cluster::Cluster;
use super::dice::Dice;
use super::rules::{IPIP, NETS, OTHERS, PORTS, SOURCE_PORTS, TRANSPORTS, VXLAN_PORT};
use crate::engine::NODE;
use crate::packet::Probe;
use ipnet::IpNet;
use policy_model::{Kind, Protocol, Resource};
use policy_model_rules::oracle::{Flow, Peer};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What tells a flow: a flow the other way with the same is its answer to connection tracking.
type Ends = (Protocol, IpAddr, u16, IpAddr, u16);

/// Random flows with at least one local pod each. No flow is the reply to another one.
pub fn flows(dice: &mut Dice, cluster: &Cluster, count: usize) -> Vec<Probe> {
    let local: Vec<IpAddr> = cluster
        .of_kind(Kind::WorkloadEndpoint)
        .filter(|r| is_local(r))
        .flat_map(addresses)
        .collect();
    if local.is_empty() {
        return Vec::new();
    }
    let mut peers = local.clone();
    peers.extend(
        cluster
            .of_kind(Kind::WorkloadEndpoint)
            .filter(|r| !is_local(r))
            .flat_map(addresses),
    );
    let world: Vec<IpAddr> = outside();
    let mut seen: HashSet<Ends> = HashSet::new();
    let mut probes = Vec::with_capacity(count);
    while probes.len() < count {
        let ours = dice.one(&local);
        let peer = if dice.chance(55) {
            dice.one(&peers)
        } else {
            dice.one(&world)
        };
        if peer.is_ipv4() != ours.is_ipv4() {
            continue;
        }
        let (source, destination) = if dice.chance(50) {
            (ours, peer)
        } else {
            (peer, ours)
        };
        let number = u32::try_from(probes.len()).expect("not so many");
        let (protocol, x, y) = what(dice, ours.is_ipv4(), number);
        // What a pod sends to itself does not leave it: of the wire, where packets of tunnels are refused, that says nothing.
        if is_of_a_tunnel(protocol, x) && are_of_one_pod(cluster, ours, peer) {
            continue;
        }
        // Connection tracking takes the packet back for the reply, and lets it pass: that is another question.
        let (there, back): (Ends, Ends) = match protocol.has_ports() {
            true => (
                (protocol, source, y, destination, x),
                (protocol, destination, x, source, y),
            ),
            false => (
                (protocol, source, 0, destination, 0),
                (protocol, destination, 0, source, 0),
            ),
        };
        if seen.contains(&back) && there != back && !protocol.is_icmp() {
            continue;
        }
        seen.insert(there);
        probes.push(Probe {
            number,
            source,
            destination,
            protocol,
            x,
            y,
        });
    }
    probes
}

/// The oracle's question for a probe.
pub fn flow_from(probe: &Probe) -> Flow {
    let Probe {
        source,
        destination,
        protocol,
        x,
        y,
        ..
    } = *probe;
    let byte = |n: u16| u8::try_from(n).expect("a type or code");
    let ports = protocol.has_ports();
    Flow {
        from: Peer::Address(source),
        to: Peer::Address(destination),
        protocol,
        source_port: ports.then_some(y),
        port: ports.then_some(x),
        icmp: protocol.is_icmp().then(|| (byte(x), byte(y))),
    }
}

/// Whether a packet is one that only nodes send each other, with the settings that agents have unless told otherwise.
fn is_of_a_tunnel(protocol: Protocol, port: u16) -> bool {
    protocol == IPIP || (protocol == Protocol::UDP && port == VXLAN_PORT)
}

fn are_of_one_pod(cluster: &Cluster, one: IpAddr, other: IpAddr) -> bool {
    let pods = cluster.of_kind(Kind::WorkloadEndpoint).filter(|r| is_local(r));
    pods.map(addresses)
        .any(|own| own.contains(&one) && own.contains(&other))
}

fn what(dice: &mut Dice, v4: bool, number: u32) -> (Protocol, u16, u16) {
    match dice.below(20) {
        0..3 => {
            // Only these open a flow; connection tracking calls others invalid, and they are dropped for that.
            let (protocol, types): (_, &[u16]) = if v4 {
                (Protocol::ICMP, &[8, 13, 17])
            } else {
                (Protocol::ICMPV6, &[128, 139])
            };
            (protocol, dice.one(types), dice.one(&[0, 0, 1, 255]))
        }
        3 => (dice.one(&OTHERS), 0, 0),
        n => {
            // The connection tracking of some kernels calls every packet of UDP-Lite invalid.
            let protocol = if n < 10 {
                Protocol::TCP
            } else {
                dice.one(&TRANSPORTS[..3])
            };
            let near = |dice: &mut Dice, port: u16| match dice.below(6) {
                0 => port.saturating_add(1),
                1 => port.saturating_sub(1),
                _ => port,
            };
            let x = dice.one(&PORTS);
            let x = near(dice, x);
            let y = if dice.chance(25) {
                let y = dice.one(&SOURCE_PORTS);
                near(dice, y)
            } else {
                40_000 + u16::try_from(number % 20_000).expect("below 20,000")
            };
            // Connection tracking refuses port zero of TCP and UDP.
            (protocol, x.max(1), y.max(1))
        }
    }
}

fn is_local(resource: &Resource) -> bool {
    matches!(resource, Resource::WorkloadEndpoint(e) if e.spec.node == NODE)
}

fn addresses(resource: &Resource) -> Vec<IpAddr> {
    match resource {
        Resource::WorkloadEndpoint(e) => e.spec.ip_networks.iter().map(IpNet::addr).collect(),
        _ => Vec::new(),
    }
}

/// Addresses outside: the edges of the networks that rules name, on both sides.
fn outside() -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = [
        "192.0.2.2",
        "172.16.5.5",
        "8.8.8.8",
        "2001:db8:ffff::2",
        "2001:4860::8",
    ]
    .iter()
    .map(|a| a.parse().expect("an address"))
    .collect();
    for text in NETS {
        let net: IpNet = text.parse().expect("a network");
        let (first, last) = (net.network(), net.broadcast());
        all.extend([first, last]);
        match (first, last) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                all.extend(
                    a.to_bits()
                        .checked_sub(1)
                        .map(|n| IpAddr::V4(Ipv4Addr::from_bits(n))),
                );
                all.extend(
                    b.to_bits()
                        .checked_add(1)
                        .map(|n| IpAddr::V4(Ipv4Addr::from_bits(n))),
                );
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                all.extend(
                    a.to_bits()
                        .checked_sub(1)
                        .map(|n| IpAddr::V6(Ipv6Addr::from_bits(n))),
                );
                all.extend(
                    b.to_bits()
                        .checked_add(1)
                        .map(|n| IpAddr::V6(Ipv6Addr::from_bits(n))),
                );
            }
            _ => {}
        }
    }
    all.retain(|a| is_routable(*a));
    all.sort_unstable();
    all.dedup();
    all
}

/// Whether the kernel forwards packets from and to an address, and no local pod has it.
fn is_routable(address: IpAddr) -> bool {
    let pods = ["10.1.0.0/24", "fd00:1::/64"];
    let is_pod = pods
        .iter()
        .any(|n| n.parse::<IpNet>().expect("a network").contains(&address));
    !is_pod
        && match address {
            IpAddr::V4(a) => {
                let [first, ..] = a.octets();
                first != 0 && first != 127 && first < 224 && !a.is_link_local()
            }
            // The global ones that the world is made of, and unique local ones.
            IpAddr::V6(a) => matches!(a.segments()[0], 0x2000..=0x3fff | 0xfc00..=0xfdff),
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy_model_rules::oracle::{Facts, Settings, Verdict};

    /// Enough for flows of every kind.
    const WORLDS: u64 = 20;

    #[test]
    fn packets_of_tunnels_are_asked_about_and_no_pod_may_send_them() {
        // By protocol and family: from a pod, or from somebody else.
        let mut seen: HashSet<(Protocol, bool, bool)> = HashSet::new();
        let mut allowed = 0;
        for seed in 0..WORLDS {
            let mut dice = Dice::new(seed);
            let cluster = Cluster::new(&mut dice);
            let local = cluster.of_kind(Kind::WorkloadEndpoint).filter(|r| is_local(r));
            let local: Vec<IpAddr> = local.flat_map(addresses).collect();
            let facts = Facts::new(&cluster.resources(), Settings::default());
            let flows = flows(&mut dice, &cluster, 400);
            for probe in flows.iter().filter(|p| is_of_a_tunnel(p.protocol, p.x)) {
                let is_from_pod = local.contains(&probe.source);
                seen.insert((probe.protocol, probe.source.is_ipv4(), is_from_pod));
                let is_allowed = facts.judge_untraced(&flow_from(probe)).unwrap().verdict == Verdict::Allow;
                assert!(!(is_from_pod && is_allowed), "{probe:?}");
                allowed += usize::from(is_allowed);
            }
        }
        assert_eq!(seen.len(), 8, "{seen:?}");
        assert!(allowed > 0, "what others send meets policy only");
    }
}
