//! The iptables driver as the passes ask it: the planner that decides and the hands that carry out, joined.
//!
//! A plan is two steps, in front of the tables and with them, and behind them; each step is in force before the next one is
//! given to the hands, and no pass is planned before the last plan is whole. What fails stays first in the queue. What the
//! decision tables said meanwhile is not kept, which could be without bound: once the queue is empty, the planner begins
//! anew with what the kernel has, as after a restart, and that opens nothing either.
//!
//! Others who write tables are heard of (the lock file, the events of nf_tables); nobody tells who changes IP sets, so that
//! this is found by the look a second after a write of ours, and by each resync.

mod error;
mod settings;

pub use error::IptablesError;
pub use settings::IptablesSettings;

use super::{Applied, Opening};
use crate::settings::DataplaneSettings;
use dataplane_api::HostPort;
use dataplane_iptables::driver::{self, Driver, clean_sets, clean_tables};
use dataplane_iptables::layout::{LayoutSettings, Packet, Plan, Planner, Way, simulate};
use dataplane_iptables::names::family_of_set;
use dataplane_iptables::ops::{SetOp, TableWrite};
use dataplane_iptables::programs::{Toolset, Variant, find};
use dataplane_netlink::Patience;
use dataplane_tables::{Changes, Tables, TunnelsInUse};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

/// How long after a write of ours everything is looked at once more, in milliseconds: what somebody else wrote at the same
/// moment may have gone unnoticed.
const LOOK_AFTER: u64 = 1_000;

/// The name of an interface that is no workload's: no interface is called so.
const ELSEWHERE: &str = "";

/// What the hands are given at once.
#[derive(Debug)]
struct Step {
    sets: Vec<SetOp>,
    tables: Vec<TableWrite>,
}

/// The iptables driver of one network namespace, on the thread that opened it.
#[derive(Debug)]
pub struct Iptables {
    hands: Driver,
    planner: Planner,
    layout: LayoutSettings,
    /// What the planner decided and the hands were not given yet.
    steps: VecDeque<Step>,
    /// Whether a first pass is planned.
    begun: bool,
    /// Whether the kernel may differ from what the hands were given.
    suspect: bool,
    /// Whether the decision tables said something that no plan has.
    behind: bool,
    /// When everything is looked at once more, on the clock of `now`.
    look_at: Option<u64>,
    /// The latest `now`.
    now: u64,
}

impl Iptables {
    pub(super) fn open(
        own: &IptablesSettings,
        settings: &DataplaneSettings,
        patience: Patience,
    ) -> Result<Self, IptablesError> {
        let mut hands = Driver::open(tools(own)?).map_err(IptablesError::Open)?;
        hands.set_patience(patience).map_err(IptablesError::Open)?;
        let layout = own.layout(settings);
        Ok(Iptables {
            hands,
            planner: Planner::new(layout.clone()),
            layout,
            steps: VecDeque::new(),
            begun: false,
            suspect: false,
            behind: false,
            look_at: None,
            now: 0,
        })
    }

    /// What the chains and sets say, for status and tests.
    pub fn planner(&self) -> &Planner {
        &self.planner
    }

    /// How many chains and rules of ours should be there, and how many IP sets.
    pub fn size(&self) -> (usize, usize, usize) {
        let (chains, rules) = self.hands.wanted();
        (chains, rules, self.hands.wanted_sets())
    }

    pub(super) fn is_suspect(&self) -> bool {
        self.suspect || self.behind || !self.steps.is_empty()
    }

    pub(super) fn apply(
        &mut self,
        tables: &Tables,
        changes: &Changes,
        now: u64,
    ) -> Result<Applied, IptablesError> {
        self.now = now;
        let mut applied = Applied::default();
        if let Err(error) = self.carry_out(&mut applied) {
            self.behind = self.begun;
            return Err(error);
        }
        if self.begun && !self.behind {
            let plan = self.planner.plan(tables, changes);
            self.order(Vec::new(), plan);
        } else {
            self.behind = self.begun;
            self.begin(tables)?;
            self.begun = true;
            self.behind = false;
        }
        self.carry_out(&mut applied)?;
        Ok(applied)
    }

    pub(super) fn resync(&mut self) -> Result<Applied, IptablesError> {
        let mut applied = Applied::default();
        self.hands.look_at_everything();
        self.suspect = true;
        self.carry_out(&mut applied)?;
        Ok(applied)
    }

    pub(super) fn want_tunnels(&mut self, tunnels: TunnelsInUse) -> bool {
        self.planner.want_tunnels(tunnels)
    }

    pub(super) fn vacant(&self) -> &BTreeSet<IpAddr> {
        self.planner.vacant()
    }

    pub(super) fn set_vacant(&mut self, vacant: &BTreeSet<IpAddr>) -> Result<Applied, IptablesError> {
        let sets = self.planner.set_vacant(vacant);
        self.push(sets, Vec::new());
        let mut applied = Applied::default();
        self.carry_out(&mut applied)?;
        Ok(applied)
    }

