//! The chains that are always there, and their rules.

use super::names::{
    self, ALLOW, FROM_WL, HOST_AT4, HOST_AT6, HOST_PORTS, HOST4, HOST6, IN_CLEAR, NODES4, NODES6, NOTHING,
    OUTGOING, OWN4, OWN6, PORTS, PROTOS, REFUSED, ROWS, SELF, SPOOF, TABLE, TO_NODE, TO_WL, TUNNELS, VACANT,
    VACANT4, VACANT6, WL_IN, WL_OUT, WL6,
};
use super::settings::LayoutSettings;
use super::state::State;
use super::{confined, nat, outgoing, to_node, tunnels, vacant};
use crate::wire::CtKey;
use crate::wire::{
    BaseChain, Batch, Chain, ChainType, CmpOp, Expr, Hook, MetaKey, OnHit, Policy, Reject, Rule, Source,
    Value, Verdict, compare, concat, ct_state, drop_counted, icmpv6_type, interface_starts_with, masked,
    only_family, priority, set_priority, set_priority_from_map, vmap,
};
use dataplane_tables::Refusal;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
/// Router solicitation, neighbour solicitation and advertisement: what a workload may say from a link-local address.
pub(super) const NEIGHBOUR_DISCOVERY: [u8; 3] = [133, 135, 136];

fn in_name() -> Source {
    Source::Meta(MetaKey::InInterfaceName)
}

pub(super) fn out_name() -> Source {
    Source::Meta(MetaKey::OutInterfaceName)
}

fn ct_state_is(bits: u32) -> Vec<Expr> {
    let mask = Value::host32(bits);
    let xor = Value::host32(0);
    let from = crate::wire::Register::FIRST;
    vec![
        Expr::ct(CtKey::State),
        Expr::Bitwise {
            from,
            to: from,
            mask,
            xor,
        },
        Expr::differs(Value::host32(0)),
    ]
}

pub(super) fn rule(parts: impl IntoIterator<Item = Vec<Expr>>) -> Vec<Expr> {
    parts.into_iter().flatten().collect()
}

pub(super) fn verdict(v: Verdict) -> Vec<Expr> {
    vec![Expr::Verdict(v)]
}

/// The names of the address maps that the rules use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressMaps {
    /// `id4`, `id6`.
    pub id: [String; 2],
    /// `net4`, `net6`.
    pub net: [String; 2],
}

/// The rules of `to_wl` or `from_wl`: identity, row, result.
pub fn lookup_rules(maps: &AddressMaps, to_workload: bool) -> Vec<Vec<Expr>> {
    let mut rules = Vec::new();
    for (n, family) in [V4, V6].into_iter().enumerate() {
        for map in [&maps.net[n], &maps.id[n]] {
            // The exact map comes second and wins.
            rules.push(rule([
                only_family(family).to_vec(),
                set_priority_from_map([Source::address(family, to_workload)], map.as_str()),
            ]));
        }
    }
    rules.push(if to_workload {
        vmap([out_name()], WL_IN)
    } else {
        vmap([in_name()], WL_OUT)
    });
    // A comparison costs a fraction of a lookup, and most packets are decided here or at their port.
    let decided = || rule([allowed(), verdict(Verdict::Return)]);
    let row = Source::Meta(MetaKey::Priority);
    let protocol = Source::Meta(MetaKey::L4Protocol);
    rules.push(decided());
    rules.push(set_priority_from_map(
        [row, protocol, Source::DestinationPort],
        PORTS,
    ));
    rules.push(decided());
    rules.push(vmap([row], ROWS));
    rules.push(set_priority_from_map([row, protocol], PROTOS));
    rules
}

/// The rule of a group's chain.
pub fn group_rules(map: &str) -> Vec<Vec<Expr>> {
    vec![set_priority_from_map([Source::Meta(MetaKey::Priority)], map)]
}

