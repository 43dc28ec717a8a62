//! Decides which steps bring our table to what the decision tables say.
//!
//! Pure: no socket, no clock (`now` is a parameter). The driver carries the steps out and decides nothing.
//!
//! The law that everything here serves: a packet reads the identity of an address, then the group of an interface,
//! then what the group does with the identity, and each of these lookups may meet a later state of the table. What it
//! finds in the end must be what one of the states it passed through says of that address and that interface. So
//! - a row never changes, and goes a second after its last use ([`rows`]);
//! - what a number means to a packet that may hold it, though its address has left it, stays as it was or becomes what
//!   the address gets now ([`renumber`], for numbers in use; [`settle`], for numbers that only wait);
//! - a map that a packet may be on its way through, though its interface has left it, keeps its entries ([`settle`]).
//!
//! Two corners are left open. An interface that appears is not held to what packets saw before it was there. And the
//! egress of one workload and the ingress of another are two questions: a packet between two workloads of this node
//! may get the first answer from one state and the second from a later one.

mod addresses;
mod adoption;
mod compact;
mod endpoints;
mod host_ports;
mod lingering;
mod nets;
mod renumber;
mod retire;
mod rows;
mod settle;
mod spares;
mod ways;

use super::groups::Groups;
use super::identities::Identities;
use super::names::{self, FIRST_ROW};
use super::ops::{Op, SetSpec};
use super::row::LoweredRow;
use super::settings::LayoutSettings;
use super::skeleton::{BASE_CHAINS, FIXED_SETS, base_rules, maps_of, regular_chains};
use super::state::{GroupState, State};
use super::tunnels::RefusedTunnels;
use crate::wire::{Element, SetData, Value};
pub(crate) use addresses::Move;
use dataplane_tables::{Changes, ClassId, Confined, Direction, InterfaceClaims, Row, Tables, TunnelsInUse};
pub(crate) use endpoints::endpoint_elements;
use lingering::Lingering;
pub(crate) use nets::net_element;
use retire::Retired;
pub(crate) use rows::row_elements;
use rustc_hash::FxHashMap;
use spares::Spares;
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
    /// What is new, and not yet pointed at. Empty where that adds to maps which are there: packets see elements together with
    /// what leads to them.
    pub prepare: Vec<Op>,
    /// Pointers change.
    pub switch: Vec<Op>,
}

impl Plan {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.prepare.is_empty() && self.switch.is_empty()
    }

    /// What only adds to maps that are there is seen together with what leads to it: then one transaction does.
    fn join(&mut self) {
        let is_of_elements = |op: &Op| matches!(op, Op::AddElements(..) | Op::RemoveElements(..));
        if !self.switch.is_empty() && self.prepare.iter().all(is_of_elements) {
            let switch = std::mem::take(&mut self.switch);
            self.switch = std::mem::take(&mut self.prepare);
            self.switch.extend(switch);
        }
    }
}

/// What a pass is about.
struct Pass<'a> {
    tables: &'a Tables,
    changes: &'a Changes,
    /// Whether everything is looked at: there was no pass before.
    all: bool,
    /// Whether numbers that came to mean the same are merged.
    compacts: bool,
    now: u64,
}

/// Keeps the numbers and plans the passes.
#[derive(Debug)]
pub struct Planner {
    settings: LayoutSettings,
    state: State,
    /// Tunnels that are to be in use from the next pass on.
    wanted_tunnels: TunnelsInUse,
    /// What is to be confined to tunnels from the next pass on.
    wanted_confined: Confined,
    identities: Identities,
    groups: [Groups; 2],
    row_numbers: FxHashMap<LoweredRow, u32>,
    row_content: FxHashMap<u32, Rc<LoweredRow>>,
    /// Codes of rows by the row's address; the weak reference keeps the address from being given to another row.
    codes: FxHashMap<*const Row, (Weak<Row>, u32)>,
    codes_kept: usize,
    row_uses: FxHashMap<u32, usize>,
    rows_unused: Vec<u32>,
    next_row: u32,
    /// The endpoints that say that an interface is theirs; the first one has it.
    claims: InterfaceClaims,
    retired: BTreeMap<u64, Vec<Retired>>,
    spares: Spares,
    compact_at: Option<u64>,
    /// When the intervals of a family changed last, in milliseconds. IPv4 is 0, IPv6 is 1.
    nets_changed: [Option<u64>; 2],
    /// See [`lingering`].
    lingering: [BTreeMap<IpAddr, Lingering>; 2],
    /// Chains of rows and the rules in them.
    row_chains: [usize; 2],
    /// Address maps that were left and wait for their removal.
    sets_waiting: usize,
}

/// How many objects our table has, once the steps given out so far are done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableSize {
    /// Chains.
    pub chains: usize,
    /// Rules.
    pub rules: usize,
    /// Named sets.
    pub sets: usize,
    /// Named maps, verdict maps included.
    pub maps: usize,
}

