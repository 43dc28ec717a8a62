//! The table itself: what nft says of it, what is written when, and what a new life writes.

use crate::bed::{Agent, NODE, PEER, STRANGER, node, pool, settings};
use crate::support::{end, in_namespace, nft, nft_load, nft_ruleset};
use dataplane_api::Update;
use dataplane_nftables::layout::{
    Exclusions, LayoutSettings, Outgoing, Packet, TunnelsFromWorkloads, TunnelsInUse, Way, simulate,
};
use policy_model::Protocol;

const ALL: TunnelsInUse = TunnelsInUse {
    ipip: true,
    vxlan4: true,
    vxlan6: true,
};

/// What a chain says, a line each, without the frame.
fn lines(chain: &str) -> Vec<String> {
    let text = nft(&["list", "chain", "inet", "manx", chain]);
    let inner = text.lines().filter(|line| line.starts_with("\t\t"));
    inner.map(|line| line.trim().to_owned()).collect()
}

fn everything_chosen() -> LayoutSettings {
    LayoutSettings {
        interface_prefixes: vec!["cali".into(), "tap".into()],
        outgoing: Outgoing {
            ports: Some((1024, 2047)),
            address: Some("198.51.100.1".parse().unwrap()),
            exclusions: Exclusions::PoolsAndNodes,
        },
        ..settings()
    }
}

#[test]
fn nft_says_what_we_meant_and_what_it_says_loads_again() {
    in_namespace(|| {
        let mut agent = Agent::started(settings());
        assert_eq!(
            lines("outgoing"),
            [
                "oifname \"cali*\" return",
                "ip daddr 10.65.0.0/16 return",
                "ip daddr 10.66.0.0/20 return",
                "ip6 daddr fd00:65::/48 return",
                "ip6 daddr fd00:66::/52 return",
                "ip saddr 10.65.0.0/16 masquerade",
                "ip6 saddr fd00:65::/48 masquerade",
            ]
        );
        assert_eq!(
            lines("spoof")[..2],
            [
                "meta l4proto ipencap counter packets 0 bytes 0 drop",
                "udp dport 4789 counter packets 0 bytes 0 drop",
            ]
        );
        assert!(lines("tunnels").is_empty());
        let input = lines("input");
        assert!(!input.iter().any(|line| line.contains("tunnels")), "{input:?}");
        agent.driver.want_tunnels(ALL);
        agent.tell(&[]);
        assert_eq!(
            lines("tunnels"),
            [
                "meta l4proto ipencap ip saddr @nodes4 accept",
                "meta l4proto ipencap meta nfproto ipv4 counter packets 0 bytes 0 drop",
                "udp dport 4789 @th,96,24 0x1000 ip saddr @nodes4 accept",
                "udp dport 4789 @th,96,24 0x1000 meta nfproto ipv4 counter packets 0 bytes 0 drop",
                "udp dport 4789 @th,96,24 0x1000 ip6 saddr @nodes6 accept",
                "udp dport 4789 @th,96,24 0x1000 meta nfproto ipv6 counter packets 0 bytes 0 drop",
            ]
        );
        let untracked = [
            "udp dport 4789 ip daddr @nodes4 notrack",
            "udp dport 4789 ip6 daddr @nodes6 notrack",
        ];
        assert_eq!(lines("raw_output")[1..], untracked, "behind the chain's hook");
        let prerouting = lines("prerouting");
        assert_eq!(prerouting[1], "iifname \"cali*\" jump spoof");
        assert_eq!(prerouting[2..], untracked);
        let guarded = lines("input");
        assert_eq!(guarded[0], input[0], "the chain's hook");
        assert_eq!(guarded[1], "jump tunnels");
        assert_eq!(guarded[2..], input[1..]);
        for (set, nodes) in [("nodes4", [NODE[0], PEER[0]]), ("nodes6", [NODE[1], PEER[1]])] {
            let text = nft(&["list", "set", "inet", "manx", set]);
            assert!(nodes.iter().all(|node| text.contains(node)), "{text}");
        }
        end(agent.driver);

        let mut agent = Agent::new(everything_chosen());
        agent.driver.want_tunnels(ALL);
        agent.tell(&[pool("10.66.0.0/20", true), pool("fd00:65::/48", false)]);
        let snat = |pool: &str| {
            let ports = ["tcp", "udp", "sctp"].map(|protocol| {
                format!("ip saddr {pool} meta l4proto {protocol} snat ip to 198.51.100.1:1024-2047")
            });
            let all = format!("ip saddr {pool} snat ip to 198.51.100.1");
            ports.into_iter().chain([all]).collect::<Vec<_>>()
        };
        let mut expected: Vec<String> = [
            "oifname \"cali*\" return",
            "oifname \"tap*\" return",
            "ip daddr 10.65.0.0/16 return",
            "ip daddr 10.66.0.0/20 return",
            "ip6 daddr fd00:65::/48 return",
            "ip6 daddr fd00:66::/52 return",
            "ip daddr @nodes4 return",
            "ip6 daddr @nodes6 return",
        ]
        .map(str::to_owned)
        .into();
        expected.extend(snat("10.65.0.0/16"));
        expected.extend(snat("10.66.0.0/20"));
        assert_eq!(lines("outgoing"), expected);
        agent.tell(&[pool("fd00:66::/52", true)]);
        let ours = lines("outgoing");
        assert_eq!(
            ours[ours.len() - 4..],
            [
                "ip6 saddr fd00:66::/52 meta l4proto tcp masquerade to :1024-2047",
                "ip6 saddr fd00:66::/52 meta l4proto udp masquerade to :1024-2047",
                "ip6 saddr fd00:66::/52 meta l4proto sctp masquerade to :1024-2047",
                "ip6 saddr fd00:66::/52 masquerade",
            ]
        );
        let (text, ours) = (nft(&["list", "ruleset"]), nft_ruleset());
        in_namespace(|| {
            nft_load(&text);
            assert_eq!(nft_ruleset(), ours);
        });
    });
}

