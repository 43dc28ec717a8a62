//! Rules that the types alone cannot say: names, selectors, combinations of fields.

use crate::policy::{EntityRule, Icmp, PolicyRule};
use crate::{
    EncapsulationMode, FieldError, GlobalNetworkPolicySpec, IpPoolSpec, IpamBlockSpec, PolicyType, Port,
    Resource, WorkloadEndpointSpec,
};
use ipnet::IpNet;
use policy_model_selector::Selector;
use std::fmt::Display;

/// Every fault of an object.
pub(crate) fn resource(resource: &Resource) -> Vec<FieldError> {
    let mut faults = Vec::new();
    let out = &mut faults;
    metadata(resource, out);
    match resource {
        Resource::NetworkPolicy(p) => {
            selector(&"spec.selector", &p.spec.selector, out);
            selector(
                &"spec.serviceAccountSelector",
                &p.spec.service_account_selector,
                out,
            );
            rules(&p.spec.types, &p.spec.ingress, &p.spec.egress, out);
        }
        Resource::GlobalNetworkPolicy(p) => {
            selector(&"spec.selector", &p.spec.selector, out);
            selector(&"spec.namespaceSelector", &p.spec.namespace_selector, out);
            selector(
                &"spec.serviceAccountSelector",
                &p.spec.service_account_selector,
                out,
            );
            host_only_flags(&p.spec, out);
            rules(&p.spec.types, &p.spec.ingress, &p.spec.egress, out);
        }
        Resource::Profile(p) => rules(&[], &p.spec.ingress, &p.spec.egress, out),
        Resource::WorkloadEndpoint(e) => workload_endpoint(&e.spec, out),
        Resource::HostEndpoint(e) => {
            if e.spec.node.is_empty() {
                out.push(FieldError::new("spec.node", "is missing"));
            }
            if e.spec.interface_name.is_empty() && e.spec.expected_ips.is_empty() {
                out.push(FieldError::new("spec", "needs interfaceName or expectedIPs"));
            }
        }
        Resource::IPPool(p) => pool(&p.spec, out),
        Resource::IPAMBlock(b) => block(&b.spec, out),
        Resource::BGPPeer(p) => {
            selector(&"spec.nodeSelector", &p.spec.node_selector, out);
            selector(&"spec.peerSelector", &p.spec.peer_selector, out);
        }
        Resource::Tier(_)
        | Resource::NetworkSet(_)
        | Resource::GlobalNetworkSet(_)
        | Resource::ServiceEndpoints(_)
        | Resource::IPReservation(_)
        | Resource::BlockAffinity(_)
        | Resource::IPAMHandle(_)
        | Resource::IPAMConfig(_)
        | Resource::Node(_)
        | Resource::FelixConfiguration(_)
        | Resource::ClusterInformation(_)
        | Resource::BGPConfiguration(_) => {}
    }
    faults
}

/// Names are DNS subdomains, except where the kind's own names hold more (addresses, handles).
fn metadata(resource: &Resource, out: &mut Vec<FieldError>) {
    let metadata = resource.metadata();
    let kind = resource.kind();
    name(&"metadata.name", &metadata.name, out);
    match (kind.is_namespaced(), metadata.namespace.is_empty()) {
        (true, true) => out.push(FieldError::new(
            "metadata.namespace",
            format!("is missing; a {kind} lives in one"),
        )),
        (false, false) => {
            out.push(FieldError::new(
                "metadata.namespace",
                format!("must not be set; a {kind} lives in none"),
            ));
        }
        (true, false) => name(&"metadata.namespace", &metadata.namespace, out),
        (false, true) => {}
    }
}

fn name(field: &dyn Display, text: &str, out: &mut Vec<FieldError>) {
    let label = |l: &str| {
        let bytes = l.as_bytes();
        let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        !bytes.is_empty()
            && bytes.iter().all(|b| plain(b) || *b == b'-')
            && bytes.first().is_some_and(plain)
            && bytes.last().is_some_and(plain)
    };
    if text.is_empty() {
        out.push(FieldError::new(field.to_string(), "is missing"));
    } else if text.len() > 253 || !text.split('.').all(label) {
        let why = "must be a DNS subdomain: lower-case letters, digits, '-' and '.', at most 253 characters";
        out.push(FieldError::new(field.to_string(), format!("'{text}' {why}")));
    }
}

fn selector(field: &dyn Display, text: &str, out: &mut Vec<FieldError>) {
    // Most are absent, and the paths of the others are written only where there is something to say: this runs for
    // every rule of every policy.
    if text.is_empty() {
        return;
    }
    if let Err(error) = Selector::parse(text) {
        out.push(FieldError::new(
            field.to_string(),
            format!("invalid selector '{text}': {error}"),
        ));
    }
}

