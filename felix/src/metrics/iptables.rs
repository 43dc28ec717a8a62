//! What is in iptables and among the IP sets, and what it cost to get it there.

use super::{MetricsError, add, counter, gauge_vec, whole};
use dataplane::{Iptables, IptablesCounts};
use dataplane_iptables::ops::Family;
use prometheus::{Counter, IntCounter, IntGaugeVec, Registry};

/// Metrics of iptables; zero where policy is held otherwise.
#[derive(Clone, Debug)]
pub struct IptablesMetrics {
    chains: IntGaugeVec,
    rules: IntGaugeVec,
    sets: IntGaugeVec,
    restores: IntCounter,
    restore_errors: IntCounter,
    restore_time: Counter,
    lock_timeouts: IntCounter,
    lines: IntCounter,
    saves: IntCounter,
    save_errors: IntCounter,
    set_operations: IntCounter,
    set_errors: IntCounter,
    drift: IntCounter,
}

impl IptablesMetrics {
    pub(super) fn register(to: &Registry) -> Result<Self, MetricsError> {
        let time = "felix_iptables_restore_seconds_total";
        Ok(IptablesMetrics {
            chains: gauge_vec(
                to,
                "felix_iptables_chains",
                "Number of chains in iptables.",
                &["ip_version", "table"],
            )?,
            rules: gauge_vec(
                to,
                "felix_iptables_rules",
                "Number of rules in iptables.",
                &["ip_version", "table"],
            )?,
            sets: gauge_vec(to, "felix_ipsets_calico", "Number of IP sets.", &["ip_version"])?,
            restores: counter(
                to,
                "felix_iptables_restore_calls",
                "Number of iptables-restore calls.",
            )?,
            restore_errors: counter(
                to,
                "felix_iptables_restore_errors",
                "Number of iptables-restore calls that failed, also those that succeeded when they were tried again.",
            )?,
            restore_time: add(
                to,
                time,
                Counter::new(
                    time,
                    "Time that iptables-restore calls took, with their waiting for the lock.",
                ),
            )?,
            lock_timeouts: counter(
                to,
                "felix_iptables_lock_timeouts_total",
                "Number of times that the lock of iptables was waited for in vain.",
            )?,
            lines: counter(
                to,
                "felix_iptables_lines_executed",
                "Number of lines that iptables-restore was given.",
            )?,
            saves: counter(to, "felix_iptables_save_calls", "Number of iptables-save calls.")?,
            save_errors: counter(
                to,
                "felix_iptables_save_errors",
                "Number of iptables-save calls that failed, also those that succeeded when they were tried again.",
            )?,
            set_operations: counter(to, "felix_ipset_calls", "Number of operations on IP sets.")?,
            set_errors: counter(
                to,
                "felix_ipset_errors",
                "Number of times that operations on IP sets failed, though they were tried several times.",
            )?,
            drift: counter(
                to,
                "felix_iptables_drift_total",
                "Number of chains, rules and IP sets of ours that somebody else changed and that were mended.",
            )?,
        })
    }

    /// Says what is in the kernel now, and counts what was done since it was told last.
    pub fn tell(&self, driver: &Iptables, told: &mut IptablesCounts) {
        for (family, table, chains, rules) in driver.size_by_table() {
            let labels = [version(family), table.name()];
            self.chains.with_label_values(&labels).set(whole(chains));
            self.rules.with_label_values(&labels).set(whole(rules));
        }
        for family in Family::BOTH {
            let sets = whole(driver.sets_of(family));
            self.sets.with_label_values(&[version(family)]).set(sets);
        }
        let now = *driver.counts();
        let before = std::mem::replace(told, now);
        let grew = |counter: &IntCounter, of: fn(&IptablesCounts) -> u64| {
            counter.inc_by(of(&now).saturating_sub(of(&before)));
        };
        grew(&self.restores, |counts| counts.restores);
        grew(&self.restore_errors, |counts| counts.restore_errors);
        grew(&self.lock_timeouts, |counts| counts.lock_timeouts);
        grew(&self.lines, |counts| counts.lines);
        grew(&self.saves, |counts| counts.saves);
        grew(&self.save_errors, |counts| counts.save_errors);
        grew(&self.set_operations, |counts| counts.set_operations);
        grew(&self.set_errors, |counts| counts.set_errors);
        grew(&self.drift, |counts| counts.mended);
        let time = now.restore_time.saturating_sub(before.restore_time);
        self.restore_time.inc_by(time.as_secs_f64());
    }
}

fn version(family: Family) -> &'static str {
    match family {
        Family::Inet => "4",
        Family::Inet6 => "6",
    }
}