/// Ingress is 0, egress is 1.
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
        let state = State {
            id_size: [SMALLEST_ADDRESSES; 2],
            refused_tunnels: RefusedTunnels::by(&settings),
            ..State::default()
        };
        Planner {
            settings,
            state,
            wanted_tunnels: TunnelsInUse::default(),
            wanted_confined: Confined::default(),
            identities: Identities::new(),
            groups: [Groups::default(), Groups::default()],
            row_numbers: FxHashMap::default(),
            row_content: FxHashMap::default(),
            codes: FxHashMap::default(),
            codes_kept: 0,
            row_uses: FxHashMap::default(),
            rows_unused: Vec::new(),
            next_row: FIRST_ROW,
            claims: InterfaceClaims::default(),
            retired: BTreeMap::new(),
            spares: Spares::default(),
            compact_at: None,
            nets_changed: [None; 2],
            lingering: Default::default(),
            row_chains: [0; 2],
            sets_waiting: 0,
        }
    }

    /// What the table says once the steps given out so far are done.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The settings that shape the chains.
    pub fn settings(&self) -> &LayoutSettings {
        &self.settings
    }

    /// How many objects our table has. Counted as they come and go: the work does not grow with their number.
    pub fn table_size(&self) -> TableSize {
        let groups = self.state.ingress.len() + self.state.egress.len();
        let base = BASE_CHAINS.map(|(name, _, _)| base_rules(name, &self.state, &self.settings).len());
        let regular = regular_chains(&self.state, &self.settings).map(|(_, rules)| rules.len());
        let [row_chains, row_rules] = self.row_chains;
        let is_map = |name: &str| !matches!(names::shape(name), Some((_, SetData::None, _)));
        let fixed_maps = FIXED_SETS.iter().filter(|(name, _)| is_map(name)).count();
        TableSize {
            chains: base.len() + regular.len() + groups + row_chains,
            // A group's chain has one rule.
            rules: base.into_iter().chain(regular).sum::<usize>() + groups + row_rules,
            sets: FIXED_SETS.len() - fixed_maps,
            // Two families have a map of addresses and one of intervals each.
            maps: fixed_maps + 4 + groups + self.sets_waiting,
        }
    }

    /// Identity of an address that the decision tables know by itself.
    pub fn identity(&self, class: ClassId) -> Option<u32> {
        self.identities.of_class.get(&class).copied()
    }

    /// Makes room for the addresses that a first load brings: a map's size is fixed when it is made.
    pub fn size_for(&mut self, tables: &Tables) {
        let (v4, v6) = tables.peers().address_counts();
        for (n, count) in [v4, v6].into_iter().enumerate() {
            self.state.id_size[n] = addresses::room_for(count);
        }
    }

    /// The sets of addresses that are made with the skeleton.
    pub fn address_sets(&self) -> Vec<SetSpec> {
        let maps = maps_of(&self.state);
        let mut out = Vec::new();
        for n in 0..2 {
            out.push(SetSpec {
                name: maps.id[n].clone(),
                size: Some(self.state.id_size[n]),
            });
            out.push(SetSpec {
                name: maps.net[n].clone(),
                size: None,
            });
        }
        out
    }

    /// Plans a pass after a commit of the decision tables.
    pub fn plan(&mut self, tables: &Tables, changes: &Changes, now: u64) -> Plan {
        let before = |class: Option<ClassId>| class.and_then(|c| self.identity(c));
        let moved = changes.addresses.moved.iter();
        let moves: Vec<Move> = moved
            .map(|(address, from, to)| Move {
                address: *address,
                before: before(*from),
                class: *to,
            })
            .collect();
        self.pass(
            &Pass {
                tables,
                changes,
                all: false,
                compacts: false,
                now,
            },
            moves,
        )
    }

    /// Plans the first pass on a table that holds nothing.
    pub fn plan_first(&mut self, tables: &Tables, now: u64) -> Plan {
        let all = tables.peers().addresses();
        let moves = all
            .map(|(address, class)| Move {
                address,
                before: None,
                class: Some(class),
            })
            .collect();
        self.pass(
            &Pass {
                tables,
                changes: &Changes::default(),
                all: true,
                compacts: false,
                now,
            },
            moves,
        )
    }

    /// Plans a pass. With `all`, `moves` names every address.
    fn pass(&mut self, pass: &Pass<'_>, moves: Vec<Move>) -> Plan {
        let mut plan = Plan::default();
        self.identities.thaw(pass.now);
        self.number_rows(pass);
        let mut placing = self.place(pass);
        for direction in &placing.by_direction {
            // Rows of a group that no interface led to may have been forgotten.
            self.number_rows_of(pass.tables, direction.appeared.iter().copied());
        }
        let renumbered = self.renumber(pass, &moves, &placing);
        self.settle(pass, &mut placing, &renumbered, &mut plan);
        // Before the addresses: which of them may go depends on it.
        if self.nets_may_change(pass, &renumbered) {
            self.write_nets(pass, &mut plan);
        }
        self.write_addresses(pass, moves, &renumbered, &mut plan);
        self.write_endpoints(pass, &placing, &mut plan);
        self.write_host_ports(pass, &mut plan);
        self.write_ways(pass, &mut plan);
        for number in &renumbered.departed {
            self.retire_later(Retired::Identity(*number), pass.now);
        }
        self.retire_rows(pass.now);
        self.compact_later(pass);
        if pass.all {
            self.restock(pass.now, &mut plan.prepare);
        }
        plan.join();
        plan
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
}

/// An element of a map from numbers to numbers.
fn classid_element(key: u32, data: u32) -> Element {
    Element::value(Value::host32(key)).to(Value::host32(data))
}

fn push(ops: &mut Vec<Op>, set: &str, elements: Vec<Element>, add: bool) {
    if elements.is_empty() {
        return;
    }
    ops.push(if add {
        Op::AddElements(set.to_string(), elements)
    } else {
        Op::RemoveElements(set.to_string(), elements)
    });
}
