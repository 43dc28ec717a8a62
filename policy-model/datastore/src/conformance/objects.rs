//! Cases about single objects and listings: what is written is what is read, and nobody overwrites anybody unseen.

use super::{
    Failure, handle, holds, invalid_policy, network_set, order, present, refused, same, strange_version,
    tier, tier_key,
};
use crate::{Datastore, DatastoreError, Selection, upsert_with_retry};
use policy_model::{API_VERSION, Key, Kind, Resource};
use serde_json::{Value, json};
use std::sync::Arc;

type Handles = Vec<Arc<dyn Datastore>>;

pub(super) async fn an_absent_object_is_none(handles: Handles) -> Result<(), Failure> {
    let store = handle(&handles, 0)?;
    same("get", store.get(&tier_key("nobody")).await?, None)?;
    // Names from outside may be anything; asking for one that no object can have is no error.
    for name in [
        "",
        "..",
        "../../etc/passwd",
        "a/b",
        "UPPER",
        "white space",
        "\0",
        "ü",
        &"x".repeat(5000),
    ] {
        same("get of a strange name", store.get(&tier_key(name)).await?, None)?;
        let error = refused(
            "delete of a strange name",
            store.delete(&tier_key(name), None).await,
        )?;
        holds("it is NotFound", matches!(error, DatastoreError::NotFound { .. }))?;
    }
    same("list", store.list(Selection::all()).await?.items, vec![])
}

pub(super) async fn what_is_created_is_read_through_every_handle(handles: Handles) -> Result<(), Failure> {
    let created = handle(&handles, 0)?.create(tier("a", 1.0)).await?;
    same("the content", order(&created.resource), 1.0)?;
    for store in &handles {
        same(
            "get",
            present(store.as_ref(), &tier_key("a")).await?,
            created.clone(),
        )?;
        same(
            "list",
            store.list(Selection::all()).await?.items,
            vec![created.clone()],
        )?;
    }
    Ok(())
}

pub(super) async fn nothing_is_created_twice(handles: Handles) -> Result<(), Failure> {
    let created = handle(&handles, 0)?.create(tier("a", 1.0)).await?;
    for store in &handles {
        for content in [1.0, 2.0] {
            let error = refused("create", store.create(tier("a", content)).await)?;
            holds(
                "it is AlreadyExists",
                matches!(error, DatastoreError::AlreadyExists { .. }),
            )?;
        }
    }
    same(
        "get",
        present(handle(&handles, 1)?.as_ref(), &tier_key("a")).await?,
        created,
    )
}

pub(super) async fn an_update_needs_the_current_version(handles: Handles) -> Result<(), Failure> {
    let (one, other) = (handle(&handles, 0)?, handle(&handles, 1)?);
    let error = refused(
        "update of nothing",
        one.update(tier("a", 1.0), &strange_version()).await,
    )?;
    holds("it is NotFound", matches!(error, DatastoreError::NotFound { .. }))?;
    let first = one.create(tier("a", 1.0)).await?;
    let second = other.update(tier("a", 2.0), &first.version).await?;
    holds("the version changed", first.version != second.version)?;
    holds("the revision grew", first.revision < second.revision)?;
    for version in [&first.version, &strange_version()] {
        match refused(
            "update from an old version",
            one.update(tier("a", 3.0), version).await,
        )? {
            DatastoreError::Conflict { key, current } => {
                same("the key", key, tier_key("a"))?;
                same("what is there", *current, second.clone())?;
            }
            error => return Err(error.into()),
        }
    }
    let third = one.update(tier("a", 3.0), &second.version).await?;
    same("get", present(other.as_ref(), &tier_key("a")).await?, third)
}

pub(super) async fn an_update_by_the_equal_changes_nothing(handles: Handles) -> Result<(), Failure> {
    let (one, other) = (handle(&handles, 0)?, handle(&handles, 1)?);
    let created = one.create(tier("a", 1.0)).await?;
    let before = other.list(Selection::all()).await?.revision;
    same(
        "the object",
        other.update(tier("a", 1.0), &created.version).await?,
        created.clone(),
    )?;
    let error = refused(
        "even the equal",
        other.update(tier("a", 1.0), &strange_version()).await,
    )?;
    holds(
        "a wrong version conflicts",
        matches!(error, DatastoreError::Conflict { .. }),
    )?;
    let mut watch = one.watch(Selection::all(), before).await?;
    // Had the first update made an event, it would come before this one.
    let changed = other.update(tier("a", 2.0), &created.version).await?;
    same(
        "the first event",
        watch.next().await?.revision(),
        changed.revision,
    )
}

