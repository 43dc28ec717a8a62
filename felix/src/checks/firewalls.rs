//! Other tables that drop what Manx accepts, and other agents.
//!
//! In nftables an accept ends one chain, not the hook: a packet passes only if every chain of the hook lets it. So a
//! firewall that drops what it does not know of keeps the packets of pods from arriving, whatever Manx says.

use super::machine::accept_commands;
use super::{Finding, Severity, chain};
use dataplane_iptables::names::FORWARD;
use dataplane_iptables::ours::is_our_chain;
use dataplane_iptables::programs::Variant;
use dataplane_nftables::layout::names::TABLE;
use dataplane_nftables::socket::{DumpError, Link};
use dataplane_nftables::wire::{
    Expr, Family, Hook, MetaKey, ObservedChain, ObservedRule, ObservedTable, Policy, Register, Verdict,
};

const FAMILIES: [(Family, &str); 3] = [
    (Family::Inet, "inet"),
    (Family::Ipv4, "ip"),
    (Family::Ipv6, "ip6"),
];
const NAME: &str = "other-firewalls";

/// The findings, of the calling thread's network namespace. `held` is the variant of iptables in which policy is held.
pub(super) fn findings(prefixes: &[String], held: Option<Variant>) -> Vec<Finding> {
    let mut link = match Link::open() {
        Ok(link) => link,
        Err(error) => return vec![Finding::unseen(NAME, chain(&error), "run it as root")],
    };
    match look(&mut link, prefixes, held) {
        Ok(findings) => findings,
        Err(error) => vec![Finding::unseen(NAME, chain(&error), "run it as root")],
    }
}

fn look(link: &mut Link, prefixes: &[String], held: Option<Variant>) -> Result<Vec<Finding>, DumpError> {
    let mut findings = Vec::new();
    if let Some(variant) = held {
        findings.push(Finding::ok(
            "felix",
            format!("policy is held in iptables ({variant})"),
        ));
    }
    for (family, word) in FAMILIES {
        for table in link
            .tables(family)?
            .into_iter()
            .filter(|table| table.family == family)
        {
            if family == Family::Inet && table.name == TABLE {
                findings.push(ours(&table));
                continue;
            }
            let chains = link.chains(family, &table.name)?;
            if is_of_calico(&table, &chains, held) {
                findings.push(Finding::new(
                    "other-agents",
                    Severity::Warning,
                    format!(
                        "nftables table '{word} {}' has chains of Calico's agent",
                        table.name
                    ),
                    "let only one agent police a node: stop Calico's, and remove what it left",
                ));
            }
            for chain in chains.iter().filter(|chain| is_forward(chain)) {
                let rules = link.rules_of(family, &table.name, &chain.name)?;
                // What ours accepts there, nothing behind it in the same chain drops.
                if !rules.iter().any(leads_to_ours) {
                    findings.extend(dropping(word, chain, &rules, prefixes));
                }
            }
        }
    }
    if !findings.iter().any(|finding| finding.name == NAME) {
        findings.push(Finding::ok(
            NAME,
            "no other nftables chain drops forwarded packets by default",
        ));
    }
    Ok(findings)
}

fn ours(table: &ObservedTable) -> Finding {
    match table.owner {
        Some(port) => Finding::ok(
            "felix",
            format!("an agent runs and owns our table (netlink port {port})"),
        ),
        None => Finding::ok("felix", "our table is there"),
    }
}

fn is_of_calico(table: &ObservedTable, chains: &[ObservedChain], held: Option<Variant>) -> bool {
    // Where policy is held in the same tables, chains of that name are ours.
    let has_chains = || chains.iter().any(|chain| is_our_chain(&chain.name));
    table.name == "calico" || (held != Some(Variant::Nft) && has_chains())
}

fn leads_to_ours(rule: &ObservedRule) -> bool {
    let verdicts = rule.expressions.iter();
    let mut targets = verdicts.filter_map(|expr| match expr {
        Expr::Verdict(verdict) => verdict.chain(),
        _ => None,
    });
    targets.any(|target| target == FORWARD)
}

fn is_forward(chain: &ObservedChain) -> bool {
    chain.base.as_ref().is_some_and(|base| base.hook == Hook::Forward)
}

/// What a chain at the forward hook does to the packets of workloads that nobody told it about.
fn dropping(
    family: &str,
    chain: &ObservedChain,
    rules: &[ObservedRule],
    prefixes: &[String],
) -> Option<Finding> {
    let base = chain.base.as_ref()?;
    let why = if base.policy == Policy::Drop {
        "its policy is drop"
    } else if rules
        .last()
        .is_some_and(|rule| refuses_everything(&rule.expressions))
    {
        "its last rule refuses everything"
    } else {
        return None;
    };
    let lets = |key| {
        prefixes
            .iter()
            .all(|prefix| rules.iter().any(|rule| accepts(rule, key, prefix)))
    };
    if lets(MetaKey::InInterfaceName) && lets(MetaKey::OutInterfaceName) {
        return None;
    }
    let ObservedChain { table, name, .. } = chain;
    Some(Finding::new(
        NAME,
        Severity::Warning,
        format!(
            "nftables chain '{family} {table} {name}' (hook forward, priority {}) drops forwarded packets that it does \
             not know: {why}",
            base.priority
        ),
        format!(
            "let it accept what Manx polices: {}",
            remedy(family, table, name, prefixes)
        ),
    ))
}

