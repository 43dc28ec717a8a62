//! Laws for any input: nothing panics, what comes out is valid, and only the present texts count.

#![allow(clippy::unwrap_used, clippy::panic)] // In a helper of a test too, a panic is the failure itself.

use policy_model::Resource;
use policy_model_kubernetes::{Manifest, ManifestSet, read_documents, translate};
use proptest::prelude::*;
use proptest::sample::select;
use std::collections::BTreeMap;

/// Words that a manifest is made of, good and bad ones.
fn word() -> impl Strategy<Value = String> {
    let words = "a x-1 Bad a.b 10.0.0.0/8 10.0.0.1 fd00::/8 0.0.0.0/33 TCP UDP tcp In NotIn Exists yes 80 http ~ null \
                 knp.default.a example.com/x all() has(a) \"\" '' v1 networking.k8s.io/v1 projectcalico.org/v3";
    select(words.split(' ').map(str::to_owned).collect::<Vec<_>>())
}

/// A key or value of a flow mapping, nested at most `depth` deep, of Kubernetes' own field names.
fn flow() -> impl Strategy<Value = String> {
    let keys = "apiVersion kind metadata name namespace labels annotations spec podSelector matchLabels matchExpressions key \
                operator values ingress egress from to ipBlock cidr except ports port endPort protocol policyTypes \
                containers nodeName status podIP podIPs ip hostNetwork addressType endpoints addresses items x <<";
    let key = select(keys.split(' ').map(str::to_owned).collect::<Vec<_>>());
    let leaf = prop_oneof![
        word(),
        any::<i32>().prop_map(|n| n.to_string()),
        Just("true".to_owned())
    ];
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|list| format!("[{}]", list.join(", "))),
            prop::collection::vec((key.clone(), inner), 0..5)
                .prop_map(|map| map
                    .iter()
                    .map(|(k, v)| format!("{k}: {v}"))
                    .collect::<Vec<_>>()
                    .join(", "))
                .prop_map(|body| format!("{{{body}}}")),
        ]
    })
}

/// An object of a kind that is read, with anything in it.
fn object() -> impl Strategy<Value = String> {
    let kinds = "v1/Namespace v1/Pod v1/Node v1/Service v1/ServiceAccount v1/List networking.k8s.io/v1/NetworkPolicy \
                 discovery.k8s.io/v1/EndpointSlice projectcalico.org/v3/IPPool projectcalico.org/v3/NetworkPolicy";
    let kind = select(kinds.split(' ').map(str::to_owned).collect::<Vec<_>>());
    (kind, word(), flow(), flow()).prop_map(|(kind, name, spec, rest)| {
        let (version, kind) = kind.rsplit_once('/').unwrap_or(("v1", &kind));
        format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\nstatus: {rest}\n"
        )
    })
}

/// A policy, mostly valid: rules of a few forms.
fn policy() -> impl Strategy<Value = String> {
    let peers = [
        "",
        "from: []",
        "from: [{podSelector: {}}]",
        "from: [{namespaceSelector: {matchLabels: {a: b}}}]",
        "from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}, {podSelector: {}}]",
        "from: [{}]",
        "from: 7",
    ];
    let ports = [
        "",
        "ports: []",
        "ports: [{port: 80}]",
        "ports: [{port: 1, endPort: 9}, {protocol: UDP}]",
        "ports: [{port: http, protocol: SCTP}, {}]",
        "ports: [{port: 0}]",
    ];
    let rule = (select(peers.to_vec()), select(ports.to_vec())).prop_map(|(peers, ports)| {
        let comma = if peers.is_empty() || ports.is_empty() {
            ""
        } else {
            ", "
        };
        format!("{{{peers}{comma}{ports}}}")
    });
    (select(vec!["a", "b", "c"]), prop::collection::vec(rule, 0..4)).prop_map(|(name, rules)| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\n\
             spec: {{podSelector: {{}}, ingress: [{}]}}\n",
            rules.join(", ")
        )
    })
}

/// A valid document of a small world, so that files speak of the same objects.
fn valid_document() -> impl Strategy<Value = String> {
    let name = || select(vec!["a", "b"]);
    prop_oneof![
        (name(), select(vec!["x", "z"])).prop_map(|(n, l)| format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {n}, labels: {{l: {l}}}}}\n")),
        (name(), name()).prop_map(|(n, s)| format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {s}, namespace: {n}}}\n")),
        (name(), name(), name(), any::<bool>()).prop_map(|(n, p, s, host)| format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {p}, namespace: {n}}}\nspec: {{nodeName: n1, serviceAccountName: {s}, hostNetwork: {host}}}\n"
        )),
        (name(), name(), select(vec!["x", "z"])).prop_map(|(n, p, l)| format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {p}, namespace: {n}}}\nspec: {{podSelector: {{matchLabels: {{l: {l}}}}}}}\n"
        )),
        (name(), any::<bool>()).prop_map(|(n, ours)| {
            let version = if ours { "projectcalico.org/v3" } else { "v1" };
            format!("apiVersion: {version}\nkind: Node\nmetadata: {{name: {n}}}\n")
        }),
    ]
}

