//! Address translation: its chains, and the maps by which ports of the node lead to workloads.
//!
//! Destinations change before policy is asked and sources stay, so that policy sees the real client. On the way out to a
//! workload a source changes in two cases only: a packet from the node's loopback address, whose answer would not come
//! back, and a workload's packet to itself by way of the node, which it would take for a forgery. On the way elsewhere it
//! changes where no answer would find the way back: what the node says into a tunnel ([`super::tunnels`]), and what
//! leaves all pools ([`super::outgoing`]). Only the first packet of a connection comes here. Others that translate at
//! these hooks (kube-proxy) do not mind, nor do we: the first that matches decides.

use super::names::{HOST_AT4, HOST_AT6, HOST_PORTS, HOST4, HOST6, OUTGOING, SELF};
use super::outgoing::masquerade;
use super::settings::LayoutSettings;
use super::tunnels;
use crate::wire::{
    CmpOp, CtKey, Element, ElementData, ElementKey, Expr, Fib, FibResult, Hook, MetaKey, Nat, NatKind,
    NatRange, OnHit, Register, Source, Value, Verdict, concat, ct_status, fib_flag, interface_is,
    interface_starts_with, masked, only_family, priority,
};
use dataplane_api::HostPort;
use ipnet::IpNet;
use policy_model::Protocol;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
/// Every address of a loopback interface.
const LOOPBACK: IpNet = IpNet::new_assert(IpAddr::V4(Ipv4Addr::LOCALHOST), 8);
/// The type of an address of this node, as the routing tables have it (`RTN_LOCAL`).
const LOCAL: u32 = 2;

/// What comes in.
const PREROUTING: &str = "nat_prerouting";
/// What this node says.
const OUTPUT: &str = "nat_output";
/// What goes out.
const POSTROUTING: &str = "nat_postrouting";

/// The base chains of address translation: name, hook, priority.
pub(super) const CHAINS: [(&str, Hook, i32); 3] = [
    (PREROUTING, Hook::Prerouting, priority::DSTNAT),
    (OUTPUT, Hook::Output, priority::DSTNAT),
    (POSTROUTING, Hook::Postrouting, priority::SRCNAT),
];

/// The rules of a base chain, if it is one of [`CHAINS`].
pub(super) fn rules(chain: &str, settings: &LayoutSettings) -> Option<Vec<Vec<Expr>>> {
    match chain {
        // From outside nobody reaches a loopback address, though the interfaces of some workloads may carry such
        // addresses inwards (`route_localnet`, without which answers to the node's loopback would be dropped).
        PREROUTING => Some(vec![
            [from_or_to_loopback(false), verdict(Verdict::Return)].concat(),
            to_host_ports(),
        ]),
        OUTPUT => Some(vec![to_host_ports()]),
        POSTROUTING => Some(postrouting_rules(settings)),
        _ => None,
    }
}

/// The rules of the chain that looks a packet to this node up: a port of one address goes before that of all addresses.
pub(super) fn host_port_rules() -> Vec<Vec<Expr>> {
    let port = [Source::Meta(MetaKey::L4Protocol), Source::DestinationPort];
    let at = |family: IpAddr, map: &str| {
        let mut exprs = only_family(family).to_vec();
        exprs.extend(concat([Source::address(family, false), port[0], port[1]]));
        exprs.extend(translation(family, map));
        exprs
    };
    let everywhere = |family: IpAddr, map: &str| {
        let mut exprs: Vec<Expr> = concat(port).collect();
        // The kernel takes the family from here, so that this is a match on it as well.
        exprs.extend(translation(family, map));
        exprs
    };
    vec![
        at(V4, HOST_AT4),
        at(V6, HOST_AT6),
        // Answers to ::1 never come back from an interface: what listens there on the node is left to it, unless a port
        // is of this very address. It can be reached then by who says another source.
        [
            only_family(V6).to_vec(),
            masked(
                Source::address(V6, false),
                CmpOp::Eq,
                IpNet::from(IpAddr::V6(Ipv6Addr::LOCALHOST)),
            ),
            verdict(Verdict::Return),
        ]
        .concat(),
        everywhere(V4, HOST4),
        everywhere(V6, HOST6),
    ]
}

