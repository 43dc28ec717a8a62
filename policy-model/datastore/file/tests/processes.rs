//! Several processes on one folder, some of them killed in the middle of a write.
//!
//! The other processes are this test program itself, started with one of its ignored tests and a role in its
//! environment.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // In a test, a panic is the failure itself.

use policy_model::{Key, Kind, Object, Resource, TierSpec};
use policy_model_datastore::{Datastore, Selection, upsert_with_retry};
use policy_model_datastore_file::{FileStore, Settings};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const ROOT: &str = "MANX_TEST_STORE";
const ROLE: &str = "MANX_TEST_ROLE";

fn key(name: &str) -> Key {
    Key::global(Kind::Tier, name)
}

/// A tier whose every part says the same number, so that a mixture of two documents would show.
fn tier(name: &str, number: u64) -> Resource {
    let mut object = Object::named(
        name,
        TierSpec {
            order: Some(number as f64),
            default_action: None,
        },
    );
    object
        .metadata
        .annotations
        .insert("number".into(), number.to_string());
    object
        .metadata
        .annotations
        .insert("long".into(), format!("{number} ").repeat(300));
    object.into()
}

fn number(resource: &Resource) -> u64 {
    let Resource::Tier(tier) = resource else {
        panic!("{resource:?} is no tier")
    };
    let number = tier.spec.order.unwrap() as u64;
    assert_eq!(tier.metadata.annotations["number"], number.to_string());
    assert_eq!(
        tier.metadata.annotations["long"],
        format!("{number} ").repeat(300)
    );
    number
}

fn settings() -> Settings {
    Settings {
        sync: false,
        journal_bytes: 50_000,
        ..Settings::default()
    }
}

fn start(root: &Path, role: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "another_process", "--nocapture"])
        .env(ROOT, root)
        .env(ROLE, role)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What the other processes do. Without a role in the environment it does nothing.
#[tokio::test]
#[ignore = "started by the other tests as another process"]
async fn another_process() {
    let (Some(root), Ok(role)) = (std::env::var_os(ROOT), std::env::var(ROLE)) else {
        return;
    };
    let store = FileStore::open(root, settings()).unwrap();
    let (role, argument) = role.split_once(' ').unwrap();
    match role {
        "count" => {
            for _ in 0..argument.parse::<u64>().unwrap() {
                raise(&store, "counter").await;
            }
        }
        // Says each number when it is written, until it is killed.
        "churn" => {
            println!("\nready");
            for n in 1u64.. {
                let name = format!("{argument}{}", n % 3);
                if n % 7 == 0 {
                    let _ = store.delete(&key(&name), None).await;
                    println!("{name} 0");
                } else {
                    upsert_with_retry(&store, &key(&name), |_| Some(tier(&name, n)))
                        .await
                        .unwrap();
                    println!("{name} {n}");
                }
                raise(&store, "shared").await;
                println!("shared {n}");
            }
        }
        other => panic!("no such role: {other}"),
    }
}

