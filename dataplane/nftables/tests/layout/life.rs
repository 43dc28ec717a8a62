//! One table's life: a world, its decision tables, the planner and the kernel, held together after every step.

use crate::interleaving::LONGEST_WAY;
use crate::kernel::Kernel;
use crate::world::{Dice, Flow, Kind, World};
use dataplane_api::{EndpointId, Update};
use dataplane_nftables::contents::contents;
use dataplane_nftables::layout::names::{ALLOW, DENY};
use dataplane_nftables::layout::{
    LayoutSettings, LoweredRow, Packet, Planner, Way, dangling, lower, simulate,
};
use dataplane_tables::{Direction, Tables, Verdict};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The kernel after one transaction.
pub(crate) struct Snapshot {
    pub(crate) at: u64,
    /// Which of the worlds it enforces.
    pub(crate) state: usize,
    pub(crate) kernel: Kernel,
}

pub(crate) struct Life {
    pub(crate) now: u64,
    pub(crate) world: World,
    pub(crate) tables: Tables,
    pub(crate) planner: Planner,
    pub(crate) kernel: Kernel,
    /// Every world that was in force.
    pub(crate) states: Vec<World>,
    pub(crate) snapshots: Vec<Snapshot>,
    /// Every row that ever was.
    pub(crate) rows: BTreeMap<u32, LoweredRow>,
    /// Addresses that are no longer known by themselves, with the last moment when they were.
    left: BTreeMap<IpAddr, u64>,
    /// Whether every transaction is remembered.
    keeps: bool,
}

pub(crate) fn settings(in_place: bool) -> LayoutSettings {
    LayoutSettings {
        intervals_in_place: in_place,
        ..LayoutSettings::default()
    }
}

impl Life {
    /// Begins with a world. `keeps`: whether every transaction is remembered.
    pub(crate) fn begin(kind: Kind, dice: &mut Dice, in_place: bool, keeps: bool) -> Self {
        let mut world = World::new(kind);
        world.begin(dice);
        Life::of(world, in_place, keeps)
    }

    pub(crate) fn of(world: World, in_place: bool, keeps: bool) -> Self {
        let mut tables = Tables::new();
        world
            .updates()
            .iter()
            .chain(&[Update::InSync])
            .for_each(|u| tables.apply(u));
        tables.commit();
        let mut planner = Planner::new(settings(in_place));
        let mut kernel = Kernel::skeleton(&planner);
        let plan = planner.plan_first(&tables, 0);
        kernel.transact(&plan.prepare).unwrap();
        kernel.transact(&plan.switch).unwrap();
        let mut life = Life {
            now: 0,
            states: vec![world.clone()],
            world,
            tables,
            planner,
            kernel,
            snapshots: Vec::new(),
            rows: BTreeMap::new(),
            left: BTreeMap::new(),
            keeps,
        };
        life.remember(0);
        life.hold_together();
        life
    }

    fn remember(&mut self, state: usize) {
        for (code, row) in &self.planner.state().rows {
            let known = self.rows.entry(*code).or_insert_with(|| row.clone());
            assert_eq!(known, row, "a row's number got another meaning");
        }
        if self.keeps {
            self.snapshots.push(Snapshot {
                at: self.now,
                state,
                kernel: self.kernel.clone(),
            });
        }
    }

    fn transact(&mut self, ops: &[dataplane_nftables::layout::Op], state: usize, what: &str) {
        if ops.is_empty() {
            return;
        }
        if let Err(why) = self.kernel.transact(ops) {
            panic!("the kernel refuses ({what}): {why}");
        }
        self.remember(state);
    }

