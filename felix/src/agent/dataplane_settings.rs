//! What the settings say of the kernel side, in the dataplane's terms.

use super::tunnel_settings;
use super::wiring::may_spoof;
use crate::rules::{self, Chosen, IPTABLES_DIFFERS};
use crate::settings::Settings;
use crate::settings::parse::{DenyAction, EndpointToHostAction, FlowsOnPolicyChange as FlowsSetting};
use dataplane::{DataplaneSettings, FlowsOnPolicyChange, RulesBackend};
use dataplane_netlink::workload::WorkloadSettings;
use dataplane_nftables::layout::{EndpointToHost, Refusal};

/// The settings of the dataplane on this node; says what was chosen and what cannot be honoured.
pub(super) fn dataplane_settings(settings: &Settings, workloads: &WorkloadSettings) -> DataplaneSettings {
    let (tunnels, warnings) = tunnel_settings::of_tunnels(settings);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let chosen = Chosen::here(settings);
    tracing::info!("{}", chosen.sentence());
    let refusal = match chosen.backend {
        RulesBackend::Nftables => settings.nftables_filter_deny_action,
        RulesBackend::Iptables(_) => {
            tracing::info!("{IPTABLES_DIFFERS}");
            settings.iptables_filter_deny_action
        }
    };
    DataplaneSettings {
        rules: chosen.backend,
        programs: rules::programs(settings),
        tunnels,
        outgoing: tunnel_settings::of_outgoing(settings),
        tunnels_from_workloads: tunnel_settings::of_workloads(settings),
        workloads: workloads.clone(),
        endpoint_to_host: match settings.default_endpoint_to_host_action {
            EndpointToHostAction::Drop => EndpointToHost::Drop,
            EndpointToHostAction::Return => EndpointToHost::Return,
            EndpointToHostAction::Accept => EndpointToHost::Accept,
        },
        refusal: match refusal {
            DenyAction::Drop => Refusal::Drop,
            DenyAction::Reject => Refusal::Reject,
        },
        flows_on_policy_change: match settings.flows_on_policy_change {
            FlowsSetting::Keep => FlowsOnPolicyChange::Keep,
            FlowsSetting::Recheck => FlowsOnPolicyChange::Recheck,
        },
        drop_invalid: !settings.disable_conntrack_invalid_check,
        owned_table: settings.nftables_owned_table,
        source_spoofing: may_spoof(settings),
        ..DataplaneSettings::default()
    }
}
