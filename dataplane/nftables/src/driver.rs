//! Carries plans out, takes over what an earlier life left, notices drift and mends it. It decides nothing.

mod starting;

use crate::contents::{Difference, contents, difference};
use crate::layout::names::TABLE;
use crate::layout::skeleton::base_rules;
use crate::layout::{Confined, LayoutSettings, Op, Planner, TunnelsInUse};
use crate::observe::observe;
use crate::socket::{DumpError, Link, Monitor, MonitorError, OpenError, TransactError};
use crate::wire::{Batch, Family, Rule};
use dataplane_tables::{Changes, Tables};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// How long what an earlier life left over stays after the first switch, in milliseconds: packets may be on their way.
const SWEEP_AFTER: u64 = 2_000;

/// Settings of the driver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DriverSettings {
    /// What shapes the chains.
    pub layout: LayoutSettings,
    /// Whether the table is owned and persistent where the kernel has that (Linux 6.9): others cannot write to it,
    /// and it outlives the agent.
    pub owned: bool,
}

/// What the driver could not do.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// No netlink socket. Usually the privilege CAP_NET_ADMIN lacks, or the kernel has no nf_tables.
    #[error("opening a netlink socket to nf_tables")]
    Open(#[source] OpenError),
    /// Our table could not be read. Try again.
    #[error("reading our nftables table '{TABLE}'")]
    Read(#[source] DumpError),
    /// A transaction was refused; nothing of it is in force. The table is compared and mended by the next apply.
    #[error("writing nftables object '{object}' ({phase})")]
    Write {
        /// Which transaction of the write protocol.
        phase: &'static str,
        /// The object that was refused.
        object: String,
        /// Why.
        #[source]
        source: TransactError,
    },
    /// Another process owns our table: a second agent on this node.
    #[error(
        "the nftables table '{TABLE}' belongs to another running process (netlink port {port:?}): is another felix running on this node?"
    )]
    OwnedByAnother {
        /// Netlink port of the owner.
        port: Option<u32>,
    },
    /// The event socket broke.
    #[error("reading nf_tables events")]
    Monitor(#[source] MonitorError),
}

/// Nobody listens while a batch of more bytes is carried out: the kernel makes an event of each element if anybody
/// does, which takes it longer than the element itself.
const LARGE: usize = 16 * 1024;

/// What one apply did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Transactions that were committed.
    pub transactions: usize,
    /// Messages in them.
    pub messages: usize,
    /// Objects and elements that were not as they should be, and are again.
    pub mended: usize,
    /// How long the kernel had the transactions: from handing each over to its answer.
    pub kernel: Duration,
}

/// The nftables driver of one network namespace. Not for use by several threads at once.
#[derive(Debug)]
pub struct Driver {
    settings: DriverSettings,
    link: Link,
    monitor: Monitor,
    planner: Planner,
    started: bool,
    /// Whether the kernel may differ from what the planner believes.
    suspect: bool,
    /// Whether the table is owned by our socket.
    owned: bool,
    /// Whether somebody else changed something while nobody listened.
    missed: bool,
    /// When what an earlier life left over goes, on the clock of `now`.
    sweep_at: Option<u64>,
}

impl Driver {
    /// Opens the sockets. Nothing is written.
    ///
    /// # Errors
    /// [`DriverError::Open`].
    pub fn open(settings: DriverSettings) -> Result<Self, DriverError> {
        let link = Link::open().map_err(DriverError::Open)?;
        let monitor = Monitor::open(&[link.port()]).map_err(DriverError::Open)?;
        let planner = Planner::new(settings.layout.clone());
        Ok(Driver {
            settings,
            link,
            monitor,
            planner,
            started: false,
            suspect: false,
            owned: false,
            missed: false,
            sweep_at: None,
        })
    }

    /// Says how long the kernel may take to answer, ten seconds if nobody says; zero waits without end.
    ///
    /// # Errors
    /// [`DriverError::Open`].
    pub fn set_patience(&mut self, patience: Duration) -> Result<(), DriverError> {
        self.link.set_patience(patience).map_err(DriverError::Open)
    }

    /// The planner, for status and tests.
    pub fn planner(&self) -> &Planner {
        &self.planner
    }

    /// Whether others cannot write to the table.
    pub fn is_owned(&self) -> bool {
        self.owned
    }

    /// Whether the first pass is done.
    pub fn is_started(&self) -> bool {
        self.started
    }

