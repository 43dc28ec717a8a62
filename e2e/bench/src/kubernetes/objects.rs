//! The objects of a cluster of a given size, as the API server is to be told of them. Pure.
//!
//! A hundred pods a node and a hundred a namespace, of twenty applications. A policy selects the five pods of an
//! application of its namespace; its rules ask for pods of the same namespace, of other namespaces, for networks and for
//! ports, in turn. Two pods of the measured node are of applications that no policy selects: the probes' ends.

use serde_json::{Value, json};
use std::net::Ipv4Addr;

/// Pods of each node.
pub(super) const PER_NODE: usize = 100;
/// Addresses of a block.
const BLOCK: usize = 64;
/// Blocks of each node.
const BLOCKS_PER_NODE: usize = PER_NODE.div_ceil(BLOCK);
/// Applications of each namespace.
const APPLICATIONS: usize = 20;
/// Teams, each of which has some of the namespaces.
const TEAMS: usize = 10;
/// The measured node.
pub(super) const MEASURED: &str = "measured";
/// The node that watches what the measured one does.
pub(super) const WATCHING: &str = "watching";
/// The pod of the watching node, and its application.
pub(super) const WATCHER: &str = "watcher";
/// Where policies are.
pub(super) const POLICIES: &str = "/apis/networking.k8s.io/v1/namespaces";
/// Where objects of ours are.
pub(super) const OURS: &str = "/apis/projectcalico.org/v3";

/// How large a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    /// Pods of all nodes.
    pub(super) pods: usize,
    /// NetworkPolicies.
    pub(super) policies: usize,
    /// Namespaces.
    pub(super) namespaces: usize,
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Size {
            pods,
            policies,
            namespaces,
        } = self;
        write!(f, "{pods} pods, {policies} policies, {namespaces} namespaces")
    }
}

/// One object that is to be made, and what is said of its status afterwards.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Making {
    /// The path of the collection.
    pub(super) path: String,
    /// The object.
    pub(super) object: Value,
    /// Its status, where somebody else would report it.
    pub(super) status: Option<Value>,
}

impl Making {
    fn new(path: impl Into<String>, object: Value) -> Self {
        Making {
            path: path.into(),
            object,
            status: None,
        }
    }
}

impl Size {
    /// How many nodes have the pods.
    fn nodes(self) -> usize {
        self.pods.div_ceil(PER_NODE)
    }

    /// Namespaces with their service accounts, and nodes.
    pub(super) fn ground(self) -> Vec<Making> {
        let mut all = Vec::new();
        for n in 0..self.namespaces {
            let (name, team) = (namespace(n), format!("team-{}", n % TEAMS));
            let object =
                json!({ "metadata": { "name": name, "labels": { "team": team, "stage": "production" } } });
            all.push(Making::new("/api/v1/namespaces", object));
        }
        let names = (0..self.nodes()).map(node_name).chain([WATCHING.to_string()]);
        all.extend(names.enumerate().map(|(n, name)| node(n, &name)));
        all
    }

    /// What stands in the namespaces, once they are there: service accounts.
    pub(super) fn accounts(self) -> Vec<Making> {
        let account = |n| {
            let path = format!("/api/v1/namespaces/{}/serviceaccounts", namespace(n));
            Making::new(path, json!({ "metadata": { "name": "default" } }))
        };
        (0..self.namespaces).map(account).collect()
    }

    /// A pod. The first [`PER_NODE`] are on the measured node, and wait for their network.
    pub(super) fn pod(self, i: usize) -> Making {
        let on = i / PER_NODE;
        let application = match i {
            0 => "probe-server".to_string(),
            1 => "probe-client".to_string(),
            i => format!("app-{}", (i + i / self.namespaces) % APPLICATIONS),
        };
        let address = (on > 0).then(|| address(i));
        self.named_pod(
            i,
            &format!("{application}-6d4cf56db6-{i:05}"),
            &application,
            &node_name(on),
            address,
        )
    }