#[test]
fn without_a_pool_that_wants_it_nothing_is_asked_on_the_way_out() {
    in_namespace(|| {
        let mut agent = Agent::started(everything_chosen());
        assert!(!lines("outgoing").is_empty());
        agent.tell(&[pool("10.65.0.0/16", false), pool("fd00:65::/48", false)]);
        assert!(lines("outgoing").is_empty());
        // Nor is anything written for pools that do not matter then.
        assert_eq!(agent.tell(&[pool("10.99.0.0/16", false)]).messages, 0);
        assert!(agent.tell(&[pool("10.99.0.0/16", true)]).messages > 0);
        assert_eq!(lines("outgoing").len(), 2 + 5 + 2 + 4);
    });
}

#[test]
fn only_what_changes_is_written() {
    in_namespace(|| {
        let mut agent = Agent::started(settings());
        let many: Vec<Update> = (0..5_000u32)
            .map(|n| {
                node(
                    &format!("n{n}"),
                    &[&std::net::Ipv4Addr::from(0x0a80_0000 + n).to_string()],
                )
            })
            .collect();
        agent.tell(&many);
        // A node that has another address; one more that claims an address that is known; one that leaves; the same
        // again; and a pool that is what it was.
        for (update, messages) in [
            (node("n7", &["10.200.0.7", "2001:db8::77"]), 3),
            (node("twin", &["10.200.0.7"]), 0),
            (Update::NodeRemoved("n7".into()), 1),
            (Update::NodeRemoved("twin".into()), 1),
            (Update::NodeRemoved("twin".into()), 0),
            (pool("10.65.0.0/16", true), 0),
        ] {
            let applied = agent.tell(std::slice::from_ref(&update));
            assert_eq!(applied.messages, messages, "{update:?}");
            assert!(applied.transactions <= 1, "{update:?}");
        }
        let applied = agent.tell(&[Update::PoolRemoved("10.66.0.0/20".parse().unwrap())]);
        assert_eq!(applied.transactions, 1, "the chain is made anew at once");
    });
}

