//! The conventional layout by iptables: one set a selector, one chain a policy, one chain a pod that walks its policies.

use crate::backends::tools;
use crate::selected::{CLIENT_INTERFACE, COUNTS, POLICIES, Style, pods, port_of, server_interface};
use crate::walked::{allowed_by, denied_by};
use anyhow::Context;
use dataplane_iptables::ipset::Ipsets;
use dataplane_iptables::ops::{Family, Member, SetKind, SetOp, SetSpec, Table};
use dataplane_iptables::programs::Variant;
use std::fmt::Write;
use std::net::Ipv4Addr;

/// The set of addresses that each interface may send from.
const OWN: &str = "own";

/// Loads the policies of the servers that at most `most` policies select, in the calling thread's namespace.
///
/// # Errors
/// The programs are not there, or the kernel refused.
pub fn load(variant: Variant, most: usize, style: Style) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let tools = tools(variant, folder.path())?;
    let mut sets = own();
    let mut filter = String::from("*filter\n");
    let mut rules = String::new();
    for policy in 0..most.min(POLICIES) {
        let _ = writeln!(filter, ":pol_{policy} - [0:0]");
        if style == Style::Ordered {
            sets.extend(set(&format!("deny_{policy}"), &denied_by(policy)));
            let _ = writeln!(
                rules,
                "-A pol_{policy} -m set --match-set deny_{policy} src -j DROP"
            );
        }
        sets.extend(set(&format!("sel_{policy}"), &allowed_by(policy)));
        for protocol in ["tcp", "udp"] {
            let _ = writeln!(
                rules,
                "-A pol_{policy} -p {protocol} -m set --match-set sel_{policy} src -m {protocol} --dport {} -j ACCEPT",
                port_of(policy)
            );
        }
    }
    rules.push_str("-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n");
    rules.push_str("-A FORWARD -m conntrack --ctstate INVALID -j DROP\n");
    for (n, count) in COUNTS.iter().enumerate().filter(|(_, count)| **count <= most) {
        let _ = writeln!(filter, ":pod_{n} - [0:0]");
        let _ = writeln!(rules, "-A FORWARD -o {} -g pod_{n}", server_interface(n));
        for policy in 0..*count {
            let _ = writeln!(rules, "-A pod_{n} -j pol_{policy}");
        }
        let _ = writeln!(
            rules,
            "-A pod_{n} -j {}",
            if *count == 0 { "ACCEPT" } else { "DROP" }
        );
    }
    let _ = writeln!(
        rules,
        "-A FORWARD -o {CLIENT_INTERFACE} -j ACCEPT\n-A FORWARD -o cali+ -j DROP"
    );
    let raw = format!(
        "*raw\n:spoof - [0:0]\n-A PREROUTING -i cali+ -j spoof\n\
         -A spoof -m set --match-set {OWN} src,src -j RETURN\n-A spoof -j DROP\nCOMMIT\n"
    );
    Ipsets::open()?.apply(&sets).context("making IP sets")?;
    tools.restore(Family::Inet, Table::Raw, &raw)?;
    tools.restore(Family::Inet, Table::Filter, &format!("{filter}{rules}COMMIT\n"))?;
    Ok(())
}

fn create(name: &str, kind: SetKind) -> SetOp {
    SetOp::Create(SetSpec {
        name: name.to_string(),
        family: Family::Inet,
        kind,
        max_elements: 65_536,
        with_timeout: false,
    })
}

fn set(name: &str, members: &[Ipv4Addr]) -> [SetOp; 2] {
    let members = members
        .iter()
        .map(|address| Member::Ip((*address).into()))
        .collect();
    [
        create(name, SetKind::HashIp),
        SetOp::Add(name.to_string(), members),
    ]
}

fn own() -> Vec<SetOp> {
    let mut members = Vec::new();
    for (interface, addresses) in pods() {
        members.extend(addresses.into_iter().map(|address| Member::NetIface {
            net: address.into(),
            interface: interface.clone(),
        }));
    }
    vec![
        create(OWN, SetKind::HashNetIface),
        SetOp::Add(OWN.to_string(), members),
    ]
}
