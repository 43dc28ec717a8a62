//! The binary: options, errors that say what to do, signals, and the pages that it serves.

#![allow(clippy::unwrap_used, clippy::panic)] // A panic is how a test fails.

mod world;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use world::{policy, policy_key};

/// How long anything may take that a test waits for; only what fails takes so long.
const PATIENCE: Duration = Duration::from_secs(120);

fn command(dir: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_manx-controller"));
    command
        .arg("--manifests")
        .arg(dir.path().join("manifests"))
        .arg("--datastore")
        .arg(dir.path().join("datastore"));
    command
}

fn folders() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("manifests")).unwrap();
    dir
}

fn output(command: &mut Command) -> (Output, String) {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, text)
}

/// A controller that is ended with the test, whatever becomes of that.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "never came: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A port for a program that starts in a moment, and for the next one after it. It is none of those that the kernel gives
/// to clients: one of them may be a client's again before the program has it. It is asked for and not bound: a program that
/// another test starts begins with what is open here, and would have it for a moment longer.
fn free_port() -> u16 {
    let own = u16::try_from(std::process::id() % 1_000).unwrap();
    (10_000 + own..11_000)
        .chain(9_100..10_000)
        .find(|port| TcpStream::connect(("127.0.0.1", *port)).is_err())
        .unwrap()
}

fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
        .ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

fn stored(dir: &Path) -> Option<String> {
    let key = policy_key("web");
    std::fs::read_to_string(dir.join(format!("datastore/networkpolicies/shop/{}.yaml", key.name))).ok()
}

#[test]
fn the_way_from_a_file_to_a_file_and_a_clean_end() {
    let dir = folders();
    let port = free_port();
    let mut start = command(&dir);
    start
        .args(["--metrics-port", &port.to_string(), "--faults"])
        .arg(dir.path().join("faults.json"));
    let mut running = Running(start.stderr(Stdio::piped()).spawn().unwrap());
    until("ready", || {
        get(port, "/readiness").is_some_and(|page| page.starts_with("HTTP/1.1 200"))
    });
    std::fs::write(dir.path().join("manifests/a.yaml"), policy("web", "one")).unwrap();
    until("stored", || {
        stored(dir.path()).is_some_and(|text| text.contains("one") && text.contains("a.yaml"))
    });
    assert!(get(port, "/liveness").unwrap().starts_with("HTTP/1.1 200"));
    until("counted", || {
        get(port, "/metrics")
            .is_some_and(|page| page.contains("manx_controller_writes_total{operation=\"create\"} 1"))
    });
    assert!(get(port, "/other").unwrap().starts_with("HTTP/1.1 404"));
    std::fs::write(dir.path().join("manifests/b.yaml"), "x: [").unwrap();
    until("the fault file", || {
        std::fs::read_to_string(dir.path().join("faults.json")).is_ok_and(|text| text.contains("b.yaml"))
    });

    // A second one on the same port says so.
    let (refused, text) = output(command(&dir).args(["--metrics-port", &port.to_string()]));
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text.contains("--metrics-port") && text.contains(&port.to_string()),
        "{text}"
    );

    // And so does one on the same datastore.
    let (refused, text) = output(command(&dir).args(["--metrics-port", "0"]));
    assert_eq!(refused.status.code(), Some(1));
    let holder = format!("(process {})", running.0.id());
    assert!(
        text.contains("another controller") && text.contains(&holder),
        "{text}"
    );

    let pid = Pid::from_raw(i32::try_from(running.0.id()).unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
    assert!(stored(dir.path()).is_some(), "what is in force stays in force");
    let mut log = String::new();
    running.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert_eq!(log.matches("b.yaml").count(), 1, "{log}");
    assert!(log.contains("SIGTERM"), "{log}");

    // And again, over what is there: nothing is written.
    let before = stored(dir.path());
    let mut again = Running(
        command(&dir)
            .args(["--metrics-port", &port.to_string()])
            .spawn()
            .unwrap(),
    );
    until("ready", || {
        get(port, "/readiness").is_some_and(|page| page.starts_with("HTTP/1.1 200"))
    });
    let page = get(port, "/metrics").unwrap();
    for operation in ["create", "update", "delete"] {
        assert!(
            page.contains(&format!("writes_total{{operation=\"{operation}\"}} 0")),
            "{page}"
        );
    }
    assert_eq!(stored(dir.path()), before);
    kill(
        Pid::from_raw(i32::try_from(again.0.id()).unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
    assert_eq!(again.0.wait().unwrap().code(), Some(0));
}

#[test]
fn errors_say_what_is_wrong_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let (absent, text) = output(command(&dir).args(["--metrics-port", "0"]));
    assert_eq!(absent.status.code(), Some(1));
    assert!(
        text.contains("manifests") && text.contains("--manifests"),
        "{text}"
    );

    std::fs::write(dir.path().join("manifests"), "").unwrap();
    let (file, text) = output(command(&dir).args(["--metrics-port", "0"]));
    assert_eq!(file.status.code(), Some(1));
    assert!(text.contains("names a folder, not a file"), "{text}");

    let dir = folders();
    std::fs::write(dir.path().join("datastore"), "").unwrap();
    let (wrong, text) = output(command(&dir).args(["--metrics-port", "0"]));
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text.contains("datastore"), "{text}");

    let dir = folders();
    let nested = dir.path().join("manifests/store");
    let mut start = Command::new(env!("CARGO_BIN_EXE_manx-controller"));
    start
        .arg("--manifests")
        .arg(dir.path().join("manifests"))
        .arg("--datastore")
        .arg(&nested);
    let (refused, text) = output(start.args(["--metrics-port", "0"]));
    assert_eq!(refused.status.code(), Some(1));
    assert!(text.contains("keep them apart"), "{text}");
    assert!(!nested.exists(), "nothing was made");

    // A variable that stands there for another program's sake is not what the options say.
    std::fs::remove_dir_all(dir.path().join("manifests")).unwrap();
    let (absent, text) = output(
        command(&dir)
            .args(["--metrics-port", "0"])
            .env("DATASTORE_TYPE", "kubernetes"),
    );
    assert_eq!(absent.status.code(), Some(1));
    assert!(text.contains("--manifests"), "{text}");
    let mut both = command(&dir);
    let (usage, text) = output(both.args(["--datastore-type", "kubernetes"]));
    assert_eq!(usage.status.code(), Some(2), "{text}");
    let (usage, text) = output(command(&dir).args(["--datastore-type", "etcdv3"]));
    assert_eq!(usage.status.code(), Some(2));
    assert!(text.contains("kubernetes"), "{text}");

    let (usage, _) = output(command(&dir).args(["--log-level", "loud"]));
    assert_eq!(usage.status.code(), Some(2));
    let (usage, _) = output(&mut Command::new(env!("CARGO_BIN_EXE_manx-controller")));
    assert_eq!(usage.status.code(), Some(2));
    let mut check = Command::new(env!("CARGO_BIN_EXE_manx-controller"));
    let (usage, _) = output(check.arg("check-status"));
    assert_eq!(usage.status.code(), Some(2));
    let (nobody, text) = output(check.args(["-r", "--metrics-port", "1"]));
    assert_eq!(nobody.status.code(), Some(1));
    assert!(text.contains("nobody answers"), "{text}");
}
