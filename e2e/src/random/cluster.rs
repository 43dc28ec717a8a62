//! A random cluster: what stands in the datastore, and how it changes.

use super::dice::Dice;
use super::rules::{PORT_NAMES, TRANSPORTS, namespace_selector, net, rule, selector};
use crate::engine::NODE;
use crate::world::PodSpec;
use policy_model::{
    Action, DefaultAction, EndpointPort, GlobalNetworkPolicySpec, GlobalSet, HostEndpointSpec, Key, Kind,
    NetworkPolicySpec, NetworkSetSpec, Object, PolicyRule, PolicyType, ProfileSpec, Protocol, Resource,
    ServiceEndpointsSpec, ServicePort, TierSpec, WorkloadEndpointSpec,
};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The pods of the node: namespace, name, interface, addresses.
const LOCAL: [(&str, &str, &str, &str); 6] = [
    ("red", "p0", "cali0", "10.1.0.1 fd00:1::1"),
    ("red", "p1", "cali1", "10.1.0.2 fd00:1::2"),
    ("blue", "p2", "cali2", "10.1.0.3 fd00:1::3"),
    ("blue", "p3", "cali3", "10.1.0.4"),
    ("red", "p4", "cali4", "fd00:1::5"),
    ("blue", "p5", "cali5", "10.1.0.6 10.1.0.66 fd00:1::6"),
];
/// Pods of other nodes.
const REMOTE: [(&str, &str, &str); 4] = [
    ("red", "r0", "10.2.0.1 fd00:2::1"),
    ("blue", "r1", "10.2.0.2 fd00:2::2"),
    ("blue", "r2", "172.16.1.9"),
    ("red", "r3", "2001:db8:1::9"),
];
/// How many policies there can be.
const POLICIES: usize = 9;

/// The pods that a world needs for every cluster made here.
pub fn local_pods() -> Vec<PodSpec> {
    LOCAL
        .iter()
        .map(|(_, _, interface, addresses)| PodSpec::new(interface, addresses))
        .collect()
}

/// Everything that stands in the datastore.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    resources: BTreeMap<Key, Resource>,
}

/// What changes from one state to the next.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// What is new or different.
    pub upsert: Vec<Resource>,
    /// What is gone.
    pub delete: Vec<Key>,
}

impl Cluster {
    /// A random cluster.
    pub fn new(dice: &mut Dice) -> Self {
        let mut cluster = Cluster::default();
        for name in ["kns.red", "kns.blue", "ksa.red.robot"] {
            cluster.put(profile(dice, name));
        }
        for (n, _) in LOCAL.iter().enumerate() {
            cluster.put(local(dice, n));
        }
        for n in 0..REMOTE.len() {
            if dice.chance(85) {
                cluster.put(remote(dice, n));
            }
        }
        for name in ["early", "middle", "default"] {
            if name != "default" || dice.chance(60) {
                cluster.put(tier(dice, name));
            }
        }
        for n in 0..2 {
            cluster.put(network_set(dice, n));
        }
        if dice.chance(50) {
            cluster.put(host_endpoint(dice));
        }
        for namespace in ["red", "blue"] {
            cluster.put(service(dice, namespace));
        }
        for n in 0..2 + dice.below(POLICIES - 1) {
            cluster.put(policy(dice, n));
        }
        cluster
    }

    /// All objects.
    pub fn resources(&self) -> Vec<Resource> {
        self.resources.values().cloned().collect()
    }

    /// The objects that policy is about but that are none: pods, sets and the like, of one kind.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Resource> {
        self.resources.values().filter(move |r| r.kind() == kind)
    }

    fn put(&mut self, resource: Resource) {
        self.resources.insert(resource.key(), resource);
    }

    /// Takes a change in.
    pub fn apply(&mut self, change: &Change) {
        change.upsert.iter().for_each(|r| self.put(r.clone()));
        change.delete.iter().for_each(|k| drop(self.resources.remove(k)));
    }

    /// Decides on a random change and takes it in.
    pub fn mutate(&mut self, dice: &mut Dice) -> Change {
        let mut changes: BTreeMap<Key, Option<Resource>> = BTreeMap::new();
        for _ in 0..1 + dice.below(4) {
            let fresh = match dice.below(24) {
                0..6 => {
                    let n = dice.below(LOCAL.len());
                    local(dice, n)
                }
                6..8 => {
                    let n = dice.below(REMOTE.len());
                    remote(dice, n)
                }
                8..10 => {
                    let n = dice.below(2);
                    network_set(dice, n)
                }
                10 => {
                    let name = dice.pick(&["kns.red", "kns.blue", "ksa.red.robot"]);
                    profile(dice, name)
                }
                11..13 => {
                    let name = dice.pick(&["early", "middle", "default"]);
                    tier(dice, name)
                }
                13 => host_endpoint(dice),
                14 => {
                    let namespace = dice.pick(&["red", "blue"]);
                    service(dice, namespace)
                }
                _ => {
                    let n = dice.below(POLICIES);
                    policy(dice, n)
                }
            };
            let key = fresh.key();
            // Profiles and the tiers that policies name stay: what is missing denies, and nothing more is learnt.
            let stays = matches!(key.kind, Kind::Profile | Kind::Tier);
            if !stays && dice.chance(25) {
                changes.insert(key, None);
            } else {
                changes.insert(key, Some(fresh));
            }
        }
        // A policy may be written first in its namespace and then for the cluster: one number is one policy.
        let mut change = Change::default();
        for (key, resource) in changes {
            match resource {
                Some(resource) => change.upsert.push(resource),
                None => change.delete.push(key),
            }
        }
        self.apply(&change);
        change
    }
}

