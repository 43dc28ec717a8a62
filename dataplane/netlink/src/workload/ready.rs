//! Waits for what the kernel does in the background before a workload can send and receive.

use std::net::IpAddr;
use std::time::Duration;

use crate::error::NetlinkError;
use crate::links::{self, Link, OperState};
use crate::routes;
use crate::rtnetlink::Rtnetlink;

/// How often the far end is asked whether it is ready. What the kernel does not hurry with it does within a second.
const READY_LOOKS: u32 = 3_000;

/// Pause after a first look at the far end: the kernel's background work takes some ten microseconds where a processor
/// is free. It doubles up to the longest.
const FIRST_READY_PAUSE: Duration = Duration::from_micros(50);
const LONGEST_READY_PAUSE: Duration = Duration::from_millis(1);

/// Waits until the workload can send and receive.
///
/// The kernel notices in the background that the near end came up, and drops what the workload sends until
/// then; and it makes IPv6 addresses effective in the background, and drops what is sent to them until then.
/// Without this, the workload's first packet would be lost now and then.
pub(crate) fn wait_until_ready(
    socket: &mut Rtnetlink,
    container: &Link,
    addresses: &[IpAddr],
) -> Result<(), NetlinkError> {
    let mut pause = FIRST_READY_PAUSE;
    for _ in 0..READY_LOOKS {
        let link = links::find_index(socket, container.index)?;
        let mut ready = link.is_some_and(|link| link.oper_state != OperState::Down);
        for address in addresses {
            ready = ready && routes::is_local(socket, *address)?;
        }
        if ready {
            return Ok(());
        }
        std::thread::sleep(pause);
        pause = LONGEST_READY_PAUSE.min(pause * 2);
    }
    // Not a failure: all that can be written is written, and the kernel may be very busy.
    tracing::warn!(interface = %container.name, ?addresses, "the sandbox's interface is not ready after three seconds");
    Ok(())
}
