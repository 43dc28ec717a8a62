//! Running one program: input by a pipe, output bounded, an end that comes for certain. No shell.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};

/// More than the rules of a large node (100,000 of 300 bytes each).
const OUTPUT_LIMIT: usize = 64 << 20;
/// More complaints than anybody reads.
const COMPLAINT_LIMIT: usize = 16 << 10;
/// How long a killed program may take to vanish before it is left to a thread of its own.
const BURIAL: Duration = Duration::from_secs(2);

/// How long a program may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(pub Duration);

/// A program that ended by itself.
#[derive(Debug)]
pub struct Ended {
    /// Its number, which is also the netlink port of its first socket.
    pub process: u32,
    /// How.
    pub status: ExitStatus,
    /// What it printed.
    pub output: Vec<u8>,
    /// What it complained, bounded.
    pub complaint: String,
}

/// Why a program did not end by itself.
#[derive(Debug)]
pub enum Unfinished {
    /// It cannot be started.
    Start(io::Error),
    /// Talking to it failed; it was killed.
    Talk(io::Error),
    /// It took too long; it was killed with all that it started.
    Hangs,
    /// It printed too much; it was killed.
    TooMuch(usize),
}

/// Runs a program with these arguments and environment, gives it the input, and waits for its end, but not longer than the
/// deadline: then it and all that it started is killed.
///
/// # Errors
/// It did not end by itself.
pub fn run(
    program: &Path,
    arguments: &[&str],
    environment: &[(&str, &Path)],
    input: &[u8],
    deadline: Deadline,
) -> Result<Ended, Unfinished> {
    let Deadline(limit) = deadline;
    let end = Instant::now() + limit;
    let mut command = Command::new(program);
    command
        .args(arguments)
        // Messages are recognised by their words.
        .env("LC_ALL", "C")
        .envs(environment.iter().copied())
        .stdin(if input.is_empty() {
            Stdio::null()
        } else {
            Stdio::piped()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own, so that what it starts (a loader of kernel modules) is killed with it.
        .process_group(0);
    let mut child = command.spawn().map_err(Unfinished::Start)?;
    let talked = talk(&mut child, input, end);
    match talked {
        Ok((output, complaint)) => {
            // The conversation ends when the program has ended, so this does not wait.
            let status = child.wait().map_err(Unfinished::Talk)?;
            Ok(Ended {
                process: child.id(),
                status,
                output,
                complaint: String::from_utf8_lossy(&complaint).trim().to_owned(),
            })
        }
        Err(unfinished) => {
            bury(child);
            Err(unfinished)
        }
    }
}

/// Feeds and reads until the program has ended; returns what it printed and complained.
fn talk(child: &mut Child, input: &[u8], end: Instant) -> Result<(Vec<u8>, Vec<u8>), Unfinished> {
    let ended = end_of(child).map_err(Unfinished::Talk)?;
    let mut stdin = child.stdin.take();
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    for pipe in [
        stdin.as_ref().map(AsFd::as_fd),
        stdout.as_ref().map(AsFd::as_fd),
        stderr.as_ref().map(AsFd::as_fd),
    ]
    .into_iter()
    .flatten()
    {
        let flags = fcntl(pipe, FcntlArg::F_GETFL).map_err(|errno| Unfinished::Talk(errno.into()))?;
        let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
        fcntl(pipe, FcntlArg::F_SETFL(flags)).map_err(|errno| Unfinished::Talk(errno.into()))?;
    }
    let mut rest = input;
    let (mut output, mut complaint) = (Vec::new(), Vec::new());
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Unfinished::Hangs);
        }
        let has_ended = {
            let mut polled = vec![PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
            polled.extend(
                stdin
                    .as_ref()
                    .map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)),
            );
            polled.extend(
                stdout
                    .as_ref()
                    .map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)),
            );
            polled.extend(
                stderr
                    .as_ref()
                    .map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)),
            );
            let wait = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            match poll(&mut polled, wait) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(Unfinished::Talk(errno.into())),
            }
            polled.first().and_then(PollFd::any).unwrap_or(false)
        };
        if let Some(pipe) = &mut stdin {
            feed(pipe, &mut rest);
            if rest.is_empty() {
                stdin = None;
            }
        }
        if take(&mut stdout, &mut output)? && output.len() > OUTPUT_LIMIT {
            return Err(Unfinished::TooMuch(OUTPUT_LIMIT));
        }
        if take(&mut stderr, &mut complaint)? {
            complaint.truncate(COMPLAINT_LIMIT);
        }
        if has_ended {
            // What it said before its end was read above; a pipe that a stranger still holds open is not waited for.
            return Ok((output, complaint));
        }
    }
}