    pub(super) fn retire(&mut self, now: u64) -> Result<Applied, IptablesError> {
        self.now = now;
        let mut applied = Applied::default();
        if self.look_at.is_some_and(|due| due <= now) {
            self.look_at = None;
            self.suspect = true;
            if let Err(error) = self.hands.look() {
                // The next apply finds out.
                self.hands.look_at_everything();
                return Err(IptablesError::Read(error));
            }
            self.carry_out(&mut applied)?;
        }
        Ok(applied)
    }

    pub(super) fn next_retirement(&self) -> Option<u64> {
        self.look_at
    }

    pub(super) fn take_events(&mut self) {
        // Before the first pass everything is read anyway.
        self.suspect |= self.hands.notice() && self.begun;
    }

    pub(super) fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.hands.watch()
    }

    pub(super) fn host_ports(&self) -> &BTreeMap<HostPort, SocketAddr> {
        self.planner.host_ports()
    }

    pub(super) fn interfaces_by_address(&self) -> BTreeMap<IpAddr, &str> {
        let mut out = BTreeMap::new();
        for (interface, addresses) in self.planner.interfaces() {
            out.extend(addresses.iter().map(|address| (*address, interface)));
        }
        out
    }

    pub(super) fn lets_begin(&self, tables: &Tables, opening: &Opening<'_>) -> bool {
        let Opening {
            source,
            destination,
            protocol,
            x,
            y,
            from,
            to,
        } = *opening;
        let packet = Packet::first(source, destination, protocol, x, y);
        // What is not to a workload here is judged as what leaves the node: what happens to a packet to the node itself is
        // no policy.
        let way = Way {
            from: from.or(Some(ELSEWHERE)),
            to: to.or(Some(ELSEWHERE)),
        };
        simulate(&self.planner.layout(tables), &packet, way)
    }

    /// Plans a first pass, or another first one, from what the kernel has.
    fn begin(&mut self, tables: &Tables) -> Result<(), IptablesError> {
        let found = driver::found(self.hands.tools()).map_err(IptablesError::Read)?;
        let mut planner = Planner::new(self.layout.clone());
        planner.want_tunnels(self.planner.wanted_tunnels());
        planner.adopt(found.clone());
        let plan = planner.plan_first(tables);
        // The plan names of sets that are taken over only what changes in them.
        let mut known = Vec::new();
        for (name, (spec, _)) in planner.contents(tables).sets {
            let set = found.sets.get(&name);
            if let Some(set) = set.filter(|set| (set.family, set.kind) == (spec.family, spec.kind)) {
                known.push(SetOp::Create(spec));
                known.push(SetOp::Add(name, set.members.clone()));
            }
        }
        self.planner = planner;
        self.order(known, plan);
        Ok(())
    }

    /// Puts a plan into the queue, behind what has to be known before.
    fn order(&mut self, mut before: Vec<SetOp>, plan: Plan) {
        let writes = plan.writes.iter().map(|write| self.planner.text(write)).collect();
        before.extend(plan.before);
        self.push(before, writes);
        self.push(plan.after, Vec::new());
    }

    fn push(&mut self, mut sets: Vec<SetOp>, tables: Vec<TableWrite>) {
        let tools = self.hands.tools();
        let is_in_use = |name: &str| {
            family_of_set(name).is_none_or(|family| tools.families().any(|in_use| in_use == family))
        };
        sets.retain(|operation| is_in_use(operation.set()));
        if !sets.is_empty() || !tables.is_empty() {
            self.steps.push_back(Step { sets, tables });
        }
    }

    /// Has the hands do what is due, step by step, until one fails.
    fn carry_out(&mut self, applied: &mut Applied) -> Result<(), IptablesError> {
        loop {
            if self.suspect {
                let outcome = self.hands.apply();
                let done = match &outcome {
                    Ok(done) => done,
                    Err(failures) => &failures.applied,
                };
                applied.transactions += done.restores;
                applied.messages += done.lines + done.set_operations;
                applied.mended += done.mended;
                if done.restores > 0 {
                    self.look_at = Some(self.now + LOOK_AFTER);
                }
                outcome?;
                self.suspect = false;
            }
            let Some(step) = self.steps.pop_front() else {
                return Ok(());
            };
            self.hands.take(&step.sets, &step.tables);
            self.suspect = true;
        }
    }
}

/// The programs that the settings choose.
fn tools(settings: &IptablesSettings) -> Result<Toolset, IptablesError> {
    let found = find(&settings.programs_in_use());
    let tools = match settings.variant {
        Variant::Legacy => found.legacy,
        Variant::Nft => found.nft,
    };
    tools.map_err(|source| IptablesError::Programs {
        variant: settings.variant,
        source: Box::new(source),
    })
}

/// Removes everything of ours from iptables and the IP sets, in the network namespace of the calling thread, and nothing
/// else. Returns the names of sets that stay because rules of others name them.
///
/// # Errors
/// The programs are not there, or what could not be removed; call again.
pub fn remove_iptables_rules(settings: &IptablesSettings) -> Result<Vec<String>, IptablesError> {
    clean_tables(&tools(settings)?)?;
    clean_sets().map_err(IptablesError::Clean)
}
