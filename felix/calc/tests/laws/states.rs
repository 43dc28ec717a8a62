//! Named states of a cluster, each as a function.

use crate::HERE;
use crate::model::State;
use crate::objects::*;
use policy_model::{
    EntityRule, GlobalSet, HostEndpointSpec, IpPoolSpec, NetworkSetSpec, NodeSpec, Object, PolicyRule,
    Resource, ServiceMatch,
};

fn of(resources: impl IntoIterator<Item = Resource>) -> State {
    let state: State = resources
        .into_iter()
        .map(|resource| (resource.key(), resource))
        .collect();
    for resource in state.values() {
        resource
            .validate()
            .unwrap_or_else(|fault| panic!("{}: {fault}", resource.key()));
    }
    state
}

fn empty() -> State {
    of([])
}

fn one_policy() -> State {
    of([
        endpoint("web", HERE, &["10.0.0.1/32"], "role=server").into(),
        endpoint("cli", "there", &["10.0.1.1/32"], "role=client").into(),
        policy(
            "from-clients",
            "role == 'server'",
            vec![allow(side("role == 'client'"))],
        )
        .into(),
        profile("kns.shop", "pcns.team=a"),
    ])
}

fn policy_of_nobody_here() -> State {
    let mut state = one_policy();
    state.extend(of([policy(
        "from-clients",
        "role == 'client'",
        vec![allow(side("role == 'server'"))],
    )
    .into()]));
    state
}

fn both_directions_with_own_sides() -> State {
    let mut both = policy("both", "all()", vec![allow_port("role == 'server'", "http")]);
    both.spec.egress = vec![PolicyRule {
        source: side("has(role)"),
        destination: EntityRule {
            not_selector: "role == 'client'".to_string(),
            ..EntityRule::default()
        },
        ..PolicyRule::default()
    }];
    let mut web = endpoint("web", HERE, &["10.0.0.1/32", "fd00::1/128"], "role=server");
    web.spec.ports = vec![named_port("http", 8080), named_port("http", 8081)];
    let mut far = endpoint("far", "there", &["10.0.1.1/32"], "role=server");
    far.spec.ports = vec![named_port("http", 80)];
    of([
        both.into(),
        web.into(),
        far.into(),
        endpoint("cli", HERE, &["10.0.0.2/32"], "role=client").into(),
    ])
}

fn two_tiers() -> State {
    let mut state = one_policy();
    state.extend(of([
        tier("first", Some(1.0)),
        tier("last", None),
        global_policy("z-first", "first", Some(1.0), "all()").into(),
        global_policy("a-second", "first", Some(2.0), "has(role)").into(),
        global_policy("no-order", "last", None, "all()").into(),
        global_policy("unknown-tier", "nowhere", Some(1.0), "all()").into(),
    ]));
    state
}

fn tiers_swapped() -> State {
    let mut state = two_tiers();
    state.extend(of([
        tier("first", Some(2_000_000.0)),
        tier("last", Some(3.0)),
        tier("nowhere", Some(7.0)),
    ]));
    state.extend(of([global_policy("z-first", "first", Some(5.0), "all()").into()]));
    state
}

fn profile_missing() -> State {
    let mut state = one_policy();
    state.remove(&profile("kns.shop", "").key());
    state
}

fn labels_inherited() -> State {
    let mut own = endpoint("own", "there", &["10.0.1.2/32"], "pcns.team=b");
    own.spec.profiles = vec!["kns.shop".to_string(), "ksa.shop.robot".to_string()];
    own.spec.service_account_name = "robot".to_string();
    let mut state = one_policy();
    state.extend(of([
        own.into(),
        profile("ksa.shop.robot", "pcns.team=c pcsa.kind=robot"),
        policy(
            "by-team",
            "pcns.team == 'a'",
            vec![allow(side("pcns.team == 'b'")), allow(side("has(pcsa.kind)"))],
        )
        .into(),
    ]));
    state
}

fn team_changed() -> State {
    let mut state = labels_inherited();
    state.extend(of([profile("kns.shop", "pcns.team=b")]));
    state
}

fn twins_inherit() -> State {
    let mut state = labels_inherited();
    state.extend(of([
        endpoint("left", "there", &["10.0.7.7/32"], "").into(),
        endpoint("right", "elsewhere", &["10.0.7.7/32"], "").into(),
        profile("kns.shop", "pcns.team=d"),
        policy("from-team", "all()", vec![allow(side("pcns.team == 'b'"))]).into(),
    ]));
    state
}