    /// A pod that comes to the measured node later than all others.
    pub(super) fn late_pod(self, i: usize) -> Making {
        let mut making = self.named_pod(i, &format!("late-6d4cf56db6-{i:05}"), "late", MEASURED, None);
        making.object["metadata"]["labels"]["late"] = "yes".into();
        making
    }

    /// The pod of the watching node, and the policy that makes all late pods its concern.
    pub(super) fn watcher(self) -> [Making; 2] {
        let pod = self.named_pod(0, WATCHER, WATCHER, WATCHING, None);
        let peer = json!({ "namespaceSelector": {}, "podSelector": { "matchLabels": { "late": "yes" } } });
        let rule = json!({ "from": [peer], "ports": [{ "protocol": "TCP", "port": 80 }] });
        [pod, policy_of(0, "watch", WATCHER, json!({ "ingress": [rule] }))]
    }

    fn named_pod(
        self,
        i: usize,
        name: &str,
        application: &str,
        node: &str,
        address: Option<Ipv4Addr>,
    ) -> Making {
        let namespace = namespace(i % self.namespaces);
        let tier = ["frontend", "backend", "data"]
            .get(i % 3)
            .copied()
            .unwrap_or_default();
        let object = json!({
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": {
                    "app": application, "tier": tier, "version": format!("v{}", 1 + i % 2),
                    "pod-template-hash": "6d4cf56db6",
                },
            },
            "spec": {
                "nodeName": node,
                "serviceAccountName": "default",
                "containers": [{
                    "name": "main", "image": "registry.example/team/application:1.27.4",
                    "ports": [{ "name": "http", "containerPort": 8080 }],
                }],
            },
        });
        Making {
            path: format!("/api/v1/namespaces/{namespace}/pods"),
            object,
            status: address.map(|address| running(i / PER_NODE, address)),
        }
    }

    /// A policy.
    pub(super) fn policy(self, i: usize) -> Making {
        let (n, j) = (i % self.namespaces, i / self.namespaces);
        let application = |k: usize| json!({ "matchLabels": { "app": format!("app-{}", k % APPLICATIONS) } });
        let tcp = |port: usize| json!([{ "protocol": "TCP", "port": port }]);
        let peer = j * 7 + n + 3;
        let spec = match j % 5 {
            0 => {
                json!({ "ingress": [{ "from": [{ "podSelector": application(peer) }], "ports": tcp(8000 + j) }] })
            }
            1 => {
                let team = json!({ "matchLabels": { "team": format!("team-{}", peer % TEAMS) } });
                let from = json!([{ "namespaceSelector": team, "podSelector": application(peer) }]);
                json!({ "ingress": [{ "from": from, "ports": tcp(8080) }] })
            }
            2 => {
                let from = json!([{ "podSelector": { "matchLabels": { "tier": "frontend" } } }]);
                json!({ "ingress": [{ "from": from, "ports": [{ "port": 80 }, { "port": 443 }, { "port": "http" }] }] })
            }
            3 => {
                let to = json!([{ "podSelector": application(peer) }]);
                let name = json!({ "matchLabels": { "kubernetes.io/metadata.name": "kube-system" } });
                let dns = json!([{ "protocol": "UDP", "port": 53 }]);
                json!({
                    "policyTypes": ["Ingress", "Egress"],
                    "ingress": [{ "from": [{ "podSelector": {} }] }],
                    "egress": [{ "to": to, "ports": tcp(5432) }, { "to": [{ "namespaceSelector": name }], "ports": dns }],
                })
            }
            _ => {
                let block = json!({ "cidr": format!("172.{}.0.0/16", 16 + j % 16), "except": [format!("172.{}.3.0/24", 16 + j % 16)] });
                let from = json!([{ "ipBlock": block }, { "podSelector": application(peer) }]);
                json!({ "ingress": [{ "from": from, "ports": tcp(9090) }] })
            }
        };
        policy_of(
            n,
            &format!("policy-{j:03}"),
            &format!("app-{}", j % APPLICATIONS),
            spec,
        )
    }

    /// The blocks of all nodes but the measured one, and their owners' claims; `uids` are those of all pods.
    pub(super) fn blocks(self, uids: &[String]) -> Vec<Making> {
        let mut all = Vec::new();
        for on in 1..self.nodes() {
            for b in 0..BLOCKS_PER_NODE {
                let pods = (b * BLOCK..PER_NODE.min((b + 1) * BLOCK)).map(|k| on * PER_NODE + k);
                let holders: Vec<Value> = pods
                    .filter(|i| *i < self.pods)
                    .map(|i| self.holder(i, uids.get(i).map(String::as_str).unwrap_or_default()))
                    .collect();
                let first = address(on * PER_NODE + b * BLOCK);
                let [name, claim] = names(first, &node_name(on));
                let given = holders.len();
                let spec = json!({
                    "cidr": format!("{first}/26"), "affinity": format!("host:{}", node_name(on)),
                    "allocations": (0..BLOCK).map(|o| (o < given).then_some(o)).collect::<Vec<_>>(),
                    "unallocated": (given..BLOCK).collect::<Vec<_>>(),
                    "attributes": holders,
                });
                all.push(Making::new(
                    format!("{OURS}/ipamblocks"),
                    ours("IPAMBlock", &name, spec),
                ));
                let spec = json!({ "state": "confirmed", "node": node_name(on), "cidr": format!("{first}/26"), "type": "host" });
                all.push(Making::new(
                    format!("{OURS}/blockaffinities"),
                    ours("BlockAffinity", &claim, spec),
                ));
            }
        }
        all
    }

    fn holder(self, i: usize, uid: &str) -> Value {
        let making = self.pod(i);
        let text = |path: &str| making.object.pointer(path).cloned().unwrap_or_default();
        json!({
            // A container's name is as long as this.
            "handle_id": format!("k8s-pod-network.{i:064x}"),
            "secondary": {
                "node": node_name(i / PER_NODE), "namespace": text("/metadata/namespace"),
                "pod": text("/metadata/name"), "uid": uid,
            },
        })
    }
}

