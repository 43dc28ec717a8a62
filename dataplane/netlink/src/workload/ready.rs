//! Waits for what the kernel does in the background before a workload can send and receive.

use std::net::IpAddr;
use std::time::Duration;

use crate::error::NetlinkError;
use crate::links::{self, Link, OperState};
use crate::routes;
use crate::rtnetlink::Rtnetlink;
use crate::workload::Workloads;

/// How often the two ends are asked whether they are ready. What the kernel does not hurry with it does within a second; a
/// machine that is short of processors may take several.
const READY_LOOKS: u32 = 10_000;

/// Pause after a first look: the kernel's background work takes some ten microseconds where a processor
/// is free. It doubles up to the longest.
const FIRST_READY_PAUSE: Duration = Duration::from_micros(50);
const LONGEST_READY_PAUSE: Duration = Duration::from_millis(1);

/// A workload's interface that is all written, of which the kernel may have something left to do in the background.
///
/// The kernel notices in the background that either end came up because of the other, and drops what is sent into it
/// until then; and it makes IPv6 addresses effective in the background, and drops what is sent to them until then.
/// Without a wait, the workload's first packet or the answer to it would be lost now and then.
#[derive(Debug)]
pub struct Unready {
    host: Link,
    container: Link,
    /// Stays in the sandbox.
    socket: Rtnetlink,
    addresses: Vec<IpAddr>,
}

impl Unready {
    pub(crate) fn new(host: Link, container: Link, socket: Rtnetlink, addresses: Vec<IpAddr>) -> Self {
        Unready {
            host,
            container,
            socket,
            addresses,
        }
    }

    /// Whether the workload can send and receive.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn is_ready(&mut self, workloads: &mut Workloads) -> Result<bool, NetlinkError> {
        if !carries(&mut self.socket, &self.container)? || !carries(&mut workloads.netlink, &self.host)? {
            return Ok(false);
        }
        for address in &self.addresses {
            if !routes::is_local(&mut self.socket, *address)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits until the workload can send and receive.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn wait(&mut self, workloads: &mut Workloads) -> Result<(), NetlinkError> {
        let mut pause = FIRST_READY_PAUSE;
        for _ in 0..READY_LOOKS {
            if self.is_ready(workloads)? {
                return Ok(());
            }
            std::thread::sleep(pause);
            pause = LONGEST_READY_PAUSE.min(pause * 2);
        }
        let (interface, addresses) = (&self.container.name, &self.addresses);
        // Not a failure: all that can be written is written, and the kernel may be very busy.
        tracing::warn!(%interface, ?addresses, "the sandbox's interface is not ready after ten seconds");
        Ok(())
    }
}

/// Whether the kernel has noticed that an end can carry packets.
///
/// Of a new pair it says that it does not know, until it has looked at it for the first time: no reason to believe that it
/// carries anything. Only then it gives the end the queue in place of the one that drops everything.
fn carries(netlink: &mut Rtnetlink, link: &Link) -> Result<bool, NetlinkError> {
    let found = links::find_index(netlink, link.index)?;
    Ok(found.is_some_and(|link| link.oper_state == OperState::Up))
}
