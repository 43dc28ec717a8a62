//! Endpoints and network sets: what their resources say of labels, addresses and ports.

use super::locals::local_id;
use super::placement::NewItem;
use crate::fault::{Fault, InForce};
use crate::graph::CalcGraph;
use crate::items::{ItemKind, named_ports};
use crate::locals::Interface;
use crate::nets::{Nets, is_address};
use ipnet::IpNet;
use policy_model::{
    FieldError, HostEndpointSpec, Key, Kind, Metadata, NAMESPACE_PROFILE_PREFIX, NetworkSetSpec, Object,
    WorkloadEndpointSpec,
};
use policy_model_selector::index::Symbol;

impl CalcGraph {
    /// Takes in a workload endpoint.
    pub(crate) fn upsert_workload(&mut self, object: Object<WorkloadEndpointSpec>) -> Result<(), Fault> {
        let Object { metadata, spec } = object;
        let key = || {
            Key::namespaced(
                Kind::WorkloadEndpoint,
                metadata.namespace.as_str(),
                metadata.name.as_str(),
            )
        };
        let is_local = spec.node == self.config.node;
        let mac = match faults_of(&metadata, &spec) {
            Ok(mac) => mac,
            Err(faults) => {
                let key = key();
                let in_force = if self.knows(&key) {
                    InForce::LastValid
                } else {
                    InForce::Nothing
                };
                return Err(Fault {
                    key,
                    faults,
                    in_force,
                });
            }
        };
        // Without the name of its interface nothing can be enforced; but it is a peer of others.
        let is_enforced = is_local && !spec.interface_name.is_empty();

        let namespace = self.interner.intern(&metadata.namespace);
        let node = self.interner.intern(&spec.node);
        self.read_labels(&metadata);
        // What the endpoint is, whatever its author labelled it: else a label could put it into another's namespace.
        let keys = self.own_labels;
        self.set_label(keys.namespace, namespace);
        for (key, value) in [
            (keys.orchestrator, &spec.orchestrator),
            (keys.service_account, &spec.service_account_name),
        ] {
            if !value.is_empty() {
                let value = self.interner.intern(value);
                self.set_label(key, value);
            }
        }
        let profiles = self.profile_numbers(spec.profiles.iter().map(String::as_str));
        let pod_name = if spec.pod.is_empty() {
            &metadata.name
        } else {
            &spec.pod
        };
        let pod = spec.ip_networks.is_empty().then_some(pod_name.as_str());
        let nets = match pod {
            None => Nets::of(spec.ip_networks.iter().copied()),
            Some(pod) => Nets::of(
                self.book
                    .addresses_of(namespace, pod)
                    .iter()
                    .copied()
                    .map(IpNet::from),
            ),
        };
        let addresses = if is_enforced {
            nets.addresses().collect()
        } else {
            Vec::new()
        };
        let was_enforced = self.put_item(NewItem {
            kind: ItemKind::Workload,
            namespace,
            name: &metadata.name,
            node,
            nets,
            ports: named_ports(&spec.ports),
            profiles: &profiles,
            pod,
            own: is_enforced,
        });
        if is_enforced {
            let mut spoofable: Vec<IpNet> = spec
                .allow_spoofed_source_prefixes
                .iter()
                .map(IpNet::trunc)
                .collect();
            spoofable.sort_unstable();
            spoofable.dedup();
            let id = local_id(&metadata.namespace, &metadata.name);
            self.put_local(
                id,
                Interface {
                    name: spec.interface_name,
                    mac,
                    addresses,
                    spoofable,
                    profiles,
                },
            );
        } else {
            if was_enforced {
                self.remove_local(&metadata.namespace, &metadata.name);
            }
            if is_local {
                let fault = FieldError::new("spec.interfaceName", "is missing");
                return Err(Fault::of(key(), fault, InForce::Nothing));
            }
        }
        Ok(())
    }

    /// Takes in a valid host endpoint.
    pub(crate) fn upsert_host_endpoint(&mut self, object: &Object<HostEndpointSpec>) {
        let Object { metadata, spec } = object;
        let namespace = self.interner.intern("");
        let node = self.interner.intern(&spec.node);
        self.read_labels(metadata);
        let profiles = self.profile_numbers(spec.profiles.iter().map(String::as_str));
        self.put_item(NewItem {
            kind: ItemKind::HostEndpoint,
            namespace,
            name: &metadata.name,
            node,
            nets: Nets::of(spec.expected_ips.iter().copied().map(IpNet::from)),
            ports: named_ports(&spec.ports),
            profiles: &profiles,
            pod: None,
            own: spec.node == self.config.node,
        });
    }

