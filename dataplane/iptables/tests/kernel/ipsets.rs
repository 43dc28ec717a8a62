//! Sets by netlink, with the `ipset` program as a second opinion.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane_iptables::ipset::{IpsetError, Ipsets, SetProblem, kernel_forms};
use dataplane_iptables::ops::{Family, Member, SetKind, SetOp};
use policy_model::Protocol;

use crate::bed::{create, in_namespace, ipset, ipset_members};

const KINDS: [SetKind; 5] = [
    SetKind::HashIp,
    SetKind::HashNet,
    SetKind::HashIpPort,
    SetKind::HashNetPort,
    SetKind::HashNetIface,
];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Members of a kind and family, as we have them and as the `ipset` program prints them.
fn samples(kind: SetKind, family: Family) -> Vec<(Member, &'static str)> {
    let port = |address: &str, protocol, port| Member::IpPort {
        address: ip(address),
        protocol,
        port,
    };
    let net = |text: &str| Member::Net(text.parse().unwrap());
    let net_port = |text: &str, protocol, port| Member::NetPort {
        net: text.parse().unwrap(),
        protocol,
        port,
    };
    let net_interface = |text: &str, interface: &str| Member::NetIface {
        net: text.parse().unwrap(),
        interface: interface.to_owned(),
    };
    match (kind, family) {
        (SetKind::HashIp, Family::Inet) => {
            vec![
                (Member::Ip(ip("10.0.0.1")), "10.0.0.1"),
                (Member::Ip(ip("255.255.255.255")), "255.255.255.255"),
            ]
        }
        (SetKind::HashIp, Family::Inet6) => vec![(Member::Ip(ip("fd00::1")), "fd00::1")],
        (SetKind::HashNet, Family::Inet) => vec![
            (net("10.0.0.0/8"), "10.0.0.0/8"),
            (net("10.1.2.3/32"), "10.1.2.3"),
            (net("128.0.0.0/1"), "128.0.0.0/1"),
        ],
        (SetKind::HashNet, Family::Inet6) => {
            vec![
                (net("fd00::/8"), "fd00::/8"),
                (net("fd00::7/128"), "fd00::7"),
                (net("::/1"), "::/1"),
            ]
        }
        (SetKind::HashIpPort, Family::Inet) => vec![
            (port("10.0.0.1", Protocol::TCP, 80), "10.0.0.1,tcp:80"),
            (port("10.0.0.1", Protocol::UDP, 53), "10.0.0.1,udp:53"),
            (port("10.0.0.2", Protocol::SCTP, 65_535), "10.0.0.2,sctp:65535"),
            (
                port("10.0.0.3", Protocol::ICMP, 8 * 256),
                "10.0.0.3,icmp:echo-request",
            ),
        ],
        (SetKind::HashIpPort, Family::Inet6) => vec![(port("fd00::1", Protocol::TCP, 1), "fd00::1,tcp:1")],
        (SetKind::HashNetPort, Family::Inet) => vec![
            (net_port("10.0.0.0/16", Protocol::TCP, 443), "10.0.0.0/16,tcp:443"),
            (net_port("10.1.2.3/32", Protocol::UDP, 53), "10.1.2.3,udp:53"),
        ],
        (SetKind::HashNetIface, Family::Inet) => vec![
            (
                net_interface("10.0.0.0/16", "cali0123456789a"),
                "10.0.0.0/16,cali0123456789a",
            ),
            (net_interface("10.1.2.3/32", "eth0"), "10.1.2.3,eth0"),
        ],
        (SetKind::HashNetIface, Family::Inet6) => {
            vec![(net_interface("fd00::1/128", "eth0"), "fd00::1,eth0")]
        }
        (SetKind::HashNetPort, Family::Inet6) => {
            vec![(net_port("fd00::/16", Protocol::TCP, 443), "fd00::/16,tcp:443")]
        }
    }
}

