//! The pod's side: its namespace is entered, a netlink socket opened inside, and loopback brought up.
//!
//! The program has one thread and ends soon, so it goes into the namespace and stays there. Sockets of the file system
//! are reached from every network namespace.

use crate::failure::Failure;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

/// Netlink's numbers (rtnetlink(7)).
const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const ERROR: u16 = 2;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
/// An interface is up (IFF_UP).
const UP: u32 = 1;
/// The number of every namespace's loopback interface.
const LOOPBACK: u32 = 1;
/// A header, and what is said of an interface.
const HEADER: usize = 16;
const LENGTH: usize = 32;

/// A sandbox that this program is in.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) namespace: File,
    /// A netlink socket that was opened inside.
    pub(crate) netlink: OwnedFd,
}

impl Sandbox {
    /// Enters the network namespace at a path.
    pub(crate) fn enter(path: &str, may_be_own: bool) -> Result<Self, Failure> {
        let variable = format!("CNI_NETNS {path:?}");
        let namespace = File::open(path)
            .map_err(|error| Failure::unknown_sandbox(format!("{variable} cannot be opened: {error}")))?;
        let own = File::open("/proc/self/ns/net").and_then(|own| own.metadata());
        if let (Ok(own), Ok(theirs)) = (own, namespace.metadata())
            && (own.dev(), own.ino()) == (theirs.dev(), theirs.ino())
            && !may_be_own
        {
            return Err(Failure::own_namespace(format!(
                "{variable} is the network namespace that this program runs in, not a sandbox"
            ))
            .with_details("CNI_NETNS_OVERRIDE=1 allows it"));
        }
        setns(&namespace, CloneFlags::CLONE_NEWNET)
            .map_err(|error| Failure::unknown_sandbox(format!("{variable} cannot be entered: {error}")))?;
        let netlink = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )
        .map_err(|error| Failure::io("opening a netlink socket in the sandbox", error))?;
        Ok(Sandbox { namespace, netlink })
    }

    /// Brings the loopback interface up.
    pub(crate) fn raise_loopback(&self) -> Result<(), Failure> {
        self.ask(NEW_LINK, UP).map(drop)
    }

    /// Whether the loopback interface is up.
    pub(crate) fn is_loopback_up(&self) -> Result<bool, Failure> {
        self.ask(GET_LINK, 0).map(|flags| flags & UP != 0)
    }

    /// Asks about the loopback interface, or changes whether it is up, and returns its flags where the kernel tells.
    fn ask(&self, what: u16, up: u32) -> Result<u32, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::io("the sandbox's loopback interface", error);
        let mut message = Vec::with_capacity(LENGTH);
        message.extend_from_slice(&(LENGTH as u32).to_ne_bytes());
        message.extend_from_slice(&what.to_ne_bytes());
        let acknowledge = if what == NEW_LINK { ACKNOWLEDGE } else { 0 };
        message.extend_from_slice(&(REQUEST | acknowledge).to_ne_bytes());
        // Number and sender's port, family and type, then number, flags, and which flags are meant.
        message.extend_from_slice(&[0; 12]);
        for field in [LOOPBACK, up, up] {
            message.extend_from_slice(&field.to_ne_bytes());
        }
        let socket = self.netlink.as_raw_fd();
        sendto(socket, &message, &NetlinkAddr::new(0, 0), MsgFlags::empty()).map_err(|e| failed(&e))?;
        let mut answer = [0; 16 * 1024];
        let length = recv(socket, &mut answer, MsgFlags::empty()).map_err(|e| failed(&e))?;
        let answer = answer.get(..length).unwrap_or_default();
        let number = |at: usize| -> Option<u32> {
            let bytes = answer.get(at..at + 4)?;
            bytes.try_into().ok().map(u32::from_ne_bytes)
        };
        let kind = answer
            .get(4..6)
            .and_then(|b| b.try_into().ok())
            .map(u16::from_ne_bytes);
        match (kind, number(HEADER)) {
            (Some(ERROR), Some(0)) => Ok(0),
            (Some(ERROR), Some(code)) => {
                let code = (code as i32).saturating_neg();
                Err(failed(&std::io::Error::from_raw_os_error(code)))
            }
            // After the header: family and type (4), number (4), flags.
            (Some(NEW_LINK), _) => {
                number(HEADER + 8).ok_or_else(|| failed(&"the kernel's answer is too short"))
            }
            _ => Err(failed(&"the kernel's answer is not understood")),
        }
    }
}

/// Says whether the sandbox that this program is in may forward packets. What there is no setting for is off anyway.
pub(crate) fn set_forwarding(is_allowed: bool) -> Result<(), Failure> {
    for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        let path = format!("/proc/sys/net/{setting}");
        match std::fs::write(&path, if is_allowed { "1" } else { "0" }) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::io(
                    format!("field container_settings.allow_ip_forwarding: writing {path} in the sandbox"),
                    error,
                ));
            }
            _ => {}
        }
    }
    Ok(())
}
