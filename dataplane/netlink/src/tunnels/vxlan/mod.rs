//! The VXLAN device: Ethernet in UDP, one device for all nodes, told which node is behind which Ethernet address.
//!
//! Name, number, port and Ethernet address are a convention that the other nodes of the cluster rely on, whichever
//! software runs there. Nothing is learnt from packets that arrive: see [`crate::tunnels::peers`].

mod plan;
mod wire;

pub use plan::{Change, Difference, is_ours, plan};

use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use sha1::{Digest, Sha1};

use crate::error::NetlinkError;
use crate::links::{self, Link};
use crate::mac::MacAddress;
use crate::names::{InterfaceName, InvalidInterfaceName};
use crate::rtnetlink::Rtnetlink;
use crate::tunnels::device::{self, DeviceSpec};
use crate::tunnels::{Ensured, TunnelError, TunnelStep, creation_error};

/// The name of the device that carries IPv4 by IPv4.
pub const VXLAN_DEVICE_V4: &str = "vxlan.calico";
/// The name of the device that carries IPv6 by IPv6.
pub const VXLAN_DEVICE_V6: &str = "vxlan-v6.calico";
/// The network number that is used where none is configured.
pub const DEFAULT_VNI: Vni = Vni(4096);
/// The UDP port that is used where none is configured (RFC 7348).
pub const DEFAULT_PORT: u16 = 4789;
/// The first byte of every derived Ethernet address: the letter `f`, which says "locally made, one receiver".
const DERIVED_FIRST: u8 = 0x66;
/// The kernel's name for the kind, and of the module that has it.
const KIND: &str = "vxlan";

/// The number of a VXLAN network, of 24 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vni(u32);

/// A number that no VXLAN network can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not the number of a VXLAN network: it has to be between 0 and 16777215")]
pub struct InvalidVni(pub u32);

impl Vni {
    /// Returns the number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Vni {
    type Error = InvalidVni;

    fn try_from(number: u32) -> Result<Self, InvalidVni> {
        if number < 1 << 24 {
            Ok(Self(number))
        } else {
            Err(InvalidVni(number))
        }
    }
}

/// Which sort of addresses a device carries, and by which it is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4 by IPv4.
    V4,
    /// IPv6 by IPv6.
    V6,
}

/// Returns the Ethernet address of a node's VXLAN device where none is configured: `66`, and the first five bytes of
/// SHA-1 of the node's name (IPv6: of the name and `-v6`).
///
/// Every node computes it of every other, so neither the hash nor its cut can change.
pub fn derived_mac(node: &str, family: Family) -> MacAddress {
    let mut hash = Sha1::new();
    hash.update(node.as_bytes());
    if family == Family::V6 {
        hash.update(b"-v6");
    }
    let [first, second, third, fourth, fifth, ..] = <[u8; 20]>::from(hash.finalize());
    MacAddress::new([DERIVED_FIRST, first, second, third, fourth, fifth])
}

/// What a device is called and known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VxlanIdentity {
    /// Its name.
    pub name: InterfaceName,
    /// The number of its network.
    pub vni: Vni,
    /// The UDP port at which it takes and to which it sends packets.
    pub port: u16,
    /// Its Ethernet address.
    pub mac: MacAddress,
}

impl VxlanIdentity {
    /// Returns the identity of a node's device where nothing is configured.
    ///
    /// # Errors
    /// Never: the names are the kernel's to take.
    pub fn of_node(node: &str, family: Family) -> Result<Self, InvalidInterfaceName> {
        let name = match family {
            Family::V4 => VXLAN_DEVICE_V4,
            Family::V6 => VXLAN_DEVICE_V6,
        };
        Ok(Self {
            name: InterfaceName::new(name)?,
            vni: DEFAULT_VNI,
            port: DEFAULT_PORT,
            mac: derived_mac(node, family),
        })
    }
}

/// What is wanted of a VXLAN device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VxlanSpec {
    /// What it is called and known by.
    pub identity: VxlanIdentity,
    /// The node's own address, with which packets leave. Its family is that of the outer packets.
    pub local: IpAddr,
    /// The number of the only device that may carry its packets; the node's routes decide where it is absent. With
    /// one, the tunnel goes when that device goes.
    pub carrier: Option<u32>,
    /// The largest packet inside, in bytes.
    pub mtu: u32,
    /// The node's address in the tunnel, once it has one.
    pub address: Option<IpAddr>,
}

/// A device as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedVxlan {
    /// What every interface has.
    pub link: Link,
    /// What only VXLAN devices have; absent if it is of another kind.
    pub vxlan: Option<VxlanAttributes>,
}

/// What only VXLAN devices have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VxlanAttributes {
    /// The number of its network.
    pub vni: u32,
    /// The UDP port.
    pub port: u16,
    /// The address with which packets leave; the routes choose where it is absent.
    pub local: Option<IpAddr>,
    /// Where packets go whose receiver is not known: a group or a node. A Manx tunnel has none.
    pub remote: Option<IpAddr>,
    /// The number of the only device that may carry its packets.
    pub carrier: Option<u32>,
    /// Whether receivers are learnt from packets that arrive.
    pub learning: bool,
    /// Something that makes its packets or its lookups others' than a tunnel's of ours: by its usual name.
    pub exotic: Option<&'static str>,
}

