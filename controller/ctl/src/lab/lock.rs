//! One command at a time makes or removes the lab, and an interrupt takes back what was half made.

use anyhow::Context;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{SignalKind, signal};

/// A name in the kernel, not in a folder: it is gone with its process, whatever ends that.
const NAME: &[u8] = b"manx-lab";

/// Held while the lab is made or removed.
pub(super) struct Lock {
    _listener: UnixListener,
}

/// Takes the lock, or says who has it.
pub(super) fn take() -> anyhow::Result<Lock> {
    let address = SocketAddr::from_abstract_name(NAME).context("naming the lab's lock")?;
    let listener = UnixListener::bind_addr(&address)
        .context("another 'manx lab up' or 'manx lab down' is under way; wait for it, or end it")?;
    Ok(Lock { _listener: listener })
}

/// Whether somebody wants the command to end.
pub(super) struct Interrupt {
    flag: Arc<AtomicBool>,
}

impl Interrupt {
    /// Watches for SIGINT, SIGTERM and SIGHUP from now on; they no longer end the process by themselves.
    pub(super) fn watch() -> anyhow::Result<Interrupt> {
        let flag = Arc::new(AtomicBool::new(false));
        let seen = flag.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (mut interrupt, mut terminate, mut hang_up) = {
            let _guard = runtime.enter();
            (
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
                signal(SignalKind::hangup())?,
            )
        };
        std::thread::spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                        _ = hang_up.recv() => {}
                    }
                    if seen.swap(true, Ordering::Relaxed) {
                        // Asked twice: at once, leaving what is there to 'manx lab down'.
                        std::process::exit(130);
                    }
                }
            });
        });
        Ok(Interrupt { flag })
    }

    /// Whether the command is to end.
    pub(super) fn is_there(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    /// An error if the command is to end.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.is_there(), "interrupted");
        Ok(())
    }
}
