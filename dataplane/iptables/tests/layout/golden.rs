//! Golden chains: for each example, what was said, and the chains and sets that it becomes, for a person to read.
//!
//! `MANX_REFRESH_GOLDEN=1 cargo test -p dataplane-iptables --test layout golden` writes them anew.

use crate::say::{Node, atom, net, open_profile, pod, policy, rule, workload};
use dataplane_api::{ClusterNode, HostPort, PoolRange, Update};
use dataplane_iptables::layout::{AllowAction, LayoutSettings};
use dataplane_iptables::ops::{Family, Place, Table};
use dataplane_tables::{Confined, EndpointToHost, Exclusions, Outgoing, Refusal, TunnelsInUse};
use policy_model::{Action, EncapsulationMode, Icmp, Protocol};
use std::fmt::Write as _;
use std::path::Path;

const TCP: Option<Protocol> = Some(Protocol::TCP);
const UDP: Option<Protocol> = Some(Protocol::UDP);

struct Example {
    name: &'static str,
    said: &'static str,
    settings: LayoutSettings,
    tunnels: TunnelsInUse,
    confined: Confined,
    updates: Vec<Update>,
}

fn example(name: &'static str, said: &'static str, updates: Vec<Update>) -> Example {
    Example {
        name,
        said,
        settings: LayoutSettings::default(),
        tunnels: TunnelsInUse::default(),
        confined: Confined::default(),
        updates,
    }
}

