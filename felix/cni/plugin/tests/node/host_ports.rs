//! Ports of the node that the runtime asks for with a pod.

use crate::bed::{Node, Said, Sandbox, wait_for};
use serde_json::{Value, json};

/// Addresses of the node beside its loopback.
const ADDRESSES: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

fn node() -> Node {
    let node = Node::new();
    for address in ADDRESSES {
        node.ip(&format!("addr add {address} dev lo"));
    }
    node
}

/// What a runtime adds for a pod with ports.
fn with(mappings: Value) -> Value {
    json!({"capabilities": {"portMappings": true}, "runtimeConfig": {"portMappings": mappings}})
}

/// As containerd 1.6 spells the first, and the convention the second.
fn web(protocol: &str) -> Value {
    with(json!([
        {"HostPort": 8080, "ContainerPort": 80, "Protocol": protocol, "HostIP": ""},
        {"hostPort": 0, "containerPort": 9090, "protocol": "tcp"},
    ]))
}

/// Asserts who answers at every address of the node.
fn assert_answers(node: &Node, who: Option<&str>) {
    for address in ADDRESSES.into_iter().chain(["127.0.0.1"]) {
        assert_eq!(node.answer_at(address, 8080).as_deref(), who, "{address}");
    }
}

#[test]
fn a_port_of_the_node_comes_and_goes_with_its_pod() {
    let node = node();
    let felix = node.start_ready("first");
    let sandbox = Sandbox::new("c1");
    sandbox.serve(80);
    node.announce("web");
    assert_answers(&node, None);
    let result = node.call("ADD", &sandbox, "web", web("tcp")).success();
    // There when the runtime hears of the pod.
    assert_answers(&node, Some("c1"));
    assert_eq!(node.call("ADD", &sandbox, "web", web("TCP")).success(), result);
    let checked = || {
        let mut changes = web("tcp");
        changes["prevResult"] = result.clone();
        node.call("CHECK", &sandbox, "web", changes)
    };
    checked().success();

    // Neither its end nor its next life changes anything.
    felix.kill();
    assert_answers(&node, Some("c1"));
    let before = node.map("host4");
    assert!(before.contains("tcp . 8080"), "{before}");
    let felix = node.start_ready("second");
    assert_eq!(node.map("host4"), before);
    assert_answers(&node, Some("c1"));
    checked().success();

    // Gone when the runtime hears that the pod is.
    node.call("DEL", &sandbox, "web", web("tcp")).success();
    assert_answers(&node, None);
    assert!(!node.map("host4").contains("8080"));
    drop(felix);
}

#[test]
fn one_port_is_one_pods_until_that_is_gone() {
    let node = node();
    let _felix = node.start_ready("log");
    let (first, second, third) = (Sandbox::new("c1"), Sandbox::new("c2"), Sandbox::new("c3"));
    for (sandbox, pod) in [(&first, "first"), (&second, "second"), (&third, "third")] {
        sandbox.serve(80);
        node.announce(pod);
    }
    node.call("ADD", &first, "first", web("tcp")).success();
    let refused: Said = node.call("ADD", &second, "second", web("tcp"));
    assert_eq!(refused.code(), 102);
    let said = refused.document["msg"].as_str().unwrap();
    for words in ["host port TCP 8080", "node-1", "pod shop/first"] {
        assert!(said.contains(words), "{said}");
    }
    assert!(!second.ip("link show eth0").0, "nothing of it is left");
    node.until_held("c2", 0);
    let narrow =
        with(json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"}]));
    assert_eq!(node.call("ADD", &second, "second", narrow).code(), 102);
    assert_answers(&node, Some("c1"));
    // Another protocol is another port.
    node.call("ADD", &second, "second", web("udp")).success();
    assert!(node.map("host4").contains("udp . 8080"));

    // A sandbox that is made anew for the same pod has its port, whatever becomes of the old one.
    let anew = Sandbox::new("c1-again");
    anew.serve(80);
    node.call("ADD", &anew, "first", web("tcp")).success();
    assert_answers(&node, Some("c1-again"));
    node.call("DEL", &first, "first", web("tcp")).success();
    assert_answers(&node, Some("c1-again"));

    // The pod is gone from the cluster, and its removal is late.
    node.withdraw("first");
    wait_for("the port to be free", || {
        node.call("ADD", &third, "third", web("tcp"))
            .is_success
            .then_some(())
    });
    assert_answers(&node, Some("c3"));
    node.call("DEL", &anew, "first", web("tcp")).success();
    assert_answers(&node, Some("c3"));
    node.call("DEL", &third, "third", web("tcp")).success();
    assert_answers(&node, None);
}

#[test]
fn what_is_wrong_with_ports_is_no_hindrance_to_a_removal() {
    let node = node();
    let _felix = node.start_ready("log");
    let sandbox = Sandbox::new("c1");
    node.announce("web");
    let wrong = || with(json!([{"hostPort": 8080, "containerPort": 0}]));
    assert_eq!(node.call("ADD", &sandbox, "web", wrong()).code(), 7);
    node.call("DEL", &sandbox, "web", wrong()).success();
}