async fn raise(store: &FileStore, name: &str) {
    upsert_with_retry(store, &key(name), |now| {
        Some(tier(name, now.map_or(0, number) + 1))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_count_together_lose_nothing() {
    const PROCESSES: u64 = 4;
    const TIMES: u64 = 60;
    let root = tempfile::tempdir().unwrap();
    let store = FileStore::open(root.path(), settings()).unwrap();
    let children: Vec<Child> = (0..PROCESSES)
        .map(|_| start(root.path(), &format!("count {TIMES}")))
        .collect();
    for _ in 0..TIMES {
        raise(&store, "counter").await;
    }
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
    let counter = store.get(&key("counter")).await.unwrap().unwrap();
    assert_eq!(number(&counter.resource), (PROCESSES + 1) * TIMES);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_writers_leave_the_old_or_the_new_object() {
    let root = tempfile::tempdir().unwrap();
    // One view lives through everything, as another agent would.
    let witness = FileStore::open(root.path(), settings()).unwrap();
    let mut shared_at_least = 0;
    for round in 0..25u64 {
        let mut child = start(root.path(), "churn a");
        let mut other = start(root.path(), "churn b");
        let others_output = BufReader::new(other.stdout.take().unwrap());
        let counting = std::thread::spawn(move || said(others_output));
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while line.trim() != "ready" {
            line.clear();
            assert_ne!(
                lines.read_line(&mut line).unwrap(),
                0,
                "the writer ended before it was ready"
            );
        }
        // At another moment each time, spread over the length of a few writes.
        std::thread::sleep(Duration::from_micros(3_000 + round * 977 % 9_000));
        child.kill().unwrap();
        child.wait().unwrap();
        other.kill().unwrap();
        other.wait().unwrap();
        let said_by_a = said(lines);
        let said_by_b = counting.join().unwrap();

        let opened = FileStore::open(root.path(), settings()).unwrap();
        let listing = opened.list(Selection::all()).await.unwrap();
        assert_eq!(opened.faults(), [], "round {round}");
        // What a writer said it wrote last is there, or the write that it was killed in: never anything older.
        for (said, letter) in [(&said_by_a, "a"), (&said_by_b, "b")] {
            let Some((name, last)) = said.iter().rev().find(|(name, _)| name.starts_with(letter)) else {
                continue;
            };
            let now = opened
                .get(&key(name))
                .await
                .unwrap()
                .map_or(0, |v| number(&v.resource));
            // Each name is written every third time, so what was begun after the last word is one of these.
            let following = [*last, last + 3].contains(&now) || now == 0 || *last == 0;
            assert!(following, "round {round}: {name} said {last}, found {now}");
        }
        let said = said_by_a
            .iter()
            .chain(&said_by_b)
            .filter(|(name, _)| name == "shared")
            .count() as u64;
        shared_at_least += said;
        let shared = opened
            .get(&key("shared"))
            .await
            .unwrap()
            .map_or(0, |v| number(&v.resource));
        assert!(
            shared >= shared_at_least,
            "round {round}: {shared} is less than the {shared_at_least} that were said"
        );
        assert!(
            shared <= shared_at_least + 2 * (round + 1),
            "round {round}: counted without being asked"
        );
        for versioned in &listing.items {
            number(&versioned.resource);
        }
        // Documents, journal and the other views agree, and nothing half-done is left.
        assert_eq!(
            witness.list(Selection::all()).await.unwrap(),
            listing,
            "round {round}"
        );
        let left: Vec<_> = fs::read_dir(root.path().join("tiers"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with('.'))
            .collect();
        assert!(left.is_empty(), "round {round}: {left:?}");
    }
    assert!(shared_at_least > 0, "no writer lived long enough to write");
}

/// The names and numbers that a writer said.
fn said(lines: impl BufRead) -> Vec<(String, u64)> {
    let parse = |line: String| {
        let (name, number) = line.split_once(' ')?;
        Some((name.to_owned(), number.parse().ok()?))
    };
    lines.lines().map_while(Result::ok).filter_map(parse).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_holds_the_lock_up_is_named_as_the_reason() {
    let root = tempfile::tempdir().unwrap();
    let patience = Settings {
        lock_patience: Duration::from_secs(2),
        ..settings()
    };
    let store = FileStore::open(root.path(), patience).unwrap();
    store.create(tier("a", 1)).await.unwrap();
    let lock = fs::File::open(root.path().join(".manx/lock")).unwrap();
    lock.lock().unwrap();
    let error = store.create(tier("b", 1)).await.unwrap_err();
    assert!(
        error.is_transient() && error.to_string().contains("lock"),
        "{error}"
    );
    // Reads go on.
    assert!(store.get(&key("a")).await.unwrap().is_some());
    lock.unlock().unwrap();
    store.create(tier("b", 1)).await.unwrap();
}
