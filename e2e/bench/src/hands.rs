//! Calculation and the whole dataplane of one node in this process: policy, interfaces, routes and tunnels.

use crate::brain::Change;
use anyhow::Context;
use dataplane::{Dataplane, DataplaneSettings};
use felix_calc::{CalcConfig, CalcGraph};
use policy_model::Resource;
use std::time::{Duration, Instant};

/// Longer than anything that nobody uses any more stays, in milliseconds.
const GRACE: u64 = 60_000;

/// The time that each half took for a change.
#[derive(Clone, Copy, Debug, Default)]
pub struct Halves {
    /// From the change to the updates for the dataplane.
    pub calculation: Duration,
    /// From these into the kernel.
    pub dataplane: Duration,
}

impl Halves {
    /// Both.
    pub fn whole(&self) -> Duration {
        self.calculation + self.dataplane
    }
}

/// The agent's two halves for a node, in the network namespace of the thread that opened them.
pub struct Hands {
    /// The first half.
    pub calculation: CalcGraph,
    /// The second half.
    pub dataplane: Dataplane,
    now: u64,
}

impl Hands {
    /// Opens both. Nothing is written yet.
    ///
    /// # Errors
    /// The kernel gives no socket.
    pub fn open(node: &str) -> anyhow::Result<Self> {
        // Not owned: the rules are to stay while packets are measured, whoever holds the socket.
        let settings = DataplaneSettings {
            owned_table: false,
            ..DataplaneSettings::default()
        };
        Self::open_with(node, settings)
    }

    /// Opens both, the second as the settings say. Nothing is written yet.
    ///
    /// # Errors
    /// The kernel gives no socket, or programs lack that the settings ask for.
    pub fn open_with(node: &str, settings: DataplaneSettings) -> anyhow::Result<Self> {
        Ok(Hands {
            calculation: CalcGraph::new(CalcConfig::for_node(node)),
            dataplane: Dataplane::open(settings).context("opening the dataplane")?,
            now: 1,
        })
    }

    /// Brings all objects into the kernel for the first time.
    ///
    /// # Errors
    /// An object is not valid, or the kernel refused.
    pub fn begin(&mut self, objects: Vec<Resource>) -> anyhow::Result<Halves> {
        self.pass(objects.into_iter().map(Change::from).collect())
    }

    /// Carries changes into the kernel. The kernel's news is read first, as the agent does before each pass.
    ///
    /// # Errors
    /// An object is not valid, or the kernel refused.
    pub fn pass(&mut self, changes: Vec<Change>) -> anyhow::Result<Halves> {
        let begun = Instant::now();
        self.dataplane
            .take_events()
            .context("reading the kernel's news")?;
        let listened = begun.elapsed();
        let begun = Instant::now();
        for change in changes {
            match change {
                Change::Upsert(resource) => self
                    .calculation
                    .on_upsert(*resource)
                    .map_err(|fault| anyhow::anyhow!("{fault}"))?,
                Change::Delete(key) => self.calculation.on_delete(&key),
            }
        }
        self.calculation.on_in_sync();
        let mut updates = Vec::new();
        self.calculation.flush(&mut updates);
        let calculation = begun.elapsed();
        let begun = Instant::now();
        self.dataplane.take(&updates);
        drop(updates);
        self.now += 1;
        let report = self
            .dataplane
            .apply(self.now)
            .map_err(|error| anyhow::anyhow!("{}", Dataplane::describe(&error)))?;
        anyhow::ensure!(report.faults.is_empty(), "{}", report.faults.join("; "));
        Ok(Halves {
            calculation,
            dataplane: listened + begun.elapsed(),
        })
    }

    /// Removes what nobody uses any more, as the agent does after some time.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn settle(&mut self) -> anyhow::Result<()> {
        while self.dataplane.next_retirement().is_some() {
            self.now += GRACE;
            self.dataplane
                .retire(self.now)
                .map_err(|error| anyhow::anyhow!("{}", Dataplane::describe(&error)))?;
        }
        Ok(())
    }
}