#[test]
fn a_new_life_writes_what_is_new_to_it() {
    in_namespace(|| {
        let mut agent = Agent::new(everything_chosen());
        agent.driver.want_tunnels(ALL);
        agent.tell(&[]);
        end(agent.driver);
        let before = nft_ruleset();
        let again = |agent: &mut Agent| agent.driver.want_tunnels(ALL);

        let mut agent = Agent::new(everything_chosen());
        again(&mut agent);
        assert_eq!(agent.tell(&[]).messages, 0);
        assert_eq!(nft_ruleset(), before);
        end(agent.driver);

        // Nodes and pools came and went meanwhile.
        let mut agent = Agent::new(everything_chosen());
        again(&mut agent);
        agent.tell(&[
            node("peer", &[STRANGER[0]]),
            pool("10.99.0.0/16", true),
            Update::PoolRemoved("10.66.0.0/20".parse().unwrap()),
        ]);
        let text = nft(&["list", "set", "inet", "manx", "nodes4"]);
        assert!(text.contains(STRANGER[0]) && !text.contains(PEER[0]), "{text}");
        assert!(lines("outgoing").contains(&"ip daddr 10.99.0.0/16 return".to_owned()));
        end(agent.driver);

        // Other settings, and another tunnel: in force with the first pass.
        let mut agent = Agent::new(LayoutSettings {
            vxlan_vni: 7,
            tunnels_from_workloads: TunnelsFromWorkloads {
                ipip: true,
                vxlan: true,
            },
            ..settings()
        });
        let vxlan4 = TunnelsInUse {
            vxlan4: true,
            ..TunnelsInUse::default()
        };
        agent.driver.want_tunnels(vxlan4);
        agent.tell(&[]);
        assert_eq!(
            lines("tunnels"),
            [
                "udp dport 4789 @th,96,24 0x7 ip saddr @nodes4 accept",
                "udp dport 4789 @th,96,24 0x7 meta nfproto ipv4 counter packets 0 bytes 0 drop",
            ]
        );
        assert!(
            !lines("spoof")
                .iter()
                .any(|line| line.contains("4789") || line.contains("ipencap"))
        );
        end(agent.driver);

        // And none at all.
        let mut agent = Agent::new(settings());
        agent.tell(&[]);
        assert!(lines("tunnels").is_empty());
        assert!(!lines("input").iter().any(|line| line.contains("tunnels")));
        assert_eq!(lines("raw_output").len(), 1, "the hook alone");
        end(agent.driver);

        // All of them again; and where somebody took the chain away meanwhile.
        for is_gone in [false, true] {
            if is_gone {
                nft(&["flush", "chain", "inet", "manx", "input"]);
                nft(&["delete", "chain", "inet", "manx", "tunnels"]);
            }
            let mut agent = Agent::new(settings());
            again(&mut agent);
            agent.tell(&[]);
            assert_eq!(lines("tunnels").len(), 6);
            end(agent.driver);
        }
    });
}

#[test]
fn a_table_without_these_sets_is_made_anew_at_once() {
    in_namespace(|| {
        // As earlier versions would have left it.
        let without_ways = [
            ["chain", "tunnels"],
            ["chain", "outgoing"],
            ["chain", "raw_output"],
            ["set", "nodes4"],
            ["set", "nodes6"],
        ];
        for lacking in [&without_ways[2..3], &without_ways] {
            let mut agent = Agent::new(settings());
            agent.driver.want_tunnels(ALL);
            agent.tell(&[]);
            end(agent.driver);
            for chain in [
                "nat_postrouting",
                "input",
                "tunnels",
                "outgoing",
                "prerouting",
                "raw_output",
            ] {
                nft(&["flush", "chain", "inet", "manx", chain]);
            }
            for [kind, name] in lacking {
                nft(&["delete", kind, "inet", "manx", name]);
            }
            let mut agent = Agent::new(settings());
            agent.driver.want_tunnels(ALL);
            assert_eq!(agent.tell(&[]).transactions, 1);
            assert_eq!(lines("tunnels").len(), 6);
            assert_eq!(
                lines("raw_output").len(),
                1 + 2,
                "the hook, and a rule for each family"
            );
            end(agent.driver);
        }
    });
}

