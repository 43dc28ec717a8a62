//! What is wrong with an object: the field, by its path, and the reason.

use std::fmt;

/// One fault of one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Path of the field in the serialised form, such as `spec.ingress[0].source.nets[1]`.
    pub field: String,
    /// Why the value cannot be accepted, as a sentence without its full stop.
    pub reason: String,
}

impl FieldError {
    /// Makes a fault from a path and a reason.
    pub fn new(field: impl Into<String>, reason: impl fmt::Display) -> Self {
        FieldError {
            field: field.into(),
            reason: reason.to_string(),
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            write!(f, "{}", self.reason)
        } else {
            write!(f, "{}: {}", self.field, self.reason)
        }
    }
}

/// An object that was refused, with every fault that was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct InvalidResource {
    /// The faults, in the order of the fields. Never empty.
    pub faults: Vec<FieldError>,
}

impl InvalidResource {
    /// A refusal with one fault.
    pub fn one(field: impl Into<String>, reason: impl fmt::Display) -> Self {
        InvalidResource {
            faults: vec![FieldError::new(field, reason)],
        }
    }
}

impl fmt::Display for InvalidResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, fault) in self.faults.iter().enumerate() {
            if n > 0 {
                f.write_str("; ")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}
