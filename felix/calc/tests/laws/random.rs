//! Random histories in a small world, where things collide often, against the model that looks at everything.

use crate::objects::{
    allow, allow_port, block, endpoint, global_policy, named_port, net, node, policy, profile, service, side,
    tier, tunnel_node,
};
use crate::{Bench, HERE};
use policy_model::{
    EncapsulationMode, EntityRule, GlobalSet, HostEndpointSpec, IpPoolSpec, NetworkSetSpec, Object,
    PolicyRule, Resource, ServiceMatch,
};
use proptest::prelude::*;

const NODES: [&str; 3] = [HERE, "there", "elsewhere"];
const ADDRESSES: [&str; 5] = [
    "10.0.0.1/32",
    "10.0.0.2/32",
    "10.0.1.1/32",
    "10.0.1.2/32",
    "fd00::1/128",
];
const LABELS: [&str; 6] = [
    "",
    "role=a",
    "role=b",
    "role=a x=1",
    "role=b x=2",
    "x=1 pcns.team=red",
];
const SELECTORS: [&str; 10] = [
    "all()",
    "role == 'a'",
    "role == 'b'",
    "has(x)",
    "!has(x)",
    "role != 'a'",
    "role == 'a' && x == '1'",
    "pcns.team == 'red'",
    "pcns.team in {'red', 'blue'} || x == '2'",
    "global()",
];
const PROFILES: [&str; 3] = ["kns.shop", "ksa.shop.x", "other"];

/// What happens: the kind, which one of it, and what it says.
#[derive(Clone, Debug)]
enum Event {
    Upsert(Box<Resource>),
    Delete(usize),
    Repeat(usize),
    Flush,
}

fn an_endpoint() -> impl Strategy<Value = Resource> {
    let addresses = prop::collection::vec(prop::sample::select(&ADDRESSES[..]), 0..3);
    let profiles = prop::sample::subsequence(&PROFILES[..], 0..3);
    let ports = prop::collection::vec((prop::sample::select(&["http", "dns"][..]), 80u16..82), 0..3);
    let place = (0..5usize, prop::sample::select(&NODES[..]), any::<bool>());
    (
        place,
        addresses,
        prop::sample::select(&LABELS[..]),
        profiles,
        ports,
    )
        .prop_map(|((n, node, has_interface), addresses, labels, profiles, ports)| {
            let mut object = endpoint(&format!("e{n}"), node, &addresses, labels);
            object.spec.profiles = profiles.into_iter().map(str::to_string).collect();
            object.spec.ports = ports
                .into_iter()
                .map(|(name, port)| named_port(name, port))
                .collect();
            if !has_interface && n == 4 {
                object.spec.interface_name.clear();
            }
            object.into()
        })
}

fn a_rule() -> impl Strategy<Value = PolicyRule> {
    let selector = || prop::sample::select(&SELECTORS[..]);
    let to_service = EntityRule {
        services: Some(ServiceMatch {
            name: "web".to_string(),
            namespace: "shop".to_string(),
        }),
        ..EntityRule::default()
    };
    prop_oneof![
        3 => selector().prop_map(|s| allow(side(s))),
        2 => (selector(), selector()).prop_map(|(from, to)| PolicyRule { destination: side(to), ..allow(side(from)) }),
        1 => selector().prop_map(|s| allow(EntityRule { not_selector: s.to_string(), ..EntityRule::default() })),
        2 => selector().prop_map(|s| allow_port(s, "http")),
        1 => Just(allow(EntityRule { nets: vec![net("10.0.0.0/16")], ..EntityRule::default() })),
        1 => Just(PolicyRule { destination: to_service.clone(), ..PolicyRule::default() }),
        1 => Just(allow(to_service)),
    ]
}

fn a_policy() -> impl Strategy<Value = Resource> {
    let selector = || prop::sample::select(&SELECTORS[..]);
    let rules = || prop::collection::vec(a_rule(), 0..3);
    let order = || prop::option::of(prop::sample::select(vec![1.0, 2.0]));
    let tier = prop::sample::select(&["", "t0", "t1"][..]);
    prop_oneof![
        (0..3usize, selector(), rules(), rules(), order()).prop_map(
            |(n, selector, ingress, egress, order)| {
                let mut object = policy(&format!("p{n}"), selector, ingress);
                object.spec.egress = egress;
                object.spec.order = order;
                object.into()
            }
        ),
        (0..3usize, selector(), rules(), order(), tier).prop_map(|(n, selector, ingress, order, tier)| {
            let mut object = global_policy(&format!("p{n}"), tier, order, selector);
            object.spec.ingress = ingress;
            object.into()
        }),
    ]
}