    /// Takes in a valid network set. One of a namespace carries that namespace's labels, as if it were an endpoint. None is
    /// anybody's workload, whatever its labels say: what Kubernetes' policies select are pods.
    pub(crate) fn upsert_network_set(&mut self, kind: ItemKind, metadata: &Metadata, spec: &NetworkSetSpec) {
        let namespace = self.interner.intern(&metadata.namespace);
        let node = self.interner.intern("");
        self.read_labels(metadata);
        self.labels
            .retain(|(key, _)| *key != self.own_labels.orchestrator);
        let mut profiles = Vec::new();
        if kind == ItemKind::NetworkSet {
            self.set_label(self.own_labels.namespace, namespace);
            let profile = format!("{NAMESPACE_PROFILE_PREFIX}{}", metadata.namespace);
            profiles.push(self.profiles.number_of(&profile));
        }
        self.put_item(NewItem {
            kind,
            namespace,
            name: &metadata.name,
            node,
            nets: Nets::of(spec.nets.iter().copied()),
            ports: Vec::new(),
            profiles: &profiles,
            pod: None,
            own: true,
        });
    }

    /// Interns an object's labels into the buffer.
    fn read_labels(&mut self, metadata: &Metadata) {
        self.labels.clear();
        for (place, (key, value)) in metadata.labels.iter().enumerate() {
            let recent = self.recent_keys.get(place).copied();
            let key = match recent.filter(|recent| self.interner.resolve(*recent) == key) {
                Some(recent) => recent,
                None => {
                    let symbol = self.interner.intern(key);
                    match self.recent_keys.get_mut(place) {
                        Some(slot) => *slot = symbol,
                        None => self.recent_keys.push(symbol),
                    }
                    symbol
                }
            };
            let value = self.interner.intern(value);
            self.labels.push((key, value));
        }
    }

    /// Adds a label to the buffer, or replaces it there.
    fn set_label(&mut self, key: Symbol, value: Symbol) {
        match self.labels.iter_mut().find(|(other, _)| *other == key) {
            Some(known) => known.1 = value,
            None => self.labels.push((key, value)),
        }
    }

    pub(super) fn profile_numbers<'a>(&mut self, names: impl Iterator<Item = &'a str>) -> Vec<u32> {
        let mut numbers = Vec::new();
        for name in names {
            let number = self.profiles.number_of(name);
            if !numbers.contains(&number) {
                numbers.push(number);
            }
        }
        numbers
    }
}

/// The hardware address of an endpoint without faults.
///
/// Names were checked where the object was read; there are too many endpoints to check what is enforced of none
/// again for each.
fn faults_of(metadata: &Metadata, spec: &WorkloadEndpointSpec) -> Result<Option<[u8; 6]>, Vec<FieldError>> {
    let mut faults = Vec::new();
    for (field, text) in [
        ("metadata.namespace", &metadata.namespace),
        ("metadata.name", &metadata.name),
    ] {
        if text.is_empty() {
            faults.push(FieldError::new(field, "is missing"));
        }
    }
    for (n, net) in spec
        .ip_networks
        .iter()
        .enumerate()
        .filter(|(_, net)| !is_address(net))
    {
        faults.push(FieldError::new(
            format!("spec.ipNetworks[{n}]"),
            format!("{net} is not a single address"),
        ));
    }
    let bad = |b: u8| b == b'/' || b.is_ascii_whitespace() || b.is_ascii_control() || b == b':';
    let interface = &spec.interface_name;
    if interface.len() > 15 || interface.bytes().any(bad) || matches!(interface.as_str(), "." | "..") {
        faults.push(FieldError::new(
            "spec.interfaceName",
            format!("'{interface}' is no interface name"),
        ));
    }
    let mac = if spec.mac.is_empty() {
        None
    } else {
        parse_mac(&spec.mac)
    };
    if mac.is_none() && !spec.mac.is_empty() {
        faults.push(FieldError::new(
            "spec.mac",
            format!("'{}' is no hardware address", spec.mac),
        ));
    }
    if faults.is_empty() { Ok(mac) } else { Err(faults) }
}

/// Six pairs of hexadecimal digits between colons or hyphens.
fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let part = parts
            .next()
            .filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}
