//! The judgement: what no workload may send, then the source's egress, then the destination's ingress; all must allow.

use super::ask::{self, Asked};
use super::facts::{Endpoint, EndpointToHostAction, Facts};
use super::flow::{EPHEMERAL_PORT, Flow, Peer, UnjudgeableFlow};
use super::packet::{End, Packet};
use super::trace::{DirectionTrace, Trace};
use super::verdict::{Direction, Judgement, Verdict};
use crate::rule::IpVersion;
use policy_model::Protocol;
use std::net::IpAddr;

impl Facts {
    /// Judges a flow between the addresses that it would use: an address that is named, else the destination's
    /// first one of a family that both ends have.
    ///
    /// # Errors
    /// An end is unknown, or ports and ICMP type do not fit the protocol.
    pub fn judge(&self, flow: &Flow) -> Result<Judgement, UnjudgeableFlow> {
        let question = self.question(flow, true)?;
        Ok(question
            .pairs()
            .first()
            .map_or_else(|| question.no_route(), |pair| question.judge(*pair)))
    }

    /// Judges a flow once for every pair of addresses that its ends share a family in, the likeliest first; never
    /// empty.
    ///
    /// # Errors
    /// As [`Facts::judge`].
    pub fn judge_each(&self, flow: &Flow) -> Result<Vec<Judgement>, UnjudgeableFlow> {
        let question = self.question(flow, true)?;
        let judgements: Vec<Judgement> = question
            .pairs()
            .into_iter()
            .map(|pair| question.judge(pair))
            .collect();
        Ok(if judgements.is_empty() {
            vec![question.no_route()]
        } else {
            judgements
        })
    }

    /// The same as [`Facts::judge`] with an empty trace, for those who ask often.
    ///
    /// # Errors
    /// As [`Facts::judge`].
    pub fn judge_untraced(&self, flow: &Flow) -> Result<Judgement, UnjudgeableFlow> {
        let question = self.question(flow, false)?;
        Ok(question
            .pairs()
            .first()
            .map_or_else(|| question.no_route(), |pair| question.judge(*pair)))
    }

    fn question(&self, flow: &Flow, explain: bool) -> Result<Question<'_>, UnjudgeableFlow> {
        let protocol = flow.protocol;
        let ports = if protocol.has_ports() {
            let port = flow.port.ok_or(UnjudgeableFlow::MissingPort(protocol))?;
            Some((flow.source_port.unwrap_or(EPHEMERAL_PORT), port))
        } else if flow.port.or(flow.source_port).is_some() {
            return Err(UnjudgeableFlow::UnexpectedPort(protocol));
        } else {
            None
        };
        let echo_request = match protocol {
            Protocol::ICMP => Some((8, 0)),
            Protocol::ICMPV6 => Some((128, 0)),
            _ if flow.icmp.is_some() => return Err(UnjudgeableFlow::UnexpectedIcmp(protocol)),
            _ => None,
        };
        let icmp = flow.icmp.or(echo_request);
        let (from, to) = (self.party(&flow.from)?, self.party(&flow.to)?);
        Ok(Question {
            facts: self,
            from,
            to,
            protocol,
            ports,
            icmp,
            explain,
        })
    }

    fn party(&self, peer: &Peer) -> Result<Party<'_>, UnjudgeableFlow> {
        match peer {
            Peer::Endpoint { namespace, name } => {
                let unknown = || UnjudgeableFlow::UnknownEndpoint {
                    namespace: namespace.clone(),
                    name: name.clone(),
                };
                let endpoint = self.endpoint(namespace, name).ok_or_else(unknown)?;
                Ok(Party {
                    what: What::Endpoint(endpoint),
                    addresses: endpoint.addresses.clone(),
                    is_named: false,
                })
            }
            Peer::Node(name) => {
                let unknown = || UnjudgeableFlow::UnknownNode(name.clone());
                let (name, addresses) = self.nodes.get_key_value(name).ok_or_else(unknown)?;
                Ok(Party {
                    what: What::Node(name),
                    addresses: addresses.clone(),
                    is_named: false,
                })
            }
            Peer::Address(address) => {
                let what = match (self.endpoint_of(*address), self.node_of(*address)) {
                    (Some(endpoint), _) => What::Endpoint(endpoint),
                    (None, Some(node)) => What::Node(node),
                    (None, None) => What::Outside,
                };
                Ok(Party {
                    what,
                    addresses: vec![*address],
                    is_named: true,
                })
            }
        }
    }
}

