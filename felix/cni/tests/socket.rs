//! The socket, the protocol and the journal, without a kernel.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is the failure itself"
)]

use felix_cni::journal::{Attachment, Journal, Origin};
use felix_cni::protocol::{VERSION, understands};
use felix_cni::{
    Answer, AttachmentKey, CallError, Caller, Command, Failure, Handler, Request, Success, call, code, serve,
};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;

fn key(id: &str) -> AttachmentKey {
    AttachmentKey {
        network: "k8s-pod-network".into(),
        container_id: id.into(),
        interface: "eth0".into(),
    }
}

fn attachment(id: &str) -> Attachment {
    Attachment {
        key: key(id),
        namespace: "shop".into(),
        pod: "web".into(),
        uid: String::new(),
        addresses: vec!["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()],
        host_interface: "cali0123456789a".into(),
        boot_id: "b".into(),
        mtu: 1400,
        host_ports: Vec::new(),
    }
}

/// Answers with the number of the request, and refuses removals.
struct Counting(AtomicUsize);

impl Handler for Counting {
    async fn handle(&self, request: Request, _caller: Caller) -> Answer {
        let n = self.0.fetch_add(1, Ordering::SeqCst);
        match request.command {
            Command::Del { key } => Answer::Error(Failure::new(code::KERNEL, format!("no removal of {key}"))),
            _ => Answer::Ok(Success {
                host_interface: n.to_string(),
                ..Success::default()
            }),
        }
    }
}

struct Running {
    runtime: tokio::runtime::Runtime,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<Result<(), felix_cni::ServerError>>,
}

fn start(path: &Path) -> Running {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let (stop, stopped) = watch::channel(false);
    let path = path.to_path_buf();
    let task =
        runtime.spawn(async move { serve(&path, Arc::new(Counting(AtomicUsize::new(0))), stopped).await });
    Running { runtime, stop, task }
}

fn socket() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/er/cni.sock");
    (folder, path)
}

const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn a_caller_waits_for_a_node_that_comes_late_and_gets_its_answer() {
    let (_folder, path) = socket();
    let caller = std::thread::spawn({
        let path = path.clone();
        move || call(&path, &Request::new(Command::Status), PATIENCE)
    });
    let running = start(&path);
    assert_eq!(caller.join().unwrap().unwrap().host_interface, "0");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "only its owner may open the socket");
    match call(&path, &Request::new(Command::Del { key: key("x") }), PATIENCE) {
        Err(CallError::Refused(failure)) => {
            assert_eq!(failure.code, code::KERNEL);
            assert!(failure.message.contains("k8s-pod-network/x/eth0"));
        }
        other => panic!("{other:?}"),
    }
    running.stop.send(true).unwrap();
    running.runtime.block_on(running.task).unwrap().unwrap();
}

#[test]
fn a_successor_takes_the_socket_over() {
    let (_folder, path) = socket();
    let first = start(&path);
    call(&path, &Request::new(Command::Status), PATIENCE).unwrap();
    let second = start(&path);
    // The second counts from zero: once it answers so, it has the name.
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let answer = call(&path, &Request::new(Command::Status), PATIENCE).unwrap();
        if answer.host_interface == "0" {
            break;
        }
        assert!(std::time::Instant::now() < deadline);
    }
    first.stop.send(true).unwrap();
    first.runtime.block_on(first.task).unwrap().unwrap();
    assert_eq!(
        call(&path, &Request::new(Command::Status), PATIENCE)
            .unwrap()
            .host_interface,
        "1"
    );
    second.stop.send(true).unwrap();
    second.runtime.block_on(second.task).unwrap().unwrap();
}

fn raw(path: &Path, line: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(line).unwrap();
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn what_cannot_be_read_gets_a_sentence() {
    let (_folder, path) = socket();
    let running = start(&path);
    call(&path, &Request::new(Command::Status), PATIENCE).unwrap();
    for line in [
        &b"\n"[..],
        b"{}\n",
        b"{\"version\":1}\n",
        b"\xff\xfe\n",
        b"{\"version\":1,\"command\":\"add\"}\n",
    ] {
        let answer = raw(&path, line);
        assert!(
            answer.is_empty() || answer.contains("cannot read the request"),
            "{answer}"
        );
    }
    let answer = raw(&path, b"{\"version\":99,\"command\":\"status\"}\n");
    assert!(answer.contains("protocol version 99"), "{answer}");
    // Fields of a later version are no hindrance.
    let answer = raw(
        &path,
        b"{\"version\":2,\"command\":\"status\",\"colour\":\"blue\"}\n",
    );
    assert!(answer.contains("\"ok\""), "{answer}");
    running.stop.send(true).unwrap();
    running.runtime.block_on(running.task).unwrap().unwrap();
}

#[test]
fn nobody_there_is_said_with_the_code_to_try_again() {
    let (_folder, path) = socket();
    let error = call(&path, &Request::new(Command::Status), Duration::from_millis(120)).unwrap_err();
    assert_eq!(error.code(), code::TRY_AGAIN);
    assert!(error.to_string().contains("cni.sock"));
}

#[test]
fn neighbouring_versions_understand_each_other() {
    assert!(understands(VERSION) && understands(VERSION + 1) && understands(VERSION - 1));
    assert!(!understands(VERSION + 2));
}

#[tokio::test]
async fn the_journal_outlives_its_process_and_survives_rubbish() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(&folder.path().join("a/b")).unwrap();
    assert!(journal.is_new());
    for id in ["one", "two/../..", "drei mit ä"] {
        journal.put(attachment(id), Origin::Made).await.unwrap();
    }
    journal.remove(&key("one")).await.unwrap();
    journal.remove(&key("never there")).await.unwrap();
    drop(journal);
    std::fs::write(folder.path().join("a/b/rubbish.json"), b"{").unwrap();
    std::fs::write(folder.path().join("a/b/half.tmp"), b"{").unwrap();
    let again = Journal::open(&folder.path().join("a/b")).unwrap();
    assert!(!again.is_new());
    assert_eq!(again.all().len(), 2);
    assert_eq!(again.get(&key("two/../..")), Some(attachment("two/../..")));
    assert_eq!(again.get(&key("drei mit ä")), Some(attachment("drei mit ä")));
    assert_eq!(again.get(&key("one")), None);
    // Nothing was written outside the folder.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn handles_are_those_that_calico_gives() {
    assert_eq!(key("abc").handle(), "k8s-pod-network.abc");
    let second = AttachmentKey {
        interface: "net1".into(),
        ..key("abc")
    };
    assert_eq!(second.handle(), "k8s-pod-network.abc.net1");
}
