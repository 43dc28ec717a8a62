//! What waits with a time limit, also where the process is disturbed.

use std::io::{self, ErrorKind};

/// Makes an attempt again for as long as it is interrupted.
///
/// A socket that waits with a time limit gives up when its process is stopped and goes on (as a machine does with it that
/// is copied while it runs), or is looked at by a debugger; one without a limit goes on by itself.
pub(crate) fn undisturbed<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match attempt() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