/// What stands behind an end of a flow.
#[derive(Clone, Copy)]
enum What<'a> {
    Endpoint(&'a Endpoint),
    /// By name.
    Node(&'a str),
    /// Neither: the world.
    Outside,
}

/// An end of a flow, with the addresses that it may use.
struct Party<'a> {
    what: What<'a>,
    addresses: Vec<IpAddr>,
    /// Whether the question names the address itself, so that no other one may be used.
    is_named: bool,
}

impl Party<'_> {
    fn has(&self, version: IpVersion) -> bool {
        self.addresses.iter().any(|a| IpVersion::of(*a) == version)
    }

    fn display(&self) -> String {
        match (self.what, self.addresses.first()) {
            (What::Endpoint(endpoint), _) => endpoint.display().to_string(),
            (What::Node(name), _) => format!("node {name}"),
            (What::Outside, Some(address)) => address.to_string(),
            (What::Outside, None) => "nobody".to_string(),
        }
    }
}

/// Source and destination address. Only a node that talks to its own workload may do without a source.
type Pair = (Option<IpAddr>, IpAddr);

/// A flow with its ends found.
struct Question<'a> {
    facts: &'a Facts,
    from: Party<'a>,
    to: Party<'a>,
    protocol: Protocol,
    /// Source and destination port, of protocols that have them.
    ports: Option<(u16, u16)>,
    icmp: Option<(u8, u8)>,
    explain: bool,
}

impl<'a> Question<'a> {
    /// The families that the protocol itself allows.
    fn carries(&self, version: IpVersion) -> bool {
        match self.protocol {
            Protocol::ICMP => version == IpVersion::V4,
            Protocol::ICMPV6 => version == IpVersion::V6,
            _ => true,
        }
    }

    fn is_from_own_node(&self) -> bool {
        matches!((self.from.what, self.to.what), (What::Node(node), What::Endpoint(to)) if to.node == node)
    }

    fn pairs(&self) -> Vec<Pair> {
        let mut pairs = Vec::new();
        for to in &self.to.addresses {
            let version = IpVersion::of(*to);
            if !self.carries(version) {
                continue;
            }
            let before = pairs.len();
            let same_family = self
                .from
                .addresses
                .iter()
                .filter(|from| IpVersion::of(**from) == version);
            pairs.extend(same_family.map(|from| (Some(*from), *to)));
            // A node reaches its workloads with whatever address it has, listed or not.
            if pairs.len() == before && self.is_from_own_node() {
                pairs.push((None, *to));
            }
        }
        pairs
    }

    /// The verdict where there is no pair of addresses.
    fn no_route(&self) -> Judgement {
        Judgement {
            verdict: Verdict::Deny,
            side: None,
            policy: None,
            rule: None,
            reason: format!("no route: {}", self.why_no_route()),
            source: None,
            destination: None,
            trace: Trace::default(),
        }
    }

    fn why_no_route(&self) -> String {
        let (from, to) = (&self.from, &self.to);
        if let Some(nowhere) = [from, to].into_iter().find(|party| party.addresses.is_empty()) {
            return format!("{} has no address", nowhere.display());
        }
        let carried: Vec<IpVersion> = [IpVersion::V4, IpVersion::V6]
            .into_iter()
            .filter(|v| self.carries(*v))
            .collect();
        // An address that somebody named cannot be blamed for its family; the other end can.
        for (lacking, other) in [(from, to), (to, from)] {
            if let Some(version) = carried
                .iter()
                .find(|v| !lacking.is_named && !lacking.has(**v) && other.has(**v))
            {
                return format!("{} has no {version} address", lacking.display());
            }
        }
        match carried.as_slice() {
            [only] => format!("{} needs {only} addresses", self.protocol),
            _ => format!(
                "{} and {} are of different families",
                from.display(),
                to.display()
            ),
        }
    }

