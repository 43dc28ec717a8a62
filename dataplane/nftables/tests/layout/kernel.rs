//! A literal model of our table in the kernel: it takes steps, refuses what the kernel refuses, and answers lookups.

use dataplane_nftables::contents::Contents;
use dataplane_nftables::layout::names::{self, ALLOW};
use dataplane_nftables::layout::skeleton::{BASE_CHAINS, FIXED_SETS, base_rules, regular_chains};
use dataplane_nftables::layout::{LoweredRow, Op, Planner};
use dataplane_nftables::wire::{Element, ElementData, ElementKey, Expr, Value, Verdict};
use dataplane_tables::Direction;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

#[derive(Clone, Debug, Default)]
pub(crate) struct Set {
    size: Option<u32>,
    intervals: bool,
    elements: BTreeMap<ElementKey, ElementData>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Kernel {
    pub(crate) sets: BTreeMap<String, Arc<Set>>,
    pub(crate) chains: BTreeMap<String, Arc<Vec<Vec<Expr>>>>,
    base_chains: BTreeMap<String, Arc<Vec<Vec<Expr>>>>,
}

impl Kernel {
    /// The table before the first pass.
    pub(crate) fn skeleton(planner: &Planner) -> Self {
        let mut kernel = Kernel::default();
        let fixed = FIXED_SETS.iter().map(|(name, size)| (name.to_string(), *size));
        for (name, size) in fixed.chain(planner.address_sets().into_iter().map(|s| (s.name, s.size))) {
            kernel.add_set(&name, size).unwrap();
        }
        for (name, rules) in regular_chains(planner.state(), planner.settings()) {
            kernel.chains.insert(name.to_string(), Arc::new(rules));
        }
        for (name, ..) in BASE_CHAINS {
            let rules = base_rules(name, planner.state(), planner.settings());
            kernel.base_chains.insert(name.to_string(), Arc::new(rules));
        }
        kernel
    }

    fn add_set(&mut self, name: &str, size: Option<u32>) -> Result<(), String> {
        let (_, _, intervals) = names::shape(name).ok_or(format!("no shape for {name}"))?;
        let set = Set {
            size,
            intervals,
            elements: BTreeMap::new(),
        };
        match self.sets.insert(name.to_string(), Arc::new(set)) {
            Some(_) => Err(format!("set {name} exists")),
            None => Ok(()),
        }
    }

    /// One transaction. Either all of it holds afterwards, or the table is as it was.
    pub(crate) fn transact(&mut self, ops: &[Op]) -> Result<(), String> {
        let mut next = self.clone();
        for op in ops {
            next.step(op).map_err(|why| format!("{why}\n  in {op:?}"))?;
        }
        *self = next;
        Ok(())
    }

    fn step(&mut self, op: &Op) -> Result<(), String> {
        match op {
            Op::AddSet(spec) => self.add_set(&spec.name, spec.size),
            Op::RemoveSet(name) => {
                let uses = |e: &Expr| matches!(e, Expr::Lookup(l) if &*l.set == name.as_str());
                let user = self
                    .chains
                    .iter()
                    .find(|(_, rules)| rules.iter().flatten().any(uses));
                if let Some((chain, _)) = user {
                    return Err(format!("set {name} is used by chain {chain}"));
                }
                self.sets.remove(name).map(|_| ()).ok_or(format!("no set {name}"))
            }
            Op::AddChain(name, rules) => {
                self.check_rules(rules)?;
                match self.chains.insert(name.clone(), Arc::new(rules.clone())) {
                    Some(_) => Err(format!("chain {name} exists")),
                    None => Ok(()),
                }
            }
            Op::ReplaceRules(name, rules) => {
                self.check_rules(rules)?;
                let chain = match self.base_chains.get_mut(name) {
                    Some(base) => Some(base),
                    None => self.chains.get_mut(name),
                };
                *chain.ok_or(format!("no chain {name}"))? = Arc::new(rules.clone());
                Ok(())
            }
            Op::RemoveChain(name) => {
                let leads = |data: &ElementData| matches!(data, ElementData::Verdict(Verdict::Jump(to)) if **to == **name);
                if let Some((set, _)) = self.sets.iter().find(|(_, s)| s.elements.values().any(leads)) {
                    return Err(format!("set {set} leads to chain {name}"));
                }
                self.chains
                    .remove(name)
                    .map(|_| ())
                    .ok_or(format!("no chain {name}"))
            }
            Op::AddElements(name, elements) => elements.iter().try_for_each(|e| self.add(name, e)),
            Op::RemoveElements(name, elements) => elements.iter().try_for_each(|e| {
                let set = self.sets.get_mut(name).ok_or(format!("no set {name}"))?;
                let gone = Arc::make_mut(set).elements.remove(&key(e));
                gone.map(|_| ()).ok_or(format!("{name} has no element {e:?}"))
            }),
        }
    }

