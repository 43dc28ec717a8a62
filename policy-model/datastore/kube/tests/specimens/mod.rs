//! One specification of each kind in which every field is written and none has its default.

use policy_model::Kind;
use serde_json::{Value, json};

/// The specimen of a kind that is kept as a custom resource.
pub(crate) fn of(kind: Kind) -> Value {
    let side = json!({
        "nets": ["10.0.0.0/8"], "notNets": ["10.1.0.0/16"], "selector": "a == 'b'", "notSelector": "has(c)",
        "namespaceSelector": "all()", "serviceAccounts": { "names": ["s"], "selector": "has(d)" }
    });
    let rule = json!({
        "action": "Deny", "ipVersion": 4, "protocol": "ICMP", "notProtocol": "UDP",
        "icmp": { "type": 8, "code": 1 }, "notICMP": { "type": 9, "code": 2 },
        "source": side, "destination": side,
        "http": { "methods": ["GET"], "paths": [{ "exact": "/a" }, { "prefix": "/b" }] },
        "metadata": { "annotations": { "why": "not" } }
    });
    let both =
        |side: Value| json!({ "action": "Pass", "protocol": "TCP", "source": side, "destination": side });
    // No rule can have everything at once: each has what it may, and all are looked at together.
    let rules = json!([
        rule,
        both(json!({ "services": { "name": "s", "namespace": "n" } })),
        both(json!({ "ports": [80, "8000:9000", "http"], "notPorts": [81] })),
    ]);
    let policy = json!({
        "tier": "t", "order": 1.5, "selector": "has(a)", "serviceAccountSelector": "has(b)", "types": ["Ingress"],
        "ingress": rules, "egress": rules, "performanceHints": ["AssumeNeededOnEveryNode"]
    });
    match kind {
        Kind::Tier => json!({ "order": 0.1, "defaultAction": "Pass" }),
        Kind::NetworkPolicy => policy,
        Kind::GlobalNetworkPolicy => {
            let mut policy = policy;
            policy["namespaceSelector"] = json!("has(n)");
            policy["doNotTrack"] = json!(true);
            policy["applyOnForward"] = json!(true);
            policy
        }
        Kind::HostEndpoint => json!({
            "node": "n", "interfaceName": "eth0", "expectedIPs": ["10.0.0.1", "fd00::1"], "profiles": ["p"],
            "ports": [{ "name": "ssh", "protocol": "TCP", "port": 22, "hostPort": 23, "hostIP": "10.0.0.1" }]
        }),
        Kind::NetworkSet | Kind::GlobalNetworkSet => json!({ "nets": ["10.0.0.0/8", "fd00::/8"] }),
        Kind::IPPool => json!({
            "cidr": "10.0.0.0/16", "vxlanMode": "CrossSubnet", "natOutgoing": true, "disabled": true,
            "nodeSelector": "has(a)", "namespaceSelector": "has(b)", "blockSize": 27, "allowedUses": ["Tunnel"],
            "disableBGPExport": true, "assignmentMode": "Manual"
        }),
        Kind::IPReservation => json!({ "reservedCIDRs": ["10.0.0.0/30"] }),
        Kind::IPAMBlock => json!({
            "cidr": "10.0.0.0/31", "affinity": "host:n", "strictAffinity": true, "allocations": [null, 0],
            "unallocated": [0], "attributes": [{ "handle_id": "h", "secondary": { "pod": "p" } }],
            "sequenceNumber": 7, "sequenceNumberForAllocation": { "1": 6 }, "deleted": true
        }),
        Kind::BlockAffinity => {
            json!({ "state": "pendingDeletion", "node": "n", "cidr": "10.0.0.0/26", "type": "host" })
        }
        Kind::IPAMHandle => json!({ "handleID": "h", "block": { "10.0.0.0/26": 1 } }),
        Kind::IPAMConfig => {
            json!({ "strictAffinity": true, "autoAllocateBlocks": false, "maxBlocksPerHost": 3 })
        }
        Kind::FelixConfiguration => json!({ "logSeverityScreen": "Debug", "anything": [1, { "of": true }] }),
        Kind::ClusterInformation => json!({
            "clusterGUID": "g", "clusterType": "k8s", "calicoVersion": "v1", "datastoreReady": true
        }),
        Kind::BGPConfiguration => json!({
            "logSeverityScreen": "Info", "nodeToNodeMeshEnabled": false, "asNumber": 4_200_000_000u32,
            "serviceClusterIPs": [{ "cidr": "10.96.0.0/12" }], "serviceExternalIPs": [{ "cidr": "10.97.0.0/16" }],
            "serviceLoadBalancerIPs": [{ "cidr": "10.98.0.0/16" }], "listenPort": 178,
            "prefixAdvertisements": [{ "cidr": "10.0.0.0/8", "communities": ["1:2"] }]
        }),
        Kind::BGPPeer => json!({
            "node": "n", "nodeSelector": "has(a)", "peerIP": "10.0.0.1", "peerSelector": "has(b)",
            "asNumber": 64512, "keepOriginalNextHop": true
        }),
        Kind::Profile | Kind::WorkloadEndpoint | Kind::ServiceEndpoints | Kind::Node => Value::Null,
    }
}
