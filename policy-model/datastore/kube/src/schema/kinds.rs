//! Each kind's schema and how it shows up on a command line.

use super::fields::{
    about, address, as_number, cidr, counter, integer, list, map, net, number, object, one_of, protocol,
    rule, selector, text, yes_or_no,
};
use super::{Presentation, policy};
use policy_model::Kind;
use serde_json::{Value, json};

/// What the kind is, in one sentence.
pub(super) fn description(kind: Kind) -> &'static str {
    match kind {
        Kind::Tier => "An ordered group of policies.",
        Kind::NetworkPolicy => "A policy for the endpoints of one namespace, with ordered rules.",
        Kind::GlobalNetworkPolicy => "A policy for workload and host endpoints anywhere in the cluster.",
        Kind::Profile => "Labels and rules that endpoints inherit.",
        Kind::WorkloadEndpoint => "One interface of one pod.",
        Kind::HostEndpoint => "An interface of a node.",
        Kind::NetworkSet => "A named set of networks that the policies of its namespace can select.",
        Kind::GlobalNetworkSet => "A named set of networks that policies can select.",
        Kind::ServiceEndpoints => "Addresses and ports behind a Service.",
        Kind::IPPool => "A range that workloads' addresses come from.",
        Kind::IPReservation => "Addresses of pools that are never assigned by themselves.",
        Kind::IPAMBlock => "A small range of a pool, and who holds its addresses. Written by the system.",
        Kind::BlockAffinity => "A node's claim on a block. Written by the system.",
        Kind::IPAMHandle => "The blocks that hold addresses of one handle. Written by the system.",
        Kind::IPAMConfig => "Settings of address management.",
        Kind::Node => "A host of the cluster.",
        Kind::FelixConfiguration => "Settings of the agents: of all (default) or of one (node.<name>).",
        Kind::ClusterInformation => "What the cluster says of itself. Written by the system.",
        Kind::BGPConfiguration => "Settings of BGP: of the cluster (default) or of one node (node.<name>).",
        Kind::BGPPeer => "A BGP peer of some or all nodes.",
    }
}

pub(super) fn presentation(kind: Kind) -> Presentation {
    let (short_names, columns, has_status): (&'static [_], &'static [_], _) = match kind {
        Kind::Tier => (
            &["tier"],
            &[
                ("Order", "number", ".spec.order"),
                ("Default", "string", ".spec.defaultAction"),
            ],
            true,
        ),
        Kind::NetworkPolicy => (
            &["cnp", "caliconetworkpolicy", "caliconetworkpolicies"],
            &[
                ("Tier", "string", ".spec.tier"),
                ("Order", "number", ".spec.order"),
                ("Selector", "string", ".spec.selector"),
            ],
            true,
        ),
        Kind::GlobalNetworkPolicy => (
            &["gnp", "cgnp", "calicoglobalnetworkpolicies"],
            &[
                ("Tier", "string", ".spec.tier"),
                ("Order", "number", ".spec.order"),
                ("Selector", "string", ".spec.selector"),
            ],
            true,
        ),
        Kind::Profile => (&[], &[], false),
        Kind::WorkloadEndpoint => (
            &["wep", "weps"],
            &[
                ("Node", "string", ".spec.node"),
                ("Interface", "string", ".spec.interfaceName"),
            ],
            false,
        ),
        Kind::HostEndpoint => (
            &["hep", "heps"],
            &[
                ("Node", "string", ".spec.node"),
                ("Interface", "string", ".spec.interfaceName"),
            ],
            true,
        ),
        Kind::NetworkSet => (&["netset", "netsets"], &[], true),
        Kind::GlobalNetworkSet => (&["gnetset", "gnetsets"], &[], true),
        Kind::ServiceEndpoints => (&[], &[("Service", "string", ".spec.service")], false),
        Kind::IPPool => (
            &["pool", "pools"],
            &[
                ("CIDR", "string", ".spec.cidr"),
                ("NAT", "boolean", ".spec.natOutgoing"),
                ("IPIP", "string", ".spec.ipipMode"),
                ("VXLAN", "string", ".spec.vxlanMode"),
                ("Disabled", "boolean", ".spec.disabled"),
            ],
            true,
        ),
        Kind::IPReservation => (&[], &[("CIDRs", "string", ".spec.reservedCIDRs")], true),
        Kind::IPAMBlock => (
            &[],
            &[
                ("CIDR", "string", ".spec.cidr"),
                ("Affinity", "string", ".spec.affinity"),
            ],
            false,
        ),
        Kind::BlockAffinity => (
            &[],
            &[
                ("Node", "string", ".spec.node"),
                ("CIDR", "string", ".spec.cidr"),
                ("State", "string", ".spec.state"),
            ],
            false,
        ),
        Kind::IPAMHandle => (&[], &[("Handle", "string", ".spec.handleID")], false),
        Kind::IPAMConfig => (
            &[],
            &[
                ("Strict", "boolean", ".spec.strictAffinity"),
                ("Max blocks", "integer", ".spec.maxBlocksPerHost"),
            ],
            false,
        ),
        Kind::Node => (&[], &[], false),
        Kind::FelixConfiguration => (&["felixconfig", "felixconfigs"], &[], true),
        Kind::ClusterInformation => (
            &["clusterinfo"],
            &[
                ("GUID", "string", ".spec.clusterGUID"),
                ("Version", "string", ".spec.calicoVersion"),
                ("Ready", "boolean", ".spec.datastoreReady"),
            ],
            false,
        ),
        Kind::BGPConfiguration => (
            &["bgpconfig", "bgpconfigs"],
            &[
                ("Mesh", "boolean", ".spec.nodeToNodeMeshEnabled"),
                ("AS", "integer", ".spec.asNumber"),
            ],
            true,
        ),
        Kind::BGPPeer => (
            &[],
            &[
                ("Peer", "string", ".spec.peerIP"),
                ("AS", "integer", ".spec.asNumber"),
                ("Node", "string", ".spec.node"),
            ],
            true,
        ),
    };
    Presentation {
        short_names,
        columns,
        has_status,
    }
}

