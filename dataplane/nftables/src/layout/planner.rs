//! Decides which steps bring our table to what the decision tables say.
//!
//! Pure: no socket, no clock (`now` is a parameter). The driver carries the steps out and decides nothing.

use super::groups::{GroupPass, Groups};
use super::identities::{GroupSlot, Identities, Renumbered, Renumbering, Vector};
use super::names::{self, ALLOW, DENY, END_OF_ROWS, FIRST_ROW};
use super::ops::{Op, SetSpec};
use super::row::{LoweredRow, lower};
use super::skeleton::{LayoutSettings, group_rules, lookup_rules, maps_of};
use super::state::{EndpointState, GroupState, NetEntry, State};
use crate::wire::{Element, Value, Verdict as Nft};
use dataplane_api::EndpointId;
use dataplane_tables::{Changes, ClassId, Direction, GroupId, Row, RowRef, Tables, Verdict};
use policy_model_rules::IpVersion;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::{Rc, Weak};

/// How long a packet may be on its way between two lookups, with a margin of a thousand, in milliseconds.
const GRACE: u64 = 1_000;
/// Least number of entries that a group's map is made for.
const SMALLEST_GROUP: u32 = 512;
/// Least number of addresses that an address map is made for.
const SMALLEST_ADDRESSES: u32 = 65_536;

/// The steps of one pass. Each list is one transaction; the second follows the first.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What is new, and not yet pointed at.
    pub prepare: Vec<Op>,
    /// Pointers change.
    pub switch: Vec<Op>,
}

impl Plan {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.prepare.is_empty() && self.switch.is_empty()
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Retired {
    Group(Direction, u32),
    Identity(u32),
    Row(u32),
    Set(String),
}

/// An address whose identity may change: the number that the kernel has for it and the class that it has now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    pub(crate) address: IpAddr,
    pub(crate) before: Option<u32>,
    pub(crate) class: Option<ClassId>,
}

/// Keeps the numbers and plans the passes.
#[derive(Debug)]
pub struct Planner {
    settings: LayoutSettings,
    pub(super) state: State,
    pub(super) identities: Identities,
    pub(super) groups: [Groups; 2],
    pub(super) row_numbers: FxHashMap<LoweredRow, u32>,
    row_content: FxHashMap<u32, Rc<LoweredRow>>,
    /// Codes of rows by the row's address; the weak reference keeps the address from being given to another row.
    codes: FxHashMap<*const Row, (Weak<Row>, u32)>,
    row_uses: FxHashMap<u32, usize>,
    pub(super) next_row: u32,
    interfaces: BTreeMap<EndpointId, String>,
    retired: Vec<(u64, Retired)>,
}

pub(crate) fn slot(direction: Direction) -> u8 {
    match direction {
        Direction::Ingress => 0,
        Direction::Egress => 1,
    }
}

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

impl Planner {
    /// A planner for a table that does not exist yet.
    pub fn new(settings: LayoutSettings) -> Self {
        let state = State { id_size: [SMALLEST_ADDRESSES; 2], ..State::default() };
        Planner {
            settings,
            state,
            identities: Identities::new(),
            groups: [Groups::default(), Groups::default()],
            row_numbers: FxHashMap::default(),
            row_content: FxHashMap::default(),
            codes: FxHashMap::default(),
            row_uses: FxHashMap::default(),
            next_row: FIRST_ROW,
            interfaces: BTreeMap::new(),
            retired: Vec::new(),
        }
    }

    /// What the table says once the steps given out so far are done.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether a set that nothing uses any more waits for its removal.
    pub fn is_waiting(&self, set: &str) -> bool {
        self.retired.iter().any(|(_, what)| matches!(what, Retired::Set(name) if name == set))
    }

    /// The settings that shape the chains.
    pub fn settings(&self) -> &LayoutSettings {
        &self.settings
    }

    /// Identity of an address that the decision tables know by itself.
    pub fn identity(&self, class: ClassId) -> Option<u32> {
        self.identities.of_class.get(&class).copied()
    }

    /// Makes room for the addresses that a first load brings: a map's size is fixed when it is made.
    pub fn size_for(&mut self, tables: &Tables) {
        let (v4, v6) = tables.peers().address_counts();
        for (n, count) in [v4, v6].into_iter().enumerate() {
            self.state.id_size[n] = room_for(count);
        }
    }

