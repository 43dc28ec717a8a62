//! A pool that is deleted stays until nothing of it is in use.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // In a test, a panic is the failure.

use crate::bed::{Bed, OURS, Running, until};
use nix::sys::signal::Signal;
use policy_model::{AllocationAttribute, IpPoolSpec, Object};
use policy_model_ipam::reservation::Reservations;
use policy_model_ipam::{affinity, block};

#[tokio::test]
async fn a_deleted_pool_waits_for_its_addresses() {
    let _turn = crate::turn().await;
    let bed = Bed::start().await;
    bed.define().await;
    bed.node("n1", "192.0.2.10", &["10.244.0.0/24"]).await;
    bed.store(Object::named(
        "busy",
        IpPoolSpec::of("10.99.0.0/16".parse().unwrap()),
    ))
    .await;
    bed.store(Object::named(
        "idle",
        IpPoolSpec::of("10.98.0.0/16".parse().unwrap()),
    ))
    .await;
    let uid = bed.pod("web", "n1", Some("10.99.0.0")).await;
    let mut used = block::new("10.99.0.0/26".parse().unwrap(), Some("n1"), false, 1).unwrap();
    let attributes = [
        ("namespace", "shop"),
        ("pod", "web"),
        ("uid", &uid),
        ("node", "n1"),
    ];
    let attribute = AllocationAttribute {
        handle_id: Some("net.web".to_owned()),
        secondary: attributes.map(|(name, value)| (name, value.to_owned())).into(),
    };
    let given = block::assign_next(&mut used.spec, 1, &attribute, &Reservations::default());
    assert_eq!(given.len(), 1);
    let empty = block::new("10.99.0.64/26".parse().unwrap(), Some("n1"), false, 1).unwrap();
    for made in [used, empty] {
        let confirmed = policy_model::AffinityState::Confirmed;
        bed.store(affinity::new("n1", made.spec.cidr, confirmed)).await;
        bed.store(made).await;
    }
    let mut command = bed.controller("keeper").await;
    command.env("LEAK_GRACE", "2s").env("NO_DEFAULT_POOLS", "true");
    let keeper = Running::start(&bed, command, "keeper");
    let pool = async |name: &str| bed.get(&format!("{OURS}/ippools/{name}")).await;
    let condition = |pool: &serde_json::Value| pool["status"]["conditions"][0].clone();
    until("both are protected and say that they can be used", async || {
        let (busy, idle) = (pool("busy").await.unwrap(), pool("idle").await.unwrap());
        let are_well = |pool| {
            let condition: serde_json::Value = condition(pool);
            condition["type"] == "Allocatable" && condition["status"] == "True" && condition["reason"] == "OK"
        };
        are_well(&busy) && are_well(&idle)
    })
    .await;

    bed.remove(&format!("{OURS}/ippools/idle")).await;
    bed.remove(&format!("{OURS}/ippools/busy")).await;
    until("the one that nobody uses goes", async || {
        pool("idle").await.is_none()
    })
    .await;
    until(
        "the other says whom it waits for, and its empty block is given back",
        async || {
            let busy = pool("busy").await.expect("it must not go");
            let condition = condition(&busy);
            let blocks = bed.get(&format!("{OURS}/ipamblocks")).await.unwrap();
            busy["spec"]["disabled"] == true
                && condition["reason"] == "Terminating"
                && condition["message"]
                    .as_str()
                    .unwrap()
                    .contains("10.99.0.0 (shop/web)")
                && blocks["items"].as_array().unwrap().len() == 1
        },
    )
    .await;

    // Another leader takes it up in the midst of this. A pool that is on its way out is still the pool of its family:
    // no default pool takes its place.
    keeper.signal(Signal::SIGTERM);
    let mut command = bed.controller("next").await;
    command.env("LEAK_GRACE", "2s");
    let keeper = Running::start(&bed, command, "next");
    until("the next one leads", async || keeper.leads() && keeper.is_ready()).await;
    assert!(pool("default-ipv4-ippool").await.is_none());

    bed.remove("/api/v1/namespaces/shop/pods/web").await;
    until("it goes with its last address", async || {
        pool("busy").await.is_none()
    })
    .await;
    let blocks = bed.get(&format!("{OURS}/ipamblocks")).await.unwrap();
    assert_eq!(blocks["items"].as_array().unwrap().len(), 0);
    until("the log says so", async || {
        keeper.log().contains("the pool busy is gone")
    })
    .await;
}