pub(super) async fn a_delete_needs_the_current_version_or_none(handles: Handles) -> Result<(), Failure> {
    let (one, other) = (handle(&handles, 0)?, handle(&handles, 1)?);
    let created = one.create(tier("a", 1.0)).await?;
    match refused(
        "delete",
        other.delete(&tier_key("a"), Some(&strange_version())).await,
    )? {
        DatastoreError::Conflict { current, .. } => same("what is there", *current, created.clone())?,
        error => return Err(error.into()),
    }
    other.delete(&tier_key("a"), Some(&created.version)).await?;
    same("get", one.get(&tier_key("a")).await?, None)?;
    for version in [None, Some(&created.version)] {
        let error = refused("delete of nothing", one.delete(&tier_key("a"), version).await)?;
        holds("it is NotFound", matches!(error, DatastoreError::NotFound { .. }))?;
    }
    let again = one.create(tier("a", 2.0)).await?;
    holds("revisions grow across lives", again.revision > created.revision)?;
    other.delete(&tier_key("a"), None).await?;
    same("list", one.list(Selection::all()).await?.items, vec![])
}

pub(super) async fn an_invalid_object_changes_nothing(handles: Handles) -> Result<(), Failure> {
    let store = handle(&handles, 0)?;
    let before = store.list(Selection::all()).await?;
    let mut unnamed = tier("a", 1.0);
    for name in ["", "..", "a/b", "UPPER", ".hidden", "-", "a_b", &"x".repeat(254)] {
        unnamed.metadata_mut().name = name.to_owned();
        let error = refused("a strange name", store.create(unnamed.clone()).await)?;
        holds("it is Invalid", matches!(error, DatastoreError::Invalid { .. }))?;
    }
    match refused("create", store.create(invalid_policy("p")).await)? {
        DatastoreError::Invalid { error, .. } => {
            holds(
                "it names the field",
                error.faults.iter().any(|f| f.field == "spec.selector"),
            )?;
        }
        error => return Err(error.into()),
    }
    same("list", store.list(Selection::all()).await?, before)?;

    let mut valid = invalid_policy("p");
    if let Resource::GlobalNetworkPolicy(policy) = &mut valid {
        policy.spec.selector = "all()".into();
    }
    let created = store.create(valid).await?;
    let error = refused(
        "update",
        store.update(invalid_policy("p"), &created.version).await,
    )?;
    holds("it is Invalid", matches!(error, DatastoreError::Invalid { .. }))?;
    same("get", present(store.as_ref(), &created.key()).await?, created)
}

pub(super) async fn every_kind_comes_back_as_it_was(handles: Handles) -> Result<(), Failure> {
    let (one, other) = (handle(&handles, 0)?, handle(&handles, 1)?);
    let mut expected = Vec::new();
    for kind in Kind::ALL {
        let resource = example(kind)?;
        let created = one.create(resource.clone()).await?;
        same("created", created.resource.as_ref(), &resource)?;
        same(
            "read",
            present(other.as_ref(), &resource.key()).await?.resource.as_ref(),
            &resource,
        )?;
        expected.push(resource);
    }
    let listed = other.list(Selection::all()).await?;
    same(
        "listed",
        listed.items.iter().map(|v| v.resource.as_ref().clone()).collect(),
        expected,
    )
}

/// A small valid object of a kind, with labels that a careless writer of YAML would turn into something else.
fn example(kind: Kind) -> Result<Resource, Failure> {
    let spec = match kind {
        Kind::HostEndpoint => json!({"node": "n1", "interfaceName": "eth0"}),
        Kind::IPPool => json!({"cidr": "10.1.0.0/16"}),
        Kind::IPReservation => json!({"reservedCIDRs": ["10.1.0.0/30"]}),
        Kind::IPAMBlock => json!({
            "cidr": "10.1.0.0/31", "allocations": [null, 0], "unallocated": [0],
            "attributes": [{"handle_id": "h", "secondary": {"pod": "p"}}]
        }),
        Kind::BlockAffinity => json!({"state": "confirmed", "node": "n1", "cidr": "10.1.0.0/26"}),
        Kind::IPAMHandle => json!({"handleID": "h", "block": {"10.1.0.0/26": 1}}),
        Kind::WorkloadEndpoint => {
            json!({"node": "n1", "interfaceName": "cali1", "ipNetworks": ["10.1.0.1/32"]})
        }
        Kind::ServiceEndpoints => json!({"service": "s"}),
        _ => json!({}),
    };
    let mut metadata = json!({
        "name": "an.example-1",
        "labels": {"yes": "no", "number": "1e3", "empty": "", "date": "2001-01-01", "null": "~", "colon": "a: b #c"},
        "annotations": {"text": "line one\nline two\n\ttab \"quoted\" 'single' \u{1f431} \\"}
    });
    if let (true, Value::Object(map)) = (kind.is_namespaced(), &mut metadata) {
        map.insert("namespace".into(), "a-namespace".into());
    }
    let value = json!({"apiVersion": API_VERSION, "kind": kind.as_str(), "metadata": metadata, "spec": spec});
    let parsed = Resource::parse(value).map_err(|e| Failure::new(format!("the example of {kind}: {e}")))?;
    Ok(parsed.resource)
}