/// The rule by which a workload may send from a network beside its addresses.
///
/// Such workloads are rare (routers, virtual machines with networks behind them), and the rules stand behind the look
/// into the sets of own addresses: they cost ordinary packets nothing.
pub fn spoofable_rule(interface: &str, net: IpNet) -> Vec<Expr> {
    rule([
        only_family(net.network()).to_vec(),
        compare(in_name(), CmpOp::Eq, Value::interface(interface)).to_vec(),
        masked(Source::address(net.network(), true), CmpOp::Eq, net),
        verdict(Verdict::Return),
    ])
}

/// The rules of the check of sources, and in front of them what workloads may not send at all.
pub fn spoof_rules(state: &State) -> Vec<Vec<Expr>> {
    let own = |family: IpAddr, set: &str| {
        let mut exprs = only_family(family).to_vec();
        exprs.extend(concat([in_name(), Source::address(family, true)]));
        exprs.push(Expr::lookup(set, OnHit::Match));
        exprs.push(Expr::Verdict(Verdict::Return));
        exprs
    };
    let mut rules = state.refused_tunnels.rules();
    rules.extend([own(V4, OWN4), own(V6, OWN6)]);
    for kind in NEIGHBOUR_DISCOVERY {
        // From fe80::/10 and from :: (duplicate address detection), and only where the workload has IPv6 at all.
        for source in ["fe80::/10", "::/128"] {
            let Ok(net) = source.parse() else { continue };
            rules.push(rule([
                only_family(V6).to_vec(),
                masked(Source::address(V6, true), CmpOp::Eq, net),
                icmpv6_type(kind),
                concat([in_name()]).collect(),
                vec![Expr::lookup(WL6, OnHit::Match), Expr::Verdict(Verdict::Return)],
            ]));
        }
    }
    for (interface, nets) in &state.spoofable {
        rules.extend(nets.iter().map(|net| spoofable_rule(interface, *net)));
    }
    rules.push(drop_counted().to_vec());
    rules
}

/// Accepts what belongs to a known connection, as far as the state is one of these, and drops what belongs to none.
pub(super) fn connection_rules(settings: &LayoutSettings, known: u32) -> Vec<Vec<Expr>> {
    let mut rules = vec![rule([ct_state_is(known), verdict(Verdict::Accept)])];
    if settings.drop_invalid {
        rules.push(rule([ct_state_is(ct_state::INVALID), drop_counted().to_vec()]));
    }
    rules
}

/// Drops a TCP packet of a new connection that is not its first.
pub(super) fn midstream_rule(on: Vec<Expr>) -> Vec<Expr> {
    let from = crate::wire::Register::FIRST;
    let (fin_syn_rst_ack, syn) = (0x17u8, 0x02u8);
    rule([
        on,
        crate::wire::only_protocol(6).to_vec(),
        ct_state_is(ct_state::NEW),
        vec![
            Expr::Payload {
                base: crate::wire::PayloadBase::Transport,
                offset: 13,
                len: 1,
                to: from,
            },
            Expr::Bitwise {
                from,
                to: from,
                mask: Value::byte(fin_syn_rst_ack),
                xor: Value::byte(0),
            },
            Expr::differs(Value::byte(syn)),
        ],
        drop_counted().to_vec(),
    ])
}

fn forward_rules(state: &State, settings: &LayoutSettings) -> Vec<Vec<Expr>> {
    let mut rules = confined::jumps(&state.confined);
    rules.push(rule([
        ct_state_is(ct_state::ESTABLISHED),
        verdict(Verdict::Accept),
    ]));
    // Behind what is established, where only the first packets of connections come by; and in front of what is related,
    // for that begins a connection of its own.
    rules.push(vec![Expr::jump(VACANT)]);
    rules.extend(connection_rules(settings, ct_state::RELATED));
    let key = |key: MetaKey, prefix: &str| interface_starts_with(key, prefix).to_vec();
    if settings.refuse_midstream {
        for prefix in &settings.interface_prefixes {
            rules.push(midstream_rule(key(MetaKey::InInterfaceName, prefix)));
            rules.push(midstream_rule(key(MetaKey::OutInterfaceName, prefix)));
        }
    }
    rules.push(set_priority(NOTHING).to_vec());
    for (side, chain) in [
        (MetaKey::InInterfaceName, FROM_WL),
        (MetaKey::OutInterfaceName, TO_WL),
    ] {
        for prefix in &settings.interface_prefixes {
            rules.push(rule([key(side, prefix), vec![Expr::jump(chain)]]));
            // The result first: what is allowed needs no second look at the interface's name.
            rules.push(rule([
                not_allowed(),
                key(side, prefix),
                vec![Expr::jump(REFUSED)],
            ]));
        }
    }
    // What other programs see of the packet's priority is as good as untouched.
    rules.push(set_priority(NOTHING).to_vec());
    rules
}

