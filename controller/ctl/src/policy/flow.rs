//! One flow as people write it, and what it means in a world.

use super::world::{Pod, World};
use policy_model::{EndpointPort, Protocol};
use policy_model_rules::oracle::{Flow, Peer, Verdict};
use std::fmt;
use std::net::IpAddr;

/// A flow as somebody wrote it: sound in itself, but perhaps about pods that do not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenFlow {
    /// Who opens it: `namespace/pod`, `ip:ADDRESS` or `node:NAME`.
    pub from: String,
    /// To whom.
    pub to: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Port, of protocols that have ports.
    pub port: Option<WrittenPort>,
    /// Type, of ICMP; absent means an echo request.
    pub icmp_type: Option<u8>,
    /// Code, of ICMP.
    pub icmp_code: Option<u8>,
    /// What the author expects; `None` where nothing is expected.
    pub expect: Option<Verdict>,
}

/// A port by its number, or by the name under which the destination declares it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(untagged)]
pub enum WrittenPort {
    /// By number, not 0.
    Number(u16),
    /// By name.
    Name(String),
}

/// What is wrong with a flow: a field, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct FlowFault {
    /// The field; `flow` for the flow as a whole.
    pub field: String,
    /// Why it cannot be understood.
    pub reason: String,
}

impl FlowFault {
    pub(crate) fn new(field: &str, reason: impl Into<String>) -> Self {
        FlowFault {
            field: field.to_string(),
            reason: reason.into(),
        }
    }
}

/// An end of a flow, found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Somebody.
    Peer(Peer),
    /// A pod that has finished: it sends and receives nothing.
    Finished(String),
}

impl End {
    /// The name of a pod that has finished.
    pub fn finished(&self) -> Option<&str> {
        match self {
            End::Peer(_) => None,
            End::Finished(name) => Some(name),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Peer(peer) => peer.fmt(f),
            End::Finished(name) => f.write_str(name),
        }
    }
}

/// A flow whose ends and port were found: the oracle can judge it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Who opens it.
    pub from: End,
    /// To whom.
    pub to: End,
    /// Protocol.
    pub protocol: Protocol,
    /// Port, of protocols that have ports.
    pub port: Option<u16>,
    /// Type and code, of ICMP.
    pub icmp: Option<(u8, u8)>,
}

impl Question {
    /// The oracle's form; `None` where an end has finished.
    pub fn flow(&self) -> Option<Flow> {
        let (End::Peer(from), End::Peer(to)) = (&self.from, &self.to) else {
            return None;
        };
        Some(Flow {
            from: from.clone(),
            to: to.clone(),
            protocol: self.protocol,
            source_port: None,
            port: self.port,
            icmp: self.icmp,
        })
    }
}

impl WrittenFlow {
    /// Checks that port, type and code fit the protocol.
    ///
    /// # Errors
    /// The first field that does not.
    pub fn check(&self) -> Result<(), FlowFault> {
        let protocol = self.protocol;
        match (&self.port, protocol.has_ports()) {
            (None, true) => {
                return Err(FlowFault::new(
                    "port",
                    format!("is missing; {protocol} needs one"),
                ));
            }
            (Some(_), false) => return Err(FlowFault::new("port", format!("{protocol} has no ports"))),
            _ => {}
        }
        let is_icmp = protocol.is_icmp();
        for (field, value) in [("type", self.icmp_type), ("code", self.icmp_code)] {
            if value.is_some() && !is_icmp {
                return Err(FlowFault::new(
                    field,
                    format!("{protocol} has none; only ICMP and ICMPv6 have"),
                ));
            }
        }
        if self.icmp_code.is_some() && self.icmp_type.is_none() {
            return Err(FlowFault::new("code", "needs a type beside it"));
        }
        Ok(())
    }
}

impl WrittenFlow {
    /// Protocol and port as people write them: `TCP/80`, `ICMP/8:0`.
    pub fn what(&self) -> String {
        let protocol = self.protocol;
        match (&self.port, self.icmp_type, self.icmp_code) {
            (Some(WrittenPort::Number(number)), ..) => format!("{protocol}/{number}"),
            (Some(WrittenPort::Name(name)), ..) => format!("{protocol}/{name}"),
            (None, Some(kind), Some(code)) => format!("{protocol}/{kind}:{code}"),
            (None, Some(kind), None) => format!("{protocol}/{kind}"),
            (None, None, _) => protocol.to_string(),
        }
    }
}

/// Where the words of flows are looked up: among manifests, or in a lab.
pub trait Ends {
    /// Finds an end by its words. A pod of its node's network is the node.
    ///
    /// # Errors
    /// There is no such end, in words.
    fn end(&self, text: &str) -> Result<End, String>;

    /// Finds the number of a port that an end declares by name.
    ///
    /// # Errors
    /// It declares none of that name, in words.
    fn port(&self, to: &str, protocol: Protocol, name: &str) -> Result<u16, String>;
}

