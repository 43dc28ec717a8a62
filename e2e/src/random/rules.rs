//! Random rules and selectors.

use super::dice::Dice;
use ipnet::IpNet;
use policy_model::{
    Action, EntityRule, Icmp, PolicyRule, Port, PortRange, Protocol, ServiceAccountMatch, ServiceMatch,
};

/// Networks that rules and network sets name; they nest, touch and overlap.
pub(super) const NETS: [&str; 22] = [
    "0.0.0.0/0",
    "::/0",
    "10.0.0.0/8",
    "10.1.0.0/24",
    "10.1.0.0/30",
    "10.1.0.3/32",
    "10.2.0.0/16",
    "172.16.0.0/12",
    "172.16.0.0/22",
    "172.16.1.0/24",
    "172.16.1.128/25",
    "172.16.1.9/32",
    "172.16.5.0/24",
    "255.255.255.255/32",
    "0.0.0.0/1",
    "128.0.0.0/1",
    "fd00::/8",
    "fd00:1::/64",
    "fd00:1::3/128",
    "2001:db8::/32",
    "2001:db8:1::/48",
    "2001:db8:1::9/128",
];

/// Ports that rules, pods and flows name.
pub(super) const PORTS: [u16; 13] = [
    0, 1, 53, 80, 443, 1024, VXLAN_PORT, 5353, 8080, 8081, 8999, 9000, 65535,
];
/// The port of VXLAN, to which no pod may send UDP.
pub(super) const VXLAN_PORT: u16 = 4789;
/// Names of ports that pods declare, with different numbers.
pub(super) const PORT_NAMES: [&str; 4] = ["http", "dns", "metrics", "nobody"];
/// Source ports that rules name.
pub(super) const SOURCE_PORTS: [u16; 5] = [53, 1000, 20_000, 30_000, 65_535];
/// Protocols with ports.
pub(super) const TRANSPORTS: [Protocol; 4] =
    [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::UDP_LITE];
/// IP inside IP, which no pod may send.
pub(super) const IPIP: Protocol = Protocol::from_number(4);
/// Protocols without ports.
pub(super) const OTHERS: [Protocol; 3] = [Protocol::from_number(99), Protocol::from_number(4 + 200), IPIP];

/// Selectors over the labels of endpoints and network sets.
const SELECTORS: [&str; 16] = [
    "all()",
    "role == 'a'",
    "role == 'b'",
    "role != 'a'",
    "role in {'a','c'}",
    "role not in {'a','b'}",
    "has(marked)",
    "!has(marked)",
    "env == 'x'",
    "env == 'x' && role == 'b'",
    "env == 'y' || has(marked)",
    "!(role == 'a' || env == 'y')",
    "projectcalico.org/namespace == 'red'",
    "team == 'one'",
    "role starts with 'a'",
    "pcns.team == 'one'",
];
/// Selectors over namespaces.
const NAMESPACE_SELECTORS: [&str; 5] = [
    "all()",
    "global()",
    "team == 'one'",
    "projectcalico.org/name == 'red'",
    "projectcalico.org/name != 'red'",
];

pub(super) fn selector(dice: &mut Dice) -> String {
    dice.pick(&SELECTORS).to_string()
}

pub(super) fn namespace_selector(dice: &mut Dice) -> String {
    dice.pick(&NAMESPACE_SELECTORS).to_string()
}

pub(super) fn net(dice: &mut Dice) -> IpNet {
    dice.pick(&NETS).parse().expect("a network")
}

fn port(dice: &mut Dice) -> Port {
    match dice.below(10) {
        0..5 => Port::Range(PortRange::single(dice.one(&PORTS))),
        5..8 => {
            let (a, b) = (dice.one(&PORTS), dice.one(&PORTS));
            Port::Range(PortRange::new(a.min(b), a.max(b)).expect("in order"))
        }
        _ => Port::Name(dice.pick(&PORT_NAMES).to_string()),
    }
}

