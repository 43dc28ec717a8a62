//! Tunnels between nodes: the devices, what each knows of the other nodes, and how large a packet fits in.
//!
//! A tunnel device is the node's own and not a pod's, it is known by its name, and other software uses the same
//! names. So each kind says by its attributes whether a device is ours: ours is corrected or made anew, another's is an
//! error and stays. Where nobody can say, no route may lead into it.
//!
//! Rooms, in reading order: [`vxlan`] and [`ipip`] (one kind of device each: spec, observe, plan, ensure, remove),
//! `device` (what both have: size, address, being up), [`peers`] (which node is behind which Ethernet address),
//! [`carrier`] (which device carries a tunnel's packets), [`mtu`] (what fits in), [`offload`] (who computes checksums).

pub mod carrier;
mod device;
pub mod ipip;
pub mod mtu;
pub mod offload;
pub mod peers;
pub mod vxlan;

use std::fmt;
use std::net::IpAddr;

use nix::errno::Errno;

use crate::addresses::AddressStep;
use crate::error::{NetlinkError, Refusal};
use crate::links::{Link, LinkStep};
use crate::rtnetlink::Rtnetlink;
use crate::socket::Request;

/// What a device of ours was brought to, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ensured {
    /// The device as it is now.
    pub link: Link,
    /// What was changed, in order; nothing if all was as wanted. After a change the kernel may have dropped routes and
    /// neighbours of the device: reconcile them again.
    pub steps: Vec<TunnelStep>,
}

/// One change to a tunnel device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TunnelStep {
    /// Make it; says of which kind.
    Create(&'static str),
    /// Remove ours, which the kernel cannot change to what is wanted, and make it anew.
    Rebuild(vxlan::Difference),
    /// Take it out of a bridge or bond.
    Detach,
    /// Set the address that its packets leave with.
    SetLocal(IpAddr),
    /// Learn no Ethernet addresses from what arrives: whoever can send a packet could divert a node's traffic.
    StopLearning,
    /// Change it as any interface.
    Link(LinkStep),
    /// Change its addresses.
    Address(AddressStep),
}

impl fmt::Display for TunnelStep {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(kind) => write!(formatter, "make it, type {kind}"),
            Self::Rebuild(difference) => write!(formatter, "make it anew: {difference}"),
            Self::Detach => formatter.write_str("take it out of its bridge"),
            Self::SetLocal(address) => write!(formatter, "local {address}"),
            Self::StopLearning => formatter.write_str("nolearning"),
            Self::Link(step) => step.fmt(formatter),
            Self::Address(step) => step.fmt(formatter),
        }
    }
}

/// A tunnel device could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TunnelError {
    /// The kernel has no such kind of device.
    #[error(
        "make tunnel device {device}: this kernel has no {module} devices ({refusal}): install and load the kernel module \
         {module} (modprobe {module}), or choose another encapsulation for the IP pools"
    )]
    NoModule {
        /// The device that was to be.
        device: String,
        /// The kernel's module.
        module: &'static str,
        /// What the kernel said.
        refusal: Refusal,
    },
    /// Another device has the name.
    #[error(
        "tunnel device {device}: there is one of that name that is not ours ({reason}): rename or remove it \
         (ip link del {device})"
    )]
    Foreign {
        /// The name.
        device: String,
        /// How it is known to be another's.
        reason: String,
    },
    /// Another device has what only one can have.
    #[error(
        "make tunnel device {device}: {holder} already takes {what}: remove that device, or configure another number here"
    )]
    Taken {
        /// The device that was to be.
        device: String,
        /// What is taken.
        what: String,
        /// The device that has it; what is known of it where it is not to be seen.
        holder: String,
    },
    /// The largest packet is impossible for the addresses that the device is to have.
    #[error(
        "tunnel device {device}: IPv6 needs an MTU of at least 1280, and {mtu} is wanted: raise the MTU of the device \
         that leads to the other nodes"
    )]
    TooNarrow {
        /// The device.
        device: String,
        /// The largest packet that was wanted, in bytes.
        mtu: u32,
    },
    /// The device went away again while it was set up: somebody else removes it.
    #[error("tunnel device {device}: somebody removed it while it was set up")]
    Vanished {
        /// The device.
        device: String,
    },
    /// The conversation with the kernel failed, or it refused a change.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// Carries one request out that has no typed form.
fn execute(
    netlink: &mut Rtnetlink,
    request: Request,
    operation: &dyn fmt::Display,
) -> Result<(), NetlinkError> {
    match netlink.batch(&[request], operation)?.pop() {
        Some(Err(refusal)) => Err(NetlinkError::Refused {
            operation: operation.to_string(),
            refusal,
        }),
        _ => Ok(()),
    }
}

/// Names the module where the kernel refused a device because it does not know its kind.
fn creation_error(error: NetlinkError, device: &str, module: &'static str) -> TunnelError {
    match error {
        NetlinkError::Refused {
            operation: _,
            refusal,
        } if matches!(refusal.errno, Errno::EOPNOTSUPP | Errno::ENOENT) => TunnelError::NoModule {
            device: device.to_owned(),
            module,
            refusal,
        },
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_that_the_kernel_lacks_names_the_module_and_what_to_do() {
        let refused = |errno| NetlinkError::Refused {
            operation: "add link tunl0 type ipip".into(),
            refusal: Refusal {
                errno,
                explanation: Some("Unknown device type".into()),
            },
        };
        for errno in [Errno::EOPNOTSUPP, Errno::ENOENT] {
            let text = creation_error(refused(errno), "tunl0", "ipip").to_string();
            assert!(text.contains("tunl0") && text.contains("modprobe ipip"), "{text}");
        }
        let other = creation_error(refused(Errno::EPERM), "tunl0", "ipip");
        assert!(matches!(other, TunnelError::Netlink(_)), "{other}");
    }
}
