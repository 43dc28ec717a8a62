//! A history with its flows, in and out of YAML.

use crate::packet::Probe;
use crate::random::Change;
use policy_model::{Key, Kind, Protocol, Resource};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// A change, and whether it is taken in by a new life of the engine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// What changes.
    pub change: Change,
    /// Whether the engine is ended before and begins anew, with everything that there is.
    pub restart: bool,
}

/// A history and the flows that are asked after its last step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Case {
    /// The steps, the first from nothing.
    pub steps: Vec<Step>,
    /// The flows.
    pub flows: Vec<Probe>,
}

impl Case {
    /// The case as a value that YAML can hold.
    pub fn to_value(&self) -> Value {
        let key = |k: &Key| json!({ "kind": k.kind.as_str(), "namespace": k.namespace, "name": k.name });
        let step = |s: &Step| {
            let upsert: Vec<Value> = s.change.upsert.iter().map(Resource::to_value).collect();
            let delete: Vec<Value> = s.change.delete.iter().map(key).collect();
            json!({ "restart": s.restart, "delete": delete, "upsert": upsert })
        };
        let flow = |p: &Probe| {
            let Probe {
                source,
                destination,
                protocol,
                x,
                y,
                ..
            } = p;
            let (x_is, y_is) = names(*protocol);
            let mut map = Map::new();
            map.insert("from".into(), json!(source));
            map.insert("to".into(), json!(destination));
            map.insert("protocol".into(), json!(protocol));
            map.insert(x_is.into(), json!(x));
            map.insert(y_is.into(), json!(y));
            Value::Object(map)
        };
        let steps: Vec<Value> = self.steps.iter().map(step).collect();
        let flows: Vec<Value> = self.flows.iter().map(flow).collect();
        json!({ "flows": flows, "steps": steps })
    }

    /// Reads a case; `None` where it is none, or where an object in it is not valid.
    pub fn from_value(value: &Value) -> Option<Case> {
        let list = |value: &Value, field: &str| {
            value
                .get(field)
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default()
        };
        let key = |v: &Value| {
            let text = |field: &str| v.get(field).and_then(Value::as_str).map(str::to_string);
            let kind = Kind::ALL
                .into_iter()
                .find(|k| Some(k.as_str()) == v.get("kind").and_then(Value::as_str))?;
            Some(Key {
                kind,
                namespace: text("namespace")?,
                name: text("name")?,
            })
        };
        let step = |v: &Value| {
            let one = |v: &Value| Resource::parse(v.clone()).ok().map(|parsed| parsed.resource);
            let upsert = list(v, "upsert").iter().map(one).collect::<Option<_>>()?;
            let delete = list(v, "delete").iter().map(key).collect::<Option<_>>()?;
            Some(Step {
                change: Change { upsert, delete },
                restart: v.get("restart")?.as_bool()?,
            })
        };
        let flow = |(n, v): (usize, &Value)| {
            let protocol: Protocol = serde_json::from_value(v.get("protocol")?.clone()).ok()?;
            let (x_is, y_is) = names(protocol);
            let address = |field: &str| v.get(field)?.as_str()?.parse().ok();
            let number = |field: &str| u16::try_from(v.get(field)?.as_u64()?).ok();
            Some(Probe {
                number: n as u32,
                source: address("from")?,
                destination: address("to")?,
                protocol,
                x: number(x_is)?,
                y: number(y_is)?,
            })
        };
        let steps = list(value, "steps").iter().map(step).collect::<Option<_>>()?;
        let flows = list(value, "flows")
            .iter()
            .enumerate()
            .map(flow)
            .collect::<Option<_>>()?;
        Some(Case { steps, flows })
    }

    /// The case as text.
    pub fn to_yaml(&self) -> String {
        serde_norway::to_string(&self.to_value()).expect("YAML")
    }

    /// All cases that were kept, by their file.
    pub fn kept() -> Vec<(PathBuf, Case)> {
        let Ok(files) = std::fs::read_dir(folder()) else {
            return Vec::new();
        };
        let mut paths: Vec<PathBuf> = files.map(|f| f.expect("read the folder").path()).collect();
        paths.retain(|p| p.extension().is_some_and(|e| e == "yaml"));
        paths.sort();
        let read = |path: PathBuf| {
            let text = std::fs::read_to_string(&path).expect("read a kept case");
            let value: Value =
                serde_norway::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let case = Case::from_value(&value).unwrap_or_else(|| panic!("{} is no case", path.display()));
            (path, case)
        };
        paths.into_iter().map(read).collect()
    }

    /// Keeps the case, and says where.
    pub fn keep(&self, name: &str) -> PathBuf {
        let path = folder().join(format!("{name}.yaml"));
        std::fs::create_dir_all(folder()).expect("make the folder of kept cases");
        std::fs::write(&path, self.to_yaml()).expect("keep the case");
        path
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions")
}

/// What the two numbers of a probe are called.
fn names(protocol: Protocol) -> (&'static str, &'static str) {
    if protocol.is_icmp() {
        ("type", "code")
    } else {
        ("port", "sourcePort")
    }
}