/// Drops a packet of a new connection to a loopback address, in front of the node's own programs.
pub(super) fn loopback_is_not_outside() -> Vec<Expr> {
    let drop = crate::wire::drop_counted().to_vec();
    [from_or_to_loopback(false), drop].concat()
}

fn postrouting_rules(settings: &LayoutSettings) -> Vec<Vec<Expr>> {
    let mut rules: Vec<Vec<Expr>> = settings
        .interface_prefixes
        .iter()
        .map(|prefix| {
            let out = interface_starts_with(MetaKey::OutInterfaceName, prefix).to_vec();
            [out, from_or_to_loopback(true), masquerade(None)].concat()
        })
        .collect();
    let names = [MetaKey::InInterfaceName, MetaKey::OutInterfaceName].map(Source::Meta);
    rules.push(
        [
            is_translated(),
            concat(names).collect(),
            vec![Expr::lookup(SELF, OnHit::Match)],
            masquerade(None),
        ]
        .concat(),
    );
    for device in tunnels::DEVICES {
        rules.push([from_elsewhere_into_a_tunnel(device), masquerade(None)].concat());
    }
    rules.push(vec![Expr::jump(OUTGOING)]);
    rules
}

fn to_host_ports() -> Vec<Expr> {
    let mut exprs = is_local(fib_flag::DADDR, CmpOp::Eq).to_vec();
    exprs.push(Expr::jump(HOST_PORTS));
    exprs
}

/// `fib daddr type local` and its like: whether what the flags name is an address of this node, or (`op` unequal) is not.
fn is_local(flags: u32, op: CmpOp) -> [Expr; 2] {
    let (to, result) = (Register::FIRST, FibResult::AddressType);
    let asked = Expr::Fib(Fib { result, flags, to });
    let (from, value) = (to, Value::host32(LOCAL));
    [asked, Expr::Cmp { op, from, value }]
}

/// What this node says into a tunnel in the name of another of its addresses.
///
/// The other end knows the way back into the tunnel by the address of the device alone.
fn from_elsewhere_into_a_tunnel(device: &str) -> Vec<Expr> {
    let mut exprs = interface_is(MetaKey::OutInterfaceName, device).to_vec();
    exprs.extend(is_local(fib_flag::SADDR, CmpOp::Eq));
    exprs.extend(is_local(fib_flag::SADDR | fib_flag::OIF, CmpOp::Neq));
    exprs
}

/// `map @MAP` of the key in the first register, to address and port of the new destination.
fn translation(family: IpAddr, map: &str) -> [Expr; 2] {
    let (number, width) = if family.is_ipv4() { (2, 4) } else { (10, 16) };
    let range = |first| Some(NatRange { first, last: None });
    [
        Expr::lookup(map, OnHit::Load(Register::FIRST)),
        Expr::Nat(Nat {
            kind: NatKind::Destination,
            family: number,
            address: range(Register::FIRST),
            port: range(Register::FIRST.after(width)),
            flags: 0,
        }),
    ]
}

/// `ip saddr 127.0.0.0/8` or `ip daddr 127.0.0.0/8`.
fn from_or_to_loopback(source: bool) -> Vec<Expr> {
    let mut exprs = only_family(V4).to_vec();
    exprs.extend(masked(Source::address(V4, source), CmpOp::Eq, LOOPBACK));
    exprs
}

/// `ct status dnat`.
fn is_translated() -> Vec<Expr> {
    let register = Register::FIRST;
    vec![
        Expr::ct(CtKey::Status),
        Expr::Bitwise {
            from: register,
            to: register,
            mask: Value::host32(ct_status::DNAT),
            xor: Value::host32(0),
        },
        Expr::differs(Value::host32(0)),
    ]
}

fn verdict(verdict: Verdict) -> Vec<Expr> {
    vec![Expr::Verdict(verdict)]
}