    fn judge(&self, (source, destination): Pair) -> Judgement {
        let mut judgement = Judgement {
            verdict: Verdict::Allow,
            side: None,
            policy: None,
            rule: None,
            reason: String::new(),
            source,
            destination: Some(destination),
            trace: Trace::default(),
        };
        let unpoliced = match (self.from.what, self.to.what) {
            (What::Endpoint(from), What::Endpoint(to)) if std::ptr::eq(from, to) => {
                Some("a workload always reaches itself")
            }
            (What::Node(_), What::Endpoint(_)) if self.is_from_own_node() => {
                Some("what a workload's own node generates always reaches it")
            }
            (What::Node(_) | What::Outside, What::Node(_) | What::Outside) => {
                Some("no workload is concerned")
            }
            _ => None,
        };
        let (None, Some(source)) = (unpoliced, source) else {
            judgement.reason = unpoliced.unwrap_or_default().to_string();
            return judgement;
        };
        let packet = self.packet(source, destination);
        if let What::Endpoint(from) = self.from.what {
            let refused = self.facts.settings.at(&from.node).refused_tunnels;
            match refused.why(&packet) {
                Some(why) => self.refuse(from, why, &mut judgement),
                None => self.ask(from, Direction::Egress, &packet, &mut judgement),
            }
        }
        if judgement.verdict == Verdict::Deny {
            return judgement;
        }
        match (self.from.what, self.to.what) {
            (_, What::Endpoint(to)) => self.ask(to, Direction::Ingress, &packet, &mut judgement),
            (What::Endpoint(from), What::Node(node)) if from.node == node => {
                self.to_own_node(node, &mut judgement)
            }
            _ => {}
        }
        judgement
    }

    /// Refuses what no policy is asked about.
    fn refuse(&self, from: &Endpoint, why: String, judgement: &mut Judgement) {
        judgement.verdict = Verdict::Deny;
        judgement.side = Some(Direction::Egress);
        judgement.reason = format!("egress of {}: {why}", from.display());
        if self.explain {
            judgement.trace.directions.push(DirectionTrace {
                direction: Direction::Egress,
                endpoint: from.display().to_string(),
                verdict: Verdict::Deny,
                reason: why,
                tiers: Vec::new(),
                profiles: Vec::new(),
            });
        }
    }

    fn to_own_node(&self, node: &str, judgement: &mut Judgement) {
        match self.facts.settings.at(node).default_endpoint_to_host_action {
            EndpointToHostAction::Accept | EndpointToHostAction::Return => {}
            EndpointToHostAction::Drop => {
                judgement.verdict = Verdict::Deny;
                judgement.side = Some(Direction::Egress);
                judgement.policy = None;
                judgement.rule = None;
                judgement.reason =
                    "DefaultEndpointToHostAction refuses what workloads send to their own node".to_string();
            }
        }
    }

    fn packet(&self, source: IpAddr, destination: IpAddr) -> Packet<'a> {
        let facts = self.facts;
        let end = |address, port| End {
            address,
            port,
            owners: facts.owners_of(address),
        };
        Packet {
            protocol: self.protocol,
            icmp: self.icmp,
            source: end(source, self.ports.map(|p| p.0)),
            destination: end(destination, self.ports.map(|p| p.1)),
        }
    }

    /// Asks the policies of one endpoint and adds the answer to the judgement.
    fn ask(&self, endpoint: &Endpoint, direction: Direction, packet: &Packet<'_>, judgement: &mut Judgement) {
        let (facts, explain) = (self.facts, self.explain);
        let (ruling, trace) = ask::ask(&Asked {
            facts,
            endpoint,
            direction,
            packet,
            explain,
        });
        if explain {
            judgement.trace.directions.push(trace);
        }
        judgement.verdict = ruling.verdict;
        judgement.side = Some(direction);
        judgement.policy = ruling.policy;
        judgement.rule = ruling.rule;
        judgement.reason = match direction {
            Direction::Egress => format!("egress of {}: {}", endpoint.display(), ruling.reason),
            Direction::Ingress => format!("ingress to {}: {}", endpoint.display(), ruling.reason),
        };
    }
}
