//! What is said about a text that is not a selector: where, and what was expected there.

use std::fmt::Write as _;

/// The text is not a selector.
///
/// The text of the error names the character; [`ParseError::caret`] also draws it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at character {column}: {message}")]
pub struct ParseError {
    /// Byte offset into the text, from 0; the length of the text when it ended too early.
    pub position: usize,
    /// The same place counted in characters from 1, as people and editors count.
    pub column: usize,
    /// What is wrong there, such as `expected a quoted value, found '&&'`.
    pub message: String,
}

/// How many characters [`ParseError::caret`] shows on each side of the fault.
const CARET_CONTEXT: usize = 40;

impl ParseError {
    pub(crate) fn new(text: &str, position: usize, message: String) -> Self {
        let column = text
            .char_indices()
            .take_while(|(offset, _)| *offset < position)
            .count()
            + 1;
        ParseError {
            position,
            column,
            message,
        }
    }

    /// Two lines for a terminal: the part of `text` around the fault, and a caret below the faulty character.
    ///
    /// `text` is the text that was parsed. Line breaks and other control characters are shown as spaces, so that
    /// the caret stands where it should.
    pub fn caret(&self, text: &str) -> String {
        let at = self.column.saturating_sub(1);
        let start = at.saturating_sub(CARET_CONTEXT);
        let mut drawing = String::new();
        if start > 0 {
            drawing.push_str("...");
        }
        let indent = drawing.len() + (at - start);
        let mut rest = text.chars().skip(start);
        for character in rest.by_ref().take(2 * CARET_CONTEXT) {
            drawing.push(if character.is_control() { ' ' } else { character });
        }
        if rest.next().is_some() {
            drawing.push_str("...");
        }
        // Writing to a String cannot fail.
        let _ = write!(drawing, "\n{:indent$}^", "");
        drawing
    }
}

#[cfg(test)]
mod tests {
    use crate::Selector;

    fn fault(text: &str) -> super::ParseError {
        Selector::parse(text).expect_err("the text is not a selector")
    }

    #[test]
    fn the_caret_stands_below_the_fault() {
        assert_eq!(fault("a == && b").caret("a == && b"), "a == && b\n     ^");
        assert_eq!(fault("a ==").caret("a =="), "a ==\n    ^");
    }

    #[test]
    fn the_caret_counts_characters_and_shows_a_window_of_a_long_text() {
        let text = format!("{} && ü == 'x'", vec!["k == 'ä'"; 50].join(" && "));
        let error = fault(&text);
        assert_eq!(text[error.position..].chars().next(), Some('ü'));
        assert_eq!(text.chars().nth(error.column - 1), Some('ü'));
        let drawing = error.caret(&text);
        let (line, caret) = drawing.split_once('\n').unwrap();
        assert!(line.starts_with("..."));
        assert_eq!(line.chars().nth(caret.chars().count() - 1), Some('ü'));
    }
}
