//! VXLAN devices as the kernel's messages have them.

use std::fmt;
use std::net::IpAddr;

use crate::attributes::{self, put, put_nested};
use crate::error::NetlinkError;
use crate::links::{self, Link};
use crate::rtnetlink::Rtnetlink;
use crate::socket::{CREATE, EXCLUSIVE, Message, Request};
use crate::tunnels::vxlan::{KIND, ObservedVxlan, VxlanAttributes, VxlanIdentity, VxlanSpec};
use crate::tunnels::{self, TunnelStep};

/// Types of messages and attributes (`linux/rtnetlink.h`, `linux/if_link.h`).
const NEW_LINK: u16 = 16;
const ADDRESS: u16 = 1;
const NAME: u16 = 3;
const MTU: u16 = 4;
const MASTER: u16 = 10;
const LINK_INFO: u16 = 18;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VNI: u16 = 1;
const GROUP: u16 = 2;
const CARRIER: u16 = 3;
const LOCAL: u16 = 4;
const LEARNING: u16 = 7;
const PROXY: u16 = 11;
const ROUTE_SHORT_CIRCUIT: u16 = 12;
const L2_MISS: u16 = 13;
const L3_MISS: u16 = 14;
const PORT: u16 = 15;
const GROUP_V6: u16 = 16;
const LOCAL_V6: u16 = 17;
const GROUP_POLICY: u16 = 23;
const COLLECT_METADATA: u16 = 25;
const GENERIC_PROTOCOL: u16 = 27;
/// Bytes before the attributes of a link (`struct ifinfomsg`).
const LINK_HEADER: usize = 16;

/// Makes the device, down, with its Ethernet address and size from the first moment.
pub(super) fn create(netlink: &mut Rtnetlink, spec: &VxlanSpec) -> Result<(), NetlinkError> {
    let VxlanSpec {
        identity: VxlanIdentity { name, vni, port, mac },
        local,
        carrier,
        mtu,
        address: _,
    } = spec;
    let mut body = vec![0; LINK_HEADER];
    put(&mut body, NAME, &text(name.as_str()));
    put(&mut body, ADDRESS, &mac.bytes());
    put(&mut body, MTU, &mtu.to_ne_bytes());
    put_detail(&mut body, |data| {
        put(data, VNI, &vni.number().to_ne_bytes());
        put(data, PORT, &port.to_be_bytes());
        put(data, LEARNING, &[0]);
        put_local(data, *local);
        if let Some(carrier) = carrier {
            put(data, CARRIER, &carrier.to_ne_bytes());
        }
    });
    let operation = format_args!("add link {name} type {KIND} id {} local {local}", vni.number());
    send(netlink, body, CREATE | EXCLUSIVE, &operation)
}

/// Changes a device where it stands.
pub(super) fn execute(netlink: &mut Rtnetlink, link: &Link, step: &TunnelStep) -> Result<(), NetlinkError> {
    let mut body = vec![0; LINK_HEADER];
    if let Some(index) = body.get_mut(4..8) {
        index.copy_from_slice(&link.index.to_ne_bytes());
    }
    match step {
        TunnelStep::Detach => put(&mut body, MASTER, &0_u32.to_ne_bytes()),
        TunnelStep::SetLocal(address) => put_detail(&mut body, |data| put_local(data, *address)),
        TunnelStep::StopLearning => put_detail(&mut body, |data| put(data, LEARNING, &[0])),
        // Not done where it stands.
        TunnelStep::Create(_) | TunnelStep::Rebuild(_) | TunnelStep::Link(_) | TunnelStep::Address(_) => {
            return Ok(());
        }
    }
    send(netlink, body, 0, &format_args!("set link {}: {step}", link.name))
}

fn send(
    netlink: &mut Rtnetlink,
    body: Vec<u8>,
    flags: u16,
    operation: &dyn fmt::Display,
) -> Result<(), NetlinkError> {
    let request = Request {
        message_type: NEW_LINK,
        flags,
        body,
    };
    tunnels::execute(netlink, request, operation)
}

fn put_detail(body: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    put_nested(body, LINK_INFO, |detail| {
        put(detail, INFO_KIND, &text(KIND));
        put_nested(detail, INFO_DATA, fill);
    });
}

fn put_local(data: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => put(data, LOCAL, &address.octets()),
        IpAddr::V6(address) => put(data, LOCAL_V6, &address.octets()),
    }
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// Reads a device from the kernel's message.
pub(super) fn read(message: Message<'_>) -> Option<ObservedVxlan> {
    if message.message_type == NEW_LINK {
        read_body(message.body)
    } else {
        None
    }
}

fn read_body(body: &[u8]) -> Option<ObservedVxlan> {
    let link = links::read_body(body)?;
    let vxlan = if link.kind.as_deref() == Some(KIND) {
        let detail = attributes::find(body.get(LINK_HEADER..)?, LINK_INFO)?;
        Some(read_data(attributes::find(detail, INFO_DATA)?)?)
    } else {
        None
    };
    Some(ObservedVxlan { link, vxlan })
}

fn read_data(data: &[u8]) -> Option<VxlanAttributes> {
    let mut vxlan = VxlanAttributes::default();
    for (kind, value) in attributes::walk(data) {
        let is_on = || attributes::number8(value).is_some_and(|on| on != 0);
        match kind {
            VNI => vxlan.vni = attributes::native32(value)?,
            PORT => vxlan.port = attributes::network16(value)?,
            LOCAL | LOCAL_V6 => vxlan.local = specified(value),
            GROUP | GROUP_V6 => vxlan.remote = specified(value),
            CARRIER => vxlan.carrier = attributes::native32(value).filter(|index| *index != 0),
            LEARNING => vxlan.learning = is_on(),
            PROXY if is_on() => vxlan.exotic = Some("proxy"),
            ROUTE_SHORT_CIRCUIT if is_on() => vxlan.exotic = Some("rsc"),
            L2_MISS if is_on() => vxlan.exotic = Some("l2miss"),
            L3_MISS if is_on() => vxlan.exotic = Some("l3miss"),
            COLLECT_METADATA if is_on() => vxlan.exotic = Some("external"),
            // These two are there or not, and have no value.
            GROUP_POLICY => vxlan.exotic = Some("gbp"),
            GENERIC_PROTOCOL => vxlan.exotic = Some("gpe"),
            _ => {}
        }
    }
    Some(vxlan)
}

fn specified(value: &[u8]) -> Option<IpAddr> {
    attributes::address(value).filter(|address| !address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_body(&bytes);
            let _ = read_data(&bytes);
        }
    }
}