fn source_port(dice: &mut Dice) -> Port {
    let (a, b) = (dice.one(&SOURCE_PORTS), dice.one(&SOURCE_PORTS));
    match dice.below(3) {
        0 => Port::Range(PortRange::single(a)),
        1 => Port::Range(PortRange::new(a.min(b), a.max(b)).expect("in order")),
        _ => port(dice),
    }
}

fn icmp(dice: &mut Dice, protocol: Protocol) -> Icmp {
    let types: &[u8] = if protocol == Protocol::ICMP {
        &[8, 13, 17, 0]
    } else {
        &[128, 139, 129]
    };
    let icmp_type = if dice.chance(90) {
        Some(dice.one(types))
    } else {
        None
    };
    let code = if icmp_type.is_some() && dice.chance(40) {
        Some(dice.one(&[0, 1, 255]))
    } else {
        None
    };
    Icmp { icmp_type, code }
}

/// The parts of a side that speak of addresses.
fn addresses(dice: &mut Dice, side: &mut EntityRule) {
    if dice.chance(35) {
        side.nets = dice.some(1, 3, net);
    }
    if dice.chance(20) {
        side.not_nets = dice.some(1, 2, net);
    }
    if dice.chance(35) {
        side.selector = selector(dice);
    }
    if dice.chance(15) {
        side.not_selector = selector(dice);
    }
    if dice.chance(15) {
        side.namespace_selector = namespace_selector(dice);
    }
    if dice.chance(8) {
        side.service_accounts = Some(ServiceAccountMatch {
            names: dice.some(0, 2, |d| d.pick(&["default", "robot"]).to_string()),
            selector: if dice.chance(50) {
                "kind == 'person'".to_string()
            } else {
                String::new()
            },
        });
    }
}

/// A rule of any kind.
pub(super) fn rule(dice: &mut Dice) -> PolicyRule {
    let action = match dice.below(20) {
        0..11 => Action::Allow,
        11..16 => Action::Deny,
        16..18 => Action::Pass,
        _ => Action::Log,
    };
    let mut rule = PolicyRule {
        action,
        ..PolicyRule::default()
    };
    if dice.chance(10) {
        rule.ip_version = Some(if dice.chance(50) { 4 } else { 6 });
    }
    match dice.below(20) {
        0..11 => rule.protocol = Some(dice.one(&TRANSPORTS)),
        11..14 => {
            let protocol = if dice.chance(50) {
                Protocol::ICMP
            } else {
                Protocol::ICMPV6
            };
            rule.protocol = Some(protocol);
            if dice.chance(60) {
                rule.icmp = Some(icmp(dice, protocol));
            }
            if dice.chance(25) {
                rule.not_icmp = Some(icmp(dice, protocol));
            }
        }
        14 => rule.protocol = Some(dice.one(&OTHERS)),
        _ => {}
    }
    if dice.chance(8) {
        rule.not_protocol = Some(if dice.chance(50) {
            dice.one(&TRANSPORTS)
        } else {
            dice.one(&OTHERS)
        });
    }
    let has_ports = rule.protocol.is_some_and(|p| p.has_ports());
    if dice.chance(8) {
        let service = ServiceMatch {
            name: "svc".to_string(),
            namespace: dice.pick(&["red", "blue"]).to_string(),
        };
        rule.destination.services = Some(service);
        rule.protocol = None;
        addresses(dice, &mut rule.source);
        return rule;
    }
    addresses(dice, &mut rule.source);
    if dice.chance(50) {
        addresses(dice, &mut rule.destination);
    }
    if has_ports {
        if dice.chance(65) {
            rule.destination.ports = dice.some(1, 4, port);
        }
        if dice.chance(12) {
            rule.destination.not_ports = dice.some(1, 2, port);
        }
        if dice.chance(12) {
            rule.source.ports = dice.some(1, 2, source_port);
        }
        if dice.chance(6) {
            rule.source.not_ports = dice.some(1, 2, source_port);
        }
    }
    rule
}
