//! Truth values, integers with bounds, ports and mark masks.

use super::{Invalid, Parser};
use dataplane_iptables::layout::Marks;

/// `true`, `1`, `yes`, `y`, `t`, or `false`, `0`, `no`, `n`, `f`, in any case.
#[derive(Debug)]
pub struct Bool;

fn truth(raw: &str) -> Result<bool, Invalid> {
    match raw.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "y" | "t" => Ok(true),
        "false" | "0" | "no" | "n" | "f" => Ok(false),
        _ => Err(Invalid::new("it is neither true nor false")),
    }
}

impl Parser for Bool {
    type Value = bool;

    fn parse(raw: &str) -> Result<bool, Invalid> {
        truth(raw)
    }
    fn empty() -> bool {
        false
    }
    fn show(value: &bool) -> String {
        value.to_string()
    }
    fn expected() -> String {
        "true or false".to_owned()
    }
}

/// A truth value that may be left open, so that the agent decides.
#[derive(Debug)]
pub struct MaybeBool;

impl Parser for MaybeBool {
    type Value = Option<bool>;

    fn parse(raw: &str) -> Result<Option<bool>, Invalid> {
        truth(raw).map(Some)
    }
    fn empty() -> Option<bool> {
        None
    }
    fn show(value: &Option<bool>) -> String {
        value.map_or_else(|| "none".to_owned(), |known| known.to_string())
    }
    fn expected() -> String {
        "true, false or none".to_owned()
    }
}

/// Reads an integer as Go's `strconv.ParseInt(_, 0, 64)` does: decimal, `0x`, `0o`, `0b`, and octal after a bare `0`.
fn integer(raw: &str) -> Option<i64> {
    let (negative, digits) = match raw.as_bytes().first()? {
        b'-' => (true, &raw[1..]),
        b'+' => (false, &raw[1..]),
        _ => (false, raw),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, body) = if let Some(body) = lower.strip_prefix("0x") {
        (16, body)
    } else if let Some(body) = lower.strip_prefix("0o") {
        (8, body)
    } else if let Some(body) = lower.strip_prefix("0b") {
        (2, body)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..])
    } else {
        (10, lower.as_str())
    };
    // `from_str_radix` takes a sign of its own; a second one is not a number.
    if body.is_empty() || !body.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let magnitude = i128::from_str_radix(body, radix).ok()?;
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

fn bounded(raw: &str, least: i64, most: i64) -> Result<i64, Invalid> {
    let value = integer(raw).ok_or_else(|| Invalid::new("it is not an integer"))?;
    if value < least {
        return Err(Invalid(format!("it is less than {least}")));
    }
    if value > most {
        return Err(Invalid(format!("it is greater than {most}")));
    }
    Ok(value)
}

/// An integer from `LEAST` to `MOST`, both included.
#[derive(Debug)]
pub struct Int<const LEAST: i64 = { i64::MIN }, const MOST: i64 = { i64::MAX }>;

impl<const LEAST: i64, const MOST: i64> Parser for Int<LEAST, MOST> {
    type Value = i64;

    fn parse(raw: &str) -> Result<i64, Invalid> {
        bounded(raw, LEAST, MOST)
    }
    fn empty() -> i64 {
        0
    }
    fn show(value: &i64) -> String {
        value.to_string()
    }
    fn expected() -> String {
        match (LEAST, MOST) {
            (i64::MIN, i64::MAX) => "an integer".to_owned(),
            (least, i64::MAX) => format!("an integer of at least {least}"),
            (least, most) => format!("an integer from {least} to {most}"),
        }
    }
}

fn port(raw: &str) -> Result<u16, Invalid> {
    let value = bounded(raw, 0, 65_535)?;
    u16::try_from(value).map_err(|_| Invalid::new("it is not a port number"))
}

/// A port number from 0 to 65535; 0 lets the kernel choose where something listens.
#[derive(Debug)]
pub struct Port;

impl Parser for Port {
    type Value = u16;

    fn parse(raw: &str) -> Result<u16, Invalid> {
        port(raw)
    }
    fn empty() -> u16 {
        0
    }
    fn show(value: &u16) -> String {
        value.to_string()
    }
    fn expected() -> String {
        "a port number from 0 to 65535".to_owned()
    }
}

/// A port number, or nothing.
#[derive(Debug)]
pub struct MaybePort;

impl Parser for MaybePort {
    type Value = Option<u16>;

    fn parse(raw: &str) -> Result<Option<u16>, Invalid> {
        port(raw).map(Some)
    }
    fn empty() -> Option<u16> {
        None
    }
    fn show(value: &Option<u16>) -> String {
        value.map_or_else(|| "none".to_owned(), |known| known.to_string())
    }
    fn expected() -> String {
        "a port number from 0 to 65535, or none".to_owned()
    }
}

/// The packet mark bits that the agent may use: at least two of 32.
#[derive(Debug)]
pub struct MarkBitmask;

impl Parser for MarkBitmask {
    type Value = u32;

    fn parse(raw: &str) -> Result<u32, Invalid> {
        let value = integer(raw)
            .and_then(|value| u32::try_from(value).ok())
            .ok_or_else(|| Invalid::new("it is not a number of 32 bits"))?;
        if value.count_ones() < 2 {
            return Err(Invalid::new("it has fewer than two bits set"));
        }
        Ok(value)
    }
    fn empty() -> u32 {
        0
    }
    fn show(value: &u32) -> String {
        format!("{value:#010x}")
    }
    fn expected() -> String {
        "a mask of 32 bits with at least two set, such as 0xffff0000".to_owned()
    }
}

/// The packet mark bits that may be used in iptables: some must be left beside kube-proxy's.
#[derive(Debug)]
pub struct IptablesMarks;

impl Parser for IptablesMarks {
    type Value = u32;

    fn parse(raw: &str) -> Result<u32, Invalid> {
        let mask = MarkBitmask::parse(raw)?;
        Marks::from_mask(mask).map_err(|lacking| Invalid(lacking.to_string()))?;
        Ok(mask)
    }
    fn empty() -> u32 {
        MarkBitmask::empty()
    }
    fn show(mask: &u32) -> String {
        MarkBitmask::show(mask)
    }
    fn expected() -> String {
        MarkBitmask::expected()
    }
}
