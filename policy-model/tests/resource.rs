//! The serialised form: what is read, what is refused and with which words, and that nothing is lost on the way.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // In a helper of a test too, a panic is the failure itself.

use policy_model::{API_VERSION, Key, Kind, Metadata, Object, Resource};
use serde_json::{Value, json};

fn object(kind: &str, name: &str, spec: Value) -> Value {
    let mut metadata = json!({ "name": name });
    if kind.parse::<Kind>().unwrap().is_namespaced() {
        metadata["namespace"] = "ns".into();
    }
    json!({ "apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec })
}

fn refusal(value: Value) -> String {
    Resource::parse(value.clone())
        .map(|_| ())
        .expect_err(&value.to_string())
        .to_string()
}

/// Checks that every field is known and comes out as it went in.
fn round_trip(kind: &str, spec: Value) {
    let value = object(kind, "a", spec);
    let parsed = Resource::parse(value.clone()).unwrap_or_else(|e| panic!("{value}: {e}"));
    assert_eq!(parsed.unknown_fields, Vec::<String>::new(), "{value}");
    assert_eq!(parsed.resource.kind().as_str(), kind);
    assert_eq!(parsed.resource.to_value(), value);
}

#[test]
fn every_field_of_the_serialised_form_is_read_and_written() {
    let side = json!({
        "nets": ["10.0.0.0/8"], "notNets": ["10.1.0.0/16"], "selector": "a == 'b'", "notSelector": "has(c)",
        "namespaceSelector": "all()", "serviceAccounts": { "names": ["x"], "selector": "y == 'z'" },
        "ports": [80, "1:2", "http"], "notPorts": [81],
    });
    let rule = json!({
        "action": "Pass", "ipVersion": 4, "protocol": "TCP", "notProtocol": 99, "source": side, "destination": side,
        "http": { "methods": ["GET"], "paths": [{ "exact": "/a" }, { "prefix": "/b" }] },
        "metadata": { "annotations": { "k": "v" } },
    });
    let icmp = json!({ "action": "Log", "protocol": "ICMPv6", "icmp": { "type": 128, "code": 0 }, "notICMP": { "type": 1 } });
    let service =
        json!({ "action": "Deny", "destination": { "services": { "name": "s", "namespace": "n" } } });
    let rules = json!([rule, icmp, service]);
    round_trip(
        "NetworkPolicy",
        json!({
            "tier": "t", "order": 1.5, "selector": "all()", "serviceAccountSelector": "a == 'b'", "types": ["Ingress", "Egress"],
            "ingress": rules, "egress": rules, "performanceHints": ["AssumeNeededOnEveryNode"],
        }),
    );
    round_trip(
        "GlobalNetworkPolicy",
        json!({
            "tier": "t", "order": 1.5, "selector": "all()", "namespaceSelector": "a == 'b'", "serviceAccountSelector": "has(c)",
            "types": ["Ingress"], "ingress": rules, "preDNAT": true, "applyOnForward": true,
        }),
    );
    round_trip(
        "GlobalNetworkPolicy",
        json!({ "doNotTrack": true, "applyOnForward": true }),
    );
    round_trip(
        "Profile",
        json!({ "ingress": rules, "egress": rules, "labelsToApply": { "a": "b" } }),
    );
    round_trip("Tier", json!({ "order": 5.0, "defaultAction": "Pass" }));
    round_trip("NetworkSet", json!({ "nets": ["10.0.0.0/8", "fd00::/8"] }));
    round_trip("GlobalNetworkSet", json!({ "nets": ["10.0.0.0/8"] }));
    let port = json!({ "name": "p", "protocol": "SCTP", "port": 1, "hostPort": 2, "hostIP": "192.0.2.1" });
    round_trip(
        "WorkloadEndpoint",
        json!({
            "orchestrator": "k8s", "workload": "w", "node": "n", "containerID": "c", "pod": "p", "endpoint": "eth0",
            "serviceAccountName": "s", "ipNetworks": ["10.0.0.1/32"], "ipv4Gateway": "10.0.0.2", "ipv6Gateway": "fd00::2",
            "ipNATs": [{ "internalIP": "10.0.0.1", "externalIP": "192.0.2.1" }], "profiles": ["kns.a"],
            "interfaceName": "cali0", "mac": "ee:ee:ee:ee:ee:ee", "ports": [port], "allowSpoofedSourcePrefixes": ["10.2.0.0/16"],
        }),
    );
    round_trip(
        "HostEndpoint",
        json!({ "node": "n", "interfaceName": "*", "expectedIPs": ["10.0.0.1"], "profiles": ["p"], "ports": [port] }),
    );
    round_trip(
        "IPPool",
        json!({
            "cidr": "10.0.0.0/16", "vxlanMode": "CrossSubnet", "natOutgoing": true, "disabled": true, "nodeSelector": "all()",
            "namespaceSelector": "a == 'b'", "blockSize": 28, "allowedUses": ["Workload"], "disableBGPExport": true,
            "assignmentMode": "Manual",
        }),
    );
    round_trip("IPPool", json!({ "cidr": "10.0.0.0/16", "ipipMode": "Always" }));
    round_trip("IPReservation", json!({ "reservedCIDRs": ["10.0.0.0/30"] }));
    round_trip(
        "IPAMBlock",
        json!({
            "cidr": "10.0.0.0/31", "affinity": "host:n", "strictAffinity": false, "allocations": [0, null], "unallocated": [1],
            "attributes": [{ "handle_id": "h", "secondary": { "pod": "p" } }], "sequenceNumber": 3,
            "sequenceNumberForAllocation": { "0": 2 }, "deleted": true,
        }),
    );
    round_trip(
        "BlockAffinity",
        json!({ "state": "pendingDeletion", "node": "n", "cidr": "10.0.0.0/26", "type": "host" }),
    );
    round_trip(
        "IPAMHandle",
        json!({ "handleID": "h", "block": { "10.0.0.0/26": 1 } }),
    );
    round_trip(
        "IPAMConfig",
        json!({ "strictAffinity": true, "autoAllocateBlocks": false, "maxBlocksPerHost": 4 }),
    );
    round_trip(
        "Node",
        json!({
            "bgp": {
                "asNumber": 64512, "ipv4Address": "192.0.2.1/24", "ipv6Address": "2001:db8::1/64",
                "ipv4IPIPTunnelAddr": "10.0.0.1", "routeReflectorClusterID": "224.0.0.1",
            },
            "ipv4VXLANTunnelAddr": "10.0.0.2", "ipv6VXLANTunnelAddr": "fd00::2", "vxlanTunnelMACAddr": "66:00:00:00:00:01",
            "orchRefs": [{ "nodeName": "n", "orchestrator": "k8s" }], "addresses": [{ "address": "192.0.2.1", "type": "InternalIP" }],
        }),
    );
    round_trip(
        "ServiceEndpoints",
        json!({
            "service": "s", "addresses": ["10.0.0.1"], "ports": [{ "name": "p", "protocol": "TCP", "port": 1 }],
        }),
    );
    round_trip(
        "FelixConfiguration",
        json!({ "logSeverityScreen": "Debug", "someLaterSetting": { "a": [1] } }),
    );
    round_trip(
        "ClusterInformation",
        json!({ "clusterGUID": "g", "clusterType": "k8s", "calicoVersion": "v", "datastoreReady": true }),
    );
    round_trip(
        "BGPConfiguration",
        json!({
            "logSeverityScreen": "Info", "nodeToNodeMeshEnabled": false, "asNumber": 1, "serviceClusterIPs": [{ "cidr": "10.0.0.0/8" }],
            "serviceExternalIPs": [{ "cidr": "10.0.0.0/8" }], "serviceLoadBalancerIPs": [{ "cidr": "10.0.0.0/8" }], "listenPort": 179,
            "prefixAdvertisements": [{ "cidr": "10.0.0.0/8", "communities": ["1:2"] }],
        }),
    );
    round_trip(
        "BGPPeer",
        json!({
            "node": "n", "nodeSelector": "has(a)", "peerIP": "192.0.2.2", "peerSelector": "has(b)", "asNumber": 1,
            "keepOriginalNextHop": true,
        }),
    );
}

#[test]
fn an_absent_specification_has_defaults_and_null_is_absent() {
    let value = json!({ "apiVersion": API_VERSION, "kind": "GlobalNetworkPolicy", "metadata": { "name": "a", "labels": null } });
    let parsed = Resource::parse(value.clone()).unwrap().resource;
    assert_eq!(
        parsed,
        Resource::GlobalNetworkPolicy(Object::named("a", Default::default()))
    );
    let mut with_nulls = value;
    with_nulls["spec"] = Value::Null;
    assert_eq!(Resource::parse(with_nulls.clone()).unwrap().resource, parsed);
    with_nulls["spec"] = json!({ "ingress": null, "order": null });
    assert_eq!(Resource::parse(with_nulls).unwrap().resource, parsed);
}

#[test]
fn what_the_system_writes_into_metadata_is_not_unknown() {
    let value = json!({
        "apiVersion": API_VERSION, "kind": "Tier", "status": { "x": 1 },
        "metadata": { "name": "a", "uid": "u", "creationTimestamp": null, "resourceVersion": "1", "managedFields": [{}] },
    });
    let parsed = Resource::parse(value).unwrap();
    assert_eq!(parsed.unknown_fields, Vec::<String>::new());
    assert_eq!(
        parsed.resource.metadata(),
        &Metadata {
            name: "a".into(),
            uid: "u".into(),
            ..Metadata::default()
        }
    );
}

#[test]
fn unknown_fields_are_named_by_their_path() {
    let rule = json!({ "action": "Allow", "source": { "selectr": "x" } });
    let spec = json!({ "ingress": [{ "action": "Allow" }, rule], "ingres": [], "metadata.x": 1 });
    let mut unknown = Resource::parse(object("NetworkPolicy", "a", spec))
        .unwrap()
        .unknown_fields;
    unknown.sort();
    assert_eq!(
        unknown,
        [
            "spec.ingres",
            "spec.ingress[1].source.selectr",
            "spec[metadata.x]"
        ]
    );
}

#[test]
fn wrong_types_and_values_are_named_by_their_path() {
    let policy = |spec: Value| refusal(object("NetworkPolicy", "a", spec));
    assert_eq!(
        policy(json!({ "ingress": [{ "action": "allow" }] })),
        "spec.ingress[0].action: unknown variant `allow`, expected one of `Allow`, `Deny`, `Pass`, `Log`"
    );
    assert_eq!(
        policy(json!({ "ingress": [{}] })),
        "spec.ingress[0]: missing field `action`"
    );
    let rule = |rule: Value| policy(json!({ "egress": [{ "action": "Allow" }, rule] }));
    assert!(
        rule(json!({ "action": "Allow", "protocol": "TPC" }))
            .starts_with("spec.egress[1].protocol: 'TPC' is no protocol")
    );
    assert!(
        rule(json!({ "action": "Allow", "protocol": 256 }))
            .starts_with("spec.egress[1].protocol: '256' is no protocol")
    );
    let destination =
        |side: Value| rule(json!({ "action": "Allow", "protocol": "TCP", "destination": side }));
    assert!(
        destination(json!({ "ports": [80, 65536] }))
            .starts_with("spec.egress[1].destination.ports[1]: '65536' is no port")
    );
    assert!(
        destination(json!({ "ports": ["9:8"] }))
            .starts_with("spec.egress[1].destination.ports[0]: '9:8' is no port")
    );
    assert!(
        destination(json!({ "nets": ["10.0.0.0/8", "x"] }))
            .starts_with("spec.egress[1].destination.nets[1]: 'x' is no CIDR")
    );
    let labels = json!({ "apiVersion": API_VERSION, "kind": "Tier", "metadata": { "name": "a", "labels": { "a.b/c": 1 } } });
    assert_eq!(
        refusal(labels),
        "metadata.labels[a.b/c]: invalid type: integer `1`, expected a string; quote it"
    );
}

#[test]
fn kind_and_version_must_be_known() {
    let value = |version: Value, kind: Value| {
        refusal(json!({ "apiVersion": version, "kind": kind, "metadata": { "name": "a" } }))
    };
    assert_eq!(
        value(Value::Null, "Tier".into()),
        "apiVersion: is missing; write projectcalico.org/v3"
    );
    assert_eq!(
        value("v1".into(), "Tier".into()),
        "apiVersion: 'v1' is not projectcalico.org/v3"
    );
    assert_eq!(
        value(API_VERSION.into(), "Tear".into()),
        "kind: unknown kind 'Tear'"
    );
    assert_eq!(value(API_VERSION.into(), Value::Null), "kind: is missing");
    for value in [json!(null), json!([]), json!("x"), json!({})] {
        assert!(Resource::parse(value).is_err());
    }
}

#[test]
fn bare_addresses_are_networks_and_host_bits_mean_nothing_in_matches() {
    let Resource::GlobalNetworkSet(set) = Resource::parse(object(
        "GlobalNetworkSet",
        "a",
        json!({ "nets": ["10.1.2.3", "fd00::1", "10.1.2.3/8"] }),
    ))
    .unwrap()
    .resource
    else {
        panic!("another kind")
    };
    let nets: Vec<String> = set.spec.0.nets.iter().map(ToString::to_string).collect();
    assert_eq!(nets, ["10.1.2.3/32", "fd00::1/128", "10.0.0.0/8"]);
    let node = Resource::parse(object(
        "Node",
        "a",
        json!({ "bgp": { "ipv4Address": "10.1.2.3/8" } }),
    ))
    .unwrap()
    .resource;
    assert_eq!(node.to_value()["spec"]["bgp"]["ipv4Address"], "10.1.2.3/8");
}

#[test]
fn kinds_have_one_name_each_and_keys_show_them() {
    for kind in Kind::ALL {
        assert_eq!(kind.as_str().parse(), Ok(kind));
        assert_eq!(kind.to_string(), kind.as_str());
        assert_eq!(kind.plural(), kind.plural().to_lowercase());
        assert_eq!(
            Kind::ALL
                .iter()
                .filter(|other| other.plural() == kind.plural())
                .count(),
            1
        );
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
    }
    assert!(Kind::ALL.is_sorted());
    assert_eq!(Key::global(Kind::Tier, "a").to_string(), "Tier/a");
    assert_eq!(
        Key::namespaced(Kind::NetworkPolicy, "n", "a").to_string(),
        "NetworkPolicy/n/a"
    );
}
