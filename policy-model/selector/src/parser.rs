//! Parses the text of a selector by recursive descent, one function per rule of the grammar.

use crate::error::ParseError;
use crate::expr::Expr;
use crate::lexer::{Lexer, Token};

/// How deep parentheses may nest: far more than people write, far less than a thread's stack holds.
pub const MAX_DEPTH: usize = 100;

/// How many characters a label key may have.
pub const MAX_KEY_LENGTH: usize = 512;

/// Parses a whole text; blank text is `all()`.
pub(crate) fn parse(text: &str) -> Result<Expr, ParseError> {
    let mut parser = Parser {
        lexer: Lexer::new(text),
        position: 0,
        token: Token::End,
        depth: 0,
    };
    parser.advance()?;
    if parser.token == Token::End {
        return Ok(Expr::All);
    }
    let expr = parser.expression()?;
    match parser.token {
        Token::End => Ok(expr),
        Token::CloseParenthesis => Err(parser.fault("this ')' closes nothing")),
        _ => Err(parser.expected("'&&', '||' or the end of the selector")),
    }
}

/// One token of look-ahead over the lexer.
struct Parser<'a> {
    lexer: Lexer<'a>,
    /// Where `token` begins.
    position: usize,
    token: Token<'a>,
    /// How many parentheses are open.
    depth: usize,
}

impl<'a> Parser<'a> {
    fn expression(&mut self) -> Result<Expr, ParseError> {
        let mut operands = vec![self.conjunction()?];
        while self.token == Token::Or {
            self.advance()?;
            operands.push(self.conjunction()?);
        }
        Ok(Expr::Or(operands))
    }

    fn conjunction(&mut self) -> Result<Expr, ParseError> {
        let mut operands = vec![self.unary()?];
        while self.token == Token::And {
            self.advance()?;
            operands.push(self.unary()?);
        }
        Ok(Expr::And(operands))
    }

    fn unary(&mut self) -> Result<Expr, ParseError> {
        // A loop, so that a long run of '!' costs no stack.
        let mut negated = false;
        while self.token == Token::Not {
            negated = !negated;
            self.advance()?;
        }
        let operand = match self.token {
            Token::OpenParenthesis => self.parenthesised()?,
            Token::Word(word) => self.term(word)?,
            _ => return Err(self.expected("a label key, has(), all(), global(), '!' or '('")),
        };
        Ok(if negated { operand.negated() } else { operand })
    }

    fn parenthesised(&mut self) -> Result<Expr, ParseError> {
        if self.depth == MAX_DEPTH {
            return Err(self.fault(&format!("parentheses nest deeper than {MAX_DEPTH}")));
        }
        self.depth += 1;
        self.advance()?;
        let inner = self.expression()?;
        self.close("'&&', '||' or ')'")?;
        self.depth -= 1;
        Ok(inner)
    }

    /// A term, at its first word.
    fn term(&mut self, word: &'a str) -> Result<Expr, ParseError> {
        let start = self.position;
        self.advance()?;
        if self.token == Token::OpenParenthesis {
            return self.call(start, word);
        }
        let key = self.key(start, word)?;
        match self.token {
            Token::Equal => Ok(Expr::Eq(key, self.value_after_operator()?)),
            Token::NotEqual => Ok(Expr::NotEq(key, self.value_after_operator()?)),
            Token::Word("contains") => Ok(Expr::Contains(key, self.value_after_operator()?)),
            Token::Word("startswith") => Ok(Expr::StartsWith(key, self.value_after_operator()?)),
            Token::Word("endswith") => Ok(Expr::EndsWith(key, self.value_after_operator()?)),
            Token::Word("starts") => {
                self.second_word("starts", "with")?;
                Ok(Expr::StartsWith(key, self.value_after_operator()?))
            }
            Token::Word("ends") => {
                self.second_word("ends", "with")?;
                Ok(Expr::EndsWith(key, self.value_after_operator()?))
            }
            Token::Word("in") => Ok(Expr::In(key, self.set_after_operator()?)),
            Token::Word("notin") => Ok(Expr::NotIn(key, self.set_after_operator()?)),
            Token::Word("not") => {
                self.second_word("not", "in")?;
                Ok(Expr::NotIn(key, self.set_after_operator()?))
            }
            _ => Err(self.expected(
                "an operator after the label key \
                 (==, !=, in, not in, contains, starts with, ends with; presence is has(key))",
            )),
        }
    }

    /// `has(key)`, `all()` or `global()`, at the parenthesis.
    fn call(&mut self, start: usize, name: &str) -> Result<Expr, ParseError> {
        match name {
            "has" => {
                self.advance()?;
                let Token::Word(word) = self.token else {
                    return Err(self.expected("a label key"));
                };
                let key = self.key(self.position, word)?;
                self.advance()?;
                self.close("')'")?;
                Ok(Expr::Has(key))
            }
            "all" | "global" => {
                self.advance()?;
                self.close("')'")?;
                Ok(if name == "all" { Expr::All } else { Expr::Global })
            }
            _ => {
                let message = format!(
                    "expected has(), all() or global(), found {} before '('",
                    Token::Word(name)
                );
                Err(self.lexer.fault(start, message))
            }
        }
    }

    fn key(&self, start: usize, word: &str) -> Result<String, ParseError> {
        if word.len() > MAX_KEY_LENGTH {
            let message = format!(
                "a label key has at most {MAX_KEY_LENGTH} characters, this has {}",
                word.len()
            );
            return Err(self.lexer.fault(start, message));
        }
        Ok(word.to_owned())
    }

    /// Steps from the first word of an operator to its second.
    fn second_word(&mut self, first: &str, second: &str) -> Result<(), ParseError> {
        self.advance()?;
        if self.token == Token::Word(second) {
            return Ok(());
        }
        Err(self.expected(&format!("'{second}' after '{first}'")))
    }

    fn value_after_operator(&mut self) -> Result<String, ParseError> {
        self.advance()?;
        let Token::Quoted(value) = self.token else {
            return Err(self.expected("a quoted value"));
        };
        self.advance()?;
        Ok(value.to_owned())
    }

    /// A set literal; it may be empty, and may end in a comma.
    fn set_after_operator(&mut self) -> Result<Vec<String>, ParseError> {
        self.advance()?;
        if self.token != Token::OpenBrace {
            return Err(self.expected("'{'"));
        }
        self.advance()?;
        let mut values = Vec::new();
        while let Token::Quoted(value) = self.token {
            values.push(value.to_owned());
            self.advance()?;
            if self.token != Token::Comma {
                if self.token != Token::CloseBrace {
                    return Err(self.expected("',' or '}'"));
                }
                break;
            }
            self.advance()?;
        }
        if self.token != Token::CloseBrace {
            return Err(self.expected("a quoted value or '}'"));
        }
        self.advance()?;
        Ok(values)
    }

    fn close(&mut self, expected: &str) -> Result<(), ParseError> {
        if self.token != Token::CloseParenthesis {
            return Err(self.expected(expected));
        }
        self.advance()
    }

    fn advance(&mut self) -> Result<(), ParseError> {
        (self.position, self.token) = self.lexer.next()?;
        Ok(())
    }

    fn expected(&self, what: &str) -> ParseError {
        self.fault(&format!("expected {what}, found {}", self.token))
    }

    fn fault(&self, message: &str) -> ParseError {
        ParseError::new(self.lexer.text(), self.position, message.to_owned())
    }
}
