//! A restarted agent takes over the numbers that it finds: nothing is written that is right already.
//!
//! Only what agrees with the decision tables is taken over by its number. The rest stays in force until the first
//! pass has switched, and goes after that.

use crate::layout::names::{self, ALLOW, parse_group, parse_row_chain};
use crate::layout::skeleton::spoofable_rule;
use crate::layout::{
    EndpointState, GroupState, LoweredRow, Move, NODE_ADDRESSES, Planner, VACANT_ADDRESSES, lower,
    read_address, read_host_port,
};
use crate::observe::Observed;
use crate::wire::{Element, ElementData, ElementKey, Expr, Value, Verdict};
use dataplane_tables::{ClassId, Direction, Tables};
use ipnet::IpNet;
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A row as elements and rules: what can be compared without reading rules back into meaning.
type RawRow = (BTreeSet<(u8, u16, bool)>, BTreeSet<(u8, bool)>, Vec<Vec<Expr>>);

/// Takes the numbers of an observed table over into a fresh planner, and says what the kernel has for each address.
pub(crate) fn adopt(planner: &mut Planner, observed: &Observed, tables: &Tables, now: u64) -> Vec<Move> {
    adopt_maps(planner, observed);
    adopt_rows(planner, observed, tables);
    let groups = observed_groups(observed);
    let endpoints = observed_endpoints(observed);
    // Interfaces of endpoints that are gone stay until the first pass has switched; their groups must not change.
    for (interface, state) in &endpoints {
        if groups.contains_key(&(Direction::Ingress, state.ingress))
            && groups.contains_key(&(Direction::Egress, state.egress))
        {
            planner
                .state_mut()
                .endpoints
                .insert(interface.clone(), state.clone());
        }
    }
    for ((direction, number), group) in groups {
        planner.adopt_group(direction, number, group);
    }
    adopt_sources(planner, observed, tables);
    adopt_host_ports(planner, observed);
    adopt_addresses(planner, observed);
    let moves = adopt_identities(planner, observed, tables);
    planner.finish_adoption(now);
    moves
}

/// Which making of the address maps the rules use.
fn adopt_maps(planner: &mut Planner, observed: &Observed) {
    let used: BTreeSet<&str> = observed
        .rules
        .get(names::TO_WL)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(lookup)
        .collect();
    for (name, (set, _)) in &observed.sets {
        let Some((base, generation)) = names::parse_address_map(name) else {
            continue;
        };
        if !used.contains(name.as_str()) {
            continue;
        }
        let n = usize::from(base.ends_with('6'));
        let state = planner.state_mut();
        if base.starts_with("id") {
            state.id_generation[n] = generation;
            state.id_size[n] = set.size.unwrap_or(0);
        } else {
            state.net_generation[n] = generation;
        }
    }
}

/// The networks beside their addresses that workloads may send from, as far as the kernel has their rules already. Other
/// rules that it has there go when the chains are settled.
fn adopt_sources(planner: &mut Planner, observed: &Observed, tables: &Tables) {
    let rules = observed.rules.get(names::SPOOF).map_or(&[][..], Vec::as_slice);
    for endpoint in tables.endpoints().map(|placed| &placed.endpoint) {
        let mut nets: Vec<IpNet> = endpoint.spoofable.iter().map(IpNet::trunc).collect();
        nets.sort_unstable();
        nets.dedup();
        let known = |net: &IpNet| rules.contains(&spoofable_rule(&endpoint.interface, *net));
        if !nets.is_empty() && nets.iter().all(known) {
            planner
                .state_mut()
                .spoofable
                .insert(endpoint.interface.clone(), nets);
        }
    }
}

/// Where ports of the node lead. What is no element of ours goes with the leftovers.
fn adopt_host_ports(planner: &mut Planner, observed: &Observed) {
    for map in [names::HOST4, names::HOST6, names::HOST_AT4, names::HOST_AT6] {
        let found = elements(observed, map).iter();
        let ports = found.filter_map(|element| read_host_port(map, element));
        planner.state_mut().host_ports.extend(ports);
    }
}

/// Which addresses nobody has and which are nodes', by the earlier life's word: of the former it holds until this life says
/// otherwise, of the latter the first pass decides.
fn adopt_addresses(planner: &mut Planner, observed: &Observed) {
    let all = |set: &str| elements(observed, set).iter().filter_map(read_address);
    let state = planner.state_mut();
    state
        .vacant
        .extend(VACANT_ADDRESSES.names().into_iter().flat_map(all));
    state
        .nodes
        .extend(NODE_ADDRESSES.names().into_iter().flat_map(all));
}

