//! Addresses of interfaces.
//!
//! A workload's address stands on its interface alone (`/32`, `/128`): there is no subnet on the link, every
//! packet goes to the gateway. Duplicate address detection is off, since the allocation already guarantees
//! that an address is given once, and a pod must not wait a second for its first packet.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::attributes;
use crate::error::NetlinkError;
use crate::links::Link;
use crate::rtnetlink::Rtnetlink;
use crate::socket::{CREATE, EXCLUSIVE, Message};

/// Types of messages and attributes that are read here (`linux/if_addr.h`).
const NEW_ADDRESS: u16 = 20;
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const FLAGS: u16 = 8;
/// Bytes before the attributes (`struct ifaddrmsg`).
const HEADER: usize = 8;
/// The address may not be used yet, or was found to be used by another.
const TENTATIVE: u32 = 0x40;
const DUPLICATE: u32 = 0x08;
/// The scope of addresses that are valid beyond the link.
const SCOPE_GLOBAL: u8 = 0;

/// An address as the kernel reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The number of its interface.
    pub link: u32,
    /// The address with its prefix length.
    pub net: IpNet,
    /// Whether it is valid beyond its link; link-local and loopback addresses are not.
    pub scope: Scope,
    /// Whether it can be used now.
    pub usable: bool,
}

/// How far an address is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Beyond the link.
    Global,
    /// On the link or the machine only; the kernel makes most of these itself.
    Local,
}

/// One change to the addresses of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressStep {
    /// Remove an address.
    Remove(IpNet),
    /// Add an address.
    Add(IpNet),
}

impl fmt::Display for AddressStep {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remove(net) => write!(formatter, "remove address {net}"),
            Self::Add(net) => write!(formatter, "add address {net}"),
        }
    }
}

/// Returns the changes that give an interface exactly these addresses beyond its link, removals first.
///
/// Link-local addresses are added if wanted and never removed: the kernel makes them.
pub fn plan(desired: &[IpNet], observed: &[Address]) -> Vec<AddressStep> {
    let mut steps: Vec<AddressStep> = observed
        .iter()
        .filter(|address| address.scope == Scope::Global && !desired.contains(&address.net))
        .map(|address| AddressStep::Remove(address.net))
        .collect();
    for (place, net) in desired.iter().enumerate() {
        let repeated = desired.iter().take(place).any(|earlier| earlier == net);
        if !repeated && !observed.iter().any(|address| address.net == *net) {
            steps.push(AddressStep::Add(*net));
        }
    }
    steps
}

/// Carries changes to the addresses of one interface out, in order; the first failure ends them.
///
/// # Errors
/// The kernel's refusal, other than that what is to be removed is not there.
pub fn execute(netlink: &mut Rtnetlink, link: &Link, steps: &[AddressStep]) -> Result<(), NetlinkError> {
    for step in steps {
        let operation = format_args!("{step} dev {}", link.name);
        match step {
            AddressStep::Add(net) => {
                let message = RouteNetlinkMessage::NewAddress(encode(link.index, *net));
                netlink.execute(&message, CREATE | EXCLUSIVE, &operation)?;
            }
            AddressStep::Remove(net) => {
                let message = RouteNetlinkMessage::DelAddress(encode(link.index, *net));
                match netlink.execute(&message, 0, &operation) {
                    Err(error) if !error.is_absent() => return Err(error),
                    _ => {}
                }
            }
        }
    }
    Ok(())
}

