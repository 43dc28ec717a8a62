//! A cable with a piece that does what broken hardware does: it completes the outermost checksum of a frame, and none of what
//! is wrapped in it.
//!
//! The kernel hands a packet on with its checksum unfinished where the device below promises to finish it, as a veth does.
//! A packet socket reads it as it is, so what a program carries from one socket to another arrives with a checksum that
//! nobody accepts, unless the program completes it. Whatever the sender computed itself arrives unharmed.

use crate::bed::{ip, namespace, within};
use crate::packet::{ETHERNET, complete};
use crate::wire::Wire;
use crate::world::MTU;
use dataplane_netlink::NetworkNamespace;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// The ends of the two sound pieces at the broken one.
pub(super) const ENDS: [&str; 2] = ["left", "right"];
/// What fits: a frame that the sender wants cut into segments by the hardware is lost.
const LARGEST: usize = MTU as usize + ETHERNET;

/// The broken piece. It ends with its handle.
#[derive(Debug)]
pub(super) struct Worn {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Worn {
    /// Between the [`ENDS`] that `plug` makes in the namespace that it is given.
    pub(super) fn new(plug: impl FnOnce(&NetworkNamespace)) -> Self {
        let place = namespace();
        plug(&place);
        let wires = within(&place, || {
            ENDS.map(|end| {
                let quiet = format!("/proc/sys/net/ipv6/conf/{end}/disable_ipv6");
                std::fs::write(quiet, "1").expect("keep the kernel from speaking itself");
                ip(&format!("link set {end} arp off up"));
                Wire::open_here(end)
            })
        });
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let body = move || {
            // The namespace goes with the thread.
            let _place = place;
            while !told.load(Ordering::Relaxed) {
                carry(&wires);
            }
        };
        let thread = std::thread::Builder::new()
            .name("worn cable".to_string())
            .spawn(body);
        Worn {
            stop,
            thread: Some(thread.expect("start a thread")),
        }
    }
}

impl Drop for Worn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Carries what comes within a while.
fn carry([left, right]: &[Wire; 2]) {
    let mut wait = [left, right].map(|wire| PollFd::new(wire.as_fd(), PollFlags::POLLIN));
    let _ = poll(&mut wait, PollTimeout::from(100u8));
    for (from, to) in [(left, right), (right, left)] {
        from.drain(|frame| {
            if frame.len() <= LARGEST {
                let mut frame = frame.to_vec();
                complete(&mut frame);
                // The other end may be gone with its machine.
                let _lost = to.sender().try_send(&frame);
            }
        });
    }
}