    /// The sets of addresses that are made with the skeleton.
    pub fn address_sets(&self) -> Vec<SetSpec> {
        let maps = maps_of(&self.state);
        let mut out = Vec::new();
        for n in 0..2 {
            out.push(SetSpec { name: maps.id[n].clone(), size: Some(self.state.id_size[n]) });
            out.push(SetSpec { name: maps.net[n].clone(), size: None });
        }
        out
    }

    /// Plans a pass after a commit of the decision tables.
    pub fn plan(&mut self, tables: &Tables, changes: &Changes, now: u64) -> Plan {
        let before = |class: Option<ClassId>| class.and_then(|c| self.identity(c));
        let moved = changes.addresses.moved.iter();
        let moves: Vec<Move> = moved
            .map(|(address, from, to)| Move { address: *address, before: before(*from), class: *to })
            .collect();
        self.pass(tables, changes, moves, false, now)
    }

    /// Plans the first pass on a table that holds nothing.
    pub fn plan_first(&mut self, tables: &Tables, now: u64) -> Plan {
        let all = tables.peers().addresses();
        let moves = all.map(|(address, class)| Move { address, before: None, class: Some(class) }).collect();
        self.pass(tables, &Changes::default(), moves, true, now)
    }

    /// Plans a pass. With `all`, `moves` names every address, and every group is looked at.
    pub(super) fn pass(
        &mut self,
        tables: &Tables,
        changes: &Changes,
        moves: Vec<Move>,
        all: bool,
        now: u64,
    ) -> Plan {
        let mut plan = Plan::default();
        self.number_rows(tables);
        let passes = self.place_groups(tables, changes, now);
        let renumbered = self.renumber(tables, &moves, &passes, now);
        self.write_groups(tables, &passes, &renumbered, &mut plan);
        self.write_addresses(tables, moves, &renumbered, all, now, &mut plan);
        let nets_changed = all || changes.addresses.intervals_v4 || changes.addresses.intervals_v6;
        if nets_changed || !renumbered.moved.is_empty() || !renumbered.fresh.is_empty() {
            self.write_nets(tables, now, &mut plan);
        }
        self.write_endpoints(tables, &mut plan);
        for number in &renumbered.gone {
            self.retire_later(Retired::Identity(*number), now);
        }
        for (n, pass) in passes.iter().enumerate() {
            for number in &pass.gone {
                self.retire_later(Retired::Group(DIRECTIONS[n], *number), now);
            }
        }
        self.retire_rows(now);
        plan
    }

    // --- rows -----------------------------------------------------------------------------------------------------

    fn number_rows(&mut self, tables: &Tables) {
        self.codes.retain(|_, (row, _)| row.strong_count() > 0);
        for (_, view) in tables.groups() {
            self.number_row(view.default);
            for row in view.rows.values() {
                self.number_row(row);
            }
        }
    }

    fn number_row(&mut self, row: &RowRef) {
        let key = Rc::as_ptr(row);
        if self.codes.contains_key(&key) {
            return;
        }
        let code = match lower(row) {
            Err(Verdict::Allow) => ALLOW,
            Err(Verdict::Deny) => DENY,
            Ok(lowered) => match self.row_numbers.get(&lowered) {
                Some(number) => *number,
                None => {
                    let number = self.next_row;
                    // 268 million rows later the numbers begin anew; those of the first are long retired, and one
                    // that is not is passed over.
                    self.next_row = if number + 1 >= END_OF_ROWS { FIRST_ROW } else { number + 1 };
                    self.row_content.insert(number, Rc::new(lowered.clone()));
                    self.row_numbers.insert(lowered, number);
                    number
                }
            },
        };
        self.codes.insert(key, (Rc::downgrade(row), code));
    }

    fn code(&self, row: &RowRef) -> u32 {
        // Every row of a live group was numbered before; what was not is denied.
        self.codes.get(&Rc::as_ptr(row)).map_or(DENY, |(_, code)| *code)
    }

    /// Writes a row's own elements and chain, if the table does not have them.
    fn need_row(&mut self, code: u32, plan: &mut Plan) {
        if !(FIRST_ROW..END_OF_ROWS).contains(&code) {
            return;
        }
        let uses = self.row_uses.entry(code).or_default();
        *uses += 1;
        if self.state.rows.contains_key(&code) {
            if *uses == 1 {
                // It waits for its removal; should it fall out of use again, its time begins anew.
                self.retired.retain(|(_, what)| *what != Retired::Row(code));
            }
            return;
        }
        let Some(lowered) = self.row_content.get(&code).cloned() else { return };
        plan.prepare.extend(row_ops(code, &lowered));
        self.state.rows.insert(code, lowered.as_ref().clone());
    }

