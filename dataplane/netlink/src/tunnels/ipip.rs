//! The IPIP device `tunl0`: IPv4 in IPv4, one device for all nodes, each route saying the node.
//!
//! The kernel makes it itself when its module is loaded, in every namespace, and does not let it be deleted. So the
//! name is the kernel's, and the device is ours as long as it is of that kind and leads to no one address.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};

use crate::addresses;
use crate::attributes;
use crate::error::NetlinkError;
use crate::links::{self, AdminState, Link, LinkStep};
use crate::names::InterfaceName;
use crate::rtnetlink::Rtnetlink;
use crate::socket::{CREATE, EXCLUSIVE, Message};
use crate::tunnels::device::{self, DeviceSpec};
use crate::tunnels::offload::{ChecksumOffload, DeviceSettings};
use crate::tunnels::{Ensured, TunnelError, TunnelStep, creation_error};

/// The device's name, which is the kernel's own.
pub const IPIP_DEVICE: &str = "tunl0";
/// The kernel's name for the kind, and of the module that has it.
const KIND: &str = "ipip";

/// Types of messages and attributes that are read here (`linux/if_link.h`, `linux/if_tunnel.h`).
const NEW_LINK: u16 = 16;
const LINK_INFO: u16 = 18;
const INFO_DATA: u16 = 2;
const LOCAL: u16 = 2;
const REMOTE: u16 = 3;
/// Bytes before the attributes of a link (`struct ifinfomsg`).
const LINK_HEADER: usize = 16;

/// What is wanted of the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpipSpec {
    /// Its name.
    pub name: InterfaceName,
    /// The largest packet inside, in bytes.
    pub mtu: u32,
    /// The node's address in the tunnel, once it has one.
    pub address: Option<Ipv4Addr>,
}

/// The device as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedIpip {
    /// What every interface has.
    pub link: Link,
    /// The one address that its packets leave with; the kernel chooses where it is absent.
    pub local: Option<IpAddr>,
    /// The one address that its packets go to; each route says it where it is absent.
    pub remote: Option<IpAddr>,
}

impl ObservedIpip {
    /// Says why the device cannot be ours, if it cannot.
    fn foreign(&self) -> Option<String> {
        if self.link.kind.as_deref() != Some(KIND) {
            let kind = self.link.kind.as_deref().unwrap_or("hardware");
            return Some(format!("it is of type {kind}, not {KIND}"));
        }
        if let Some(remote) = self.remote {
            return Some(format!("it leads to {remote} alone"));
        }
        self.local
            .map(|local| format!("it takes packets to {local} alone"))
    }
}

/// Returns the device of a name, whoever's it is.
///
/// # Errors
/// The kernel's refusal, other than that there is none.
pub fn observe(netlink: &mut Rtnetlink, name: &InterfaceName) -> Result<Option<ObservedIpip>, NetlinkError> {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(name.as_str().to_owned()));
    let operation = format_args!("find link {name}");
    match netlink.fetch(&RouteNetlinkMessage::GetLink(message), &operation, read) {
        Err(error) if error.is_absent() => Ok(None),
        other => other,
    }
}

/// Brings the device to what is wanted, making it where there is none.
///
/// # Errors
/// The kernel has no such devices, the name is another's, another device takes all IPIP packets, or a change was
/// refused.
pub fn ensure(netlink: &mut Rtnetlink, spec: &IpipSpec) -> Result<Ensured, TunnelError> {
    let IpipSpec { name, mtu, address } = spec;
    let wanted = DeviceSpec {
        name,
        mtu: *mtu,
        mac: None,
        address: address.map(IpAddr::V4),
    };
    let mut steps = Vec::new();
    let observed = match observe(netlink, name)? {
        Some(observed) => observed,
        None => {
            let made = create(netlink, name);
            // Loading the module made it, or another did, between the look and the order.
            match observe(netlink, name)? {
                Some(observed) => {
                    steps.push(TunnelStep::Create(KIND));
                    observed
                }
                None => return Err(absent(netlink, name, made)?),
            }
        }
    };
    if let Some(reason) = observed.foreign() {
        return Err(TunnelError::Foreign {
            device: name.to_string(),
            reason,
        });
    }
    device::settle(netlink, &wanted, steps)
}

/// Takes our address off the device, sets it down and leaves its checksums to what comes after it, as the kernel made it;
/// says whether it was there and ours.
///
/// The kernel keeps the device itself.
///
/// # Errors
/// The kernel's refusal.
pub fn release(netlink: &mut Rtnetlink, name: &InterfaceName) -> Result<bool, NetlinkError> {
    let Some(observed) = observe(netlink, name)?.filter(|observed| observed.foreign().is_none()) else {
        return Ok(false);
    };
    let link = observed.link;
    let steps = device::plan_address(None, &addresses::list_of(netlink, &link)?);
    addresses::execute(netlink, &link, &steps)?;
    if link.up {
        links::execute(netlink, &link, &[LinkStep::SetState(AdminState::Down)])?;
    }
    let was_used = link.up || !steps.is_empty();
    if was_used
        && let Err(error) = DeviceSettings::open()
            .and_then(|mut settings| settings.set_checksum_offload(&link, ChecksumOffload::On))
    {
        // It costs whoever uses it next some speed.
        tracing::debug!(device = %link.name, %error, "checksum offload cannot be switched on again");
    }
    Ok(true)
}

fn create(netlink: &mut Rtnetlink, name: &InterfaceName) -> Result<(), NetlinkError> {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(name.as_str().to_owned()));
    message
        .attributes
        .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::IpIp)]));
    let operation = format_args!("add link {name} type {KIND}");
    netlink.execute(
        &RouteNetlinkMessage::NewLink(message),
        CREATE | EXCLUSIVE,
        &operation,
    )
}

/// Says why there is no device after it was ordered.
fn absent(
    netlink: &mut Rtnetlink,
    name: &InterfaceName,
    made: Result<(), NetlinkError>,
) -> Result<TunnelError, NetlinkError> {
    let device = name.to_string();
    let error = match made {
        Ok(()) => return Ok(TunnelError::Vanished { device }),
        Err(error) if error.is_present() => error,
        Err(error) => return Ok(creation_error(error, &device, KIND)),
    };
    // The namespace takes one such device that leads nowhere in particular, and it has another name.
    for link in links::list(netlink)? {
        if link.kind.as_deref() == Some(KIND)
            && let Some(observed) = observe(netlink, &link.name)?
            && observed.foreign().is_none()
        {
            return Ok(TunnelError::Taken {
                device,
                what: "the IPIP packets of all nodes".to_owned(),
                holder: link.name.to_string(),
            });
        }
    }
    Ok(error.into())
}

fn read(message: Message<'_>) -> Option<ObservedIpip> {
    if message.message_type == NEW_LINK {
        read_body(message.body)
    } else {
        None
    }
}

fn read_body(body: &[u8]) -> Option<ObservedIpip> {
    let link = links::read_body(body)?;
    let data = attributes::find(body.get(LINK_HEADER..)?, LINK_INFO)
        .and_then(|detail| attributes::find(detail, INFO_DATA))
        .unwrap_or_default();
    let one = |kind| {
        attributes::find(data, kind)
            .and_then(attributes::address)
            .filter(|address| !address.is_unspecified())
    };
    Some(ObservedIpip {
        local: one(LOCAL),
        remote: one(REMOTE),
        link,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_body(&bytes);
        }
    }
}