    /// The world becomes another one.
    pub(crate) fn turn(&mut self, next: World) {
        let updates = next.since(&self.world);
        self.world = next;
        self.left.extend(
            self.tables
                .peers()
                .addresses()
                .map(|(address, _)| (address, self.now)),
        );
        updates.iter().for_each(|u| self.tables.apply(u));
        let changes = self.tables.commit();
        self.left
            .retain(|address, _| self.tables.peers().exact(*address).is_none());
        let plan = self.planner.plan(&self.tables, &changes, self.now);
        self.states.push(self.world.clone());
        let state = self.states.len() - 1;
        self.transact(&plan.prepare, state - 1, "prepare");
        self.transact(&plan.switch, state, "switch");
        if self.keeps {
            // The switch may have had nothing to do; the state counts all the same.
            self.snapshots.push(Snapshot {
                at: self.now,
                state,
                kernel: self.kernel.clone(),
            });
        }
        self.hold_together();
        let again = self.tables.commit();
        let plan = self.planner.plan(&self.tables, &again, self.now);
        assert!(plan.is_empty(), "a second pass changes something: {plan:?}");
    }

    /// Something happens.
    pub(crate) fn happen(&mut self, dice: &mut Dice) {
        let mut next = self.world.clone();
        next.happen(dice);
        self.turn(next);
    }

    /// Time passes, and what is due is done.
    pub(crate) fn wait(&mut self, time: u64) {
        self.now += time;
        while self.planner.next_retirement().is_some_and(|due| due <= self.now) {
            let state = self.states.len() - 1;
            let plan = self.planner.compact(&self.tables, self.now);
            self.transact(&plan.prepare, state, "compact: prepare");
            self.transact(&plan.switch, state, "compact: switch");
            let ops = self.planner.retire(self.now);
            self.transact(&ops, state, "retire");
            self.hold_together();
        }
    }

    /// Waits until nothing is left to be done.
    pub(crate) fn calm(&mut self) {
        let mut turns = 0;
        while let Some(due) = self.planner.next_retirement() {
            self.wait(due.saturating_sub(self.now));
            turns += 1;
            assert!(turns < 100, "there is no end of retiring");
        }
    }

    fn hold_together(&self) {
        let waiting = self.planner.next_retirement().is_some();
        if let Err(why) = self
            .kernel
            .difference(&contents(&self.planner, &self.tables), waiting)
        {
            panic!("the kernel holds something else than the planner believes: {why}");
        }
        if let Err(why) = dangling(self.planner.state()) {
            panic!("{why}");
        }
        self.rows_are_right();
        self.addresses_go();
    }

    /// Addresses stay in their map for a while after they are known by themselves, but not for as long as changes come.
    fn addresses_go(&self) {
        for (address, at) in &self.left {
            let base = if address.is_ipv4() { "id4" } else { "id6" };
            let map = self.kernel.map_in_use("to_wl", base).unwrap();
            assert!(
                self.now < at + LONGEST_WAY || self.kernel.single(&map, *address).is_none(),
                "{address}, left at {at}, is in {map} at {}",
                self.now
            );
        }
    }

    /// What each group's map says of each class is the row of the decision tables.
    fn rows_are_right(&self) {
        let state = self.planner.state();
        for placed in self.tables.endpoints() {
            let Some(endpoint) = state.endpoints.get(&placed.endpoint.interface) else {
                continue;
            };
            if self.owner(&placed.endpoint.interface) != Some(&placed.endpoint.id) {
                continue;
            }
            for (group, map) in [
                (placed.ingress, &state.ingress[&endpoint.ingress]),
                (placed.egress, &state.egress[&endpoint.egress]),
            ] {
                for class in self.tables.peers().classes() {
                    let number = self.planner.identity(class).expect("every class has a number");
                    let code = map.entries.get(&number).copied().unwrap_or(map.default);
                    let row = self.tables.row(group, class).expect("a row");
                    let says = match code {
                        ALLOW => Err(Verdict::Allow),
                        DENY => Err(Verdict::Deny),
                        code => Ok(state.rows[&code].clone()),
                    };
                    assert_eq!(
                        says,
                        lower(row),
                        "{group:?} {class:?}, number {number}, code {code:x}"
                    );
                }
            }
        }
    }

    /// Of two endpoints that name one interface, the first has it.
    fn owner(&self, interface: &str) -> Option<&EndpointId> {
        self.world
            .endpoints
            .iter()
            .find(|(_, e)| e.interface == interface)
            .map(|(id, _)| id)
    }