    fn release_row(&mut self, code: u32) {
        if let Some(uses) = self.row_uses.get_mut(&code) {
            *uses = uses.saturating_sub(1);
        }
    }

    fn retire_rows(&mut self, now: u64) {
        let unused: Vec<u32> = self.row_uses.iter().filter(|(_, uses)| **uses == 0).map(|(code, _)| *code).collect();
        for code in unused {
            self.row_uses.remove(&code);
            self.retire_later(Retired::Row(code), now);
        }
    }

    // --- groups ---------------------------------------------------------------------------------------------------

    fn place_groups(&mut self, tables: &Tables, changes: &Changes, now: u64) -> [GroupPass; 2] {
        let changed: FxHashSet<GroupId> = changes.changed_groups.iter().copied().collect();
        DIRECTIONS.map(|direction| {
            let n = usize::from(slot(direction));
            let mut placed: Vec<(EndpointId, GroupId)> = tables
                .endpoints()
                .map(|p| (p.endpoint.id.clone(), if direction == Direction::Ingress { p.ingress } else { p.egress }))
                .collect();
            placed.sort_unstable();
            let mut groups = std::mem::take(&mut self.groups[n]);
            let pass = groups.place(&placed, &changed, now, GRACE, |group, number| {
                let (Some(view), Some(state)) = (tables.group(group), self.group_state(direction).get(&number)) else {
                    return false;
                };
                let fits = view.rows.len() + state.entries.len() + 1 < state.size as usize;
                fits && self.code(view.default) == state.default
            });
            self.groups[n] = groups;
            pass
        })
    }

    fn group_state(&self, direction: Direction) -> &BTreeMap<u32, GroupState> {
        match direction {
            Direction::Ingress => &self.state.ingress,
            Direction::Egress => &self.state.egress,
        }
    }

    fn group_state_mut(&mut self, direction: Direction) -> &mut BTreeMap<u32, GroupState> {
        match direction {
            Direction::Ingress => &mut self.state.ingress,
            Direction::Egress => &mut self.state.egress,
        }
    }

    fn renumber(&mut self, tables: &Tables, moves: &[Move], passes: &[GroupPass; 2], now: u64) -> Renumbered {
        let mut vectors: FxHashMap<ClassId, Vector> = tables.peers().classes().map(|c| (c, Vec::new())).collect();
        for (id, view) in tables.groups() {
            let n = slot(view.key.direction);
            let Some(number) = self.groups[usize::from(n)].of_group.get(&id).copied() else { continue };
            let default = self.code(view.default);
            for (class, row) in view.rows.iter().filter(|(_, r)| self.code(r) != default) {
                if let Some(vector) = vectors.get_mut(class) {
                    vector.push(((n, number), self.code(row)));
                }
            }
        }
        for vector in vectors.values_mut() {
            vector.sort_unstable();
        }
        let slots = |f: fn(&GroupPass) -> &FxHashSet<u32>| -> FxHashSet<GroupSlot> {
            passes.iter().enumerate().flat_map(|(n, p)| f(p).iter().map(move |g| (n as u8, *g))).collect()
        };
        let world = self.state.world;
        let left: FxHashSet<u32> = moves
            .iter()
            .filter(|m| m.class.and_then(|c| self.identity(c)) != m.before)
            .filter_map(|m| m.before)
            // The world has no end of addresses; that one of them got a name does not stop the rest.
            .filter(|n| !world.contains(n))
            .collect();
        self.identities.renumber(&Renumbering {
            vectors: &vectors,
            fresh_groups: &slots(|p| &p.fresh),
            gone_groups: &slots(|p| &p.gone),
            left: &left,
            now,
            grace: GRACE,
        })
    }

    fn write_groups(
        &mut self,
        tables: &Tables,
        passes: &[GroupPass; 2],
        renumbered: &Renumbered,
        plan: &mut Plan,
    ) {
        let changed: Vec<u32> = renumbered.fresh.iter().chain(&renumbered.in_place).copied().collect();
        for direction in DIRECTIONS {
            let n = usize::from(slot(direction));
            let mut live: Vec<(GroupId, u32)> = self.groups[n].of_group.iter().map(|(g, n)| (*g, *n)).collect();
            live.sort_unstable_by_key(|(_, number)| *number);
            for (group, number) in live {
                let Some(view) = tables.group(group) else { continue };
                let default = self.code(view.default);
                if passes[n].fresh.contains(&number) {
                    self.write_new_group(direction, number, default, renumbered, plan);
                } else {
                    self.change_group(direction, number, &changed, renumbered, plan);
                }
            }
        }
    }