fn encode(link: u32, net: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = link;
    message.header.prefix_len = net.prefix_len();
    message.header.family = family(net.addr());
    let local = match net.addr() {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    message.header.scope = if local {
        AddressScope::Link
    } else {
        AddressScope::Universe
    };
    message.attributes.push(AddressAttribute::Local(net.addr()));
    message.attributes.push(AddressAttribute::Address(net.addr()));
    if net.addr().is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
        message
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
}

/// Returns netlink's number for an address's family.
pub(crate) fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// Returns the addresses of all interfaces of the namespace.
///
/// # Errors
/// The list could not be read.
pub fn list(netlink: &mut Rtnetlink) -> Result<Vec<Address>, NetlinkError> {
    let message = AddressMessage::default();
    netlink.dump(&RouteNetlinkMessage::GetAddress(message), &"list addresses", read)
}

/// Returns the addresses of one interface.
///
/// # Errors
/// The list could not be read; also if the interface does not exist.
pub fn list_of(netlink: &mut Rtnetlink, link: &Link) -> Result<Vec<Address>, NetlinkError> {
    let mut message = AddressMessage::default();
    message.header.index = link.index;
    let operation = format_args!("list addresses dev {}", link.name);
    let mut addresses = netlink.dump(&RouteNetlinkMessage::GetAddress(message), &operation, read)?;
    addresses.retain(|address| address.link == link.index);
    Ok(addresses)
}

fn read(message: Message<'_>) -> Option<Address> {
    if message.message_type == NEW_ADDRESS {
        read_body(message.body)
    } else {
        None
    }
}

/// Reads an address from what follows the message's header.
pub(crate) fn read_body(body: &[u8]) -> Option<Address> {
    let prefix_length = *body.get(1)?;
    let mut flags = u32::from(*body.get(2)?);
    let scope = *body.get(3)?;
    let link = attributes::native32(body.get(4..)?)?;
    let (mut local, mut address) = (None, None);
    for (kind, value) in attributes::walk(body.get(HEADER..)?) {
        match kind {
            LOCAL => local = attributes::address(value),
            ADDRESS => address = attributes::address(value),
            FLAGS => flags = attributes::native32(value)?,
            _ => {}
        }
    }
    // On a point-to-point link ADDRESS is the other end's; LOCAL, where present, is always our own.
    let net = IpNet::new(local.or(address)?, prefix_length).ok()?;
    let scope = if scope == SCOPE_GLOBAL {
        Scope::Global
    } else {
        Scope::Local
    };
    Some(Address {
        link,
        net,
        scope,
        usable: flags & (TENTATIVE | DUPLICATE) == 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(last: u8) -> IpNet {
        format!("10.0.0.{last}/32").parse().unwrap()
    }

    fn address(net: IpNet, scope: Scope) -> Address {
        Address {
            link: 2,
            net,
            scope,
            usable: true,
        }
    }

    fn apply(observed: &mut Vec<Address>, steps: &[AddressStep]) {
        for step in steps {
            match step {
                AddressStep::Remove(net) => observed.retain(|address| address.net != *net),
                AddressStep::Add(net) => observed.push(address(*net, Scope::Global)),
            }
        }
    }

    #[test]
    fn removals_come_first_and_link_local_addresses_stay() {
        let link_local: IpNet = "fe80::1/64".parse().unwrap();
        let observed = [address(net(1), Scope::Global), address(link_local, Scope::Local)];
        assert_eq!(
            plan(&[net(2)], &observed),
            [AddressStep::Remove(net(1)), AddressStep::Add(net(2))]
        );
    }

    proptest! {
        #[test]
        fn applying_a_plan_twice_changes_nothing(
            desired in proptest::collection::vec(1u8..6, 0..5),
            present in proptest::collection::btree_set(1u8..6, 0..5),
        ) {
            let desired: Vec<IpNet> = desired.into_iter().map(net).collect();
            let mut observed: Vec<Address> =
                present.into_iter().map(|last| address(net(last), Scope::Global)).collect();
            let steps = plan(&desired, &observed);
            apply(&mut observed, &steps);
            prop_assert_eq!(plan(&desired, &observed), vec![]);
            for net in &desired {
                prop_assert_eq!(observed.iter().filter(|address| address.net == *net).count(), 1);
            }
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = read_body(&bytes);
        }
    }
}
