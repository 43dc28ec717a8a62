//! Where workloads have their addresses from the ranges that the cluster gave its nodes.

#![allow(clippy::unwrap_used)] // A panic is the failure itself.

use dataplane_api::{Update, Way};
use felix_calc::{CalcConfig, CalcGraph};
use ipnet::IpNet;
use policy_model::{EncapsulationMode, IpPoolSpec, NodeBgpSpec, NodeSpec, Object, Resource};
use std::collections::BTreeMap;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn node(name: &str, address: &str, ranges: &[&str]) -> Resource {
    let bgp = NodeBgpSpec {
        ipv4_address: Some(net(address)),
        ..NodeBgpSpec::default()
    };
    let spec = NodeSpec {
        bgp: Some(bgp),
        pod_cidrs: ranges.iter().map(|range| net(range)).collect(),
        ..NodeSpec::default()
    };
    Object::named(name, spec).into()
}

/// Takes over what one flush says of routes.
fn follow(graph: &mut CalcGraph, routes: &mut BTreeMap<IpNet, Way>) {
    let mut updates = Vec::new();
    graph.flush(&mut updates);
    for update in updates {
        match update {
            Update::Route(route) => drop(routes.insert(route.destination, route.way)),
            Update::RouteRemoved(destination) => drop(routes.remove(&destination)),
            _ => {}
        }
    }
}

fn graph(node_ranges: bool) -> CalcGraph {
    let mut graph = CalcGraph::new(CalcConfig::for_node("here").with_node_ranges(node_ranges));
    for resource in [
        node("here", "192.0.2.1/24", &["10.1.0.0/24"]),
        node("near", "192.0.2.2/24", &["10.1.1.0/24", "fd00:1::/64"]),
        node("far", "198.51.100.2/24", &["10.1.2.0/24"]),
    ] {
        graph.on_upsert(resource).unwrap();
    }
    graph.on_in_sync();
    graph
}

#[test]
fn ranges_of_nodes_are_reached_as_the_pools_say() {
    let mut graph = graph(true);
    let mut routes = BTreeMap::new();
    follow(&mut graph, &mut routes);
    let plain = |address: &str| Way::Plain(address.parse().unwrap());
    // The one without an address of the family has no way.
    let mut expected = BTreeMap::from([
        (net("10.1.0.0/24"), Way::Here),
        (net("10.1.1.0/24"), plain("192.0.2.2")),
        (net("10.1.2.0/24"), plain("198.51.100.2")),
    ]);
    assert_eq!(routes, expected);

    let mut pool = IpPoolSpec::of(net("10.1.0.0/16"));
    pool.vxlan_mode = EncapsulationMode::CrossSubnet;
    graph.on_upsert(Object::named("pool", pool).into()).unwrap();
    follow(&mut graph, &mut routes);
    // The first address of a range is no pod's: its node's tunnel has it.
    expected.insert(net("10.1.2.0/24"), Way::Vxlan("10.1.2.0".parse().unwrap()));
    assert_eq!(routes, expected);

    graph
        .on_upsert(node("far", "198.51.100.2/24", &["10.1.3.0/24"]))
        .unwrap();
    graph.on_delete(&node("near", "192.0.2.2/24", &[]).key());
    follow(&mut graph, &mut routes);
    let expected = BTreeMap::from([
        (net("10.1.0.0/24"), Way::Here),
        (net("10.1.3.0/24"), Way::Vxlan("10.1.3.0".parse().unwrap())),
    ]);
    assert_eq!(routes, expected);
}

#[test]
fn elsewhere_they_are_nobodys() {
    let mut routes = BTreeMap::new();
    follow(&mut graph(false), &mut routes);
    assert_eq!(routes, BTreeMap::new());
}