fn lookup(expr: &Expr) -> Option<&str> {
    if let Expr::Lookup(lookup) = expr {
        Some(&lookup.set)
    } else {
        None
    }
}

fn elements<'a>(observed: &'a Observed, set: &str) -> &'a [Element] {
    observed.sets.get(set).map_or(&[], |(_, elements)| elements)
}

fn key(element: &Element) -> Option<&Value> {
    if let ElementKey::Value(value) = &element.key {
        Some(value)
    } else {
        None
    }
}

fn number(element: &Element) -> Option<u32> {
    if let ElementData::Value(value) = &element.data {
        value.to_host32()
    } else {
        None
    }
}

fn adopt_rows(planner: &mut Planner, observed: &Observed, tables: &Tables) {
    let mut found: BTreeMap<u32, RawRow> = BTreeMap::new();
    let word = |bytes: &[u8]| bytes.first_chunk::<4>().map(|w| u32::from_ne_bytes(*w));
    for element in elements(observed, names::PORTS) {
        // Row, protocol (padded to a word), port (padded to a word).
        let Some(bytes) = key(element).map(Value::as_bytes) else {
            continue;
        };
        if let (Some(row), [_, _, _, _, protocol, _, _, _, high, low, ..], Some(result)) =
            (word(bytes), bytes, number(element))
        {
            let port = u16::from_be_bytes([*high, *low]);
            found
                .entry(row)
                .or_default()
                .0
                .insert((*protocol, port, result == ALLOW));
        }
    }
    for element in elements(observed, names::PROTOS) {
        let Some(bytes) = key(element).map(Value::as_bytes) else {
            continue;
        };
        if let (Some(row), [_, _, _, _, protocol, ..], Some(result)) = (word(bytes), bytes, number(element)) {
            found
                .entry(row)
                .or_default()
                .1
                .insert((*protocol, result == ALLOW));
        }
    }
    for chain in observed.chains.keys() {
        if let Some(row) = parse_row_chain(chain) {
            found.entry(row).or_default().2 = observed.rules.get(chain).cloned().unwrap_or_default();
        }
    }
    let mut by_content: FxHashMap<LoweredRow, ()> = FxHashMap::default();
    for (_, view) in tables.groups() {
        for row in view.rows.values().chain([view.default]) {
            if let Ok(lowered) = lower(row) {
                by_content.insert(lowered, ());
            }
        }
    }
    let raw = |row: &LoweredRow| -> RawRow {
        (
            row.ports.iter().copied().collect(),
            row.protos.iter().copied().collect(),
            row.chain(),
        )
    };
    let wanted: Vec<(RawRow, LoweredRow)> = by_content.into_keys().map(|row| (raw(&row), row)).collect();
    for (code, content) in found {
        planner.skip_row(code);
        if let Some((_, lowered)) = wanted.iter().find(|(raw, _)| *raw == content) {
            planner.adopt_row(code, lowered.clone());
        }
    }
}

fn observed_groups(observed: &Observed) -> BTreeMap<(Direction, u32), GroupState> {
    let mut out = BTreeMap::new();
    for (name, (set, elements)) in &observed.sets {
        let Some(group) = parse_group(name) else { continue };
        // Without its chain or its default the map is of no use; it goes as something extra.
        let default = elements
            .iter()
            .find(|e| e.key == ElementKey::Any)
            .and_then(number);
        let (Some(default), true) = (default, observed.chains.contains_key(name)) else {
            continue;
        };
        let entries = elements
            .iter()
            .filter_map(|e| Some((key(e)?.to_host32()?, number(e)?)))
            .collect();
        out.insert(
            group,
            GroupState {
                default,
                entries,
                size: set.size.unwrap_or(0),
            },
        );
    }
    out
}

