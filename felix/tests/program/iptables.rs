//! In what policy is held: what the settings choose is in force, the rest is gone, and it is said.

use crate::bed::{Felix, Node, put, wait_for};
use crate::metrics::value;
use crate::settings::configuration;
use crate::text_format::{Labels, parse};
use serde_json::json;
use std::process::Stdio;

/// What of ours is in the node's kernel: names of the ways to hold policy.
pub(crate) fn in_force(node: &Node) -> Vec<&'static str> {
    let mut found = Vec::new();
    if node.run("nft", &["list", "tables"]).contains("table inet manx") {
        found.push("nftables");
    }
    for variant in ["legacy", "nft"] {
        let programs = ["iptables", "ip6tables"].map(|base| format!("{base}-{variant}-save"));
        if programs
            .iter()
            .any(|program| node.run(program, &[]).contains("cali"))
        {
            found.push(variant);
        }
    }
    let sets = node.run("ipset", &["list", "-n"]).contains("cali");
    let needs_sets = found.iter().any(|name| *name != "nftables");
    if sets != needs_sets {
        found.push(if sets { "sets" } else { "no sets" });
    }
    found
}

/// Starts felix with policy in iptables.
pub(crate) fn start_with<'node>(node: &'node Node, log: &str, variant: &str) -> Felix<'node> {
    node.start_as(log, |command| {
        command
            .env("FELIX_NFTABLESMODE", "Disabled")
            .env("FELIX_IPTABLESBACKEND", variant);
    })
}

fn wait_until_in_force(node: &Node, expected: &str) {
    wait_for(&format!("{expected} and nothing else"), || {
        (in_force(node) == [expected]).then_some(())
    });
}

#[test]
fn what_is_chosen_is_in_force_and_said_with_its_reason() {
    for (mode, backend, expected, words) in [
        (
            "Auto",
            "Auto",
            "nftables",
            "NFTablesMode is Auto, the kernel has what nftables needs, and no kube-proxy has rules in iptables",
        ),
        ("Enabled", "Legacy", "nftables", "NFTablesMode is Enabled"),
        (
            "Disabled",
            "Legacy",
            "legacy",
            "the setting IptablesBackend says so",
        ),
        ("Disabled", "NFT", "nft", "the setting IptablesBackend says so"),
        ("Disabled", "Auto", "nft", "nobody has rules in either variant"),
    ] {
        let node = Node::new();
        let felix = node.start_as("log", |command| {
            command
                .env("FELIX_NFTABLESMODE", mode)
                .env("FELIX_IPTABLESBACKEND", backend);
        });
        felix.wait_until_ready(9099);
        assert_eq!(in_force(&node), [expected], "{mode} {backend}");
        let said = felix.said();
        assert!(said.contains(words), "{words} is not in\n{said}");
        let named = said.matches("policy is held in").count();
        assert_eq!(named, 1, "{said}");
        let differs = said.contains("NftablesOwnedTable has no effect");
        assert_eq!(differs, expected != "nftables", "{said}");
        assert_eq!(felix.stop().code(), Some(0));
        assert_eq!(in_force(&node), [expected], "stopping leaves what is in force");
    }
}

#[test]
fn the_choice_follows_the_rules_of_kube_proxy() {
    for variant in ["legacy", "nft"] {
        let node = Node::new();
        let other = if variant == "nft" { "legacy" } else { "nft" };
        node.run(
            &format!("iptables-{variant}"),
            &["-t", "mangle", "-N", "KUBE-IPTABLES-HINT"],
        );
        node.run(
            &format!("iptables-{variant}"),
            &["-t", "nat", "-N", "KUBE-SERVICES"],
        );
        for number in 0..3 {
            let source = format!("203.0.113.{number}");
            node.run(
                &format!("iptables-{other}"),
                &["-A", "INPUT", "-s", &source, "-j", "DROP"],
            );
        }
        let felix = start_with(&node, "log", "Auto");
        felix.wait_until_ready(9099);
        assert_eq!(in_force(&node), [variant]);
        assert!(
            felix.said().contains("the kubelet has its chains there"),
            "{}",
            felix.said()
        );
        assert_eq!(felix.stop().code(), Some(0));

        let felix = node.start();
        felix.wait_until_ready(9099);
        assert_eq!(in_force(&node), [variant]);
        let words = format!("kube-proxy has its rules in iptables ({variant})");
        assert!(felix.said().contains(&words), "{}", felix.said());
        assert_eq!(felix.stop().code(), Some(0));

        // It changed its mode, and what it had before is still there.
        node.run("nft", &["add", "table", "ip", "kube-proxy"]);
        let felix = node.start();
        felix.wait_until_ready(9099);
        wait_until_in_force(&node, "nftables");
        assert!(
            felix.said().contains("kube-proxy has its rules there"),
            "{}",
            felix.said()
        );
        let saved = node.run(&format!("iptables-{variant}-save"), &[]);
        assert!(
            saved.contains("KUBE-IPTABLES-HINT") && saved.contains("KUBE-SERVICES"),
            "{saved}"
        );
        let saved = node.run(&format!("iptables-{other}-save"), &[]);
        assert_eq!(saved.matches("-j DROP").count(), 3, "{saved}");
    }
}

