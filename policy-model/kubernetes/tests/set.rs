//! Histories of a set of files: what is in force after which changes.

use policy_model::{Key, Kind, Resource};
use policy_model_kubernetes::{Changes, Consequence, ManifestSet, implied_profiles};
use std::collections::BTreeMap;

fn policy(name: &str, app: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{podSelector: {{matchLabels: {{app: {app}}}}}}}\n"
    )
}

fn pod(name: &str, rest: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{containers: [{{name: c}}]{rest}}}\n"
    )
}

fn key(name: &str) -> Key {
    Key::namespaced(Kind::NetworkPolicy, "shop", format!("knp.default.{name}"))
}

/// The app that a policy in force selects.
fn app(set: &ManifestSet, name: &str) -> Option<String> {
    let Some(Resource::NetworkPolicy(policy)) = set.get(&key(name)) else {
        return None;
    };
    policy
        .spec
        .selector
        .split("app == ")
        .nth(1)
        .map(|text| text.trim_matches('"').to_string())
}

fn keys(changes: &Changes) -> (Vec<String>, Vec<String>) {
    let upserts = changes.upserts.iter().map(|r| r.key().to_string()).collect();
    (upserts, changes.deletes.iter().map(Key::to_string).collect())
}

fn lines(set: &ManifestSet) -> Vec<String> {
    set.faults().iter().map(ToString::to_string).collect()
}

#[test]
fn files_appear_change_and_vanish() {
    let mut set = ManifestSet::new();
    assert_eq!(
        keys(&set.set_file("a", &policy("web", "x"))).0,
        ["NetworkPolicy/shop/knp.default.web"]
    );
    assert!(set.set_file("a", &policy("web", "x")).is_empty());
    assert!(
        set.set_file("a", &format!("# a comment\n{}", policy("web", "x")))
            .is_empty()
    );
    let changes = set.set_file("a", &format!("{}---\n{}", policy("web", "y"), policy("db", "db")));
    assert_eq!(
        keys(&changes).0,
        [
            "NetworkPolicy/shop/knp.default.db",
            "NetworkPolicy/shop/knp.default.web"
        ]
    );
    let changes = set.set_file("a", &policy("db", "db"));
    assert_eq!(
        keys(&changes),
        (vec![], vec!["NetworkPolicy/shop/knp.default.web".to_string()])
    );
    assert_eq!(
        keys(&set.remove_file("a")).1,
        ["NetworkPolicy/shop/knp.default.db"]
    );
    assert!(set.remove_file("a").is_empty());
    assert_eq!(set.resources().count(), 0);
}

#[test]
fn an_object_that_moves_between_files_is_never_absent() {
    let mut set = ManifestSet::new();
    let text = policy("web", "x");
    set.set_file("a", &text);
    assert!(set.update([("a", None), ("b", Some(text.as_str()))]).is_empty());
    assert_eq!(app(&set, "web").as_deref(), Some("x"));
}

#[test]
fn an_invalid_document_keeps_the_last_valid_form() {
    let mut set = ManifestSet::new();
    set.set_file("a", &policy("web", "x"));
    let wrong = policy("web", "y").replace("podSelector", "podSelecter");
    assert!(set.set_file("a", &wrong).is_empty());
    assert_eq!(app(&set, "web").as_deref(), Some("x"));
    let faults = set.faults();
    assert_eq!(faults.len(), 1);
    assert_eq!(faults[0].consequence, Consequence::LastValidInForce);
    assert!(!set.is_remainder(&key("web")));
    // The same again, wrong in another way, then right.
    assert!(set.set_file("a", &policy("web", "'a b'")).is_empty());
    assert_eq!(app(&set, "web").as_deref(), Some("x"));
    assert_eq!(set.set_file("a", &policy("web", "y")).upserts.len(), 1);
    assert_eq!((app(&set, "web").as_deref(), set.faults().len()), (Some("y"), 0));
}

#[test]
fn an_invalid_rule_does_not_replace_a_valid_policy_but_serves_where_there_was_none() {
    let wrong = policy("web", "y").replace("}}}", "}}, ingress: [{from: [{}]}, {}]}");
    let mut set = ManifestSet::new();
    set.set_file("a", &wrong);
    assert_eq!(
        (app(&set, "web").as_deref(), set.is_remainder(&key("web"))),
        (Some("y"), true)
    );
    assert_eq!(set.faults()[0].consequence, Consequence::RestInForce);
    let Some(Resource::NetworkPolicy(found)) = set.get(&key("web")) else {
        panic!("it is not in force")
    };
    assert_eq!(found.spec.ingress.len(), 1);
    set.set_file("a", &policy("web", "x"));
    set.set_file("a", &wrong);
    assert_eq!(
        (app(&set, "web").as_deref(), set.is_remainder(&key("web"))),
        (Some("x"), false)
    );
}

