//! What the API server would refuse of metadata, nodes, Services and EndpointSlices.

use super::check_policy;
use crate::names;
use crate::translate::{ANNOTATION_NODE_PREFIX, node_addressing};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use policy_model::FieldError;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;

/// A check of a text's form. (The functions here take a field's path as what can write it: nearly always nothing is wrong,
/// and then no path is written.)
pub(super) type Form = fn(&str) -> Result<(), String>;

pub(super) fn metadata(metadata: &ObjectMeta, form: Form, namespaced: bool, out: &mut Vec<FieldError>) {
    match metadata.name.as_deref() {
        None | Some("") if metadata.generate_name.is_some() => {
            out.push(FieldError::new(
                "metadata.name",
                "is missing; generateName needs an API server",
            ));
        }
        None | Some("") => out.push(FieldError::new("metadata.name", "is missing")),
        Some(name) => text(&"metadata.name", name, form, out),
    }
    match (metadata.namespace.as_deref(), namespaced) {
        (Some(namespace), true) => text(&"metadata.namespace", namespace, names::dns_label, out),
        (Some(_), false) => {
            out.push(FieldError::new(
                "metadata.namespace",
                "must not be set; the object belongs to the whole cluster",
            ));
        }
        (None, _) => {}
    }
    if let Some(map) = &metadata.labels {
        labels(&"metadata.labels", map, out);
    }
    for key in metadata.annotations.iter().flat_map(BTreeMap::keys) {
        // Keys of annotations may have upper case letters in the prefix, other than labels.
        if let Err(why) = names::label_key(&key.to_ascii_lowercase()) {
            out.push(FieldError::new(
                format!("metadata.annotations[{key}]"),
                why.replace("label key", "annotation key"),
            ));
        }
    }
}

pub(super) fn labels(at: &dyn Display, labels: &BTreeMap<String, String>, out: &mut Vec<FieldError>) {
    for (key, value) in labels {
        text(&format_args!("{at}[{key}]"), key, names::label_key, out);
        text(&format_args!("{at}[{key}]"), value, names::label_value, out);
    }
}

pub(super) fn text(field: &dyn Display, text: &str, form: Form, out: &mut Vec<FieldError>) {
    if let Err(why) = form(text) {
        out.push(FieldError::new(field.to_string(), why));
    }
}

/// Checks an optional text.
pub(super) fn optional(field: &dyn Display, value: Option<&String>, form: Form, out: &mut Vec<FieldError>) {
    if let Some(value) = value {
        text(field, value, form, out);
    }
}

/// A single address.
pub(crate) fn address(field: &str, text: &str) -> Result<IpAddr, FieldError> {
    text.parse()
        .map_err(|_| FieldError::new(field, format!("'{text}' is no IP address")))
}

pub(super) fn node(node: &Node, out: &mut Vec<FieldError>) {
    metadata(&node.metadata, names::dns_subdomain, false, out);
    let addresses = node.status.iter().flat_map(|s| &s.addresses).flatten();
    for (n, found) in addresses.enumerate() {
        if matches!(found.type_.as_str(), "InternalIP" | "ExternalIP")
            && let Err(fault) = address(&format!("status.addresses[{n}].address"), &found.address)
        {
            out.push(fault);
        }
    }
    if node
        .metadata
        .annotations
        .iter()
        .flatten()
        .any(|(key, _)| key.starts_with(ANNOTATION_NODE_PREFIX))
    {
        node_addressing(node, out);
    }
}

pub(super) fn service(service: &Service, out: &mut Vec<FieldError>) {
    metadata(&service.metadata, names::dns_label, true, out);
    let Some(spec) = &service.spec else { return };
    if let Some(selector) = &spec.selector {
        labels(&"spec.selector", selector, out);
    }
    for (n, port) in spec.ports.iter().flatten().enumerate() {
        let at = format!("spec.ports[{n}]");
        optional(
            &format!("{at}.name"),
            port.name.as_ref().filter(|n| !n.is_empty()),
            names::dns_label,
            out,
        );
        check_policy::protocol(&format!("{at}.protocol"), port.protocol.as_deref(), out);
        check_policy::port_number(&format!("{at}.port"), port.port, out);
        if let Some(target) = &port.target_port {
            check_policy::port_or_name(&format!("{at}.targetPort"), target, out);
        }
    }
}

pub(super) fn endpoint_slice(slice: &EndpointSlice, out: &mut Vec<FieldError>) {
    metadata(&slice.metadata, names::dns_subdomain, true, out);
    let family: Option<fn(&IpAddr) -> bool> = match slice.address_type.as_str() {
        "IPv4" => Some(IpAddr::is_ipv4),
        "IPv6" => Some(IpAddr::is_ipv6),
        "FQDN" => None,
        other => {
            let why = if other.is_empty() {
                "is missing".to_string()
            } else {
                format!("'{other}' is no address type")
            };
            out.push(FieldError::new(
                "addressType",
                format!("{why}: write IPv4, IPv6 or FQDN"),
            ));
            None
        }
    };
    for (n, endpoint) in slice.endpoints.iter().flatten().enumerate() {
        for (m, found) in endpoint.addresses.iter().enumerate() {
            let Some(family) = family else { continue };
            let field = format!("endpoints[{n}].addresses[{m}]");
            match address(&field, found) {
                Ok(address) if family(&address) => {}
                Ok(address) => out.push(FieldError::new(
                    field,
                    format!("{address} is no {}", slice.address_type),
                )),
                Err(fault) => out.push(fault),
            }
        }
    }
    for (n, port) in slice.ports.iter().flatten().enumerate() {
        let at = format!("ports[{n}]");
        optional(
            &format!("{at}.name"),
            port.name.as_ref().filter(|n| !n.is_empty()),
            names::dns_label,
            out,
        );
        check_policy::protocol(&format!("{at}.protocol"), port.protocol.as_deref(), out);
        if let Some(number) = port.port {
            check_policy::port_number(&format!("{at}.port"), number, out);
        }
    }
}