    fn write_new_group(
        &mut self,
        direction: Direction,
        number: u32,
        default: u32,
        renumbered: &Renumbered,
        plan: &mut Plan,
    ) {
        let key: GroupSlot = (slot(direction), number);
        let mut entries: FxHashMap<u32, u32> = FxHashMap::default();
        for (identity, vector) in &self.identities.vectors {
            if let Ok(at) = vector.binary_search_by_key(&key, |(s, _)| *s) {
                entries.insert(*identity, vector[at].1);
            }
        }
        // A packet may still hold a number that nobody has any more. What this group would say of it was never
        // anybody's answer.
        for gone in &renumbered.gone {
            if default != DENY {
                entries.insert(*gone, DENY);
            }
        }
        self.need_row(default, plan);
        let mut codes: Vec<u32> = entries.values().copied().collect();
        codes.sort_unstable();
        for code in codes {
            self.need_row(code, plan);
        }
        let size = SMALLEST_GROUP.max((entries.len() as u32 + 1).saturating_mul(2).next_power_of_two());
        let name = names::group(direction, number);
        plan.prepare.push(Op::AddSet(SetSpec { name: name.clone(), size: Some(size) }));
        let mut elements = vec![Element::any().to(Value::host32(default))];
        let mut sorted: Vec<(u32, u32)> = entries.iter().map(|(k, v)| (*k, *v)).collect();
        sorted.sort_unstable();
        elements.extend(sorted.into_iter().map(|(k, v)| classid_element(k, v)));
        plan.prepare.push(Op::AddElements(name.clone(), elements));
        plan.prepare.push(Op::AddChain(name.clone(), group_rules(&name)));
        self.group_state_mut(direction).insert(number, GroupState { default, entries, size });
    }

    fn change_group(
        &mut self,
        direction: Direction,
        number: u32,
        changed: &[u32],
        renumbered: &Renumbered,
        plan: &mut Plan,
    ) {
        let key: GroupSlot = (slot(direction), number);
        let Some(default) = self.group_state(direction).get(&number).map(|g| g.default) else { return };
        let (mut prepare, mut removed, mut added) = (Vec::new(), Vec::new(), Vec::new());
        for identity in changed {
            let vector = self.identities.vectors.get(identity);
            let wanted = vector
                .and_then(|v| v.binary_search_by_key(&key, |(s, _)| *s).ok().map(|at| v[at].1))
                .filter(|code| *code != default);
            let before = self.group_state(direction).get(&number).and_then(|g| g.entries.get(identity).copied());
            if wanted == before {
                continue;
            }
            if let Some(code) = wanted {
                self.need_row(code, plan);
            }
            if let Some(code) = before {
                self.release_row(code);
                removed.push(Element::value(Value::host32(*identity)));
            }
            let state = self.group_state_mut(direction).get_mut(&number);
            if let Some(state) = state {
                match wanted {
                    Some(code) => state.entries.insert(*identity, code),
                    None => state.entries.remove(identity),
                };
            }
            if let Some(code) = wanted {
                let element = classid_element(*identity, code);
                // Nobody holds a number that has just been made: its entries come first.
                if renumbered.fresh.contains(identity) { prepare.push(element) } else { added.push(element) }
            }
        }
        let name = names::group(direction, number);
        push(&mut plan.prepare, &name, prepare, true);
        push(&mut plan.switch, &name, removed, false);
        push(&mut plan.switch, &name, added, true);
    }

    // --- addresses ------------------------------------------------------------------------------------------------

