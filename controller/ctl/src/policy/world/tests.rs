//! What is filled in where manifests say nothing.

use super::*;
use policy_model_rules::oracle::{EndpointToHostAction, RefusedTunnels, Settings};

fn world(text: &str, known: &Known) -> World {
    let mut set = ManifestSet::new();
    set.set_file("m.yaml", text);
    World::new(set, known)
}

fn pod(name: &str, more: &str) -> String {
    format!("---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: n{more}\n")
}

fn plain(name: &str) -> String {
    pod(name, "}\nspec: {containers: [{name: c}]}")
}

fn addresses(world: &World, name: &str) -> Vec<String> {
    world
        .pod("n", name)
        .unwrap()
        .addresses
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn node(world: &World, name: &str) -> Option<String> {
    world.pod("n", name).unwrap().node.clone()
}

#[test]
fn pods_get_nodes_and_addresses_always_alike() {
    let text: String = (0..7).map(|n| plain(&format!("p{n}"))).collect();
    let (first, second) = (world(&text, &Known::default()), world(&text, &Known::default()));
    assert_eq!(first.faults, Vec::<String>::new());
    assert_eq!(
        first.nodes.keys().collect::<Vec<_>>(),
        ["node1", "node2", "node3"]
    );
    let mut all = std::collections::BTreeSet::new();
    let mut load: BTreeMap<String, usize> = BTreeMap::new();
    for n in 0..7 {
        let name = format!("p{n}");
        assert_eq!(addresses(&first, &name), addresses(&second, &name));
        assert_eq!(node(&first, &name), node(&second, &name));
        *load.entry(node(&first, &name).unwrap()).or_default() += 1;
        let [four, six] = addresses(&first, &name).try_into().unwrap();
        assert!(
            four.starts_with("10.65.") && six.starts_with("fd65:6c61:6200:"),
            "{four} {six}"
        );
        assert!(all.insert(four) && all.insert(six), "no address twice");
    }
    assert_eq!(load.values().copied().collect::<Vec<_>>(), [3, 2, 2]);
    // The facts have them too.
    let facts: Vec<String> = first
        .facts
        .addresses("n", "p3")
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(facts, addresses(&first, "p3"));
}

#[test]
fn what_manifests_say_comes_first() {
    let text = [
        pod("asks", ", annotations: {cni.projectcalico.org/ipAddrs: '[\"10.65.0.9\"]', cni.projectcalico.org/podIPs: 10.65.0.8/32}}\nspec: {nodeName: x, containers: [{name: c}]}"),
        pod("has", ", annotations: {cni.projectcalico.org/podIPs: '10.9.0.1/32,fd09::1/128'}}\nspec: {containers: [{name: c}]}"),
        pod("told", "}\nspec: {containers: [{name: c}]}\nstatus: {podIPs: [{ip: 10.9.0.2}]}"),
        pod("done", "}\nspec: {containers: [{name: c}]}\nstatus: {phase: Succeeded}"),
        pod("host", "}\nspec: {hostNetwork: true, nodeName: x, containers: [{name: c}]}\nstatus: {podIPs: [{ip: 10.98.0.1}]}"),
        plain("free"),
    ]
    .concat();
    let known = Known {
        pods: ["asks", "free", "gone"]
            .map(|name| {
                let place = ("node1".to_string(), vec!["10.65.9.9".parse().unwrap()]);
                (("n".to_string(), name.to_string()), place)
            })
            .into(),
        ..Known::default()
    };
    let found = world(&text, &known);
    assert_eq!(found.faults, Vec::<String>::new());
    assert_eq!(addresses(&found, "asks"), ["10.65.0.9"]);
    assert_eq!(node(&found, "asks").unwrap(), "x");
    assert_eq!(addresses(&found, "has"), ["10.9.0.1", "fd09::1"]);
    assert_eq!(addresses(&found, "told"), ["10.9.0.2"]);
    assert_eq!(addresses(&found, "done"), Vec::<String>::new());
    assert_eq!(node(&found, "done"), None);
    assert_eq!(addresses(&found, "host"), Vec::<String>::new());
    assert_eq!(addresses(&found, "free"), ["10.65.9.9"]);
    assert_eq!(node(&found, "free").unwrap(), "node1");
    assert_eq!(
        found.nodes.keys().collect::<Vec<_>>(),
        ["node1", "node2", "x"],
        "filled up to three"
    );
    let of_x = found
        .facts
        .endpoints()
        .any(|(_, pod)| pod == "host" || pod == "done");
    assert!(!of_x, "neither is an endpoint");
}

#[test]
fn an_address_that_a_manifest_claims_is_not_kept_by_another() {
    let text = pod(
        "asks",
        ", annotations: {cni.projectcalico.org/ipAddrs: '[\"10.65.0.9\"]'}}\nspec: {containers: [{name: c}]}",
    ) + &plain("free");
    let place = ("node1".to_string(), vec!["10.65.0.9".parse().unwrap()]);
    let known = Known {
        pods: [(("n".to_string(), "free".to_string()), place)].into(),
        ..Known::default()
    };
    let found = world(&text, &known);
    assert_eq!(addresses(&found, "asks"), ["10.65.0.9"]);
    assert!(!addresses(&found, "free").contains(&"10.65.0.9".to_string()));
    assert_eq!(addresses(&found, "free").len(), 2);
}

#[test]
fn pools_nodes_and_their_selectors_count() {
    let text = [
        "apiVersion: v1\nkind: Node\nmetadata: {name: a, labels: {rack: r1}}\nstatus: {addresses: [{type: InternalIP, address: 192.168.0.1}]}\n",
        "---\napiVersion: v1\nkind: Node\nmetadata: {name: b}\n",
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: n, labels: {team: shop}}\n",
        "---\napiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: p1}\nspec: {cidr: 10.1.0.0/24, nodeSelector: rack == 'r1', namespaceSelector: team == 'shop'}\n",
        "---\napiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: p2}\nspec: {cidr: 10.2.0.0/24, assignmentMode: Manual}\n",
        &pod("one", "}\nspec: {nodeName: a, containers: [{name: c}]}"),
        &pod("two", ", annotations: {cni.projectcalico.org/ipv4pools: '[\"p2\"]'}}\nspec: {nodeName: a, containers: [{name: c}]}"),
        &pod("three", "}\nspec: {nodeName: b, containers: [{name: c}]}"),
    ]
    .concat();
    let found = world(&text, &Known::default());
    assert_eq!(
        found.nodes.len(),
        2,
        "where Node manifests are, no other nodes are made up"
    );
    assert_eq!(found.nodes["a"], ["192.168.0.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(found.nodes["b"], node_addresses(1));
    assert!(addresses(&found, "one")[0].starts_with("10.1.0."));
    assert!(addresses(&found, "two")[0].starts_with("10.2.0."));
    assert_eq!(addresses(&found, "three"), Vec::<String>::new());
    assert_eq!(found.faults.len(), 1, "{:?}", found.faults);
    assert!(
        found.faults[0].starts_with("Pod n/three: it gets no address: "),
        "{}",
        found.faults[0]
    );
}

/// FelixConfiguration objects: name and specification.
fn configurations(all: &[(&str, &str)]) -> String {
    let one = |(name, spec): &(&str, &str)| {
        format!(
            "---\napiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
        )
    };
    all.iter().map(one).collect()
}

#[test]
fn the_setting_for_packets_to_the_own_node_is_read() {
    let action = |all: &[(&str, &str)], environment: Option<&Layer>| {
        let found = world(&configurations(all), &Known::default());
        let read = settings(&found.resources, environment);
        ["a", "b"].map(|node| read.at(node).default_endpoint_to_host_action)
    };
    let drops = [("default", "defaultEndpointToHostAction: DROP")];
    use EndpointToHostAction::{Accept, Drop, Return};
    assert_eq!(action(&[], None), [Accept, Accept]);
    assert_eq!(action(&drops, None), [Drop, Drop]);
    // What is said of a node goes before what is said of all; what it leaves open stays as all have it.
    let of_a = |spec| [drops[0], ("node.a", spec)];
    assert_eq!(
        action(&of_a("defaultEndpointToHostAction: ACCEPT"), None),
        [Accept, Drop]
    );
    assert_eq!(action(&of_a("vxlanPort: 8472"), None), [Drop, Drop]);
    assert_eq!(
        action(&[("node.a", "defaultEndpointToHostAction: Drop")], None),
        [Drop, Accept]
    );
    let environment = environment_saying("defaultendpointtohostaction", "Return");
    assert_eq!(
        action(&of_a("defaultEndpointToHostAction: ACCEPT"), Some(&environment)),
        [Return, Return],
        "the agents' own environment comes first"
    );
}

#[test]
fn the_settings_for_tunnels_of_workloads_are_read_by_their_precedence() {
    let tunnels = |ipip, vxlan_port| RefusedTunnels { ipip, vxlan_port };
    let read = |all: &[(&str, &str)], environment: Option<&Layer>| {
        settings(
            &world(&configurations(all), &Known::default()).resources,
            environment,
        )
    };
    let usual = tunnels(true, Some(4789));
    assert_eq!(read(&[], None).of_all.refused_tunnels, usual);
    for (spec, wanted) in [
        ("allowIPIPPacketsFromWorkloads: true", tunnels(false, Some(4789))),
        ("allowVXLANPacketsFromWorkloads: 'yes'", tunnels(true, None)),
        ("vxlanPort: 8472", tunnels(true, Some(8472))),
        (
            "vxlanPort: 8472, allowVXLANPacketsFromWorkloads: false",
            tunnels(true, Some(8472)),
        ),
        // What cannot be read is the default.
        ("vxlanPort: 70000, allowIPIPPacketsFromWorkloads: perhaps", usual),
        ("vxlanPort: none", usual),
    ] {
        assert_eq!(
            read(&[("default", spec)], None).of_all.refused_tunnels,
            wanted,
            "{spec}"
        );
    }
    let both = [
        ("default", "allowIPIPPacketsFromWorkloads: true, vxlanPort: 8472"),
        ("node.a", "allowIPIPPacketsFromWorkloads: false"),
        ("node.b", "allowVXLANPacketsFromWorkloads: true"),
        ("other", "vxlanPort: 1"),
    ];
    let found = read(&both, None);
    let refused = |found: &Settings| ["a", "b", "c"].map(|node| found.at(node).refused_tunnels);
    assert_eq!(
        refused(&found),
        [
            tunnels(true, Some(8472)),
            tunnels(false, None),
            tunnels(false, Some(8472))
        ]
    );
    assert_eq!(found.of_nodes.len(), 2);
    let environment = environment_saying("VXLANPort", "4790");
    let found = read(&both, Some(&environment));
    assert_eq!(
        refused(&found),
        [
            tunnels(true, Some(4790)),
            tunnels(false, None),
            tunnels(false, Some(4790))
        ]
    );
}