/// The schema of a kind's specification.
pub(super) fn spec(kind: Kind) -> Value {
    match kind {
        Kind::Tier => object(
            &[],
            [
                (
                    "order",
                    about(
                        "Position among the tiers, smaller first; absent comes last.",
                        number(),
                    ),
                ),
                (
                    "defaultAction",
                    about(
                        "What happens to traffic that the tier's policies leave undecided; Deny where absent.",
                        one_of(&["Deny", "Pass"]),
                    ),
                ),
            ],
        ),
        Kind::NetworkPolicy => policy::network_policy(),
        Kind::GlobalNetworkPolicy => policy::global_network_policy(),
        Kind::NetworkSet | Kind::GlobalNetworkSet => object(&[], [("nets", list(net()))]),
        Kind::HostEndpoint => rule(
            object(
                &["node"],
                [
                    ("node", text()),
                    (
                        "interfaceName",
                        about("Name of the interface, or * for all of the node.", text()),
                    ),
                    ("expectedIPs", list(address())),
                    ("profiles", list(text())),
                    ("ports", list(endpoint_port())),
                ],
            ),
            "has(self.interfaceName) || has(self.expectedIPs)",
            "interfaceName or expectedIPs is needed",
        ),
        Kind::IPPool => pool(),
        Kind::IPReservation => object(&[], [("reservedCIDRs", list(net()))]),
        Kind::IPAMBlock => block(),
        Kind::BlockAffinity => object(
            &["state", "node", "cidr"],
            [
                ("state", one_of(&["pending", "confirmed", "pendingDeletion"])),
                ("node", text()),
                ("cidr", cidr()),
                ("type", text()),
            ],
        ),
        Kind::IPAMHandle => object(&["handleID"], [("handleID", text()), ("block", map(counter()))]),
        Kind::IPAMConfig => object(
            &[],
            [
                ("strictAffinity", yes_or_no()),
                ("autoAllocateBlocks", yes_or_no()),
                ("maxBlocksPerHost", integer(0, i64::from(u32::MAX))),
            ],
        ),
        // The agent knows its settings; one of another version must lose nothing.
        Kind::FelixConfiguration => json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true }),
        Kind::ClusterInformation => object(
            &[],
            [
                ("clusterGUID", text()),
                ("clusterType", text()),
                ("calicoVersion", text()),
                ("datastoreReady", yes_or_no()),
            ],
        ),
        Kind::BGPConfiguration => bgp_configuration(),
        Kind::BGPPeer => object(
            &[],
            [
                ("node", text()),
                ("nodeSelector", selector()),
                ("peerIP", text()),
                ("peerSelector", selector()),
                ("asNumber", as_number()),
                ("keepOriginalNextHop", yes_or_no()),
            ],
        ),
        // Made of Kubernetes' objects wherever Manx runs; kept as they are only by stores that translate nothing.
        Kind::Profile | Kind::WorkloadEndpoint | Kind::ServiceEndpoints | Kind::Node => {
            json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
        }
    }
}