pub(super) async fn names_of_kinds_and_namespaces_do_not_mix(handles: Handles) -> Result<(), Failure> {
    let store = handle(&handles, 0)?;
    for namespace in ["a", "b", "a.b"] {
        store.create(network_set(namespace, "x")).await?;
        store.create(network_set(namespace, "b.x")).await?;
    }
    store.create(tier("x", 1.0)).await?;
    store
        .delete(&Key::namespaced(Kind::NetworkSet, "a", "b.x"), None)
        .await?;
    let keys: Vec<String> = store
        .list(Selection::all())
        .await?
        .items
        .iter()
        .map(|v| v.key().to_string())
        .collect();
    let expected = [
        "Tier/x",
        "NetworkSet/a/x",
        "NetworkSet/a.b/b.x",
        "NetworkSet/a.b/x",
        "NetworkSet/b/b.x",
        "NetworkSet/b/x",
    ];
    same("keys", keys, expected.map(String::from).to_vec())
}

pub(super) async fn a_listing_is_sorted_and_selected(handles: Handles) -> Result<(), Failure> {
    let store = handle(&handles, 0)?;
    for name in ["c", "a", "b"] {
        store.create(tier(name, 1.0)).await?;
        store.create(network_set("n2", name)).await?;
        store.create(network_set("n1", name)).await?;
    }
    let count = |selection: Selection| {
        let store = handle(&handles, 1);
        async move {
            let listing = store?.list(selection.clone()).await?;
            let keys: Vec<Key> = listing.items.iter().map(|v| v.key()).collect();
            holds("the listing is sorted", keys.is_sorted())?;
            holds(
                "the listing is selected",
                keys.iter().all(|k| selection.matches(k)),
            )?;
            Ok::<usize, Failure>(keys.len())
        }
    };
    same("all", count(Selection::all()).await?, 9)?;
    same("one kind", count(Selection::kinds([Kind::Tier])).await?, 3)?;
    same(
        "two kinds",
        count(Selection::kinds([Kind::Tier, Kind::NetworkSet])).await?,
        9,
    )?;
    same(
        "one namespace",
        count(Selection::all().in_namespace("n1")).await?,
        3,
    )?;
    same(
        "no namespace",
        count(Selection::kinds([Kind::Tier]).in_namespace("n1")).await?,
        0,
    )?;
    same("no kind", count(Selection::kinds([])).await?, 0)
}

pub(super) async fn of_many_writers_one_wins(handles: Handles) -> Result<(), Failure> {
    for round in 0..10 {
        let name = format!("t{round}");
        let tasks: Vec<_> = (0..8)
            .map(|n| {
                let (store, resource) = (handle(&handles, n), tier(&name, 1.0 + n as f64));
                tokio::spawn(async move { Ok::<_, Failure>(store?.create(resource).await) })
            })
            .collect();
        let mut winners = Vec::new();
        for task in tasks {
            match task.await.map_err(Failure::new)?? {
                Ok(created) => winners.push(created),
                Err(DatastoreError::AlreadyExists { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        same("winners", winners.len(), 1)?;
        let stored = present(handle(&handles, round)?.as_ref(), &tier_key(&name)).await?;
        same("what is stored", Some(&stored), winners.first())?;
    }
    Ok(())
}

pub(super) async fn counters_that_many_handles_raise_lose_nothing(handles: Handles) -> Result<(), Failure> {
    const TASKS: usize = 6;
    const TIMES: usize = 20;
    let tasks: Vec<_> = (0..TASKS)
        .map(|n| {
            let store = handle(&handles, n);
            tokio::spawn(async move {
                let store = store?;
                for _ in 0..TIMES {
                    let raise = |now: Option<&Resource>| Some(tier("counter", now.map_or(0.0, order) + 1.0));
                    upsert_with_retry(store.as_ref(), &tier_key("counter"), raise).await?;
                }
                Ok::<_, Failure>(())
            })
        })
        .collect();
    for task in tasks {
        task.await.map_err(Failure::new)??;
    }
    let counter = present(handle(&handles, 0)?.as_ref(), &tier_key("counter")).await?;
    same("the counter", order(&counter.resource), (TASKS * TIMES) as f64)
}

pub(super) async fn upsert_creates_updates_and_leaves(handles: Handles) -> Result<(), Failure> {
    let store = handle(&handles, 0)?;
    let key = tier_key("a");
    same(
        "left absent",
        upsert_with_retry(store.as_ref(), &key, |_| None).await?,
        None,
    )?;
    let created = upsert_with_retry(store.as_ref(), &key, |_| Some(tier("a", 1.0))).await?;
    let updated = upsert_with_retry(store.as_ref(), &key, |now| {
        Some(tier("a", now.map_or(9.0, order) + 1.0))
    })
    .await?;
    same("created", created.map(|v| order(&v.resource)), Some(1.0))?;
    same("updated", updated.as_ref().map(|v| order(&v.resource)), Some(2.0))?;
    same(
        "left",
        upsert_with_retry(store.as_ref(), &key, |_| None).await?,
        updated,
    )
}
