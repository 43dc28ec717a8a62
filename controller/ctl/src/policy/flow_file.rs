//! A file of flows: YAML, or one JSON object a line.
//!
//! Every flow that cannot be read is told with its number and field, and does not hide the others: a file in a
//! pipeline is best mended in one go.

use super::flow::{FlowFault, WrittenFlow, WrittenPort};
use policy_model::Protocol;
use policy_model_kubernetes::{Document, read_documents};
use policy_model_rules::oracle::Verdict;
use serde_json::{Map, Value};
use std::fmt;

/// The fields of a flow.
const FIELDS: [&str; 7] = ["from", "to", "protocol", "port", "type", "code", "expect"];

/// How many characters of a wrong value are shown.
const SHOWN: usize = 60;

/// A flow of a file: what it says, or what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFlow {
    /// Number in the file, from 1.
    pub number: usize,
    /// What it says.
    pub flow: Result<WrittenFlow, Vec<FlowFault>>,
}

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowFile {
    /// Its flows, in order.
    pub flows: Vec<FileFlow>,
    /// What is wrong with the file as a whole, a line each.
    pub faults: Vec<String>,
}

/// A fault of a flow in its file, as one line.
pub struct Placed<'a> {
    /// The file's name.
    pub file: &'a str,
    /// Number of the flow.
    pub number: usize,
    /// The fault.
    pub fault: &'a FlowFault,
}

impl fmt::Display for Placed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: flow {}: {}", self.file, self.number, self.fault)
    }
}

/// Reads the flows of a text; `file` is its name for what is said about it.
pub fn read(file: &str, text: &str) -> FlowFile {
    let mut found = FlowFile::default();
    let (documents, is_by_line) = documents(text);
    if documents.is_empty() {
        found.faults.push(format!(
            "{file}: there is no flow in it; write a list of {{from, to, protocol, port, expect}}"
        ));
    }
    for document in documents {
        match document.body {
            Err(error) if is_by_line => found.add_broken(document.line, &error.reason),
            Err(error) => found.faults.push(format!("{file}: {error}")),
            Ok(value) => found.take(file, document.line, value),
        }
    }
    found
}

/// The documents of a text, and whether each line is one: then a broken one must not hide the next.
fn documents(text: &str) -> (Vec<Document>, bool) {
    let documents = read_documents(text);
    if documents.iter().all(|document| document.body.is_ok()) {
        return (documents, false);
    }
    let is_blank = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    let text = text.trim_start_matches('\u{feff}');
    let lines = || text.lines().enumerate().filter(|(_, line)| !is_blank(line));
    if !lines().all(|(_, line)| line.trim_start().starts_with('{')) {
        return (documents, false);
    }
    let by_line = lines().flat_map(|(before, line)| {
        read_documents(line).into_iter().map(move |mut document| {
            document.line = before + 1;
            document
        })
    });
    (by_line.collect(), true)
}

impl FlowFile {
    fn take(&mut self, file: &str, line: usize, value: Value) {
        match value {
            Value::Array(list) => list.into_iter().for_each(|value| self.add(value)),
            Value::Object(mut map) if map.contains_key("flows") => {
                let flows = map.remove("flows");
                for other in map.keys() {
                    self.faults.push(format!(
                        "{file}: line {line}: {other}: is no known field beside 'flows'"
                    ));
                }
                match flows {
                    Some(Value::Array(list)) => list.into_iter().for_each(|value| self.add(value)),
                    Some(Value::Null) | None => {}
                    Some(_) => self
                        .faults
                        .push(format!("{file}: line {line}: flows: must be a list of flows")),
                }
            }
            other => self.add(other),
        }
    }

    /// A line that would be a flow if it could be read.
    fn add_broken(&mut self, line: usize, reason: &str) {
        let fault = FlowFault::new("flow", format!("line {line}: {reason}"));
        self.flows.push(FileFlow {
            number: self.flows.len() + 1,
            flow: Err(vec![fault]),
        });
    }

    fn add(&mut self, value: Value) {
        let number = self.flows.len() + 1;
        let flow = flow(value);
        self.flows.push(FileFlow { number, flow });
    }
}