/// What becomes readable when the program has ended.
fn end_of(child: &Child) -> io::Result<OwnedFd> {
    let process = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .ok_or_else(|| io::Error::other("a process without a number"))?;
    Ok(pidfd_open(process, PidfdFlags::empty())?)
}

/// Writes what fits. A program that no longer reads says why by its end, so a broken pipe is no error.
fn feed(pipe: &mut impl Write, rest: &mut &[u8]) {
    while !rest.is_empty() {
        match pipe.write(rest) {
            Ok(0) => *rest = &[],
            Ok(written) => *rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => *rest = &[],
        }
    }
}

/// Reads what is there, at most some megabytes at once; drops the pipe at its end. Returns whether anything came.
fn take(pipe: &mut Option<impl Read>, into: &mut Vec<u8>) -> Result<bool, Unfinished> {
    let Some(open) = pipe else { return Ok(false) };
    let before = into.len();
    let mut part = [0; 64 * 1024];
    loop {
        match open.read(&mut part) {
            Ok(0) => {
                *pipe = None;
                break;
            }
            Ok(length) => into.extend_from_slice(part.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Unfinished::Talk(error)),
        }
        if into.len() - before > OUTPUT_LIMIT {
            break;
        }
    }
    Ok(into.len() > before)
}

/// Kills a program with its group and waits for its end, but not for ever: one that the kernel holds is left to a thread.
fn bury(mut child: Child) {
    if let Ok(group) = i32::try_from(child.id()) {
        // Gone already is as good.
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    let gone = end_of(&child).is_ok_and(|ended| {
        let wait = PollTimeout::try_from(BURIAL).unwrap_or(PollTimeout::MAX);
        let mut polled = [PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut polled, wait), Ok(count) if count > 0)
    });
    if gone {
        let _ = child.wait();
    } else {
        let spawned = std::thread::Builder::new()
            .name("burial".to_owned())
            .spawn(move || child.wait());
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread to wait for a killed program");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLENTY: Deadline = Deadline(Duration::from_secs(60));

    fn cat(input: &[u8]) -> Result<Ended, Unfinished> {
        run(Path::new("/bin/cat"), &[], &[], input, PLENTY)
    }

    #[test]
    fn much_goes_in_and_comes_out() {
        let input = b"0123456789abcdef".repeat(64 * 1024);
        let ended = cat(&input).unwrap();
        assert!(ended.status.success());
        assert_eq!(ended.output, input);
        assert_eq!(cat(b"").unwrap().output, b"");
    }

    #[test]
    fn a_program_that_does_not_read_is_no_error() {
        let ended = run(Path::new("/bin/true"), &[], &[], &vec![b'x'; 1 << 20], PLENTY).unwrap();
        assert!(ended.status.success());
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let note = folder.path().join("child");
        let script = format!("sleep 1000 & echo $! > {}; wait", note.display());
        let shell = Path::new("/bin/sh");
        let limit = Deadline(Duration::from_millis(500));
        let outcome = run(shell, &["-c", &script], &[], b"", limit);
        assert!(matches!(outcome, Err(Unfinished::Hangs)), "{outcome:?}");
        let process = std::fs::read_to_string(&note).unwrap();
        // Its new parent buries it; until then it is a zombie.
        let status = format!("/proc/{}/stat", process.trim());
        while std::fs::read_to_string(&status).is_ok_and(|text| !text.contains(") Z ")) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn complaints_are_kept_and_bounded() {
        let shell = Path::new("/bin/sh");
        let script = "yes | head -c 1000000; head -c 1000000 /dev/zero 1>&2; exit 3";
        let ended = run(shell, &["-c", script], &[], b"", PLENTY).unwrap();
        assert_eq!(ended.status.code(), Some(3));
        assert!(ended.complaint.len() <= COMPLAINT_LIMIT);
        assert_eq!(ended.output.len(), 1_000_000);
        assert!(matches!(
            run(Path::new("/nonexistent"), &[], &[], b"", PLENTY),
            Err(Unfinished::Start(_))
        ));
    }
}
