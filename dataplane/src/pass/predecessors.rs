//! Rules of an earlier life that held policy otherwise: they go once the first pass has put the new ones into force.
//!
//! In force together they refuse more than either, and nothing is open between the two. The other order would leave workloads
//! without policy for a moment.

use super::{ApplyError, Dataplane, PassReport};
use crate::backend::{RulesBackend, RulesKind, remove_rules_but};
use crate::settings::DataplaneSettings;
use dataplane_iptables::programs::ProgramSettings;

/// Whether something of an earlier life is still to be removed.
#[derive(Debug)]
pub(super) struct Predecessors {
    is_due: bool,
    /// What is there and could not be removed.
    faults: Vec<String>,
}

impl Default for Predecessors {
    fn default() -> Self {
        Predecessors {
            is_due: true,
            faults: Vec::new(),
        }
    }
}

impl Predecessors {
    /// Whether a look at them is due.
    pub(super) fn are_due(&self) -> bool {
        self.is_due
    }

    /// Has what could not be removed be tried again.
    pub(super) fn retry(&mut self) {
        self.is_due |= !self.faults.is_empty();
    }
}

impl Dataplane {
    /// Removes what other ways to hold policy have in the kernel of ours. Only once everything is in force.
    pub(super) fn remove_predecessors(&mut self, report: &mut PassReport) -> Result<(), ApplyError> {
        if self.predecessors.is_due
            && let Some(kept) = self.driver.kind()
        {
            let removal = remove_rules_but(Some(kept), programs(&self.settings));
            self.predecessors.is_due = false;
            for line in &removal.removed {
                tracing::info!("another way held policy before: {line}");
            }
            for note in &removal.notes {
                tracing::warn!("{note}");
            }
            self.predecessors.faults = removal.failures;
            let has_left_sets = matches!(kept, RulesKind::Iptables(_)) && !removal.removed.is_empty();
            if has_left_sets {
                // Sets that its rules alone named can go now.
                let applied = self.driver.resync_sets().map_err(ApplyError::Policy)?;
                report.transactions += applied.transactions;
                report.messages += applied.messages;
            }
        }
        report.faults.extend(self.predecessors.faults.iter().cloned());
        Ok(())
    }
}

fn programs(settings: &DataplaneSettings) -> &ProgramSettings {
    match &settings.rules {
        RulesBackend::Nftables => &settings.programs,
        RulesBackend::Iptables(own) => &own.programs,
    }
}