    fn write_addresses(
        &mut self,
        tables: &Tables,
        moves: Vec<Move>,
        renumbered: &Renumbered,
        all: bool,
        now: u64,
        plan: &mut Plan,
    ) {
        let (v4, v6) = tables.peers().address_counts();
        let mut grown = [false, false];
        for (n, count) in [v4, v6].into_iter().enumerate() {
            if count > self.state.id_size[n] as usize && !all {
                self.grow(n, tables, now, plan);
                grown[n] = true;
            }
        }
        let family = |a: &IpAddr| usize::from(a.is_ipv6());
        let mut removed: [Vec<Element>; 2] = Default::default();
        let mut added: [Vec<Element>; 2] = Default::default();
        let mut change = |address: IpAddr, before: Option<u32>, after: Option<u32>| {
            let n = family(&address);
            if before == after || grown[n] {
                return;
            }
            if before.is_some() {
                removed[n].push(Element::value(Value::ip(address)));
            }
            if let Some(number) = after {
                added[n].push(Element::value(Value::ip(address)).to(Value::host32(number)));
            }
        };
        let mut named: FxHashSet<IpAddr> = FxHashSet::default();
        let renumber_others = !all && !renumbered.moved.is_empty();
        for m in moves {
            change(m.address, m.before, m.class.and_then(|c| self.identity(c)));
            if renumber_others {
                named.insert(m.address);
            }
        }
        if renumber_others {
            for (address, class) in tables.peers().addresses() {
                if let Some(before) = renumbered.moved.get(&class)
                    && !named.contains(&address)
                {
                    change(address, Some(*before), self.identity(class));
                }
            }
        }
        let maps = maps_of(&self.state);
        for (n, (removed, added)) in removed.into_iter().zip(added).enumerate() {
            push(&mut plan.switch, &maps.id[n], removed, false);
            push(&mut plan.switch, &maps.id[n], added, true);
        }
    }

    /// Builds a larger address map beside the full one, and lets the rules use it.
    fn grow(&mut self, n: usize, tables: &Tables, now: u64, plan: &mut Plan) {
        let old = maps_of(&self.state).id[n].clone();
        self.state.id_generation[n] += 1;
        let counts = tables.peers().address_counts();
        self.state.id_size[n] = room_for(if n == 0 { counts.0 } else { counts.1 });
        let maps = maps_of(&self.state);
        let name = maps.id[n].clone();
        let of_family = tables.peers().addresses().filter(|(a, _)| usize::from(a.is_ipv6()) == n);
        let elements: Vec<Element> = of_family
            .filter_map(|(a, c)| self.identity(c).map(|i| Element::value(Value::ip(a)).to(Value::host32(i))))
            .collect();
        plan.prepare.push(Op::AddSet(SetSpec { name: name.clone(), size: Some(self.state.id_size[n]) }));
        push(&mut plan.prepare, &name, elements, true);
        self.switch_maps(plan);
        self.retire_later(Retired::Set(old), now);
    }

    fn switch_maps(&self, plan: &mut Plan) {
        let maps = maps_of(&self.state);
        plan.switch.retain(|op| !matches!(op, Op::ReplaceRules(..)));
        plan.switch.push(Op::ReplaceRules(names::TO_WL.to_string(), lookup_rules(&maps, true)));
        plan.switch.push(Op::ReplaceRules(names::FROM_WL.to_string(), lookup_rules(&maps, false)));
    }

    fn write_nets(&mut self, tables: &Tables, now: u64, plan: &mut Plan) {
        for (n, version) in [IpVersion::V4, IpVersion::V6].into_iter().enumerate() {
            let world = self.identity(ClassId::world(version)).unwrap_or(names::NOTHING);
            let mut wanted: Vec<NetEntry> = Vec::new();
            for interval in tables.peers().intervals(version) {
                let number = self.identity(interval.class).unwrap_or(world);
                match wanted.last_mut() {
                    // Neighbours that are treated alike are one interval for the kernel.
                    Some(last) if last.2 == number && follows(last.1, interval.first) => last.1 = interval.last,
                    _ => wanted.push((interval.first, interval.last, number)),
                }
            }
            wanted.retain(|entry| entry.2 != world);
            if wanted == self.state.nets[n] && world == self.state.world[n] {
                continue;
            }
            let first_time = self.state.world[n] == names::NOTHING;
            if self.settings.intervals_in_place || first_time {
                self.change_nets_in_place(n, &wanted, world, plan);
            } else {
                self.twin_nets(n, &wanted, world, now, plan);
            }
            self.state.nets[n] = wanted;
            self.state.world[n] = world;
        }
    }

