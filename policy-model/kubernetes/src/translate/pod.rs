//! Pods as workload endpoints, and the facts about a pod that do not depend on whether it is one.

use super::{Translation, bounded_name, hex, namespace_profile_name, service_account_profile_name};
use crate::manifest::address;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod, PodStatus};
use policy_model::{
    EndpointPort, FieldError, LABEL_NAMESPACE, LABEL_ORCHESTRATOR, LABEL_SERVICE_ACCOUNT, Metadata, Object,
    Protocol, WorkloadEndpointSpec, parse_net,
};
use sha1::{Digest, Sha1};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Beginning of the annotations of pods and namespaces that are meant for address management.
pub(super) const ANNOTATION_PREFIX: &str = "cni.projectcalico.org/";
/// Annotation of a pod of a node's own manifests: by this the container runtime calls it.
const ANNOTATION_CONFIG_HASH: &str = "kubernetes.io/config.hash";
const ANNOTATION_REQUESTED: &str = "cni.projectcalico.org/ipAddrs";
const ANNOTATION_ADDRESS: &str = "cni.projectcalico.org/podIP";
const ANNOTATION_ADDRESSES: &str = "cni.projectcalico.org/podIPs";
const ANNOTATION_SANDBOX: &str = "cni.projectcalico.org/containerID";

/// Whether an annotation of a pod says anything to us: a reader may pass over all others.
pub fn is_pod_annotation(key: &str) -> bool {
    key.starts_with(ANNOTATION_PREFIX) || key == ANNOTATION_CONFIG_HASH
}

/// What is known of a pod, endpoint or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The node that the pod itself names (`spec.nodeName`).
    pub node: Option<String>,
    /// Whether it uses its node's own network: then it is neither selected nor a peer.
    pub host_network: bool,
    /// Whether all its containers ended for good, or its addresses were given back: it then matches nothing.
    pub finished: bool,
    /// Whether it is being deleted: it keeps everything until it has finished.
    pub terminating: bool,
    /// Service account, `default` where none is named.
    pub service_account: String,
    /// Ports that its containers declare, named or not, in the order of the manifest, none twice.
    pub ports: Vec<EndpointPort>,
    /// Addresses that its annotation `cni.projectcalico.org/ipAddrs` asks for.
    pub requested_addresses: Vec<IpAddr>,
    /// Addresses that it has already, by its annotations or its status.
    pub addresses: Vec<IpAddr>,
    /// Identity; empty where the manifest has none.
    pub uid: String,
}

impl PodFacts {
    /// Whether the pod has an interface of its own.
    pub fn is_endpoint(&self) -> bool {
        !self.host_network && !self.finished
    }
}

/// What a pod says of its addresses.
pub(crate) struct Addressing {
    requested: Vec<IpAddr>,
    assigned: Vec<IpAddr>,
    /// The addresses were given back: the annotation is there and empty.
    released: bool,
}

/// Reads the addresses of a pod: annotations before the status, which comes late.
pub(crate) fn addressing(pod: &Pod, out: &mut Vec<FieldError>) -> Addressing {
    let annotation = |key: &str| pod.metadata.annotations.as_ref().and_then(|a| a.get(key));
    let field = |key: &str| format!("metadata.annotations[{key}]");
    let mut requested = Vec::new();
    if let Some(text) = annotation(ANNOTATION_REQUESTED) {
        let field = field(ANNOTATION_REQUESTED);
        match serde_json::from_str::<Vec<String>>(text) {
            Ok(list) => {
                requested = list
                    .iter()
                    .filter_map(|text| keep(address(&field, text), out))
                    .collect()
            }
            Err(_) => out.push(FieldError::new(
                &field,
                format!("'{text}' is no JSON list of addresses"),
            )),
        }
        if requested.iter().filter(|a| a.is_ipv4()).count() > 1
            || requested.iter().filter(|a| a.is_ipv6()).count() > 1
        {
            out.push(FieldError::new(
                field,
                "asks for more than one address of a family",
            ));
        }
    }
    let released = annotation(ANNOTATION_ADDRESS).is_some_and(String::is_empty);
    let annotated = [ANNOTATION_ADDRESSES, ANNOTATION_ADDRESS]
        .into_iter()
        .find_map(|key| {
            annotation(key)
                .filter(|text| !text.is_empty())
                .map(|text| (key, text))
        });
    let found: Vec<(Said, &str)> = match (annotated, &pod.status) {
        (Some((key, list)), _) => list
            .split(',')
            .map(|text| (Said::Annotation(key), text.trim()))
            .collect(),
        (None, Some(status)) => status_addresses(status),
        (None, None) => Vec::new(),
    };
    let mut assigned = Vec::new();
    for (said, text) in found {
        let address = match parse_net(text) {
            Ok(net) if net.prefix_len() == net.max_prefix_len() => net.addr(),
            _ => {
                out.push(FieldError::new(
                    said.field(),
                    format!("'{text}' is no IP address"),
                ));
                continue;
            }
        };
        if !assigned.contains(&address) {
            assigned.push(address);
        }
    }
    Addressing {
        requested,
        assigned,
        released,
    }
}