/// The rules of the chain of forwarded packets that a direction does not allow.
///
/// A workload that reaches itself through its own Service goes out and comes in again at one interface. It is asked for
/// here, where few packets come by, and not before the lookups that all of them pass.
fn refused_rules(settings: &LayoutSettings) -> Vec<Vec<Expr>> {
    let itself = rule([
        concat([in_name(), out_name()]).collect(),
        vec![Expr::lookup(SELF, OnHit::Match)],
        set_priority(NOTHING).to_vec(),
        verdict(Verdict::Accept),
    ]);
    vec![itself, refuse(settings.refusal)]
}

/// `counter drop`, or `counter reject with icmpx type port-unreachable`.
pub(super) fn refuse(refusal: Refusal) -> Vec<Expr> {
    const PORT_UNREACHABLE: u8 = 1;
    match refusal {
        Refusal::Drop => drop_counted().to_vec(),
        Refusal::Reject => vec![Expr::counter(), Expr::Reject(Reject::Icmpx(PORT_UNREACHABLE))],
    }
}

fn allowed() -> Vec<Expr> {
    compare(Source::Meta(MetaKey::Priority), CmpOp::Eq, Value::host32(ALLOW)).to_vec()
}

pub(super) fn not_allowed() -> Vec<Expr> {
    compare(Source::Meta(MetaKey::Priority), CmpOp::Neq, Value::host32(ALLOW)).to_vec()
}

/// `ct state new,related jump vacant`: the packets that make connection-tracking entries.
pub(super) fn beginning_of_a_connection() -> Vec<Expr> {
    rule([
        ct_state_is(ct_state::NEW | ct_state::RELATED),
        vec![Expr::jump(VACANT)],
    ])
}

/// The packets of workloads' interfaces go to a chain.
pub(super) fn from_workloads(settings: &LayoutSettings, chain: &str) -> Vec<Vec<Expr>> {
    let on = |prefix: &String| interface_starts_with(MetaKey::InInterfaceName, prefix).to_vec();
    settings
        .interface_prefixes
        .iter()
        .map(|prefix| rule([on(prefix), vec![Expr::jump(chain)]]))
        .collect()
}

fn output_rules(state: &State) -> Vec<Vec<Expr>> {
    let mut rules = confined::jumps(&state.confined);
    rules.push(beginning_of_a_connection());
    rules
}

fn prerouting_rules(state: &State, settings: &LayoutSettings) -> Vec<Vec<Expr>> {
    let mut rules = from_workloads(settings, SPOOF);
    rules.extend(tunnels::untracked_rules(state.tunnels, settings));
    rules
}

/// The base chain of all packets that come in, in front of connection tracking.
pub const PREROUTING: &str = "prerouting";
/// The base chain of the node's own packets, in front of connection tracking.
pub const RAW_OUTPUT: &str = "raw_output";
/// The base chain of packets to the node itself.
pub const INPUT: &str = "input";

/// The base chain of packets that pass the node.
pub const FORWARD: &str = "forward";
/// The base chain of the node's own packets, behind connection tracking.
pub const OUTPUT: &str = "output";