    /// Brings the kernel to what the decision tables say after a commit. The first call takes over or makes the table.
    ///
    /// # Errors
    /// What was refused or could not be read. What is in force stays; the next call compares and mends.
    pub fn apply(&mut self, tables: &Tables, changes: &Changes, now: u64) -> Result<Applied, DriverError> {
        if !self.started {
            let applied = self.start(tables, now)?;
            self.started = true;
            return Ok(applied);
        }
        let mut applied = Applied::default();
        let plan = self.planner.plan(tables, changes, now);
        if self.suspect {
            // The planner knows what should be there; the comparison finds out what that takes.
            return self.resync(tables);
        }
        self.suspect = true;
        self.commit("prepare", &plan.prepare, &mut applied)?;
        self.commit("switch", &plan.switch, &mut applied)?;
        self.suspect = false;
        Ok(applied)
    }

    /// Says which tunnels unwrap packets on this node; returns whether that is news. From the next apply on what they bring
    /// is let in from the cluster's nodes only.
    ///
    /// Say it before the device comes up, and of one that goes, when it has gone. A life that takes over says it before
    /// its first apply: that one brings the table to what was said.
    pub fn want_tunnels(&mut self, tunnels: TunnelsInUse) -> bool {
        self.planner.want_tunnels(tunnels)
    }

    /// Says what leaves the node inside a tunnel or not at all, from the next apply on; returns whether that is news.
    ///
    /// Say what becomes confined when the routes lead into the tunnel, and what no longer is before they lead elsewhere.
    pub fn want_confined(&mut self, confined: Confined) -> bool {
        self.planner.want_confined(confined)
    }

    /// Lets no connection begin with these addresses, which nobody has now, and with no others any more; after the first
    /// pass only. It is in force when this returns.
    ///
    /// # Errors
    /// What was refused or could not be read; the next apply compares and mends.
    pub fn set_vacant(&mut self, tables: &Tables, vacant: &BTreeSet<IpAddr>) -> Result<Applied, DriverError> {
        let ops = self.planner.set_vacant(vacant);
        if self.suspect {
            return self.resync(tables);
        }
        let mut applied = Applied::default();
        self.suspect = true;
        self.commit("vacant addresses", &ops, &mut applied)?;
        self.suspect = false;
        Ok(applied)
    }

    /// Removes what no packet can hold any more.
    ///
    /// # Errors
    /// What was refused; the next apply compares and mends.
    pub fn retire(&mut self, tables: &Tables, now: u64) -> Result<Applied, DriverError> {
        let mut applied = Applied::default();
        let plan = self.planner.compact(tables, now);
        let ops = self.planner.retire(now);
        if !self.suspect {
            self.suspect = true;
            self.commit("compact: prepare", &plan.prepare, &mut applied)?;
            self.commit("compact: switch", &plan.switch, &mut applied)?;
            self.commit("retire", &ops, &mut applied)?;
            self.suspect = false;
        }
        if self.sweep_at.is_some_and(|due| due <= now) {
            self.sweep_at = None;
            let swept = self.resync(tables)?;
            applied.transactions += swept.transactions;
            applied.messages += swept.messages;
            applied.kernel += swept.kernel;
        }
        Ok(applied)
    }

    /// When [`Driver::retire`] has something to do, on the clock of `now`.
    pub fn next_retirement(&self) -> Option<u64> {
        self.planner
            .next_retirement()
            .into_iter()
            .chain(self.sweep_at)
            .min()
    }

    /// Reads the events that have come and says whether somebody else touched our table.
    ///
    /// # Errors
    /// [`DriverError::Monitor`].
    pub fn touched_by_others(&mut self) -> Result<bool, DriverError> {
        let mut events = Vec::new();
        let mut touched = std::mem::take(&mut self.missed);
        while self.monitor.read(&mut events).map_err(DriverError::Monitor)? {
            // All are taken out, also behind the first that concerns us.
            touched |= events.drain(..).fold(false, |touched, event| {
                touched | event.may_concern(Family::Inet, TABLE)
            });
        }
        if touched && self.started {
            self.suspect = true;
        }
        Ok(touched && self.started)
    }

    /// Whether the kernel may differ from what was written.
    pub fn is_suspect(&self) -> bool {
        self.suspect
    }

