//! What our table should hold, whole: the law that a resync and the tests hold the kernel to.

use crate::layout::names::{self, group, row_chain};
use crate::layout::skeleton::{self, BASE_CHAINS, FIXED_SETS};
use crate::layout::{
    NODE_ADDRESSES, Op, Planner, SetSpec, VACANT_ADDRESSES, endpoint_elements, host_port_element,
    net_element, row_elements,
};
use crate::observe::Observed;
use crate::wire::{Element, ElementKey, Expr, TableFlags, Value, Verdict};
use dataplane_tables::{Direction, Tables};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;

/// The whole content of a table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// Sets and maps, with their elements.
    pub sets: BTreeMap<String, (SetSpec, Vec<Element>)>,
    /// Regular chains with their rules.
    pub chains: BTreeMap<String, Vec<Vec<Expr>>>,
    /// Base chains with their rules.
    pub base_chains: BTreeMap<&'static str, Vec<Vec<Expr>>>,
}

/// What the planner's state and the decision tables amount to.
pub fn contents(planner: &Planner, tables: &Tables) -> Contents {
    let state = planner.state();
    let maps = skeleton::maps_of(state);
    let mut out = Contents::default();
    for (name, size) in FIXED_SETS {
        out.sets.insert(
            name.to_string(),
            (
                SetSpec {
                    name: name.to_string(),
                    size,
                },
                Vec::new(),
            ),
        );
    }
    for spec in planner.address_sets() {
        out.sets.insert(spec.name.clone(), (spec, Vec::new()));
    }
    let add = |sets: &mut BTreeMap<String, (SetSpec, Vec<Element>)>, set: &str, element: Element| {
        if let Some((_, elements)) = sets.get_mut(set) {
            elements.push(element);
        }
    };
    for (address, class) in tables.peers().addresses() {
        if let Some(number) = planner.identity(class) {
            let element = Element::value(Value::ip(address)).to(Value::host32(number));
            add(&mut out.sets, &maps.id[usize::from(address.is_ipv6())], element);
        }
    }
    for (address, number) in planner.lingering() {
        let element = Element::value(Value::ip(address)).to(Value::host32(number));
        add(&mut out.sets, &maps.id[usize::from(address.is_ipv6())], element);
    }
    for n in 0..2 {
        for entry in &state.nets[n] {
            add(&mut out.sets, &maps.net[n], net_element(entry));
        }
        if state.world[n] != names::NOTHING {
            add(
                &mut out.sets,
                &maps.net[n],
                Element::any().to(Value::host32(state.world[n])),
            );
        }
    }
    for (interface, endpoint) in &state.endpoints {
        for (set, element) in endpoint_elements(interface, endpoint) {
            add(&mut out.sets, set, element);
        }
    }
    for (port, target) in &state.host_ports {
        if let Some((set, element)) = host_port_element(port, target) {
            add(&mut out.sets, set, element);
        }
    }
    for (addresses, sets) in [(&state.vacant, VACANT_ADDRESSES), (&state.nodes, NODE_ADDRESSES)] {
        for address in addresses {
            let (set, element) = sets.element(*address);
            add(&mut out.sets, set, element);
        }
    }
    for (code, row) in &state.rows {
        let (ports, protos, chain) = row_elements(*code, row);
        ports
            .into_iter()
            .for_each(|e| add(&mut out.sets, names::PORTS, e));
        protos
            .into_iter()
            .for_each(|e| add(&mut out.sets, names::PROTOS, e));
        if chain {
            let name = row_chain(*code);
            let element = Element::value(Value::host32(*code)).verdict(Verdict::Jump(name.as_str().into()));
            add(&mut out.sets, names::ROWS, element);
            out.chains.insert(name, row.chain());
        }
    }
    for (direction, groups) in [
        (Direction::Ingress, &state.ingress),
        (Direction::Egress, &state.egress),
    ] {
        for (number, state) in groups {
            let name = group(direction, *number);
            let mut elements = vec![Element::any().to(Value::host32(state.default))];
            let entry = |(k, v): (&u32, &u32)| Element::value(Value::host32(*k)).to(Value::host32(*v));
            elements.extend(state.entries.iter().map(entry));
            let spec = SetSpec {
                name: name.clone(),
                size: Some(state.size),
            };
            out.sets.insert(name.clone(), (spec, elements));
            out.chains.insert(name.clone(), skeleton::group_rules(&name));
        }
    }
    for (name, rules) in skeleton::regular_chains(state, planner.settings()) {
        out.chains.insert(name.to_string(), rules);
    }
    for (name, _, _) in BASE_CHAINS {
        out.base_chains
            .insert(name, skeleton::base_rules(name, state, planner.settings()));
    }
    out
}

/// How an observed table differs from what it should hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Difference {
    /// Whether a set, a chain or a hook is missing or of the wrong shape, so that the table must be made anew.
    pub broken: Option<String>,
    /// What lacks, to be added before anything else.
    pub missing: Vec<Op>,
    /// What is otherwise than it should be.
    pub wrong: Vec<Op>,
    /// What should not be there.
    pub extra: Vec<Op>,
    /// Base chains with other rules than theirs.
    pub base_chains: Vec<&'static str>,
}