fn twins_change_teams_together() -> State {
    let mut state = twins_inherit();
    state.extend(of([profile("kns.shop", "pcns.team=b")]));
    state
}

fn moved_address() -> State {
    let mut state = one_policy();
    state.extend(of([
        endpoint("web", HERE, &["10.0.0.9/32"], "role=server").into(),
        endpoint("new", "there", &["10.0.1.1/32"], "role=client").into(),
        endpoint("cli", "there", &["10.0.0.1/32"], "role=other").into(),
    ]));
    state
}

fn duplicate_addresses() -> State {
    let mut state = one_policy();
    state.extend(of([
        endpoint(
            "twin",
            "elsewhere",
            &["10.0.1.1/32", "10.0.1.2/32"],
            "role=client",
        )
        .into(),
        endpoint("third", HERE, &["10.0.1.1/32"], "role=client").into(),
        node("there", "192.168.0.2/24", None),
        node("elsewhere", "192.168.0.3/24", None),
    ]));
    state
}

fn moved_to_another_node() -> State {
    of([
        endpoint("web", "there", &["10.0.0.1/32"], "role=server").into(),
        endpoint("cli", HERE, &["10.0.1.1/32"], "role=client").into(),
        policy(
            "from-clients",
            "role == 'server'",
            vec![allow(side("role == 'client'"))],
        )
        .into(),
        policy(
            "to-clients",
            "role == 'client'",
            vec![allow(side("role == 'server'"))],
        )
        .into(),
        profile("kns.shop", "pcns.team=a"),
        node("there", "192.168.0.2/24", Some("fd01::2/64")),
    ])
}

fn named_ports() -> State {
    let mut state = one_policy();
    for (name, port) in [("a", 80), ("b", 81)] {
        let mut object = endpoint(name, "there", &["10.0.2.1/32"], "role=backend");
        object.spec.ports = vec![named_port("http", port), named_port("", 9)];
        state.extend(of([object.into()]));
    }
    let mut egress = policy("to-backends", "all()", Vec::new());
    egress.spec.egress = vec![allow_port("role == 'backend'", "http"), allow_port("", "http")];
    state.extend(of([egress.into()]));
    state
}

fn ports_renumbered() -> State {
    let mut state = named_ports();
    let mut object = endpoint("a", "there", &["10.0.2.1/32"], "role=backend");
    object.spec.ports = vec![named_port("http", 8080)];
    state.extend(of([object.into()]));
    state
}

fn network_sets() -> State {
    let mut outside = Object::named(
        "outside",
        GlobalSet(NetworkSetSpec {
            nets: vec![net("203.0.113.7/24"), net("10.0.1.1/32")],
        }),
    );
    outside.metadata.labels = labels("role=client");
    let mut partners = Object::namespaced(
        "shop",
        "partners",
        NetworkSetSpec {
            nets: vec![net("198.51.100.0/24"), net("fd02::/64")],
        },
    );
    partners.metadata.labels = labels("role=client");
    let mut host = Object::named(
        "node-eth0",
        HostEndpointSpec {
            node: "there".to_string(),
            interface_name: "eth0".to_string(),
            expected_ips: vec!["192.168.0.2".parse().unwrap()],
            ..HostEndpointSpec::default()
        },
    );
    host.metadata.labels = labels("role=client");
    let fixed = EntityRule {
        nets: vec![net("10.9.0.0/16")],
        not_nets: vec![net("10.9.1.0/24")],
        ..EntityRule::default()
    };
    let mut state = one_policy();
    state.extend(of([
        outside.into(),
        partners.into(),
        host.into(),
        global_policy("open", "", None, "role == 'server'").into(),
        policy("by-net", "role == 'server'", vec![allow(fixed)]).into(),
        policy(
            "by-team",
            "all()",
            vec![allow(side("pcns.team == 'a' && role == 'client'"))],
        )
        .into(),
    ]));
    state
}

