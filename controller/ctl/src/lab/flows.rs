//! Which flows the lab measures, and what the policies say of them.

use super::names::{self, OUTSIDE_ADDRESSES};
use super::probe::{Probe, place_of};
use super::state::{AgentState, LabState, PodState};
use anyhow::Context;
use policy_model::{Protocol, Resource};
use policy_model_datastore::{Datastore, Selection};
use policy_model_datastore_file::{FileStore, Settings};
use policy_model_rules::oracle::{Facts, Flow, Judgement, Peer, Settings as OracleSettings, Verdict};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// One flow of the lab, with what the policies say of it.
#[derive(Clone, Debug)]
pub struct LabFlow {
    /// Where it begins: `namespace/pod`, `node:NAME` or `ip:ADDRESS`.
    pub from: String,
    /// Where it ends.
    pub to: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Port.
    pub port: u16,
    /// The receiver's name, as its server says it.
    pub server: String,
    /// The probe that asks the kernel.
    pub probe: Probe,
    /// What the policies say.
    pub judgement: Judgement,
}

/// What the lab knows: its own state, its pods, and the policies' judge.
pub struct Picture {
    /// The lab.
    pub lab: LabState,
    /// The agent's pods.
    pub agent: AgentState,
    /// The judge.
    pub facts: Facts,
}

/// Reads the lab as it is now.
pub fn picture() -> anyhow::Result<Picture> {
    let lab = LabState::load()?;
    let agent = AgentState::load();
    let store = FileStore::open(names::datastore(), Settings::default()).context("opening the lab's datastore")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listing = runtime.block_on(store.list(Selection::all()))?;
    let resources: Vec<Arc<Resource>> = listing.items.into_iter().map(|v| v.resource).collect();
    // The lab's nodes accept what a pod's egress policy lets through to them.
    let facts = Facts::new(resources.iter().map(AsRef::as_ref), OracleSettings::default());
    Ok(Picture { lab, agent, facts })
}

impl Picture {
    /// Everyone to every port, in each family that both ends have.
    pub fn matrix(&self) -> anyhow::Result<Vec<LabFlow>> {
        let mut flows = Vec::new();
        for to in self.agent.pods.values().filter(|p| !p.addresses.is_empty()) {
            for (protocol, port) in &to.ports {
                for from in self.agent.pods.values().filter(|p| !p.addresses.is_empty()) {
                    flows.extend(self.between_pods(from, to, protocol, *port)?);
                }
                for node in self.lab.nodes.keys() {
                    flows.extend(self.from_node(node, to, protocol, *port)?);
                }
                flows.extend(self.from_outside(to, protocol, *port)?);
            }
        }
        for from in self.agent.pods.values().filter(|p| !p.addresses.is_empty()) {
            flows.extend(self.to_outside(from)?);
        }
        Ok(flows)
    }

    fn between_pods(&self, from: &PodState, to: &PodState, protocol: &str, port: u16) -> anyhow::Result<Vec<LabFlow>> {
        let mut out = Vec::new();
        for source in &from.addresses {
            for target in to.addresses.iter().filter(|a| a.is_ipv4() == source.is_ipv4()) {
                let probe = Probe {
                    from: from.netns.clone(),
                    source: Some(*source),
                    to: SocketAddr::new(*target, port),
                    protocol: protocol.to_string(),
                    expected: false,
                };
                let ends = (peer(from), peer(to));
                out.push(self.flow(name(from), name(to), ends, name(to), probe, *target)?);
            }
        }
        Ok(out)
    }

    fn from_node(&self, node: &str, to: &PodState, protocol: &str, port: u16) -> anyhow::Result<Vec<LabFlow>> {
        let mut out = Vec::new();
        for source in self.lab.nodes.get(node).into_iter().flatten() {
            for target in to.addresses.iter().filter(|a| a.is_ipv4() == source.is_ipv4()) {
                let probe = Probe {
                    from: names::node_namespace(node),
                    source: Some(*source),
                    to: SocketAddr::new(*target, port),
                    protocol: protocol.to_string(),
                    expected: false,
                };
                let ends = (Peer::Address(*source), peer(to));
                out.push(self.flow(format!("node:{node}"), name(to), ends, name(to), probe, *target)?);
            }
        }
        Ok(out)
    }

    fn from_outside(&self, to: &PodState, protocol: &str, port: u16) -> anyhow::Result<Vec<LabFlow>> {
        let mut out = Vec::new();
        for source in OUTSIDE_ADDRESSES {
            for target in to.addresses.iter().filter(|a| a.is_ipv4() == source.is_ipv4()) {
                let probe = Probe {
                    from: names::OUTSIDE.to_string(),
                    source: Some(source),
                    to: SocketAddr::new(*target, port),
                    protocol: protocol.to_string(),
                    expected: false,
                };
                let ends = (Peer::Address(source), peer(to));
                out.push(self.flow(format!("ip:{source}"), name(to), ends, name(to), probe, *target)?);
            }
        }
        Ok(out)
    }

