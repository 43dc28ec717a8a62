//! One figure: what was measured, what it came to, and what it is to reach.

use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::time::Duration;

/// A line of the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured.
    pub what: String,
    /// What it came to, with its unit.
    pub value: String,
    /// What it is to reach; empty where it only stands beside another figure.
    pub goal: String,
    /// Whether it is reached, where there is a goal.
    pub reached: Option<bool>,
    /// How it was measured, and what it consists of.
    pub note: String,
}

impl Figure {
    /// A duration that is to be at most `goal`.
    pub fn time(what: impl Into<String>, value: Duration, goal: Duration, note: impl Into<String>) -> Self {
        Figure {
            what: what.into(),
            value: duration(value),
            goal: format!("at most {}", duration(goal)),
            reached: Some(value <= goal),
            note: note.into(),
        }
    }

    /// A number that is to be at most `goal`.
    pub fn at_most(
        what: impl Into<String>,
        value: f64,
        unit: &str,
        goal: f64,
        note: impl Into<String>,
    ) -> Self {
        Figure {
            what: what.into(),
            value: format!("{value:.2} {unit}").trim_end().to_string(),
            goal: format!("at most {goal} {unit}").trim_end().to_string(),
            reached: Some(value <= goal),
            note: note.into(),
        }
    }

    /// A number that is to be at least `goal`.
    pub fn at_least(
        what: impl Into<String>,
        value: f64,
        unit: &str,
        goal: f64,
        note: impl Into<String>,
    ) -> Self {
        Figure {
            what: what.into(),
            value: format!("{value:.2} {unit}").trim_end().to_string(),
            goal: format!("at least {goal} {unit}").trim_end().to_string(),
            reached: Some(value >= goal),
            note: note.into(),
        }
    }

    /// Something that only stands beside another figure.
    pub fn beside(what: impl Into<String>, value: impl Into<String>, note: impl Into<String>) -> Self {
        Figure {
            what: what.into(),
            value: value.into(),
            goal: String::new(),
            reached: None,
            note: note.into(),
        }
    }
}

/// A duration with three digits that mean something.
pub fn duration(value: Duration) -> String {
    let nanoseconds = value.as_nanos() as f64;
    let (number, unit) = match nanoseconds {
        n if n >= 1e9 => (n / 1e9, "s"),
        n if n >= 1e6 => (n / 1e6, "ms"),
        n if n >= 1e3 => (n / 1e3, "us"),
        n => (n, "ns"),
    };
    let digits = if number >= 100.0 {
        0
    } else if number >= 10.0 {
        1
    } else {
        2
    };
    let text = format!("{number:.digits$}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{text} {unit}")
}

/// The table in Markdown.
pub fn table(figures: &[Figure]) -> String {
    let mut text = String::from("| figure | measured | goal | | how |\n|---|---|---|---|---|\n");
    for figure in figures {
        let mark = match figure.reached {
            Some(true) => "reached",
            Some(false) => "**missed**",
            None => "",
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {mark} | {} |",
            figure.what, figure.value, figure.goal, figure.note
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_digits() {
        for (nanoseconds, text) in [
            (7, "7 ns"),
            (1_480, "1.48 us"),
            (12_340_000, "12.3 ms"),
            (150_000_000, "150 ms"),
            (1_000_000_000, "1 s"),
            (600_400_000, "600 ms"),
        ] {
            assert_eq!(duration(Duration::from_nanos(nanoseconds)), text);
        }
    }

    #[test]
    fn a_goal_is_reached_or_missed() {
        let slow = Figure::time("a", Duration::from_millis(2), Duration::from_millis(1), "");
        let fast = Figure::at_least("b", 1.7, "times", 1.6, "");
        assert_eq!((slow.reached, fast.reached), (Some(false), Some(true)));
        let text = table(&[slow, fast, Figure::beside("c", "3", "")]);
        assert_eq!(text.lines().count(), 5);
        assert!(
            text.contains("| a | 2 ms | at most 1 ms | **missed** |"),
            "{text}"
        );
        assert!(
            text.contains("| b | 1.70 times | at least 1.6 times | reached |"),
            "{text}"
        );
    }
}
