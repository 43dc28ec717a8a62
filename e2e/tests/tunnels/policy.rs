//! Policy across nodes judges the pod's own address, however it travels.

use crate::{Case, cases};
use e2e::fabric::{Fabric, Family, TEAM, WayOut};
use e2e::manifest::{allow_from, allow_to, egress, ingress, nets, policy, selected};
use policy_model::{PolicyRule, Resource};

/// Pods of the first node, and one of the second.
const FRIEND: usize = 0;
const OTHER: usize = 1;

fn fabric(case: Case) -> Fabric {
    let mut fabric = case.fabric(WayOut::Nat);
    fabric.connect(0, "role=friend");
    fabric.connect(0, "role=other");
    fabric.connect(1, "role=server");
    fabric.connect(1, "role=open");
    fabric.apply();
    fabric
}

/// The first may speak to the server and the second may not, and both may speak to its open neighbour.
fn only(fabric: &Fabric, case: Case, allowed: usize, denied: usize, what: &str) {
    let (server, open) = (&fabric.pod(1, 0).spot, &fabric.pod(1, 1).spot);
    let (allowed, denied) = (fabric.pod(0, allowed), fabric.pod(0, denied));
    for family in Family::BOTH {
        let heard = allowed.spot.reaches(server, family);
        assert_eq!(heard, allowed.address(family), "{case:?} {what}");
        denied.spot.reaches(open, family);
        let kept = denied.spot.is_kept_from(server, family, &allowed.spot, server);
        assert!(kept, "{case:?} {what} {family:?}: {} is denied", denied.name);
    }
}

fn server(rules: Vec<PolicyRule>) -> Resource {
    policy(TEAM, "server", ingress("role == 'server'", rules))
}

#[test]
fn a_pod_is_judged_by_its_own_address_in_every_mode() {
    for case in cases() {
        let mut fabric = fabric(case);
        fabric.program(vec![server(vec![allow_from(selected("role == 'friend'"))])]);
        only(&fabric, case, FRIEND, OTHER, "by label");
        fabric.program(vec![server(vec![allow_from(selected("role == 'other'"))])]);
        only(&fabric, case, OTHER, FRIEND, "by the other's label");
        let own = Family::BOTH.map(|family| fabric.pod(0, FRIEND).address(family).to_string());
        fabric.program(vec![server(vec![allow_from(nets(&own.join(" ")))])]);
        only(&fabric, case, FRIEND, OTHER, "by address");
    }
}

#[test]
fn what_a_pod_may_say_is_judged_before_it_is_wrapped() {
    for case in cases() {
        let mut fabric = fabric(case);
        // Addresses of nodes are in no policy: were the wrapped packet judged, it would be denied or all would pass.
        let to_server = policy(
            TEAM,
            "friend",
            egress("role == 'friend'", vec![allow_to(selected("role == 'server'"))]),
        );
        let to_open = policy(
            TEAM,
            "other",
            egress("role == 'other'", vec![allow_to(selected("role == 'open'"))]),
        );
        fabric.program(vec![to_server, to_open]);
        only(&fabric, case, FRIEND, OTHER, "egress");
    }
}
