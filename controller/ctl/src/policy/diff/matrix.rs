//! The flows that are compared, and the comparison.

use super::outside;
use crate::policy::flow::End;
use crate::policy::world::{Pod, PodName, World};
use policy_model::{Port, Protocol, Resource};
use policy_model_rules::oracle::{Flow, Judgement, Peer, Settings, Verdict};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A protocol and a destination port.
type ProtocolPort = (Protocol, u16);

/// What is always asked of addresses outside, whatever the manifests name.
const USUAL: [ProtocolPort; 2] = [(Protocol::TCP, 443), (Protocol::UDP, 53)];

/// An end of compared flows.
pub(super) struct ComparedEnd {
    /// As people write it.
    pub(super) name: String,
    /// What it is in the old and in the new world.
    pub(super) in_worlds: [End; 2],
    /// Whether policies are asked about it: not for outside and for pods of their node's network.
    is_endpoint: bool,
    /// Ports that are asked for where it receives.
    ports: BTreeSet<ProtocolPort>,
}

/// The ends of all compared flows: pods first, then outside.
pub(super) struct Ends {
    pub(super) all: Vec<ComparedEnd>,
    /// Pods that only the old world has.
    pub(super) removed: Vec<String>,
    /// Pods that only the new world has.
    pub(super) added: Vec<String>,
}

/// A flow by the numbers of its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MatrixFlow {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
}

/// The result.
pub(super) struct Compared {
    /// How many flows were compared.
    pub(super) count: usize,
    /// Those whose verdicts differ, in the order of the ends.
    pub(super) changed: Vec<MatrixFlow>,
}

impl Ends {
    /// The pods of both worlds, and addresses outside.
    pub(super) fn of(old: &World, new: &World) -> Self {
        let named_ports = changed_ports(old, new);
        let mut ends = Ends {
            all: Vec::new(),
            removed: Vec::new(),
            added: Vec::new(),
        };
        let mut declared: BTreeSet<ProtocolPort> = BTreeSet::new();
        let (old_pods, new_pods) = (living(old), living(new));
        let text = |(namespace, name): &PodName| format!("{namespace}/{name}");
        for (name, before) in &old_pods {
            let Some(after) = new_pods.get(name) else {
                ends.removed.push(text(name));
                continue;
            };
            let own: BTreeSet<ProtocolPort> = [before, after]
                .into_iter()
                .flat_map(|pod| pod.facts.ports.iter().map(|port| (port.protocol, port.port)))
                .collect();
            declared.extend(&own);
            ends.all.push(ComparedEnd {
                name: text(name),
                in_worlds: [end(before), end(after)],
                is_endpoint: !(before.facts.host_network && after.facts.host_network),
                ports: &own | &named_ports,
            });
        }
        ends.added = new_pods
            .keys()
            .filter(|name| !old_pods.contains_key(*name))
            .map(|name| text(name))
            .collect();
        let outside_ports: BTreeSet<ProtocolPort> =
            declared.union(&named_ports).copied().chain(USUAL).collect();
        for address in outside::addresses([old, new]) {
            let end = End::Peer(Peer::Address(address));
            ends.all.push(ComparedEnd {
                name: format!("ip:{address}"),
                in_worlds: [end.clone(), end],
                is_endpoint: false,
                ports: outside_ports.clone(),
            });
        }
        ends
    }

    /// An end as people write it.
    pub(super) fn name(&self, end: usize) -> &str {
        self.all.get(end).map_or("", |end| &end.name)
    }

    /// The flows from one end.
    fn from(&self, from: usize) -> impl Iterator<Item = MatrixFlow> {
        let is_endpoint = self.all.get(from).is_some_and(|end| end.is_endpoint);
        let receivers = self.all.iter().enumerate();
        receivers
            // Of two ends without policies there is nothing to compare, nor of a pod and itself.
            .filter(move |(to, end)| *to != from && (is_endpoint || end.is_endpoint))
            .flat_map(move |(to, end)| {
                end.ports.iter().map(move |&(protocol, port)| MatrixFlow {
                    from,
                    to,
                    protocol,
                    port,
                })
            })
    }
}

fn living(world: &World) -> BTreeMap<&PodName, &Pod> {
    world.pods.iter().filter(|(_, pod)| !pod.facts.finished).collect()
}

fn end(pod: &Pod) -> End {
    End::Peer(match &pod.node {
        Some(node) if pod.facts.host_network => Peer::Node(node.clone()),
        _ => Peer::endpoint(&pod.facts.namespace, &pod.facts.name),
    })
}

