//! What the API server would refuse of a NetworkPolicy.
//!
//! The translation asks the same questions again rule by rule: policies also come from an API server, of another
//! version perhaps, and a rule that cannot be understood must be left out there too.

use super::check::{metadata, text};
use crate::names;
use crate::translate::host_bits_cleared;
use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
    NetworkPolicyPort,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use policy_model::{FieldError, PolicyType};
use std::fmt::Display;

pub(super) fn policy(policy: &NetworkPolicy, out: &mut Vec<FieldError>) {
    metadata(&policy.metadata, names::dns_subdomain, true, out);
    policy_subject(policy, out);
    let Some(spec) = &policy.spec else { return };
    for (n, rule) in spec.ingress.iter().flatten().enumerate() {
        ingress_rule(n, rule, out);
    }
    for (n, rule) in spec.egress.iter().flatten().enumerate() {
        egress_rule(n, rule, out);
    }
}

/// Whom the policy selects and in which directions.
pub(crate) fn policy_subject(policy: &NetworkPolicy, out: &mut Vec<FieldError>) {
    let Some(spec) = &policy.spec else { return };
    if let Some(selector) = &spec.pod_selector {
        label_selector(&"spec.podSelector", selector, out);
    }
    for (n, found) in spec.policy_types.iter().flatten().enumerate() {
        if policy_type(found).is_none() {
            let why = format!("'{found}' is no policy type: write Ingress or Egress");
            out.push(FieldError::new(format!("spec.policyTypes[{n}]"), why));
        }
    }
}

/// The direction of a text, which must be written exactly so.
pub(crate) fn policy_type(text: &str) -> Option<PolicyType> {
    match text {
        "Ingress" => Some(PolicyType::Ingress),
        "Egress" => Some(PolicyType::Egress),
        _ => None,
    }
}

pub(crate) fn ingress_rule(n: usize, rule: &NetworkPolicyIngressRule, out: &mut Vec<FieldError>) {
    peers(&format_args!("spec.ingress[{n}].from"), rule.from.as_deref(), out);
    ports(
        &format_args!("spec.ingress[{n}].ports"),
        rule.ports.as_deref(),
        out,
    );
}

pub(crate) fn egress_rule(n: usize, rule: &NetworkPolicyEgressRule, out: &mut Vec<FieldError>) {
    peers(&format_args!("spec.egress[{n}].to"), rule.to.as_deref(), out);
    ports(
        &format_args!("spec.egress[{n}].ports"),
        rule.ports.as_deref(),
        out,
    );
}

fn peers(at: &dyn Display, peers: Option<&[NetworkPolicyPeer]>, out: &mut Vec<FieldError>) {
    for (n, peer) in peers.unwrap_or_default().iter().enumerate() {
        let at = format_args!("{at}[{n}]");
        let NetworkPolicyPeer {
            ip_block,
            namespace_selector,
            pod_selector,
        } = peer;
        if let Some(block) = ip_block {
            if namespace_selector.is_some() || pod_selector.is_some() {
                out.push(FieldError::new(
                    at.to_string(),
                    "has ipBlock together with selectors; a peer is one or the other",
                ));
            }
            self::ip_block(&format_args!("{at}.ipBlock"), block, out);
        } else if namespace_selector.is_none() && pod_selector.is_none() {
            out.push(FieldError::new(
                at.to_string(),
                "is empty: it needs podSelector, namespaceSelector or ipBlock",
            ));
        }
        if let Some(selector) = namespace_selector {
            label_selector(&format_args!("{at}.namespaceSelector"), selector, out);
        }
        if let Some(selector) = pod_selector {
            label_selector(&format_args!("{at}.podSelector"), selector, out);
        }
    }
}

fn ip_block(at: &dyn Display, block: &IPBlock, out: &mut Vec<FieldError>) {
    let IPBlock { cidr: whole, except } = block;
    let whole = if whole.is_empty() {
        out.push(FieldError::new(format!("{at}.cidr"), "is missing"));
        None
    } else {
        cidr(&format_args!("{at}.cidr"), whole, out)
    };
    for (n, found) in except.iter().flatten().enumerate() {
        let field = format_args!("{at}.except[{n}]");
        if let (Some(part), Some(whole)) = (cidr(&field, found, out), whole)
            && (!whole.contains(&part) || whole == part)
        {
            out.push(FieldError::new(
                field.to_string(),
                format!("'{found}' is not strictly within {whole}"),
            ));
        }
    }
}

