//! A report as a person reads it: what is wrong first, then everything.

use super::report::{NodeReport, Report, Standing};
use crate::cluster::agents::ComponentPod;
use crate::policy::print;
use std::fmt::Write;

/// How many blocks of a node are named; of more only their number is told.
const NAMED_BLOCKS: usize = 3;

/// The report as tables.
pub fn table(report: &Report) -> String {
    let mut text = summary(report);
    // Writing to a string does not fail.
    let _ = write!(text, "\n{}", datastore(report));
    section(&mut text, "nodes", &nodes(report));
    section(&mut text, "controller", &controller(report));
    section(&mut text, "tiers", &tiers(report));
    section(&mut text, "pools", &pools(report));
    let counts = report.policies.iter();
    let policies: Vec<[String; 2]> = counts
        .map(|(kind, count)| [(*kind).to_owned(), count.to_string()])
        .collect();
    section(&mut text, "policies", &policies);
    if let Some(agent) = &report.agent {
        for (name, page) in [("liveness", &agent.liveness), ("readiness", &agent.readiness)] {
            let _ = writeln!(text, "\n{name} of the agent of {}:", agent.node);
            for line in page.text.lines() {
                let _ = writeln!(text, "  {line}");
            }
        }
    }
    text
}

fn summary(report: &Report) -> String {
    let mut text = String::new();
    match report.standing {
        Standing::InForce => text.push_str("everything is in force\n"),
        Standing::NotInForce => {
            let count = report.trouble.len();
            let things = if count == 1 {
                "1 thing is"
            } else {
                &format!("{count} things are")
            };
            let _ = writeln!(text, "{}", print::red(&format!("{things} not in force:")));
        }
        Standing::Unknown => {
            let _ = writeln!(
                text,
                "{}",
                print::red("it cannot be told whether everything is in force:")
            );
        }
    }
    for trouble in &report.trouble {
        let _ = writeln!(text, "  {trouble}");
    }
    if report.standing == Standing::Unknown {
        for unread in &report.unread {
            let _ = writeln!(text, "  {unread}");
        }
    } else if !report.unread.is_empty() {
        text.push_str("not looked at:\n");
        for unread in &report.unread {
            let _ = writeln!(text, "  {unread}");
        }
    }
    text
}

fn datastore(report: &Report) -> String {
    let datastore = &report.datastore;
    let version = datastore.version.as_deref().unwrap_or("does not answer");
    let whose = match (datastore.ours, &datastore.undefined) {
        (Some(false), _) => "another network's",
        (_, Some(undefined)) if !undefined.is_empty() => "definitions of projectcalico.org lack",
        (Some(true), Some(_)) => "all definitions of projectcalico.org are there and ours",
        _ => "whose projectcalico.org is cannot be told",
    };
    format!("datastore: {}, {version}, {whose}\n", datastore.server)
}

/// A table under its name; without rows there is none.
fn section<const N: usize>(text: &mut String, name: &str, rows: &[[String; N]]) {
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{name}:");
    for line in print::table(rows) {
        let _ = writeln!(text, "  {line}");
    }
}

fn nodes(report: &Report) -> Vec<[String; 6]> {
    if report.nodes.is_empty() {
        return Vec::new();
    }
    let mut rows = vec![["NAME", "READY", "NETWORK", "AGENT", "ADDRESSES", "BLOCKS"].map(str::to_owned)];
    rows.extend(report.nodes.iter().map(|node| {
        [
            node.name.clone(),
            match node.ready {
                Some(true) => "yes",
                Some(false) => "NO",
                None => "UNKNOWN",
            }
            .to_owned(),
            match node.network_unavailable {
                Some(true) => "UNAVAILABLE",
                Some(false) => "up",
                None => "-",
            }
            .to_owned(),
            node.agent.as_ref().map_or("NONE".to_owned(), pod),
            node.addresses
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" "),
            blocks(node),
        ]
    }));
    rows
}

fn blocks(node: &NodeReport) -> String {
    match node.blocks.len() {
        0 => "-".to_owned(),
        count if count <= NAMED_BLOCKS => node.blocks.join(" "),
        count => format!("{count} blocks"),
    }
}

fn pod(pod: &ComponentPod) -> String {
    let state = if pod.ready { "ready" } else { "NOT READY" };
    match pod.restarts {
        0 => format!("{state} ({})", pod.name),
        1 => format!("{state} ({}, restarted once)", pod.name),
        times => format!("{state} ({}, restarted {times} times)", pod.name),
    }
}

fn controller(report: &Report) -> Vec<[String; 1]> {
    let mut rows: Vec<[String; 1]> = report
        .controller
        .pods
        .iter()
        .map(|found| [format!("{} on {}", pod(found), found.node)])
        .collect();
    if let Some(lease) = &report.controller.lease {
        let renewed = lease
            .age
            .map_or("never renewed".to_owned(), |age| format!("renewed {age} s ago"));
        let holder = if lease.holder.is_empty() {
            "nobody"
        } else {
            &lease.holder
        };
        rows.push([format!("{holder} leads, {renewed}")]);
    }
    rows
}

fn tiers(report: &Report) -> Vec<[String; 3]> {
    if report.tiers.is_empty() {
        return Vec::new();
    }
    let mut rows = vec![["NAME", "ORDER", "DEFAULT"].map(str::to_owned)];
    rows.extend(report.tiers.iter().map(|tier| {
        let order = tier.order.map_or("last".to_owned(), |order| order.to_string());
        [tier.name.clone(), order, format!("{:?}", tier.default_action)]
    }));
    rows
}

fn pools(report: &Report) -> Vec<[String; 6]> {
    if report.pools.is_empty() {
        return Vec::new();
    }
    let mut rows = vec![["NAME", "CIDR", "USED", "FREE", "BLOCKS", ""].map(str::to_owned)];
    rows.extend(report.pools.iter().map(|pool| {
        let note = if pool.disabled { "disabled" } else { "" };
        [
            pool.name.clone(),
            pool.cidr.clone(),
            pool.used.to_string(),
            pool.free.to_string(),
            pool.blocks.to_string(),
            note.to_owned(),
        ]
    }));
    rows
}