#[test]
fn members_of_every_kind_go_in_come_back_and_go() {
    in_namespace(|| {
        let mut ipsets = Ipsets::open().unwrap();
        for kind in KINDS {
            for family in Family::BOTH {
                let support = ipsets.support(kind, family).unwrap().unwrap();
                assert!(support.first <= support.last);
                let (members, printed): (Vec<_>, Vec<_>) = samples(kind, family).into_iter().unzip();
                let name = format!("s-{}-{family}", kind.name());
                let operations = [
                    create(&name, family, kind),
                    SetOp::Add(name.clone(), members.clone()),
                ];
                ipsets.apply(&operations).unwrap();
                // What is so already is no mistake.
                ipsets.apply(&operations[1..]).unwrap();
                let mut expected: Vec<String> = printed.iter().map(|&text| text.to_owned()).collect();
                expected.sort();
                assert_eq!(ipset_members(&name), expected);
                let found = ipsets.members(&name).unwrap().unwrap();
                let mut read = found.members;
                let mut wanted = members.clone();
                read.sort();
                wanted.sort();
                assert_eq!((read, found.strange), (wanted, 0));
                let header = &found.header;
                assert_eq!((header.kind, header.family), (Some(kind), Some(family)));
                assert_eq!(
                    (header.max_elements, header.elements as usize),
                    (65_536, members.len())
                );
                for member in &members {
                    assert!(ipsets.has(&name, member).unwrap(), "{member}");
                }
                let removal = SetOp::Remove(name.clone(), members.clone());
                ipsets.apply(&[removal.clone(), removal]).unwrap();
                assert!(!ipsets.has(&name, &members[0]).unwrap());
                assert_eq!(ipset_members(&name), Vec::<String>::new());
                ipsets.apply(&[SetOp::Destroy(name.clone())]).unwrap();
                assert_eq!(ipsets.members(&name).unwrap(), None);
            }
        }
        assert_eq!(ipsets.headers().unwrap(), []);
    });
}

#[test]
fn everything_is_two_halves_in_the_kernel() {
    in_namespace(|| {
        let mut ipsets = Ipsets::open().unwrap();
        for (family, net) in [(Family::Inet, "0.0.0.0/0"), (Family::Inet6, "::/0")] {
            let name = format!("all-{family}");
            let all = Member::Net(net.parse().unwrap());
            let operations = [
                create(&name, family, SetKind::HashNet),
                SetOp::Add(name.clone(), vec![all.clone()]),
            ];
            ipsets.apply(&operations).unwrap();
            let found = ipsets.members(&name).unwrap().unwrap();
            assert_eq!(found.members.len(), 2);
            assert!(
                kernel_forms(&all)
                    .iter()
                    .flatten()
                    .all(|half| found.members.contains(half))
            );
            ipsets
                .apply(&[SetOp::Remove(name.clone(), vec![all.clone()])])
                .unwrap();
            assert_eq!(ipsets.members(&name).unwrap().unwrap().members, []);
        }
    });
}

