//! What other ways to hold policy have in the kernel of ours: an earlier life's, which had other settings.
//!
//! It goes when the new rules are in force. As long as both are there a packet has to pass both, so that nothing is open
//! meanwhile; and a life that dies between leaves both, and the next one looks again. Nothing is remembered anywhere but in
//! the kernel.
//!
//! Most nodes never had another way, so looking is cheap there: netlink tells of chains in nf_tables and of IP sets, and
//! programs are started only where something speaks for rules of ours. Rules of ours in iptables always come with IP sets.

use dataplane_iptables::driver::{Failures, clean_sets, clean_tables};
use dataplane_iptables::ipset::Ipsets;
use dataplane_iptables::ops::{Family, Table};
use dataplane_iptables::ours::{is_our_chain, is_our_set};
use dataplane_iptables::programs::{Found, ProgramSettings, Variant, find};
use dataplane_netlink::chain;
use dataplane_nftables::layout::names::TABLE;
use dataplane_nftables::socket::Link;
use dataplane_nftables::wire::Family as NfFamily;
use std::path::Path;

/// What is there where the kernel speaks IPv6.
const IPV6: &str = "/proc/sys/net/ipv6";
/// What is there once the kernel has IP sets.
const IP_SETS: &str = "/sys/module/ip_set";
/// The names of the old interface's tables in this network namespace, by family.
const OLD_TABLES: [&str; 2] = [
    "/proc/thread-self/net/ip_tables_names",
    "/proc/thread-self/net/ip6_tables_names",
];

/// A way to hold policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RulesKind {
    /// A table in nf_tables.
    Nftables,
    /// Chains in the tables of a variant of iptables.
    Iptables(Variant),
}

/// What a removal did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// What was removed, a sentence each.
    pub removed: Vec<String>,
    /// What could not be looked at though nothing speaks for it, and what stays because others use it.
    pub notes: Vec<String>,
    /// What is there and could not be removed, each with the reason. Call again.
    pub failures: Vec<String>,
}

/// Removes everything of ours from nf_tables, iptables (both variants) and the IP sets, but for what belongs to the way to
/// hold policy that is kept, in the network namespace of the calling thread; and nothing of others. Programs that are missing
/// are no failure where nothing speaks for rules of ours in their tables.
pub fn remove_rules_but(kept: Option<RulesKind>, programs: &ProgramSettings) -> Removal {
    let mut removal = Removal::default();
    if kept != Some(RulesKind::Nftables) && has_our_table() {
        match dataplane_nftables::cleanup() {
            Ok(true) => removal
                .removed
                .push(format!("removed the nftables table '{TABLE}'")),
            Ok(false) => {}
            Err(error) => removal.fail(&format!("removing the nftables table '{TABLE}'"), &error),
        }
    }
    // IP sets belong to both variants.
    let keeps_sets = matches!(kept, Some(RulesKind::Iptables(_)));
    let has_sets = has_our_sets();
    let has_chains = has_our_chains();
    let mut found: Option<Found> = None;
    for variant in Variant::ALL {
        if kept == Some(RulesKind::Iptables(variant)) {
            continue;
        }
        let (may_be_there, is_there) = match variant {
            // Sets that nobody else's rules explain.
            Variant::Legacy => (has_old_tables() && has_sets, !keeps_sets && !has_chains),
            Variant::Nft => (has_chains, true),
        };
        if !may_be_there {
            continue;
        }
        let found = found.get_or_insert_with(|| find(&in_use(programs)));
        removal.of_variant(variant, found, is_there);
    }
    if !keeps_sets && has_sets && removal.failures.is_empty() {
        match clean_sets() {
            Ok(others) if others.is_empty() => removal.removed.push("removed our IP sets".to_owned()),
            Ok(others) => removal.notes.push(format!(
                "rules of others name these IP sets, which stay: {}",
                others.join(", ")
            )),
            Err(error) => removal.fail("removing our IP sets", &error),
        }
    }
    removal
}

impl Removal {
    fn of_variant(&mut self, variant: Variant, found: &Found, is_there: bool) {
        let what = format!("our chains in iptables ({variant})");
        match found.variant(variant) {
            Ok(tools) => match clean_tables(tools) {
                Ok(applied) if applied.restores > 0 => self.removed.push(format!("removed {what}")),
                Ok(_) => {}
                Err(failures) => self.failures.push(said(&what, &failures)),
            },
            Err(error) if is_there => self.fail(&format!("removing {what}"), error),
            Err(error) => self.notes.push(format!(
                "whether an earlier life left chains in iptables ({variant}) cannot be seen: {}",
                chain(error)
            )),
        }
    }

    fn fail(&mut self, doing: &str, error: &dyn std::error::Error) {
        self.failures.push(format!("{doing}: {}", chain(error)));
    }
}

fn said(what: &str, failures: &Failures) -> String {
    format!("removing {what}: {failures}")
}

/// The programs of the families that the kernel speaks.
pub(super) fn in_use(programs: &ProgramSettings) -> ProgramSettings {
    let mut programs = programs.clone();
    let speaks_ipv6 = Path::new(IPV6).exists();
    programs
        .families
        .retain(|family| *family == Family::Inet || speaks_ipv6);
    programs
}

/// Whether nf_tables has our table. A kernel without nf_tables has none.
fn has_our_table() -> bool {
    let tables = Link::open()
        .ok()
        .and_then(|mut link| link.tables(NfFamily::Inet).ok());
    tables.is_some_and(|tables| tables.iter().any(|table| table.name == TABLE))
}

/// Whether the tables that the newer variant writes have chains of ours.
fn has_our_chains() -> bool {
    let Ok(mut link) = Link::open() else {
        return false;
    };
    [NfFamily::Ipv4, NfFamily::Ipv6].into_iter().any(|family| {
        let tables = link.tables(family).unwrap_or_default();
        let written = tables
            .iter()
            .filter(|found| Table::ALL.iter().any(|table| table.name() == found.name));
        let names: Vec<String> = written.map(|found| found.name.clone()).collect();
        names.iter().any(|name| {
            let chains = link.chains(family, name).unwrap_or_default();
            chains.iter().any(|chain| is_our_chain(&chain.name))
        })
    })
}

fn has_old_tables() -> bool {
    let is_used =
        |file: &&'static str| std::fs::read_to_string(file).is_ok_and(|names| !names.trim().is_empty());
    OLD_TABLES.iter().any(is_used)
}

fn has_our_sets() -> bool {
    // Asking a kernel that has no sets yet would have it load them.
    if !Path::new(IP_SETS).exists() {
        return false;
    }
    let headers = Ipsets::open().and_then(|mut sets| sets.headers());
    headers.is_ok_and(|headers| headers.iter().any(|header| is_our_set(&header.name)))
}
