//! Cuts the text of a selector into tokens that know where they began.
//!
//! There are no keywords here: `in`, `has` and `all` are also good label keys, and only the parser knows by the
//! place which is meant.

use std::fmt;

use crate::error::ParseError;

/// Whether a byte may stand in a label key.
pub(crate) fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'/' | b'-')
}

/// One token of the language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    /// A label key or a word of the grammar.
    Word(&'a str),
    /// A value, without its quotes.
    Quoted(&'a str),
    Equal,
    NotEqual,
    Not,
    And,
    Or,
    OpenParenthesis,
    CloseParenthesis,
    OpenBrace,
    CloseBrace,
    Comma,
    End,
}

/// How many characters of a word or value a message repeats.
const SHOWN: usize = 40;

impl fmt::Display for Token<'_> {
    /// As a message names it after "found".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self {
            Token::Word(word) => return write_shortened(f, "", word),
            Token::Quoted(value) => return write_shortened(f, "the value ", value),
            Token::End => return f.write_str("the end of the selector"),
            Token::Equal => "==",
            Token::NotEqual => "!=",
            Token::Not => "!",
            Token::And => "&&",
            Token::Or => "||",
            Token::OpenParenthesis => "(",
            Token::CloseParenthesis => ")",
            Token::OpenBrace => "{",
            Token::CloseBrace => "}",
            Token::Comma => ",",
        };
        write!(f, "'{sign}'")
    }
}

fn write_shortened(f: &mut fmt::Formatter<'_>, before: &str, text: &str) -> fmt::Result {
    match text.char_indices().nth(SHOWN) {
        Some((cut, _)) => write!(f, "{before}'{}...'", text.get(..cut).unwrap_or_default()),
        None => write!(f, "{before}'{text}'"),
    }
}

/// The tokens of a text, one at a time.
pub(crate) struct Lexer<'a> {
    text: &'a str,
    offset: usize,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Lexer { text, offset: 0 }
    }

    pub(crate) fn text(&self) -> &'a str {
        self.text
    }

    /// The next token and the byte offset of its first character; [`Token::End`] for ever at the end.
    pub(crate) fn next(&mut self) -> Result<(usize, Token<'a>), ParseError> {
        let rest = self.text.get(self.offset..).unwrap_or_default();
        let trimmed = rest.trim_start_matches([' ', '\t', '\n', '\r']);
        let start = self.offset + (rest.len() - trimmed.len());
        let (length, token) = self.token_at(start, trimmed)?;
        self.offset = start + length;
        Ok((start, token))
    }

    fn token_at(&self, start: usize, rest: &'a str) -> Result<(usize, Token<'a>), ParseError> {
        let mut characters = rest.chars();
        let Some(first) = characters.next() else {
            return Ok((0, Token::End));
        };
        let doubled = characters.next() == Some(first);
        let found = match first {
            '(' => (1, Token::OpenParenthesis),
            ')' => (1, Token::CloseParenthesis),
            '{' => (1, Token::OpenBrace),
            '}' => (1, Token::CloseBrace),
            ',' => (1, Token::Comma),
            '!' if rest.starts_with("!=") => (2, Token::NotEqual),
            '!' => (1, Token::Not),
            '=' if doubled => (2, Token::Equal),
            '&' if doubled => (2, Token::And),
            '|' if doubled => (2, Token::Or),
            '=' | '&' | '|' => {
                return Err(self.fault(
                    start,
                    format!("expected '{first}{first}', found a single '{first}'"),
                ));
            }
            '\'' | '"' => {
                let inside = rest.get(1..).unwrap_or_default();
                let Some(end) = inside.find(first) else {
                    return Err(self.fault(
                        start,
                        format!("the value that begins here has no closing {first}"),
                    ));
                };
                (end + 2, Token::Quoted(inside.get(..end).unwrap_or_default()))
            }
            _ => {
                let length = rest.bytes().take_while(|byte| is_key_byte(*byte)).count();
                if length == 0 {
                    return Err(self.fault(start, format!("unexpected character {first:?}")));
                }
                (length, Token::Word(rest.get(..length).unwrap_or_default()))
            }
        };
        Ok(found)
    }

    pub(crate) fn fault(&self, position: usize, message: String) -> ParseError {
        ParseError::new(self.text, position, message)
    }
}