fn endpoint_port() -> Value {
    object(
        &["protocol", "port"],
        [
            ("name", text()),
            ("protocol", protocol()),
            ("port", integer(0, 65535)),
            ("hostPort", integer(0, 65535)),
            ("hostIP", text()),
        ],
    )
}

fn pool() -> Value {
    let mode = || one_of(&["Never", "Always", "CrossSubnet"]);
    let schema = object(
        &["cidr"],
        [
            ("cidr", cidr()),
            ("ipipMode", about("Whether IPIP wraps the traffic.", mode())),
            ("vxlanMode", about("Whether VXLAN wraps the traffic.", mode())),
            (
                "natOutgoing",
                about(
                    "Whether traffic that leaves all pools takes the node's address.",
                    yes_or_no(),
                ),
            ),
            (
                "disabled",
                about("Whether new addresses are no longer taken from it.", yes_or_no()),
            ),
            ("nodeSelector", selector()),
            ("namespaceSelector", selector()),
            (
                "blockSize",
                about(
                    "Prefix length of a block; 26 or 122 where absent.",
                    integer(20, 128),
                ),
            ),
            (
                "allowedUses",
                list(one_of(&["Workload", "Tunnel", "LoadBalancer"])),
            ),
            ("disableBGPExport", yes_or_no()),
            ("assignmentMode", one_of(&["Automatic", "Manual"])),
        ],
    );
    let uses = |field: &str| format!("(has(self.{field}) && self.{field} != 'Never')");
    let is_ipv6 = "self.cidr.contains(':')";
    let rules = [
        (
            format!("!({} && {})", uses("ipipMode"), uses("vxlanMode")),
            "vxlanMode cannot be combined with ipipMode; set one of them to Never",
        ),
        (
            format!("!({} && {is_ipv6})", uses("ipipMode")),
            "ipipMode is not possible for IPv6; use vxlanMode",
        ),
        (
            "isCIDR(self.cidr) && cidr(self.cidr) == cidr(self.cidr).masked()".to_owned(),
            "cidr must be a range without host bits, such as 10.244.0.0/16 or fd00:10:244::/56",
        ),
        (
            format!("!has(self.blockSize) || ({is_ipv6} ? self.blockSize >= 116 : self.blockSize <= 32)"),
            "blockSize must be 20 to 32 for IPv4, 116 to 128 for IPv6",
        ),
        (
            format!(
                "!isCIDR(self.cidr) || cidr(self.cidr).prefixLength() <= \
                 (has(self.blockSize) ? self.blockSize : ({is_ipv6} ? 122 : 26))"
            ),
            "a block (blockSize; /26 or /122 where absent) must fit into cidr; make blockSize larger",
        ),
    ];
    rules
        .iter()
        .fold(schema, |schema, (holds, message)| rule(schema, holds, message))
}

fn block() -> Value {
    let mut allocation = integer(0, 65535);
    allocation["nullable"] = json!(true);
    let attribute = object(&[], [("handle_id", text()), ("secondary", map(text()))]);
    object(
        &["cidr", "allocations", "unallocated"],
        [
            ("cidr", cidr()),
            ("affinity", text()),
            ("strictAffinity", yes_or_no()),
            (
                "allocations",
                about(
                    "For each address the attribute of its holder, or nothing.",
                    list(allocation),
                ),
            ),
            ("unallocated", list(integer(0, 65535))),
            ("attributes", list(attribute)),
            ("sequenceNumber", counter()),
            ("sequenceNumberForAllocation", map(counter())),
            ("deleted", yes_or_no()),
        ],
    )
}

fn bgp_configuration() -> Value {
    let ranges = || list(object(&["cidr"], [("cidr", cidr())]));
    object(
        &[],
        [
            (
                "logSeverityScreen",
                one_of(&["Debug", "Info", "Warning", "Error", "Fatal"]),
            ),
            ("nodeToNodeMeshEnabled", yes_or_no()),
            ("asNumber", as_number()),
            ("serviceClusterIPs", ranges()),
            ("serviceExternalIPs", ranges()),
            ("serviceLoadBalancerIPs", ranges()),
            ("listenPort", integer(1, 65535)),
            (
                "prefixAdvertisements",
                list(object(
                    &["cidr"],
                    [("cidr", cidr()), ("communities", list(text()))],
                )),
            ),
        ],
    )
}
