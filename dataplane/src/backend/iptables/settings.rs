//! What an operator may choose of iptables, and what follows from it.

use crate::settings::{DataplaneSettings, FlowsOnPolicyChange};
use dataplane_iptables::layout::{AllowAction, LayoutSettings, Marks};
use dataplane_iptables::ops::{Family, Place};
use dataplane_iptables::programs::{ProgramSettings, Variant};
use std::path::Path;

/// What is there where the kernel speaks IPv6.
const IPV6: &str = "/proc/sys/net/ipv6";

/// Settings of the iptables driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IptablesSettings {
    /// Whose programs are used.
    pub variant: Variant,
    /// Where the programs are and how they are run. Of a family that the kernel does not speak none are needed.
    pub programs: ProgramSettings,
    /// The bits of packet marks that are ours.
    pub marks: Marks,
    /// Where the rules stand that lead from the kernel's chains to ours.
    pub place: Place,
    /// What happens to a packet that is allowed.
    pub allow: AllowAction,
}

impl IptablesSettings {
    /// What nobody said anything about, with the programs of a variant.
    pub fn of(variant: Variant) -> Self {
        IptablesSettings {
            variant,
            programs: ProgramSettings::default(),
            marks: Marks::default(),
            place: Place::default(),
            allow: AllowAction::default(),
        }
    }

    /// The programs of the families that the kernel speaks.
    pub(super) fn programs_in_use(&self) -> ProgramSettings {
        let mut programs = self.programs.clone();
        let speaks_ipv6 = Path::new(IPV6).exists();
        programs
            .families
            .retain(|family| *family == Family::Inet || speaks_ipv6);
        programs
    }

    pub(super) fn layout(&self, settings: &DataplaneSettings) -> LayoutSettings {
        LayoutSettings {
            interface_prefixes: settings.interface_prefixes(),
            endpoint_to_host: settings.endpoint_to_host,
            refusal: settings.refusal,
            allow: self.allow,
            place: self.place,
            marks: self.marks,
            refuse_midstream: settings.flows_on_policy_change == FlowsOnPolicyChange::Recheck,
            drop_invalid: settings.drop_invalid,
            source_spoofing: settings.source_spoofing,
            outgoing: settings.outgoing,
            vxlan_port: settings.tunnels.vxlan_port,
            vxlan_vni: settings.tunnels.vxlan_vni.number(),
            tunnels_from_workloads: settings.tunnels_from_workloads,
            ..LayoutSettings::default()
        }
    }
}