/// Returns the device of a name, whoever's and of whatever kind it is.
///
/// # Errors
/// The kernel's refusal, other than that there is none.
pub fn observe(netlink: &mut Rtnetlink, name: &InterfaceName) -> Result<Option<ObservedVxlan>, NetlinkError> {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(name.as_str().to_owned()));
    let operation = format_args!("find link {name}");
    match netlink.fetch(&RouteNetlinkMessage::GetLink(message), &operation, wire::read) {
        Err(error) if error.is_absent() => Ok(None),
        other => other,
    }
}

/// Brings the device to what is wanted: makes it, corrects it in place, or removes ours and makes it anew where the
/// kernel can do no better.
///
/// # Errors
/// The kernel has no such devices, the name or the network number is another's, or a change was refused.
pub fn ensure(netlink: &mut Rtnetlink, spec: &VxlanSpec) -> Result<Ensured, TunnelError> {
    let wanted = DeviceSpec {
        name: &spec.identity.name,
        mtu: spec.mtu,
        mac: Some(spec.identity.mac),
        address: spec.address,
    };
    device::check(&wanted)?;
    let observed = observe(netlink, &spec.identity.name)?;
    let steps = match (plan(spec, observed.as_ref())?, observed) {
        (Change::Correct(steps), Some(observed)) => {
            for step in &steps {
                wire::execute(netlink, &observed.link, step)?;
            }
            steps
        }
        (Change::Rebuild(difference), Some(observed)) => {
            links::delete(netlink, &observed.link)?;
            create(netlink, spec)?;
            vec![TunnelStep::Rebuild(difference)]
        }
        (_, _) => {
            create(netlink, spec)?;
            vec![TunnelStep::Create(KIND)]
        }
    };
    device::settle(netlink, &wanted, steps)
}

/// Removes the device if it is there and ours; says whether it was.
///
/// The kernel waits about 20 ms.
///
/// # Errors
/// The kernel's refusal.
pub fn remove(netlink: &mut Rtnetlink, identity: &VxlanIdentity) -> Result<bool, NetlinkError> {
    match observe(netlink, &identity.name)? {
        Some(observed) if is_ours(identity, &observed).is_ok() => links::delete(netlink, &observed.link),
        _ => Ok(false),
    }
}

fn create(netlink: &mut Rtnetlink, spec: &VxlanSpec) -> Result<(), TunnelError> {
    let VxlanIdentity { name, vni, port, .. } = &spec.identity;
    match wire::create(netlink, spec) {
        Ok(()) => Ok(()),
        // Of the same name is nothing, so it is the number that is taken.
        Err(error) if error.is_present() => {
            let (vni, port) = (vni.number(), *port);
            let what = format!("VXLAN network {vni} at UDP port {port}");
            match holder(netlink, vni, port)? {
                Some(holder) => Err(TunnelError::Taken {
                    device: name.to_string(),
                    what,
                    holder: holder.to_string(),
                }),
                None => Err(error.into()),
            }
        }
        Err(error) => Err(creation_error(error, name.as_str(), KIND)),
    }
}

/// Returns the device that has a network's number at a port.
fn holder(netlink: &mut Rtnetlink, vni: u32, port: u16) -> Result<Option<InterfaceName>, NetlinkError> {
    for link in links::list(netlink)? {
        if link.kind.as_deref() != Some(KIND) {
            continue;
        }
        let observed = observe(netlink, &link.name)?.and_then(|observed| observed.vxlan);
        if observed.is_some_and(|found| (found.vni, found.port) == (vni, port)) {
            return Ok(Some(link.name));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ethernet_address_is_that_of_the_convention() {
        // printf %s node-1 | sha1sum; printf %s node-1-v6 | sha1sum
        assert_eq!(derived_mac("node-1", Family::V4).to_string(), "66:b3:68:28:39:8e");
        assert_eq!(derived_mac("node-1", Family::V6).to_string(), "66:24:ac:63:df:6c");
        assert!(derived_mac("", Family::V4).is_usable());
    }

    #[test]
    fn the_identity_is_that_of_the_convention() {
        let identity = VxlanIdentity::of_node("node-1", Family::V4).unwrap();
        assert_eq!(identity.name.as_str(), "vxlan.calico");
        assert_eq!((identity.vni.number(), identity.port), (4096, 4789));
        let identity = VxlanIdentity::of_node("node-1", Family::V6).unwrap();
        assert_eq!(identity.name.as_str(), "vxlan-v6.calico");
    }

    #[test]
    fn a_network_has_twenty_four_bits() {
        assert_eq!(Vni::try_from((1 << 24) - 1).map(Vni::number), Ok((1 << 24) - 1));
        assert!(
            Vni::try_from(1 << 24)
                .unwrap_err()
                .to_string()
                .contains("16777216")
        );
    }
}
