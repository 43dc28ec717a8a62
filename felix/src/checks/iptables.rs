//! The programs of iptables, and whether policy is held there.

use super::{Finding, Severity, chain};
use dataplane_iptables::ipset::Ipsets;
use dataplane_iptables::names::{VACANT, vacant_addresses};
use dataplane_iptables::ops::Family;
use dataplane_iptables::programs::{ProgramSettings, Variant, find};
use dataplane_nftables::socket::Link;
use dataplane_nftables::wire::Family as NfFamily;
use std::path::Path;

/// What the finding about the programs is called.
pub(super) const IPTABLES: &str = "iptables";
/// What is there once the kernel has IP sets.
const IP_SETS: &str = "/sys/module/ip_set";

/// Which variants' programs are there. They are needed where policy is held in iptables, and nowhere else.
pub(super) fn programs() -> Finding {
    let found = find(&ProgramSettings::default());
    let usable: Vec<String> = Variant::ALL
        .into_iter()
        .filter_map(|variant| found.variant(variant).ok())
        .map(|tools| format!("{} {}", tools.variant, tools.version))
        .collect();
    match (usable.is_empty(), found.nft) {
        (false, _) => Finding::ok(IPTABLES, format!("programs are there: {}", usable.join(", "))),
        (true, Err(error)) => Finding::ok(
            IPTABLES,
            format!("policy can be held in nftables only: {}", chain(&error)),
        ),
        (true, Ok(_)) => Finding::ok(IPTABLES, "policy can be held in nftables only"),
    }
}

/// Where nf_tables does not suffice and iptables can take its place, that is no end.
pub(super) fn replacing(mut findings: Vec<Finding>, programs: &Finding) -> Vec<Finding> {
    if programs.what.starts_with("programs are there") {
        let lacking = findings.iter_mut().filter(|finding| {
            finding.name == super::features::NF_TABLES && finding.severity == Severity::Fatal
        });
        for finding in lacking {
            finding.severity = Severity::Warning;
            finding.what.push_str("; policy is held in iptables here");
        }
    }
    findings
}

/// The variant in which policy is held in the calling thread's network namespace, if it is; by what only Manx makes there.
pub(super) fn held() -> Option<Variant> {
    if is_held_by_nft() {
        return Some(Variant::Nft);
    }
    // Asking a kernel that has no sets yet would have it load them.
    let headers = Path::new(IP_SETS)
        .exists()
        .then(|| Ipsets::open().and_then(|mut sets| sets.headers()))?
        .ok()?;
    let is_ours = |name: &str| {
        Family::BOTH
            .iter()
            .any(|family| name == vacant_addresses(*family))
    };
    let is_asked = headers
        .iter()
        .any(|header| header.references > 0 && is_ours(&header.name));
    is_asked.then_some(Variant::Legacy)
}

fn is_held_by_nft() -> bool {
    let Ok(mut link) = Link::open() else {
        return false;
    };
    [NfFamily::Ipv4, NfFamily::Ipv6].into_iter().any(|family| {
        let chains = link.chains(family, "filter").unwrap_or_default();
        chains.iter().any(|chain| chain.name == VACANT)
    })
}
