//! The addresses and ports behind Kubernetes Services, for the few Services that rules name.
//!
//! A Service is spread over slices, and is small: its set is made anew when one of them changes.

use dataplane_api::{Member, PortKey};
use ipnet::IpNet;
use policy_model::ServiceEndpointsSpec;
use rustc_hash::FxHashSet;
use std::collections::{BTreeMap, HashMap};

/// Namespace and name.
pub(crate) type ServiceKey = (Box<str>, Box<str>);

/// Slices by Service.
#[derive(Default)]
pub(crate) struct Services {
    /// The Service of each slice, by the slice's namespace and name.
    service_of: HashMap<ServiceKey, ServiceKey>,
    /// The slices of each Service, by their names.
    slices: HashMap<ServiceKey, BTreeMap<Box<str>, ServiceEndpointsSpec>>,
    /// Services whose slices changed since the last flush.
    changed: FxHashSet<ServiceKey>,
}

impl Services {
    pub(crate) fn set(&mut self, namespace: &str, name: &str, spec: ServiceEndpointsSpec) {
        let slice: ServiceKey = (namespace.into(), name.into());
        let service: ServiceKey = (namespace.into(), spec.service.as_str().into());
        if let Some(before) = self.service_of.get(&slice) {
            if *before == service {
                let known = self.slices.get(&service).and_then(|slices| slices.get(name));
                if known == Some(&spec) {
                    return;
                }
            } else {
                self.remove(namespace, name);
            }
        }
        self.slices
            .entry(service.clone())
            .or_default()
            .insert(name.into(), spec);
        self.changed.insert(service.clone());
        self.service_of.insert(slice, service);
    }

    pub(crate) fn remove(&mut self, namespace: &str, name: &str) {
        let Some(service) = self.service_of.remove(&(namespace.into(), name.into())) else {
            return;
        };
        if let Some(slices) = self.slices.get_mut(&service) {
            slices.remove(name);
            if slices.is_empty() {
                self.slices.remove(&service);
            }
        }
        self.changed.insert(service);
    }

    /// The Services whose slices changed since this was last asked.
    pub(crate) fn take_changed(&mut self) -> FxHashSet<ServiceKey> {
        std::mem::take(&mut self.changed)
    }

    /// The members of a Service's set, sorted, none twice.
    ///
    /// A slice without ports means every port, which no list of ports can say: its addresses stand as networks even
    /// in a set with ports.
    pub(crate) fn members(&self, namespace: &str, name: &str, with_ports: bool) -> Vec<Member> {
        let mut members = Vec::new();
        for slice in self
            .slices
            .get(&(namespace.into(), name.into()))
            .into_iter()
            .flat_map(BTreeMap::values)
        {
            for address in &slice.addresses {
                if with_ports && !slice.ports.is_empty() {
                    let port = |p: &policy_model::ServicePort| PortKey {
                        protocol: p.protocol,
                        port: p.port,
                    };
                    members.extend(slice.ports.iter().map(|p| Member::Port(*address, port(p))));
                } else {
                    members.push(Member::Net(IpNet::from(*address)));
                }
            }
        }
        members.sort_unstable();
        members.dedup();
        members
    }

    pub(crate) fn slice_count(&self) -> usize {
        self.service_of.len()
    }
}
