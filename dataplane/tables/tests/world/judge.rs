//! The plain judge: first match, tier by tier, profile by profile.

use super::World;
use dataplane_api::{AtomId, Member, Policy, WorkloadEndpoint};
use dataplane_tables::Direction;
use policy_model::{Action, DefaultAction, Icmp, Protocol};
use policy_model_rules::{IpVersion, PortMatch, Rule, Side};
use std::net::IpAddr;

/// A packet that opens a flow, seen from one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Flow {
    pub(crate) peer: IpAddr,
    pub(crate) protocol: Protocol,
    /// Destination port, or ICMP type.
    pub(crate) x: u16,
    /// Source port, or ICMP code.
    pub(crate) y: u16,
}

struct End {
    address: Option<IpAddr>,
    port: Option<u16>,
}

impl World {
    /// Whether an endpoint's policies let a flow pass.
    pub(crate) fn allows(&self, endpoint: &WorkloadEndpoint, direction: Direction, flow: &Flow) -> bool {
        let own = endpoint
            .addresses
            .iter()
            .copied()
            .find(|a| a.is_ipv4() == flow.peer.is_ipv4());
        let port = |n: u16| flow.protocol.has_ports().then_some(n);
        let (source, destination) = match direction {
            Direction::Ingress => (Some(flow.peer), own),
            Direction::Egress => (own, Some(flow.peer)),
        };
        let source = End {
            address: source,
            port: port(flow.y),
        };
        let destination = End {
            address: destination,
            port: port(flow.x),
        };
        let first = |policy: &Policy| -> Option<Action> {
            let rules = if direction == Direction::Ingress {
                &policy.ingress
            } else {
                &policy.egress
            };
            let matches = |rule: &&Rule<AtomId>| self.matches(rule, flow, &source, &destination);
            rules
                .iter()
                .filter(matches)
                .map(|r| r.action)
                .find(|a| *a != Action::Log)
        };
        let tiers = if direction == Direction::Ingress {
            &endpoint.ingress
        } else {
            &endpoint.egress
        };
        'tiers: for tier in tiers {
            for id in &tier.policies {
                let Some(policy) = self.policies.get(id) else {
                    return false;
                };
                match first(policy) {
                    None => {}
                    Some(Action::Allow) => return true,
                    Some(Action::Pass) => continue 'tiers,
                    Some(_) => return false,
                }
            }
            if tier.default_action == DefaultAction::Deny {
                return false;
            }
        }
        for id in &endpoint.profiles {
            let Some(profile) = self.policies.get(id) else {
                return false;
            };
            match first(profile) {
                Some(Action::Allow) => return true,
                Some(Action::Deny) => return false,
                _ => {}
            }
        }
        false
    }

    fn matches(&self, rule: &Rule<AtomId>, flow: &Flow, source: &End, destination: &End) -> bool {
        let version = IpVersion::of(flow.peer);
        let icmp = |i: Icmp| {
            flow.protocol.is_icmp()
                && i.icmp_type.is_none_or(|t| u16::from(t) == flow.x)
                && i.code.is_none_or(|c| u16::from(c) == flow.y)
        };
        rule.ip_version.is_none_or(|v| v == version)
            && rule.protocol.is_none_or(|p| p == flow.protocol)
            && rule.not_protocol.is_none_or(|p| p != flow.protocol)
            && rule.icmp.is_none_or(icmp)
            && !rule.not_icmp.is_some_and(icmp)
            && self.side_matches(&rule.source, source, flow.protocol)
            && self.side_matches(&rule.destination, destination, flow.protocol)
    }

    fn side_matches(&self, side: &Side<AtomId>, end: &End, protocol: Protocol) -> bool {
        let inside = |atom: &AtomId| {
            end.address.is_some_and(|address| {
                self.atoms[atom].1.iter().any(|member| match member {
                    Member::Net(net) => net.contains(&address),
                    Member::Port(a, _) => *a == address,
                })
            })
        };
        let has_port = |ports: &PortMatch<AtomId>| {
            let numbered = end
                .port
                .is_some_and(|p| ports.ranges.iter().any(|r| r.contains(p)));
            numbered
                || ports.named.iter().any(|atom| {
                    self.atoms[atom].1.iter().any(|member| match member {
                        Member::Net(net) => end.address.is_some_and(|a| net.contains(&a)),
                        Member::Port(a, key) => {
                            Some(*a) == end.address && key.protocol == protocol && Some(key.port) == end.port
                        }
                    })
                })
        };
        side.sets.iter().all(inside)
            && !side.not_sets.iter().any(inside)
            && side.ports.as_deref().is_none_or(has_port)
            && !side.not_ports.as_deref().is_some_and(has_port)
    }
}
