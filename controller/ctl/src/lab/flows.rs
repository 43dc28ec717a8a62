//! Which flows the lab measures, and what the policies say of each.

use super::names::{self, OUTSIDE_ADDRESSES, OUTSIDE_PORTS};
use super::picture::Picture;
use super::probe::Probe;
use super::state::{PodKind, PodState};
use anyhow::Context;
use policy_model::Protocol;
use policy_model_rules::oracle::{Flow, Judgement, Peer, Verdict};
use std::net::IpAddr;

/// One flow between two addresses, with what the policies say of it.
#[derive(Clone, Debug)]
pub(super) struct LabFlow {
    /// Where it begins: `namespace/pod`, `node:NAME` or `ip:ADDRESS`.
    pub(super) from: String,
    /// Where it ends.
    pub(super) to: String,
    /// The receiver's name, as its server says it; empty where whoever answers at the address will do.
    pub(super) server: String,
    /// The probe that asks the kernel.
    pub(super) probe: Probe,
    /// What the policies say.
    pub(super) judgement: Judgement,
    /// Whether it counts where several ways of one flow are summed up: one by addresses that nobody asked for does not
    /// where there are others.
    pub(super) counts: bool,
}

impl LabFlow {
    /// Whether the policies allow it.
    pub(super) fn is_allowed(&self) -> bool {
        self.judgement.verdict == Verdict::Allow
    }

    /// Protocol and port, as people write them.
    pub(super) fn what(&self) -> String {
        let probe = &self.probe;
        match (probe.protocol.has_ports(), probe.icmp) {
            (true, _) => format!("{}/{}", probe.port, probe.protocol),
            (false, Some((kind, code))) => format!("{} {kind}:{code}", probe.protocol),
            (false, None) => probe.protocol.to_string(),
        }
    }
}

/// An end of a flow of the matrix.
#[derive(Clone)]
struct Place {
    name: String,
    peer: Peer,
    netns: String,
    /// What its servers answer with.
    server: String,
}

impl Place {
    fn pod(pod: &PodState) -> Place {
        let peer = match pod.kind {
            PodKind::Host => Peer::Node(pod.node.clone()),
            _ => Peer::endpoint(&pod.namespace, &pod.pod),
        };
        Place {
            name: pod.name(),
            peer,
            netns: pod.netns.clone(),
            server: pod.name(),
        }
    }

    fn node(node: &str) -> Place {
        Place {
            name: format!("node:{node}"),
            peer: Peer::Node(node.to_string()),
            netns: names::node_namespace(node),
            server: String::new(),
        }
    }

    fn outside(address: IpAddr) -> Place {
        Place {
            name: format!("ip:{address}"),
            peer: Peer::Address(address),
            netns: names::OUTSIDE.to_string(),
            server: "outside".to_string(),
        }
    }

    fn is_policed(&self) -> bool {
        matches!(self.peer, Peer::Endpoint { .. })
    }
}

impl Picture {
    /// Everyone to every declared port, in each family that both ends have. Flows that concern no pod with a network
    /// of its own are nobody's policy and left out.
    pub(super) fn matrix(&self) -> anyhow::Result<Vec<LabFlow>> {
        let pods: Vec<&PodState> = self.agent.pods.values().filter(|p| p.is_there()).collect();
        let mut sources: Vec<Place> = pods.iter().map(|p| Place::pod(p)).collect();
        sources.extend(self.lab.nodes.keys().map(|node| Place::node(node)));
        sources.extend(OUTSIDE_ADDRESSES.map(Place::outside));
        let mut targets: Vec<(Place, Protocol, u16)> = Vec::new();
        for pod in &pods {
            for (protocol, port) in &pod.ports {
                let protocol = protocol.parse().context("a declared port's protocol")?;
                targets.push((Place::pod(pod), protocol, *port));
            }
        }
        for (protocol, port) in OUTSIDE_PORTS {
            let protocol: Protocol = protocol.parse().context("a protocol of outside")?;
            targets.extend(OUTSIDE_ADDRESSES.map(|address| (Place::outside(address), protocol, port)));
        }
        let mut flows = Vec::new();
        for (to, protocol, port) in &targets {
            for from in sources.iter().filter(|from| from.is_policed() || to.is_policed()) {
                let flow = Flow::new(from.peer.clone(), to.peer.clone(), *protocol, *port);
                flows.extend(self.between(from, to, &flow)?);
            }
        }
        Ok(flows)
    }

    /// The flow once for each pair of addresses.
    fn between(&self, from: &Place, to: &Place, flow: &Flow) -> anyhow::Result<Vec<LabFlow>> {
        let judged = self.world.facts.judge_each(flow);
        let judged = judged.with_context(|| format!("judging {} -> {}", from.name, to.name))?;
        let mut flows = Vec::new();
        for judgement in judged {
            let (Some(source), Some(target)) = (judgement.source, judgement.destination) else {
                continue;
            };
            let probe = Probe {
                from: from.netns.clone(),
                into: to.netns.clone(),
                source,
                to: target,
                protocol: flow.protocol,
                port: flow.port.unwrap_or(0),
                icmp: flow.icmp,
                expected: judgement.verdict == Verdict::Allow,
            };
            flows.push(LabFlow {
                from: from.name.clone(),
                to: to.name.clone(),
                server: to.server.clone(),
                probe,
                judgement: self.world.in_their_words(judgement),
                counts: true,
            });
        }
        Ok(flows)
    }
}
