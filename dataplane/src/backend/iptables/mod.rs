//! The iptables driver as the passes ask it: the planner that decides and the hands that carry out, joined.
//!
//! A plan is two steps, in front of the tables and with them, and behind them; each step is in force before the next one is
//! given to the hands, and no pass is planned before the last plan is whole. What fails stays first in the queue. What the
//! decision tables said meanwhile is not kept, which could be without bound: once the queue is empty, the planner begins
//! anew with what the kernel has, as after a restart, and that opens nothing either.
//!
//! Others who write tables are heard of (the lock file, the events of nf_tables); nobody tells who changes IP sets, so that
//! this is found by the look a second after a write of ours, and by each resync.

mod counts;
mod error;
mod settings;

pub use counts::IptablesCounts;
pub use error::IptablesError;
pub use settings::IptablesSettings;

use super::others::in_use;
use super::{Applied, Opening};
use crate::settings::DataplaneSettings;
use dataplane_api::HostPort;
use dataplane_iptables::driver::{self, Driver, clean_sets, clean_tables};
use dataplane_iptables::layout::{LayoutSettings, Packet, Plan, Planner, Way, simulate};
use dataplane_iptables::names::family_of_set;
use dataplane_iptables::ops::{Family, SetOp, Table, TableWrite};
use dataplane_iptables::programs::{BackendChoice, Choice, Reason, Toolset, Variant, choose, find};
use dataplane_netlink::Patience;
use dataplane_tables::{Changes, Confined, Tables, TunnelsInUse};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

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
    own: IptablesSettings,
    patience: Patience,
    /// Nothing before the programs were found.
    hands: Option<Driver>,
    /// Whether these hands were given everything that is wanted. Before that they may do nothing: what they do not know of
    /// they remove.
    told: bool,
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
    /// Whether the programs have to be looked at before they are believed to be there.
    programs_in_doubt: bool,
    counts: IptablesCounts,
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
        let layout = own.layout(settings);
        let mut driver = Iptables {
            own: own.clone(),
            patience,
            hands: None,
            told: false,
            planner: Planner::new(layout.clone()),
            layout,
            steps: VecDeque::new(),
            begun: false,
            suspect: false,
            behind: false,
            programs_in_doubt: false,
            counts: IptablesCounts::default(),
            look_at: None,
            now: 0,
        };
        match driver.take_programs() {
            // They may come yet: each pass looks again, and none succeeds before.
            Ok(()) | Err(IptablesError::Programs { .. }) => Ok(driver),
            Err(error) => Err(error),
        }
    }

    /// Finds the programs and opens the hands, where that is not done.
    fn take_programs(&mut self) -> Result<(), IptablesError> {
        if self.hands.is_some() && !self.programs_in_doubt {
            return Ok(());
        }
        let (tools, choice) = self.find_programs()?;
        if self.hands.as_ref().is_none_or(|hands| *hands.tools() != tools) {
            tracing::info!(
                variant = %tools.variant,
                version = %tools.version,
                reason = %choice.reason,
                "iptables' programs are found"
            );
            let mut hands = Driver::open(tools).map_err(IptablesError::Open)?;
            hands.set_patience(self.patience).map_err(IptablesError::Open)?;
            self.hands = Some(hands);
            // Where others had it before, what is there is taken over as after a restart.
            self.told = false;
            self.behind = self.begun;
            self.steps.clear();
        }
        self.programs_in_doubt = false;
        Ok(())
    }

    fn find_programs(&self) -> Result<(Toolset, Choice), IptablesError> {
        match &self.hands {
            None => tools(&self.own),
            // What was chosen once stays: the other variant's rules would have to go, which is a start's business.
            Some(hands) => tools(&IptablesSettings {
                choice: hands.tools().variant.into(),
                ..self.own.clone()
            }),
        }
    }

    /// Looks whether the programs are what they were. One that only writes may be gone or broken, and nobody would notice before
    /// the next change. Others than before are taken by the next apply.
    fn check_programs(&mut self) -> Result<(), IptablesError> {
        let found = self.find_programs();
        let same = |(tools, _): &(Toolset, Choice)| Some(tools) == self.tools();
        self.programs_in_doubt = !found.as_ref().is_ok_and(same);
        found.map(drop)
    }

    /// The programs in use, once they were found.
    pub fn tools(&self) -> Option<&Toolset> {
        self.hands.as_ref().map(Driver::tools)
    }

    /// What was done since the start.
    pub fn counts(&self) -> &IptablesCounts {
        &self.counts
    }

    /// What the chains and sets say, for status and tests.
    pub fn planner(&self) -> &Planner {
        &self.planner
    }

    /// How many chains and rules of ours should be in each table.
    pub fn size_by_table(&self) -> impl Iterator<Item = (Family, Table, usize, usize)> + '_ {
        self.hands.iter().flat_map(Driver::wanted_by_table)
    }

    /// How many IP sets of a family should be there.
    pub fn sets_of(&self, family: Family) -> usize {
        self.hands
            .as_ref()
            .map_or(0, |hands| hands.wanted_sets_of(family))
    }

    /// How many chains and rules of ours should be there, and how many IP sets.
    pub fn size(&self) -> (usize, usize, usize) {
        let Some(hands) = &self.hands else {
            return (0, 0, 0);
        };
        let (chains, rules) = hands.wanted();
        (chains, rules, hands.wanted_sets())
    }

    pub(super) fn is_suspect(&self) -> bool {
        self.suspect || self.behind || self.programs_in_doubt || !self.steps.is_empty()
    }

    pub(super) fn apply(
        &mut self,
        tables: &Tables,
        changes: &Changes,
        now: u64,
    ) -> Result<Applied, IptablesError> {
        self.now = now;
        let mut applied = Applied::default();
        let ready = self.take_programs().and_then(|()| self.carry_out(&mut applied));
        if let Err(error) = ready {
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
        if let Some(hands) = &mut self.hands {
            hands.look_at_everything();
        }
        self.suspect = true;
        self.carry_out(&mut applied)?;
        self.check_programs()?;
        Ok(applied)
    }

    /// Compares the IP sets with what they should be; the tables are left to their own looks.
    pub(super) fn resync_sets(&mut self) -> Result<Applied, IptablesError> {
        let mut applied = Applied::default();
        if let Some(hands) = &mut self.hands {
            hands.look_at_sets();
        }
        self.suspect = true;
        self.carry_out(&mut applied)?;
        Ok(applied)
    }

    pub(super) fn want_tunnels(&mut self, tunnels: TunnelsInUse) -> bool {
        self.planner.want_tunnels(tunnels)
    }

    pub(super) fn want_confined(&mut self, confined: Confined) -> bool {
        self.planner.want_confined(confined)
    }

    pub(super) fn wanted_confined(&self) -> &Confined {
        self.planner.wanted_confined()
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
            if let Some(hands) = &mut self.hands
                && let Err(error) = hands.look()
            {
                // The next apply finds out.
                hands.look_at_everything();
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
        let noticed = self.hands.as_mut().is_some_and(Driver::notice);
        self.suspect |= noticed && self.begun;
    }

    pub(super) fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.hands.as_ref().and_then(Driver::watch)
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
        let Some(hands) = &self.hands else {
            return Ok(());
        };
        let found = driver::found(hands.tools()).map_err(IptablesError::Read)?;
        let mut planner = Planner::new(self.layout.clone());
        planner.want_tunnels(self.planner.wanted_tunnels());
        planner.want_confined(self.planner.wanted_confined().clone());
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
        if !self.told {
            // They read everything by themselves, and must not act before they have the first step.
            self.suspect = false;
            self.told = true;
        }
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
        if !self.told {
            return;
        }
        let Some(tools) = self.hands.as_ref().map(Driver::tools) else {
            return;
        };
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
            let Some(hands) = &mut self.hands else {
                return Ok(());
            };
            if self.suspect && self.told {
                let outcome = hands.apply();
                let done = match &outcome {
                    Ok(done) => done,
                    Err(failures) => &failures.applied,
                };
                self.counts.add(done);
                applied.transactions += done.restores;
                applied.messages += done.lines + done.set_operations;
                applied.mended += done.mended;
                if done.restores > 0 && !self.own.look_after.is_zero() {
                    let after = u64::try_from(self.own.look_after.as_millis()).unwrap_or(u64::MAX);
                    self.look_at = Some(self.now.saturating_add(after));
                }
                if let Err(failures) = &outcome {
                    self.programs_in_doubt |= failures.lack_programs();
                }
                outcome?;
                self.suspect = false;
            }
            let Some(step) = self.steps.pop_front() else {
                return Ok(());
            };
            hands.take(&step.sets, &step.tables);
            self.suspect = true;
        }
    }
}

