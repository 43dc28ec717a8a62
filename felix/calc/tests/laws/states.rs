//! Named states of a cluster, each as a function.

use crate::HERE;
use crate::model::State;
use ipnet::IpNet;
use policy_model::{
    Action, AllocationAttribute, EndpointPort, EntityRule, GlobalNetworkPolicySpec, GlobalSet,
    HostEndpointSpec, IpPoolSpec, IpamBlockSpec, NetworkPolicySpec, NetworkSetSpec, NodeBgpSpec, NodeSpec,
    Object, PolicyRule, PolicyType, Port, ProfileSpec, Protocol, Resource, ServiceEndpointsSpec,
    ServiceMatch, ServicePort, TierSpec, WorkloadEndpointSpec,
};
use std::collections::BTreeMap;

fn labels(text: &str) -> BTreeMap<String, String> {
    let pair = |pair: &str| {
        pair.split_once('=')
            .map(|(key, value)| (key.to_string(), value.to_string()))
    };
    text.split_whitespace().filter_map(pair).collect()
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// A workload endpoint of the namespace `shop` with the profile `kns.shop`.
pub(crate) fn endpoint(name: &str, node: &str, nets: &[&str], with: &str) -> Object<WorkloadEndpointSpec> {
    let spec = WorkloadEndpointSpec {
        orchestrator: "k8s".to_string(),
        node: node.to_string(),
        pod: name.to_string(),
        ip_networks: nets.iter().map(|text| net(text)).collect(),
        profiles: vec!["kns.shop".to_string()],
        interface_name: format!("cali{name}"),
        ..WorkloadEndpointSpec::default()
    };
    let mut object = Object::namespaced("shop", name, spec);
    object.metadata.labels = labels(with);
    object
}

pub(crate) fn named_port(name: &str, port: u16) -> EndpointPort {
    EndpointPort {
        name: name.to_string(),
        protocol: Protocol::TCP,
        port,
        host_port: 0,
        host_ip: String::new(),
    }
}

pub(crate) fn profile(name: &str, with: &str) -> Resource {
    let spec = ProfileSpec {
        ingress: vec![],
        egress: vec![allow(side(""))],
        labels_to_apply: labels(with),
    };
    Object::named(name, spec).into()
}

pub(crate) fn side(selector: &str) -> EntityRule {
    EntityRule {
        selector: selector.to_string(),
        ..EntityRule::default()
    }
}

/// A rule that allows from a source.
pub(crate) fn allow(source: EntityRule) -> PolicyRule {
    PolicyRule {
        action: Action::Allow,
        source,
        ..PolicyRule::default()
    }
}

/// A rule that allows TCP from anywhere to a port of a name on this side.
pub(crate) fn allow_port(selector: &str, port: &str) -> PolicyRule {
    let destination = EntityRule {
        ports: vec![Port::Name(port.to_string())],
        ..side(selector)
    };
    PolicyRule {
        action: Action::Allow,
        protocol: Some(Protocol::TCP),
        destination,
        ..PolicyRule::default()
    }
}

pub(crate) fn policy(name: &str, selector: &str, ingress: Vec<PolicyRule>) -> Object<NetworkPolicySpec> {
    let spec = NetworkPolicySpec {
        selector: selector.to_string(),
        ingress,
        ..NetworkPolicySpec::default()
    };
    Object::namespaced("shop", name, spec)
}

pub(crate) fn global_policy(
    name: &str,
    tier: &str,
    order: Option<f64>,
    selector: &str,
) -> Object<GlobalNetworkPolicySpec> {
    let spec = GlobalNetworkPolicySpec {
        tier: tier.to_string(),
        order,
        selector: selector.to_string(),
        types: vec![PolicyType::Ingress, PolicyType::Egress],
        ingress: vec![allow(side("role == 'client'"))],
        egress: vec![PolicyRule {
            action: Action::Pass,
            ..PolicyRule::default()
        }],
        ..GlobalNetworkPolicySpec::default()
    };
    Object::named(name, spec)
}

pub(crate) fn tier(name: &str, order: Option<f64>) -> Resource {
    Object::named(
        name,
        TierSpec {
            order,
            default_action: None,
        },
    )
    .into()
}

pub(crate) fn node(name: &str, ipv4: &str, ipv6: Option<&str>) -> Resource {
    let bgp = NodeBgpSpec {
        ipv4_address: Some(net(ipv4)),
        ipv6_address: ipv6.map(net),
        ..NodeBgpSpec::default()
    };
    Object::named(
        name,
        NodeSpec {
            bgp: Some(bgp),
            ..NodeSpec::default()
        },
    )
    .into()
}

/// A block with addresses of pods of the namespace `shop`, by ordinal.
pub(crate) fn block(name: &str, cidr: &str, node: Option<&str>, pods: &[(usize, &str)]) -> Resource {
    let cidr = net(cidr);
    let size = 1 << (cidr.max_prefix_len() - cidr.prefix_len());
    let mut allocations = vec![None; size];
    let mut attributes = Vec::new();
    for (ordinal, pod) in pods {
        allocations[*ordinal] = Some(attributes.len() as u32);
        let secondary = labels(&format!("namespace=shop pod={pod}"));
        attributes.push(AllocationAttribute {
            handle_id: None,
            secondary,
        });
    }
    let unallocated = (0..size as u32)
        .filter(|ordinal| allocations[*ordinal as usize].is_none())
        .collect();
    let spec = IpamBlockSpec {
        cidr,
        affinity: node.map(|node| format!("host:{node}")),
        strict_affinity: false,
        allocations,
        unallocated,
        attributes,
        sequence_number: 0,
        sequence_number_for_allocation: BTreeMap::new(),
        deleted: false,
    };
    Object::named(name, spec).into()
}

pub(crate) fn service(slice: &str, name: &str, addresses: &[&str], ports: &[u16]) -> Resource {
    let port = |port: &u16| ServicePort {
        name: String::new(),
        protocol: Protocol::TCP,
        port: *port,
    };
    let spec = ServiceEndpointsSpec {
        service: name.to_string(),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        ports: ports.iter().map(port).collect(),
    };
    Object::namespaced("shop", slice, spec).into()
}

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
        ("moved address", moved_address()),
        ("duplicate addresses", duplicate_addresses()),
        ("moved to another node", moved_to_another_node()),
        ("named ports", named_ports()),
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
