//! Carries out what the layout asks, in order, until the kernel holds it: sets first, then tables, then what sets are over.
//!
//! Level triggered: what is wanted is kept, what failed is looked at and written again by the next [`Driver::apply`], and
//! nothing is believed of the kernel that was not written or read. Usually only the difference is written, with one call a
//! table and one message for many members; everything is read after the start, after a failure, and when somebody else was at
//! work.

mod error;
mod found;
mod sets;
mod tables;

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

pub use error::{DriverError, Failures};
pub use found::found;

use dataplane_netlink::Patience;

use crate::ipset::Ipsets;
use crate::ops::{Family, SetOp, Table, TableWrite};
use crate::programs::{ProgramError, Toolset};
use crate::watch::{Disturbed, Watch};

use sets::Sets;
use tables::Tables;

/// How often a call is tried before its failure is told.
const TRIES: u32 = 10;
/// How long after the first failure the second try comes; twice as long after each further one.
const FIRST_DELAY: Duration = Duration::from_millis(1);
/// The longest such delay.
const LONGEST_DELAY: Duration = Duration::from_millis(250);
/// How long after a write of ours everything is read once more: a write of somebody else's that overlaps ours may go unseen.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// What one apply did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Calls of `iptables-restore`.
    pub restores: usize,
    /// How many of them failed, also those that succeeded when they were tried again.
    pub restore_errors: usize,
    /// How long all of them took, with their waiting for the lock.
    pub restore_time: Duration,
    /// How often the lock was waited for in vain.
    pub lock_timeouts: usize,
    /// Lines that they were given.
    pub lines: usize,
    /// Calls of `iptables-save`.
    pub saves: usize,
    /// How many of them failed, also those that succeeded when they were tried again.
    pub save_errors: usize,
    /// Operations on sets.
    pub set_operations: usize,
    /// How often operations on sets failed, though they were tried several times.
    pub set_errors: usize,
    /// Chains, rules and sets that were not as they were left, and are again.
    pub mended: usize,
    /// Of those, rules that somebody changed under our comment.
    pub tampered: usize,
    /// Sets of ours that nobody wants and that a rule of somebody else's still names; tried again by each apply.
    pub kept_sets: Vec<String>,
}

/// The iptables driver of one network namespace. Not for use by several threads at once.
#[derive(Debug)]
pub struct Driver {
    tools: Toolset,
    ipsets: Ipsets,
    watch: Option<Watch>,
    sets: Sets,
    tables: Tables,
    /// Our programs whose writes the watch has not been asked about.
    own: Vec<u32>,
    /// When everything is read once more.
    look_at: Option<Instant>,
}

impl Driver {
    /// Opens the sockets and the watch, in the calling thread's network namespace; nothing is written. Programs are started
    /// by the thread that calls, so all calls have to come from the same namespace.
    ///
    /// # Errors
    /// The kernel gives no socket. A watch that cannot be had is only told: then drift waits for [`Driver::look`].
    pub fn open(tools: Toolset) -> Result<Self, DriverError> {
        let watch = Watch::open(&tools)
            .inspect_err(
                |error| tracing::warn!(%error, "changes by others are found by the periodic look only"),
            )
            .ok();
        Ok(Self {
            tables: Tables::new(tools.families()),
            tools,
            ipsets: Ipsets::open()?,
            watch,
            sets: Sets::default(),
            own: Vec::new(),
            look_at: None,
        })
    }

    /// Says how long the kernel may take to answer about IP sets, ten seconds if nobody says. How long the programs may take
    /// stands in their own settings.
    ///
    /// # Errors
    /// The kernel gives no socket.
    pub fn set_patience(&mut self, patience: Patience) -> Result<(), DriverError> {
        self.ipsets = Ipsets::open_with(patience)?;
        Ok(())
    }

    /// The programs in use.
    #[must_use]
    pub fn tools(&self) -> &Toolset {
        &self.tools
    }

    /// Takes in what is wanted. Nothing is written before [`Driver::apply`]; whatever order they were taken in, sets are made
    /// and filled before tables are written, and removed after.
    ///
    /// Before the first apply everything has to be taken that is wanted: what of ours is there and was not asked for is removed.
    pub fn take(&mut self, sets: &[SetOp], tables: &[TableWrite]) {
        for operation in sets {
            self.sets.take(operation);
        }
        for write in tables {
            self.tables.take(write);
        }
    }

    /// Brings the kernel to what is wanted.
    ///
    /// Sets come first: where they fail, no table is written, since a rule may need them. Tables of the families are written
    /// independently: what fails in one does not keep the others from being written.
    ///
    /// # Errors
    /// What could not be done after several tries. The rest is done; call again, later, to have the remainder tried.
    pub fn apply(&mut self) -> Result<Applied, Failures> {
        let mut applied = Applied::default();
        let mut failures = Vec::new();
        match self.prepare_sets(&mut applied) {
            Ok(()) => {
                self.tables
                    .apply(&self.tools, &mut self.own, &mut applied, &mut failures);
                // A set goes only when no table may still name it.
                if failures.is_empty()
                    && let Err(error) = persistently(|| self.sets.retire(&mut self.ipsets, &mut applied))
                {
                    failures.push(error);
                }
            }
            Err(error) => failures.push(error),
        }
        if self.watch.is_none() {
            // Nobody will ask whose writes they were.
            self.own.clear();
        }
        if applied.restores > 0 {
            self.look_at = Some(Instant::now() + LOOK_AFTER);
        }
        for failure in &failures {
            match failure {
                DriverError::Sets(_) | DriverError::SetInTheWay { .. } => applied.set_errors += 1,
                DriverError::Program(error) if matches!(**error, ProgramError::Locked { .. }) => {
                    applied.lock_timeouts += 1;
                }
                DriverError::Program(_) | DriverError::Save { .. } | DriverError::Unsettled { .. } => {}
            }
        }
        if failures.is_empty() {
            Ok(applied)
        } else {
            Err(Failures {
                failures,
                applied: Box::new(applied),
            })
        }
    }

