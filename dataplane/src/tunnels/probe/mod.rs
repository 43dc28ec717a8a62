//! Finds out whether the checksums of packets into a tunnel arrive as they should, where nobody has said it.
//!
//! Some network cards and virtual switches are asked to compute the inner checksum of a wrapped packet and compute it
//! wrongly or not at all: then pings pass, and TCP and UDP do not. A peer is asked through the tunnel; [`trial`] decides
//! (pure), `ask` has the sockets, and here is the thread that has both, beside the passes. What it finds is a wish: only
//! a pass switches a device, so that there is one who writes.
//!
//! Who could have a node believe something wrong? To have it switched off for good, UDP has to get no answer while it is
//! on and one while it is off. An answer counts only if it comes by the device itself, from the peer's own address, and
//! quotes the asking socket's addresses and ports (the kernel compares them); echoes carry a token. Pods send with their
//! own addresses only and nothing wrapped, and tunnels take packets of nodes only. What remains is a node that lies for
//! itself, or whose refusals a flood holds back for just those seconds: it costs the asker some speed, and nothing else.

mod ask;
mod thread;
mod trial;
#[cfg(test)]
mod trial_tests;

pub(super) use thread::Prober;

use dataplane_netlink::InterfaceName;
use dataplane_netlink::tunnels::offload::ChecksumOffload;
use std::net::IpAddr;
use std::sync::Arc;

/// A device whose checksums are to be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subject {
    /// Its name.
    pub(super) device: InterfaceName,
    /// What the answer holds for.
    pub(super) footing: Footing,
    /// This node's address in the tunnel.
    pub(super) source: IpAddr,
    /// Addresses of other nodes in the tunnel.
    pub(super) peers: Arc<[IpAddr]>,
    /// Who computes its checksums now.
    pub(super) offload: ChecksumOffload,
    /// How many switches that were asked for have been tried since.
    pub(super) switches: u32,
}

/// What an answer holds for: another device of the same name, or another below it, has to be tried anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footing {
    /// The number of the tunnel's device.
    pub(super) link: u32,
    /// The number of the device that carries it, where that is known.
    pub(super) carrier: Option<u32>,
}

/// What was found of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// Checksums that it leaves to others arrive as they should.
    Works,
    /// Only those arrive that it computes itself.
    Broken,
    /// Some peers answer echoes and no UDP, whoever computes: something else is the matter.
    NoHelp,
    /// The device does not let itself be switched, though that might help.
    Unswitchable,
}

/// What the thread has to say about a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// It is to be switched.
    Switch(ChecksumOffload),
    /// This was found.
    Found(Finding),
}