fn host_only_flags(spec: &GlobalNetworkPolicySpec, out: &mut Vec<FieldError>) {
    if spec.do_not_track && spec.pre_dnat {
        out.push(FieldError::new(
            "spec.preDNAT",
            "cannot be combined with doNotTrack",
        ));
    }
    if (spec.do_not_track || spec.pre_dnat) && !spec.apply_on_forward {
        out.push(FieldError::new(
            "spec.applyOnForward",
            "must be true with doNotTrack or preDNAT",
        ));
    }
    if spec.pre_dnat && (!spec.egress.is_empty() || spec.types.contains(&PolicyType::Egress)) {
        out.push(FieldError::new("spec.egress", "must be empty with preDNAT"));
    }
}

fn rules(types: &[PolicyType], ingress: &[PolicyRule], egress: &[PolicyRule], out: &mut Vec<FieldError>) {
    let twice = |t| types.iter().filter(|x| **x == t).count() > 1;
    if twice(PolicyType::Ingress) || twice(PolicyType::Egress) {
        out.push(FieldError::new("spec.types", "names a direction twice"));
    }
    for (direction, list) in [("ingress", ingress), ("egress", egress)] {
        for (n, r) in list.iter().enumerate() {
            rule(&format_args!("spec.{direction}[{n}]"), r, out);
        }
    }
}

fn rule(at: &dyn Display, rule: &PolicyRule, out: &mut Vec<FieldError>) {
    if rule.ip_version.is_some_and(|v| v != 4 && v != 6) {
        out.push(FieldError::new(format!("{at}.ipVersion"), "must be 4 or 6"));
    }
    for (field, icmp) in [("icmp", rule.icmp), ("notICMP", rule.not_icmp)] {
        if let Some(Icmp { icmp_type, code }) = icmp {
            if code.is_some() && icmp_type.is_none() {
                out.push(FieldError::new(format!("{at}.{field}.code"), "needs a type"));
            }
            if icmp_type == Some(255) {
                out.push(FieldError::new(format!("{at}.{field}.type"), "must be 0 to 254"));
            }
            if !rule.protocol.is_some_and(|p| p.is_icmp()) {
                out.push(FieldError::new(
                    format!("{at}.{field}"),
                    "needs protocol ICMP or ICMPv6",
                ));
            }
        }
    }
    let has_ports = rule.protocol.is_some_and(|p| p.has_ports());
    for (side_name, side) in [("source", &rule.source), ("destination", &rule.destination)] {
        for (field, ports) in [("ports", &side.ports), ("notPorts", &side.not_ports)] {
            if !has_ports && !ports.is_empty() {
                out.push(FieldError::new(
                    format!("{at}.{side_name}.{field}"),
                    "need protocol TCP, UDP, SCTP or UDPLite",
                ));
            }
        }
        entity(&format_args!("{at}.{side_name}"), side, out);
        families(&format_args!("{at}.{side_name}"), side, rule.ip_version, out);
    }
}

fn entity(at: &dyn Display, side: &EntityRule, out: &mut Vec<FieldError>) {
    selector(&format_args!("{at}.selector"), &side.selector, out);
    selector(&format_args!("{at}.notSelector"), &side.not_selector, out);
    selector(
        &format_args!("{at}.namespaceSelector"),
        &side.namespace_selector,
        out,
    );
    if let Some(accounts) = &side.service_accounts {
        selector(
            &format_args!("{at}.serviceAccounts.selector"),
            &accounts.selector,
            out,
        );
        for (n, account) in accounts.names.iter().enumerate() {
            name(&format_args!("{at}.serviceAccounts.names[{n}]"), account, out);
        }
    }
    if let Some(service) = &side.services {
        name(&format_args!("{at}.services.name"), &service.name, out);
        if !service.namespace.is_empty() {
            name(&format_args!("{at}.services.namespace"), &service.namespace, out);
        }
        let others = !side.nets.is_empty()
            || !side.not_nets.is_empty()
            || !side.selector.is_empty()
            || !side.not_selector.is_empty()
            || !side.namespace_selector.is_empty()
            || side.service_accounts.is_some()
            || !side.ports.is_empty()
            || !side.not_ports.is_empty();
        if others {
            out.push(FieldError::new(
                format!("{at}.services"),
                "cannot be combined with other matches of this side",
            ));
        }
    }
    for port in side.ports.iter().chain(&side.not_ports) {
        if let Port::Name(n) = port
            && n.len() > 63
        {
            out.push(FieldError::new(
                format!("{at}.ports"),
                format!("port name '{n}' is longer than 63 characters"),
            ));
        }
    }
}

