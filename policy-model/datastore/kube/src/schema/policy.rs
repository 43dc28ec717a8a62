//! The schemas of policies: who is selected, and the rules.

use super::fields::{
    about, integer, list, map, net, number, object, one_of, port, protocol, rule, selector, text, yes_or_no,
};
use serde_json::{Value, json};

/// What both kinds of policy have.
fn common() -> [(&'static str, Value); 8] {
    let types = {
        let mut types = list(one_of(&["Ingress", "Egress"]));
        types["maxItems"] = json!(2);
        types
    };
    [
        ("tier", about("Tier; the default tier where absent.", text())),
        (
            "order",
            about(
                "Position within the tier, smaller first; absent comes last.",
                number(),
            ),
        ),
        (
            "selector",
            about("Which endpoints; all where absent.", selector()),
        ),
        (
            "serviceAccountSelector",
            about("Which service accounts' endpoints; all where absent.", selector()),
        ),
        (
            "types",
            about(
                "Directions; where absent those that have rules, and Ingress where neither has.",
                types,
            ),
        ),
        (
            "ingress",
            about(
                "Rules for traffic to the endpoint; the first match decides.",
                list(policy_rule()),
            ),
        ),
        (
            "egress",
            about(
                "Rules for traffic from the endpoint; the first match decides.",
                list(policy_rule()),
            ),
        ),
        ("performanceHints", list(text())),
    ]
}

pub(super) fn network_policy() -> Value {
    object(&[], common())
}

pub(super) fn global_network_policy() -> Value {
    let mut schema = object(&[], common());
    for (name, field) in [
        (
            "namespaceSelector",
            about(
                "Which namespaces' endpoints; all where absent, host endpoints included.",
                selector(),
            ),
        ),
        (
            "doNotTrack",
            about(
                "Applies before connection tracking; host endpoints only.",
                yes_or_no(),
            ),
        ),
        (
            "preDNAT",
            about(
                "Applies before destination NAT; host endpoints only.",
                yes_or_no(),
            ),
        ),
        (
            "applyOnForward",
            about(
                "Applies to traffic that a host endpoint's node forwards.",
                yes_or_no(),
            ),
        ),
    ] {
        schema["properties"][name] = field;
    }
    let early = "(has(self.doNotTrack) && self.doNotTrack)";
    let before_nat = "(has(self.preDNAT) && self.preDNAT)";
    let schema = rule(
        schema,
        &format!("!({early} && {before_nat})"),
        "preDNAT cannot be combined with doNotTrack",
    );
    let schema = rule(
        schema,
        &format!("!({early} || {before_nat}) || (has(self.applyOnForward) && self.applyOnForward)"),
        "applyOnForward must be true with doNotTrack or preDNAT",
    );
    rule(
        schema,
        &format!("!{before_nat} || !has(self.egress) || size(self.egress) == 0"),
        "egress must be empty with preDNAT",
    )
}

fn policy_rule() -> Value {
    object(
        &["action"],
        [
            ("action", one_of(&["Allow", "Deny", "Pass", "Log"])),
            ("ipVersion", json!({ "type": "integer", "enum": [4, 6] })),
            ("protocol", protocol()),
            ("notProtocol", protocol()),
            ("icmp", icmp()),
            ("notICMP", icmp()),
            ("source", about("Where the packet comes from.", entity())),
            ("destination", about("Where the packet goes to.", entity())),
            ("http", http()),
            ("metadata", object(&[], [("annotations", map(text()))])),
        ],
    )
}

fn icmp() -> Value {
    object(&[], [("type", integer(0, 254)), ("code", integer(0, 255))])
}

fn entity() -> Value {
    object(
        &[],
        [
            ("nets", list(net())),
            ("notNets", list(net())),
            ("selector", selector()),
            ("notSelector", selector()),
            ("namespaceSelector", selector()),
            (
                "serviceAccounts",
                object(&[], [("names", list(text())), ("selector", selector())]),
            ),
            (
                "services",
                object(&["name"], [("name", text()), ("namespace", text())]),
            ),
            ("ports", list(port())),
            ("notPorts", list(port())),
        ],
    )
}

fn http() -> Value {
    let path = object(&[], [("exact", text()), ("prefix", text())]);
    object(&[], [("methods", list(text())), ("paths", list(path))])
}
