//! What vanished nodes and pods held is given back; what anybody may still use is not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // In a test, a panic is the failure.

use crate::bed::{Bed, OURS, Running, until};
use policy_model::{AffinityState, AllocationAttribute, IpamBlockSpec, Object};
use policy_model_ipam::reservation::Reservations;
use policy_model_ipam::{affinity, block, handle, name};
use serde_json::{Value, json};
use std::time::Duration;

/// A block being filled for a test.
struct Filling(Object<IpamBlockSpec>);

impl Filling {
    fn of(cidr: &str, node: &str) -> Filling {
        Filling(block::new(cidr.parse().unwrap(), Some(node), false, 1).unwrap())
    }

    fn give(&mut self, handle: &str, attributes: &[(&str, &str)]) -> String {
        let attribute = AllocationAttribute {
            handle_id: Some(handle.to_owned()),
            secondary: attributes
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        };
        let given = block::assign_next(&mut self.0.spec, 1, &attribute, &Reservations::default());
        given[0].to_string()
    }

    fn pod(&mut self, pod: &str, uid: &str, node: &str) -> String {
        let attributes = [("namespace", "shop"), ("pod", pod), ("uid", uid), ("node", node)];
        self.give(&format!("net.{pod}"), &attributes)
    }

    fn reserve(&mut self, node: &str) -> String {
        self.give(&handle::of_reserve(node), &[("node", node)])
    }

    async fn store(self, bed: &Bed) {
        let cidr = self.0.spec.cidr;
        let node = block::owner(&self.0.spec).unwrap().to_owned();
        bed.store(affinity::new(&node, cidr, AffinityState::Confirmed))
            .await;
        bed.store(self.0).await;
    }
}

