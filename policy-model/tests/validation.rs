//! Faults that the types alone cannot see, each with its field.

#![allow(clippy::unwrap_used, clippy::panic)] // In a helper of a test too, a panic is the failure itself.

use policy_model::{API_VERSION, Kind, Port, PortRange, Protocol, Resource};
use proptest::prelude::*;
use serde_json::{Value, json};

fn faults_of(value: Value) -> Vec<String> {
    match Resource::parse(value) {
        Ok(_) => Vec::new(),
        Err(invalid) => invalid.faults.iter().map(|f| f.field.clone()).collect(),
    }
}

fn faults(kind: &str, spec: Value) -> Vec<String> {
    let mut metadata = json!({ "name": "a" });
    if kind.parse::<Kind>().unwrap().is_namespaced() {
        metadata["namespace"] = "ns".into();
    }
    faults_of(json!({ "apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec }))
}

fn rule_faults(rule: Value) -> Vec<String> {
    faults("NetworkPolicy", json!({ "ingress": [rule] }))
}

#[test]
fn names_and_namespaces() {
    let tier = |metadata: Value| {
        faults_of(json!({ "apiVersion": API_VERSION, "kind": "Tier", "metadata": metadata }))
    };
    assert_eq!(tier(json!({ "name": "a-1.b--c" })), Vec::<String>::new());
    assert_eq!(tier(json!({ "name": "a".repeat(253) })), Vec::<String>::new());
    for bad in [
        "",
        "A",
        "-a",
        "a-",
        "a..b",
        ".a",
        "a_b",
        "a/b",
        "../a",
        &"a".repeat(254),
    ] {
        assert_eq!(tier(json!({ "name": bad })), ["metadata.name"], "{bad}");
    }
    assert_eq!(
        tier(json!({ "name": "a", "namespace": "n" })),
        ["metadata.namespace"]
    );
    let policy = json!({ "apiVersion": API_VERSION, "kind": "NetworkPolicy", "metadata": { "name": "a" } });
    assert_eq!(faults_of(policy), ["metadata.namespace"]);
}

#[test]
fn policies_and_rules() {
    let none = Vec::<String>::new();
    assert_eq!(
        faults(
            "NetworkPolicy",
            json!({ "selector": "a ==", "types": ["Egress", "Egress"] })
        ),
        ["spec.selector", "spec.types"]
    );
    let global = |spec: Value| faults("GlobalNetworkPolicy", spec);
    assert_eq!(global(json!({ "preDNAT": true, "applyOnForward": true })), none);
    assert_eq!(global(json!({ "preDNAT": true })), ["spec.applyOnForward"]);
    assert_eq!(global(json!({ "doNotTrack": true })), ["spec.applyOnForward"]);
    assert_eq!(
        global(json!({ "preDNAT": true, "doNotTrack": true, "applyOnForward": true })),
        ["spec.preDNAT"]
    );
    assert_eq!(
        global(json!({ "preDNAT": true, "applyOnForward": true, "types": ["Egress"] })),
        ["spec.egress"]
    );
    assert_eq!(
        rule_faults(json!({ "action": "Allow", "ipVersion": 5 })),
        ["spec.ingress[0].ipVersion"]
    );
    let at = |field: &str| vec![format!("spec.ingress[0].{field}")];
    let tcp = |source: Value| rule_faults(json!({ "action": "Allow", "protocol": "TCP", "source": source }));
    assert_eq!(tcp(json!({ "ports": [1], "notPorts": ["http"] })), none);
    assert_eq!(tcp(json!({ "ports": ["a".repeat(64)] })), at("source.ports"));
    for protocol in [json!(null), json!("ICMP"), json!(47)] {
        let rule = |side: Value| {
            rule_faults(json!({ "action": "Allow", "protocol": protocol, "destination": side }))
        };
        assert_eq!(rule(json!({ "ports": [1] })), at("destination.ports"));
        assert_eq!(rule(json!({ "notPorts": [1] })), at("destination.notPorts"));
    }
    assert_eq!(tcp(json!({ "selector": "(" })), at("source.selector"));
    assert_eq!(tcp(json!({ "notSelector": "(" })), at("source.notSelector"));
    assert_eq!(
        tcp(json!({ "namespaceSelector": "(" })),
        at("source.namespaceSelector")
    );
    assert_eq!(
        tcp(json!({ "serviceAccounts": { "names": ["a", "B"], "selector": "(" } })),
        [
            "spec.ingress[0].source.serviceAccounts.selector",
            "spec.ingress[0].source.serviceAccounts.names[1]"
        ]
    );
    assert_eq!(tcp(json!({ "services": { "name": "s" } })), none);
    assert_eq!(
        tcp(json!({ "services": { "name": "s", "namespace": "B" } })),
        at("source.services.namespace")
    );
    assert_eq!(
        tcp(json!({ "services": { "name": "s" }, "selector": "has(a)" })),
        at("source.services")
    );
    let family = json!({ "action": "Allow", "ipVersion": 6, "source": { "nets": ["fd00::/8", "10.0.0.0/8"], "notNets": ["10.0.0.0/9"] } });
    assert_eq!(
        rule_faults(family),
        [
            "spec.ingress[0].source.nets[1]",
            "spec.ingress[0].source.notNets[0]"
        ]
    );
    let icmp = |icmp: Value| rule_faults(json!({ "action": "Allow", "protocol": "ICMP", "icmp": icmp }));
    assert_eq!(icmp(json!({ "type": 254, "code": 255 })), none);
    assert_eq!(icmp(json!({ "type": 255 })), at("icmp.type"));
    assert_eq!(icmp(json!({ "code": 1 })), at("icmp.code"));
    assert_eq!(
        rule_faults(json!({ "action": "Allow", "notICMP": { "type": 1 } })),
        at("notICMP")
    );
}

#[test]
fn endpoints_pools_and_blocks() {
    let none = Vec::<String>::new();
    assert_eq!(
        faults(
            "WorkloadEndpoint",
            json!({ "ipNetworks": ["10.0.0.1", "10.0.0.0/31"] })
        ),
        ["spec.ipNetworks[1]"]
    );
    for name in ["a/b", "a b", "abcdefghijklmnop"] {
        assert_eq!(
            faults("WorkloadEndpoint", json!({ "interfaceName": name })),
            ["spec.interfaceName"],
            "{name}"
        );
    }
    assert_eq!(faults("HostEndpoint", json!({})), ["spec.node", "spec"]);
    let pool = |spec: Value| faults("IPPool", spec);
    assert_eq!(pool(json!({ "cidr": "10.0.0.0/26" })), none);
    assert_eq!(pool(json!({ "cidr": "fd00::/122" })), none);
    assert_eq!(pool(json!({ "cidr": "10.0.0.1/8" })), ["spec.cidr"]);
    assert_eq!(pool(json!({ "cidr": "10.0.0.0/27" })), ["spec.cidr"]);
    assert_eq!(
        pool(json!({ "cidr": "10.0.0.0/8", "blockSize": 19 })),
        ["spec.blockSize"]
    );
    assert_eq!(
        pool(json!({ "cidr": "fd00::/64", "blockSize": 115 })),
        ["spec.blockSize"]
    );
    assert_eq!(
        pool(json!({ "cidr": "10.0.0.0/8", "ipipMode": "Always", "vxlanMode": "Always" })),
        ["spec.vxlanMode"]
    );
    assert_eq!(
        pool(json!({ "cidr": "fd00::/64", "ipipMode": "Always" })),
        ["spec.ipipMode"]
    );
    assert_eq!(
        pool(json!({ "cidr": "10.0.0.0/8", "allowedUses": ["Workload", "Work"] })),
        ["spec.allowedUses[1]"]
    );
    assert_eq!(
        pool(json!({ "cidr": "10.0.0.0/8", "assignmentMode": "Auto" })),
        ["spec.assignmentMode"]
    );
    assert_eq!(
        pool(json!({ "cidr": "10.0.0.0/8", "nodeSelector": "(", "namespaceSelector": "(" })),
        ["spec.nodeSelector", "spec.namespaceSelector"]
    );
    let block = |allocations: Value, unallocated: Value| {
        let attributes = json!([{ "handle_id": "h" }]);
        let spec = json!({ "cidr": "10.0.0.0/31", "allocations": allocations, "unallocated": unallocated, "attributes": attributes });
        faults("IPAMBlock", spec)
    };
    assert_eq!(block(json!([0, null]), json!([1])), none);
    assert_eq!(block(json!([0]), json!([])), ["spec.allocations"]);
    assert_eq!(block(json!([1, null]), json!([1])), ["spec.allocations[0]"]);
    assert_eq!(
        block(json!([0, null]), json!([0, 2])),
        ["spec.unallocated[0]", "spec.unallocated[1]"]
    );
}

#[test]
fn protocols_by_name_in_any_case_and_by_number() {
    for (text, number, shown) in [
        ("tcp", 6, "TCP"),
        ("ICMPV6", 58, "ICMPv6"),
        ("17", 17, "UDP"),
        ("99", 99, "99"),
    ] {
        let protocol: Protocol = text.parse().unwrap();
        assert_eq!(
            (protocol.number(), protocol.to_string().as_str()),
            (number, shown)
        );
        assert_eq!(
            serde_json::from_value::<Protocol>(serde_json::to_value(protocol).unwrap()).unwrap(),
            protocol
        );
    }
    for bad in ["", "0", "256", "+6", "-1", " 6", "tc p"] {
        assert!(bad.parse::<Protocol>().is_err(), "{bad}");
    }
    for bad in [
        json!(0),
        json!(256),
        json!(-1),
        json!(1.5),
        json!(true),
        json!(null),
    ] {
        assert!(serde_json::from_value::<Protocol>(bad.clone()).is_err(), "{bad}");
    }
}

#[test]
fn ports_are_numbers_ranges_or_names() {
    let range = |first, last| Port::Range(PortRange::new(first, last).unwrap());
    for (value, port) in [
        (json!(80), range(80, 80)),
        (json!("80"), range(80, 80)),
        (json!("0:65535"), range(0, 65535)),
        (json!("7:7"), range(7, 7)),
        (json!("http-2_x.y"), Port::Name("http-2_x.y".into())),
    ] {
        assert_eq!(serde_json::from_value::<Port>(value).unwrap(), port);
    }
    for bad in [
        json!(-1),
        json!(65536),
        json!("65536"),
        json!("2:1"),
        json!(":1"),
        json!("1:"),
        json!("1:2:3"),
        json!("+1"),
        json!(""),
        json!("a b"),
        json!("ä"),
    ] {
        assert!(serde_json::from_value::<Port>(bad.clone()).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn any_port_text_round_trips_or_is_refused(text in "[0-9a-z:+ -]{0,8}") {
        if let Ok(port) = text.parse::<Port>() {
            prop_assert_eq!(port.to_string().parse::<Port>(), Ok(port.clone()));
            let value = serde_json::to_value(&port).unwrap();
            prop_assert_eq!(serde_json::from_value::<Port>(value).unwrap(), port);
        }
    }

    #[test]
    fn a_range_holds_what_lies_between_its_ends(first: u16, last: u16, port: u16) {
        match PortRange::new(first, last) {
            Some(range) => prop_assert_eq!(range.contains(port), (first..=last).contains(&port)),
            None => prop_assert!(first > last),
        }
    }

    #[test]
    fn no_value_makes_the_reader_panic(kind in proptest::sample::select(Kind::ALL.to_vec()), name in ".{0,12}", field in "[a-zA-Z]{1,12}", text in ".{0,12}") {
        for spec in [json!({ &field: &text }), json!({ &field: [{ &field: 7 }] }), json!(&text), json!({ "cidr": &text, "selector": &text })] {
            let value = json!({ "apiVersion": API_VERSION, "kind": kind.as_str(), "metadata": { "name": &name, "labels": { &text: &name } }, "spec": spec });
            if let Ok(parsed) = Resource::parse(value) {
                let again = Resource::parse(parsed.resource.to_value());
                prop_assert_eq!(again.map(|p| p.resource), Ok(parsed.resource));
            }
        }
    }
}

/// Whoever reads why a pool is refused knows what to write in its place.
#[test]
fn a_refused_pool_says_what_would_be_right() {
    for (spec, words) in [
        (
            json!({ "cidr": "10.0.0.1/8" }),
            "spec.cidr: 10.0.0.1/8 has host bits set; 10.0.0.0/8 is meant",
        ),
        (
            json!({ "cidr": "10.0.0.0" }),
            "spec.cidr: '10.0.0.0' is no range: write a network with the length of its prefix",
        ),
        (
            json!({ "cidr": "10.0.0.0/8", "blockSize": 300 }),
            "spec.blockSize: 300 is no length of a prefix: write 20 to 32 for IPv4, 116 to 128 for IPv6",
        ),
        (
            json!({ "cidr": "10.0.0.0/8", "blockSize": 33 }),
            "spec.blockSize: 33 is not between 20 and 32",
        ),
        (
            json!({ "cidr": "10.0.0.0/28" }),
            "spec.cidr: a block of /26 does not fit into 10.0.0.0/28; take a larger range, or set blockSize to 28 or more",
        ),
        (
            json!({ "cidr": "10.0.0.0/8", "ipipMode": "CrossSubnet", "vxlanMode": "Always" }),
            "spec.vxlanMode: cannot be combined with ipipMode; set one of them to Never",
        ),
        (
            json!({ "cidr": "fd00::/64", "ipipMode": "Always" }),
            "spec.ipipMode: is not possible for IPv6; use vxlanMode",
        ),
        (
            json!({ "cidr": "10.0.0.0/8", "ipipMode": "Sometimes" }),
            "spec.ipipMode: unknown variant `Sometimes`, expected one of `Never`, `Always`, `CrossSubnet`",
        ),
    ] {
        let pool = json!({
            "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": { "name": "p" }, "spec": spec,
        });
        let said = Resource::parse(pool).unwrap_err().to_string();
        assert!(said.contains(words), "{said}");
    }
}