fn examples() -> Vec<Example> {
    let few = [
        atom(1, &["10.0.1.1", "10.0.1.2", "fd00:1::1"]),
        atom(2, &["10.0.2.1", "192.168.0.0/16"]),
        vec![
            open_profile(),
            policy(
                "web",
                vec![
                    rule(true, Action::Allow, &[1], TCP, &[(80, 80), (443, 443)]),
                    rule(true, Action::Allow, &[2], None, &[]),
                ],
                vec![],
            ),
            workload(pod("one", &["10.0.0.1", "fd00::1"], &["web"], &[])),
            workload(pod("other", &["10.0.0.2"], &["web"], &[])),
        ],
    ];
    let many = [
        atom(1, &["10.0.1.1", "10.0.1.2"]),
        atom(2, &["10.0.2.1"]),
        atom(3, &["10.0.2.1", "10.0.3.1"]),
        atom(4, &["172.16.0.0/12"]),
        vec![
            open_profile(),
            policy(
                "first",
                vec![rule(true, Action::Allow, &[1], TCP, &[(80, 80)])],
                vec![],
            ),
            policy(
                "second",
                vec![rule(true, Action::Allow, &[2], TCP, &[(5432, 5432)])],
                vec![],
            ),
            policy(
                "third",
                vec![rule(true, Action::Allow, &[3], UDP, &[(53, 53)])],
                vec![],
            ),
            policy(
                "fourth",
                vec![rule(true, Action::Allow, &[4], TCP, &[(22, 22), (8000, 9000)])],
                vec![],
            ),
            workload(pod(
                "one",
                &["10.0.0.1"],
                &["first", "second", "third", "fourth"],
                &[],
            )),
        ],
    ];
    let ordered = [
        atom(1, &["10.0.1.0/24"]),
        atom(2, &["10.0.1.7"]),
        atom(3, &["10.0.0.0/8"]),
        vec![
            open_profile(),
            policy(
                "ordered",
                vec![
                    rule(true, Action::Allow, &[2], TCP, &[(80, 80)]),
                    rule(true, Action::Deny, &[1], None, &[]),
                    rule(true, Action::Log, &[3], TCP, &[(25, 25)]),
                    rule(true, Action::Deny, &[3], TCP, &[(25, 25)]),
                    rule(true, Action::Allow, &[], None, &[]),
                ],
                vec![
                    rule(false, Action::Deny, &[3], UDP, &[]),
                    rule(false, Action::Allow, &[], None, &[]),
                ],
            ),
            workload(pod("one", &["10.0.0.1"], &["ordered"], &["ordered"])),
        ],
    ];
    let mut ping = rule(true, Action::Allow, &[1], Some(Protocol::ICMP), &[]);
    ping.icmp = Some(Icmp {
        icmp_type: Some(8),
        code: None,
    });
    let mut no_redirect = rule(true, Action::Allow, &[2], Some(Protocol::ICMP), &[]);
    no_redirect.not_icmp = Some(Icmp {
        icmp_type: Some(5),
        code: Some(1),
    });
    let mut from_port = rule(true, Action::Allow, &[1], UDP, &[]);
    from_port.source.ports = rule(true, Action::Allow, &[], UDP, &[(53, 53)]).destination.ports;
    let mut not_tcp = rule(true, Action::Allow, &[2], None, &[]);
    not_tcp.not_protocol = TCP;
    let protocols = [
        atom(1, &["10.0.1.1"]),
        atom(2, &["10.0.2.1"]),
        vec![
            open_profile(),
            policy(
                "protocols",
                vec![
                    ping,
                    no_redirect,
                    from_port,
                    not_tcp,
                    rule(true, Action::Allow, &[1], Some(Protocol::SCTP), &[(7, 7)]),
                    rule(true, Action::Allow, &[1], Some(Protocol::from_number(47)), &[]),
                ],
                vec![],
            ),
            workload(pod("one", &["10.0.0.1"], &["protocols"], &[])),
        ],
    ];
    let pool = |cidr: &str, nat_outgoing| {
        Update::Pool(PoolRange {
            cidr: net(cidr),
            nat_outgoing,
            ipip: EncapsulationMode::Always,
            vxlan: EncapsulationMode::Never,
        })
    };
    let port = |protocol, address: &str, port| HostPort {
        protocol,
        address: address.parse().unwrap(),
        port,
    };
    let node = |name: &str, addresses: &[&str]| {
        Update::Node(ClusterNode {
            name: name.into(),
            is_here: name == "here",
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            ipip: None,
            vxlan4: None,
            vxlan6: None,
            vxlan_mac: None,
        })
    };
    let mut around = example(
        "node",
        "No policy: ports of the node, two pools of which one is translated, tunnels in use and the one pool reached by them\n\
         alone, all settings otherwise than usual, and three pods with names that share beginnings.\n",
        vec![
            open_profile(),
            pool("10.0.0.0/16", true),
            pool("10.1.0.0/16", false),
            pool("fd00::/48", true),
            node("here", &["192.0.2.1", "2001:db8::1"]),
            node("there", &["192.0.2.2"]),
            Update::HostPort(
                port(Protocol::TCP, "0.0.0.0", 8080),
                "10.0.0.1:80".parse().unwrap(),
            ),
            Update::HostPort(
                port(Protocol::UDP, "192.0.2.1", 53),
                "10.0.0.1:5353".parse().unwrap(),
            ),
            Update::HostPort(port(Protocol::TCP, "::", 8080), "[fd00::1]:80".parse().unwrap()),
            workload(pod("12ab", &["10.0.0.1", "fd00::1"], &[], &[])),
            workload(pod("12cd", &["10.0.0.2"], &[], &[])),
            workload(pod("3", &["10.0.0.3"], &[], &[])),
        ],
    );
    around.tunnels = TunnelsInUse {
        ipip: true,
        vxlan4: true,
        vxlan6: true,
    };
    let ranges = [
        ("10.0.0.0/16", true),
        ("10.0.8.0/24", false),
        ("10.1.0.0/16", false),
        ("fd00::/48", true),
    ];
    around.confined = Confined {
        wires: ["eth0".to_owned(), "eth1".to_owned()].into(),
        ranges: ranges
            .map(|(range, confined)| (range.parse().unwrap(), confined))
            .into(),
    };
    around.settings = LayoutSettings {
        endpoint_to_host: EndpointToHost::Accept,
        refusal: Refusal::Reject,
        allow: AllowAction::Return,
        place: Place::Last,
        refuse_midstream: true,
        outgoing: Outgoing {
            ports: Some((32768, 65535)),
            address: Some("192.0.2.9".parse().unwrap()),
            exclusions: Exclusions::PoolsAndNodes,
        },
        ..LayoutSettings::default()
    };
    vec![
        example(
            "few-ports",
            "web: allow 1 (three pods) to TCP 80 and 443, allow 2 (a pod and 192.168.0.0/16) to everything.\n\
             Two pods have it; one of them has no IPv6.\n",
            few.concat(),
        ),
        example(
            "many-ports",
            "Four policies that only allow: pods to TCP 80, TCP 5432 and UDP 53, 172.16.0.0/12 to TCP 22 and 8000-9000.\n",
            many.concat(),
        ),
        example(
            "ordered",
            "ingress: allow 10.0.1.7 to TCP 80; deny 10.0.1.0/24; log and deny 10.0.0.0/8 to TCP 25; allow the rest.\n\
             egress: deny UDP to 10.0.0.0/8; allow the rest.\n",
            ordered.concat(),
        ),
        example(
            "protocols",
            "10.0.1.1: ping, UDP from port 53, SCTP 7, protocol 47. 10.0.2.1: ICMP but type 5 code 1, all but TCP.\n",
            protocols.concat(),
        ),
        around,
    ]
}

