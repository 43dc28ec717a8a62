//! Everything that a judgement rests on: who has which address and labels, and which policies there are.

use super::gather;
use super::tunnels::RefusedTunnels;
use crate::order::{PolicySortKey, TierSortKey};
use crate::policy::CompiledPolicy;
use crate::set::AddressSet;
use ipnet::IpNet;
use policy_model::{DefaultAction, EndpointPort, FieldError, Key, Protocol, Resource, ServicePort};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// What a node does with a workload's packet to the node itself that egress policy lets through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndpointToHostAction {
    /// Let through.
    #[default]
    Accept,
    /// Refuse.
    Drop,
    /// Leave it to the node's own firewall, of which nothing is known here: counts as let through.
    Return,
}

/// Settings of an agent that verdicts on its node's workloads depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeSettings {
    /// What happens to workloads' packets to their own node.
    pub default_endpoint_to_host_action: EndpointToHostAction,
    /// Tunnels' packets that workloads may not send.
    pub refused_tunnels: RefusedTunnels,
}

/// Settings of the agents that verdicts depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Those of every node that has none of its own.
    pub of_all: NodeSettings,
    /// Those of single nodes, by name, each whole.
    pub of_nodes: BTreeMap<String, NodeSettings>,
}

impl Settings {
    /// What holds for the workloads of a node.
    pub fn at(&self, node: &str) -> &NodeSettings {
        self.of_nodes.get(node).unwrap_or(&self.of_all)
    }
}

/// A part of a resource that is not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FactFault {
    /// The resource.
    pub key: Key,
    /// What is wrong with it.
    pub fault: FieldError,
}

impl fmt::Display for FactFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.fault)
    }
}

/// The state of the cluster, as far as verdicts depend on it.
#[derive(Debug)]
pub struct Facts {
    /// Workload endpoints, sorted by namespace and name.
    pub(super) endpoints: Vec<Endpoint>,
    /// Host endpoints and network sets: never judged, but peers of rules.
    pub(super) others: Vec<Owner>,
    pub(super) services: Vec<ServiceSlice>,
    pub(super) nodes: BTreeMap<String, Vec<IpAddr>>,
    pub(super) tiers: BTreeMap<TierSortKey, Tier>,
    pub(super) profiles: BTreeMap<String, CompiledPolicy<AddressSet>>,
    pub(super) settings: Settings,
    pub(super) faults: Vec<FactFault>,
}

/// What selectors can find: labels, with addresses and declared ports.
#[derive(Debug)]
pub(super) struct Owner {
    /// For traces.
    pub(super) name: String,
    /// Own labels, then those of profiles.
    pub(super) labels: BTreeMap<String, String>,
    pub(super) nets: Vec<IpNet>,
    pub(super) ports: Vec<EndpointPort>,
}

/// A workload endpoint.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) namespace: String,
    /// Name of the resource.
    pub(super) name: String,
    /// Name of the pod; that of the resource where there is none.
    pub(super) pod: String,
    pub(super) node: String,
    /// The first is its primary one.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) profiles: Vec<String>,
    pub(super) owner: Owner,
}

#[derive(Debug)]
pub(super) struct ServiceSlice {
    pub(super) namespace: String,
    pub(super) service: String,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ports: Vec<ServicePort>,
}

#[derive(Debug)]
pub(super) struct Tier {
    pub(super) default_action: DefaultAction,
    pub(super) policies: BTreeMap<PolicySortKey, CompiledPolicy<AddressSet>>,
}

impl Facts {
    /// Gathers the facts from resources, in whatever order they come.
    ///
    /// Nothing makes it fail: what is wrong with a resource is in [`Facts::faults`], and is not in force.
    pub fn new<'a>(resources: impl IntoIterator<Item = &'a Resource>, settings: Settings) -> Self {
        gather::facts(resources, settings)
    }

    /// The settings that verdicts depend on.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What is wrong with the resources: rules with faults, refused policies, policies of unknown tiers.
    pub fn faults(&self) -> &[FactFault] {
        &self.faults
    }

    /// All workload endpoints as (namespace, name of the pod), sorted.
    pub fn endpoints(&self) -> impl Iterator<Item = (&str, &str)> {
        self.endpoints
            .iter()
            .map(|e| (e.namespace.as_str(), e.pod.as_str()))
    }

    /// The addresses of a workload endpoint, the primary one first; `None` where there is no such endpoint.
    pub fn addresses(&self, namespace: &str, name: &str) -> Option<&[IpAddr]> {
        self.endpoint(namespace, name).map(|e| e.addresses.as_slice())
    }

    /// The number of a port that a workload endpoint declares under a name.
    pub fn port_number(&self, namespace: &str, name: &str, protocol: Protocol, port: &str) -> Option<u16> {
        let declared = &self.endpoint(namespace, name)?.owner.ports;
        declared
            .iter()
            .find(|p| p.protocol == protocol && p.name == port)
            .map(|p| p.port)
    }

    /// The endpoint of a pod, or else the endpoint of that name.
    pub(super) fn endpoint(&self, namespace: &str, name: &str) -> Option<&Endpoint> {
        let mut here = self.endpoints.iter().filter(|e| e.namespace == namespace);
        here.clone()
            .find(|e| e.pod == name)
            .or_else(|| here.find(|e| e.name == name))
    }

    /// The endpoint that has an address; the first by namespace and name where several claim it.
    pub(super) fn endpoint_of(&self, address: IpAddr) -> Option<&Endpoint> {
        self.endpoints.iter().find(|e| e.addresses.contains(&address))
    }

    /// The node that has an address; the first by name where several claim it.
    pub(super) fn node_of(&self, address: IpAddr) -> Option<&str> {
        self.nodes
            .iter()
            .find(|(_, addresses)| addresses.contains(&address))
            .map(|(name, _)| name.as_str())
    }

    /// Everything with labels that has an address.
    pub(super) fn owners_of(&self, address: IpAddr) -> Vec<&Owner> {
        let endpoints = self.endpoints.iter().map(|e| &e.owner);
        endpoints
            .chain(&self.others)
            .filter(|o| o.nets.iter().any(|net| net.contains(&address)))
            .collect()
    }
}

impl Endpoint {
    /// For people: namespace and pod.
    pub(super) fn display(&self) -> &str {
        &self.owner.name
    }
}