fn another() -> impl Strategy<Value = Resource> {
    let nets = || {
        prop::sample::subsequence(
            &["10.0.0.1/32", "10.0.0.0/24", "203.0.113.0/24", "fd00::1/128"][..],
            0..4,
        )
    };
    let nets = move || nets().prop_map(|nets| nets.into_iter().map(net).collect::<Vec<_>>());
    let labels = || prop::sample::select(&LABELS[..]);
    let team = prop::sample::select(&["", "pcns.team=red", "pcns.team=blue x=1"][..]);
    let pods = prop::sample::subsequence(
        vec![
            (0, "e0"),
            (0, "type=vxlanTunnelAddress node=there"),
            (1, "e1"),
            (1, "type=ipipTunnelAddress node=elsewhere"),
            (1, "type=vxlanV6TunnelAddress node=there"),
            (2, "e2"),
            (2, "type=vxlanTunnelAddress node=elsewhere"),
            (3, "e0"),
            (3, "type=vxlanTunnelAddress node=here"),
        ],
        0..4,
    );
    let owner = prop::option::of(prop::sample::select(&NODES[..]));
    let ranges = prop::sample::select(vec![
        ("b0", "10.0.0.0/30"),
        ("b1", "10.0.1.0/30"),
        ("b2", "10.0.1.0/30"),
        ("b3", "fd00::/126"),
        ("b4", "10.0.0.1/32"),
    ]);
    let addresses = prop::sample::subsequence(&["10.0.0.1", "10.0.1.1", "fd00::1"][..], 0..3);
    prop_oneof![
        (prop::sample::select(&PROFILES[..]), team).prop_map(|(name, team)| profile(name, team)),
        (
            prop::sample::select(&["t0", "t1", "default"][..]),
            prop::option::of(0..4u8)
        )
            .prop_map(|(name, order)| tier(name, order.map(f64::from))),
        (ranges, owner, pods).prop_map(|((name, cidr), owner, pods)| {
            let one = cidr.ends_with("/32");
            let pods: Vec<_> = pods
                .into_iter()
                .filter(|(ordinal, _)| !one || *ordinal == 0)
                .collect();
            block(name, cidr, owner, &pods)
        }),
        (prop::sample::select(&NODES[..]), 1..4u8, any::<bool>()).prop_map(|(name, n, far)| tunnel_node(
            name,
            &format!("192.168.{}.{n}/24", u8::from(far)),
            if n == 1 { "10.0.0.2" } else { "" },
            if n == 2 { "10.0.1.3" } else { "" },
        )),
        (prop::sample::select(&NODES[..]), 1..4u8, any::<bool>()).prop_map(|(name, n, both)| node(
            name,
            &format!("192.168.0.{n}/24"),
            both.then_some("fd01::1/64")
        )),
        (
            0..2usize,
            any::<bool>(),
            addresses,
            prop::collection::vec(80u16..82, 0..2)
        )
            .prop_map(|(n, web, addresses, ports)| service(
                &format!("s{n}"),
                if web { "web" } else { "db" },
                &addresses,
                &ports
            )),
        (nets(), labels(), any::<bool>()).prop_map(|(nets, labels, namespaced)| {
            let labels = endpoint("x", HERE, &[], labels).metadata.labels;
            if namespaced {
                let mut object = Object::namespaced("shop", "set", NetworkSetSpec { nets });
                object.metadata.labels = labels;
                object.into()
            } else {
                let mut object = Object::named("set", GlobalSet(NetworkSetSpec { nets }));
                object.metadata.labels = labels;
                object.into()
            }
        }),
        (prop::sample::select(&NODES[..]), labels()).prop_map(|(node, labels)| {
            let expected_ips = vec!["10.0.0.2".parse().unwrap(), "192.168.0.1".parse().unwrap()];
            let spec = HostEndpointSpec {
                node: node.to_string(),
                expected_ips,
                ..HostEndpointSpec::default()
            };
            let mut object = Object::named("host", spec);
            object.metadata.labels = endpoint("x", HERE, &[], labels).metadata.labels;
            object.into()
        }),
        (0..4usize, any::<bool>(), 0..5usize).prop_map(|(n, nat_outgoing, mode)| {
            use EncapsulationMode::{Always, CrossSubnet, Never};
            let ranges = ["10.0.0.0/16", "10.0.0.0/16", "10.0.1.0/24", "fd00::/48"];
            let modes = [
                (Never, Never),
                (Always, Never),
                (CrossSubnet, Never),
                (Never, Always),
                (Never, CrossSubnet),
            ];
            // There is no IPIP for IPv6.
            let (ipip_mode, vxlan_mode) = modes[if n == 3 { mode.max(3) } else { mode }];
            let pool = IpPoolSpec {
                nat_outgoing,
                ipip_mode,
                vxlan_mode,
                ..IpPoolSpec::of(net(ranges[n]))
            };
            Object::named(format!("pool{n}"), pool).into()
        }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        5 => an_endpoint().prop_map(|r| Event::Upsert(Box::new(r))),
        4 => a_policy().prop_map(|r| Event::Upsert(Box::new(r))),
        5 => another().prop_map(|r| Event::Upsert(Box::new(r))),
        3 => any::<prop::sample::Index>().prop_map(|i| Event::Delete(i.index(64))),
        1 => any::<prop::sample::Index>().prop_map(|i| Event::Repeat(i.index(64))),
        4 => Just(Event::Flush),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_flush_says_what_a_look_at_everything_says(events in prop::collection::vec(event(), 1..60)) {
        let mut bench = Bench::new();
        for event in events {
            match event {
                Event::Upsert(resource) => {
                    prop_assert!(resource.validate().is_ok(), "{:?}", resource.validate());
                    bench.upsert(*resource);
                }
                Event::Delete(n) if !bench.state.is_empty() => {
                    let key = bench.state.keys().nth(n % bench.state.len()).unwrap().clone();
                    bench.delete(&key);
                }
                Event::Repeat(n) if !bench.state.is_empty() => {
                    let resource = bench.state.values().nth(n % bench.state.len()).unwrap().clone();
                    bench.upsert(resource);
                }
                Event::Delete(_) | Event::Repeat(_) => {}
                Event::Flush => {
                    bench.flush();
                    bench.check();
                }
            }
        }
        bench.flush();
        bench.check();
    }
}