#[test]
fn a_refused_member_is_named_and_later_operations_are_tried() {
    in_namespace(|| {
        let mut ipsets = Ipsets::open().unwrap();
        let address = |number: u32| Member::Ip(Ipv4Addr::from(number).into());
        let mut members: Vec<Member> = (1..2_000).map(address).collect();
        let wrong = Member::Ip(Ipv6Addr::LOCALHOST.into());
        members.insert(1_500, wrong.clone());
        let error = ipsets
            .apply(&[
                create("a", Family::Inet, SetKind::HashIp),
                SetOp::Add("a".into(), members),
                SetOp::Add("absent".into(), vec![address(1)]),
                create("b", Family::Inet, SetKind::HashIp),
                create("b", Family::Inet, SetKind::HashIp),
            ])
            .unwrap_err();
        let IpsetError::Refused { first, more } = &error else {
            panic!("{error}")
        };
        assert_eq!(
            (first.set.as_str(), first.member.as_ref(), *more),
            ("a", Some(&wrong), 2)
        );
        let text = error.to_string();
        assert!(
            text.contains("add to IP set a, member ::1") && text.contains("2 more"),
            "{text}"
        );
        assert_eq!(ipset("list -n"), "a\nb\n");
        // Full sets say what to do.
        ipset("create small hash:ip maxelem 1 hashsize 64");
        let many: Vec<Member> = (1..200).map(address).collect();
        let error = ipsets.apply(&[SetOp::Add("small".into(), many)]).unwrap_err();
        assert!(error.to_string().contains("MaxIpsetSize"), "{error}");
        // A set that is not there is gone: older kernels say so, newer ones do not.
        let problems = ipsets.try_each(&[SetOp::Destroy("absent".into())]).unwrap();
        assert!(problems.iter().all(SetProblem::is_absent), "{problems:?}");
    });
}

#[test]
fn sets_are_exchanged_and_those_in_use_stay() {
    in_namespace(|| {
        let mut ipsets = Ipsets::open().unwrap();
        let address = |text: &str| Member::Ip(ip(text));
        let filled = |name: &str, member: &str| {
            [
                create(name, Family::Inet, SetKind::HashIp),
                SetOp::Add(name.into(), vec![address(member)]),
            ]
        };
        ipsets.apply(&filled("one", "10.0.0.1")).unwrap();
        ipsets.apply(&filled("two", "10.0.0.2")).unwrap();
        ipsets.apply(&[SetOp::Swap("one".into(), "two".into())]).unwrap();
        assert_eq!(ipset_members("one"), ["10.0.0.2"]);
        ipsets
            .apply(&[create("net", Family::Inet, SetKind::HashNet)])
            .unwrap();
        let problems = ipsets
            .try_each(&[SetOp::Swap("one".into(), "net".into())])
            .unwrap();
        assert!(problems[0].is_of_another_type(), "{problems:?}");
        ipset("create holder list:set");
        ipset("add holder one");
        let problems = ipsets
            .try_each(&[SetOp::Destroy("one".into()), SetOp::Destroy("two".into())])
            .unwrap();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].is_in_use(), "{problems:?}");
        let headers = ipsets.headers().unwrap();
        let one = headers.iter().find(|header| header.name == "one").unwrap();
        assert_eq!((one.references, one.elements), (1, 1));
        // A type that we never make is listed all the same.
        let holder = headers.iter().find(|header| header.name == "holder").unwrap();
        assert_eq!(holder.kind, None);
    });
}

#[test]
fn large_sets_and_strange_members_are_listed() {
    in_namespace(|| {
        let mut ipsets = Ipsets::open().unwrap();
        let members: Vec<Member> = (0..30_000_u32)
            .map(|number| Member::IpPort {
                address: IpAddr::V6(Ipv6Addr::from(u128::from(number) + (0xfd << 120))),
                protocol: Protocol::TCP,
                port: 80,
            })
            .collect();
        let operations = [
            create("large", Family::Inet6, SetKind::HashIpPort),
            SetOp::Add("large".into(), members.clone()),
        ];
        ipsets.apply(&operations).unwrap();
        ipset("create odd hash:net timeout 300");
        ipset("add odd 10.0.0.0/8");
        ipset("add odd 10.1.0.0/16 nomatch");
        let mut found = ipsets.list_all(|_| true).unwrap();
        found.sort_by(|one, other| one.header.name.cmp(&other.header.name));
        let [large, odd] = found.as_mut_slice() else {
            panic!("{}", found.len())
        };
        large.members.sort();
        assert_eq!(large.members, members);
        assert_eq!(
            (odd.members.len(), odd.strange, odd.header.with_timeout),
            (1, 1, true)
        );
        assert_eq!(ipsets.list_all(|name| name == "odd").unwrap().len(), 1);
    });
}
