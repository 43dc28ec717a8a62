//! What was done with iptables since the start, for metrics.

use dataplane_iptables::driver::Applied;
use std::time::Duration;

/// What was done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IptablesCounts {
    /// Calls of `iptables-restore`.
    pub restores: u64,
    /// How many of them failed, also those that succeeded when they were tried again.
    pub restore_errors: u64,
    /// How long all of them took, with their waiting for the lock.
    pub restore_time: Duration,
    /// How often the lock was waited for in vain.
    pub lock_timeouts: u64,
    /// Lines that they were given.
    pub lines: u64,
    /// Calls of `iptables-save`.
    pub saves: u64,
    /// How many of them failed.
    pub save_errors: u64,
    /// Operations on IP sets.
    pub set_operations: u64,
    /// How often operations on IP sets failed, though they were tried several times.
    pub set_errors: u64,
    /// Chains, rules and sets that somebody else had changed and that were mended.
    pub mended: u64,
}

impl IptablesCounts {
    pub(super) fn add(&mut self, done: &Applied) {
        let Applied {
            restores,
            restore_errors,
            restore_time,
            lock_timeouts,
            lines,
            saves,
            save_errors,
            set_operations,
            set_errors,
            mended,
            // Among those that were mended.
            tampered: _,
            kept_sets: _,
        } = done;
        let count = |number: &usize| u64::try_from(*number).unwrap_or(u64::MAX);
        self.restores += count(restores);
        self.restore_errors += count(restore_errors);
        self.restore_time += *restore_time;
        self.lock_timeouts += count(lock_timeouts);
        self.lines += count(lines);
        self.saves += count(saves);
        self.save_errors += count(save_errors);
        self.set_operations += count(set_operations);
        self.set_errors += count(set_errors);
        self.mended += count(mended);
    }
}
