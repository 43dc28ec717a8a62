//! The way out of the cluster: packets that leave all pools take an address of the node.
//!
//! Who is outside knows no way back to a workload. What one workload says to another keeps its source, whatever pools the
//! two are of: policy is asked about it at the other end.
//!
//! Pools are few and stand in the rules themselves, which are made anew as a whole when one changes. A set of intervals
//! would not do: on kernels before 6.18 a packet may meet it half made, and a connection between two workloads that
//! begins at that moment would be translated for as long as it lasts.

use super::names::{NODES4, NODES6};
use super::settings::LayoutSettings;
use crate::wire::{
    CmpOp, Expr, MetaKey, Nat, NatKind, NatRange, OnHit, Register, Source, Value, Verdict, concat,
    interface_starts_with, masked, nat_flag, only_family, only_protocol,
};
use dataplane_tables::Exclusions;
use ipnet::IpNet;
use policy_model::Protocol;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
/// The IPv4 family, as address translation has it.
const NAT_IPV4: u32 = 2;
/// The protocols whose ports are translated.
const WITH_PORTS: [Protocol; 3] = [Protocol::TCP, Protocol::UDP, Protocol::SCTP];

/// The rules of the chain. None where no pool wants it.
pub(super) fn rules(pools: &BTreeMap<IpNet, bool>, settings: &LayoutSettings) -> Vec<Vec<Expr>> {
    if !pools.values().any(|translated| *translated) {
        return Vec::new();
    }
    let ends = || vec![Expr::Verdict(Verdict::Return)];
    let mut rules: Vec<Vec<Expr>> = settings
        .interface_prefixes
        .iter()
        .map(|prefix| {
            let to_a_workload = interface_starts_with(MetaKey::OutInterfaceName, prefix).to_vec();
            [to_a_workload, ends()].concat()
        })
        .collect();
    rules.extend(pools.keys().map(|pool| [within(*pool, false), ends()].concat()));
    if settings.outgoing.exclusions == Exclusions::PoolsAndNodes {
        for (family, set) in [(V4, NODES4), (V6, NODES6)] {
            let mut rule = only_family(family).to_vec();
            rule.extend(concat([Source::address(family, false)]));
            rule.push(Expr::lookup(set, OnHit::Match));
            rules.push([rule, ends()].concat());
        }
    }
    for (pool, _) in pools.iter().filter(|(_, translated)| **translated) {
        let from = || within(*pool, true);
        let outgoing = &settings.outgoing;
        let address = outgoing.address.filter(|_| pool.addr().is_ipv4());
        if let Some(ports) = outgoing.ports {
            for protocol in WITH_PORTS {
                let of = only_protocol(protocol.number()).to_vec();
                rules.push([from(), of, translated(address, Some(ports))].concat());
            }
        }
        rules.push([from(), translated(address, None)].concat());
    }
    rules
}

/// `ip saddr POOL` or `ip daddr POOL`, the family's match included.
pub(super) fn within(pool: IpNet, source: bool) -> Vec<Expr> {
    let mut exprs = only_family(pool.addr()).to_vec();
    exprs.extend(masked(Source::address(pool.addr(), source), CmpOp::Eq, pool));
    exprs
}

fn translated(address: Option<Ipv4Addr>, ports: Option<(u16, u16)>) -> Vec<Expr> {
    match address {
        Some(address) => snat(address, ports),
        None => masquerade(ports),
    }
}

/// `masquerade`, or `masquerade to :FIRST-LAST`.
pub(super) fn masquerade(ports: Option<(u16, u16)>) -> Vec<Expr> {
    let (mut exprs, ports) = load_ports(ports, Register::FIRST);
    // That ports are given is not seen from their being there.
    let flags = if ports.is_some() { nat_flag::PORTS } else { 0 };
    exprs.push(Expr::Masquerade { flags, ports });
    exprs
}

/// `snat ip to ADDRESS`, or `snat ip to ADDRESS:FIRST-LAST`.
fn snat(address: Ipv4Addr, ports: Option<(u16, u16)>) -> Vec<Expr> {
    let register = Register::FIRST;
    let mut exprs = vec![Expr::immediate(Value::ipv4(address))];
    let (load, port) = load_ports(ports, register.after(REGISTER));
    exprs.extend(load);
    exprs.push(Expr::Nat(Nat {
        kind: NatKind::Source,
        family: NAT_IPV4,
        address: Some(NatRange {
            first: register,
            last: None,
        }),
        port,
        flags: 0,
    }));
    exprs
}

/// The distance of the registers that nft takes one after the other, in bytes.
const REGISTER: usize = 16;

/// Loads a range of ports from a register on.
fn load_ports(ports: Option<(u16, u16)>, first: Register) -> (Vec<Expr>, Option<NatRange>) {
    let Some((lowest, highest)) = ports else {
        return (Vec::new(), None);
    };
    let load = |to, port| Expr::Immediate {
        to,
        value: Value::port(port),
    };
    if lowest == highest {
        return (vec![load(first, lowest)], Some(NatRange { first, last: None }));
    }
    let last = first.after(REGISTER);
    let range = NatRange {
        first,
        last: Some(last),
    };
    (vec![load(first, lowest), load(last, highest)], Some(range))
}