/// A base chain of ours: name, hook, priority.
pub const BASE_CHAINS: [(&str, Hook, i32); 8] = [
    (PREROUTING, Hook::Prerouting, priority::RAW),
    (RAW_OUTPUT, Hook::Output, priority::RAW),
    (FORWARD, Hook::Forward, priority::FILTER),
    (INPUT, Hook::Input, priority::FILTER),
    (OUTPUT, Hook::Output, priority::FILTER),
    nat::CHAINS[0],
    nat::CHAINS[1],
    nat::CHAINS[2],
];

/// What makes a base chain of ours: those at the places of address translation translate, the others filter.
pub fn base_chain(hook: Hook, priority: i32) -> BaseChain {
    let chain_type = match priority {
        priority::DSTNAT | priority::SRCNAT => ChainType::Nat,
        _ => ChainType::Filter,
    };
    BaseChain {
        chain_type,
        hook,
        priority,
        policy: Policy::Accept,
    }
}

/// The rules of a base chain.
pub fn base_rules(chain: &str, state: &State, settings: &LayoutSettings) -> Vec<Vec<Expr>> {
    match chain {
        PREROUTING => prerouting_rules(state, settings),
        RAW_OUTPUT => tunnels::untracked_rules(state.tunnels, settings),
        FORWARD => forward_rules(state, settings),
        OUTPUT => output_rules(state),
        other => nat::rules(other, settings).unwrap_or_else(|| to_node::input_rules(state.tunnels, settings)),
    }
}

/// The regular chains that are always there, with their rules: what a rule jumps to stands before it.
pub fn regular_chains(state: &State, settings: &LayoutSettings) -> [(&'static str, Vec<Vec<Expr>>); 10] {
    let maps = maps_of(state);
    [
        (VACANT, vacant::rules(&state.vacant)),
        (REFUSED, refused_rules(settings)),
        (SPOOF, spoof_rules(state)),
        (TO_WL, lookup_rules(&maps, true)),
        (FROM_WL, lookup_rules(&maps, false)),
        (TO_NODE, to_node::workload_rules(settings)),
        (HOST_PORTS, nat::host_port_rules()),
        (OUTGOING, outgoing::rules(&state.pools, settings)),
        (TUNNELS, tunnels::rules(state.tunnels, settings)),
        (IN_CLEAR, confined::rules(&state.confined)),
    ]
}

/// The sets and maps that are always there, address maps left out, with their sizes.
pub const FIXED_SETS: [(&str, Option<u32>); 17] = [
    (WL_IN, None),
    (WL_OUT, None),
    (OWN4, Some(16_384)),
    (OWN6, Some(16_384)),
    (WL6, Some(16_384)),
    (SELF, Some(16_384)),
    (VACANT4, Some(16_384)),
    (VACANT6, Some(16_384)),
    // Five thousand nodes with a dozen addresses each.
    (NODES4, Some(65_536)),
    (NODES6, Some(65_536)),
    (PORTS, Some(262_144)),
    (PROTOS, Some(65_536)),
    (ROWS, None),
    (HOST4, None),
    (HOST6, None),
    (HOST_AT4, None),
    (HOST_AT6, None),
];

/// Writes the base chains with their rules: the moment from which packets meet the table.
pub fn write_base_chains(batch: &mut Batch, state: &State, settings: &LayoutSettings) {
    for (name, hook, priority) in BASE_CHAINS {
        batch.chain(&Chain {
            base: Some(base_chain(hook, priority)),
            ..Chain::regular(TABLE, name)
        });
        for rule in base_rules(name, state, settings) {
            batch.rule(&Rule::new(TABLE, name, &rule));
        }
    }
}

/// The address maps of a state.
pub fn maps_of(state: &State) -> AddressMaps {
    let map = |base, generation| names::address_map(base, generation);
    AddressMaps {
        id: [
            map("id4", state.id_generation[0]),
            map("id6", state.id_generation[1]),
        ],
        net: [
            map("net4", state.net_generation[0]),
            map("net6", state.net_generation[1]),
        ],
    }
}