    /// Compares the whole table with what it should hold, and mends what differs.
    ///
    /// # Errors
    /// What was refused or could not be read; call again.
    pub fn resync(&mut self, tables: &Tables) -> Result<Applied, DriverError> {
        let mut applied = Applied::default();
        self.suspect = true;
        let wanted = contents(&self.planner, tables);
        let Some(observed) = observe(&mut self.link).map_err(DriverError::Read)? else {
            self.rebuild(tables, false, &mut applied)?;
            applied.mended += 1;
            self.suspect = false;
            return Ok(applied);
        };
        let mut difference = difference(&wanted, &observed);
        // A packet may still be on its way through a map that was left a moment ago, and its removal has its time.
        difference
            .extra
            .retain(|op| !matches!(op, Op::RemoveSet(name) if self.planner.is_waiting(name)));
        applied.mended = difference.count();
        if difference.broken.is_some() {
            self.rebuild(tables, true, &mut applied)?;
        } else {
            self.mend(&difference, &mut applied)?;
        }
        self.suspect = false;
        Ok(applied)
    }

    fn mend(&mut self, difference: &Difference, applied: &mut Applied) -> Result<(), DriverError> {
        // What an administrator flushed and what an earlier failure left half done are mended alike: what lacks
        // first, then what is wrong together with the hooks, then what is too much.
        self.commit("mend: add", &difference.missing, applied)?;
        let mut batch = Batch::new(Family::Inet);
        let labels: Vec<String> = difference
            .wrong
            .iter()
            .map(|op| op.object().to_string())
            .collect();
        for (n, op) in difference.wrong.iter().enumerate() {
            op.write(batch.at(n));
        }
        for chain in &difference.base_chains {
            batch.flush_chain(TABLE, chain);
            for rule in base_rules(chain, self.planner.state(), self.planner.settings()) {
                batch.rule(&Rule::new(TABLE, chain, &rule));
            }
        }
        self.send("mend: correct", batch, |n| labels.get(n).cloned(), applied)?;
        self.commit("mend: remove", &difference.extra, applied)
    }

    fn commit(&mut self, phase: &'static str, ops: &[Op], applied: &mut Applied) -> Result<(), DriverError> {
        let mut batch = Batch::new(Family::Inet);
        for (n, op) in ops.iter().enumerate() {
            op.write(batch.at(n));
        }
        self.send(
            phase,
            batch,
            |n| ops.get(n).map(|op| op.object().to_string()),
            applied,
        )
    }

    /// Stops listening, if anybody does, and returns the generation before.
    fn stop_listening(&mut self) -> Result<Option<u32>, DriverError> {
        if !self.monitor.is_listening() {
            return Ok(None);
        }
        let generation = self.link.generation().map_err(DriverError::Read)?.id;
        self.monitor.pause().map_err(DriverError::Monitor)?;
        Ok(Some(generation))
    }

    fn send(
        &mut self,
        phase: &'static str,
        mut batch: Batch,
        object: impl Fn(usize) -> Option<String>,
        applied: &mut Applied,
    ) -> Result<(), DriverError> {
        if batch.is_empty() {
            return Ok(());
        }
        let before = if batch.size() > LARGE {
            self.stop_listening()?
        } else {
            None
        };
        let begun = Instant::now();
        let outcome = self.link.transact(&mut batch);
        applied.kernel += begun.elapsed();
        if let Some(before) = before {
            self.monitor.resume().map_err(DriverError::Monitor)?;
            let after = self.link.generation().map_err(DriverError::Read)?.id;
            // Every commit makes one generation: one more was somebody else's.
            self.missed |= after.wrapping_sub(before) > 1;
        }
        match outcome {
            Ok(committed) => {
                applied.transactions += 1;
                applied.messages += committed.messages;
                Ok(())
            }
            Err(source) => {
                let label = match &source {
                    TransactError::Refused { failures } => failures.first().and_then(|f| f.label),
                    _ => None,
                };
                let object = label.and_then(object).unwrap_or_else(|| TABLE.to_string());
                Err(DriverError::Write {
                    phase,
                    object,
                    source,
                })
            }
        }
    }
}

impl AsFd for Driver {
    /// The event socket, for polling.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.monitor.as_fd()
    }
}

/// Removes our table, whoever left it, and says whether there was one.
///
/// # Errors
/// No socket, or the table belongs to a process that still runs.
pub fn cleanup() -> Result<bool, DriverError> {
    let mut driver = Driver::open(DriverSettings::default())?;
    let Some((flags, owner)) = driver.find_table()? else {
        return Ok(false);
    };
    driver.claim(&flags, owner)?;
    let mut batch = Batch::new(Family::Inet);
    batch.remove_table(TABLE);
    driver.send("cleanup", batch, |_| None, &mut Applied::default())?;
    Ok(true)
}
