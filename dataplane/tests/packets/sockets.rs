//! Sockets with ports that a test has had before.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

/// Binds as soon as nobody has the address.
///
/// What a test has closed is in use for a moment longer while another test starts a program: that begins as a copy of this
/// process, with everything that is open here, until it is the program.
pub(crate) fn bound<S>(bind: impl Fn() -> io::Result<S>) -> S {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match bind() {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            done => return done.expect("an address to bind to"),
        }
    }
}
