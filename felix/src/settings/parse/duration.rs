//! Times: plain numbers of seconds or milliseconds, and Go's notation with units.

use super::{Invalid, Parser, Shape};
use std::time::Duration;

fn scaled(raw: &str, unit_in_seconds: f64) -> Result<Duration, Invalid> {
    let number: f64 = raw.parse().map_err(|_| Invalid::new("it is not a number"))?;
    if number < 0.0 {
        return Err(Invalid::new("it is negative"));
    }
    // Not-a-number and infinity read as numbers; the conversion is what refuses them, and what is too long.
    Duration::try_from_secs_f64(number * unit_in_seconds)
        .map_err(|_| Invalid::new("it is not a time that can be waited for"))
}

/// A number of seconds, fractions allowed.
#[derive(Debug)]
pub struct Seconds;

impl Parser for Seconds {
    type Value = Duration;
    const SHAPE: Shape = Shape::Seconds;

    fn parse(raw: &str) -> Result<Duration, Invalid> {
        scaled(raw, 1.0)
    }
    fn empty() -> Duration {
        Duration::ZERO
    }
    fn show(value: &Duration) -> String {
        value.as_secs_f64().to_string()
    }
    fn expected() -> String {
        "a number of seconds without a unit, such as 90 or 0.5".to_owned()
    }
}

/// A number of milliseconds, fractions allowed.
#[derive(Debug)]
pub struct Millis;

impl Parser for Millis {
    type Value = Duration;
    const SHAPE: Shape = Shape::Millis;

    fn parse(raw: &str) -> Result<Duration, Invalid> {
        scaled(raw, 0.001)
    }
    fn empty() -> Duration {
        Duration::ZERO
    }
    fn show(value: &Duration) -> String {
        (value.as_secs_f64() * 1000.0).to_string()
    }
    fn expected() -> String {
        "a number of milliseconds without a unit, such as 50".to_owned()
    }
}

/// Reads a duration in Go's notation: numbers with `h`, `m`, `s`, `ms`, `us` (also `µs`) or `ns`, one after the other,
/// such as `1m30s` or `1.5h`; a bare `0` needs no unit.
///
/// # Errors
/// The reason, when the text is not such a duration, or is negative.
pub fn go_duration(raw: &str) -> Result<Duration, Invalid> {
    let refused = || Invalid::new("it is not a duration such as 90s or 1m30s");
    let mut rest = raw.strip_prefix('+').unwrap_or(raw);
    if rest.starts_with('-') {
        return Err(Invalid::new("it is negative"));
    }
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(refused());
    }
    let mut seconds = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest
            .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
            .unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| refused())?;
        rest = &rest[digits..];
        let letters = rest
            .find(|letter: char| letter.is_ascii_digit() || letter == '.')
            .unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(refused()),
        };
        seconds += number * unit;
        rest = &rest[letters..];
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| Invalid::new("it is not a time that can be waited for"))
}