/// The addresses that a block has given, by their handles; nothing where there is no block.
async fn held(bed: &Bed, cidr: &str) -> Option<Vec<String>> {
    let key = name::block_key(&cidr.parse().unwrap());
    let object = bed.get(&format!("{OURS}/ipamblocks/{}", key.name)).await?;
    let attributes = object["spec"]["attributes"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let mut found = Vec::new();
    for allocation in object["spec"]["allocations"].as_array().unwrap() {
        if let Some(index) = allocation.as_u64() {
            let of = &attributes[usize::try_from(index).unwrap()];
            found.push(of["handle_id"].as_str().unwrap().to_owned());
        }
    }
    Some(found)
}

async fn owner(bed: &Bed, cidr: &str) -> Value {
    let key = name::block_key(&cidr.parse().unwrap());
    let object = bed.get(&format!("{OURS}/ipamblocks/{}", key.name)).await;
    object.unwrap_or_default()["spec"]["affinity"].clone()
}

#[tokio::test]
async fn a_vanished_node_gives_back_all_and_a_living_one_nothing() {
    let _turn = crate::turn().await;
    let bed = Bed::start().await;
    bed.define().await;
    bed.node("stays", "192.0.2.10", &["10.244.0.0/24"]).await;
    bed.node("goes", "192.0.2.11", &["10.244.1.0/24"]).await;
    let mut own = Filling::of("10.244.0.0/26", "stays");
    own.reserve("stays");
    let uid = bed.pod("web", "stays", Some("10.244.0.1")).await;
    own.pod("web", &uid, "stays");
    // Borrowed by the node that goes.
    own.pod("borrower", "0", "goes");
    own.store(&bed).await;
    let mut others = Filling::of("10.244.1.0/26", "goes");
    others.reserve("goes");
    others.pod("dead", "1", "goes");
    others.give(
        &handle::of_vxlan_tunnel("goes"),
        &[("node", "goes"), ("type", "vxlanTunnelAddress")],
    );
    others.store(&bed).await;
    let mut last = Filling::of("10.244.1.64/26", "goes");
    let uid = bed.pod("lingering", "goes", Some("10.244.1.64")).await;
    last.pod("lingering", &uid, "goes");
    last.store(&bed).await;

    let mut command = bed.controller("keeper").await;
    command.env("LEAK_GRACE", "0s");
    let keeper = Running::start(&bed, command, "keeper");
    until("it is ready", async || keeper.leads() && keeper.is_ready()).await;
    until(
        "its figures tell what is in use and what is borrowed",
        async || {
            keeper.tells(&[
                "ipam_allocations_in_use{ippool=\"default-ipv4-ippool\",node=\"stays\"} 1",
                "ipam_allocations_borrowed{ippool=\"default-ipv4-ippool\",node=\"goes\"} 1",
            ])
        },
    )
    .await;

    bed.remove("/api/v1/nodes/goes").await;
    until("the block of the node that went is gone", async || {
        held(&bed, "10.244.1.0/26").await.is_none()
    })
    .await;
    // A pod that the API server still has keeps its address, in a block without an owner.
    until("the other block has no owner", async || {
        held(&bed, "10.244.1.64/26").await.is_some() && owner(&bed, "10.244.1.64/26").await.is_null()
    })
    .await;
    assert_eq!(
        held(&bed, "10.244.1.64/26").await,
        Some(vec!["net.lingering".to_owned()])
    );
    until("what it had borrowed is given back", async || {
        held(&bed, "10.244.0.0/26").await == Some(vec!["manx-reserve-stays".to_owned(), "net.web".to_owned()])
    })
    .await;
    assert_eq!(owner(&bed, "10.244.0.0/26").await, "host:stays");
    // A claim goes after its block.
    until("one claim is left", async || {
        let claims = bed.get(&format!("{OURS}/blockaffinities")).await.unwrap();
        claims["items"].as_array().unwrap().len() == 1
    })
    .await;

    bed.remove("/api/v1/namespaces/shop/pods/lingering").await;
    until("the last address goes with its pod", async || {
        held(&bed, "10.244.1.64/26").await.is_none()
    })
    .await;
    // Said and counted after the block is gone, so it may be seen a moment later.
    until("all five addresses are counted", async || {
        keeper.tells(&["manx_controller_addresses_released_total 5"])
    })
    .await;
    until("the log says so", async || {
        keeper.log().contains("the node goes is gone")
    })
    .await;
}

#[tokio::test]
async fn leaked_addresses_are_collected_with_proof_only() {
    let _turn = crate::turn().await;
    let bed = Bed::start().await;
    bed.define().await;
    bed.node("well", "192.0.2.10", &["10.244.0.0/24"]).await;
    bed.node("ill", "192.0.2.11", &["10.244.1.0/24"]).await;
    let unknown = json!({ "status": { "conditions": [{ "type": "Ready", "status": "Unknown" }] } });
    bed.change("/api/v1/nodes/ill/status", unknown).await;

    let mut block = Filling::of("10.244.0.0/26", "well");
    block.reserve("well");
    let uid = bed.pod("alive", "well", Some("10.244.0.1")).await;
    let alive = block.pod("alive", &uid, "well");
    assert_eq!(alive, "10.244.0.1");
    block.pod("leaked", "gone", "well");
    // A pod of the same name, made anew: the address is of the one before.
    bed.pod("again", "well", Some("10.244.0.40")).await;
    block.pod("again", "former", "well");
    // The node gave it to another pod and could not yet say so.
    let given = block.pod("former", "gone", "well");
    bed.pod("latter", "well", Some(&given)).await;
    block.give(
        &handle::of_vxlan_tunnel("well"),
        &[("node", "well"), ("type", "vxlanTunnelAddress")],
    );
    block.give("a-users-own", &[("note", "kept by hand")]);
    block.store(&bed).await;
    let mut silent = Filling::of("10.244.1.0/26", "ill");
    silent.pod("unproven", "gone", "ill");
    silent.store(&bed).await;

    let mut command = bed.controller("collector").await;
    command.env("LEAK_GRACE", "2s");
    let collector = Running::start(&bed, command, "collector");
    let kept = [
        "manx-reserve-well",
        "net.alive",
        "net.former",
        "vxlan-tunnel-addr-well",
        "a-users-own",
    ];
    until("what leaked is given back and nothing else", async || {
        held(&bed, "10.244.0.0/26")
            .await
            .is_some_and(|held| held == kept.map(str::to_owned))
    })
    .await;
    until(
        "the figures tell what was given back and what waits for proof",
        async || {
            collector.tells(&[
                "ipam_allocations_gc_reclamations{ippool=\"default-ipv4-ippool\",node=\"well\"} 2",
                "ipam_allocations_gc_candidates{ippool=\"default-ipv4-ippool\",node=\"ill\"} 1",
            ])
        },
    )
    .await;

    // Some more looks change nothing; the ill node's word is what is missing.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(held(&bed, "10.244.0.0/26").await.unwrap().len(), kept.len());
    assert_eq!(
        held(&bed, "10.244.1.0/26").await,
        Some(vec!["net.unproven".to_owned()])
    );
    let ready = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
    bed.change("/api/v1/nodes/ill/status", ready).await;
    until("the node spoke", async || {
        held(&bed, "10.244.1.0/26")
            .await
            .is_some_and(|held| held.is_empty())
    })
    .await;
    // The pod that had the address in truth is gone now too.
    bed.remove("/api/v1/namespaces/shop/pods/latter").await;
    until("the last leak is given back", async || {
        held(&bed, "10.244.0.0/26")
            .await
            .is_some_and(|held| !held.contains(&"net.former".to_owned()))
    })
    .await;
    until("it is ready", async || collector.is_ready()).await;
}
