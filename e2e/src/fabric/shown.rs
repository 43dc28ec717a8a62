//! What the kernel holds of routes and tunnels in the calling thread's namespace, as the distribution's tools show it.

use super::Family;
use crate::bed::{ip, namespace, tool, within};
use std::process::Command;

/// The VXLAN device of a family.
pub fn vxlan_device(family: Family) -> &'static str {
    match family {
        Family::V4 => "vxlan.calico",
        Family::V6 => "vxlan-v6.calico",
    }
}

/// The IPIP device.
pub const IPIP_DEVICE: &str = "tunl0";

/// Lines without what only says how things stand at the moment, sorted.
fn lasting(text: &str) -> Vec<String> {
    let passing = ["linkdown", "dead", "offload", "pref", "medium"];
    let words = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().filter(|w| !passing.contains(w)).collect();
        words.join(" ")
    };
    let mut lines: Vec<String> = text.lines().map(words).filter(|line| !line.is_empty()).collect();
    lines.sort();
    lines
}

/// The routes of protocol 80 of a family.
pub fn routes(family: Family) -> Vec<String> {
    lasting(&ip(&format!("{} route show table main proto 80", family.flag())))
}

/// The route to a destination, as it is written; empty where there is none.
pub fn route(destination: impl std::fmt::Display) -> String {
    let text = destination.to_string();
    let family = if text.contains(':') {
        Family::V6
    } else {
        Family::V4
    };
    lasting(&ip(&format!(
        "{} route show table main exact {text}",
        family.flag()
    )))
    .join("; ")
}

/// Whether there is a device of a name.
pub fn has_device(name: &str) -> bool {
    let listed = ip("-o link show");
    let mut names = listed.lines().filter_map(|line| line.split_whitespace().nth(1));
    // One that hangs on another says so behind its name.
    names.any(|found| found.trim_end_matches(':').split('@').next() == Some(name))
}

/// What is configured of a device: kind, settings, addresses, forwarding entries and permanent neighbours.
pub fn device(name: &str) -> Vec<String> {
    if !has_device(name) {
        return Vec::new();
    }
    let mut shown = Vec::new();
    for line in ip(&format!("-o -d link show dev {name}")).split('\\') {
        // The number is another one each time that it is made, and sizes of queues are the kernel's own.
        let line = line
            .split_once(&format!("{name}:"))
            .map_or(line, |(_, rest)| rest);
        shown.push(line.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    for family in Family::BOTH {
        let addresses = ip(&format!("-o {} addr show dev {name} scope global", family.flag()));
        let address = |line: &str| line.split_whitespace().nth(3).map(str::to_string);
        shown.extend(addresses.lines().filter_map(address));
        let neighbours = format!("{} neigh show dev {name} nud permanent", family.flag());
        shown.extend(lasting(&ip(&neighbours)));
    }
    if ip(&format!("-d link show dev {name}")).contains("vxlan") {
        shown.extend(lasting(&tool("bridge", &["fdb", "show", "dev", name])));
    }
    shown
}

/// Everything of ours that has to do with other nodes.
pub fn tunnels_and_routes() -> Vec<String> {
    let mut shown: Vec<String> = Family::BOTH.into_iter().flat_map(routes).collect();
    for name in [vxlan_device(Family::V4), vxlan_device(Family::V6), IPIP_DEVICE] {
        shown.extend(device(name));
    }
    shown
}

/// Whether the kernel can make IPIP devices. Where `MANX_NEEDS_IPIP` is set it has to: what is not seen must not look
/// like what passed.
pub fn kernel_has_ipip() -> bool {
    let made = within(&namespace(), || {
        // The first device of the kind makes the kernel load its module, where it has one.
        let output = Command::new("ip")
            .args(["link", "add", "probe", "type", "ipip", "remote", "192.0.2.1"])
            .output();
        output.expect("the tests need ip (iproute2)").status.success()
    });
    assert!(
        made || std::env::var_os("MANX_NEEDS_IPIP").is_none(),
        "MANX_NEEDS_IPIP is set, and this kernel makes no IPIP devices (modprobe ipip)"
    );
    if !made {
        eprintln!("this kernel has no IPIP devices (CONFIG_NET_IPIP): they are not seen here");
    }
    made
}