fn labels(dice: &mut Dice) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut put = |key: &str, value: &str| drop(labels.insert(key.to_string(), value.to_string()));
    if dice.chance(85) {
        put("role", dice.pick(&["a", "b", "c", "ab"]));
    }
    if dice.chance(70) {
        put("env", dice.pick(&["x", "y"]));
    }
    if dice.chance(40) {
        put("marked", "");
    }
    if dice.chance(10) {
        put("team", "one");
    }
    labels
}

fn ports(dice: &mut Dice) -> Vec<EndpointPort> {
    dice.some(0, 4, |dice| EndpointPort {
        name: dice.pick(&PORT_NAMES[..3]).to_string(),
        protocol: dice.one(&TRANSPORTS[..3]),
        port: dice.one(&[53, 80, 8080, 8081, 9000]),
        host_port: 0,
        host_ip: String::new(),
    })
}

fn workload(
    dice: &mut Dice,
    namespace: &str,
    name: &str,
    interface: &str,
    addresses: &str,
) -> Object<WorkloadEndpointSpec> {
    let account = dice.pick(&["default", "robot", ""]);
    let mut profiles = vec![format!("kns.{namespace}")];
    if namespace == "red" && account == "robot" {
        profiles.push("ksa.red.robot".to_string());
    }
    let spec = WorkloadEndpointSpec {
        orchestrator: "k8s".to_string(),
        pod: name.to_string(),
        endpoint: "eth0".to_string(),
        service_account_name: account.to_string(),
        ip_networks: addresses
            .split(' ')
            .map(|a| a.parse::<IpAddr>().expect("an address").into())
            .collect(),
        profiles,
        interface_name: interface.to_string(),
        ports: ports(dice),
        ..WorkloadEndpointSpec::default()
    };
    let mut object = Object::namespaced(namespace, name, spec);
    object.metadata.labels = labels(dice);
    object
}

fn local(dice: &mut Dice, n: usize) -> Resource {
    let (namespace, name, interface, addresses) = LOCAL[n];
    let mut object = workload(dice, namespace, name, interface, addresses);
    object.spec.node = NODE.to_string();
    object.into()
}

fn remote(dice: &mut Dice, n: usize) -> Resource {
    let (namespace, name, addresses) = REMOTE[n];
    let mut object = workload(dice, namespace, name, "cali9", addresses);
    object.spec.node = "n2".to_string();
    object.into()
}

fn profile(dice: &mut Dice, name: &str) -> Resource {
    let mut rules = |percent| match dice.chance(percent) {
        true => vec![PolicyRule {
            action: Action::Allow,
            ..PolicyRule::default()
        }],
        false => dice.some(0, 2, rule),
    };
    let (ingress, egress) = (rules(75), rules(85));
    let (prefix, own) = match name.strip_prefix("kns.") {
        Some(namespace) => ("pcns.", vec![("projectcalico.org/name", namespace)]),
        None => ("pcsa.", vec![("projectcalico.org/name", "robot")]),
    };
    let mut labels: BTreeMap<String, String> = own
        .into_iter()
        .map(|(k, v)| (format!("{prefix}{k}"), v.to_string()))
        .collect();
    if dice.chance(50) {
        labels.insert(format!("{prefix}team"), dice.pick(&["one", "two"]).to_string());
    }
    if dice.chance(50) {
        labels.insert(format!("{prefix}kind"), "person".to_string());
    }
    let spec = ProfileSpec {
        ingress: valid(ingress),
        egress: valid(egress),
        labels_to_apply: labels,
    };
    Object::named(name, spec).into()
}

fn tier(dice: &mut Dice, name: &str) -> Resource {
    let order = match name {
        "default" => dice.one(&[None, Some(1_000_000.0)]),
        _ => dice.one(&[None, Some(10.0), Some(20.0), Some(-5.0)]),
    };
    let default_action = dice.one(&[
        None,
        Some(DefaultAction::Deny),
        Some(DefaultAction::Pass),
        Some(DefaultAction::Pass),
    ]);
    Object::named(
        name,
        TierSpec {
            order,
            default_action,
        },
    )
    .into()
}

