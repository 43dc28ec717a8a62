//! The same policies in the conventional layout, and connection tracking alone: what the layout is measured against.
//!
//! One set a selector, one chain a policy, one chain a pod that walks its policies. Connection tracking, anti-spoofing
//! and dispatch are those of the product, so that the difference is the layout's.

use crate::selected::{
    CLIENT, CLIENT_INTERFACE, COUNTS, PEERS, POLICIES, Style, denied, is_last, peer, pods, port_of,
    server_interface,
};
use std::fmt::Write;
use std::net::Ipv4Addr;

/// Connection tracking and anti-spoofing without any policy.
pub fn without_policies() -> String {
    format!("table inet bench {{\n{}{}}}\n", spoofing(), forward(""))
}

/// The pods that a policy lets in.
pub(crate) fn allowed_by(policy: usize) -> Vec<Ipv4Addr> {
    let client = if is_last(policy) {
        CLIENT.to_vec()
    } else {
        Vec::new()
    };
    with_number(policy).chain(client).collect()
}

/// The pods that a policy denies, where policies deny.
pub(crate) fn denied_by(policy: usize) -> Vec<Ipv4Addr> {
    with_number(denied(policy)).collect()
}

fn with_number(policy: usize) -> impl Iterator<Item = Ipv4Addr> {
    (0..PEERS).filter(move |n| n % POLICIES == policy).map(peer)
}

/// The policies of the servers that at most `most` policies select.
pub fn rules(most: usize, style: Style) -> String {
    let set = |name: &str, members: &[Ipv4Addr]| {
        let members: Vec<String> = members.iter().map(Ipv4Addr::to_string).collect();
        format!(
            " set {name} {{ type ipv4_addr; elements = {{ {} }}; }}\n",
            members.join(", ")
        )
    };
    let mut text = format!("table inet bench {{\n{}", spoofing());
    for policy in 0..most.min(POLICIES) {
        text.push_str(&set(&format!("sel_{policy}"), &allowed_by(policy)));
        let mut deny = String::new();
        if style == Style::Ordered {
            text.push_str(&set(&format!("deny_{policy}"), &denied_by(policy)));
            deny = format!("ip saddr @deny_{policy} drop; ");
        }
        let _ = writeln!(
            text,
            " chain pol_{policy} {{ {deny}ip saddr @sel_{policy} meta l4proto {{ tcp, udp }} th dport {} accept; }}",
            port_of(policy)
        );
    }
    let mut dispatch = Vec::new();
    for (n, count) in COUNTS.iter().enumerate().filter(|(_, c)| **c <= most) {
        let jumps: String = (0..*count).map(|policy| format!(" jump pol_{policy};")).collect();
        let end = if *count == 0 { " accept;" } else { " drop;" };
        let _ = writeln!(text, " chain pod_{n} {{{jumps}{end} }}");
        dispatch.push(format!("\"{}\" : jump pod_{n}", server_interface(n)));
    }
    let _ = writeln!(
        text,
        " map to_pods {{ type ifname : verdict; elements = {{ {} }}; }}",
        dispatch.join(", ")
    );
    let _ = writeln!(text, " chain from_client {{ return; }}");
    let _ = writeln!(
        text,
        " map from_pods {{ type ifname : verdict; elements = {{ \"{CLIENT_INTERFACE}\" : jump from_client }}; }}"
    );
    let walk = "  iifname \"cali*\" iifname vmap @from_pods;\n  oifname \"cali*\" oifname vmap @to_pods;\n  oifname \"cali*\" drop;\n";
    text.push_str(&forward(walk));
    text.push_str("}\n");
    text
}

fn spoofing() -> String {
    let own: Vec<String> = pods()
        .into_iter()
        .flat_map(|(interface, addresses)| {
            addresses
                .into_iter()
                .map(move |a| format!("\"{interface}\" . {a}"))
        })
        .collect();
    format!(
        " set own4 {{ type ifname . ipv4_addr; elements = {{ {} }}; }}\n \
         chain spoof {{ iifname . ip saddr @own4 return; drop; }}\n \
         chain prerouting {{ type filter hook prerouting priority raw; iifname \"cali*\" jump spoof; }}\n",
        own.join(", ")
    )
}

fn forward(walk: &str) -> String {
    format!(
        " chain forward {{ type filter hook forward priority filter;\n  \
         ct state vmap {{ established : accept, related : accept, invalid : drop }};\n{walk} }}\n"
    )
}