impl WrittenFlow {
    /// Finds the ends and the port of the flow.
    ///
    /// # Errors
    /// Everything that does not exist, by field.
    pub fn understand(&self, ends: &impl Ends) -> Result<Question, Vec<FlowFault>> {
        let mut faults: Vec<FlowFault> = self.check().err().into_iter().collect();
        let mut end = |field: &str, text: &str| {
            let found = ends.end(text).map_err(|reason| FlowFault::new(field, reason));
            found.map_err(|fault| faults.push(fault)).ok()
        };
        let (from, to) = (end("from", &self.from), end("to", &self.to));
        let port = match (&self.port, &to) {
            (None, _) => None,
            (Some(WrittenPort::Number(number)), _) => Some(*number),
            // Of an end that does not exist the port is no second fault.
            (Some(WrittenPort::Name(_)), None) => None,
            (Some(WrittenPort::Name(name)), Some(_)) => ends
                .port(&self.to, self.protocol, name)
                .map_err(|reason| faults.push(FlowFault::new("port", reason)))
                .ok(),
        };
        match (from, to) {
            (Some(from), Some(to)) if faults.is_empty() => Ok(Question {
                from,
                to,
                protocol: self.protocol,
                port,
                icmp: self.icmp_type.map(|kind| (kind, self.icmp_code.unwrap_or(0))),
            }),
            _ => Err(faults),
        }
    }
}

impl Ends for World {
    fn end(&self, text: &str) -> Result<End, String> {
        let peer: Peer = text.parse().map_err(|error| format!("{error}"))?;
        match peer {
            Peer::Address(address) => Ok(End::Peer(Peer::Address(address.to_canonical()))),
            Peer::Node(node) if self.nodes.contains_key(&node) => Ok(End::Peer(Peer::Node(node))),
            Peer::Node(node) => Err(format!("there is no node {node}{}", choice(self.nodes.keys()))),
            Peer::Endpoint { namespace, name } => {
                let Some(pod) = self.pod(&namespace, &name) else {
                    return Err(self.no_pod(&namespace, &name));
                };
                if pod.facts.finished {
                    return Ok(End::Finished(text.to_string()));
                }
                if pod.node.is_none() {
                    return Err(format!("pod {namespace}/{name} runs on no node yet"));
                }
                Ok(End::Peer(match &pod.node {
                    Some(node) if pod.facts.host_network => Peer::Node(node.clone()),
                    _ => Peer::Endpoint { namespace, name },
                }))
            }
        }
    }

    fn port(&self, to: &str, protocol: Protocol, name: &str) -> Result<u16, String> {
        let pod = match to.parse() {
            Ok(Peer::Endpoint { namespace, name }) => self.pod(&namespace, &name),
            Ok(Peer::Address(address)) => self.pod_of(address.to_canonical()),
            _ => None,
        };
        let Some(pod) = pod else {
            return Err(format!(
                "{to} is no pod, so it declares no port '{name}'; write the number"
            ));
        };
        let is_it = |port: &&EndpointPort| port.protocol == protocol && port.name == name;
        match pod.facts.ports.iter().find(is_it) {
            Some(port) => Ok(port.port),
            None => {
                let declared = pod.facts.ports.iter().filter(|p| p.protocol == protocol);
                let names: Vec<&String> = declared.map(|p| &p.name).filter(|n| !n.is_empty()).collect();
                let pod = format!("{}/{}", pod.facts.namespace, pod.facts.name);
                Err(format!(
                    "pod {pod} declares no {protocol} port '{name}'{}",
                    choice(names.into_iter())
                ))
            }
        }
    }
}

impl World {
    fn no_pod(&self, namespace: &str, name: &str) -> String {
        let here: Vec<&String> = self
            .pods
            .keys()
            .filter(|(other, _)| other == namespace)
            .map(|(_, name)| name)
            .collect();
        if here.is_empty() {
            return format!("there is no pod {namespace}/{name}: no pod is in namespace {namespace}");
        }
        format!("there is no pod {namespace}/{name}{}", choice(here.into_iter()))
    }

    /// The pod that has an address.
    pub fn pod_of(&self, address: IpAddr) -> Option<&Pod> {
        self.pods.values().find(|pod| pod.addresses.contains(&address))
    }
}

/// How many names a message lists.
const LISTED: usize = 8;

/// The names that there are, for the end of a message.
fn choice<'a>(names: impl ExactSizeIterator<Item = &'a String>) -> String {
    let count = names.len();
    if count == 0 {
        return String::new();
    }
    let listed: Vec<&str> = names.take(LISTED).map(String::as_str).collect();
    let more = if count > LISTED { ", ..." } else { "" };
    format!(" (there are: {}{more})", listed.join(", "))
}