/// Where a pod says an address. Its text is made only where something is wrong with it: there are many pods.
enum Said {
    Annotation(&'static str),
    Listed(usize),
    Single,
}

impl Said {
    fn field(&self) -> String {
        match self {
            Said::Annotation(key) => format!("metadata.annotations[{key}]"),
            Said::Listed(n) => format!("status.podIPs[{n}].ip"),
            Said::Single => "status.podIP".to_string(),
        }
    }
}

fn status_addresses(status: &PodStatus) -> Vec<(Said, &str)> {
    let listed = status.pod_ips.iter().flatten().enumerate();
    let listed = listed.map(|(n, ip)| (Said::Listed(n), ip.ip.as_str()));
    let single = status.pod_ip.iter().map(|ip| (Said::Single, ip.as_str()));
    listed
        .chain(single)
        .filter(|(_, text)| !text.is_empty())
        .collect()
}

fn keep<T>(result: Result<T, FieldError>, out: &mut Vec<FieldError>) -> Option<T> {
    result.map_err(|fault| out.push(fault)).ok()
}

/// The facts about a pod. What its manifest says wrongly is left out.
pub fn pod_facts(pod: &Pod) -> PodFacts {
    facts_and_faults(pod).0
}

fn facts_and_faults(pod: &Pod) -> (PodFacts, Vec<FieldError>) {
    let mut faults = Vec::new();
    let Addressing {
        requested,
        assigned,
        released,
    } = addressing(pod, &mut faults);
    let named = |name: &Option<String>| name.clone().filter(|n| !n.is_empty());
    let spec = pod.spec.as_ref();
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    let facts = PodFacts {
        namespace: named(&pod.metadata.namespace).unwrap_or_else(|| "default".to_string()),
        name: pod.metadata.name.clone().unwrap_or_default(),
        node: spec.and_then(|s| named(&s.node_name)),
        host_network: spec.and_then(|s| s.host_network).unwrap_or(false),
        finished: released || matches!(phase, Some("Succeeded" | "Failed")),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        service_account: spec
            .and_then(|s| named(&s.service_account_name).or_else(|| named(&s.service_account)))
            .unwrap_or_else(|| "default".to_string()),
        ports: declared_ports(pod),
        requested_addresses: requested,
        addresses: assigned,
        uid: pod.metadata.uid.clone().unwrap_or_default(),
    };
    (facts, faults)
}

/// Ports of the containers, and of the init containers that go on running beside them.
fn declared_ports(pod: &Pod) -> Vec<EndpointPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let is_sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(is_sidecar);
    let mut ports = Vec::new();
    for port in sidecars
        .chain(&spec.containers)
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(declared_port)
    {
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    ports
}

fn declared_port(port: &ContainerPort) -> Option<EndpointPort> {
    let ContainerPort {
        container_port,
        host_ip,
        host_port,
        name,
        protocol,
    } = port;
    let protocol = match protocol.as_deref() {
        None | Some("" | "TCP") => Protocol::TCP,
        Some("UDP") => Protocol::UDP,
        Some("SCTP") => Protocol::SCTP,
        Some(_) => return None,
    };
    Some(EndpointPort {
        name: name.clone().unwrap_or_default(),
        protocol,
        port: u16::try_from(*container_port).ok().filter(|p| *p > 0)?,
        host_port: host_port.and_then(|p| u16::try_from(p).ok()).unwrap_or(0),
        host_ip: host_ip.clone().unwrap_or_default(),
    })
}

/// Name of the endpoint of a pod on a node: the parts with their dashes doubled, so that no two pods share one.
pub fn workload_endpoint_name(node: &str, pod: &str) -> String {
    const REST: &str = "-k8s--eth0";
    let dashes = node.bytes().chain(pod.bytes()).filter(|b| *b == b'-').count();
    let mut name = String::with_capacity(node.len() + pod.len() + dashes + REST.len());
    let mut part = |text: &str, behind: &str| {
        for (n, piece) in text.split('-').enumerate() {
            name.push_str(if n > 0 { "--" } else { "" });
            name.push_str(piece);
        }
        name.push_str(behind);
    };
    part(node, "-k8s-");
    part(pod, "-eth0");
    bounded_name(name)
}

/// Name of a pod's interface on its node: `cali` and the first 11 hexadecimal digits of a SHA-1.
pub fn workload_interface_name(namespace: &str, pod: &str) -> String {
    let hash = hex(&Sha1::digest(format!("{namespace}.{pod}").as_bytes()));
    format!("cali{}", hash.get(..11).unwrap_or(&hash))
}

/// The workload endpoint of a pod; none for a pod without a node, of the host's network, or that has finished.
///
/// `node` is where the pod runs if its own `spec.nodeName` does not say.
pub fn translate_pod(pod: &Pod, node: Option<&str>) -> Translation {
    endpoint(pod, node, || pod.metadata.labels.clone())
}

/// As [`translate_pod`] of a pod that says its node, but takes the pod's labels.
pub(super) fn translate_pod_taking(pod: &mut Pod) -> Translation {
    let labels = pod.metadata.labels.take();
    endpoint(pod, None, || labels)
}

fn endpoint(
    pod: &Pod,
    node: Option<&str>,
    labels: impl FnOnce() -> Option<BTreeMap<String, String>>,
) -> Translation {
    let (facts, faults) = facts_and_faults(pod);
    let node = facts.node.as_deref().or(node).map(str::to_owned);
    let Some(node) = node.filter(|_| facts.is_endpoint()) else {
        return Translation {
            resources: Vec::new(),
            faults,
        };
    };
    let PodFacts {
        namespace,
        name,
        service_account,
        ports,
        addresses,
        uid,
        ..
    } = facts;
    let annotations = pod.metadata.annotations.iter().flatten();
    let annotations: BTreeMap<String, String> = annotations
        .filter(|(key, _)| is_pod_annotation(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let mut labels = labels().unwrap_or_default();
    // Last, so that no pod can take another's place.
    labels.insert(LABEL_NAMESPACE.to_string(), namespace.clone());
    labels.insert(LABEL_ORCHESTRATOR.to_string(), "k8s".to_string());
    labels.insert(LABEL_SERVICE_ACCOUNT.to_string(), service_account.clone());
    let spec = WorkloadEndpointSpec {
        orchestrator: "k8s".to_string(),
        container_id: annotations.get(ANNOTATION_SANDBOX).cloned().unwrap_or_default(),
        pod: name.clone(),
        endpoint: "eth0".to_string(),
        profiles: vec![
            namespace_profile_name(&namespace),
            service_account_profile_name(&namespace, &service_account),
        ],
        interface_name: workload_interface_name(&namespace, &name),
        ip_networks: addresses.into_iter().map(IpNet::from).collect(),
        ports,
        service_account_name: service_account,
        node: node.clone(),
        ..WorkloadEndpointSpec::default()
    };
    let metadata = Metadata {
        name: workload_endpoint_name(&node, &name),
        namespace,
        labels,
        annotations,
        uid,
    };
    Translation {
        resources: vec![Object { metadata, spec }.into()],
        faults,
    }
}