/// The ports that policies name which only one world has, or which differ: of a range its first and its last. Where the
/// worlds differ in what workloads may send of tunnels, the ports of VXLAN are among them.
fn changed_ports(old: &World, new: &World) -> BTreeSet<ProtocolPort> {
    let policies = |world: &World| -> Vec<Resource> {
        let is_policy =
            |r: &&Resource| matches!(r, Resource::NetworkPolicy(_) | Resource::GlobalNetworkPolicy(_));
        world.resources.iter().filter(is_policy).cloned().collect()
    };
    let [old_settings, new_settings] = [old, new].map(|world| world.facts.settings());
    let mut ports = BTreeSet::new();
    if old_settings != new_settings {
        ports.extend(vxlan_ports(old_settings));
        ports.extend(vxlan_ports(new_settings));
    }
    let (old, new) = (policies(old), policies(new));
    let differing = old
        .iter()
        .filter(|policy| !new.contains(policy))
        .chain(new.iter().filter(|policy| !old.contains(policy)));
    for policy in differing {
        let rules = match policy {
            Resource::NetworkPolicy(policy) => policy.spec.ingress.iter().chain(&policy.spec.egress),
            Resource::GlobalNetworkPolicy(policy) => policy.spec.ingress.iter().chain(&policy.spec.egress),
            _ => continue,
        };
        for rule in rules {
            let Some(protocol) = rule.protocol.filter(|protocol| protocol.has_ports()) else {
                continue;
            };
            for port in rule.destination.ports.iter().chain(&rule.destination.not_ports) {
                if let Port::Range(range) = port {
                    ports.extend([range.first(), range.last()].map(|port| (protocol, port.max(1))));
                }
            }
        }
    }
    ports
}

fn vxlan_ports(settings: &Settings) -> BTreeSet<ProtocolPort> {
    let all = settings.of_nodes.values().chain([&settings.of_all]);
    all.filter_map(|of| Some((Protocol::UDP, of.refused_tunnels.vxlan_port?)))
        .collect()
}

/// Judges every flow in both worlds.
pub(super) fn compare(old: &World, new: &World, ends: &Ends) -> Compared {
    let judges = [Judge::of(old, ends, 0), Judge::of(new, ends, 1)];
    let froms: Vec<usize> = (0..ends.all.len()).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let part = froms.len().div_ceil(threads).max(1);
    let judges = &judges;
    // Parts are joined in their order, so that the result does not depend on who was first.
    let parts: Vec<(usize, Vec<MatrixFlow>)> = std::thread::scope(|scope| {
        let workers: Vec<_> = froms
            .chunks(part)
            .map(|part| {
                scope.spawn(move || {
                    let mut count = 0;
                    let mut changed = Vec::new();
                    for flow in part.iter().flat_map(|from| ends.from(*from)) {
                        count += 1;
                        let [before, after] = [&judges[0], &judges[1]].map(|judge| judge.verdict(&flow));
                        if before != after {
                            changed.push(flow);
                        }
                    }
                    (count, changed)
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    });
    Compared {
        count: parts.iter().map(|(count, _)| count).sum(),
        changed: parts.into_iter().flat_map(|(_, changed)| changed).collect(),
    }
}

/// Judges the flows of one world without traces.
struct Judge<'a> {
    world: &'a World,
    peers: Vec<Vec<Peer>>,
}

impl<'a> Judge<'a> {
    fn of(world: &'a World, ends: &Ends, n: usize) -> Self {
        let mut owners: BTreeMap<IpAddr, usize> = BTreeMap::new();
        let pods = world.pods.values().flat_map(|pod| &pod.addresses);
        for address in pods.chain(world.nodes.values().flatten()) {
            *owners.entry(*address).or_default() += 1;
        }
        let peers = |end: &ComparedEnd| -> Vec<Peer> {
            let Some(End::Peer(peer)) = end.in_worlds.get(n) else {
                return Vec::new();
            };
            let Peer::Endpoint { namespace, name } = peer else {
                return vec![peer.clone()];
            };
            let addresses = world.facts.addresses(namespace, name).unwrap_or_default();
            // Of a pod that alone has its addresses each stands for it; else only its name does.
            if !addresses.is_empty() && addresses.iter().all(|address| owners.get(address) == Some(&1)) {
                addresses.iter().copied().map(Peer::Address).collect()
            } else {
                vec![peer.clone()]
            }
        };
        Judge {
            world,
            peers: ends.all.iter().map(peers).collect(),
        }
    }

    /// Allowed between all pairs of addresses of one family, of which there must be one; pairs that were made up count
    /// only where there are no others. The same rule as that of [`World::answer`].
    fn verdict(&self, flow: &MatrixFlow) -> Verdict {
        let none = Vec::new();
        let (from, to) = (
            self.peers.get(flow.from).unwrap_or(&none),
            self.peers.get(flow.to).unwrap_or(&none),
        );
        // By whether the pair was made up: whether all pairs so far are allowed.
        let mut allowed: [Option<bool>; 2] = [None, None];
        let mut note = |judgement: Judgement| {
            let is_made_up = self.world.is_made_up(judgement.source, judgement.destination);
            let all = allowed[usize::from(is_made_up)].get_or_insert(true);
            *all &= judgement.verdict == Verdict::Allow;
        };
        for from in from {
            for to in to {
                let flow = Flow::new(from.clone(), to.clone(), flow.protocol, flow.port);
                let judged = match (from, to) {
                    (Peer::Address(a), Peer::Address(b)) if a.is_ipv4() != b.is_ipv4() => continue,
                    (Peer::Address(_), Peer::Address(_)) => {
                        self.world.facts.judge_untraced(&flow).map(|one| vec![one])
                    }
                    _ => self.world.facts.judge_each(&flow),
                };
                judged.into_iter().flatten().for_each(&mut note);
            }
        }
        match allowed[0].or(allowed[1]) {
            Some(true) => Verdict::Allow,
            _ => Verdict::Deny,
        }
    }
}
