//! FelixConfiguration as a source of settings.
//!
//! The resource writes some values otherwise than the environment does: durations with units, lists of objects in
//! place of comma-separated text, and a few names of its own. Here they become the text that the parsers read.

use super::layer::{Layer, Source};
use super::parse::{Shape, go_duration};
use super::registry::REGISTRY;
use policy_model::FelixConfigurationSpec;
use serde_json::Value;

/// The name of the resource that holds for every node.
pub const CLUSTER_DEFAULT: &str = "default";

/// Names in the resource that differ from the setting's by more than case.
const RENAMED: &[(&str, &str)] = &[
    ("endpointReportingDelay", "EndpointReportingDelaySecs"),
    ("externalNodesList", "ExternalNodesCIDRList"),
    ("ipipEnabled", "IpInIpEnabled"),
    ("ipipMTU", "IpInIpMtu"),
    ("iptablesLockProbeInterval", "IptablesLockProbeIntervalMillis"),
    ("iptablesLockTimeout", "IptablesLockTimeoutSecs"),
    (
        "iptablesPostWriteCheckInterval",
        "IptablesPostWriteCheckIntervalSecs",
    ),
    ("netlinkTimeout", "NetlinkTimeoutSecs"),
    ("reportingInterval", "ReportingIntervalSecs"),
    ("reportingTTL", "ReportingTTLSecs"),
    ("usageReportingInitialDelay", "UsageReportingInitialDelaySecs"),
    ("usageReportingInterval", "UsageReportingIntervalSecs"),
];

/// Which source a resource of this name is for this node; none if it is another node's.
pub fn source_of(resource: &str, node: &str) -> Option<Source> {
    if resource == CLUSTER_DEFAULT {
        return Some(Source::ClusterDefault);
    }
    (resource.strip_prefix("node.") == Some(node)).then_some(Source::Node)
}

/// The layer that a resource sets, if it concerns this node.
pub fn layer(resource: &str, node: &str, spec: &FelixConfigurationSpec) -> Option<Layer> {
    let source = source_of(resource, node)?;
    let mut layer = Layer::new(source);
    for (field, value) in &spec.settings {
        let name = RENAMED
            .iter()
            .find(|(own, _)| own.eq_ignore_ascii_case(field))
            .map_or(field.as_str(), |(_, name)| name);
        let shape = REGISTRY
            .iter()
            .find(|row| row.name.eq_ignore_ascii_case(name))
            .map_or(Shape::Plain, |row| row.shape);
        if let Some(text) = as_text(name, shape, value) {
            layer.put(
                name,
                format!("FelixConfiguration {resource} field spec.{field}"),
                text,
            );
        }
    }
    Some(layer)
}

/// The value as the environment would give it; none where the resource leaves it open.
fn as_text(name: &str, shape: Shape, value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        // An empty text cannot be told from a field that was left out, which is what clients write.
        Value::String(text) if text.is_empty() => None,
        Value::String(text) => Some(match shape {
            Shape::Plain => text.clone(),
            Shape::Seconds => {
                go_duration(text).map_or_else(|_| text.clone(), |time| time.as_secs_f64().to_string())
            }
            Shape::Millis => go_duration(text)
                .map_or_else(|_| text.clone(), |time| (time.as_secs_f64() * 1000.0).to_string()),
        }),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        // An empty list is a decision: nothing, and not the default.
        Value::Array(items) if items.is_empty() => Some("none".to_owned()),
        Value::Array(items) => {
            let parts: Vec<String> = items.iter().map(|item| item_text(name, item)).collect();
            Some(parts.join(","))
        }
        Value::Object(_) => Some(item_text(name, value)),
    }
}

/// One member of a list, or one object. What has an unexpected form is passed on as it is, for the parser to refuse.
fn item_text(name: &str, item: &Value) -> String {
    let Value::Object(fields) = item else {
        return plain(item);
    };
    let text = |field: &str| fields.get(field).map(plain).filter(|text| !text.is_empty());
    if let (Some(port), true) = (
        text("port"),
        name.ends_with("HostPorts") || name.ends_with("hostPorts"),
    ) {
        let protocol = text("protocol").unwrap_or_else(|| "tcp".to_owned());
        return match text("net") {
            Some(net) => format!("{protocol}:{net}:{port}"),
            None => format!("{protocol}:{port}"),
        };
    }
    if let (Some(first), Some(last)) = (text("min"), text("max")) {
        return format!("{first}-{last}");
    }
    if let (Some(key), Some(time)) = (text("name"), text("timeout")) {
        return format!("{key}={time}");
    }
    item.to_string()
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
