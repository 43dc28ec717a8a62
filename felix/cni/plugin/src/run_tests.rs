#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is the failure itself"
)]

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;
use std::ffi::OsString;

/// An environment as a runtime makes it, with changes.
fn environment(command: &str, changes: &[(&str, &str)]) -> HashMap<String, OsString> {
    let usual = [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/nowhere/at/all"),
        ("CNI_IFNAME", "eth0"),
        (
            "CNI_ARGS",
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=c1",
        ),
        ("CNI_PATH", "/opt/cni/bin"),
    ];
    let mut all: HashMap<String, OsString> = usual
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect();
    for (name, value) in changes {
        all.insert((*name).into(), (*value).into());
    }
    all
}

fn run(name: &str, command: &str, input: &str, changes: &[(&str, &str)]) -> (bool, Value) {
    let environment = environment(command, changes);
    let answer = answer(name, input.as_bytes(), &|variable| {
        environment.get(variable).cloned()
    });
    let text = answer
        .text
        .as_deref()
        .map(|t| serde_json::from_str(t).expect("one JSON document"));
    (answer.is_success, text.unwrap_or_default())
}

/// A refusal's code and all of its words.
fn refusal(name: &str, command: &str, input: &str, changes: &[(&str, &str)]) -> (u64, String) {
    let (is_success, document) = run(name, command, input, changes);
    assert!(!is_success, "{document}");
    assert!(
        document["cniVersion"].is_string() && document["msg"].is_string(),
        "{document}"
    );
    (document["code"].as_u64().unwrap(), document.to_string())
}