    fn change_nets_in_place(&self, n: usize, wanted: &[NetEntry], world: u32, plan: &mut Plan) {
        let name = maps_of(&self.state).net[n].clone();
        let before: FxHashSet<&NetEntry> = self.state.nets[n].iter().collect();
        let after: FxHashSet<&NetEntry> = wanted.iter().collect();
        let gone = self.state.nets[n].iter().filter(|e| !after.contains(e)).map(net_element);
        let mut removed: Vec<Element> = gone.collect();
        let mut added: Vec<Element> = wanted.iter().filter(|e| !before.contains(e)).map(net_element).collect();
        if self.state.world[n] != world {
            if self.state.world[n] != names::NOTHING {
                removed.push(Element::any());
            }
            added.push(Element::any().to(Value::host32(world)));
        }
        push(&mut plan.switch, &name, removed, false);
        push(&mut plan.switch, &name, added, true);
    }

    fn twin_nets(&mut self, n: usize, wanted: &[NetEntry], world: u32, now: u64, plan: &mut Plan) {
        let old = maps_of(&self.state).net[n].clone();
        self.state.net_generation[n] += 1;
        let name = maps_of(&self.state).net[n].clone();
        plan.prepare.push(Op::AddSet(SetSpec { name: name.clone(), size: None }));
        let mut elements: Vec<Element> = wanted.iter().map(net_element).collect();
        elements.push(Element::any().to(Value::host32(world)));
        push(&mut plan.prepare, &name, elements, true);
        self.switch_maps(plan);
        self.retire_later(Retired::Set(old), now);
    }

    // --- endpoints ------------------------------------------------------------------------------------------------

    fn write_endpoints(&mut self, tables: &Tables, plan: &mut Plan) {
        let mut wanted: BTreeMap<String, EndpointState> = BTreeMap::new();
        let mut interfaces: BTreeMap<EndpointId, String> = BTreeMap::new();
        for placed in tables.endpoints() {
            let endpoint = &placed.endpoint;
            let numbers = [(0, placed.ingress), (1, placed.egress)].map(|(n, g)| self.groups[n].of_group.get(&g).copied());
            let [Some(ingress), Some(egress)] = numbers else { continue };
            let state = EndpointState { ingress, egress, addresses: endpoint.addresses.clone() };
            interfaces.insert(endpoint.id.clone(), endpoint.interface.clone());
            wanted.insert(endpoint.interface.clone(), state);
        }
        let mut changes = EndpointOps::default();
        for (interface, before) in &self.state.endpoints {
            if wanted.get(interface) != Some(before) {
                changes.difference(interface, Some(before), wanted.get(interface));
            }
        }
        for (interface, after) in &wanted {
            if !self.state.endpoints.contains_key(interface) {
                changes.difference(interface, None, Some(after));
            }
        }
        plan.switch.extend(changes.into_ops());
        self.state.endpoints = wanted;
        self.interfaces = interfaces;
    }

    // --- retiring -------------------------------------------------------------------------------------------------

    fn retire_later(&mut self, what: Retired, now: u64) {
        self.retired.push((now + GRACE, what));
    }

    /// When [`Planner::retire`] has something to do, in milliseconds of the clock of `now`.
    pub fn next_retirement(&self) -> Option<u64> {
        self.retired.iter().map(|(due, _)| *due).min()
    }