/// The pool of all pods.
pub(super) fn pool() -> Making {
    let spec =
        json!({ "cidr": "10.244.0.0/16", "blockSize": 26, "natOutgoing": true, "nodeSelector": "all()" });
    Making::new(
        format!("{OURS}/ippools"),
        ours("IPPool", "default-ipv4-ippool", spec),
    )
}

/// What a kubelet reports of a pod that runs.
pub(super) fn running(on: usize, address: Ipv4Addr) -> Value {
    let since = "2026-01-01T00:00:00Z";
    json!({ "status": {
        "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }], "startTime": since,
        "hostIP": node_address(on),
        "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": since }],
    } })
}

/// Name of a namespace.
pub(super) fn namespace(n: usize) -> String {
    format!("ns-{n:03}")
}

/// Name of a node.
pub(super) fn node_name(n: usize) -> String {
    if n == 0 {
        MEASURED.to_string()
    } else {
        format!("node-{n:03}")
    }
}

/// Address of a node. The watching one comes after all others.
pub(super) fn node_address(n: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a5c_0101 + u32::try_from(n).unwrap_or(0))
}

/// The number of the watching node.
pub(super) fn watching_number(size: Size) -> usize {
    size.nodes()
}

/// A policy of an application of a namespace.
pub(super) fn policy_of(n: usize, name: &str, application: &str, mut spec: Value) -> Making {
    spec["podSelector"] = json!({ "matchLabels": { "app": application } });
    let namespace = namespace(n);
    let object = json!({ "metadata": { "name": name, "namespace": namespace }, "spec": spec });
    Making::new(format!("{POLICIES}/{namespace}/networkpolicies"), object)
}

fn address(i: usize) -> Ipv4Addr {
    let place = (i / PER_NODE) * BLOCKS_PER_NODE * BLOCK + i % PER_NODE;
    Ipv4Addr::from_bits(0x0af4_0000 + u32::try_from(place).unwrap_or(0))
}

