//! Tests of what the view holds and tells.

use super::*;
use policy_model::{AllocationAttribute, IpPoolSpec};
use policy_model_datastore::MemoryStore;

fn endpoint(node: &str, pod: &str, uid: &str) -> Resource {
    let mut endpoint = Object::namespaced(
        "shop",
        usual_name(node, pod),
        WorkloadEndpointSpec {
            node: node.into(),
            pod: pod.into(),
            ..WorkloadEndpointSpec::default()
        },
    );
    endpoint.metadata.uid = uid.into();
    endpoint.into()
}

async fn until(mut changes: watch::Receiver<u64>, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), waiting)
        .await
        .expect("it comes true");
}

#[tokio::test]
async fn one_watch_tells_of_this_nodes_pods_as_they_come_and_go() {
    let store = MemoryStore::new();
    store.create(endpoint("n1", "early", "u0")).await.unwrap();
    store.create(endpoint("n2", "elsewhere", "u9")).await.unwrap();
    let view = Arc::new(ClusterView::of_node("n1"));
    let following = tokio::spawn({
        let (view, store) = (view.clone(), Arc::new(store.clone()));
        async move { view.follow(store).await }
    });
    let mut in_sync = view.in_sync();
    in_sync.wait_for(|yes| *yes).await.unwrap();
    assert!(view.endpoint("shop", "early", "").is_some());
    assert!(view.endpoint("shop", "early", "u0").is_some());
    assert!(
        view.endpoint("shop", "early", "u1").is_none(),
        "an earlier pod of the name"
    );
    assert!(view.endpoint("shop", "elsewhere", "").is_none());
    assert!(view.endpoint("other", "early", "").is_none());

    let changes = view.endpoint_changes();
    store.create(endpoint("n1", "late", "u2")).await.unwrap();
    until(changes.clone(), || view.endpoint("shop", "late", "u2").is_some()).await;
    store.break_watches();
    let key = endpoint("n1", "late", "").key();
    store.delete(&key, None).await.unwrap();
    until(changes, || view.endpoint("shop", "late", "").is_none()).await;
    following.abort();
}

#[test]
fn a_pod_of_the_nodes_own_manifests_is_called_by_its_hash() {
    let view = ClusterView::of_node("n1");
    let mut mirror = endpoint("n1", "apiserver-n1", "uid-of-the-mirror");
    let hash = ("kubernetes.io/config.hash".to_owned(), "0123abcd".to_owned());
    mirror.metadata_mut().annotations.extend([hash]);
    view.note(&versioned(mirror, 1));
    for uid in ["0123abcd", "uid-of-the-mirror", ""] {
        assert!(view.endpoint("shop", "apiserver-n1", uid).is_some(), "{uid}");
    }
    assert!(view.endpoint("shop", "apiserver-n1", "other").is_none());
}

fn versioned(resource: Resource, number: u64) -> Versioned {
    Versioned {
        resource: Arc::new(resource),
        version: Version::new(number.to_string()),
        revision: Revision::new(number),
    }
}

#[test]
fn of_other_nodes_blocks_an_outline_is_held_until_this_node_has_something_in_them() {
    let view = ClusterView::of_node("n1");
    view.take(&[SyncEvent::Status(SyncStatus::InSync), SyncEvent::InSync]);
    let mut block = block::new("10.0.0.0/30".parse().unwrap(), Some("n2"), false, 1).unwrap();
    let name = block.metadata.name.clone();
    let mut tell = |node: &str, number| {
        let attribute = AllocationAttribute {
            handle_id: Some(format!("pod-{number}")),
            secondary: [(handle::ATTRIBUTE_NODE.to_owned(), node.to_owned())].into(),
        };
        block::assign_next(&mut block.spec, 1, &attribute, &Reservations::default());
        view.take(&[SyncEvent::Upsert(versioned(block.clone().into(), number))]);
        block.spec.clone()
    };
    let held = || match view.get(&Key::global(Kind::IPAMBlock, name.clone())) {
        Some(found) => match found.resource.as_ref() {
            Resource::IPAMBlock(block) => Some(block.spec.clone()),
            _ => None,
        },
        None => None,
    };
    let theirs = tell("n2", 1);
    assert_eq!(held(), Some(block::outline(&theirs)));
    assert!(view.own_blocks().is_empty());
    // Borrowed: from now on all of it matters.
    let ours = tell("n1", 2);
    assert_eq!(held(), Some(ours));
    assert_eq!(view.own_blocks().len(), 1);
}

#[test]
fn what_this_node_wrote_is_not_undone_by_what_is_told_late() {
    let view = ClusterView::of_node("n1");
    let pool = |disabled| {
        let mut spec = IpPoolSpec::of("10.0.0.0/24".parse().unwrap());
        spec.disabled = disabled;
        Resource::from(Object::named("p", spec))
    };
    let key = pool(false).key();
    let is_disabled = || match view.get(&key).map(|v| v.resource) {
        Some(resource) => match resource.as_ref() {
            Resource::IPPool(pool) => Some(pool.spec.disabled),
            _ => None,
        },
        None => None,
    };
    let upsert = |disabled, number| SyncEvent::Upsert(versioned(pool(disabled), number));
    assert!(view.current(Kind::IPPool).is_none());
    view.take(&[SyncEvent::Status(SyncStatus::InSync), SyncEvent::InSync]);
    assert!(view.current(Kind::IPPool).is_some() && view.current(Kind::Tier).is_none());
    view.note(&versioned(pool(true), 5));
    view.take(&[upsert(false, 4)]);
    assert_eq!(is_disabled(), Some(true));
    view.note_deleted(&key);
    view.take(&[upsert(true, 5), upsert(false, 4)]);
    assert_eq!(is_disabled(), None, "it is deleted");
    view.take(&[SyncEvent::Delete(key.clone()), upsert(false, 7)]);
    assert_eq!(is_disabled(), Some(false), "it was made anew");
    // A store that was put back to an earlier state begins with a listing, and counts from there.
    view.take(&[SyncEvent::Status(SyncStatus::ResyncInProgress), upsert(true, 3)]);
    assert_eq!(is_disabled(), Some(true));
}