    /// The steps that remove what no packet can hold any more. One transaction.
    pub fn retire(&mut self, now: u64) -> Vec<Op> {
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.retired).into_iter().partition(|(d, _)| *d <= now);
        self.retired = later;
        let mut ops = Vec::new();
        for (_, what) in &due {
            match what {
                Retired::Group(direction, number) => self.retire_group(*direction, *number, &mut ops),
                Retired::Identity(number) => self.retire_identity(*number, &mut ops),
                Retired::Set(name) => ops.push(Op::RemoveSet(name.clone())),
                Retired::Row(_) => {}
            }
        }
        for (_, what) in due {
            if let Retired::Row(code) = what {
                self.retire_row(code, &mut ops);
            }
        }
        self.retire_rows(now);
        ops
    }

    fn retire_group(&mut self, direction: Direction, number: u32, ops: &mut Vec<Op>) {
        let Some(group) = self.group_state_mut(direction).remove(&number) else { return };
        self.release_row(group.default);
        for code in group.entries.values() {
            self.release_row(*code);
        }
        let name = names::group(direction, number);
        ops.push(Op::RemoveChain(name.clone()));
        ops.push(Op::RemoveSet(name));
    }

    fn retire_identity(&mut self, number: u32, ops: &mut Vec<Op>) {
        for direction in DIRECTIONS {
            let mut released = Vec::new();
            for (group, state) in self.group_state_mut(direction) {
                if let Some(code) = state.entries.remove(&number) {
                    released.push((*group, code));
                }
            }
            for (group, code) in released {
                self.release_row(code);
                let element = Element::value(Value::host32(number));
                push(ops, &names::group(direction, group), vec![element], false);
            }
        }
    }

    fn retire_row(&mut self, code: u32, ops: &mut Vec<Op>) {
        // It may have come into use again while it waited.
        if self.row_uses.contains_key(&code) {
            return;
        }
        let Some(lowered) = self.state.rows.remove(&code) else { return };
        self.row_numbers.remove(&lowered);
        self.row_content.remove(&code);
        self.codes.retain(|_, (_, c)| *c != code);
        let (ports, protos, chain) = row_elements(code, &lowered);
        push(ops, names::PORTS, ports, false);
        push(ops, names::PROTOS, protos, false);
        if chain {
            push(ops, names::ROWS, vec![Element::value(Value::host32(code))], false);
            ops.push(Op::RemoveChain(names::row_chain(code)));
        }
    }

    // --- adoption -------------------------------------------------------------------------------------------------

    /// The state, for taking over what the kernel has.
    pub(crate) fn state_mut(&mut self) -> &mut State {
        &mut self.state
    }

    /// Takes over an endpoint's place in a group.
    pub(crate) fn adopt_group_member(&mut self, direction: Direction, number: u32, endpoint: EndpointId) {
        self.groups[usize::from(slot(direction))].adopt(number, endpoint);
    }

    /// Takes over a group's map.
    pub(crate) fn adopt_group(&mut self, direction: Direction, number: u32, group: GroupState) {
        self.groups[usize::from(slot(direction))].skip_to(number + 1);
        self.group_state_mut(direction).insert(number, group);
    }

    /// Takes over the number of a class.
    pub(crate) fn adopt_identity(&mut self, class: ClassId, number: u32, vector: Vec<((u8, u32), u32)>) {
        self.identities.adopt(class, number, vector);
    }

    /// Makes sure that no identity below this number is given.
    pub(crate) fn skip_identities(&mut self, number: u32) {
        self.identities.skip_to(number);
    }

    /// Makes sure that this row's number is not given.
    pub(crate) fn skip_row(&mut self, code: u32) {
        self.next_row = self.next_row.max(code + 1);
    }

    /// Plans the first pass on a table that was taken over; `moves` names every address.
    pub(crate) fn plan_adopted(&mut self, tables: &Tables, moves: Vec<Move>, now: u64) -> Plan {
        self.pass(tables, &Changes::default(), moves, true, now)
    }

    /// Takes over a row that the kernel has.
    pub(crate) fn adopt_row(&mut self, code: u32, lowered: LoweredRow) {
        self.next_row = self.next_row.max(code + 1);
        self.row_numbers.entry(lowered.clone()).or_insert(code);
        self.row_content.insert(code, Rc::new(lowered.clone()));
        self.state.rows.insert(code, lowered);
    }

    /// Counts the uses of rows after the state was taken over, and lets everything go that is unused.
    pub(crate) fn finish_adoption(&mut self, now: u64) {
        let mut uses: FxHashMap<u32, usize> = FxHashMap::default();
        for group in self.state.ingress.values().chain(self.state.egress.values()) {
            for code in group.entries.values().chain([&group.default]).filter(|c| is_row(**c)) {
                *uses.entry(*code).or_default() += 1;
            }
        }
        for code in self.state.rows.keys() {
            uses.entry(*code).or_default();
        }
        self.row_uses = uses;
        self.retire_rows(now);
        let strangers: FxHashSet<u32> = self
            .state
            .ingress
            .values()
            .chain(self.state.egress.values())
            .flat_map(|g| g.entries.keys().copied())
            .filter(|n| !self.identities.vectors.contains_key(n))
            .collect();
        for number in strangers {
            self.retire_later(Retired::Identity(number), now);
        }
    }

    /// Lets a group go that the kernel has and that no endpoint was found in.
    pub(crate) fn retire_stranger(&mut self, direction: Direction, number: u32, now: u64) {
        self.retire_later(Retired::Group(direction, number), now);
    }
}

fn is_row(code: u32) -> bool {
    (FIRST_ROW..END_OF_ROWS).contains(&code)
}

fn room_for(count: usize) -> u32 {
    let doubled = u32::try_from(count.saturating_mul(2)).unwrap_or(u32::MAX / 2);
    doubled.max(SMALLEST_ADDRESSES).checked_next_power_of_two().unwrap_or(1 << 31)
}

