//! Established flows: those of departed addresses are forgotten, and, with `Recheck`, those that policy denies now.

use crate::backend::{Opening, RulesDriver};
use dataplane_api::HostPort;
use dataplane_netlink::conntrack::{Conntrack, Flow, FlowFilter, Layer4, Outcome};
use dataplane_netlink::{NetlinkError, Patience};
use dataplane_tables::Tables;
use policy_model::Protocol;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Keeps the connection-tracking table in step with endpoints and policy.
#[derive(Debug)]
pub(crate) struct Flows {
    conntrack: Conntrack,
}

impl Flows {
    pub(crate) fn open(patience: Patience) -> Result<Self, NetlinkError> {
        Ok(Flows {
            conntrack: Conntrack::open_with(patience)?,
        })
    }

    /// Forgets all flows of these addresses. Returns how many there were and whether none is left.
    pub(crate) fn forget(&mut self, addresses: &[IpAddr]) -> Result<(usize, bool), NetlinkError> {
        let forgotten = self.conntrack.forget_addresses(addresses)?;
        Ok((forgotten.entries, forgotten.outcome == Outcome::Clean))
    }

    /// Forgets the UDP flows to ports of the node that lead elsewhere now, or nowhere.
    ///
    /// One that was there before its port led to a workload would go on past it for as long as its client does not stop,
    /// and so would one that led to another. Flows of other protocols end by themselves when nobody answers.
    ///
    /// `own` are the node's own addresses: what it forwards to the same port of others is none of this.
    pub(crate) fn forget_astray(
        &mut self,
        ports: &BTreeSet<HostPort>,
        leading: &BTreeMap<HostPort, SocketAddr>,
        own: &BTreeSet<IpAddr>,
    ) -> Result<usize, NetlinkError> {
        let filter = FlowFilter {
            protocol: Some(Protocol::UDP.number()),
            ..FlowFilter::default()
        };
        let astray = |flow: &Flow| {
            let (Layer4::Ports { destination, .. }, Layer4::Ports { source, .. }) =
                (flow.original.layer4, flow.reply.layer4)
            else {
                return false;
            };
            let address = flow.original.destination;
            let every = match address {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            let [this, all] = [address, every].map(|address| HostPort {
                protocol: Protocol::UDP,
                address,
                port: destination,
            });
            let concerns = ports.contains(&this) || ports.contains(&all);
            if !concerns || !(own.contains(&address) || address.is_loopback()) {
                return false;
            }
            let leads_to = leading.get(&this).or_else(|| leading.get(&all));
            leads_to != Some(&SocketAddr::new(flow.reply.source, source))
        };
        self.conntrack.forget_where(&filter, astray)
    }

    /// How full the connection-tracking table is: entries and limit.
    pub(crate) fn usage(&mut self) -> Result<(u32, Option<u32>), NetlinkError> {
        self.conntrack.table_use().map(|u| (u.entries, u.maximum))
    }

    /// Forgets the flows of local workloads that the tables would not let begin now.
    ///
    /// `own` are the node's own addresses: what the node itself sends to its workloads is never judged, so its flows
    /// are left alone.
    pub(crate) fn recheck(
        &mut self,
        driver: &RulesDriver,
        tables: &Tables,
        own: &BTreeSet<IpAddr>,
    ) -> Result<usize, NetlinkError> {
        let interface_of = driver.interfaces_by_address();
        let denied = |flow: &Flow| {
            if own.contains(&flow.original.source) {
                return false;
            }
            opening(flow, &interface_of).is_some_and(|packet| !driver.lets_begin(tables, &packet))
        };
        self.conntrack.forget_where(&FlowFilter::default(), denied)
    }
}

/// The packet that opened a flow as the tables saw it, after destination translation (which the reply's source shows),
/// if a local workload is part of it.
fn opening<'a>(flow: &Flow, interface_of: &BTreeMap<IpAddr, &'a str>) -> Option<Opening<'a>> {
    let source = flow.original.source;
    let destination = flow.reply.source;
    let from = interface_of.get(&source).copied();
    let to = interface_of.get(&destination).copied();
    from.or(to)?;
    let (x, y) = match (&flow.original.layer4, &flow.reply.layer4) {
        (Layer4::Ports { source: y, .. }, Layer4::Ports { source: x, .. }) => (*x, *y),
        (Layer4::Icmp { icmp_type, code, .. }, _) => (u16::from(*icmp_type), u16::from(*code)),
        _ => (0, 0),
    };
    Some(Opening {
        source,
        destination,
        protocol: Protocol::from_number(flow.original.protocol),
        x,
        y,
        from,
        to,
    })
}
