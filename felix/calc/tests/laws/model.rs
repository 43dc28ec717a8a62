//! The same question answered by looking at everything: what must the hands know, given these objects?
//!
//! Nothing is shared with the graph but the compiler of policies: every selector is evaluated on every endpoint.

use crate::view::{Plain, PlainPolicy, SetValue};
use dataplane_api::{AtomScope, EndpointId, Member, PortKey, TierPolicies, WorkloadEndpoint};
use ipnet::IpNet;
use policy_model::{
    DEFAULT_TIER, DefaultAction, EndpointPort, IpamBlockSpec, Key, Object, Resource, WorkloadEndpointSpec,
};
use policy_model_rules::{
    AddressSet, CompiledPolicy, PolicyId, PolicyKind, Rule, RuleSide, TierSortKey, compile_policy,
};
use policy_model_selector::Selector;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Objects by key, as a datastore holds them.
pub(crate) type State = BTreeMap<Key, Resource>;

struct Thing {
    labels: BTreeMap<String, String>,
    nets: Vec<IpNet>,
    ports: Vec<EndpointPort>,
    own: bool,
}

/// What the hands of `here` must know.
pub(crate) fn plain(state: &State, here: &str) -> Plain {
    let things = things(state, here);
    let compiled: Vec<CompiledPolicy<AddressSet>> = state
        .values()
        .filter_map(|r| compile_policy(r).expect("a valid policy"))
        .map(|c| c.policy)
        .collect();
    let mut out = Plain::default();
    let mut used: BTreeSet<PolicyId> = BTreeSet::new();
    for resource in state.values() {
        let Resource::WorkloadEndpoint(object) = resource else {
            continue;
        };
        if object.spec.node != here || object.spec.interface_name.is_empty() {
            continue;
        }
        let endpoint = endpoint(state, object, &compiled);
        let tiers = endpoint.ingress.iter().chain(&endpoint.egress);
        used.extend(tiers.flat_map(|tier| tier.policies.clone()));
        used.extend(endpoint.profiles.iter().cloned());
        out.endpoints.insert(endpoint.id.clone(), endpoint);
    }
    for policy in compiled.iter().filter(|policy| used.contains(&policy.id)) {
        let value = |is_ingress| {
            let things = &things;
            move |set: &AddressSet, side| value(state, things, set, scope(is_ingress, side))
        };
        let map = |rules: &[Rule<AddressSet>], is_ingress| {
            rules.iter().map(|r| r.map_sets(value(is_ingress))).collect()
        };
        let plain = PlainPolicy {
            ingress: map(&policy.ingress, true),
            egress: map(&policy.egress, false),
        };
        out.policies.insert(policy.id.clone(), plain);
    }
    crate::ways::routes(state, here, &mut out);
    out
}

fn scope(is_ingress: bool, side: RuleSide) -> AtomScope {
    if is_ingress == (side == RuleSide::Source) {
        AtomScope::Peer
    } else {
        AtomScope::Own
    }
}

fn things(state: &State, here: &str) -> Vec<Thing> {
    let labels = |own: BTreeMap<String, String>, profiles: &[String]| inherit(state, own, profiles);
    let thing = |resource: &Resource| match resource {
        Resource::WorkloadEndpoint(o) => Some(Thing {
            labels: workload_labels(state, o),
            nets: addresses(state, o).into_iter().map(IpNet::from).collect(),
            ports: o.spec.ports.clone(),
            own: o.spec.node == here && !o.spec.interface_name.is_empty(),
        }),
        Resource::HostEndpoint(o) => Some(Thing {
            labels: labels(o.metadata.labels.clone(), &o.spec.profiles),
            nets: o.spec.expected_ips.iter().copied().map(IpNet::from).collect(),
            ports: o.spec.ports.clone(),
            own: o.spec.node == here,
        }),
        Resource::NetworkSet(o) => {
            let mut own = o.metadata.labels.clone();
            own.insert(
                "projectcalico.org/namespace".to_string(),
                o.metadata.namespace.clone(),
            );
            let labels = labels(own, &[format!("kns.{}", o.metadata.namespace)]);
            Some(Thing {
                labels,
                nets: truncated(&o.spec.nets),
                ports: Vec::new(),
                own: true,
            })
        }
        Resource::GlobalNetworkSet(o) => {
            let labels = o.metadata.labels.clone();
            Some(Thing {
                labels,
                nets: truncated(&o.spec.0.nets),
                ports: Vec::new(),
                own: true,
            })
        }
        _ => None,
    };
    state.values().filter_map(thing).collect()
}

