//! What a relay passes on besides what the suite asks for, and peers that do not keep to what is agreed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // In a test, a panic is the failure itself.

use policy_model::{Key, Kind, Object, Resource, TierSpec};
use policy_model_datastore::{Datastore, DatastoreError, MemoryStore, Selection};
use policy_model_datastore_file::{FileStore, Settings as FileSettings};
use policy_model_datastore_relay::{Relay, RelayStore, Settings};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

struct Offered {
    _folder: tempfile::TempDir,
    socket: PathBuf,
    client: RelayStore,
}

/// Offers a store in this process.
fn offer(store: impl Datastore + 'static, settings: Settings) -> Offered {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("relay.sock");
    let relay = Relay::bind(&socket, Arc::new(store), settings).unwrap();
    tokio::spawn(relay.serve());
    let client = RelayStore::new(&socket, Settings::default());
    Offered {
        _folder: folder,
        socket,
        client,
    }
}

fn tier(name: &str) -> Resource {
    Object::named(name, TierSpec::default()).into()
}

#[tokio::test]
async fn a_lost_position_and_an_absent_store_are_told_as_such() {
    let memory = MemoryStore::new();
    let offered = offer(memory.clone(), Settings::default());
    let mode = std::fs::metadata(&offered.socket).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "only its owner may open the socket");
    let store = offered.client;
    let start = store.list(Selection::all()).await.unwrap().revision;
    store.create(tier("a")).await.unwrap();
    memory.compact();
    let late = store.watch(Selection::all(), start).await;
    assert!(
        matches!(late, Err(DatastoreError::Expired { from, .. }) if from == start),
        "{late:?}"
    );
    let now = store.list(Selection::all()).await.unwrap().revision;
    let mut watch = store.watch(Selection::all(), now).await.unwrap();
    memory.break_watches();
    let broken = watch.next().await.unwrap_err();
    assert!(
        !broken.to_string().contains("relay"),
        "the store's own word: {broken}"
    );
    memory.set_available(false);
    let away = store.get(&Key::global(Kind::Tier, "a")).await.unwrap_err();
    assert!(
        away.is_transient() && !away.to_string().contains("relay"),
        "{away}"
    );
}

#[tokio::test]
async fn faults_come_with_the_listing() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("tiers")).unwrap();
    std::fs::write(folder.path().join("tiers/a.yaml"), "nonsense").unwrap();
    let files = FileStore::open(folder.path(), FileSettings::default()).unwrap();
    let offered = offer(files.clone(), Settings::default());
    let store = &offered.client;
    assert_eq!(store.faults(), [], "nobody was asked yet");
    store.list(Selection::all()).await.unwrap();
    assert_eq!((store.faults(), store.faults().len()), (files.faults(), 1));
}

/// What a relay says to these bytes.
async fn said(socket: &PathBuf, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    // The relay may close before all is written.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn framed(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap().to_be_bytes();
    [&length, text.as_bytes()].concat()
}

#[tokio::test]
async fn clients_that_talk_nonsense_are_sent_away_and_do_no_harm() {
    let impatient = Settings {
        patience: Duration::from_millis(200),
        ..Settings::default()
    };
    let offered = offer(MemoryStore::new(), impatient);
    let other_version = framed(r#"{"version":2,"question":{"Dream":{}}}"#);
    let answer = said(&offered.socket, &other_version).await;
    assert!(
        answer.contains("version 1 is spoken here, and version 2 there"),
        "{answer}"
    );
    for bytes in [
        &[0xff; 64][..],
        &framed("{}"),
        &framed("\u{0}"),
        &[0, 0],
        // It announces much, says little and waits.
        &[0, 0x7f, 0, 0, b'{'],
        b"",
    ] {
        assert_eq!(said(&offered.socket, bytes).await, "", "{bytes:?}");
    }
    let unknown = said(&offered.socket, &framed(r#"{"version":1,"question":"Dream"}"#)).await;
    assert!(unknown.contains("Failed"), "{unknown}");
    // A busy machine may be slower than so little patience allows.
    while offered
        .client
        .create(tier("a"))
        .await
        .is_err_and(|error| error.is_transient())
    {}
    assert!(
        offered
            .client
            .get(&Key::global(Kind::Tier, "a"))
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn relays_that_talk_nonsense_are_unavailable() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("relay.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let store = RelayStore::new(&socket, Settings::default());
    for (bytes, why) in [
        (vec![], "closed"),
        (vec![0, 0, 0, 9, b'{'], "closed"),
        (vec![0xff; 8], "is more than"),
        (framed("?"), "cannot be understood"),
        (framed("\"Alive\""), "was not asked"),
        (
            framed(r#"{"Object":{"resource":{},"version":"1","revision":1}}"#),
            "invalid",
        ),
    ] {
        let key = Key::global(Kind::Tier, "a");
        let (asked, ()) = tokio::join!(store.get(&key), async {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
            stream.write_all(&bytes).await.unwrap();
        });
        let error = asked.unwrap_err();
        let DatastoreError::Unavailable { operation, source } = &error else {
            panic!("{error:?}")
        };
        assert!(
            operation.contains("relay.sock") && source.to_string().contains(why),
            "{source}"
        );
    }
}

#[tokio::test]
async fn what_is_too_long_is_refused_on_either_side() {
    let memory = MemoryStore::new();
    let offered = offer(memory.clone(), Settings::default());
    let store = &offered.client;
    let mut long = tier("long");
    let text = "x".repeat(9 << 20);
    long.metadata_mut().annotations.insert("text".into(), text);
    let refused = store.create(long.clone()).await.unwrap_err();
    assert!(
        matches!(&refused, DatastoreError::Unavailable { source, .. } if source.to_string().contains("is more than"))
    );
    assert!(memory.list(Selection::all()).await.unwrap().items.is_empty());
    // One that is there already cannot come through either, and nobody waits for it.
    memory.create(long).await.unwrap();
    let found = store.get(&Key::global(Kind::Tier, "long")).await.unwrap_err();
    assert!(
        matches!(&found, DatastoreError::Unavailable { source, .. } if source.to_string().contains("longer")),
        "{found:?}"
    );
}