/// A network, host bits cleared, as Kubernetes reads it.
fn cidr(field: &dyn Display, text: &str, out: &mut Vec<FieldError>) -> Option<IpNet> {
    let net = host_bits_cleared(text);
    if net.is_none() {
        out.push(FieldError::new(field.to_string(), format!("'{text}' is no CIDR")));
    }
    net
}

fn ports(at: &dyn Display, ports: Option<&[NetworkPolicyPort]>, out: &mut Vec<FieldError>) {
    for (n, found) in ports.unwrap_or_default().iter().enumerate() {
        let at = format_args!("{at}[{n}]");
        let NetworkPolicyPort {
            end_port,
            port,
            protocol: of,
        } = found;
        protocol(&format_args!("{at}.protocol"), of.as_deref(), out);
        if let Some(port) = port {
            port_or_name(&format_args!("{at}.port"), port, out);
        }
        let Some(end) = *end_port else { continue };
        let field = format_args!("{at}.endPort");
        match port {
            None => out.push(FieldError::new(field.to_string(), "needs a port")),
            Some(IntOrString::String(name)) => {
                out.push(FieldError::new(
                    field.to_string(),
                    format!("needs a port that is a number, not '{name}'"),
                ));
            }
            Some(IntOrString::Int(first)) if end < *first => {
                out.push(FieldError::new(
                    field.to_string(),
                    format!("{end} is less than the port, {first}"),
                ));
            }
            Some(IntOrString::Int(_)) => port_number(&field, end, out),
        }
    }
}

pub(super) fn port_or_name(field: &dyn Display, port: &IntOrString, out: &mut Vec<FieldError>) {
    match port {
        IntOrString::Int(number) => port_number(field, *number, out),
        IntOrString::String(name) => text(field, name, names::port_name, out),
    }
}

pub(super) fn port_number(field: &dyn Display, number: i32, out: &mut Vec<FieldError>) {
    if !(1..=65535).contains(&number) {
        out.push(FieldError::new(
            field.to_string(),
            format!("{number} is no port: write a number from 1 to 65535"),
        ));
    }
}

/// A protocol of Kubernetes; absent means TCP.
pub(super) fn protocol(field: &dyn Display, text: Option<&str>, out: &mut Vec<FieldError>) {
    if let Some(text) = text
        && !["TCP", "UDP", "SCTP"].contains(&text)
    {
        out.push(FieldError::new(
            field.to_string(),
            format!("'{text}' is no protocol: write TCP, UDP or SCTP"),
        ));
    }
}

fn label_selector(at: &dyn Display, selector: &LabelSelector, out: &mut Vec<FieldError>) {
    let LabelSelector {
        match_expressions,
        match_labels,
    } = selector;
    if let Some(labels) = match_labels {
        super::check::labels(&format_args!("{at}.matchLabels"), labels, out);
    }
    for (n, found) in match_expressions.iter().flatten().enumerate() {
        let at = format_args!("{at}.matchExpressions[{n}]");
        if found.key.is_empty() {
            out.push(FieldError::new(format!("{at}.key"), "is missing"));
        } else {
            text(&format_args!("{at}.key"), &found.key, names::label_key, out);
        }
        let values = found.values.as_deref().unwrap_or_default();
        let field = format_args!("{at}.values");
        let refuse = |why: String| FieldError::new(field.to_string(), why);
        match found.operator.as_str() {
            "In" | "NotIn" if values.is_empty() => {
                out.push(refuse(format!(
                    "must not be empty for operator {}",
                    found.operator
                )));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                out.push(refuse(format!("must be empty for operator {}", found.operator)));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            "" => out.push(FieldError::new(format!("{at}.operator"), "is missing")),
            other => {
                let why = format!("'{other}' is no operator: write In, NotIn, Exists or DoesNotExist");
                out.push(FieldError::new(format!("{at}.operator"), why));
            }
        }
        for (m, value) in values.iter().enumerate() {
            text(&format_args!("{field}[{m}]"), value, names::label_value, out);
        }
    }
}