fn node(n: usize, name: &str) -> Making {
    let object = json!({ "metadata": { "name": name, "labels": { "kubernetes.io/os": "linux", "kubernetes.io/hostname": name } } });
    let status = json!({ "status": {
        "addresses": [{ "type": "InternalIP", "address": node_address(n) }, { "type": "Hostname", "address": name }],
        "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady" }],
        "capacity": { "cpu": "2", "memory": "8Gi", "pods": "110" },
    } });
    Making {
        status: Some(status),
        ..Making::new("/api/v1/nodes", object)
    }
}

/// Names of a block and of a node's claim on it.
fn names(first: Ipv4Addr, node: &str) -> [String; 2] {
    let name = format!("{}-26", first.to_string().replace('.', "-"));
    [name.clone(), format!("{node}-{name}")]
}

fn ours(kind: &str, name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": { "name": name }, "spec": spec })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    const SIZE: Size = Size {
        pods: 2_000,
        policies: 1_000,
        namespaces: 20,
    };

    fn text<'a>(object: &'a Value, path: &str) -> &'a str {
        object.pointer(path).and_then(Value::as_str).unwrap_or_default()
    }

    #[test]
    fn every_object_has_a_name_of_its_own() {
        let makings = (0..SIZE.pods)
            .map(|i| SIZE.pod(i))
            .chain((0..SIZE.policies).map(|i| SIZE.policy(i)))
            .chain(SIZE.ground())
            .chain(SIZE.accounts())
            .chain(SIZE.blocks(&[]))
            .chain(SIZE.watcher())
            .chain((0..PER_NODE).map(|i| SIZE.late_pod(i)));
        let mut seen = BTreeSet::new();
        for making in makings {
            let name = text(&making.object, "/metadata/name").to_owned();
            assert!(!name.is_empty());
            assert!(seen.insert((making.path.clone(), name)), "{making:?}");
        }
    }

    #[test]
    fn every_node_has_its_pods_and_every_address_its_holder() {
        let mut pods: BTreeMap<String, usize> = BTreeMap::new();
        let mut addresses = BTreeMap::new();
        for i in 0..SIZE.pods {
            let making = SIZE.pod(i);
            *pods
                .entry(text(&making.object, "/spec/nodeName").to_owned())
                .or_default() += 1;
            match making.status {
                Some(status) => {
                    let address: Ipv4Addr = text(&status, "/status/podIP").parse().unwrap();
                    assert!(
                        addresses
                            .insert(address, text(&making.object, "/metadata/name").to_owned())
                            .is_none()
                    );
                }
                None => assert_eq!(text(&making.object, "/spec/nodeName"), MEASURED),
            }
        }
        assert!(pods.values().all(|count| *count == PER_NODE), "{pods:?}");
        let mut held = BTreeMap::new();
        for making in SIZE.blocks(&[]) {
            let spec = &making.object["spec"];
            let Some(allocations) = spec["allocations"].as_array() else {
                continue;
            };
            let first = text(spec, "/cidr")
                .split('/')
                .next()
                .unwrap()
                .parse::<Ipv4Addr>()
                .unwrap();
            assert_eq!(first.to_bits() % 64, 0);
            for (ordinal, place) in allocations.iter().enumerate() {
                if let Some(place) = place.as_u64() {
                    let holder = &spec["attributes"][place as usize];
                    let address = Ipv4Addr::from_bits(first.to_bits() + ordinal as u32);
                    held.insert(address, text(holder, "/secondary/pod").to_owned());
                }
            }
        }
        assert_eq!(addresses, held);
    }

    #[test]
    fn no_policy_selects_the_ends_of_the_probes() {
        let selected: BTreeSet<String> = (0..SIZE.policies)
            .map(|i| text(&SIZE.policy(i).object, "/spec/podSelector/matchLabels/app").to_owned())
            .collect();
        assert_eq!(selected.len(), APPLICATIONS);
        for i in [0, 1] {
            assert!(!selected.contains(text(&SIZE.pod(i).object, "/metadata/labels/app")));
        }
        assert!(selected.contains(text(&SIZE.pod(2).object, "/metadata/labels/app")));
    }
}
