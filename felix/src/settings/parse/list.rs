//! Lists of keys with values, and of servers.

use super::{Invalid, Parser, go_duration};
use std::time::Duration;

fn pairs(raw: &str) -> Result<Vec<(String, String)>, Invalid> {
    raw.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| match part.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                Ok((key.trim().to_owned(), value.trim().to_owned()))
            }
            _ => Err(Invalid(format!("{part:?} is not of the form key=value"))),
        })
        .collect()
}

/// `key=value`, separated by commas.
#[derive(Debug)]
pub struct KeyValueList;

impl Parser for KeyValueList {
    type Value = Vec<(String, String)>;

    fn parse(raw: &str) -> Result<Self::Value, Invalid> {
        pairs(raw)
    }
    fn empty() -> Self::Value {
        Vec::new()
    }
    fn show(value: &Self::Value) -> String {
        let parts: Vec<String> = value
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        parts.join(",")
    }
    fn expected() -> String {
        "key=value, separated by commas".to_owned()
    }
}

/// `key=duration`, separated by commas, durations in Go's notation.
#[derive(Debug)]
pub struct KeyDurationList;

impl Parser for KeyDurationList {
    type Value = Vec<(String, Duration)>;

    fn parse(raw: &str) -> Result<Self::Value, Invalid> {
        pairs(raw)?
            .into_iter()
            .map(|(key, value)| match go_duration(&value) {
                Ok(duration) => Ok((key, duration)),
                Err(reason) => Err(Invalid(format!("the duration of {key:?} was refused: {reason}"))),
            })
            .collect()
    }
    fn empty() -> Self::Value {
        Vec::new()
    }
    fn show(value: &Self::Value) -> String {
        let parts: Vec<String> = value
            .iter()
            .map(|(key, time)| format!("{key}={}s", time.as_secs_f64()))
            .collect();
        parts.join(",")
    }
    fn expected() -> String {
        "name=duration, separated by commas, such as calculation=2m".to_owned()
    }
}

/// `http(s)://host:port`, separated by commas, all with one scheme and with nothing behind the port.
#[derive(Debug)]
pub struct EndpointList;

impl Parser for EndpointList {
    type Value = Vec<String>;

    // No reason may quote what was written: a user name and a password could stand before the host.
    fn parse(raw: &str) -> Result<Vec<String>, Invalid> {
        let mut scheme = None;
        let mut endpoints = Vec::new();
        for part in raw.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (own, rest) = part
                .split_once("://")
                .ok_or_else(|| Invalid::new("an endpoint has no scheme"))?;
            let own = own.to_ascii_lowercase();
            if own != "http" && own != "https" {
                return Err(Invalid::new(
                    "an endpoint has a scheme that is neither http nor https",
                ));
            }
            if *scheme.get_or_insert_with(|| own.clone()) != own {
                return Err(Invalid::new("the endpoints have different schemes"));
            }
            let host = rest.strip_suffix('/').unwrap_or(rest);
            if host.is_empty() || host.contains(['/', '@', '?', '#', ' ']) {
                return Err(Invalid::new(
                    "an endpoint has more than a scheme, a host and a port",
                ));
            }
            endpoints.push(format!("{own}://{host}"));
        }
        Ok(endpoints)
    }
    fn empty() -> Vec<String> {
        Vec::new()
    }
    fn show(value: &Vec<String>) -> String {
        value.join(",")
    }
    fn expected() -> String {
        "http(s)://host:port, separated by commas".to_owned()
    }
}