fn observed_endpoints(observed: &Observed) -> BTreeMap<String, EndpointState> {
    let jumps = |set: &str| -> BTreeMap<String, u32> {
        let one = |e: &Element| {
            let ElementData::Verdict(Verdict::Jump(chain)) = &e.data else {
                return None;
            };
            Some((key(e)?.to_interface()?.to_string(), parse_group(chain)?.1))
        };
        elements(observed, set).iter().filter_map(one).collect()
    };
    let egress = jumps(names::WL_OUT);
    let mut out: BTreeMap<String, EndpointState> = BTreeMap::new();
    for (interface, ingress) in jumps(names::WL_IN) {
        if let Some(egress) = egress.get(&interface) {
            out.insert(
                interface,
                EndpointState {
                    ingress,
                    egress: *egress,
                    addresses: Vec::new(),
                },
            );
        }
    }
    for (set, width) in [(names::OWN4, 4), (names::OWN6, 16)] {
        for element in elements(observed, set) {
            let Some((name, address)) = key(element).and_then(|k| k.as_bytes().split_at_checked(16)) else {
                continue;
            };
            let Some(interface) = Value::bytes(name).to_interface().map(str::to_string) else {
                continue;
            };
            let address = address.get(..width).and_then(|a| Value::bytes(a).to_ip());
            if let (Some(state), Some(address)) = (out.get_mut(&interface), address) {
                state.addresses.push(address);
            }
        }
    }
    out.values_mut().for_each(|state| state.addresses.sort_unstable());
    out
}

fn adopt_identities(planner: &mut Planner, observed: &Observed, tables: &Tables) -> Vec<Move> {
    let maps = crate::layout::maps_of(planner.state());
    let mut before: FxHashMap<IpAddr, u32> = FxHashMap::default();
    let mut highest = 0;
    for n in 0..2 {
        for element in elements(observed, &maps.id[n]) {
            if let (Some(address), Some(number)) = (key(element).and_then(Value::to_ip), number(element)) {
                before.insert(address, number);
                highest = highest.max(number);
            }
        }
        let mut nets = Vec::new();
        for element in elements(observed, &maps.net[n]) {
            let Some(number) = number(element) else { continue };
            highest = highest.max(number);
            match &element.key {
                ElementKey::Any => planner.state_mut().world[n] = number,
                ElementKey::Value(value) => nets.extend(value.to_ip().map(|a| (a, a, number))),
                ElementKey::Range(first, last) => {
                    nets.extend(first.to_ip().zip(last.to_ip()).map(|(a, b)| (a, b, number)));
                }
            }
        }
        nets.sort_unstable();
        planner.state_mut().nets[n] = nets;
    }
    let groups = planner
        .state()
        .ingress
        .values()
        .chain(planner.state().egress.values());
    highest = groups
        .flat_map(|g| g.entries.keys().copied())
        .max()
        .unwrap_or(0)
        .max(highest);
    planner.skip_identities(highest.saturating_add(1));
    // The number that most of a class's addresses have. Two classes may have one; the planner parts them if it must.
    let mut votes: FxHashMap<ClassId, FxHashMap<u32, usize>> = FxHashMap::default();
    let world = planner.state().world;
    for (n, class) in [ClassId::WORLD_V4, ClassId::WORLD_V6].into_iter().enumerate() {
        if world[n] != names::NOTHING {
            votes.entry(class).or_default().insert(world[n], usize::MAX / 2);
        }
    }
    let mut moves = Vec::new();
    for (address, class) in tables.peers().addresses() {
        let number = before.remove(&address);
        if let Some(number) = number {
            *votes.entry(class).or_default().entry(number).or_default() += 1;
        }
        moves.push(Move {
            address,
            before: number,
            class: Some(class),
        });
    }
    moves.extend(before.into_iter().map(|(address, n)| Move {
        address,
        before: Some(n),
        class: None,
    }));
    for (n, version) in [
        policy_model_rules::IpVersion::V4,
        policy_model_rules::IpVersion::V6,
    ]
    .into_iter()
    .enumerate()
    {
        for interval in tables.peers().intervals(version) {
            let nets = &planner.state().nets[n];
            if let Some(entry) = nets
                .iter()
                .find(|e| e.0 <= interval.first && interval.first <= e.1)
            {
                *votes
                    .entry(interval.class)
                    .or_default()
                    .entry(entry.2)
                    .or_default() += 1;
            }
        }
    }
    let mut decided: Vec<(ClassId, u32)> = Vec::new();
    for (class, counts) in votes {
        if let Some((number, _)) = counts.into_iter().max_by_key(|(number, count)| (*count, *number)) {
            decided.push((class, number));
        }
    }
    decided.sort_unstable();
    for (class, number) in decided {
        planner.adopt_identity(class, number);
    }
    moves
}
