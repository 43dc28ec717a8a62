//! A pool that is deleted stays until nothing of it is in use; one of which others have addresses says so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // In a test, a panic is the failure.

use crate::bed::{Bed, OURS, Running, until};
use nix::sys::signal::Signal;
use policy_model::{AllocationAttribute, IpPoolSpec, Object};
use policy_model_ipam::reservation::Reservations;
use policy_model_ipam::{affinity, block};
use serde_json::{Value, json};

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

/// What a pool says of others that have addresses of it: reason and message.
async fn overlap(bed: &Bed, pool: &str) -> Option<(String, String)> {
    let pool = bed.get(&format!("{OURS}/ippools/{pool}")).await?;
    let conditions = pool["status"]["conditions"].as_array()?.clone();
    let found = conditions.iter().find(|one| one["type"] == "CIDROverlap")?;
    assert_eq!(found["status"], "True");
    let text = |field: &str| found[field].as_str().unwrap().to_owned();
    Some((text("reason"), text("message")))
}

fn is(said: &Option<(String, String)>, reason: &str, words: &[&str]) -> bool {
    said.as_ref()
        .is_some_and(|(found, message)| found == reason && words.iter().all(|word| message.contains(word)))
}

#[tokio::test]
async fn a_pool_of_which_others_have_addresses_says_so_as_long_as_they_have() {
    let _turn = crate::turn().await;
    let bed = Bed::start().await;
    bed.define().await;
    bed.node("n1", "192.0.2.10", &[]).await;
    let pool = async |name: &str, range: &str| {
        bed.store(Object::named(name, IpPoolSpec::of(range.parse().unwrap())))
            .await;
    };
    pool("wide", "10.99.0.0/16").await;
    pool("narrow", "10.99.128.0/20").await;
    // The API server's own range is 10.96.0.0/16, as its ServiceCIDR says.
    pool("services", "10.96.128.0/17").await;
    pool("nodes", "192.0.2.0/24").await;
    pool("alone", "10.98.0.0/16").await;
    let mut command = bed.controller("keeper").await;
    command.env("NO_DEFAULT_POOLS", "true");
    let keeper = Running::start(&bed, command, "keeper");
    until("those that others have addresses of say so", async || {
        is(
            &overlap(&bed, "wide").await,
            "OverlapsPool",
            &["narrow (10.99.128.0/20)", "spec.disabled"],
        ) && is(
            &overlap(&bed, "narrow").await,
            "OverlapsPool",
            &["wide (10.99.0.0/16)"],
        ) && is(
            &overlap(&bed, "services").await,
            "OverlapsServices",
            &["10.96.0.0/16 (ServiceCIDR kubernetes)"],
        ) && is(
            &overlap(&bed, "nodes").await,
            "OverlapsNode",
            &["n1 (192.0.2.10)"],
        )
    })
    .await;
    let state = async |name: &str| bed.get(&format!("{OURS}/ippools/{name}")).await.unwrap();
    let alone = state("alone").await;
    assert_eq!(
        alone["status"]["conditions"].as_array().unwrap().len(),
        1,
        "{alone}"
    );
    // Nothing is taken down for it.
    for name in ["wide", "narrow", "services", "nodes"] {
        let pool = state(name).await;
        assert!(pool["spec"]["disabled"].is_null() && pool["metadata"]["deletionTimestamp"].is_null());
        let conditions = pool["status"]["conditions"].as_array().unwrap();
        let is_allocatable = |one: &&Value| one["type"] == "Allocatable" && one["status"] == "True";
        assert!(conditions.iter().any(|one| is_allocatable(&one)), "{pool}");
    }
    let log = keeper.log();
    let warned = |pool: &str| {
        log.lines()
            .filter(|line| line.contains("WARN") && line.contains(pool))
            .count()
    };
    for name in ["wide", "narrow", "services", "nodes"] {
        assert_eq!(warned(&format!("the pool {name}: ")), 1, "{log}");
    }

    // Everything that is in the way goes, and with it the words.
    bed.remove(&format!("{OURS}/ippools/narrow")).await;
    until("the pool says nothing of one that is gone", async || {
        overlap(&bed, "wide").await.is_none()
    })
    .await;
    let elsewhere =
        json!({ "status": { "addresses": [{ "type": "InternalIP", "address": "198.51.100.1" }] } });
    bed.change("/api/v1/nodes/n1/status", elsewhere).await;
    until("nor of a node that has another address", async || {
        overlap(&bed, "nodes").await.is_none()
    })
    .await;
    assert!(
        overlap(&bed, "services").await.is_some(),
        "the Services are still there"
    );
    // A range that Services get later is seen too.
    let more = json!({ "metadata": { "name": "more" }, "spec": { "cidrs": ["10.98.7.0/24"] } });
    let made = bed.put("/apis/networking.k8s.io/v1/servicecidrs", more).await;
    until("of a range that Services get later it speaks", async || {
        is(
            &overlap(&bed, "alone").await,
            "OverlapsServices",
            &["10.98.7.0/24 (ServiceCIDR more)"],
        )
    })
    .await;
    assert_eq!(made["metadata"]["name"], "more");
    bed.remove("/apis/networking.k8s.io/v1/servicecidrs/more").await;
    until("and no more when it is gone", async || {
        overlap(&bed, "alone").await.is_none()
    })
    .await;
}
