//! How the commands write: tables for people, one JSON object a line for programs.

use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// How an answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// One JSON object a line.
    Json,
}

/// Writes a text to the standard output. That nobody reads it any more (`| head`) is no error.
///
/// # Errors
/// What the system said.
pub fn out(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Writes one line to the standard error for each fault.
pub fn complain<T: std::fmt::Display>(faults: impl IntoIterator<Item = T>) {
    let mut stderr = io::stderr().lock();
    for fault in faults {
        // Where nobody hears it, the exit code still says it.
        let _ = writeln!(stderr, "{fault}");
    }
}

/// A value as one line of JSON.
pub fn json_line<T: Serialize>(value: &T) -> String {
    // Plain structs of strings and numbers do not fail.
    let mut line = serde_json::to_string(value).unwrap_or_default();
    line.push('\n');
    line
}

/// A text in red, where a person looks at the standard output.
pub fn red(text: &str) -> String {
    if io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[1;31m{text}\x1b[0m")
    } else {
        text.to_string()
    }
}

/// Rows in columns, two spaces apart, the first row being the heads. The last column is not padded.
pub fn table<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &[String; N]| {
        let mut line = String::new();
        for (n, (cell, width)) in row.iter().zip(widths).enumerate() {
            let width = if n + 1 == N { 0 } else { width };
            line.push_str(&format!("{cell:width$}"));
            if n + 1 < N {
                line.push_str("  ");
            }
        }
        line.trim_end().to_string()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let rows = [["a", "b", "c"], ["long", "", "x y"]].map(|row| row.map(str::to_string));
        assert_eq!(table(&rows), ["a     b  c", "long     x y"]);
    }
}