/// A change of a file: its documents, or nothing where it vanishes.
fn valid_edit() -> impl Strategy<Value = (&'static str, Option<String>)> {
    let text = prop::collection::vec(valid_document(), 0..4).prop_map(|documents| documents.join("---\n"));
    (select(vec!["f1", "f2", "f3"]), prop::option::weighted(0.8, text))
}

fn resources(set: &ManifestSet) -> Vec<Resource> {
    set.resources().cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_text_is_read_without_a_panic(text in "(?s).{0,300}") {
        let mut set = ManifestSet::new();
        set.set_file("f", &text);
        for fault in set.faults() {
            prop_assert_eq!(fault.to_string().lines().count(), 1);
        }
    }

    #[test]
    fn text_of_yaml_signs_is_read_without_a_panic(text in "[-a:\\[\\]{},&*!|>'\"%#.?~<\n\t 0]{0,200}") {
        for document in read_documents(&text) {
            prop_assert!(document.number >= 1 && document.line >= 1 && document.line <= text.matches('\n').count() + 1);
            if let Err(error) = document.body {
                prop_assert!(error.line >= 1 && !error.reason.is_empty());
            }
        }
    }

    #[test]
    fn what_is_accepted_becomes_valid_resources_without_faults(text in prop_oneof![object(), flow(), policy()]) {
        for document in read_documents(&text) {
            let Ok(value) = document.body else { continue };
            match Manifest::parse(value) {
                Ok(manifest) => {
                    let made = translate(&manifest);
                    prop_assert!(made.faults.is_empty(), "{:?}", made.faults);
                    for resource in made.resources {
                        prop_assert_eq!(resource.validate(), Ok(()));
                        let again = Resource::parse(resource.to_value()).unwrap();
                        prop_assert_eq!((&again.resource, again.unknown_fields.len()), (&resource, 0));
                    }
                }
                Err(invalid) => {
                    prop_assert!(!invalid.faults.is_empty());
                    if let Some(rest) = invalid.remainder {
                        prop_assert!(translate(&rest).faults.is_empty());
                        prop_assert_eq!(rest.id(), invalid.id.map(|id| *id));
                    }
                }
            }
        }
    }

    /// Leaving rules out must never leave a rule that was not written.
    #[test]
    fn the_rest_of_an_invalid_policy_holds_only_rules_that_were_written(text in policy()) {
        let value = read_documents(&text).remove(0).body.unwrap();
        let written = value["spec"]["ingress"].as_array().map_or(0, Vec::len);
        if let Err(invalid) = Manifest::parse(value.clone()) {
            let Some(rest) = invalid.remainder else { return Ok(()) };
            let Manifest::NetworkPolicy(rest) = *rest else { panic!("{rest:?}") };
            let spec = rest.spec.unwrap();
            let kept = spec.ingress.unwrap_or_default();
            prop_assert!(kept.len() < written);
            // Each kept rule alone makes a valid policy.
            for rule in kept {
                let mut alone = value.clone();
                alone["spec"]["ingress"] = serde_json::json!([serde_json::to_value(rule).unwrap()]);
                prop_assert!(Manifest::parse(alone).is_ok());
            }
        }
    }

    #[test]
    fn only_the_present_texts_count(edits in prop::collection::vec(valid_edit(), 0..12)) {
        let mut set = ManifestSet::new();
        let mut stored: BTreeMap<_, _> = BTreeMap::new();
        let mut present: BTreeMap<&str, String> = BTreeMap::new();
        for (path, text) in &edits {
            let changes = match text {
                Some(text) => {
                    present.insert(path, text.clone());
                    set.set_file(path, text)
                }
                None => {
                    present.remove(path);
                    set.remove_file(path)
                }
            };
            // Whoever follows the changes has what the set has, and no change was for nothing.
            for resource in changes.upserts {
                let key = resource.key();
                let before = stored.insert(key, resource.clone());
                prop_assert_ne!(before, Some(resource));
            }
            for key in changes.deletes {
                prop_assert!(stored.remove(&key).is_some());
            }
            prop_assert_eq!(stored.values().cloned().collect::<Vec<_>>(), resources(&set));
        }
        let faults = set.faults();
        let mut forwards = ManifestSet::new();
        forwards.update(present.iter().map(|(path, text)| (*path, Some(text.as_str()))));
        prop_assert_eq!(resources(&set), resources(&forwards));
        prop_assert_eq!(&faults, &forwards.faults());
        let mut backwards = ManifestSet::new();
        for (path, text) in present.iter().rev() {
            backwards.set_file(path, text);
        }
        prop_assert_eq!(resources(&set), resources(&backwards));
        prop_assert_eq!(&faults, &backwards.faults());
        for path in present.keys() {
            set.remove_file(path);
        }
        prop_assert!(resources(&set).is_empty() && set.faults().is_empty() && set.pods().next().is_none());
    }
}
