//! Flows of pods that are gone are forgotten before anybody else has their addresses, whatever dies when.

use crate::bed::{Node, Sandbox, addresses, wait_for};
use serde_json::json;
use std::net::IpAddr;

const PORT: u16 = 8080;

/// Connects a pod that serves, and makes a connection with it from the node. Returns its IPv4 address.
fn served(node: &Node, sandbox: &Sandbox) -> IpAddr {
    node.announce(&sandbox.container);
    let given = addresses(&node.add(sandbox, &sandbox.container));
    let address = *given.iter().find(|address| address.is_ipv4()).unwrap();
    sandbox.serve(PORT);
    let answer = node.answer_at(&address.to_string(), PORT);
    assert_eq!(answer.as_deref(), Some(&*sandbox.container));
    assert_ne!(node.flows_of(address), 0);
    address
}

#[test]
fn a_removal_that_was_answered_is_finished_by_the_next_life() {
    let node = Node::new();
    node.ip("addr add 192.0.2.1/32 dev lo");
    let felix = node.start_ready("first");
    let sandbox = Sandbox::new("c1");
    let address = served(&node, &sandbox);
    node.until_held("c1", 2);
    node.call("DEL", &sandbox, "c1", json!({})).success();
    felix.kill();
    let _felix = node.start_ready("second");
    node.until_held("c1", 0);
    assert_eq!(node.flows_of(address), 0);
    assert!(!sandbox.ip("link show eth0").0);
}

/// The address is not free before its flows are forgotten, and guarded from then on.
#[test]
fn addresses_that_pods_leave_are_guarded_and_clean() {
    let node = Node::new();
    node.ip("addr add 192.0.2.1/32 dev lo");
    let _felix = node.start_ready("log");
    let sandboxes: Vec<Sandbox> = (0..4).map(|n| Sandbox::new(&format!("c{n}"))).collect();
    // What is reserved is guarded before anybody has it.
    wait_for("the reserve to be guarded", || {
        (node.guarded("4") >= 8 && node.guarded("6") >= 8).then_some(())
    });
    let mut given = Vec::new();
    for sandbox in &sandboxes {
        let address = served(&node, sandbox);
        assert!(
            !node.set("vacant4").contains(&format!(" {address}")),
            "it has a pod"
        );
        given.push(address);
    }
    for (sandbox, address) in sandboxes.iter().zip(&given) {
        node.call("DEL", sandbox, &sandbox.container, json!({})).success();
        node.until_held(&format!(".{}\"", sandbox.container), 0);
        assert_eq!(node.flows_of(*address), 0);
    }
}
