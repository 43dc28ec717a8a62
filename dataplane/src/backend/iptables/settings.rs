//! What an operator may choose of iptables, and what follows from it.

use crate::settings::{DataplaneSettings, FlowsOnPolicyChange};
use dataplane_iptables::layout::{AllowAction, LayoutSettings, Marks};
use dataplane_iptables::ops::Place;
use dataplane_iptables::programs::{BackendChoice, ProgramSettings, Variant};
use std::time::Duration;

/// How long after a write of ours everything is looked at once more, if nobody says: what somebody else wrote at the same
/// moment may have gone unnoticed.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// Settings of the iptables driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IptablesSettings {
    /// Whose programs are used. Auto looks at what others have in the tables when the programs are looked for.
    pub choice: BackendChoice,
    /// Where the programs are and how they are run. Of a family that the kernel does not speak none are needed.
    pub programs: ProgramSettings,
    /// The bits of packet marks that are ours.
    pub marks: Marks,
    /// Where the rules stand that lead from the kernel's chains to ours.
    pub place: Place,
    /// What happens to a packet that is allowed.
    pub allow: AllowAction,
    /// Most members that an IP set takes.
    pub max_set_elements: u32,
    /// How long after a write everything is looked at once more; zero is never.
    pub look_after: Duration,
}

impl IptablesSettings {
    /// What nobody said anything about, with the programs of a variant.
    pub fn of(variant: Variant) -> Self {
        IptablesSettings {
            choice: variant.into(),
            programs: ProgramSettings::default(),
            marks: Marks::default(),
            place: Place::default(),
            allow: AllowAction::default(),
            max_set_elements: LayoutSettings::default().max_set_elements,
            look_after: LOOK_AFTER,
        }
    }

    pub(super) fn layout(&self, settings: &DataplaneSettings) -> LayoutSettings {
        let usual = LayoutSettings::default();
        let at_most = usize::try_from(self.max_set_elements).unwrap_or(usize::MAX);
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
            max_set_elements: self.max_set_elements,
            max_merged_elements: usual.max_merged_elements.min(at_most),
        }
    }
}