impl Difference {
    /// How many objects and elements differ.
    pub fn count(&self) -> usize {
        let size = |op: &Op| match op {
            Op::AddElements(_, e) | Op::RemoveElements(_, e) => e.len(),
            _ => 1,
        };
        let lists = [&self.missing, &self.wrong, &self.extra];
        lists.into_iter().flatten().map(size).sum::<usize>()
            + self.base_chains.len()
            + usize::from(self.broken.is_some())
    }
}

/// Compares. Within `missing` and `extra` the order is that in which the kernel takes the steps.
pub fn difference(wanted: &Contents, observed: &Observed) -> Difference {
    let mut out = Difference::default();
    if observed.table.flags.has(TableFlags::DORMANT) {
        // All that it holds may be right, and no packet meets it.
        out.broken = Some("the table sleeps".to_string());
    }
    for (name, hook, priority) in BASE_CHAINS {
        let base = skeleton::base_chain(hook, priority);
        if observed.chains.get(name).and_then(|c| c.base.as_ref()) != Some(&base) {
            out.broken = Some(format!("base chain {name}"));
        } else if observed.rules.get(name).map_or(&[][..], Vec::as_slice) != wanted.base_chains[name] {
            out.base_chains.push(name);
        }
    }
    let (mut elements_missing, mut elements_extra, mut chains_missing, mut chains_extra) =
        <(Vec<_>, Vec<_>, Vec<_>, Vec<_>)>::default();
    for (name, (spec, elements)) in &wanted.sets {
        match observed.sets.get(name) {
            None => {
                out.missing.push(Op::AddSet(spec.clone()));
                if !elements.is_empty() {
                    elements_missing.push(Op::AddElements(name.clone(), elements.clone()));
                }
            }
            Some((set, found)) => {
                let shape = names::shape(name);
                let right = shape.is_some_and(|(key, data, intervals)| {
                    set.key.as_ref() == Some(&key)
                        && set.data.as_ref() == Some(&data)
                        && set.intervals == intervals
                });
                if !right {
                    out.broken = Some(format!("set {name}"));
                }
                compare_elements(
                    name,
                    elements,
                    found,
                    &mut elements_missing,
                    &mut out.wrong,
                    &mut elements_extra,
                );
            }
        }
    }
    for (name, rules) in &wanted.chains {
        match (observed.chains.get(name), observed.rules.get(name)) {
            (None, _) => chains_missing.push(Op::AddChain(name.clone(), rules.clone())),
            (Some(chain), _) if chain.base.is_some() => out.broken = Some(format!("chain {name}")),
            (Some(_), found) if found.map_or(&[][..], Vec::as_slice) != rules => {
                out.wrong.push(Op::ReplaceRules(name.clone(), rules.clone()));
            }
            _ => {}
        }
    }
    for (name, chain) in &observed.chains {
        if chain.base.is_none() && !wanted.chains.contains_key(name) {
            chains_extra.push(Op::RemoveChain(name.clone()));
        } else if chain.base.is_some() && !wanted.base_chains.contains_key(name.as_str()) {
            out.broken = Some(format!("foreign base chain {name}"));
        }
    }
    // Elements may lead to chains and rules use sets, hence: sets, chains, elements; and in reverse.
    out.missing.extend(chains_missing);
    out.missing.extend(elements_missing);
    out.extra = elements_extra;
    out.extra.extend(chains_extra);
    for name in observed.sets.keys() {
        if !wanted.sets.contains_key(name) {
            out.extra.push(Op::RemoveSet(name.clone()));
        }
    }
    out
}

fn compare_elements(
    name: &str,
    wanted: &[Element],
    found: &[Element],
    missing: &mut Vec<Op>,
    wrong: &mut Vec<Op>,
    extra: &mut Vec<Op>,
) {
    let key = |e: &Element| match &e.key {
        // An interval of one value is shown in either form.
        ElementKey::Range(first, last) if first == last => ElementKey::Value(first.clone()),
        other => other.clone(),
    };
    let mut there: FxHashMap<ElementKey, &Element> = found.iter().map(|e| (key(e), e)).collect();
    let (mut add, mut replace_old, mut replace_new) = (Vec::new(), Vec::new(), Vec::new());
    for element in wanted {
        match there.remove(&key(element)) {
            None => add.push(element.clone()),
            Some(old) if old.data != element.data => {
                replace_old.push(old.clone());
                replace_new.push(element.clone());
            }
            Some(_) => {}
        }
    }
    let rest: Vec<Element> = there.into_values().cloned().collect();
    if !add.is_empty() {
        // In maps of intervals, what is added may overlap what is in the way: it goes in one step with its removal.
        let interval = names::parse_address_map(name).is_some_and(|(base, _)| base.starts_with("net"));
        if interval && !rest.is_empty() {
            replace_old.extend(rest.iter().cloned());
            replace_new.extend(add);
        } else {
            missing.push(Op::AddElements(name.to_string(), add));
        }
    }
    let covered = replace_old.len();
    if covered > 0 || !replace_new.is_empty() {
        wrong.push(Op::RemoveElements(name.to_string(), replace_old.clone()));
        wrong.push(Op::AddElements(name.to_string(), replace_new));
    }
    let rest: Vec<Element> = rest.into_iter().filter(|e| !replace_old.contains(e)).collect();
    if !rest.is_empty() {
        extra.push(Op::RemoveElements(name.to_string(), rest));
    }
}