fn services() -> State {
    let to = |name: &str| EntityRule {
        services: Some(ServiceMatch {
            name: name.to_string(),
            namespace: "shop".to_string(),
        }),
        ..EntityRule::default()
    };
    let mut both = policy("services", "all()", vec![allow(to("web"))]);
    both.spec.egress = vec![PolicyRule {
        destination: to("web"),
        ..PolicyRule::default()
    }];
    let mut state = one_policy();
    state.extend(of([
        both.into(),
        service("web-1", "web", &["10.0.0.1", "10.0.1.1"], &[80, 443]),
        service("web-2", "web", &["10.0.1.1", "10.0.3.3"], &[80]),
        service("other", "db", &["10.0.5.5"], &[5432]),
    ]));
    state
}

fn service_moved() -> State {
    let mut state = services();
    state.extend(of([
        service("other", "web", &["10.0.5.5"], &[]),
        service("web-2", "db", &["10.0.3.3"], &[80]),
    ]));
    state
}

fn addresses_from_blocks() -> State {
    let mut state = one_policy();
    state.extend(of([
        endpoint("web", HERE, &[], "role=server").into(),
        endpoint("cli", "there", &[], "role=client").into(),
        endpoint("borrower", "elsewhere", &[], "role=client").into(),
        block(
            "here-0",
            "10.0.0.0/30",
            Some(HERE),
            &[(1, "web"), (2, "borrower")],
        ),
        block("there-0", "10.0.1.0/30", Some("there"), &[(1, "cli"), (3, "web")]),
        block("there-6", "fd00::/126", Some("there"), &[(1, "cli")]),
        block("nobody", "10.0.2.0/30", None, &[(0, "borrower")]),
        node(HERE, "192.168.0.1/24", None),
        node("there", "192.168.0.2/24", Some("fd01::2/64")),
        node("elsewhere", "192.168.0.3/24", None),
    ]));
    state
}

fn blocks_changed_hands() -> State {
    let mut state = addresses_from_blocks();
    state.extend(of([
        block(
            "here-0",
            "10.0.0.0/30",
            Some("elsewhere"),
            &[(2, "web"), (1, "borrower")],
        ),
        block("there-0", "10.0.1.0/30", Some(HERE), &[(1, "cli"), (2, "cli")]),
        block("nobody", "10.0.2.0/31", Some("there"), &[(0, "borrower")]),
        node("there", "192.168.0.22/24", None),
    ]));
    state
}

fn pools() -> State {
    let mut pool = IpPoolSpec::of(net("10.0.0.0/16"));
    pool.nat_outgoing = true;
    let mut state = addresses_from_blocks();
    state.extend(of([
        Object::named("v4", pool).into(),
        Object::named("v6", IpPoolSpec::of(net("fd00::/48"))).into(),
    ]));
    state
}

fn node_without_address() -> State {
    let mut state = pools();
    state.extend(of([Object::named("there", NodeSpec::default()).into()]));
    state.remove(&node("elsewhere", "192.168.0.3/24", None).key());
    state
}

fn no_interface() -> State {
    let mut web = endpoint("web", HERE, &["10.0.0.1/32"], "role=client");
    web.spec.interface_name.clear();
    let mut state = one_policy();
    state.extend(of([
        web.into(),
        endpoint("db", HERE, &["10.0.0.2/32"], "role=server").into(),
    ]));
    state
}

/// All of them, with their names.
pub(crate) fn all() -> Vec<(&'static str, State)> {
    vec![
        ("empty", empty()),
        ("one policy", one_policy()),
        ("policy of nobody here", policy_of_nobody_here()),
        ("both directions with own sides", both_directions_with_own_sides()),
        ("two tiers", two_tiers()),
        ("tiers swapped", tiers_swapped()),
        ("profile missing", profile_missing()),
        ("labels inherited", labels_inherited()),
        ("team changed", team_changed()),
        ("twins inherit", twins_inherit()),
        ("twins change teams together", twins_change_teams_together()),
        ("moved address", moved_address()),
        ("duplicate addresses", duplicate_addresses()),
        ("moved to another node", moved_to_another_node()),
        ("named ports", named_ports()),
        ("ports renumbered", ports_renumbered()),
        ("network sets", network_sets()),
        ("services", services()),
        ("service moved", service_moved()),
        ("addresses from blocks", addresses_from_blocks()),
        ("blocks changed hands", blocks_changed_hands()),
        ("pools", pools()),
        ("node without address", node_without_address()),
        ("no interface", no_interface()),
    ]
}
