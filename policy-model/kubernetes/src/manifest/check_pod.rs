//! What the API server would refuse of a pod, as far as it concerns addresses and ports, and the annotations by
//! which a pod asks for addresses.

use super::check::{labels, metadata, optional, text};
use super::check_policy::{port_number, protocol};
use crate::names;
use crate::translate::pod_addressing;
use k8s_openapi::api::core::v1::{Container, Pod};
use policy_model::FieldError;
use std::collections::BTreeSet;

pub(super) fn pod(pod: &Pod, out: &mut Vec<FieldError>) {
    metadata(&pod.metadata, names::dns_subdomain, true, out);
    if let Some(spec) = &pod.spec {
        optional(
            &"spec.nodeName",
            spec.node_name.as_ref().filter(|n| !n.is_empty()),
            names::dns_subdomain,
            out,
        );
        for (field, account) in [
            ("spec.serviceAccountName", &spec.service_account_name),
            ("spec.serviceAccount", &spec.service_account),
        ] {
            optional(
                &field,
                account.as_ref().filter(|n| !n.is_empty()),
                names::dns_subdomain,
                out,
            );
        }
        if let Some(selector) = &spec.node_selector {
            labels(&"spec.nodeSelector", selector, out);
        }
        let mut container_names = BTreeSet::new();
        for (list, containers) in [
            ("initContainers", spec.init_containers.as_ref()),
            ("containers", Some(&spec.containers)),
        ] {
            for (n, found) in containers.into_iter().flatten().enumerate() {
                let at = format!("spec.{list}[{n}]");
                container(&at, found, out);
                if !found.name.is_empty() && !container_names.insert(found.name.as_str()) {
                    out.push(FieldError::new(
                        format!("{at}.name"),
                        format!("two containers are named '{}'", found.name),
                    ));
                }
            }
        }
    }
    pod_addressing(pod, out);
}

fn container(at: &str, container: &Container, out: &mut Vec<FieldError>) {
    if container.name.is_empty() {
        out.push(FieldError::new(format!("{at}.name"), "is missing"));
    } else {
        text(&format_args!("{at}.name"), &container.name, names::dns_label, out);
    }
    let mut port_names = BTreeSet::new();
    for (n, port) in container.ports.iter().flatten().enumerate() {
        let at = format!("{at}.ports[{n}]");
        port_number(&format_args!("{at}.containerPort"), port.container_port, out);
        protocol(&format_args!("{at}.protocol"), port.protocol.as_deref(), out);
        if let Some(number) = port.host_port.filter(|p| *p != 0) {
            port_number(&format_args!("{at}.hostPort"), number, out);
        }
        if let Some(name) = port.name.as_ref().filter(|n| !n.is_empty()) {
            text(&format_args!("{at}.name"), name, names::port_name, out);
            if !port_names.insert(name) {
                out.push(FieldError::new(
                    format!("{at}.name"),
                    format!("two ports of the container are named '{name}'"),
                ));
            }
        }
    }
}