/// The programs that the settings choose, and why these.
fn tools(settings: &IptablesSettings) -> Result<(Toolset, Choice), IptablesError> {
    let found = find(&in_use(&settings.programs));
    let chosen = choose(settings.choice, &found).ok();
    // Where there is none to choose, what lacks of the one that was asked for is said, and of any the newer one's.
    let variant = match (chosen, settings.choice) {
        (Some(choice), _) => choice.variant,
        (None, BackendChoice::Legacy) => Variant::Legacy,
        (None, BackendChoice::Nft | BackendChoice::Auto) => Variant::Nft,
    };
    let tools = match variant {
        Variant::Legacy => found.legacy,
        Variant::Nft => found.nft,
    };
    let tools = tools.map_err(|source| IptablesError::Programs {
        choice: settings.choice,
        source: Box::new(source),
    })?;
    let reason = chosen.map_or(Reason::Setting, |choice| choice.reason);
    Ok((tools, Choice { variant, reason }))
}

/// Removes everything of ours from iptables and the IP sets, in the network namespace of the calling thread, and nothing
/// else. Returns the names of sets that stay because rules of others name them.
///
/// # Errors
/// The programs are not there, or what could not be removed; call again.
pub fn remove_iptables_rules(settings: &IptablesSettings) -> Result<Vec<String>, IptablesError> {
    clean_tables(&tools(settings)?.0)?;
    clean_sets().map_err(IptablesError::Clean)
}
