//! Carries route steps out; decides nothing.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};

use crate::addresses::family;
use crate::error::{NetlinkError, refusal_is_absent};
use crate::routes::observe::{ObservedRoute, ObservedTarget};
use crate::routes::plan::RouteStep;
use crate::routes::spec::{Reach, RouteTarget};
use crate::rtnetlink::{Rtnetlink, encode};
use crate::socket::{CREATE, EXCLUSIVE, REPLACE, Request};

/// A step that the kernel refused.
#[derive(Debug)]
pub struct RouteFailure {
    /// The step.
    pub step: RouteStep,
    /// Why; its text names the step.
    pub error: NetlinkError,
}

/// Carries steps out in order and returns those that failed; a failure does not keep later ones from being tried.
///
/// The removal of a route that has gone by itself, with its interface, is no failure.
///
/// # Errors
/// The conversation itself failed: which steps were carried out is unknown, so observe again.
pub fn execute(netlink: &mut Rtnetlink, steps: &[RouteStep]) -> Result<Vec<RouteFailure>, NetlinkError> {
    let requests: Vec<Request> = steps.iter().map(request).collect();
    let outcomes = netlink.batch(&requests, &format_args!("apply {} route steps", steps.len()))?;
    let mut failures = Vec::new();
    for (step, outcome) in steps.iter().zip(outcomes) {
        match (step, outcome) {
            (_, Ok(())) => {}
            (RouteStep::Remove { .. }, Err(refusal)) if refusal_is_absent(&refusal) => {}
            (_, Err(refusal)) => failures.push(RouteFailure {
                step: step.clone(),
                error: NetlinkError::Refused {
                    operation: step.to_string(),
                    refusal,
                },
            }),
        }
    }
    Ok(failures)
}

fn request(step: &RouteStep) -> Request {
    match step {
        RouteStep::Remove { route, interface: _ } => {
            encode(&RouteNetlinkMessage::DelRoute(removal(route)), 0)
        }
        RouteStep::Add {
            destination,
            target,
            link,
            protocol,
            replaces,
        } => encode(
            &RouteNetlinkMessage::NewRoute(addition(*destination, target, *link, *protocol)),
            CREATE | if *replaces { REPLACE } else { EXCLUSIVE },
        ),
    }
}

fn message(destination: IpNet, protocol: u8) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(destination.addr());
    message.header.destination_prefix_length = destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(protocol);
    if destination.prefix_len() > 0 {
        message
            .attributes
            .push(RouteAttribute::Destination(destination.network().into()));
    }
    message
}

fn addition(destination: IpNet, target: &RouteTarget, link: Option<u32>, protocol: u8) -> RouteMessage {
    let mut message = message(destination, protocol);
    message.header.kind = RouteType::Unicast;
    message.attributes.extend(link.map(RouteAttribute::Oif));
    match target {
        RouteTarget::Device { interface: _, source } => {
            message
                .attributes
                .extend(source.map(|source| RouteAttribute::PrefSource(source.into())));
            if destination.addr().is_ipv4() {
                message.header.scope = RouteScope::Link;
            }
        }
        RouteTarget::Gateway {
            gateway,
            interface: _,
            reach,
        } => {
            push_gateway(&mut message, *gateway);
            if *reach == Reach::OnLink {
                message.header.flags = RouteFlags::Onlink;
            }
        }
        RouteTarget::Blackhole => message.header.kind = RouteType::BlackHole,
    }
    message
}

fn removal(route: &ObservedRoute) -> RouteMessage {
    let mut message = message(route.destination, route.protocol);
    message.header.tos = route.tos;
    // Any scope: the other parts of the key are enough.
    message.header.scope = RouteScope::NoWhere;
    if route.metric != 0 {
        message.attributes.push(RouteAttribute::Priority(route.metric));
    }
    match route.target {
        ObservedTarget::Device { link, source: _ } => {
            message.header.kind = RouteType::Unicast;
            message.attributes.push(RouteAttribute::Oif(link));
        }
        ObservedTarget::Gateway {
            gateway,
            link,
            reach: _,
        } => {
            message.header.kind = RouteType::Unicast;
            message.attributes.push(RouteAttribute::Oif(link));
            push_gateway(&mut message, gateway);
        }
        ObservedTarget::Blackhole => message.header.kind = RouteType::BlackHole,
        ObservedTarget::Other { link, route_type } => {
            message.header.kind = RouteType::from(route_type);
            message.attributes.extend(link.map(RouteAttribute::Oif));
        }
    }
    message
}

fn push_gateway(message: &mut RouteMessage, gateway: IpAddr) {
    message.attributes.push(RouteAttribute::Gateway(gateway.into()));
}
