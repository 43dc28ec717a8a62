//! Our own kinds on a real API server: every field kept, and everything that can go wrong around them: a kind that is
//! not defined, a server that hangs, dies or forgets, objects and permissions that are wrong, another owner.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // In a test, a panic is the failure itself.

mod bed;
mod specimens;

use bed::{ApiServer, DEADLINE, keys, next_of, quick};
use policy_model::{Key, Kind, Object, Resource, TierSpec};
use policy_model_datastore::{
    BackOff, Datastore, DatastoreError, Selection, SyncEvent, SyncStatus, Syncer, Versioned, WatchEvent,
};
use policy_model_datastore_kube::{ForeignOwner, KubeStore, Settings, schema};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

async fn tier(store: &KubeStore, name: &str, order: f64) -> Versioned {
    let spec = TierSpec {
        order: Some(order),
        default_action: None,
    };
    store.create(Object::named(name, spec).into()).await.unwrap()
}

/// Waits until a syncer has told this.
async fn told(syncer: &mut Syncer, wanted: impl Fn(&SyncEvent) -> bool) {
    let patience = async { while !wanted(&syncer.next().await) {} };
    tokio::time::timeout(DEADLINE, patience)
        .await
        .expect("the syncer tells it");
}

fn is_tier(event: &SyncEvent, name: &str) -> bool {
    matches!(event, SyncEvent::Upsert(found) if found.key() == Key::global(Kind::Tier, name))
}

