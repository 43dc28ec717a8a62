//! Reads a typed value and says which field was wrong or unknown, by one notation of paths.
//!
//! Two libraries follow the reader through the value, each with its own notation; people see one:
//! `spec.ingress[0].ports[1]`, and keys that hold dots or slashes in brackets (`metadata.labels[a.b/c]`).

use crate::FieldError;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt::Write as _;

/// Reads `T` from `value`; paths of fields that `T` does not know are added to `unknown`.
///
/// # Errors
/// The first value of a wrong type, by its path. `unknown` then holds what was met before it.
pub fn decode<T: DeserializeOwned>(value: &Value, unknown: &mut Vec<String>) -> Result<T, FieldError> {
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(value, &mut track);
    let result: Result<T, serde_json::Error> =
        serde_ignored::deserialize(deserializer, |path| unknown.push(ignored_path(&path)));
    result.map_err(|error| FieldError::new(tracked_path(&track.path()), with_advice(&error.to_string())))
}

/// People meet these two faults without having done anything that looks wrong to them.
fn with_advice(text: &str) -> String {
    if text.starts_with("invalid type: boolean") && text.ends_with("a string") {
        return format!("{text}; quote it (unquoted true, false, yes, no, on and off are booleans)");
    }
    let number =
        text.starts_with("invalid type: integer") || text.starts_with("invalid type: floating point");
    if number && text.ends_with("a string") {
        format!("{text}; quote it")
    } else {
        text.to_string()
    }
}

fn push_key(path: &mut String, key: &str) {
    if key
        .bytes()
        .any(|b| matches!(b, b'.' | b'/' | b'[' | b']') || b.is_ascii_whitespace())
        || key.is_empty()
    {
        // Writing to a String cannot fail.
        let _ = write!(path, "[{key}]");
    } else {
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(key);
    }
}

fn push_index(path: &mut String, index: usize) {
    let _ = write!(path, "[{index}]");
}

fn tracked_path(path: &serde_path_to_error::Path) -> String {
    let mut text = String::new();
    for segment in path.iter() {
        match segment {
            serde_path_to_error::Segment::Seq { index } => push_index(&mut text, *index),
            serde_path_to_error::Segment::Map { key } => push_key(&mut text, key),
            // The variant of a choice is not a field that anybody wrote as one.
            serde_path_to_error::Segment::Enum { .. } | serde_path_to_error::Segment::Unknown => {}
        }
    }
    text
}

fn ignored_path(path: &serde_ignored::Path<'_>) -> String {
    match path {
        serde_ignored::Path::Root => String::new(),
        serde_ignored::Path::Seq { parent, index } => {
            let mut text = ignored_path(parent);
            push_index(&mut text, *index);
            text
        }
        serde_ignored::Path::Map { parent, key } => {
            let mut text = ignored_path(parent);
            push_key(&mut text, key);
            text
        }
        serde_ignored::Path::Some { parent }
        | serde_ignored::Path::NewtypeStruct { parent }
        | serde_ignored::Path::NewtypeVariant { parent } => ignored_path(parent),
    }
}