/// The map and the element of a port of the node; nothing where packets could not be led there.
pub(crate) fn host_port_element(port: &HostPort, target: &SocketAddr) -> Option<(&'static str, Element)> {
    let HostPort {
        protocol,
        address,
        port,
    } = *port;
    if address.is_ipv4() != target.is_ipv4() || !protocol.has_ports() {
        return None;
    }
    let what = || Value::byte(protocol.number()).and(Value::port(port));
    let key = if address.is_unspecified() {
        what()
    } else {
        Value::ip(address)
            .and(Value::byte(protocol.number()))
            .and(Value::port(port))
    };
    let data = Value::ip(target.ip()).and(Value::port(target.port()));
    Some((map_of(&address), Element::value(key).to(data)))
}

fn map_of(address: &IpAddr) -> &'static str {
    match (address.is_unspecified(), address.is_ipv4()) {
        (true, true) => HOST4,
        (true, false) => HOST6,
        (false, true) => HOST_AT4,
        (false, false) => HOST_AT6,
    }
}

/// The port of the node that an element of one of the maps says, and where it leads.
pub(crate) fn read_host_port(map: &str, element: &Element) -> Option<(HostPort, SocketAddr)> {
    let (ElementKey::Value(key), ElementData::Value(data)) = (&element.key, &element.data) else {
        return None;
    };
    let (address, rest) = match map {
        HOST4 => (V4, key.as_bytes()),
        HOST6 => (V6, key.as_bytes()),
        HOST_AT4 => split(key.as_bytes(), 4)?,
        HOST_AT6 => split(key.as_bytes(), 16)?,
        _ => return None,
    };
    let [protocol, _, _, _, high, low, ..] = *rest else {
        return None;
    };
    let (to, rest) = split(data.as_bytes(), if address.is_ipv4() { 4 } else { 16 })?;
    let [to_high, to_low, ..] = *rest else {
        return None;
    };
    let port = HostPort {
        protocol: Protocol::from_number(protocol),
        address,
        port: u16::from_be_bytes([high, low]),
    };
    let target = SocketAddr::new(to, u16::from_be_bytes([to_high, to_low]));
    // What we would write otherwise is not ours.
    let (ours, again) = host_port_element(&port, &target)?;
    (ours == map && again == *element).then_some((port, target))
}

fn split(bytes: &[u8], width: usize) -> Option<(IpAddr, &[u8])> {
    let (address, rest) = bytes.split_at_checked(width)?;
    Some((Value::bytes(address).to_ip()?, rest))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is the failure itself")]
mod tests {
    use super::*;

    #[test]
    fn an_element_says_what_was_meant() {
        for (address, map, target) in [
            ("0.0.0.0", HOST4, "10.0.0.5:80"),
            ("192.0.2.1", HOST_AT4, "10.0.0.5:65535"),
            ("::", HOST6, "[fd00::5]:1"),
            ("2001:db8::1", HOST_AT6, "[fd00::5]:8080"),
        ] {
            for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP] {
                let port = HostPort {
                    protocol,
                    address: address.parse().unwrap(),
                    port: 0x1234,
                };
                let target = target.parse().unwrap();
                let (found, element) = host_port_element(&port, &target).unwrap();
                assert_eq!(found, map);
                assert_eq!(read_host_port(map, &element), Some((port, target)));
                for other in [HOST4, HOST6, HOST_AT4, HOST_AT6, SELF] {
                    assert_eq!(read_host_port(other, &element).is_some(), other == map);
                }
            }
        }
    }

    #[test]
    fn what_leads_nowhere_is_left_out() {
        let port = |protocol, address: &str| HostPort {
            protocol,
            address: address.parse().unwrap(),
            port: 80,
        };
        let target = "10.0.0.5:80".parse().unwrap();
        assert_eq!(host_port_element(&port(Protocol::TCP, "::"), &target), None);
        assert_eq!(host_port_element(&port(Protocol::ICMP, "0.0.0.0"), &target), None);
    }
}