fn follows(last: IpAddr, first: IpAddr) -> bool {
    match (last, first) {
        (IpAddr::V4(a), IpAddr::V4(b)) => u32::from(a).checked_add(1) == Some(u32::from(b)),
        (IpAddr::V6(a), IpAddr::V6(b)) => u128::from(a).checked_add(1) == Some(u128::from(b)),
        _ => false,
    }
}

/// An element of a map from numbers to numbers.
pub(super) fn classid_element(key: u32, data: u32) -> Element {
    Element::value(Value::host32(key)).to(Value::host32(data))
}

/// An element of a map of intervals.
pub(crate) fn net_element(entry: &NetEntry) -> Element {
    Element::range(Value::ip(entry.0), Value::ip(entry.1)).to(Value::host32(entry.2))
}

fn push(ops: &mut Vec<Op>, set: &str, elements: Vec<Element>, add: bool) {
    if elements.is_empty() {
        return;
    }
    ops.push(if add { Op::AddElements(set.to_string(), elements) } else { Op::RemoveElements(set.to_string(), elements) });
}

/// A row's elements of `ports` and `protos`, and whether it has a chain.
pub(crate) fn row_elements(code: u32, row: &LoweredRow) -> (Vec<Element>, Vec<Element>, bool) {
    let result = |allows: bool| Value::host32(if allows { ALLOW } else { DENY });
    let key = |protocol: u8| Value::host32(code).and(Value::byte(protocol));
    let port = |(p, d, allows): &(u8, u16, bool)| Element::value(key(*p).and(Value::port(*d))).to(result(*allows));
    let proto = |(p, allows): &(u8, bool)| Element::value(key(*p)).to(result(*allows));
    (row.ports.iter().map(port).collect(), row.protos.iter().map(proto).collect(), !row.rules.is_empty())
}

fn row_ops(code: u32, row: &LoweredRow) -> Vec<Op> {
    let (ports, protos, chain) = row_elements(code, row);
    let mut ops = Vec::new();
    push(&mut ops, names::PORTS, ports, true);
    push(&mut ops, names::PROTOS, protos, true);
    if chain {
        let name = names::row_chain(code);
        ops.push(Op::AddChain(name.clone(), row.chain()));
        let element = Element::value(Value::host32(code)).verdict(Nft::Jump(name.into()));
        push(&mut ops, names::ROWS, vec![element], true);
    }
    ops
}

#[derive(Default)]
struct EndpointOps {
    removed: BTreeMap<&'static str, Vec<Element>>,
    added: BTreeMap<&'static str, Vec<Element>>,
}

/// An endpoint's elements, by set.
pub(crate) fn endpoint_elements(interface: &str, state: &EndpointState) -> Vec<(&'static str, Element)> {
    let name = || Value::interface(interface);
    let jump = |direction, number| Nft::Jump(names::group(direction, number).into());
    let mut out = vec![
        (names::WL_IN, Element::value(name()).verdict(jump(Direction::Ingress, state.ingress))),
        (names::WL_OUT, Element::value(name()).verdict(jump(Direction::Egress, state.egress))),
        (names::SELF, Element::value(name().and(Value::interface(interface)))),
    ];
    for address in &state.addresses {
        let set = if address.is_ipv4() { names::OWN4 } else { names::OWN6 };
        out.push((set, Element::value(name().and(Value::ip(*address)))));
    }
    if state.addresses.iter().any(IpAddr::is_ipv6) {
        out.push((names::WL6, Element::value(name())));
    }
    out
}

impl EndpointOps {
    fn difference(&mut self, interface: &str, before: Option<&EndpointState>, after: Option<&EndpointState>) {
        let list = |s: Option<&EndpointState>| s.map(|s| endpoint_elements(interface, s)).unwrap_or_default();
        let (before, after) = (list(before), list(after));
        for (set, element) in before.iter().filter(|e| !after.contains(e)) {
            self.removed.entry(set).or_default().push(element.clone());
        }
        for (set, element) in after.iter().filter(|e| !before.contains(e)) {
            self.added.entry(set).or_default().push(element.clone());
        }
    }

    fn into_ops(self) -> Vec<Op> {
        let removed = self.removed.into_iter().map(|(set, e)| Op::RemoveElements(set.to_string(), e));
        removed.chain(self.added.into_iter().map(|(set, e)| Op::AddElements(set.to_string(), e))).collect()
    }
}