#[test]
fn a_change_of_the_setting_moves_policy_without_an_end() {
    let node = Node::new();
    let store = node.store();
    let felix = node.start();
    felix.wait_until_ready(9099);
    wait_until_in_force(&node, "nftables");
    for (mode, backend, expected) in [
        ("Disabled", "Legacy", "legacy"),
        ("Disabled", "NFT", "nft"),
        ("Auto", "NFT", "nftables"),
        ("Disabled", "NFT", "nft"),
        ("Disabled", "Legacy", "legacy"),
        ("Enabled", "Legacy", "nftables"),
    ] {
        let settings = [("nftablesMode", json!(mode)), ("iptablesBackend", json!(backend))];
        put(&store, configuration("default", &settings));
        wait_until_in_force(&node, expected);
        felix.wait_until_ready(9099);
        assert_eq!(in_force(&node), [expected]);
    }
    // A mask without a bit for us is refused with its name, and changes nothing.
    let settings = [("iptablesMarkMask", json!(0xc000))];
    put(&store, configuration("node.node-1", &settings));
    felix.wait_until_it_says("spec.iptablesMarkMask: IptablesMarkMask cannot be");
    felix.wait_until_it_says("which kube-proxy uses");
    assert_eq!(in_force(&node), ["nftables"]);
    assert_eq!(felix.stop().code(), Some(0));
}

#[test]
fn a_life_that_died_between_two_ways_leaves_nothing_for_good() {
    let node = Node::new();
    let felix = start_with(&node, "first", "Legacy");
    felix.wait_until_ready(9099);
    assert_eq!(felix.stop().code(), Some(0));
    // As if it had died before it removed the table of the life before.
    node.run("nft", &["add", "table", "inet", "manx"]);
    assert_eq!(in_force(&node), ["nftables", "legacy"]);
    let felix = start_with(&node, "second", "Legacy");
    felix.wait_until_ready(9099);
    assert_eq!(in_force(&node), ["legacy"]);
    felix.wait_until_it_says("removed the nftables table 'manx'");
    assert_eq!(felix.stop().code(), Some(0));
    // As if the next one had died before it removed a set and a variant's chains.
    node.run("iptables-nft", &["-N", "cali-FORWARD"]);
    node.run("ipset", &["create", "cali40s77", "hash:ip"]);
    let felix = node.start_as("third", |_| {});
    felix.wait_until_ready(9099);
    assert_eq!(in_force(&node), ["nftables"]);
    for words in ["(legacy)", "(nft)", "removed our IP sets"] {
        felix.wait_until_it_says(words);
    }
    assert_eq!(felix.stop().code(), Some(0));
}

#[test]
fn a_clean_up_takes_everything_off_with_or_without_programs() {
    for variant in ["Legacy", "NFT"] {
        let node = Node::new();
        node.run(
            "iptables-legacy",
            &["-A", "FORWARD", "-s", "203.0.113.1", "-j", "DROP"],
        );
        let clean = |folders: Option<&str>| {
            let mut command = node.command("clean");
            command.arg("--cleanup").stdout(Stdio::piped());
            if let Some(folders) = folders {
                command.env("PATH", folders);
            }
            let output = node.namespace.run(|| command.output()).unwrap().unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            assert!(output.status.success(), "{said}");
            said
        };
        assert!(clean(None).contains("there was nothing of ours"));
        let felix = start_with(&node, "log", variant);
        felix.wait_until_ready(9099);
        assert_eq!(felix.stop().code(), Some(0));
        let said = clean(None);
        let named = format!("removed our chains in iptables ({})", variant.to_lowercase());
        assert!(
            said.contains(&named) && said.contains("removed our IP sets"),
            "{said}"
        );
        assert_eq!(in_force(&node), Vec::<&str>::new());
        let saved = node.run("iptables-legacy-save", &[]);
        assert!(saved.contains("-s 203.0.113.1/32 -j DROP"), "{saved}");
        assert!(clean(None).contains("there was nothing of ours"));
    }
}

#[test]
fn the_metrics_of_iptables_are_what_the_kernel_has() {
    let node = Node::new();
    let felix = start_with(&node, "log", "NFT");
    felix.wait_until_ready(9099);
    let families = parse(&node.wait_for_page(9091, "/metrics")).unwrap();
    let saved = node.run("iptables-nft-save", &["-t", "filter"]);
    let chains = saved.lines().filter(|line| line.starts_with(":cali")).count();
    assert!(chains > 5, "{saved}");
    let labels: Labels = [("ip_version", "4"), ("table", "filter")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let series = ("felix_iptables_chains".to_owned(), labels);
    assert_eq!(families["felix_iptables_chains"].samples[&series], chains as f64);
    let sets = node.run("ipset", &["list", "-n"]);
    let told: f64 = families["felix_ipsets_calico"].samples.values().sum();
    assert_eq!(
        told,
        sets.lines().filter(|name| name.starts_with("cali")).count() as f64
    );
    assert!(value(&families, "felix_iptables_restore_calls") > 3.0);
    assert!(value(&families, "felix_iptables_restore_seconds_total") > 0.0);
    assert!(value(&families, "felix_iptables_save_calls") > 1.0);
    for name in [
        "felix_iptables_restore_errors",
        "felix_iptables_save_errors",
        "felix_iptables_lock_timeouts_total",
        "felix_ipset_errors",
        "felix_iptables_drift_total",
        "felix_nft_calls",
        "felix_nft_errors",
    ] {
        assert_eq!(value(&families, name), 0.0, "{name}");
    }
    // What somebody else does is mended and counted.
    node.run("iptables-nft", &["-D", "FORWARD", "1"]);
    wait_for("a mended rule that is counted", || {
        let families = parse(&node.wait_for_page(9091, "/metrics")).unwrap();
        (value(&families, "felix_iptables_drift_total") > 0.0).then_some(())
    });
    assert_eq!(felix.stop().code(), Some(0));
}