/// The API server keeps every field of every kind, and refuses what the schema says is wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_field_of_our_kinds_is_kept_and_nonsense_is_refused() {
    let server = ApiServer::start(&[]);
    let client = server.client().await;
    bed::define(&client, schema::CUSTOM_KINDS).await;
    bed::namespace(&client, "shop", json!({})).await;
    let store = server.store(quick()).await;
    for kind in schema::CUSTOM_KINDS {
        let namespace = if kind.is_namespaced() { "shop" } else { "" };
        let value = json!({ "apiVersion": "projectcalico.org/v3", "kind": kind.as_str(),
            "metadata": { "name": "specimen", "namespace": namespace, "labels": { "a": "b" } }, "spec": specimens::of(kind) });
        let resource = Resource::parse(value).unwrap().resource;
        let made = store
            .create(resource.clone())
            .await
            .unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert_eq!(*made.resource, resource, "{kind}");
        assert_eq!(
            store.update(resource.clone(), &made.version).await.unwrap(),
            made,
            "{kind}: the equal is no change"
        );
        let mut other = resource;
        other.metadata_mut().labels.clear();
        other.metadata_mut().annotations.insert("x".into(), "y".into());
        let changed = store.update(other.clone(), &made.version).await.unwrap();
        assert_eq!(*changed.resource, other, "{kind}");
        assert_eq!(store.get(&made.key()).await.unwrap(), Some(changed), "{kind}");
        // Who owns which field is tracked where somebody may want to know it.
        let namespace = if kind.is_namespaced() {
            "/namespaces/shop"
        } else {
            ""
        };
        let path = format!("/apis/projectcalico.org/v3{namespace}/{}/specimen", kind.plural());
        let (_, answer) = bed::request(&client, http::Method::GET, &path, None).await;
        let is_tracked = answer.pointer("/metadata/managedFields").is_some();
        assert_eq!(is_tracked, kind != Kind::IPAMBlock, "{answer}");
    }
    for (plural, spec) in [
        ("tiers", json!({ "defaultAction": "Maybe" })),
        (
            "globalnetworkpolicies",
            json!({ "ingress": [{ "action": "Perhaps" }] }),
        ),
        (
            "globalnetworkpolicies",
            json!({ "preDNAT": true, "doNotTrack": true, "applyOnForward": true }),
        ),
        (
            "globalnetworkpolicies",
            json!({ "ingress": [{ "action": "Allow", "source": { "nets": ["here"] } }] }),
        ),
        ("ippools", json!({ "cidr": "10.0.0.0" })),
        ("hostendpoints", json!({ "node": "n" })),
        ("bgpconfigurations", json!({ "asNumber": -1 })),
    ] {
        let path = format!("/apis/projectcalico.org/v3/{plural}");
        let kind = schema::CUSTOM_KINDS
            .into_iter()
            .find(|kind| kind.plural() == plural)
            .unwrap();
        let body = json!({ "apiVersion": "projectcalico.org/v3", "kind": kind.as_str(), "metadata": { "name": "bad" }, "spec": spec });
        let (status, answer) = bed::request(&client, http::Method::POST, &path, Some(&body)).await;
        assert_eq!(status, 422, "{plural} {spec}: {answer}");
    }
    // What contradicts itself in a pool is refused with words that say what would be right.
    for (spec, words) in [
        (
            json!({ "cidr": "10.9.0.0/16", "ipipMode": "Always", "vxlanMode": "CrossSubnet" }),
            "set one of them to Never",
        ),
        (
            json!({ "cidr": "fd00::/64", "ipipMode": "Always" }),
            "use vxlanMode",
        ),
        (json!({ "cidr": "10.9.0.1/16" }), "without host bits"),
        (json!({ "cidr": "fd00::1/64" }), "without host bits"),
        (json!({ "cidr": "10.9.0.0/16", "blockSize": 19 }), "blockSize"),
        (
            json!({ "cidr": "10.9.0.0/16", "blockSize": 33 }),
            "20 to 32 for IPv4",
        ),
        (
            json!({ "cidr": "fd00::/64", "blockSize": 115 }),
            "116 to 128 for IPv6",
        ),
        (json!({ "cidr": "10.9.0.0/27" }), "must fit into cidr"),
        (json!({ "cidr": "fd00::/123" }), "must fit into cidr"),
        (
            json!({ "cidr": "10.9.0.0/26", "blockSize": 25 }),
            "must fit into cidr",
        ),
    ] {
        let body = json!({ "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": { "name": "bad" }, "spec": spec });
        let path = "/apis/projectcalico.org/v3/ippools";
        let (status, answer) = bed::request(&client, http::Method::POST, path, Some(&body)).await;
        let said = answer["message"].as_str().unwrap_or_default();
        assert!(status == 422 && said.contains(words), "{spec}: {status} {answer}");
        // The same is no valid manifest.
        assert!(policy_model::Resource::parse(body).is_err(), "{spec}");
    }
    for spec in [
        json!({ "cidr": "10.9.0.0/26" }),
        json!({ "cidr": "10.10.0.0/32", "blockSize": 32 }),
        json!({ "cidr": "fd00:9::/122" }),
        json!({ "cidr": "fd00:a::/64", "blockSize": 128, "vxlanMode": "CrossSubnet", "ipipMode": "Never" }),
    ] {
        let name = spec["cidr"].as_str().unwrap().replace(['.', ':', '/'], "-");
        let body = json!({ "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": { "name": format!("p{name}") }, "spec": spec });
        assert!(policy_model::Resource::parse(body.clone()).is_ok(), "{spec}");
        let path = "/apis/projectcalico.org/v3/ippools";
        let (status, answer) = bed::request(&client, http::Method::POST, path, Some(&body)).await;
        assert_eq!(status, 201, "{spec}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_kind_that_is_not_defined_is_empty_until_it_is() {
    let server = ApiServer::start(&[]);
    let client = server.client().await;
    let store = server.store(quick()).await;
    let selection = Selection::kinds([Kind::Tier]);
    let listing = store.list(selection.clone()).await.unwrap();
    assert_eq!(listing.items, vec![]);
    let key = Key::global(Kind::Tier, "t");
    assert_eq!(store.get(&key).await.unwrap(), None);
    let refused = store
        .create(Object::named("t", TierSpec::default()).into())
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("not defined"), "{refused}");
    let mut watch = store.watch(selection.clone(), listing.revision).await.unwrap();
    bed::define(&client, [Kind::Tier]).await;
    let made = tier(&store, "t", 1.0).await;
    assert_eq!(next_of(&mut watch, &key).await, WatchEvent::Upsert(made));
    // It goes: whoever follows hears of it, by the watch or by the listing that comes after it.
    bed::remove(&client, &format!("{}/tiers.projectcalico.org", bed::DEFINITIONS)).await;
    let end = async {
        loop {
            match watch.next().await {
                Ok(WatchEvent::Delete { key: gone, .. }) if gone == key => return,
                Ok(_) => {}
                Err(error) => return assert!(matches!(error, DatastoreError::Expired { .. }), "{error:?}"),
            }
        }
    };
    tokio::time::timeout(DEADLINE, end).await.unwrap();
    assert_eq!(store.list(selection).await.unwrap().items, vec![]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_syncer_lives_through_a_hang_and_a_restart() {
    let server = ApiServer::start(&[]);
    let client = server.client().await;
    bed::define(&client, [Kind::Tier]).await;
    let settings = Settings {
        silence: Duration::from_millis(500),
        request_timeout: Duration::from_secs(1),
        ..quick()
    };
    let back_off = BackOff {
        initial: Duration::from_millis(20),
        longest: Duration::from_millis(200),
        jitter: 0.5,
    };
    let store = server.store(settings.clone()).await;
    let selection = Selection::kinds([Kind::Tier]);
    let mut syncer = Syncer::new(Arc::new(store.clone()), selection, back_off, || 0.5);
    told(&mut syncer, |event| matches!(event, SyncEvent::InSync)).await;
    // A server that hangs without closing anything: silence ends the watch, and it goes on when the server does.
    server.signal("STOP");
    let asked = store.get(&Key::global(Kind::Tier, "a")).await;
    assert!(
        matches!(asked, Err(DatastoreError::Unavailable { .. })),
        "{asked:?}"
    );
    server.signal("CONT");
    tier(&server.store(quick()).await, "after-hang", 1.0).await;
    told(&mut syncer, |event| is_tier(event, "after-hang")).await;
    // A server that dies and comes back.
    server.signal("KILL");
    server.restart(&[]);
    tier(&server.store(quick()).await, "after-restart", 2.0).await;
    told(&mut syncer, |event| is_tier(event, "after-restart")).await;
    // None of it was a loss that a new listing had to mend.
    assert_eq!(syncer.status(), Some(SyncStatus::InSync));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_revision_that_the_server_forgot_expires() {
    // Without a cache the server asks etcd, which forgets what is compacted.
    let server = ApiServer::start(&["--watch-cache=false", "--etcd-compaction-interval=1s"]);
    let client = server.client().await;
    bed::define(&client, [Kind::Tier]).await;
    let store = server.store(quick()).await;
    let old = store.list(Selection::kinds([Kind::Tier])).await.unwrap().revision;
    let stranger = server.store(quick()).await;
    let deadline = tokio::time::Instant::now() + DEADLINE;
    for n in 0.. {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the history is never compacted"
        );
        tier(&store, &format!("t{n}"), 1.0).await;
        let mut watch = stranger.watch(Selection::kinds([Kind::Tier]), old).await.unwrap();
        match watch.next().await {
            Err(DatastoreError::Expired { .. }) => return,
            Ok(_) => tokio::time::sleep(Duration::from_millis(500)).await,
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_object_that_becomes_invalid_stays_in_force_as_it_was() {
    let server = ApiServer::start(&[]);
    let client = server.client().await;
    bed::define(&client, [Kind::GlobalNetworkPolicy]).await;
    let selection = Selection::kinds([Kind::GlobalNetworkPolicy]);
    let policies = "/apis/projectcalico.org/v3/globalnetworkpolicies";
    let policy = |name: &str, selector: &str| {
        json!({ "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
            "metadata": { "name": name }, "spec": { "selector": selector } })
    };
    bed::put(&client, policies, policy("good", "all()")).await;
    bed::put(&client, policies, policy("never", "no ( selector")).await;
    let store = server.store(quick()).await;
    let listing = store.list(selection.clone()).await.unwrap();
    assert_eq!(keys(&listing.items), ["GlobalNetworkPolicy/good"]);
    let mut watch = store.watch(selection.clone(), listing.revision).await.unwrap();
    bed::change(
        &client,
        &format!("{policies}/good"),
        policy("good", "broken ( too"),
    )
    .await;
    bed::put(&client, policies, policy("mark", "all()")).await;
    let event = watch.next().await.unwrap();
    assert_eq!(event.key().name, "mark", "the broken form is not told");
    let again = store.list(selection.clone()).await.unwrap();
    assert_eq!(again.items[0], listing.items[0]);
    let faults: Vec<String> = store.faults().iter().map(ToString::to_string).collect();
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(
        faults[0].contains("good") && faults[0].contains("stays in force"),
        "{faults:?}"
    );
    assert!(
        faults[1].contains("never") && faults[1].contains("nothing is in force"),
        "{faults:?}"
    );
    bed::change(&client, &format!("{policies}/good"), policy("good", "has(x)")).await;
    bed::remove(&client, &format!("{policies}/never")).await;
    next_of(&mut watch, &Key::global(Kind::GlobalNetworkPolicy, "never")).await;
    assert_eq!(store.faults(), vec![]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn refusals_say_what_is_missing() {
    let server = ApiServer::start(&[]);
    let client = server.client().await;
    bed::define(&client, [Kind::Tier, Kind::NetworkSet]).await;
    let mut config = server.config().await;
    config.auth_info = kube::config::AuthInfo {
        token: Some("nobody-token".to_string().into()),
        ..Default::default()
    };
    let nobody = KubeStore::with_config(config, quick()).unwrap();
    let error = nobody.list(Selection::kinds([Kind::Tier])).await.unwrap_err();
    assert!(matches!(error, DatastoreError::Permission { .. }), "{error:?}");
    assert!(
        error.to_string().contains("list tiers.projectcalico.org"),
        "{error}"
    );
    let store = server.store(quick()).await;
    let set = Object::namespaced("nowhere", "s", policy_model::NetworkSetSpec::default());
    let error = store.create(Resource::NetworkSet(set)).await.unwrap_err();
    assert!(error.to_string().contains("no namespace 'nowhere'"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn another_owner_of_the_group_is_found() {
    let server = ApiServer::start(&[]);
    let client = server.client().await;
    let store = server.store(quick()).await;
    store.preflight().await.unwrap();
    bed::define(&client, [Kind::Tier]).await;
    store.preflight().await.unwrap();
    let mut foreign = schema::definition(Kind::IPPool);
    foreign["metadata"]["labels"] = json!({ "app": "another" });
    bed::put(&client, bed::DEFINITIONS, foreign).await;
    let error = store.preflight().await.unwrap_err();
    assert!(
        matches!(&error, ForeignOwner::Definition { name } if name == "ippools.projectcalico.org"),
        "{error}"
    );
    bed::remove(
        &client,
        &format!("{}/ippools.projectcalico.org", bed::DEFINITIONS),
    )
    .await;
    bed::remove(&client, &format!("{}/tiers.projectcalico.org", bed::DEFINITIONS)).await;
    let services = "/apis/apiregistration.k8s.io/v1/apiservices";
    bed::until_status(&client, &format!("{services}/v3.projectcalico.org"), 404).await;
    let registered = json!({
        "metadata": { "name": "v3.projectcalico.org" },
        "spec": { "group": "projectcalico.org", "version": "v3", "groupPriorityMinimum": 1500, "versionPriority": 20,
            "insecureSkipTLSVerify": true, "service": { "namespace": "calico-apiserver", "name": "calico-api" } }
    });
    bed::put(&client, services, registered).await;
    let error = store.preflight().await.unwrap_err();
    assert!(
        error.to_string().contains("calico-apiserver/calico-api"),
        "{error}"
    );
}
