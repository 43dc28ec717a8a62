//! Where the rules of a translated policy come from: what verdicts are explained by.

use policy_model::{Key, Kind, Resource};
use policy_model_kubernetes::{ManifestSet, WrittenPolicy};

const MANIFESTS: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{podSelector: {}}, {ipBlock: {cidr: 10.0.0.0/8}}]
    ports: [{port: 80}, {port: 53, protocol: UDP}]
  - from: [{namespaceSelector: {}}]
  egress:
  - {}
  - to: [{podSelector: {}}, {podSelector: {matchLabels: {a: b}}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: in, namespace: shop}
spec:
  podSelector: {}
  policyTypes: [Ingress]
  ingress: [{}]
  egress: [{}, {}]
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: own, namespace: shop}
spec: {ingress: [{action: Allow}]}
"#;

fn key(name: &str) -> Key {
    Key::namespaced(Kind::NetworkPolicy, "shop", name)
}

#[test]
fn each_rule_knows_the_one_that_it_was_made_of() {
    let mut set = ManifestSet::new();
    set.set_file("a.yaml", MANIFESTS);
    assert_eq!(set.faults(), []);
    let web = set.written_policy(&key("knp.default.web")).unwrap();
    let expected = WrittenPolicy {
        name: "web".to_string(),
        // Two peers times two protocols, then one.
        ingress: vec![0, 0, 0, 0, 1],
        egress: vec![0, 1, 1],
    };
    assert_eq!(web, expected);
    let Some(Resource::NetworkPolicy(made)) = set.get(&key("knp.default.web")) else {
        panic!("no policy")
    };
    assert_eq!(
        (made.spec.ingress.len(), made.spec.egress.len()),
        (web.ingress.len(), web.egress.len())
    );

    let only_in = set.written_policy(&key("knp.default.in")).unwrap();
    assert_eq!(
        (only_in.ingress, only_in.egress),
        (vec![0], vec![]),
        "rules of a direction that is not named"
    );
    assert_eq!(
        set.written_policy(&key("own")),
        None,
        "our own kind is itself what was written"
    );
    assert_eq!(set.written_policy(&key("knp.default.none")), None);
}

#[test]
fn a_name_that_is_too_long_for_the_resource_is_still_known() {
    let long = "a".repeat(250);
    let text = MANIFESTS.replacen("name: web", &format!("name: {long}"), 1);
    let mut set = ManifestSet::new();
    set.set_file("a.yaml", &text);
    let names: Vec<String> = set
        .resources()
        .filter(|r| r.kind() == Kind::NetworkPolicy)
        .filter_map(|r| set.written_policy(&r.key()))
        .map(|written| written.name)
        .collect();
    assert!(names.contains(&long));
}