/// Reads one flow.
fn flow(value: Value) -> Result<WrittenFlow, Vec<FlowFault>> {
    let Value::Object(mut map) = value else {
        let reason = format!("{} is no flow; write {{from, to, protocol, port}}", kind(&value));
        return Err(vec![FlowFault::new("flow", reason)]);
    };
    // A field that is null is a field that is absent.
    map.retain(|_, value| !value.is_null());
    let mut faults: Vec<FlowFault> = map
        .keys()
        .filter(|key| !FIELDS.contains(&key.as_str()))
        .map(|key| {
            FlowFault::new(
                key,
                format!("is no known field; the fields are {}", FIELDS.join(", ")),
            )
        })
        .collect();
    let mut keep = |fault| faults.push(fault);
    let from = text(&map, "from").map_err(&mut keep).ok();
    let to = text(&map, "to").map_err(&mut keep).ok();
    let protocol = protocol(&map).map_err(&mut keep).ok();
    let port = port(&map).map_err(&mut keep).ok().flatten();
    let icmp_type = byte(&map, "type").map_err(&mut keep).ok().flatten();
    let icmp_code = byte(&map, "code").map_err(&mut keep).ok().flatten();
    let expect = expect(&map).map_err(&mut keep).ok().flatten();
    let (Some(from), Some(to), Some(protocol), true) = (from, to, protocol, faults.is_empty()) else {
        return Err(faults);
    };
    let flow = WrittenFlow {
        from,
        to,
        protocol,
        port,
        icmp_type,
        icmp_code,
        expect,
    };
    match flow.check() {
        Ok(()) => Ok(flow),
        Err(fault) => Err(vec![fault]),
    }
}

fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_string(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => format!("'{}'", shown(value)),
        Value::Array(_) => "a list in a list".to_string(),
        Value::Object(_) => "a mapping".to_string(),
    }
}

/// A value as its author wrote it.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => one_line(text),
        other => one_line(&other.to_string()),
    }
}

/// A text on one line, and not too long.
fn one_line(text: &str) -> String {
    let mut line = String::new();
    for c in text.chars().take(SHOWN) {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    if text.chars().count() > SHOWN {
        line.push_str("...");
    }
    line
}

fn text(map: &Map<String, Value>, field: &str) -> Result<String, FlowFault> {
    match map.get(field) {
        Some(Value::String(text)) if !text.trim().is_empty() => Ok(text.trim().to_string()),
        Some(Value::String(_)) | None => Err(FlowFault::new(
            field,
            "is missing; write namespace/pod or ip:ADDRESS",
        )),
        Some(other) => {
            let reason = format!("'{}' is no text; write namespace/pod or ip:ADDRESS", shown(other));
            Err(FlowFault::new(field, reason))
        }
    }
}

fn protocol(map: &Map<String, Value>) -> Result<Protocol, FlowFault> {
    let wrong = |value: &Value| {
        let reason = policy_model::InvalidProtocol(shown(value)).to_string();
        FlowFault::new("protocol", reason)
    };
    match map.get("protocol") {
        Some(value @ Value::String(text)) => text.trim().parse().map_err(|_| wrong(value)),
        Some(value @ Value::Number(number)) => number.to_string().parse().map_err(|_| wrong(value)),
        Some(value) => Err(wrong(value)),
        None => Err(FlowFault::new(
            "protocol",
            "is missing; write TCP, UDP, SCTP, ICMP or ICMPv6",
        )),
    }
}

fn port(map: &Map<String, Value>) -> Result<Option<WrittenPort>, FlowFault> {
    let Some(value) = map.get("port") else {
        return Ok(None);
    };
    let text = match value {
        Value::String(text) => text.trim().to_string(),
        Value::Number(number) => number.to_string(),
        other => return Err(FlowFault::new("port", format!("'{}' is no port", shown(other)))),
    };
    parse_port(&text)
        .map(Some)
        .map_err(|reason| FlowFault::new("port", reason))
}

/// Reads a port: a number from 1 to 65535, or a name.
///
/// # Errors
/// Why it is neither.
pub fn parse_port(text: &str) -> Result<WrittenPort, String> {
    if text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+')
        && !text.contains(|c: char| c.is_ascii_alphabetic())
    {
        return match text.parse::<u16>() {
            Ok(number) if number > 0 => Ok(WrittenPort::Number(number)),
            _ => Err(format!(
                "'{text}' is no port; write a number from 1 to 65535 or a port's name"
            )),
        };
    }
    let is_name = !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if is_name && text.len() <= 63 {
        return Ok(WrittenPort::Name(text.to_string()));
    }
    let text = one_line(text);
    Err(format!(
        "'{text}' is no port; write a number from 1 to 65535 or a port's name (lower-case letters, digits and dashes)"
    ))
}

fn byte(map: &Map<String, Value>, field: &str) -> Result<Option<u8>, FlowFault> {
    let Some(value) = map.get(field) else {
        return Ok(None);
    };
    let number = value.as_u64().and_then(|number| u8::try_from(number).ok());
    let wrong = || FlowFault::new(field, format!("'{}' is not a number from 0 to 255", shown(value)));
    number.map(Some).ok_or_else(wrong)
}

fn expect(map: &Map<String, Value>) -> Result<Option<Verdict>, FlowFault> {
    let Some(value) = map.get("expect") else {
        return Ok(None);
    };
    match value.as_str().map(str::to_ascii_lowercase).as_deref() {
        Some("allow") => Ok(Some(Verdict::Allow)),
        Some("deny") => Ok(Some(Verdict::Deny)),
        _ => Err(FlowFault::new(
            "expect",
            format!("'{}' is neither 'allow' nor 'deny'", shown(value)),
        )),
    }
}

#[cfg(test)]
mod tests;