fn families(at: &dyn Display, side: &EntityRule, version: Option<u8>, out: &mut Vec<FieldError>) {
    for (field, nets) in [("nets", &side.nets), ("notNets", &side.not_nets)] {
        for (n, net) in nets.iter().enumerate() {
            let family = if matches!(net, IpNet::V4(_)) { 4 } else { 6 };
            if version.is_some_and(|v| v != family) {
                out.push(FieldError::new(
                    format!("{at}.{field}[{n}]"),
                    format!("{net} is not of the rule's ipVersion"),
                ));
            }
        }
    }
}

fn workload_endpoint(spec: &WorkloadEndpointSpec, out: &mut Vec<FieldError>) {
    for (n, net) in spec.ip_networks.iter().enumerate() {
        if net.prefix_len() != net.max_prefix_len() {
            out.push(FieldError::new(
                format!("spec.ipNetworks[{n}]"),
                format!("{net} is not a single address"),
            ));
        }
    }
    let bad = |b: u8| b == b'/' || b.is_ascii_whitespace() || b.is_ascii_control() || b == b':';
    if spec.interface_name.len() > 15 || spec.interface_name.bytes().any(bad) {
        out.push(FieldError::new(
            "spec.interfaceName",
            format!("'{}' is no interface name", spec.interface_name),
        ));
    }
}

fn pool(spec: &IpPoolSpec, out: &mut Vec<FieldError>) {
    selector(&"spec.nodeSelector", &spec.node_selector, out);
    selector(&"spec.namespaceSelector", &spec.namespace_selector, out);
    if spec.cidr.trunc() != spec.cidr {
        out.push(FieldError::new(
            "spec.cidr",
            format!("{} has host bits set; {} is meant", spec.cidr, spec.cidr.trunc()),
        ));
    }
    let (low, high) = if matches!(spec.cidr, IpNet::V4(_)) {
        (20, 32)
    } else {
        (116, 128)
    };
    let size = spec.block_prefix_len();
    if !(low..=high).contains(&size) {
        out.push(FieldError::new(
            "spec.blockSize",
            format!("{size} is not between {low} and {high}, the prefix lengths that a block may have"),
        ));
    } else if size < spec.cidr.prefix_len() {
        let why = format!(
            "a block of /{size} does not fit into {}; take a larger range, or set blockSize to {} or more",
            spec.cidr,
            spec.cidr.prefix_len()
        );
        // Calico calls this a fault of the pool's range: a pool smaller than its block cannot give one block.
        out.push(FieldError::new("spec.cidr", why));
    }
    if spec.ipip_mode != EncapsulationMode::Never && spec.vxlan_mode != EncapsulationMode::Never {
        out.push(FieldError::new(
            "spec.vxlanMode",
            "cannot be combined with ipipMode; set one of them to Never",
        ));
    }
    if spec.ipip_mode != EncapsulationMode::Never && matches!(spec.cidr, IpNet::V6(_)) {
        out.push(FieldError::new(
            "spec.ipipMode",
            "is not possible for IPv6; use vxlanMode",
        ));
    }
    for (n, used) in spec.allowed_uses.iter().enumerate() {
        if !["Workload", "Tunnel", "LoadBalancer"].contains(&used.as_str()) {
            out.push(FieldError::new(
                format!("spec.allowedUses[{n}]"),
                format!("'{used}' is not Workload, Tunnel or LoadBalancer"),
            ));
        }
    }
    if let Some(mode) = &spec.assignment_mode
        && mode != "Automatic"
        && mode != "Manual"
    {
        out.push(FieldError::new(
            "spec.assignmentMode",
            format!("'{mode}' is not Automatic or Manual"),
        ));
    }
}

fn block(spec: &IpamBlockSpec, out: &mut Vec<FieldError>) {
    let bits = u32::from(spec.cidr.max_prefix_len() - spec.cidr.prefix_len());
    let size = if bits > 16 { 0 } else { 1usize << bits };
    if spec.allocations.len() != size {
        let found = spec.allocations.len();
        out.push(FieldError::new(
            "spec.allocations",
            format!("has {found} entries, a block {} has {size}", spec.cidr),
        ));
        return;
    }
    for (ordinal, attribute) in spec.allocations.iter().enumerate() {
        if attribute.is_some_and(|a| a as usize >= spec.attributes.len()) {
            out.push(FieldError::new(
                format!("spec.allocations[{ordinal}]"),
                "points at no attribute",
            ));
        }
    }
    for (n, ordinal) in spec.unallocated.iter().enumerate() {
        if spec.allocations.get(*ordinal as usize) != Some(&None) {
            out.push(FieldError::new(
                format!("spec.unallocated[{n}]"),
                format!("ordinal {ordinal} is not free"),
            ));
        }
    }
}