    fn to_outside(&self, from: &PodState) -> anyhow::Result<Vec<LabFlow>> {
        let mut out = Vec::new();
        let tcp = names::OUTSIDE_PORTS.iter().map(|port| ("TCP", *port));
        for (protocol, port) in tcp.chain([("UDP", 53)]) {
            for target in OUTSIDE_ADDRESSES {
                for source in from.addresses.iter().filter(|a| a.is_ipv4() == target.is_ipv4()) {
                    let probe = Probe {
                        from: from.netns.clone(),
                        source: Some(*source),
                        to: SocketAddr::new(target, port),
                        protocol: protocol.to_string(),
                        expected: false,
                    };
                    let ends = (peer(from), Peer::Address(target));
                    out.push(self.flow(name(from), format!("ip:{target}"), ends, "outside".into(), probe, target)?);
                }
            }
        }
        Ok(out)
    }

    fn flow(
        &self,
        from: String,
        to: String,
        (from_peer, to_peer): (Peer, Peer),
        server: String,
        mut probe: Probe,
        target: IpAddr,
    ) -> anyhow::Result<LabFlow> {
        let protocol: Protocol = probe.protocol.parse().context("a server's protocol")?;
        let flow = Flow::new(from_peer, to_peer, protocol, probe.to.port());
        let judgements = self.facts.judge_each(&flow).with_context(|| format!("judging {from} -> {to}"))?;
        // One judgement for each pair of addresses: this flow's is the one of its addresses.
        let pair = judgements.iter().find(|j| {
            j.destination == Some(target) && probe.source.is_none_or(|s| j.source.is_none_or(|x| x == s))
        });
        let judgement = pair.or(judgements.first()).cloned().context("no judgement")?;
        probe.expected = judgement.verdict == Verdict::Allow;
        let (protocol, port) = (probe.protocol.clone(), probe.to.port());
        Ok(LabFlow { from, to, protocol, port, server, probe, judgement })
    }

    /// A flow by its words, as a person or a file names it.
    pub fn named(&self, from: &str, to: &str, protocol: &str, port: u16) -> anyhow::Result<Vec<LabFlow>> {
        let pod = |word: &str| self.agent.pods.get(word);
        let address = |word: &str| word.strip_prefix("ip:").map(|a| a.parse::<IpAddr>()).transpose();
        let by_address = |a: IpAddr| self.agent.pods.values().find(|p| p.addresses.contains(&a));
        let source_address = address(from).with_context(|| format!("from: {from}"))?;
        let target_address = address(to).with_context(|| format!("to: {to}"))?;
        let source = pod(from).or(source_address.and_then(by_address));
        let target = pod(to).or(target_address.and_then(by_address));
        let flows = match (source, target) {
            (Some(from), Some(to)) => self.between_pods(from, to, protocol, port)?,
            (None, Some(target)) => {
                let address = source_address.with_context(|| format!("from: there is no pod {from}"))?;
                let place = place_of(address, &self.lab.nodes)
                    .with_context(|| format!("from: no place of the lab has the address {address}"))?;
                let mut out = Vec::new();
                for to in target.addresses.iter().filter(|a| a.is_ipv4() == address.is_ipv4()) {
                    let probe = Probe {
                        from: place.clone(),
                        source: Some(address),
                        to: SocketAddr::new(*to, port),
                        protocol: protocol.to_string(),
                        expected: false,
                    };
                    let ends = (Peer::Address(address), peer(target));
                    out.push(self.flow(from.into(), name(target), ends, name(target), probe, *to)?);
                }
                out
            }
            (Some(source), None) => {
                let address = target_address.with_context(|| format!("to: there is no pod {to}"))?;
                let mut out = Vec::new();
                for own in source.addresses.iter().filter(|a| a.is_ipv4() == address.is_ipv4()) {
                    let probe = Probe {
                        from: source.netns.clone(),
                        source: Some(*own),
                        to: SocketAddr::new(address, port),
                        protocol: protocol.to_string(),
                        expected: false,
                    };
                    let ends = (peer(source), Peer::Address(address));
                    out.push(self.flow(name(source), to.into(), ends, String::new(), probe, address)?);
                }
                out
            }
            (None, None) => anyhow::bail!("neither {from} nor {to} is a pod of the lab"),
        };
        anyhow::ensure!(!flows.is_empty(), "{from} and {to} have no address of one family");
        Ok(flows)
    }
}

fn name(pod: &PodState) -> String {
    format!("{}/{}", pod.namespace, pod.pod)
}

fn peer(pod: &PodState) -> Peer {
    Peer::Endpoint { namespace: pod.namespace.clone(), name: pod.pod.clone() }
}

/// The flows of a file. See `manx simulate --help` for its form.
pub fn from_file(picture: &Picture, file: &std::path::Path) -> anyhow::Result<Vec<LabFlow>> {
    let _ = picture;
    anyhow::bail!("{}: flows from a file are not read yet", file.display())
}
