//! Settings in the datastore are followed while the agent runs, and unknown ones are named.

use crate::bed::{Node, block_on, put, wait_for};
use dataplane_nftables::socket::Link;
use dataplane_nftables::wire::Family;
use policy_model::{FelixConfigurationSpec, Key, Kind, Object, Resource};
use policy_model_datastore::Datastore;
use serde_json::{Value, json};

pub(crate) fn configuration(name: &str, settings: &[(&str, Value)]) -> Resource {
    let settings = settings
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect();
    Resource::FelixConfiguration(Object::named(name, FelixConfigurationSpec { settings }))
}

/// The number of our table: another one would be another table.
fn table(node: &Node) -> u64 {
    let tables = node
        .namespace
        .run(|| Link::open().unwrap().tables(Family::Inet).unwrap())
        .unwrap();
    let ours: Vec<u64> = tables
        .iter()
        .filter(|t| t.name == "manx")
        .map(|t| t.handle)
        .collect();
    assert_eq!(ours.len(), 1, "{tables:?}");
    ours[0]
}

#[test]
fn settings_in_the_datastore_are_followed_without_an_end() {
    let node = Node::new();
    let store = node.store();
    put(&store, configuration("default", &[("healthPort", json!(9200))]));
    put(
        &store,
        configuration("node.another", &[("healthPort", json!(9300))]),
    );
    let felix = node.start();
    felix.wait_until_ready(9200);
    let handle = table(&node);
    let name = || std::fs::read_to_string(format!("/proc/{}/comm", felix.id())).unwrap();
    assert_eq!(name(), "felix\n");

    // What holds for this node wins over what holds for all.
    put(
        &store,
        configuration("node.node-1", &[("healthPort", json!(9201))]),
    );
    felix.wait_until_ready(9201);
    assert_eq!(node.get(9200, "/readiness"), None, "the old port is left");
    let said = felix.said();
    let named = said
        .lines()
        .any(|l| ["HealthPort", "9200", "9201"].iter().all(|word| l.contains(word)));
    assert!(named, "{said}");
    assert_eq!(name(), "felix\n");
    assert_eq!(table(&node), handle, "the table is the same one");
    assert!(node.path("cni.sock").exists());

    // A value that cannot be changes nothing, and is said once.
    let bad = [
        ("healthPort", json!("far")),
        ("interfacePrefix", json!("much-too-long-for-a-name")),
    ];
    put(&store, configuration("node.node-1", &bad));
    felix.wait_until_it_says("spec.interfacePrefix");
    felix.wait_until_it_says("spec.healthPort");
    // Something else changes beside it: what is in force stays as long as the value is there.
    put(&store, configuration("default", &[("healthPort", json!(9202))]));
    put(
        &store,
        configuration("node.another", &[("healthPort", json!(9301))]),
    );
    let still = node.get(9201, "/readiness").map(|(status, _)| status);
    assert_eq!(still, Some(200));
    let refusals = |text: &str| {
        text.lines()
            .filter(|l| l.contains("spec.healthPort: HealthPort cannot be"))
            .count()
    };
    assert_eq!(refusals(&felix.said()), 1, "{}", felix.said());

    // Once it is gone, the rest holds.
    let key = Key::global(Kind::FelixConfiguration, "node.node-1");
    block_on(store.delete(&key, None)).unwrap();
    felix.wait_until_ready(9202);
    assert_eq!(table(&node), handle);
    assert_eq!(felix.said().matches("starts anew").count(), 2, "{}", felix.said());
    assert_eq!(felix.stop().code(), Some(0));
    assert_eq!(table(&node), handle, "stopping leaves what is in force");
}

#[test]
fn a_bad_value_in_the_datastore_does_not_keep_it_from_starting() {
    let node = Node::new();
    let store = node.store();
    let settings = [
        ("healthPort", json!(9200)),
        ("interfacePrefix", json!("much-too-long-for-a-name")),
        ("prometheusMetricsPort", json!("far")),
        ("noSuchSetting", json!(true)),
    ];
    put(&store, configuration("default", &settings));
    let felix = node.start();
    felix.wait_until_ready(9200);
    let said = felix.said();
    for words in [
        "spec.interfacePrefix: InterfacePrefix cannot be",
        "spec.prometheusMetricsPort: PrometheusMetricsPort cannot be",
        "there is no setting \\\"noSuchSetting\\\"",
    ] {
        let found = said.contains(words) || said.contains(&words.replace('\\', ""));
        assert!(found, "{words} is not in\n{said}");
    }
    node.wait_for_page(9091, "/metrics");
    // They were there at the start: other settings are followed all the same.
    let mut changed = settings.to_vec();
    changed[0].1 = json!(9203);
    put(&store, configuration("default", &changed));
    felix.wait_until_ready(9203);
}

#[test]
fn settings_that_nobody_knows_are_named() {
    let node = Node::new();
    std::fs::write(node.path("felix.cfg"), "[global]\nHealthPorts = 1\n").unwrap();
    let felix = node.start_as("log", |command| {
        command
            .env("FELIX_IPINIPMTUU", "1400")
            .env("FELIX_WHATEVER", "1")
            .env("FELIX_BPFENABLED", "true");
    });
    felix.wait_until_ready(9099);
    let said = wait_for("the notices", || Some(felix.said()));
    for words in [
        "environment variable FELIX_WHATEVER: there is no setting",
        "environment variable FELIX_IPINIPMTUU: there is no setting",
        "IpInIpMtu may be meant",
        "felix.cfg line 2: there is no setting",
        "HealthPort may be meant",
        "have no effect here: BPFEnabled",
    ] {
        assert!(said.contains(words), "{words} is not in\n{said}");
    }
    let mut show = node.command("notices");
    show.arg("--show-settings").env("FELIX_WHATEVER", "1");
    let output = node
        .namespace
        .run(|| show.stdout(std::process::Stdio::piped()).output())
        .unwrap()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    assert!(
        text.contains("FelixHostname = \"node-1\"  # environment variable FELIX_FELIXHOSTNAME"),
        "{text}"
    );
    assert!(
        text.contains("# environment variable FELIX_WHATEVER: there is no setting \"WHATEVER\"; ignored"),
        "{text}"
    );
}