/// The commands that let workloads' traffic through a chain. iptables' own chains are best changed by iptables.
fn remedy(family: &str, table: &str, chain: &str, prefixes: &[String]) -> String {
    match (family, table, chain) {
        ("ip", "filter", "FORWARD") => return accept_commands("iptables", prefixes),
        ("ip6", "filter", "FORWARD") => return accept_commands("ip6tables", prefixes),
        _ => {}
    }
    let commands: Vec<String> = prefixes
        .iter()
        .flat_map(|prefix| {
            ["iifname", "oifname"]
                .map(|side| format!("nft insert rule {family} {table} {chain} {side} \"{prefix}*\" accept"))
        })
        .collect();
    commands.join("; ")
}

/// Whether a rule has no condition and ends the packet.
fn refuses_everything(expressions: &[Expr]) -> bool {
    let is_end = |expr: &Expr| matches!(expr, Expr::Reject(_) | Expr::Verdict(Verdict::Drop));
    let is_remark = |expr: &Expr| matches!(expr, Expr::Counter { .. } | Expr::Log(_));
    expressions.last().is_some_and(is_end) && expressions.iter().rev().skip(1).all(is_remark)
}

/// Whether a rule accepts everything of the interfaces whose names begin so, on one side.
fn accepts(rule: &ObservedRule, side: MetaKey, prefix: &str) -> bool {
    let mut loaded: Option<Register> = None;
    let mut names = false;
    for expr in &rule.expressions {
        match expr {
            Expr::Meta { key, to } if *key == side => loaded = Some(*to),
            // A shorter value compares a prefix; so does a name that ends in an asterisk's place.
            Expr::Cmp { from, value, .. } if Some(*from) == loaded => {
                let bytes = value.as_bytes();
                names = !bytes.is_empty() && prefix.as_bytes().starts_with(bytes);
            }
            Expr::Counter { .. } | Expr::Log(_) => {}
            Expr::Verdict(Verdict::Accept) => return names,
            // Any other condition makes it accept less.
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane_nftables::wire::{BaseChain, ChainType, drop_counted, interface_starts_with};

    fn chain(policy: Policy) -> ObservedChain {
        ObservedChain {
            family: Family::Ipv4,
            table: "filter".to_string(),
            name: "FORWARD".to_string(),
            handle: 1,
            uses: 0,
            base: Some(BaseChain {
                chain_type: ChainType::Filter,
                hook: Hook::Forward,
                priority: 0,
                policy,
            }),
            comment: None,
        }
    }

    fn rule(expressions: Vec<Expr>) -> ObservedRule {
        ObservedRule {
            family: Family::Ipv4,
            table: "filter".to_string(),
            chain: "FORWARD".to_string(),
            handle: 1,
            after: None,
            expressions,
            comment: None,
        }
    }

    fn accept(key: MetaKey, prefix: &str) -> ObservedRule {
        let mut expressions = interface_starts_with(key, prefix).to_vec();
        expressions.push(Expr::counter());
        expressions.push(Expr::Verdict(Verdict::Accept));
        rule(expressions)
    }

    fn found(policy: Policy, rules: &[ObservedRule]) -> bool {
        dropping("ip", &chain(policy), rules, &["cali".to_string()]).is_some()
    }

    #[test]
    fn a_chain_that_drops_is_found_unless_it_knows_workloads() {
        let (from, to) = (
            accept(MetaKey::InInterfaceName, "cali"),
            accept(MetaKey::OutInterfaceName, "cali"),
        );
        assert!(found(Policy::Drop, &[]));
        assert!(!found(Policy::Accept, &[]));
        assert!(!found(Policy::Drop, &[from.clone(), to.clone()]));
        assert!(
            found(Policy::Drop, std::slice::from_ref(&from)),
            "one side is not enough"
        );
        assert!(found(
            Policy::Drop,
            &[from.clone(), accept(MetaKey::OutInterfaceName, "docker")]
        ));
        assert!(
            !found(Policy::Drop, &[accept(MetaKey::InInterfaceName, "c"), to.clone()]),
            "more than asked"
        );
        let only_tcp = {
            let mut rule = to.clone();
            rule.expressions
                .splice(0..0, dataplane_nftables::wire::only_protocol(6));
            rule
        };
        assert!(found(Policy::Drop, &[from, only_tcp]), "another condition");
        assert!(
            found(Policy::Accept, &[to, rule(drop_counted().to_vec())]),
            "a last rule that drops"
        );
        assert!(!found(Policy::Accept, &[rule(vec![Expr::counter()])]));
    }

    #[test]
    fn the_remedy_names_the_chain_and_the_interfaces() {
        let prefixes = ["cali".to_string(), "tap".to_string()];
        let text = dropping("ip", &chain(Policy::Drop), &[], &prefixes)
            .unwrap()
            .to_string();
        assert!(
            text.contains("'ip filter FORWARD'") && text.contains("iptables -I FORWARD -o tap+ -j ACCEPT"),
            "{text}"
        );
        let text = remedy("inet", "firewalld", "filter_FORWARD", &prefixes);
        assert!(
            text.contains("nft insert rule inet firewalld filter_FORWARD iifname \"cali*\" accept"),
            "{text}"
        );
    }
}
