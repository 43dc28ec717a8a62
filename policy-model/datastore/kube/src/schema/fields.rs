//! The building blocks of schemas: one function a type of field.

use serde_json::{Map, Value, json};

/// An object with these fields, of which some must be written.
pub(super) fn object<const N: usize>(required: &[&str], fields: [(&str, Value); N]) -> Value {
    let properties: Map<String, Value> = fields
        .into_iter()
        .map(|(name, schema)| (name.to_string(), schema))
        .collect();
    let mut schema = json!({ "type": "object", "properties": properties });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

/// The same schema with a sentence that `kubectl explain` shows.
pub(super) fn about(text: &str, mut schema: Value) -> Value {
    schema["description"] = json!(text);
    schema
}

pub(super) fn text() -> Value {
    json!({ "type": "string" })
}

/// A selector. Its language is checked where it is read; here only that nobody stores a book.
pub(super) fn selector() -> Value {
    json!({ "type": "string", "maxLength": 16384 })
}

pub(super) fn one_of(values: &[&str]) -> Value {
    json!({ "type": "string", "enum": values })
}

pub(super) fn yes_or_no() -> Value {
    json!({ "type": "boolean" })
}

pub(super) fn number() -> Value {
    json!({ "type": "number" })
}

pub(super) fn integer(least: i64, most: i64) -> Value {
    let format = if most > i64::from(i32::MAX) {
        "int64"
    } else {
        "int32"
    };
    json!({ "type": "integer", "format": format, "minimum": least, "maximum": most })
}

/// A counter that only grows.
pub(super) fn counter() -> Value {
    json!({ "type": "integer", "format": "int64", "minimum": 0 })
}

pub(super) fn list(items: Value) -> Value {
    json!({ "type": "array", "items": items })
}

/// A map from any text to values of one type.
pub(super) fn map(values: Value) -> Value {
    json!({ "type": "object", "additionalProperties": values })
}

/// A network with the length of its prefix.
pub(super) fn cidr() -> Value {
    json!({ "type": "string", "format": "cidr", "maxLength": 49 })
}

/// A network, or an address that stands for itself alone.
pub(super) fn net() -> Value {
    json!({ "type": "string", "maxLength": 49, "pattern": "^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$" })
}

pub(super) fn address() -> Value {
    json!({ "type": "string", "maxLength": 45, "pattern": "^[0-9A-Fa-f:.]+$" })
}

/// A number, or a name or range in text.
pub(super) fn number_or_text(pattern: &str) -> Value {
    json!({
        "anyOf": [{ "type": "integer" }, { "type": "string" }],
        "pattern": pattern,
        "x-kubernetes-int-or-string": true,
    })
}

/// A port's number, a range `first:last`, or the name of a port that the endpoint declares.
pub(super) fn port() -> Value {
    number_or_text("^[A-Za-z0-9_.-]{1,128}$|^[0-9]{1,5}:[0-9]{1,5}$")
}

/// A protocol's name, in any case, or its number.
pub(super) fn protocol() -> Value {
    number_or_text("^(?i:tcp|udp|sctp|icmp|icmpv6|udplite)$|^[0-9]{1,3}$")
}

/// An autonomous system.
pub(super) fn as_number() -> Value {
    integer(0, i64::from(u32::MAX))
}

/// A rule over several fields, with what to say where it does not hold.
pub(super) fn rule(mut schema: Value, rule: &str, message: &str) -> Value {
    let rules = schema["x-kubernetes-validations"].take();
    let mut rules = match rules {
        Value::Array(rules) => rules,
        _ => Vec::new(),
    };
    rules.push(json!({ "rule": rule, "message": message }));
    schema["x-kubernetes-validations"] = Value::Array(rules);
    schema
}

/// What became of an object: conditions, as everywhere in Kubernetes.
pub(super) fn status() -> Value {
    let condition = object(
        &["type", "status", "lastTransitionTime", "reason", "message"],
        [
            ("type", json!({ "type": "string", "maxLength": 316 })),
            ("status", one_of(&["True", "False", "Unknown"])),
            ("observedGeneration", counter()),
            (
                "lastTransitionTime",
                json!({ "type": "string", "format": "date-time" }),
            ),
            (
                "reason",
                json!({ "type": "string", "minLength": 1, "maxLength": 1024 }),
            ),
            ("message", json!({ "type": "string", "maxLength": 32768 })),
        ],
    );
    let mut conditions = list(condition);
    conditions["x-kubernetes-list-type"] = json!("map");
    conditions["x-kubernetes-list-map-keys"] = json!(["type"]);
    about(
        "What became of the object; written by the system.",
        object(&[], [("conditions", conditions)]),
    )
}