    fn check_rules(&self, rules: &[Vec<Expr>]) -> Result<(), String> {
        for expr in rules.iter().flatten() {
            match expr {
                Expr::Lookup(l) if !self.sets.contains_key(&*l.set) => {
                    return Err(format!("no set {}", l.set));
                }
                Expr::Verdict(Verdict::Jump(to)) if !self.chains.contains_key(&**to) => {
                    return Err(format!("a rule leads to chain {to}, which is not there"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn add(&mut self, name: &str, element: &Element) -> Result<(), String> {
        if let ElementData::Verdict(Verdict::Jump(to)) = &element.data
            && !self.chains.contains_key(&**to)
        {
            return Err(format!("element leads to chain {to}, which is not there"));
        }
        let set = self.sets.get_mut(name).ok_or(format!("no set {name}"))?;
        let set = Arc::make_mut(set);
        if set.size.is_some_and(|size| set.elements.len() >= size as usize) {
            return Err(format!("set {name} is full"));
        }
        let key = key(element);
        if set.elements.contains_key(&key) {
            return Err(format!("{name} has {key:?} already"));
        }
        if set.intervals
            && let Some((first, last)) = ends(&key)
            && let Some(other) = set
                .elements
                .keys()
                .find(|k| ends(k).is_some_and(|(a, b)| a <= last && first <= b))
        {
            return Err(format!("{name}: {key:?} overlaps {other:?}"));
        }
        set.elements.insert(key, element.data.clone());
        Ok(())
    }

    /// Compares with what should be there. Address maps of earlier makings may wait for their removal.
    pub(crate) fn difference(&self, wanted: &Contents, waiting: bool) -> Result<(), String> {
        for (name, (spec, elements)) in &wanted.sets {
            let set = self.sets.get(name).ok_or(format!("set {name} is missing"))?;
            if set.size != spec.size {
                return Err(format!("set {name} has size {:?}, not {:?}", set.size, spec.size));
            }
            let elements: BTreeMap<ElementKey, ElementData> =
                elements.iter().map(|e| (key(e), e.data.clone())).collect();
            if set.elements != elements {
                return Err(format!("set {name} is {:#?}, not {elements:#?}", set.elements));
            }
        }
        for (name, rules) in &wanted.chains {
            if self.chains.get(name).map(|r| r.as_ref()) != Some(rules) {
                return Err(format!("chain {name} is otherwise"));
            }
        }
        for (name, rules) in &wanted.base_chains {
            if self.base_chains.get(*name).map(|r| r.as_ref()) != Some(rules) {
                return Err(format!("base chain {name} is otherwise"));
            }
        }
        for name in self.sets.keys().filter(|n| !wanted.sets.contains_key(*n)) {
            if !waiting || names::parse_address_map(name).is_none() {
                return Err(format!("set {name} is left over"));
            }
        }
        match self.chains.keys().find(|n| !wanted.chains.contains_key(*n)) {
            Some(name) => Err(format!("chain {name} is left over")),
            None => Ok(()),
        }
    }

    pub(crate) fn elements(&self, set: &str) -> usize {
        self.sets.get(set).map_or(0, |s| s.elements.len())
    }

    /// All elements of a map from numbers to numbers.
    pub(crate) fn numbers(&self, set: &str) -> Vec<u32> {
        let data = |d: &ElementData| {
            if let ElementData::Value(v) = d {
                v.to_host32()
            } else {
                None
            }
        };
        self.sets
            .get(set)
            .map_or(Vec::new(), |s| s.elements.values().filter_map(data).collect())
    }

    fn get(&self, set: &str, key: Value) -> Option<&ElementData> {
        let elements = &self.sets.get(set)?.elements;
        elements
            .get(&ElementKey::Value(key))
            .or_else(|| elements.get(&ElementKey::Any))
    }

    /// The map of a kind (`id4`) that the rules of a chain look up, in this state.
    pub(crate) fn map_in_use(&self, chain: &str, base: &str) -> Option<String> {
        let rules = self.chains.get(chain)?;
        let named = |e: &Expr| match e {
            Expr::Lookup(l) if names::parse_address_map(&l.set).is_some_and(|(b, _)| b == base) => {
                Some(l.set.to_string())
            }
            _ => None,
        };
        rules.iter().flatten().find_map(named)
    }

    /// What the single addresses' map says.
    pub(crate) fn single(&self, map: &str, address: IpAddr) -> Option<u32> {
        number(self.get(map, Value::ip(address))?)
    }

    /// What the intervals' map says.
    pub(crate) fn interval(&self, map: &str, address: IpAddr) -> Option<u32> {
        let set = self.sets.get(map)?;
        let at = Value::ip(address);
        let inside = |k: &ElementKey| ends(k).is_some_and(|(first, last)| first <= at && at <= last);
        let found = set.elements.iter().find(|(k, _)| inside(k)).map(|(_, d)| d);
        number(found.or_else(|| set.elements.get(&ElementKey::Any))?)
    }

    /// The map of the group that an interface leads to.
    pub(crate) fn group(&self, interface: &str, direction: Direction) -> Option<String> {
        let set = if direction == Direction::Ingress {
            names::WL_IN
        } else {
            names::WL_OUT
        };
        let ElementData::Verdict(Verdict::Jump(chain)) = self.get(set, Value::interface(interface))? else {
            return None;
        };
        let rules = self.chains.get(&**chain)?;
        let map = |e: &Expr| {
            if let Expr::Lookup(l) = e {
                Some(l.set.to_string())
            } else {
                None
            }
        };
        rules.iter().flatten().find_map(map)
    }

    /// What a group's map makes of a number.
    pub(crate) fn code(&self, group: &str, identity: u32) -> Option<u32> {
        number(self.get(group, Value::host32(identity))?)
    }

    /// Whether `ports` decides.
    pub(crate) fn port(&self, code: u32, protocol: u8, port: u16) -> Option<bool> {
        let key = Value::host32(code)
            .and(Value::byte(protocol))
            .and(Value::port(port));
        number(self.get(names::PORTS, key)?).map(|n| n == ALLOW)
    }

    /// Whether a row has a chain, in this state.
    pub(crate) fn has_chain(&self, code: u32) -> bool {
        match self.get(names::ROWS, Value::host32(code)) {
            Some(ElementData::Verdict(Verdict::Jump(chain))) => self.chains.contains_key(&**chain),
            _ => false,
        }
    }

    /// Whether `protos` decides.
    pub(crate) fn protocol(&self, code: u32, protocol: u8) -> Option<bool> {
        let key = Value::host32(code).and(Value::byte(protocol));
        number(self.get(names::PROTOS, key)?).map(|n| n == ALLOW)
    }

    /// What becomes of a packet that has its row or result, if nothing changes any more.
    pub(crate) fn verdict(
        &self,
        code: u32,
        rows: &BTreeMap<u32, LoweredRow>,
        protocol: u8,
        x: u16,
        y: u16,
    ) -> bool {
        verdict(code, rows, protocol, x, y, [self, self, self])
    }
}

/// What becomes of a packet that has its row or result, with each of the last three lookups in a state of its own.
pub(crate) fn verdict(
    code: u32,
    rows: &BTreeMap<u32, LoweredRow>,
    protocol: u8,
    x: u16,
    y: u16,
    at: [&Kernel; 3],
) -> bool {
    if code == ALLOW {
        return true;
    }
    let has_ports = policy_model::Protocol::from_number(protocol).has_ports();
    if has_ports && let Some(allows) = at[0].port(code, protocol, x) {
        return allows;
    }
    if at[1].has_chain(code)
        && let Some(row) = rows.get(&code)
    {
        // The chain's rules are compared with the row's elsewhere; they never change.
        let chain = LoweredRow {
            rules: row.rules.clone(),
            ..LoweredRow::default()
        };
        if let Some(allows) = chain.verdict(protocol, x, y) {
            return allows;
        }
    }
    at[2].protocol(code, protocol).unwrap_or(false)
}

fn key(element: &Element) -> ElementKey {
    match &element.key {
        ElementKey::Range(first, last) if first == last => ElementKey::Value(first.clone()),
        other => other.clone(),
    }
}

fn ends(key: &ElementKey) -> Option<(Value, Value)> {
    match key {
        ElementKey::Value(v) => Some((v.clone(), v.clone())),
        ElementKey::Range(first, last) => Some((first.clone(), last.clone())),
        ElementKey::Any => None,
    }
}

fn number(data: &ElementData) -> Option<u32> {
    if let ElementData::Value(value) = data {
        value.to_host32()
    } else {
        None
    }
}
