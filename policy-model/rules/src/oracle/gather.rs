//! Resources to facts.

use super::facts::{Endpoint, FactFault, Facts, Owner, ServiceSlice, Settings, Tier};
use crate::compile::{Compiled, compile_policy};
use crate::order::TierSortKey;
use crate::policy::{CompiledPolicy, PolicyKind};
use crate::set::AddressSet;
use ipnet::IpNet;
use policy_model::{
    DEFAULT_TIER, DefaultAction, FieldError, HostEndpointSpec, IpamBlockSpec, Key, LABEL_NAMESPACE,
    LABEL_ORCHESTRATOR, LABEL_SERVICE_ACCOUNT, Metadata, NAMESPACE_PROFILE_PREFIX, NodeSpec, Object,
    Resource, WorkloadEndpointSpec,
};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Labels of each profile, by its name.
type ProfileLabels<'a> = BTreeMap<&'a str, &'a BTreeMap<String, String>>;

pub(super) fn facts<'a>(resources: impl IntoIterator<Item = &'a Resource>, settings: Settings) -> Facts {
    // The last of several with one key counts, as in a datastore.
    let by_key: BTreeMap<Key, &Resource> = resources.into_iter().map(|r| (r.key(), r)).collect();
    let labels: ProfileLabels<'_> = by_key
        .values()
        .filter_map(|r| match r {
            Resource::Profile(p) => Some((p.metadata.name.as_str(), &p.spec.labels_to_apply)),
            _ => None,
        })
        .collect();
    let blocks: Vec<&IpamBlockSpec> = by_key
        .values()
        .filter_map(|r| match r {
            Resource::IPAMBlock(b) => Some(&b.spec),
            _ => None,
        })
        .collect();
    let mut facts = Facts {
        endpoints: Vec::new(),
        others: Vec::new(),
        services: Vec::new(),
        nodes: BTreeMap::new(),
        tiers: tiers(by_key.values().copied()),
        profiles: BTreeMap::new(),
        settings,
        faults: Vec::new(),
    };
    for resource in by_key.values() {
        match resource {
            Resource::WorkloadEndpoint(e) => facts.endpoints.push(endpoint(e, &labels, &blocks)),
            Resource::HostEndpoint(e) => facts.others.push(host_endpoint(e, &labels)),
            Resource::NetworkSet(s) => facts.others.push(network_set(&s.metadata, &s.spec.nets, &labels)),
            Resource::GlobalNetworkSet(s) => {
                facts
                    .others
                    .push(network_set(&s.metadata, &s.spec.0.nets, &labels))
            }
            Resource::ServiceEndpoints(s) => facts.services.push(ServiceSlice {
                namespace: s.metadata.namespace.clone(),
                service: s.spec.service.clone(),
                addresses: s.spec.addresses.clone(),
                ports: s.spec.ports.clone(),
            }),
            Resource::Node(n) => {
                facts
                    .nodes
                    .insert(n.metadata.name.clone(), node_addresses(&n.spec));
            }
            Resource::NetworkPolicy(_) | Resource::GlobalNetworkPolicy(_) | Resource::Profile(_) => {
                match compile_policy(resource) {
                    Ok(compiled) => compiled
                        .into_iter()
                        .for_each(|c| add_policy(&mut facts, resource.key(), c)),
                    Err(invalid) => {
                        let key = invalid.key;
                        facts
                            .faults
                            .extend(invalid.faults.into_iter().map(|fault| FactFault {
                                key: key.clone(),
                                fault,
                            }));
                    }
                }
            }
            _ => {}
        }
    }
    facts
}

/// The tiers without their policies; the default one is there even where nobody wrote it.
fn tiers<'a>(resources: impl Iterator<Item = &'a Resource>) -> BTreeMap<TierSortKey, Tier> {
    let mut written: BTreeMap<&str, (Option<f64>, DefaultAction)> = BTreeMap::new();
    written.insert(DEFAULT_TIER, (None, DefaultAction::Deny));
    for resource in resources {
        if let Resource::Tier(tier) = resource {
            let action = tier.spec.default_action.unwrap_or_default();
            written.insert(&tier.metadata.name, (tier.spec.order, action));
        }
    }
    written
        .into_iter()
        .map(|(name, (order, default_action))| {
            (
                TierSortKey::new(name.into(), order),
                Tier {
                    default_action,
                    policies: BTreeMap::new(),
                },
            )
        })
        .collect()
}

fn add_policy(facts: &mut Facts, key: Key, compiled: Compiled) {
    let Compiled { policy, faults } = compiled;
    facts.faults.extend(faults.into_iter().map(|fault| FactFault {
        key: key.clone(),
        fault,
    }));
    if policy.id.kind == PolicyKind::Profile {
        facts.profiles.insert(policy.id.name.to_string(), policy);
        return;
    }
    let tier: Option<&mut Tier> = facts
        .tiers
        .iter_mut()
        .find(|(place, _)| *place.name() == policy.tier)
        .map(|(_, tier)| tier);
    match tier {
        Some(tier) => insert(tier, policy),
        None => {
            let why = format!("there is no tier '{}'; the policy is not in force", policy.tier);
            facts.faults.push(FactFault {
                key,
                fault: FieldError::new("spec.tier", why),
            });
        }
    }
}