#[test]
fn versions_are_told() {
    for (input, version) in [
        ("", "1.1.0"),
        (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
        (r#"{"cniVersion":"9.9.9"}"#, "9.9.9"),
    ] {
        let (is_success, document) = run("manx", "VERSION", input, &[]);
        assert!(is_success);
        assert_eq!(document["cniVersion"], version);
        assert_eq!(document["supportedVersions"], json!(VERSIONS));
    }
}

#[test]
fn each_fault_of_a_configuration_is_named() {
    let with = |rest: &str| format!(r#"{{"cniVersion":"1.0.0","name":"net","type":"manx"{rest}}}"#);
    let cases: [(String, u64, &[&str]); 30] = [
        ("".into(), 6, &["not valid JSON"]),
        ("[]".into(), 6, &["no JSON object"]),
        ("{\"cniVersion\":".into(), 6, &["not valid JSON"]),
        (
            r#"{"cniVersion":"2.0.0","name":"net"}"#.into(),
            1,
            &["cniVersion", "2.0.0", "1.1.0"],
        ),
        (
            r#"{"cniVersion":1,"name":"net"}"#.into(),
            7,
            &["cniVersion", "no text"],
        ),
        (r#"{"cniVersion":"1.0.0"}"#.into(), 7, &["field name"]),
        (
            r#"{"cniVersion":"1.0.0","name":"a b"}"#.into(),
            7,
            &["field name", "a b"],
        ),
        (with(r#","mtu":"1500""#), 7, &["field mtu", "1500", "68 to 65535"]),
        (with(r#","mtu":67"#), 7, &["field mtu", "67"]),
        (with(r#","mtu":-1"#), 7, &["field mtu", "-1"]),
        (with(r#","log_level":"loud""#), 7, &["log_level", "loud"]),
        (
            with(r#","log_file_path":"relative""#),
            7,
            &["log_file_path", "absolute"],
        ),
        (with(r#","ipam":"calico-ipam""#), 7, &["field ipam", "no object"]),
        (
            with(r#","ipam":{"type":"dhcp"}"#),
            2,
            &["ipam.type", "dhcp", "calico-ipam"],
        ),
        (
            with(r#","ipam":{"assign_ipv4":"maybe"}"#),
            7,
            &["ipam.assign_ipv4", "maybe"],
        ),
        (
            with(r#","ipam":{"ipv4_pools":"a"}"#),
            7,
            &["ipam.ipv4_pools", "no list"],
        ),
        (
            with(r#","ipam":{"ipv6_pools":[7]}"#),
            7,
            &["ipam.ipv6_pools", "7"],
        ),
        (with(r#","policy":{"type":"none"}"#), 2, &["policy.type", "none"]),
        (
            with(r#","kubernetes":{"kubeconfig":7}"#),
            7,
            &["kubernetes.kubeconfig"],
        ),
        (
            with(r#","container_settings":{"allow_ip_forwarding":2}"#),
            7,
            &["container_settings.allow_ip_forwarding"],
        ),
        (
            with(r#","runtimeConfig":{"portMappings":{"hostPort":80}}"#),
            7,
            &["runtimeConfig.portMappings", "no list"],
        ),
        (
            with(r#","runtimeConfig":{"portMappings":[80]}"#),
            7,
            &["runtimeConfig.portMappings", "80 is no object"],
        ),
        (
            with(r#","runtimeConfig":{"portMappings":[{"hostPort":65536,"containerPort":80}]}"#),
            7,
            &["runtimeConfig.portMappings.hostPort", "65536"],
        ),
        (
            with(r#","runtimeConfig":{"portMappings":[{"hostPort":80}]}"#),
            7,
            &["runtimeConfig.portMappings.containerPort", "lacks"],
        ),
        (
            with(
                r#","runtimeConfig":{"portMappings":[{"hostPort":80,"containerPort":80,"protocol":"icmp"}]}"#,
            ),
            2,
            &["runtimeConfig.portMappings.protocol", "icmp", "sctp"],
        ),
        (
            with(
                r#","runtimeConfig":{"portMappings":[{"hostPort":80,"containerPort":80,"hostIP":"localhost"}]}"#,
            ),
            7,
            &["runtimeConfig.portMappings.hostIP", "localhost"],
        ),
        (
            with(
                r#","runtimeConfig":{"portMappings":[{"hostPort":80,"containerPort":80},{"hostPort":80,"containerPort":81,"protocol":"TCP"}]}"#,
            ),
            7,
            &["runtimeConfig.portMappings", "TCP 80", "80 and 81"],
        ),
        (
            with(r#","manx_socket":"cni.sock""#),
            7,
            &["manx_socket", "absolute"],
        ),
        (
            with(r#","manx_patience_seconds":601"#),
            7,
            &["manx_patience_seconds", "601"],
        ),
        (with(r#","prevResult":[]"#), 7, &["prevResult"]),
    ];
    for (input, code, words) in cases {
        let (found, said) = refusal("manx", "ADD", &input, &[]);
        assert_eq!(found, code, "{input}: {said}");
        for word in words {
            assert!(said.contains(word), "{input}: {said}");
        }
    }
}

#[test]
fn each_fault_of_the_environment_is_named() {
    let input = r#"{"cniVersion":"1.0.0","name":"net","type":"manx"}"#;
    for (variable, value) in [
        ("CNI_COMMAND", ""),
        ("CNI_COMMAND", "add"),
        ("CNI_CONTAINERID", ""),
        ("CNI_CONTAINERID", "../c"),
        ("CNI_NETNS", ""),
        ("CNI_IFNAME", ""),
        ("CNI_IFNAME", ".."),
        ("CNI_IFNAME", "a/b"),
        ("CNI_IFNAME", "sixteen-and-more"),
        ("CNI_ARGS", ""),
        ("CNI_ARGS", "K8S_POD_NAME=web"),
        ("CNI_ARGS", "novalue"),
    ] {
        let (code, said) = refusal("manx", "ADD", input, &[(variable, value)]);
        assert_eq!(code, 4, "{said}");
        assert!(said.contains(variable), "{said}");
    }
    let (code, said) = refusal("manx", "ADD", input, &[]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("/nowhere/at/all"));
    let (code, said) = refusal("manx", "ADD", input, &[("CNI_NETNS", "/proc/self/ns/net")]);
    assert_eq!(code, 8, "{said}");
}

#[test]
fn commands_that_a_version_does_not_have_are_refused() {
    for (command, version) in [
        ("CHECK", "0.3.1"),
        ("GC", "1.0.0"),
        ("STATUS", "1.0.0"),
        ("STATUS", "0.1.0"),
    ] {
        let input = format!(r#"{{"cniVersion":"{version}","name":"net","type":"manx"}}"#);
        let (code, said) = refusal("manx", command, &input, &[]);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(command) && said.contains(version));
    }
}

/// A configuration whose felix is not there, in a folder that is.
fn without_felix(folder: &std::path::Path, version: &str, rest: &str) -> String {
    let socket = folder.join("cni.sock");
    format!(
        r#"{{"cniVersion":"{version}","name":"net","type":"manx","manx_socket":"{}","manx_patience_seconds":0.1{rest}}}"#,
        socket.display()
    )
}

#[test]
fn without_felix_a_removal_is_noted_and_everything_else_is_to_be_tried_again() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    for version in VERSIONS {
        for _ in 0..2 {
            let (is_success, text) = run(
                "manx",
                "DEL",
                &without_felix(folder, version, ""),
                &[("CNI_NETNS", "")],
            );
            assert!(is_success && text.is_null(), "{text}");
        }
    }
    let key = AttachmentKey {
        network: "net".into(),
        container_id: "c1".into(),
        interface: "eth0".into(),
    };
    assert_eq!(
        spool::notes(&spool::folder(&folder.join("cni.sock"))).unwrap(),
        [key]
    );
    // Addresses for another network's plugin need no sandbox.
    let (code, said) = refusal("calico-ipam", "ADD", &without_felix(folder, "1.0.0", ""), &[]);
    assert_eq!(code, 11, "{said}");
    // The note did not outlive the new request.
    assert_eq!(
        spool::notes(&spool::folder(&folder.join("cni.sock"))).unwrap(),
        []
    );
    let valid = r#","cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}]"#;
    assert_eq!(
        refusal("manx", "GC", &without_felix(folder, "1.1.0", valid), &[]).0,
        11
    );
    assert_eq!(
        refusal("manx", "STATUS", &without_felix(folder, "1.1.0", ""), &[]).0,
        50
    );
}

#[test]
fn a_collection_with_a_wrong_list_is_refused_and_one_without_collects_nothing() {
    let place = tempfile::tempdir().unwrap();
    // Nobody is asked to do anything.
    assert!(run("manx", "GC", &without_felix(place.path(), "1.1.0", ""), &[]).0);
    for rest in [
        r#","cni.dev/valid-attachments":{}"#,
        r#","cni.dev/valid-attachments":[{"containerID":"c1"}]"#,
    ] {
        let (code, said) = refusal("manx", "GC", &without_felix(place.path(), "1.1.0", rest), &[]);
        assert_eq!(code, 7, "{said}");
        assert!(said.contains("valid-attachments"));
    }
}

#[test]
fn the_log_that_is_asked_for_has_the_failure() {
    let place = tempfile::tempdir().unwrap();
    let log = place.path().join("cni.log");
    let input = without_felix(
        place.path(),
        "1.1.0",
        &format!(r#","log_file_path":"{}""#, log.display()),
    );
    refusal("manx", "STATUS", &input, &[]);
    let said = std::fs::read_to_string(log).unwrap();
    assert!(said.contains("STATUS") && said.contains("code 50"), "{said}");
}

#[test]
fn the_name_or_the_configuration_decides_what_it_is() {
    let role_of = |name, text: &str| {
        role(
            name,
            serde_json::from_str::<Value>(text).unwrap().as_object().unwrap(),
        )
    };
    let bridge = r#"{"type":"bridge","ipam":{"type":"calico-ipam"}}"#;
    let calico = r#"{"type":"calico","ipam":{"type":"calico-ipam"}}"#;
    assert_eq!(role_of("manx-ipam", calico), Role::Addresses);
    assert_eq!(role_of("calico-ipam", bridge), Role::Addresses);
    assert_eq!(role_of("calico", bridge), Role::Network);
    assert_eq!(role_of("manx", calico), Role::Network);
    assert_eq!(role_of("loopback", "{}"), Role::Loopback);
    assert_eq!(role_of("manx-cni", bridge), Role::Addresses);
    assert_eq!(role_of("manx-cni", calico), Role::Network);
    assert_eq!(role_of("manx-cni", r#"{"type":"loopback"}"#), Role::Loopback);
}

proptest! {
    /// Whatever comes in, one document or nothing goes out.
    #[test]
    fn no_input_brings_it_down(
        name in "manx|calico-ipam|loopback|x",
        command in "ADD|DEL|CHECK|GC|STATUS|VERSION|\\PC{0,8}",
        field in "cniVersion|name|ipam|runtimeConfig|prevResult|mtu|dns|cni.dev/valid-attachments|manx_patience_seconds",
        value in "\\PC{0,12}|\\{\\}|\\[\\{\\}\\]|-?[0-9]{1,22}|null|true|\"1.1.0\"",
        id in "\\PC{0,20}",
    ) {
        let input = format!(
            r#"{{"cniVersion":"1.1.0","name":"net","manx_socket":"/nowhere/cni.sock","manx_patience_seconds":0,"{field}":{value}}}"#
        );
        let environment = environment(&command, &[("CNI_CONTAINERID", &id), ("CNI_ARGS", &id)]);
        // A removal would make the folder for its note.
        prop_assume!(command != "DEL");
        let answer = answer(&name, input.as_bytes(), &|variable| environment.get(variable).cloned());
        if let Some(text) = answer.text {
            prop_assert!(serde_json::from_str::<Value>(&text).unwrap().is_object());
        } else {
            prop_assert!(answer.is_success);
        }
    }
}
