//! Calculation, decision tables and nftables driver of one node in this process, with the time that each takes.

use anyhow::Context;
use dataplane::DataplaneSettings;
use dataplane_api::Update;
use dataplane_nftables::layout::LayoutSettings;
use dataplane_nftables::{Driver, DriverSettings};
use dataplane_tables::{Changes, Tables};
use felix_calc::{CalcConfig, CalcGraph};
use policy_model::{Key, Resource};
use std::time::{Duration, Instant};

/// How far the driver's clock goes on at [`Brain::settle`]: past every grace time.
const GRACE: u64 = 10_000;

/// One change of what the datastore holds.
#[derive(Clone, Debug)]
pub enum Change {
    /// An object comes or is replaced.
    Upsert(Box<Resource>),
    /// An object goes.
    Delete(Key),
}

impl From<Resource> for Change {
    fn from(resource: Resource) -> Self {
        Change::Upsert(Box::new(resource))
    }
}

/// The time that each part took for a change.
#[derive(Clone, Copy, Debug, Default)]
pub struct Phases {
    /// From the change to the updates for the dataplane.
    pub calculation: Duration,
    /// The decision tables.
    pub tables: Duration,
    /// Planning and encoding.
    pub driver: Duration,
    /// The kernel's transactions.
    pub kernel: Duration,
    /// How many transactions.
    pub transactions: usize,
    /// How many updates crossed the wall.
    pub updates: usize,
}

impl Phases {
    /// What the agent itself took.
    pub fn agent(&self) -> Duration {
        self.calculation + self.tables + self.driver
    }

    /// All of it.
    pub fn whole(&self) -> Duration {
        self.agent() + self.kernel
    }
}

/// The policy side of one node's agent.
pub struct Brain {
    /// The calculation graph.
    pub calculation: CalcGraph,
    /// The decision tables.
    pub tables: Tables,
    driver: Driver,
    now: u64,
}

impl Brain {
    /// The agent's parts for a node, in the calling thread's network namespace. Nothing is written yet.
    ///
    /// # Errors
    /// The kernel gives no socket.
    pub fn open(node: &str) -> anyhow::Result<Self> {
        let layout = LayoutSettings {
            intervals_in_place: DataplaneSettings::default().intervals_in_place,
            ..LayoutSettings::default()
        };
        // Not owned: the rules are to stay while packets are measured, whoever holds the socket.
        let driver =
            Driver::open(DriverSettings { layout, owned: false }).context("opening the nftables driver")?;
        Ok(Brain {
            calculation: CalcGraph::new(CalcConfig::for_node(node)),
            tables: Tables::new(),
            driver,
            now: 0,
        })
    }

    /// Hands one change to the graph.
    ///
    /// # Errors
    /// The object is not valid: a defect of the benchmark.
    pub fn take(&mut self, change: Change) -> anyhow::Result<()> {
        match change {
            Change::Upsert(resource) => self
                .calculation
                .on_upsert(*resource)
                .map_err(|fault| anyhow::anyhow!("{fault}")),
            Change::Delete(key) => {
                self.calculation.on_delete(&key);
                Ok(())
            }
        }
    }

    /// Brings everything said so far into the kernel for the first time.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn begin(&mut self, changes: impl IntoIterator<Item = Resource>) -> anyhow::Result<Phases> {
        for resource in changes {
            self.take(resource.into())?;
        }
        self.calculation.on_in_sync();
        self.pass(Vec::new())
    }

    /// Carries changes from the graph to the kernel.
    ///
    /// # Errors
    /// An object is not valid, or the kernel refused.
    pub fn pass(&mut self, changes: Vec<Change>) -> anyhow::Result<Phases> {
        let mut updates = Vec::new();
        let begun = Instant::now();
        for change in changes {
            self.take(change)?;
        }
        self.calculation.flush(&mut updates);
        let mut phases = Phases {
            calculation: begun.elapsed(),
            updates: updates.len(),
            ..Phases::default()
        };
        self.load(&updates, &mut phases)?;
        Ok(phases)
    }

    /// Carries updates from the wall to the kernel.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn load(&mut self, updates: &[Update], phases: &mut Phases) -> anyhow::Result<()> {
        let begun = Instant::now();
        for update in updates {
            self.tables.apply(update);
        }
        let changes = self.tables.commit();
        phases.tables = begun.elapsed();
        self.program(&changes, phases)
    }

    /// Carries a commit of the decision tables into the kernel.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn program(&mut self, changes: &Changes, phases: &mut Phases) -> anyhow::Result<()> {
        let begun = Instant::now();
        let applied = self
            .driver
            .apply(&self.tables, changes, self.now)
            .context("programming the kernel")?;
        phases.kernel = applied.kernel;
        phases.driver = begun.elapsed().saturating_sub(applied.kernel);
        phases.transactions = applied.transactions;
        Ok(())
    }

    /// Removes what no packet can hold any more, as the agent does after the grace time. Returns how long the agent
    /// and the kernel took.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn settle(&mut self) -> anyhow::Result<Phases> {
        let mut phases = Phases::default();
        while self.driver.next_retirement().is_some() {
            self.now += GRACE;
            let begun = Instant::now();
            let applied = self
                .driver
                .retire(&self.tables, self.now)
                .context("removing what is not used any more")?;
            phases.kernel += applied.kernel;
            phases.driver += begun.elapsed().saturating_sub(applied.kernel);
            phases.transactions += applied.transactions;
        }
        Ok(phases)
    }

    /// Groups, rows and identities, for notes.
    pub fn size(&self) -> String {
        let state = self.driver.planner().state();
        let entries: usize = state
            .ingress
            .values()
            .chain(state.egress.values())
            .map(|g| g.entries.len())
            .sum();
        let (v4, v6) = self.tables.peers().address_counts();
        format!(
            "{} addresses, {} groups with {entries} entries, {} rows",
            v4 + v6,
            state.ingress.len() + state.egress.len(),
            state.rows.len(),
        )
    }
}
