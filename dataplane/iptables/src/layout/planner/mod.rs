//! Decides which steps bring our chains and sets to what the decision tables say.
//!
//! Pure: no socket, no clock. The hands carry the steps out and decide nothing. The work of a pass is proportional to what
//! changed and to the number of groups; no pass looks at all endpoints, policies or addresses.

mod adoption;
mod assign;
mod classes;
mod contents;
mod endpoints;
mod members;
mod ways;

use super::book::{Book, Write};
use super::pattern::Parts;
use super::sets::Sets;
use super::settings::LayoutSettings;
use super::side::{Side, SideId};
use super::skeleton::inserts;
use crate::names::Toward;
use crate::ops::{Family, SetOp, TableWrite};
use adoption::Leftover;
pub use adoption::{Found, FoundSet};
pub use contents::{Contents, Layout};
use dataplane_api::HostPort;
use dataplane_tables::{
    Changes, ClassId, Confined, GroupId, InterfaceClaims, Interval, Row, RowRef, Tables, TunnelsInUse,
};
use ipnet::IpNet;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};

/// The steps of one pass, in this order. All of them are to be done before the next pass is planned: where one fails, what
/// the kernel has is to be compared with [`Contents`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Sets that change under rules which stay, and sets that no rule asks yet.
    pub before: Vec<SetOp>,
    /// Tables, each of them all at once.
    pub writes: Vec<Write>,
    /// What must not be in force before the tables are, and sets that no rule asks any more.
    pub after: Vec<SetOp>,
}

impl Plan {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.before.is_empty() && self.writes.is_empty() && self.after.is_empty()
    }
}

/// What a pass is about.
struct Pass<'a> {
    tables: &'a Tables,
    changes: &'a Changes,
    /// Whether everything is looked at: there was no pass before.
    all: bool,
}

/// An endpoint as the chains know it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct EndpointState {
    /// Groups of traffic from it and to it.
    groups: [(Toward, GroupId); 2],
    /// Addresses that it may send from, sorted.
    addresses: Vec<IpAddr>,
    /// Networks beside its addresses that it may send from, sorted.
    spoofable: Vec<IpNet>,
}

/// Keeps what the kernel is to hold, and plans the passes.
#[derive(Debug)]
pub struct Planner {
    settings: LayoutSettings,
    book: Book,
    sets: Sets,
    sides: BTreeMap<SideId, Side>,
    /// What rows allow, by the row's address; the weak reference keeps the address from being given to another row.
    parts: FxHashMap<*const Row, (Weak<Row>, Rc<Parts>)>,
    parts_kept: usize,
    /// Classes of single addresses, by the class of what is around them.
    inside: FxHashMap<ClassId, FxHashSet<ClassId>>,
    /// The same, the other way round.
    around: FxHashMap<ClassId, ClassId>,
    /// Intervals of each family, as of the last pass.
    intervals: [Vec<Interval>; 2],
    /// The endpoints that say that an interface is theirs; the first one has it.
    claims: InterfaceClaims,
    endpoints: BTreeMap<String, EndpointState>,
    /// Interfaces with an address of each family.
    names: [BTreeSet<String>; 2],
    /// How many sides need a chain that several share.
    shared: BTreeMap<(Family, String), usize>,
    next_group: u32,
    /// Numbers that are not given: the kernel has chains of these names.
    groups_taken: FxHashSet<u32>,
    leftover: Leftover,
    host_ports: BTreeMap<HostPort, SocketAddr>,
    pools: BTreeMap<IpNet, bool>,
    nodes: BTreeSet<IpAddr>,
    vacant: BTreeSet<IpAddr>,
    tunnels: TunnelsInUse,
    wanted_tunnels: TunnelsInUse,
    confined: Confined,
    wanted_confined: Confined,
}

impl Planner {
    /// A planner for a kernel that holds nothing of ours.
    pub fn new(settings: LayoutSettings) -> Self {
        Planner {
            settings,
            book: Book::default(),
            sets: Sets::default(),
            sides: BTreeMap::new(),
            parts: FxHashMap::default(),
            parts_kept: 0,
            inside: FxHashMap::default(),
            around: FxHashMap::default(),
            intervals: [Vec::new(), Vec::new()],
            claims: InterfaceClaims::default(),
            endpoints: BTreeMap::new(),
            names: [BTreeSet::new(), BTreeSet::new()],
            shared: BTreeMap::new(),
            next_group: 0,
            groups_taken: FxHashSet::default(),
            leftover: Leftover::default(),
            host_ports: BTreeMap::new(),
            pools: BTreeMap::new(),
            nodes: BTreeSet::new(),
            vacant: BTreeSet::new(),
            tunnels: TunnelsInUse::default(),
            wanted_tunnels: TunnelsInUse::default(),
            confined: Confined::default(),
            wanted_confined: Confined::default(),
        }
    }

    /// The settings that shape the chains.
    pub fn settings(&self) -> &LayoutSettings {
        &self.settings
    }

    /// Plans the first pass. It names every chain, whether it stands in the kernel already or not.
    pub fn plan_first(&mut self, tables: &Tables) -> Plan {
        self.pass(&Pass {
            tables,
            changes: &Changes::default(),
            all: true,
        })
    }

    /// Plans a pass after a commit of the decision tables.
    pub fn plan(&mut self, tables: &Tables, changes: &Changes) -> Plan {
        self.pass(&Pass {
            tables,
            changes,
            all: false,
        })
    }

    /// The writes of a plan as text, with the rules that must stand in the kernel's own chains.
    pub fn text(&self, write: &Write) -> TableWrite {
        write.text(inserts(write.table, &self.settings))
    }

    fn pass(&mut self, pass: &Pass<'_>) -> Plan {
        let mut plan = Plan::default();
        if pass.all {
            self.write_skeleton();
        }
        let intervals = self.take_intervals(pass);
        self.index_classes(pass);
        let mut placing = self.place(pass);
        let touched = self.tell_apart(pass, &placing);
        let assigned = self.assign(pass, &touched, &placing);
        let changes = self.member_changes(pass, &intervals, &assigned);
        let settled = self.settle(touched, &placing, assigned, changes);
        self.write_groups(&settled, &mut placing);
        self.write_endpoints(&placing);
        self.write_sets(pass, settled, &mut plan);
        self.write_sources(pass, &placing, &mut plan);
        self.write_host_ports(pass);
        self.write_ways(pass, &mut plan);
        plan.writes = self.book.take();
        if pass.all {
            self.clear_leftover(&mut plan);
        }
        plan
    }

    /// What a row allows.
    fn parts(&mut self, row: &RowRef) -> Rc<Parts> {
        let key = Rc::as_ptr(row);
        if let Some((known, parts)) = self.parts.get(&key)
            && known.strong_count() > 0
        {
            return parts.clone();
        }
        if self.parts.len() > 2 * self.parts_kept + 64 {
            self.parts.retain(|_, (row, _)| row.strong_count() > 0);
            self.parts_kept = self.parts.len();
        }
        let parts = Rc::new(Parts::of(row));
        self.parts.insert(key, (Rc::downgrade(row), parts.clone()));
        parts
    }

    /// A number that no chain of a group has.
    fn fresh_group(&mut self) -> u32 {
        loop {
            let number = self.next_group;
            self.next_group = self.next_group.wrapping_add(1);
            if !self.groups_taken.contains(&number) {
                return number;
            }
        }
    }
}

/// The place of a family in a pair.
fn slot(family: Family) -> usize {
    match family {
        Family::Inet => 0,
        Family::Inet6 => 1,
    }
}