    fn prepare_sets(&mut self, applied: &mut Applied) -> Result<(), DriverError> {
        let mut cleared: Option<String> = None;
        loop {
            match persistently(|| self.sets.prepare(&mut self.ipsets, applied)) {
                // Rules of an earlier life name a set that has to go; each such set once.
                Err(DriverError::SetInTheWay { name, .. }) if cleared.as_ref() != Some(&name) => {
                    tracing::warn!(
                        set = name,
                        "an IP set of a wrong type: its rules are closed until it is replaced"
                    );
                    self.tables.close(&self.tools, &name, &mut self.own, applied)?;
                    cleared = Some(name);
                }
                outcome => return outcome,
            }
        }
    }

    /// Reads what the watch has to tell. Returns whether somebody else was at work, so that the next apply reads the tables.
    pub fn notice(&mut self) -> bool {
        let own = std::mem::take(&mut self.own);
        let Some(watch) = &mut self.watch else {
            return false;
        };
        let disturbed = watch.disturbed(&own).unwrap_or_else(|error| {
            tracing::warn!(%error, "changes by others may have been missed: everything is read");
            Disturbed::All
        });
        self.tables.suspect(&disturbed);
        disturbed != Disturbed::NOTHING
    }

    /// Has the next apply read what the watch does not tell of: the tables, or, where it tells of each write of others near
    /// us, those that were written since they were read last; and the sets whose numbers of members are not as they were left.
    ///
    /// # Errors
    /// The sets cannot be listed.
    pub fn look(&mut self) -> Result<(), DriverError> {
        self.look_at = None;
        if self.watch.as_ref().is_some_and(Watch::tells_all) {
            // How the program prints what it wrote is learned soon, before somebody may have changed it.
            self.tables.suspect_fresh();
        } else {
            self.tables.suspect(&Disturbed::All);
        }
        self.sets.compare_headers(&mut self.ipsets)
    }

    /// Has the next apply read all tables and all sets with their members.
    pub fn look_at_everything(&mut self) {
        self.look_at = None;
        self.tables.suspect(&Disturbed::All);
        self.sets.suspect_all();
    }

    /// Has the next apply read all sets with their members.
    pub fn look_at_sets(&mut self) {
        self.sets.suspect_all();
    }

    /// When [`Driver::look`] should be called because of a write of ours, if it should.
    #[must_use]
    pub fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// How many chains and rules of ours should be there.
    #[must_use]
    pub fn wanted(&self) -> (usize, usize) {
        self.tables.wanted()
    }

    /// The same by family and table.
    pub fn wanted_by_table(&self) -> impl Iterator<Item = (Family, Table, usize, usize)> + '_ {
        self.tables.wanted_by_table()
    }

    /// How many sets of a family should be there.
    #[must_use]
    pub fn wanted_sets_of(&self, family: Family) -> usize {
        self.sets.wanted_of(family)
    }

    /// How many sets should be there.
    #[must_use]
    pub fn wanted_sets(&self) -> usize {
        self.sets.wanted()
    }

    /// What becomes readable when [`Driver::notice`] should be called, if there is a watch.
    #[must_use]
    pub fn watch(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(AsFd::as_fd)
    }
}

/// Removes everything of ours from the tables that these programs write, and nothing else. Tables that are not there are not
/// made. For the variant that is no longer used, after the other one's rules are in force, and for an uninstallation.
///
/// # Errors
/// What could not be removed.
pub fn clean_tables(tools: &Toolset) -> Result<Applied, Failures> {
    let mut tables = Tables::new(tools.families());
    let (mut applied, mut failures) = (Applied::default(), Vec::new());
    tables.apply(tools, &mut Vec::new(), &mut applied, &mut failures);
    if failures.is_empty() {
        Ok(applied)
    } else {
        Err(Failures {
            failures,
            applied: Box::new(applied),
        })
    }
}

/// Removes all IP sets of ours that no rule names, and returns the names of the others. After the tables are clean.
///
/// # Errors
/// The kernel refused otherwise, or does not answer.
pub fn clean_sets() -> Result<Vec<String>, DriverError> {
    let mut ipsets = Ipsets::open()?;
    let (mut sets, mut applied) = (Sets::default(), Applied::default());
    sets.prepare(&mut ipsets, &mut applied)?;
    sets.retire(&mut ipsets, &mut applied)?;
    Ok(applied.kept_sets)
}

/// Tries until it succeeds, fails in a way that does not pass by itself, or was tried often enough.
fn persistently<Outcome>(
    mut attempt: impl FnMut() -> Result<Outcome, DriverError>,
) -> Result<Outcome, DriverError> {
    let mut delay = FIRST_DELAY;
    for _ in 1..TRIES {
        match attempt() {
            Err(error) if error.is_passing() => {
                tracing::debug!(%error, ?delay, "trying again");
                std::thread::sleep(delay);
                delay = (delay * 2).min(LONGEST_DELAY);
            }
            outcome => return outcome,
        }
    }
    attempt()
}