fn insert(tier: &mut Tier, policy: CompiledPolicy<AddressSet>) {
    tier.policies.insert(policy.sort_key(), policy);
}

fn endpoint(
    object: &Object<WorkloadEndpointSpec>,
    profiles: &ProfileLabels<'_>,
    blocks: &[&IpamBlockSpec],
) -> Endpoint {
    let (metadata, spec) = (&object.metadata, &object.spec);
    let pod = if spec.pod.is_empty() {
        &metadata.name
    } else {
        &spec.pod
    };
    let mut own = metadata.labels.clone();
    // What the endpoint is, whatever its author labelled it: else a label could put a pod into another's namespace.
    own.insert(LABEL_NAMESPACE.to_string(), metadata.namespace.clone());
    for (label, value) in [
        (LABEL_ORCHESTRATOR, &spec.orchestrator),
        (LABEL_SERVICE_ACCOUNT, &spec.service_account_name),
    ] {
        if !value.is_empty() {
            own.insert(label.to_string(), value.clone());
        }
    }
    let addresses: Vec<IpAddr> = if spec.ip_networks.is_empty() {
        allocated(&metadata.namespace, pod, blocks)
    } else {
        spec.ip_networks.iter().map(IpNet::addr).collect()
    };
    Endpoint {
        namespace: metadata.namespace.clone(),
        name: metadata.name.clone(),
        pod: pod.clone(),
        node: spec.node.clone(),
        profiles: spec.profiles.clone(),
        owner: Owner {
            name: format!("{}/{pod}", metadata.namespace),
            labels: inherit(own, spec.profiles.iter().map(String::as_str), profiles),
            nets: addresses.iter().copied().map(IpNet::from).collect(),
            ports: spec.ports.clone(),
        },
        addresses,
    }
}

/// The addresses that blocks say a pod has, IPv4 first.
fn allocated(namespace: &str, pod: &str, blocks: &[&IpamBlockSpec]) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for block in blocks {
        for (ordinal, attribute) in block.allocations.iter().enumerate() {
            let Some(attribute) = attribute.and_then(|a| block.attributes.get(a as usize)) else {
                continue;
            };
            let says = |key: &str, value: &str| attribute.secondary.get(key).is_some_and(|v| v == value);
            if says("namespace", namespace) && says("pod", pod) {
                addresses.extend(nth(block.cidr, ordinal));
            }
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn nth(block: IpNet, ordinal: usize) -> Option<IpAddr> {
    let address = match block.network() {
        IpAddr::V4(first) => IpAddr::V4(Ipv4Addr::from_bits(
            first.to_bits().checked_add(u32::try_from(ordinal).ok()?)?,
        )),
        IpAddr::V6(first) => IpAddr::V6(Ipv6Addr::from_bits(
            first.to_bits().checked_add(u128::try_from(ordinal).ok()?)?,
        )),
    };
    block.contains(&address).then_some(address)
}

fn host_endpoint(object: &Object<HostEndpointSpec>, profiles: &ProfileLabels<'_>) -> Owner {
    let spec = &object.spec;
    Owner {
        name: format!("host endpoint {}", object.metadata.name),
        labels: inherit(
            object.metadata.labels.clone(),
            spec.profiles.iter().map(String::as_str),
            profiles,
        ),
        nets: spec.expected_ips.iter().copied().map(IpNet::from).collect(),
        ports: spec.ports.clone(),
    }
}

/// A network set of a namespace carries that namespace's labels, as if it were one of its endpoints.
fn network_set(metadata: &Metadata, nets: &[IpNet], profiles: &ProfileLabels<'_>) -> Owner {
    let mut own = metadata.labels.clone();
    // It is nobody's workload, whatever its labels say.
    own.remove(LABEL_ORCHESTRATOR);
    let mut inherited = None;
    let mut name = format!("network set {}", metadata.name);
    if !metadata.namespace.is_empty() {
        own.insert(LABEL_NAMESPACE.to_string(), metadata.namespace.clone());
        inherited = Some(format!("{NAMESPACE_PROFILE_PREFIX}{}", metadata.namespace));
        name = format!("network set {}/{}", metadata.namespace, metadata.name);
    }
    Owner {
        name,
        labels: inherit(own, inherited.as_deref().into_iter(), profiles),
        nets: nets.to_vec(),
        ports: vec![],
    }
}

/// Own labels win, then those of the first profile that has them.
fn inherit<'a>(
    mut own: BTreeMap<String, String>,
    names: impl Iterator<Item = &'a str>,
    profiles: &ProfileLabels<'_>,
) -> BTreeMap<String, String> {
    for labels in names.filter_map(|name| profiles.get(name)) {
        for (key, value) in *labels {
            own.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    own
}

/// Every address at which the node itself answers, ends of tunnels included.
fn node_addresses(spec: &NodeSpec) -> Vec<IpAddr> {
    let mut all = spec.all_addresses();
    let ipip = spec
        .bgp
        .as_ref()
        .and_then(|b| b.ipv4_ipip_tunnel_addr)
        .map(IpAddr::V4);
    let vxlan = [
        spec.ipv4_vxlan_tunnel_addr.map(IpAddr::V4),
        spec.ipv6_vxlan_tunnel_addr.map(IpAddr::V6),
    ];
    for address in ipip.into_iter().chain(vxlan.into_iter().flatten()) {
        if !all.contains(&address) {
            all.push(address);
        }
    }
    all
}
