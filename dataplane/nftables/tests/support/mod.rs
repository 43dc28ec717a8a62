//! What the tests of this crate share: network namespaces, the nft program, and captured messages.

#![allow(dead_code, reason = "each test program uses another part")]

pub(crate) mod layout;

use std::io::Write;
use std::process::{Command, Stdio};

use dataplane_nftables::Driver;
use dataplane_nftables::socket::{Failure, Link, TransactError};
use dataplane_nftables::wire::{Batch, Element, Family, Messages, Value};
use nix::sched::{CloneFlags, unshare};

/// Runs `body` on a thread in a network namespace of its own, which goes with the thread.
pub(crate) fn in_namespace<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests make network namespaces, which needs root");
            body()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Ends a driver's life, wholly: a process that another test has just forked has its socket too, and with it the table, until
/// it becomes the program that it is to be.
pub(crate) fn end(driver: Driver) {
    drop(driver);
    let mut link = Link::open().expect("a netlink socket");
    let mut is_owned = || {
        let tables = link.tables(Family::Inet).expect("the kernel lists tables");
        tables.iter().any(|table| table.owner.is_some())
    };
    while is_owned() {
        std::thread::yield_now();
    }
}

/// Runs the nft program in the calling thread's namespace; it must succeed. Returns what it prints.
pub(crate) fn nft(arguments: &[&str]) -> String {
    let output = Command::new("nft")
        .args(arguments)
        .output()
        .expect("nft is installed");
    assert!(
        output.status.success(),
        "nft {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("nft prints UTF-8")
}

/// Loads a ruleset by the nft program.
pub(crate) fn nft_load(ruleset: &str) {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("nft is installed");
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(ruleset.as_bytes())
        .expect("nft reads");
    assert!(
        child.wait().expect("nft ends").success(),
        "nft does not load\n{ruleset}"
    );
}

/// The ruleset as the nft program prints it for programs, without what differs between two loads: handles, and the order of hashed
/// elements.
pub(crate) fn nft_ruleset() -> serde_json::Value {
    let mut ruleset: serde_json::Value =
        serde_json::from_str(&nft(&["-j", "list", "ruleset"])).expect("nft prints JSON");
    normalise(&mut ruleset);
    ruleset
}

fn normalise(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Array(items) => {
            items.iter_mut().for_each(normalise);
            // Rules and objects keep their order: each of them is an object with one key. Elements do not.
        }
        serde_json::Value::Object(fields) => {
            fields.remove("handle");
            fields.remove("metainfo");
            fields.values_mut().for_each(normalise);
            for key in ["elem", "set"] {
                if let Some(serde_json::Value::Array(items)) = fields.get_mut(key) {
                    items.sort_by_key(ToString::to_string);
                }
            }
        }
        _ => {}
    }
}

/// The messages of a capture of the nft program (`tests/golden/README.md`), each whole.
pub(crate) fn capture(hex: &str) -> Vec<Vec<u8>> {
    let byte = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
    hex.lines()
        .map(|line| line.as_bytes().chunks(2).map(byte).collect())
        .collect()
}

/// The messages of a sealed batch, each whole.
pub(crate) fn split(batch: &[u8]) -> Vec<Vec<u8>> {
    let mut whole = Vec::new();
    let mut rest = batch;
    for message in Messages::new(batch) {
        let length = message.body.len() + 16;
        whole.push(rest[..length].to_vec());
        rest = &rest[length.next_multiple_of(4)..];
    }
    whole
}

pub(crate) fn refused(error: TransactError) -> Vec<Failure> {
    match error {
        TransactError::Refused { failures } => failures,
        other => panic!("not refused: {other}"),
    }
}

pub(crate) fn commit(link: &mut Link, fill: impl FnOnce(&mut Batch)) {
    let mut batch = Batch::new(Family::Inet);
    fill(&mut batch);
    link.transact(&mut batch).unwrap();
}

pub(crate) fn classes(range: std::ops::Range<u32>) -> impl Iterator<Item = Element> {
    range.map(|number| {
        Element::value(Value::ipv4(std::net::Ipv4Addr::from(0x0a00_0000 + number)))
            .to(Value::host32(number % 1000))
    })
}