#[test]
fn a_syntax_error_keeps_what_it_may_hide() {
    let mut set = ManifestSet::new();
    set.set_file(
        "a",
        &format!(
            "{}---\n{}---\n{}",
            policy("one", "x"),
            policy("two", "x"),
            policy("three", "x")
        ),
    );
    // The second document is broken, the third is gone or hidden in it: nobody can tell.
    let changes = set.set_file("a", &format!("{}---\nkind: {{\n", policy("one", "y")));
    assert_eq!(
        keys(&changes),
        (vec!["NetworkPolicy/shop/knp.default.one".to_string()], vec![])
    );
    assert_eq!(
        (app(&set, "two").as_deref(), app(&set, "three").as_deref()),
        (Some("x"), Some("x"))
    );
    assert_eq!(set.faults()[0].consequence, Consequence::LastValidInForce);
    // Another document that defines it wins, whatever its path, and is no duplicate.
    assert_eq!(set.set_file("z", &policy("two", "z")).upserts.len(), 1);
    assert_eq!((app(&set, "two").as_deref(), set.faults().len()), (Some("z"), 1));
    // Still broken, in another way: still there. And back again.
    assert!(
        set.set_file("a", &format!("{}---\nkind: [\n", policy("one", "y")))
            .is_empty()
    );
    set.remove_file("z");
    assert_eq!(app(&set, "two").as_deref(), Some("x"));
    // Mended without them: gone.
    let changes = set.set_file("a", &policy("one", "y"));
    assert_eq!(changes.deletes, [key("two"), key("three")]);
}

#[test]
fn a_name_that_became_invalid_hides_the_object_too() {
    let mut set = ManifestSet::new();
    set.set_file("a", &policy("web", "x"));
    assert!(set.set_file("a", &policy("Web", "x")).is_empty());
    assert_eq!(app(&set, "web").as_deref(), Some("x"));
    assert_eq!(set.remove_file("a").deletes, [key("web")]);
}

#[test]
fn the_first_of_two_definitions_is_in_force_whenever_it_came() {
    for first in ["a", "b"] {
        let mut set = ManifestSet::new();
        let text = |file: &str| policy("web", file);
        let second = if first == "a" { "b" } else { "a" };
        set.set_file(first, &text(first));
        set.set_file(second, &text(second));
        assert_eq!(app(&set, "web").as_deref(), Some("a"));
        assert_eq!(
            lines(&set),
            [
                "b: document 1 (NetworkPolicy shop/web): metadata.name: is also defined in a, document 1, which is in force"
            ]
        );
        assert_eq!(set.faults()[0].consequence, Consequence::OtherDocumentInForce);
        // An invalid document gives way to a valid one, though its own last valid form is known.
        set.set_file("a", &text("'a a'"));
        assert_eq!(app(&set, "web").as_deref(), Some("b"));
        set.remove_file("b");
        assert_eq!(app(&set, "web").as_deref(), Some("a"));
        set.remove_file("a");
        assert_eq!((app(&set, "web"), set.faults().len()), (None, 0));
    }
    let mut set = ManifestSet::new();
    set.set_file(
        "a",
        &format!("{}---\n{}", policy("web", "one"), policy("web", "two")),
    );
    assert_eq!(app(&set, "web").as_deref(), Some("one"));
    assert_eq!(set.faults()[0].document, 2);
}

#[test]
fn two_objects_that_become_one_resource_are_reported() {
    let mut set = ManifestSet::new();
    set.set_file(
        "a",
        "{apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: node-1}}",
    );
    set.set_file(
        "b",
        "{apiVersion: v1, kind: Node, metadata: {name: node-1, labels: {a: b}}}",
    );
    let node = Key::global(Kind::Node, "node-1");
    assert_eq!(set.get(&node).unwrap().metadata().labels.len(), 1);
    assert_eq!(
        lines(&set),
        [
            "a: document 1 (Node node-1): metadata.name: becomes Node/node-1, which is already made of Node node-1"
        ]
    );
    set.remove_file("b");
    assert_eq!(
        (
            set.get(&node).unwrap().metadata().labels.len(),
            set.faults().len()
        ),
        (0, 0)
    );
}

