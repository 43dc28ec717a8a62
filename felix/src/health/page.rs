//! What `/liveness` and `/readiness` answer: a verdict, who is in trouble since when, and a table of all reporters.

use super::aggregator::{HealthAggregator, Probe, ReporterState, Standing, Trouble, passes};
use crate::http::{Page, Pages};
use hyper::StatusCode;
use std::fmt::Write;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The pages of the health server.
#[derive(Clone, Debug)]
pub struct HealthPages {
    aggregator: HealthAggregator,
}

impl HealthPages {
    /// Pages that say what the aggregator says.
    pub fn new(aggregator: HealthAggregator) -> Self {
        HealthPages { aggregator }
    }
}

impl Pages for HealthPages {
    fn page(&self, path: &str) -> Option<Page> {
        let probe = match path {
            "/liveness" => Probe::Liveness,
            "/readiness" => Probe::Readiness,
            _ => return None,
        };
        Some(render(
            &self.aggregator.states(Instant::now()),
            probe,
            SystemTime::now(),
        ))
    }
}

/// The answer to a probe: 200 if it is passed, else 503.
pub fn render(states: &[ReporterState], probe: Probe, wall_clock: SystemTime) -> Page {
    let passed = passes(states, probe);
    let (good, bad) = match probe {
        Probe::Liveness => ("live", "not live"),
        Probe::Readiness => ("ready", "not ready"),
    };
    let mut body = format!("{}\n", if passed { good } else { bad });
    if states.is_empty() {
        body.push_str("no loop has registered yet\n");
    }
    for state in states {
        if let Some(line) = trouble(state, probe, wall_clock) {
            body.push_str(&line);
            body.push('\n');
        }
    }
    body.push('\n');
    body.push_str(&table(states));
    Page {
        status: if passed {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        },
        content_type: "text/plain; charset=utf-8",
        body,
    }
}

/// One line about a reporter that does not pass.
fn trouble(state: &ReporterState, probe: Probe, wall_clock: SystemTime) -> Option<String> {
    let Standing::Fails { trouble, since } = state.standing(probe) else {
        return None;
    };
    let moment = wall_clock
        .checked_sub(since)
        .map_or_else(|| "the beginning".to_owned(), rfc3339);
    let name = &state.name;
    let for_so_long = spell(since);
    let line = match (trouble, state.limit) {
        (Trouble::Stuck, Some(limit)) => {
            format!(
                "{name} is stuck since {moment}: no report for {for_so_long}, limit {}",
                spell(limit)
            )
        }
        (Trouble::Stuck, None) => format!("{name} is stuck since {moment}: no report for {for_so_long}"),
        (Trouble::NeverReported, _) => {
            format!("{name} has not reported since it began at {moment}, {for_so_long} ago")
        }
        (Trouble::Reported, _) => {
            let what = match probe {
                Probe::Liveness => "not live",
                Probe::Readiness => "not ready",
            };
            format!("{name} is {what} since {moment}, for {for_so_long}")
        }
    };
    Some(match state.detail.is_empty() {
        true => line,
        false => format!("{line}: {}", one_line(&state.detail)),
    })
}

const HEADINGS: [&str; 6] = ["LOOP", "LIVENESS", "READINESS", "LAST REPORT", "LIMIT", "DETAIL"];

/// All reporters, one a line.
fn table(states: &[ReporterState]) -> String {
    let mut rows: Vec<[String; 6]> = vec![HEADINGS.map(str::to_owned)];
    rows.extend(states.iter().map(|state| {
        [
            state.name.clone(),
            word(state.liveness, "live", "not live"),
            word(state.readiness, "ready", "not ready"),
            state
                .age
                .map_or_else(|| "never".to_owned(), |age| format!("{} ago", spell(age))),
            state.limit.map_or_else(|| "none".to_owned(), spell),
            one_line(&state.detail),
        ]
    }));
    let widths: Vec<usize> = (0..HEADINGS.len())
        .map(|column| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing into a text cannot fail.
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn word(standing: Standing, good: &str, bad: &str) -> String {
    match standing {
        Standing::NotCounted => "-".to_owned(),
        Standing::Passes => good.to_owned(),
        Standing::Fails {
            trouble: Trouble::Stuck,
            ..
        } => format!("{bad} (stuck)"),
        Standing::Fails {
            trouble: Trouble::NeverReported,
            ..
        } => format!("{bad} (never reported)"),
        Standing::Fails {
            trouble: Trouble::Reported,
            ..
        } => bad.to_owned(),
    }
}

/// A detail must not be able to draw lines of the table.
fn one_line(detail: &str) -> String {
    detail
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect()
}

fn spell(time: Duration) -> String {
    format!("{:.1}s", time.as_secs_f64())
}

/// A moment in UTC to the second, as RFC 3339 writes it.
fn rfc3339(moment: SystemTime) -> String {
    let seconds = moment
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let (days, in_day) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, in eras of 400 years, so that the leap day is the last of its year.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (in_day / 3_600, in_day / 60 % 60, in_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_in_utc() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_709_210_096, "2024-02-29T12:34:56Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }
}