#[test]
fn tampering_is_mended() {
    in_namespace(|| {
        let mut agent = Agent::new(everything_chosen());
        agent.driver.want_tunnels(ALL);
        agent.tell(&[]);
        let before = nft_ruleset();
        assert!(!agent.driver.touched_by_others().unwrap());
        for tampering in [
            &["flush", "chain", "inet", "manx", "outgoing"][..],
            &["flush", "chain", "inet", "manx", "tunnels"],
            &["flush", "chain", "inet", "manx", "input"],
            &["flush", "chain", "inet", "manx", "to_node"],
            &["flush", "chain", "inet", "manx", "raw_output"],
            &["flush", "chain", "inet", "manx", "nat_postrouting"],
            &["flush", "set", "inet", "manx", "nodes4"],
            &["add", "element", "inet", "manx", "nodes6", "{ 2001:db8::bad }"],
            &["insert", "rule", "inet", "manx", "tunnels", "accept"],
        ] {
            nft(tampering);
            assert!(agent.driver.touched_by_others().unwrap(), "{tampering:?}");
            // The pass that comes next mends, and so does one that has something else to do.
            agent.tell(&[]);
            assert_eq!(nft_ruleset(), before, "{tampering:?}");
            assert!(
                !agent.driver.touched_by_others().unwrap(),
                "mending is not tampering"
            );
        }
        // What changes while the table is in doubt is in it afterwards.
        nft(&["flush", "chain", "inet", "manx", "tunnels"]);
        assert!(agent.driver.touched_by_others().unwrap());
        agent.driver.want_tunnels(TunnelsInUse::default());
        agent.tell(&[Update::NodeRemoved("peer".into()), pool("10.99.0.0/16", true)]);
        assert!(lines("tunnels").is_empty());
        assert_eq!(agent.driver.resync(&agent.tables).unwrap().mended, 0);
    });
}

#[test]
fn the_planner_counts_these_too() {
    in_namespace(|| {
        let mut agent = Agent::started(everything_chosen());
        let compare = |agent: &mut Agent, updates: &[Update]| {
            agent.tell(updates);
            let size = agent.driver.planner().table_size();
            let listed = nft_ruleset();
            let listed = listed["nftables"].as_array().unwrap();
            let count = |kind: &str| listed.iter().filter(|object| object.get(kind).is_some()).count();
            assert_eq!(
                [size.chains, size.rules, size.sets, size.maps],
                [count("chain"), count("rule"), count("set"), count("map")]
            );
        };
        compare(&mut agent, &[]);
        agent.driver.want_tunnels(ALL);
        compare(&mut agent, &[node("new", &["192.0.2.99"])]);
        compare(&mut agent, &[pool("10.65.0.0/16", false)]);
    });
}

#[test]
fn the_simulator_knows_what_workloads_may_not_send() {
    in_namespace(|| {
        let packet = |protocol: Protocol, port: u16| Packet {
            source: "10.65.0.5".parse().unwrap(),
            destination: STRANGER[0].parse().unwrap(),
            protocol,
            x: port,
            y: 40_000,
        };
        let passes = |agent: &Agent, packet: &Packet, from: Option<&str>| {
            let way = Way { from, to: None };
            simulate(
                agent.driver.planner().state(),
                |_| None,
                |i| i.starts_with("cali"),
                packet,
                way,
            )
        };
        let ipip = packet(Protocol::from_number(4), 0);
        let agent = Agent::started(settings());
        for (packet, expected) in [
            (ipip, false),
            (packet(Protocol::UDP, 4789), false),
            (packet(Protocol::UDP, 4788), true),
            (packet(Protocol::TCP, 4789), true),
        ] {
            assert_eq!(passes(&agent, &packet, Some("cali1")), expected, "{packet:?}");
            assert!(passes(&agent, &packet, Some("up0")), "others may");
        }
        end(agent.driver);
        let agent = Agent::started(LayoutSettings {
            tunnels_from_workloads: TunnelsFromWorkloads {
                ipip: true,
                vxlan: false,
            },
            ..settings()
        });
        assert!(passes(&agent, &ipip, Some("cali1")));
        assert!(!passes(&agent, &packet(Protocol::UDP, 4789), Some("cali1")));
    });
}
