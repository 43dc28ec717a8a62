//! What an operator may choose about the kernel side.

use crate::backend::RulesBackend;
use crate::tunnels::TunnelSettings;
use dataplane_iptables::programs::ProgramSettings;
use dataplane_netlink::workload::WorkloadSettings;
use dataplane_tables::{EndpointToHost, Outgoing, Refusal, TunnelsFromWorkloads};

/// What happens to established flows that a changed policy would not let begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlowsOnPolicyChange {
    /// They go on.
    #[default]
    Keep,
    /// They end.
    Recheck,
}

/// Settings of the dataplane.
#[derive(Clone, Debug)]
pub struct DataplaneSettings {
    /// What holds policy in the kernel.
    pub rules: RulesBackend,
    /// The programs of iptables, for what an earlier life left there that held policy otherwise.
    pub programs: ProgramSettings,
    /// How workload interfaces and routes are made and recognised.
    pub workloads: WorkloadSettings,
    /// What happens to a workload's packet to its own node, once its egress policy let it pass.
    pub endpoint_to_host: EndpointToHost,
    /// What happens to a packet that policy denies.
    pub refusal: Refusal,
    /// What happens to established flows when policy changes.
    pub flows_on_policy_change: FlowsOnPolicyChange,
    /// Whether packets with an invalid connection-tracking state are dropped.
    pub drop_invalid: bool,
    /// Whether our nftables table is closed to others, where the kernel has that.
    pub owned_table: bool,
    /// Whether interval maps are changed in place; otherwise a twin is built. Safe from Linux 6.18 on.
    pub intervals_in_place: bool,
    /// Whether a workload may also send from the networks that its endpoint names beside its addresses.
    pub source_spoofing: bool,
    /// Tunnels between nodes.
    pub tunnels: TunnelSettings,
    /// How packets that leave all pools take an address of the node.
    pub outgoing: Outgoing,
    /// Which tunnelled packets workloads may send themselves.
    pub tunnels_from_workloads: TunnelsFromWorkloads,
}

impl Default for DataplaneSettings {
    fn default() -> Self {
        DataplaneSettings {
            rules: RulesBackend::default(),
            programs: ProgramSettings::default(),
            workloads: WorkloadSettings::default(),
            endpoint_to_host: EndpointToHost::Drop,
            refusal: Refusal::Drop,
            flows_on_policy_change: FlowsOnPolicyChange::Keep,
            drop_invalid: true,
            owned_table: true,
            intervals_in_place: intervals_in_place_are_safe(),
            source_spoofing: false,
            tunnels: TunnelSettings::default(),
            outgoing: Outgoing::default(),
            tunnels_from_workloads: TunnelsFromWorkloads::default(),
        }
    }
}

impl DataplaneSettings {
    /// How the names of workloads' interfaces begin.
    pub(crate) fn interface_prefixes(&self) -> Vec<String> {
        let prefixes = self.workloads.ownership.prefixes.iter();
        prefixes.map(str::to_string).collect()
    }
}

/// Whether the running kernel changes an interval of a map in one moment.
///
/// Measured: none of three million packets saw a half-made interval on Linux 6.18, and 1.1 % of them did on 6.1. What
/// lies between was not measured, so only 6.18 and newer count as safe.
pub(crate) fn intervals_in_place_are_safe() -> bool {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").is_ok_and(|release| are_safe_in(&release))
}

/// The same of a kernel by its release, such as `6.1.0-56-amd64`; one that is not understood counts as unsafe.
fn are_safe_in(release: &str) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 18)
}

#[cfg(test)]
mod tests {
    use super::are_safe_in;

    #[test]
    fn only_a_kernel_that_was_measured_or_is_newer_changes_intervals_in_place() {
        for safe in ["6.18.0", "6.18.44-fc-v657", "6.20.1", "7.0.0-rc1", "10.1"] {
            assert!(are_safe_in(safe), "{safe}");
        }
        for unsafe_one in [
            "6.1.0-56-amd64",
            "6.17.9",
            "5.18.1",
            "6.2",
            "6",
            "",
            "unknown",
            "v6.18",
        ] {
            assert!(!are_safe_in(unsafe_one), "{unsafe_one}");
        }
    }
}