fn truncated(nets: &[IpNet]) -> Vec<IpNet> {
    nets.iter().map(IpNet::trunc).collect()
}

fn inherit(
    state: &State,
    mut own: BTreeMap<String, String>,
    profiles: &[String],
) -> BTreeMap<String, String> {
    for name in profiles {
        if let Some(Resource::Profile(profile)) = state.get(&Key::global(policy_model::Kind::Profile, name)) {
            for (key, value) in &profile.spec.labels_to_apply {
                own.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
    }
    own
}

fn workload_labels(state: &State, object: &Object<WorkloadEndpointSpec>) -> BTreeMap<String, String> {
    let mut own = object.metadata.labels.clone();
    own.insert(
        "projectcalico.org/namespace".to_string(),
        object.metadata.namespace.clone(),
    );
    if !object.spec.orchestrator.is_empty() {
        own.insert(
            "projectcalico.org/orchestrator".to_string(),
            object.spec.orchestrator.clone(),
        );
    }
    if !object.spec.service_account_name.is_empty() {
        own.insert(
            "projectcalico.org/serviceaccount".to_string(),
            object.spec.service_account_name.clone(),
        );
    }
    inherit(state, own, &object.spec.profiles)
}

pub(crate) fn blocks(state: &State) -> impl Iterator<Item = (&str, &IpamBlockSpec)> {
    state.values().filter_map(|resource| match resource {
        Resource::IPAMBlock(block) => Some((block.metadata.name.as_str(), &block.spec)),
        _ => None,
    })
}

pub(crate) fn addresses(state: &State, object: &Object<WorkloadEndpointSpec>) -> BTreeSet<IpAddr> {
    if !object.spec.ip_networks.is_empty() {
        return object.spec.ip_networks.iter().map(IpNet::addr).collect();
    }
    let pod = if object.spec.pod.is_empty() {
        &object.metadata.name
    } else {
        &object.spec.pod
    };
    let mut found = BTreeSet::new();
    for (_, block) in blocks(state) {
        let hosts = IpNet::new(block.cidr.network(), block.cidr.prefix_len())
            .unwrap()
            .subnets(max(block.cidr))
            .unwrap();
        for (address, attribute) in hosts.map(|net| net.addr()).zip(&block.allocations) {
            let Some(attribute) = attribute else { continue };
            let secondary = &block.attributes[*attribute as usize].secondary;
            if secondary.get("namespace") == Some(&object.metadata.namespace)
                && secondary.get("pod") == Some(pod)
            {
                found.insert(address);
            }
        }
    }
    found
}

fn max(cidr: IpNet) -> u8 {
    cidr.max_prefix_len()
}

fn value(state: &State, things: &[Thing], set: &AddressSet, scope: AtomScope) -> SetValue {
    let matching = |selector: &Selector| {
        let things = things
            .iter()
            .filter(move |thing| scope == AtomScope::Peer || thing.own);
        let selector = selector.clone();
        things.filter(move |thing| selector.evaluate(&thing.labels))
    };
    let members = match set {
        AddressSet::Selected(selector) => matching(selector)
            .flat_map(|thing| thing.nets.iter().copied().map(Member::Net))
            .collect(),
        AddressSet::Nets(nets) => nets.iter().map(|net| Member::Net(net.trunc())).collect(),
        AddressSet::NamedPort {
            selector,
            name,
            protocol,
        } => {
            let mut members = BTreeSet::new();
            for thing in matching(selector) {
                for port in thing
                    .ports
                    .iter()
                    .filter(|p| p.name == *name && p.protocol == *protocol)
                {
                    let key = PortKey {
                        protocol: *protocol,
                        port: port.port,
                    };
                    members.extend(thing.nets.iter().map(|net| Member::Port(net.addr(), key)));
                }
            }
            members
        }
        AddressSet::Service {
            namespace,
            name,
            with_ports,
        } => {
            let mut members = BTreeSet::new();
            for resource in state.values() {
                let Resource::ServiceEndpoints(slice) = resource else {
                    continue;
                };
                if slice.metadata.namespace != *namespace || slice.spec.service != *name {
                    continue;
                }
                for address in &slice.spec.addresses {
                    for port in slice.spec.ports.iter().filter(|_| *with_ports) {
                        members.insert(Member::Port(
                            *address,
                            PortKey {
                                protocol: port.protocol,
                                port: port.port,
                            },
                        ));
                    }
                    if !with_ports || slice.spec.ports.is_empty() {
                        members.insert(Member::Net(IpNet::from(*address)));
                    }
                }
            }
            members
        }
    };
    (scope, members)
}

fn endpoint(
    state: &State,
    object: &Object<WorkloadEndpointSpec>,
    compiled: &[CompiledPolicy<AddressSet>],
) -> WorkloadEndpoint {
    let labels = workload_labels(state, object);
    let mut tiers: BTreeMap<TierSortKey, DefaultAction> = BTreeMap::new();
    if !state.contains_key(&Key::global(policy_model::Kind::Tier, DEFAULT_TIER)) {
        tiers.insert(TierSortKey::new(DEFAULT_TIER.into(), None), DefaultAction::Deny);
    }
    for resource in state.values() {
        if let Resource::Tier(tier) = resource {
            let place = TierSortKey::new(tier.metadata.name.as_str().into(), tier.spec.order);
            tiers.insert(place, tier.spec.default_action.unwrap_or_default());
        }
    }
    let in_direction = |applies: fn(&CompiledPolicy<AddressSet>) -> bool| {
        let mut list = Vec::new();
        for (tier, default_action) in &tiers {
            let is_it = |p: &&CompiledPolicy<AddressSet>| {
                p.id.kind != PolicyKind::Profile
                    && p.tier == *tier.name()
                    && applies(p)
                    && p.selector.evaluate(&labels)
            };
            let mut policies: Vec<_> = compiled.iter().filter(is_it).collect();
            policies.sort_by_key(|policy| policy.sort_key());
            if !policies.is_empty() {
                let policies = policies.into_iter().map(|policy| policy.id.clone()).collect();
                list.push(TierPolicies {
                    tier: tier.name().clone(),
                    default_action: *default_action,
                    policies,
                });
            }
        }
        list
    };
    let mut profiles: Vec<PolicyId> = Vec::new();
    for name in &object.spec.profiles {
        let id = PolicyId::profile(name);
        if !profiles.contains(&id) {
            profiles.push(id);
        }
    }
    let spoofable: BTreeSet<IpNet> = object
        .spec
        .allow_spoofed_source_prefixes
        .iter()
        .map(IpNet::trunc)
        .collect();
    WorkloadEndpoint {
        id: EndpointId {
            namespace: object.metadata.namespace.as_str().into(),
            name: object.metadata.name.as_str().into(),
        },
        interface: object.spec.interface_name.clone(),
        mac: None,
        addresses: addresses(state, object).into_iter().collect(),
        spoofable: spoofable.into_iter().collect(),
        ingress: in_direction(|policy| policy.applies_ingress),
        egress: in_direction(|policy| policy.applies_egress),
        profiles,
    }
}