/// The chains of both families, in the manner of the saving program.
fn chains(node: &Node) -> String {
    let mut out = String::new();
    let contents = node.planner.contents(&node.tables);
    for family in Family::BOTH {
        for table in Table::ALL {
            let Some(chains) = contents.chains.get(&(family, table)) else {
                continue;
            };
            writeln!(out, "# IPv{}\n*{}", family.number(), table.name()).unwrap();
            for name in chains.keys() {
                writeln!(out, ":{name} - [0:0]").unwrap();
            }
            for insert in contents.inserts.get(&table).into_iter().flatten() {
                let verb = if insert.place == Place::First { "-I" } else { "-A" };
                writeln!(out, "{verb} {} {}", insert.chain, insert.rule).unwrap();
            }
            for (name, rules) in chains {
                for rule in rules.iter() {
                    writeln!(out, "-A {name} {}", rule.text(family)).unwrap();
                }
            }
            writeln!(out, "COMMIT").unwrap();
        }
    }
    out
}

fn sets(node: &Node) -> String {
    let mut out = String::new();
    for (name, (spec, members)) in node.planner.contents(&node.tables).sets {
        let family = if spec.family == Family::Inet {
            "inet"
        } else {
            "inet6"
        };
        writeln!(out, "create {name} {} family {family}", spec.kind.name()).unwrap();
        for member in members {
            use dataplane_iptables::ops::Member;
            let text = match member {
                Member::Ip(address) => address.to_string(),
                Member::Net(net) => net.to_string(),
                Member::IpPort {
                    address,
                    protocol,
                    port,
                } => format!("{address},{}:{port}", protocol.to_string().to_lowercase()),
                Member::NetPort { net, protocol, port } => {
                    format!("{net},{}:{port}", protocol.to_string().to_lowercase())
                }
                Member::NetIface { net, interface } => format!("{net},{interface}"),
            };
            writeln!(out, "add {name} {text}").unwrap();
        }
    }
    out
}

#[test]
fn golden_chains_are_as_they_were() {
    let mut wrong = Vec::new();
    for example in examples() {
        let mut node = Node::new(example.settings, &example.updates);
        node.planner.want_tunnels(example.tunnels);
        node.planner.want_confined(example.confined);
        node.hear(&[]);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden")
            .join(example.name);
        for (file, found) in [
            ("said.txt", example.said.to_owned()),
            ("chains.iptables", chains(&node)),
            ("sets.ipset", sets(&node)),
        ] {
            let path = folder.join(file);
            if std::env::var_os("MANX_REFRESH_GOLDEN").is_some() {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(&path, &found).unwrap();
            } else if std::fs::read_to_string(&path).unwrap_or_default() != found {
                wrong.push(format!("{}/{file}:\n{found}", example.name));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "if this is right, write it anew with MANX_REFRESH_GOLDEN=1\n{}",
        wrong.join("\n")
    );
}

#[test]
fn a_write_carries_what_must_stand_in_others_chains() {
    let examples = examples();
    let mut tables = dataplane_tables::Tables::new();
    let updates = &examples[0].updates;
    updates
        .iter()
        .chain(&[Update::InSync])
        .for_each(|u| tables.apply(u));
    tables.commit();
    let mut planner = dataplane_iptables::layout::Planner::new(LayoutSettings::default());
    let plan = planner.plan_first(&tables);
    for write in &plan.writes {
        let text = planner.text(write);
        assert_eq!((text.family, text.table), (write.family, write.table));
        assert!(!text.inserts.is_empty(), "{:?}", write.table);
        for insert in &text.inserts {
            assert_eq!(insert.place, Place::First);
            let chain = insert.rule.strip_prefix("-j ").unwrap();
            let ours = text.chains.iter().find(|(name, _)| name == chain);
            assert!(matches!(ours, Some((_, Some(_)))), "{chain}");
        }
    }
}
