//! The chart's definitions are those that the code makes, and they know every field of the types.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // In a test, a panic is the failure itself.

use policy_model::{API_VERSION, Kind, Resource};
use policy_model_datastore_kube::schema::{self, CUSTOM_KINDS};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

mod specimens;

#[test]
fn the_chart_has_the_definitions_that_the_code_makes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../charts/manx/templates/crds");
    let mut expected: Vec<String> = CUSTOM_KINDS.into_iter().map(schema::template_name).collect();
    expected.sort();
    let mut found: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, expected, "run the example `definitions`");
    for kind in CUSTOM_KINDS {
        let name = schema::template_name(kind);
        let text = serde_norway::to_string(&schema::definition(kind)).unwrap();
        let there = std::fs::read_to_string(folder.join(&name)).unwrap();
        assert!(
            there == schema::template(&text),
            "{name} is old: run the example `definitions`"
        );
    }
}

/// Every field that a specimen has is known to the schema, and every field of the schema stands in a specimen: then a
/// field that is added to a type, its specimen and not to its schema shows up here, and so does the reverse.
#[test]
fn the_schemas_know_every_field_and_no_other() {
    for kind in CUSTOM_KINDS {
        let definition = schema::definition(kind);
        let schema = definition
            .pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec")
            .unwrap();
        let specimen = specimens::of(kind);
        let value = json!({ "apiVersion": API_VERSION, "kind": kind.as_str(), "metadata": metadata(kind), "spec": specimen });
        let parsed = Resource::parse(value).unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert_eq!(parsed.unknown_fields, Vec::<String>::new(), "{kind}");
        // What the type writes is what it read: nothing in the specimen has its default.
        assert_eq!(parsed.resource.to_value()["spec"], specimen, "{kind}");
        has_type(schema, &specimen, &format!("{kind} spec"));
        let (mut known, mut written) = (BTreeSet::new(), BTreeSet::new());
        known_paths(schema, "spec", &mut known);
        written_paths(schema, &specimen, "spec", &mut written);
        // What cannot be written beside its opposite.
        known.retain(|path| !["spec.preDNAT", "spec.ipipMode"].contains(&path.as_str()));
        assert_eq!(written, known, "{kind}");
    }
}

/// The paths of all fields that a schema knows.
fn known_paths(schema: &Value, at: &str, paths: &mut BTreeSet<String>) {
    paths.insert(at.to_owned());
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        known_paths(field, &format!("{at}.{name}"), paths);
    }
    if let Some(items) = schema.get("items") {
        known_paths(items, &format!("{at}[]"), paths);
    }
}

/// The paths of all fields that a value has; those of a list's items count as of one.
fn written_paths(schema: &Value, value: &Value, at: &str, paths: &mut BTreeSet<String>) {
    paths.insert(at.to_owned());
    let is_free = ["additionalProperties", "x-kubernetes-preserve-unknown-fields"];
    match value {
        Value::Object(fields) if is_free.iter().all(|word| schema.get(word).is_none()) => {
            for (name, field) in fields {
                written_paths(&schema["properties"][name], field, &format!("{at}.{name}"), paths);
            }
        }
        Value::Array(list) => {
            let items = &schema["items"];
            list.iter()
                .for_each(|item| written_paths(items, item, &format!("{at}[]"), paths));
        }
        _ => {}
    }
}

fn metadata(kind: Kind) -> Value {
    if kind.is_namespaced() {
        json!({ "name": "x", "namespace": "n" })
    } else {
        json!({ "name": "x" })
    }
}

fn has_type(schema: &Value, value: &Value, at: &str) {
    if schema.get("x-kubernetes-preserve-unknown-fields").is_some() {
        return;
    }
    match value {
        Value::Object(fields) => {
            if let Some(values) = schema.get("additionalProperties") {
                fields.values().for_each(|value| has_type(values, value, at));
                return;
            }
            let known = schema["properties"]
                .as_object()
                .unwrap_or_else(|| panic!("{at}: no object in the schema"));
            for (name, value) in fields {
                let schema = known
                    .get(name)
                    .unwrap_or_else(|| panic!("{at}: the schema does not know {name}"));
                has_type(schema, value, &format!("{at}.{name}"));
            }
        }
        Value::Array(list) => {
            assert!(!list.is_empty(), "{at}: the specimen has an empty list");
            let items = schema
                .get("items")
                .unwrap_or_else(|| panic!("{at}: no list in the schema"));
            list.iter()
                .for_each(|item| has_type(items, item, &format!("{at}[]")));
        }
        Value::Null => assert_eq!(schema["nullable"], json!(true), "{at}"),
        Value::Bool(_) => assert_eq!(schema["type"], "boolean", "{at}"),
        Value::Number(_) | Value::String(_) => {
            let is_either = schema.get("x-kubernetes-int-or-string").is_some();
            let expected: &[&str] = if value.is_string() {
                &["string"]
            } else {
                &["integer", "number"]
            };
            let found = schema["type"].as_str().unwrap_or_default();
            assert!(
                is_either || expected.contains(&found),
                "{at}: {value} is no {found}"
            );
        }
    }
}