    /// Kernel, simulator and judge say the same.
    pub(crate) fn agree(&self, dice: &mut Dice, flows: usize) {
        let flows = self.world.flows(dice, flows);
        let mut owners: BTreeMap<&str, _> = BTreeMap::new();
        for endpoint in self.world.endpoints.values() {
            owners.entry(endpoint.interface.as_str()).or_insert(endpoint);
        }
        assert_eq!(owners.len(), self.planner.state().endpoints.len());
        for (interface, endpoint) in owners {
            for direction in [Direction::Ingress, Direction::Egress] {
                for flow in &flows {
                    let Some(own) = endpoint
                        .addresses
                        .iter()
                        .find(|a| a.is_ipv4() == flow.peer.is_ipv4())
                    else {
                        continue;
                    };
                    let judged = self.world.allows(endpoint, direction, flow);
                    let kernel = self.kernel_says(interface, direction, flow);
                    assert_eq!(
                        kernel,
                        judged,
                        "kernel: {direction:?} {flow:?}\n{}",
                        self.world.describe(endpoint)
                    );
                    assert_eq!(
                        self.simulated(interface, direction, *own, flow),
                        judged,
                        "simulator: {direction:?} {flow:?}"
                    );
                }
            }
        }
    }

    fn kernel_says(&self, interface: &str, direction: Direction, flow: &Flow) -> bool {
        let chain = if direction == Direction::Ingress {
            "to_wl"
        } else {
            "from_wl"
        };
        let family = if flow.peer.is_ipv4() {
            ["net4", "id4"]
        } else {
            ["net6", "id6"]
        };
        let [net, id] = family.map(|base| self.kernel.map_in_use(chain, base).unwrap());
        let identity = self
            .kernel
            .single(&id, flow.peer)
            .or_else(|| self.kernel.interval(&net, flow.peer));
        let group = self.kernel.group(interface, direction).unwrap();
        let code = self.kernel.code(&group, identity.unwrap_or(0)).unwrap();
        self.kernel
            .verdict(code, &self.rows, flow.protocol.number(), flow.x, flow.y)
    }

    fn simulated(&self, interface: &str, direction: Direction, own: IpAddr, flow: &Flow) -> bool {
        let identity = |a: IpAddr| {
            self.tables
                .peers()
                .exact(a)
                .and_then(|c| self.planner.identity(c))
        };
        let (source, destination, from, to) = match direction {
            Direction::Ingress => (flow.peer, own, None, Some(interface)),
            Direction::Egress => (own, flow.peer, Some(interface), None),
        };
        let packet = Packet {
            source,
            destination,
            protocol: flow.protocol,
            x: flow.x,
            y: flow.y,
        };
        simulate(
            self.planner.state(),
            identity,
            |i| i.starts_with("cal"),
            &packet,
            Way { from, to },
        )
    }

    /// How much there is of everything, whatever its numbers.
    pub(crate) fn amounts(&self) -> BTreeMap<&'static str, usize> {
        let state = self.planner.state();
        let mut identities: Vec<u32> = Vec::new();
        for base in ["id4", "id6", "net4", "net6"] {
            identities.extend(
                self.kernel
                    .numbers(&self.kernel.map_in_use("to_wl", base).unwrap()),
            );
        }
        identities.sort_unstable();
        identities.dedup();
        let entries = state
            .ingress
            .values()
            .chain(state.egress.values())
            .map(|g| g.entries.len())
            .sum();
        BTreeMap::from([
            ("rows", state.rows.len()),
            ("ingress groups", state.ingress.len()),
            ("egress groups", state.egress.len()),
            ("entries", entries),
            ("identities", identities.len()),
            ("intervals", state.nets.iter().map(Vec::len).sum()),
            ("ports", self.kernel.elements("ports")),
            ("protos", self.kernel.elements("protos")),
            ("chains", self.kernel.chains.len()),
            ("sets", self.kernel.sets.len()),
        ])
    }
}
