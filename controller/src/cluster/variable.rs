//! Environment variables, read with their complaints: which variable, which value, and why not.
//!
//! Pure: the process's environment is a parameter, so that a test has its own.

use std::collections::BTreeMap;
use std::time::Duration;
use thiserror::Error;

/// A variable whose value makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{variable}={value:?}: {reason}")]
pub struct InvalidVariable {
    /// Its name.
    pub variable: String,
    /// Its value.
    pub value: String,
    /// What is wrong with it, and what it may be.
    pub reason: String,
}

/// The environment of a process.
#[derive(Clone, Debug, Default)]
pub struct Variables(BTreeMap<String, String>);

impl Variables {
    /// The environment of this process. What is not UTF-8 is shown with the usual replacement, and will be refused
    /// where it is used.
    pub fn of_process() -> Self {
        let readable = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            (
                name.to_string_lossy().into_owned(),
                value.to_string_lossy().into_owned(),
            )
        };
        Variables(std::env::vars_os().map(readable).collect())
    }

    /// The value of a variable, without blanks around it; a variable that is empty is one that is not set.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.get(name)?.trim();
        (!value.is_empty()).then_some(value)
    }

    /// The complaint about a variable.
    pub(crate) fn complain(&self, name: &str, reason: impl Into<String>) -> InvalidVariable {
        InvalidVariable {
            variable: name.to_owned(),
            value: self.get(name).unwrap_or_default().to_owned(),
            reason: reason.into(),
        }
    }

    /// What a variable says, if it is set.
    pub(crate) fn parse<T>(
        &self,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, InvalidVariable> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        read(value)
            .map(Some)
            .map_err(|reason| self.complain(name, reason))
    }

    /// Whether a variable says yes.
    pub(crate) fn truth(&self, name: &str) -> Result<Option<bool>, InvalidVariable> {
        self.parse(name, |value| match value.to_ascii_lowercase().as_str() {
            "1" | "t" | "true" | "yes" | "y" | "on" => Ok(true),
            "0" | "f" | "false" | "no" | "n" | "off" => Ok(false),
            _ => Err("is neither true nor false".to_owned()),
        })
    }

    /// A time span such as `15m`.
    pub(crate) fn duration(&self, name: &str) -> Result<Option<Duration>, InvalidVariable> {
        self.parse(name, parse_duration)
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Variables {
    fn from(pairs: [(&str, &str); N]) -> Self {
        let owned = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Variables(owned.into_iter().collect())
    }
}

/// Reads a time span as Go writes it: numbers with units, such as `1h30m`, `15m`, `2.5s`, `200ms`.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || "is no time span: write one such as 15m, 90s or 1h30m".to_owned();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(wrong)?;
        let (number, after) = rest.split_at(end);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let length = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            "us" | "µs" => 0.000_001,
            _ => return Err(wrong()),
        };
        seconds += number * length;
        rest = after;
    }
    // No setting here means anything beyond a year, and a sum without numbers was no time span.
    if text.is_empty() || seconds > 366.0 * 24.0 * 3600.0 {
        return Err(wrong());
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_spans_are_gos() {
        for (text, milliseconds) in [
            ("15m", 900_000),
            ("1h30m", 5_400_000),
            ("2.5s", 2_500),
            ("200ms", 200),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
        for text in ["", "15", "m", "1d", "-5m", "1..5s", "m15", "15 m", "9999999h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_complaint_names_variable_value_and_reason() {
        let variables = Variables::from([("A", " maybe "), ("B", ""), ("C", "True"), ("D", "5 apples")]);
        let complaint = variables.truth("A").unwrap_err();
        assert_eq!(complaint.to_string(), "A=\"maybe\": is neither true nor false");
        assert_eq!(variables.truth("B"), Ok(None));
        assert_eq!(variables.truth("C"), Ok(Some(true)));
        assert!(
            variables
                .duration("D")
                .unwrap_err()
                .to_string()
                .starts_with("D=\"5 apples\"")
        );
    }
}
