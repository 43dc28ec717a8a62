//! Reads one YAML document of a text, and says of a fault where in the whole text it is.

use super::value::YamlValue;
use super::{DocumentError, without_position, work};
use serde::de::DeserializeSeed;
use serde_json::Value;

/// More brackets open at once than any manifest has. The parser's time grows with their square.
const MOST_OPEN_BRACKETS: usize = 1000;

/// The value of a document that stands behind `lines_before` lines of its text.
pub(super) fn read(text: &str, lines_before: usize) -> Result<Value, DocumentError> {
    if let Some(line) = too_deep(text) {
        let reason = format!("more than {MOST_OPEN_BRACKETS} brackets are open");
        return Err(DocumentError {
            line: lines_before + line + 1,
            column: 1,
            reason,
        });
    }
    parse(text).map_err(|_| fault(text, lines_before))
}

/// The line, from 0, on which more brackets are open than the parser should be given.
///
/// Brackets inside of texts count too: a text with a thousand more opened than closed is no loss.
fn too_deep(text: &str) -> Option<usize> {
    let (mut open, mut line) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            b'\n' => line += 1,
            _ => {}
        }
        if open > MOST_OPEN_BRACKETS {
            return Some(line);
        }
    }
    None
}

fn parse(text: &str) -> Result<Value, serde_norway::Error> {
    work::done(text.len());
    YamlValue { source: text }.deserialize(serde_norway::Deserializer::from_str(text))
}

/// What is wrong with a document that cannot be parsed.
///
/// The parser's messages name lines, some of them two, and its own errors name one. It is asked twice, behind one empty
/// line and behind two: what grows by one is a line, and is put where the document stands. (Behind as many empty lines as
/// there are before it, each broken document of a long text would have the whole text read again.)
fn fault(text: &str, lines_before: usize) -> DocumentError {
    let (Err(first), Err(second)) = (parse(&format!("\n{text}")), parse(&format!("\n\n{text}"))) else {
        // What no empty line before it can mend came here, so this does not happen.
        return DocumentError {
            line: lines_before + 1,
            column: 1,
            reason: "cannot be read".to_owned(),
        };
    };
    let (first_message, second_message) = (first.to_string(), second.to_string());
    let message = moved(&first_message, &second_message, lines_before);
    if let Some((reason, offset)) = without_offset(&first_message) {
        // Behind the empty line.
        let before = text.get(..offset.saturating_sub(1)).unwrap_or_default();
        let last = before.rsplit('\n').next().unwrap_or_default();
        return DocumentError {
            line: lines_before + before.matches('\n').count() + 1,
            column: last.chars().count() + 1,
            reason,
        };
    }
    let last = lines_before + text.matches('\n').count().max(1);
    let (line, column) = first.location().map_or((last, 1), |found| {
        ((found.line() + lines_before).saturating_sub(1), found.column())
    });
    DocumentError {
        line,
        column,
        reason: without_position(&message, line, column),
    }
}

/// The message of a document behind `lines` lines, out of its messages behind one and behind two.
fn moved(behind_one: &str, behind_two: &str, lines: usize) -> String {
    let mut message = String::with_capacity(behind_one.len());
    let (ones, twos) = (runs(behind_one), runs(behind_two));
    for (one, two) in ones.zip(twos) {
        match (one.parse::<usize>(), two.parse::<usize>()) {
            (Ok(line), Ok(next)) if next == line + 1 => {
                message.push_str(&((line + lines).saturating_sub(1)).to_string())
            }
            _ => message.push_str(one),
        }
    }
    message
}

/// A text cut into runs of digits and of everything else.
fn runs(text: &str) -> impl Iterator<Item = &str> {
    let bytes = text.as_bytes();
    bytes
        .chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit())
        .map(|run| std::str::from_utf8(run).unwrap_or_default())
}

/// What the parser says of a character that no document may hold: without the offset, of which it names no line; and that
/// offset in bytes.
fn without_offset(message: &str) -> Option<(String, usize)> {
    let (reason, offset) = message.rsplit_once(" at position ")?;
    Some((reason.to_owned(), offset.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a fault is behind so many lines, found in the plain way: the document behind as many empty ones.
    fn plainly(text: &str, lines_before: usize) -> (usize, usize, String) {
        let error = parse(&format!("{}{text}", "\n".repeat(lines_before))).unwrap_err();
        let place = error.location().unwrap();
        let (line, column) = (place.line(), place.column());
        (line, column, without_position(&error.to_string(), line, column))
    }

    #[test]
    fn a_fault_is_where_it_is_in_the_whole_text() {
        for text in [
            "a: 1\n b: 2\n",
            "a: [1, 2\nb: 3\n",
            "a:\n  b: 1\n  c: 2\n  b: 3\n",
            "'line 3': 1\n'line 3': 1\n",
            "--- *nobody\n",
            "a: 'x\n",
            "a: \t- x\n",
            "%YAML 1.2\n%YAML 1.2\n---\na: 1\n",
            "a: 1 2: 3\n",
            "key 9: [\n\n{]\n",
        ] {
            for lines_before in [1, 2, 9, 98, 99, 1234] {
                let found = read(text, lines_before).unwrap_err();
                assert_eq!(
                    (found.line, found.column, found.reason),
                    plainly(text, lines_before),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn a_character_that_is_not_allowed_has_its_place() {
        let found = read("a: 1\nb: ü\u{1}\n", 6).unwrap_err();
        assert_eq!((found.line, found.column), (8, 5), "{found}");
        assert_eq!(found.reason, "control characters are not allowed");
        assert_eq!(read("\u{1}", 0).unwrap_err().line, 1);
    }
}
