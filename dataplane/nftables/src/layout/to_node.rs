//! What comes to the node's own programs.
//!
//! The whole of a tunnel's traffic passes here, packet by packet, since it belongs to no connection: it is let in at the
//! first rule. Of everything else one question is asked, whether it comes from a workload.

use super::names::{FROM_WL, NOTHING, TO_NODE, TUNNELS};
use super::nat;
use super::settings::LayoutSettings;
use super::skeleton::{
    NEIGHBOUR_DISCOVERY, beginning_of_a_connection, connection_rules, from_workloads, midstream_rule,
    not_allowed, refuse, rule, verdict,
};
use crate::wire::{Expr, Verdict, ct_state, drop_counted, icmpv6_type, set_priority};
use dataplane_tables::{EndpointToHost, TunnelsInUse};

/// The rules of the base chain.
pub(super) fn input_rules(tunnels: TunnelsInUse, settings: &LayoutSettings) -> Vec<Vec<Expr>> {
    let mut rules = Vec::new();
    if tunnels.any() {
        // Before anything that asks for the connection: a stranger's packets make one like anybody's.
        rules.push(vec![Expr::jump(TUNNELS)]);
    }
    rules.push(beginning_of_a_connection());
    rules.extend(from_workloads(settings, TO_NODE));
    rules
}

/// The rules for packets that come from workloads.
pub(super) fn workload_rules(settings: &LayoutSettings) -> Vec<Vec<Expr>> {
    let mut rules = connection_rules(settings, ct_state::ESTABLISHED | ct_state::RELATED);
    rules.push(nat::loopback_is_not_outside());
    if settings.refuse_midstream {
        rules.push(midstream_rule(Vec::new()));
    }
    for kind in NEIGHBOUR_DISCOVERY {
        rules.push(rule([icmpv6_type(kind), verdict(Verdict::Accept)]));
    }
    rules.push(set_priority(NOTHING).to_vec());
    rules.push(vec![Expr::jump(FROM_WL)]);
    rules.push(rule([not_allowed(), refuse(settings.refusal)]));
    rules.push(set_priority(NOTHING).to_vec());
    match settings.endpoint_to_host {
        EndpointToHost::Drop => rules.push(drop_counted().to_vec()),
        EndpointToHost::Accept => rules.push(verdict(Verdict::Accept)),
        EndpointToHost::Return => {}
    }
    rules
}