fn network_set(dice: &mut Dice, n: usize) -> Resource {
    let spec = NetworkSetSpec {
        nets: dice.some(0, 4, net),
    };
    let labels = labels(dice);
    let mut resource: Resource = if n == 0 {
        Object::namespaced("red", "set", spec).into()
    } else {
        Object::named("set", GlobalSet(spec)).into()
    };
    resource.metadata_mut().labels = labels;
    resource
}

fn host_endpoint(dice: &mut Dice) -> Resource {
    let spec = HostEndpointSpec {
        node: "n2".to_string(),
        interface_name: "eth0".to_string(),
        expected_ips: vec!["172.16.5.5".parse().expect("an address")],
        ports: ports(dice),
        ..HostEndpointSpec::default()
    };
    let mut object = Object::named("n2-eth0", spec);
    object.metadata.labels = labels(dice);
    object.into()
}

fn service(dice: &mut Dice, namespace: &str) -> Resource {
    let all = "10.1.0.1 10.1.0.4 10.2.0.1 fd00:1::1 fd00:1::5 172.16.5.5";
    let addresses = all
        .split(' ')
        .filter(|_| dice.chance(40))
        .map(|a| a.parse().expect("an address"))
        .collect();
    let ports = dice.some(0, 2, |dice| ServicePort {
        name: String::new(),
        protocol: dice.one(&[Protocol::TCP, Protocol::UDP]),
        port: dice.one(&[53, 80, 8080]),
    });
    let spec = ServiceEndpointsSpec {
        service: "svc".to_string(),
        addresses,
        ports,
    };
    Object::namespaced(namespace, "slice", spec).into()
}

fn rules(dice: &mut Dice) -> Vec<PolicyRule> {
    valid(dice.some(0, 5, rule))
}

/// Leaves out the rules that the language refuses: the generator is looser than it.
fn valid(mut rules: Vec<PolicyRule>) -> Vec<PolicyRule> {
    rules.retain(|rule| {
        let spec = GlobalNetworkPolicySpec {
            ingress: vec![rule.clone()],
            ..GlobalNetworkPolicySpec::default()
        };
        Resource::from(Object::named("x", spec)).validate().is_ok()
    });
    rules
}

/// The `n`-th policy: its number says its name and kind, so that a change replaces it.
fn policy(dice: &mut Dice, n: usize) -> Resource {
    let types = match dice.below(4) {
        0 => vec![],
        1 => vec![PolicyType::Ingress],
        2 => vec![PolicyType::Egress],
        _ => vec![PolicyType::Ingress, PolicyType::Egress],
    };
    let tier = dice.pick(&["", "early", "middle", "default"]).to_string();
    let order = dice.one(&[None, Some(1000.0), Some(5.0), Some(5.0), Some(-1.0)]);
    let selector = if dice.chance(25) {
        String::new()
    } else {
        selector(dice)
    };
    let account = if dice.chance(10) {
        "kind == 'person'".to_string()
    } else {
        String::new()
    };
    let (ingress, egress) = (rules(dice), rules(dice));
    if n.is_multiple_of(3) {
        let spec = GlobalNetworkPolicySpec {
            tier,
            order,
            selector,
            namespace_selector: if dice.chance(25) {
                namespace_selector(dice)
            } else {
                String::new()
            },
            service_account_selector: account,
            types,
            ingress,
            egress,
            ..GlobalNetworkPolicySpec::default()
        };
        return Object::named(format!("g{n}"), spec).into();
    }
    let namespace = if n % 3 == 1 { "red" } else { "blue" };
    if dice.chance(35) {
        // As Kubernetes' policies are translated: the default tier, order 1000, only Allow.
        let kubernetes =
            |rules: Vec<PolicyRule>| rules.into_iter().filter(|r| r.action == Action::Allow).collect();
        let spec = NetworkPolicySpec {
            tier: "default".to_string(),
            order: Some(1000.0),
            selector: format!(
                "projectcalico.org/orchestrator == 'k8s' && ({})",
                or_all(&selector)
            ),
            types: if types.is_empty() {
                vec![PolicyType::Ingress]
            } else {
                types
            },
            ingress: kubernetes(ingress),
            egress: kubernetes(egress),
            ..NetworkPolicySpec::default()
        };
        return Object::namespaced(namespace, format!("knp.default.p{n}"), spec).into();
    }
    let spec = NetworkPolicySpec {
        tier,
        order,
        selector,
        service_account_selector: account,
        types,
        ingress,
        egress,
        ..NetworkPolicySpec::default()
    };
    Object::namespaced(namespace, format!("p{n}"), spec).into()
}

fn or_all(selector: &str) -> &str {
    if selector.is_empty() { "all()" } else { selector }
}