#[test]
fn pods_wait_for_a_node() {
    let mut set = ManifestSet::new();
    let text = [
        pod("free", ""),
        pod("bound", ", nodeName: n2"),
        pod("host", ", hostNetwork: true"),
    ]
    .join("---\n");
    let changes = set.set_file("a", &text);
    assert_eq!(
        keys(&changes).0,
        [
            "Profile/kns.shop",
            "Profile/ksa.shop.default",
            "WorkloadEndpoint/shop/n2-k8s-bound-eth0"
        ]
    );
    let waiting: Vec<String> = set.unassigned_pods().map(|p| p.name.clone()).collect();
    assert_eq!(waiting, ["free", "host"]);
    assert_eq!(
        keys(&set.assign("shop", "free", Some("n1"))).0,
        ["WorkloadEndpoint/shop/n1-k8s-free-eth0"]
    );
    // What the manifest says wins; a host-network pod has a node but no endpoint.
    assert!(set.assign("shop", "bound", Some("n9")).is_empty());
    assert!(set.assign("shop", "host", Some("n1")).is_empty());
    assert_eq!(
        (set.node_of("shop", "bound"), set.node_of("shop", "host")),
        (Some("n2"), Some("n1"))
    );
    assert_eq!(set.unassigned_pods().count(), 0);
    let all = BTreeMap::from([(("shop".to_string(), "free".to_string()), "n3".to_string())]);
    let changes = set.set_assignments(all);
    assert_eq!(keys(&changes).0, ["WorkloadEndpoint/shop/n3-k8s-free-eth0"]);
    assert_eq!(keys(&changes).1, ["WorkloadEndpoint/shop/n1-k8s-free-eth0"]);
    assert_eq!(set.node_names().into_iter().collect::<Vec<_>>(), ["n2"]);
    assert_eq!(set.assign("shop", "free", None).deletes.len(), 1);
    // An assignment may come before its pod.
    set.assign("shop", "late", Some("n1"));
    assert_eq!(
        keys(&set.set_file("b", &pod("late", ""))).0,
        ["WorkloadEndpoint/shop/n1-k8s-late-eth0"]
    );
}

#[test]
fn implied_profiles_come_and_go_with_the_pods_that_need_them() {
    let namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {a: b}}}";
    let profile = Key::global(Kind::Profile, "kns.shop");
    let mut set = ManifestSet::new();
    set.set_file("p", &pod("p", ", nodeName: n1"));
    assert_eq!(set.get(&profile).unwrap().metadata().name, "kns.shop");
    let made = implied_profiles(set.pods(), |_| false);
    assert_eq!(
        made.iter().collect::<Vec<_>>(),
        set.resources()
            .filter(|r| r.kind() == Kind::Profile)
            .collect::<Vec<_>>()
    );
    assert_eq!(implied_profiles(set.pods(), |key| *key == profile).len(), 1);
    // The definition takes its place, and gives it back; the profile is never absent.
    let changes = set.set_file("n", namespace);
    assert_eq!(keys(&changes), (vec!["Profile/kns.shop".to_string()], vec![]));
    let changes = set.remove_file("n");
    assert_eq!(keys(&changes), (vec!["Profile/kns.shop".to_string()], vec![]));
    // An invalid definition closes.
    assert_eq!(
        set.set_file("n", &namespace.replace(": b", ": 'b b'")).deletes,
        std::slice::from_ref(&profile)
    );
    assert!(set.may_define(&profile));
    set.remove_file("n");
    let changes = set.remove_file("p");
    assert_eq!(
        keys(&changes).1,
        [
            "WorkloadEndpoint/shop/n1-k8s-p-eth0",
            "Profile/ksa.shop.default",
            "Profile/kns.shop"
        ]
    );
}

#[test]
fn a_fresh_set_says_what_a_broken_document_may_define() {
    let mut set = ManifestSet::new();
    assert!(!set.may_define(&key("web")));
    set.set_file("a", &policy("web", "x").replace("podSelector", "podSelecter"));
    // It names its policy, and no other.
    set.set_file("b", &policy("db", "'not good'"));
    assert!(set.may_define(&key("db")) && !set.may_define(&key("other")));
    assert!(set.is_remainder(&key("web")) && !set.may_define(&key("web")));
    // One that cannot be read may be anything.
    set.set_file("c", "kind: {");
    assert!(set.may_define(&key("other")));
    set.set_file("c", "kind: [");
    assert!(set.may_define(&key("other")));
    set.remove_file("c");
    assert!(!set.may_define(&key("other")));
}
