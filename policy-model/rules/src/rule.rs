//! One rule, with every name resolved that can be resolved without knowing the endpoint.

use policy_model::{Icmp, PortRange, Protocol};

/// Family of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpVersion {
    /// The family of an address.
    pub fn of(address: std::net::IpAddr) -> Self {
        if address.is_ipv4() {
            IpVersion::V4
        } else {
            IpVersion::V6
        }
    }
}

impl std::fmt::Display for IpVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            IpVersion::V4 => "IPv4",
            IpVersion::V6 => "IPv6",
        })
    }
}

/// What a rule does; `Log` reports and goes on.
pub type RuleAction = policy_model::Action;

/// A rule of a policy in one direction.
///
/// It matches a packet when every part matches; an absent part matches everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule<A> {
    /// What happens to a packet that matches.
    pub action: RuleAction,
    /// Position of the rule in the resource's list of its direction, from 0: for traces and counters. Several
    /// compiled rules may share it (one rule of a manifest can become several).
    pub index: usize,
    /// Family that the packet must have.
    pub ip_version: Option<IpVersion>,
    /// Protocol that the packet must have.
    pub protocol: Option<Protocol>,
    /// Protocol that the packet must not have.
    pub not_protocol: Option<Protocol>,
    /// ICMP type and code that the packet must have.
    pub icmp: Option<Icmp>,
    /// ICMP type and code that the packet must not have.
    pub not_icmp: Option<Icmp>,
    /// Source side.
    pub source: Side<A>,
    /// Destination side.
    pub destination: Side<A>,
}

/// What one side of a packet must be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Side<A> {
    /// The address is in every one of these sets. Compiled sides hold only sets without ports here.
    pub sets: Vec<A>,
    /// The address is in none of these sets. Compiled sides hold only sets without ports here.
    pub not_sets: Vec<A>,
    /// The port is one of these. `None` matches every port, and packets without ports.
    pub ports: Option<Box<PortMatch<A>>>,
    /// The port is none of these.
    pub not_ports: Option<Box<PortMatch<A>>>,
}

/// Ports by number and by name; a packet matches when any of them does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PortMatch<A> {
    /// Numbers, sorted, neither overlapping nor touching.
    pub ranges: Vec<PortRange>,
    /// Sets of (address, protocol, port) in which the side's own triple may be found
    /// ([`AddressSet::NamedPort`](crate::AddressSet::NamedPort), and
    /// [`AddressSet::Service`](crate::AddressSet::Service) of a destination).
    pub named: Vec<A>,
}

impl<A> Default for Side<A> {
    fn default() -> Self {
        Side {
            sets: Vec::new(),
            not_sets: Vec::new(),
            ports: None,
            not_ports: None,
        }
    }
}

impl<A> Rule<A> {
    /// The same rule with its sets named in another way.
    pub fn map_sets<B>(&self, mut f: impl FnMut(&A, RuleSide) -> B) -> Rule<B> {
        Rule {
            action: self.action,
            index: self.index,
            ip_version: self.ip_version,
            protocol: self.protocol,
            not_protocol: self.not_protocol,
            icmp: self.icmp,
            not_icmp: self.not_icmp,
            source: self.source.map_sets(|a| f(a, RuleSide::Source)),
            destination: self.destination.map_sets(|a| f(a, RuleSide::Destination)),
        }
    }
}

/// A side of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RuleSide {
    /// Where a packet comes from.
    Source,
    /// Where a packet goes to.
    Destination,
}

impl<A> Side<A> {
    /// Every set that this side refers to, in a fixed order.
    pub fn all_sets(&self) -> impl Iterator<Item = &A> {
        let ports = self.ports.iter().chain(&self.not_ports).flat_map(|p| &p.named);
        self.sets.iter().chain(&self.not_sets).chain(ports)
    }

    fn map_sets<B>(&self, mut f: impl FnMut(&A) -> B) -> Side<B> {
        let mut ports = |p: &PortMatch<A>| {
            let ranges = p.ranges.clone();
            let named = p.named.iter().map(&mut f).collect();
            Box::new(PortMatch { ranges, named })
        };
        let (yes, no) = (
            self.ports.as_deref().map(&mut ports),
            self.not_ports.as_deref().map(&mut ports),
        );
        Side {
            sets: self.sets.iter().map(&mut f).collect(),
            not_sets: self.not_sets.iter().map(&mut f).collect(),
            ports: yes,
            not_ports: no,
        }
    }
}
