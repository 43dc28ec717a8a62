//! Prints an expression as its one canonical text.
//!
//! Names of kernel sets and the sharing of equal selectors hang on this text: it must not change from release to
//! release, and two different expressions must never print alike, or one tenant's odd label could make a selector
//! stand for another's. Parsing the text gives the same expression back.
//!
//! Keys and values that the grammar cannot write (built from another language's selectors) are printed in a
//! form that does not parse, `<key>` and doubled quotes, and so cannot be mistaken for anything else.

use crate::expr::Expr;
use crate::lexer::is_key_byte;

/// The canonical text of a normalised expression.
pub(crate) fn print(expr: &Expr) -> String {
    let mut text = String::new();
    write_expr(&mut text, expr, Place::Top);
    text
}

/// The text of what selects everything.
pub(crate) const ALL: &str = "all()";

/// Whether the text of a normalised expression is one that plainly reads as the same expression again: comparisons of
/// usual keys with usual values, and conjunctions of these, which is what Kubernetes' selectors are.
pub(crate) fn is_simple(expr: &Expr) -> bool {
    match expr {
        Expr::And(operands) => operands.iter().all(is_simple_comparison),
        other => is_simple_comparison(other),
    }
}

fn is_simple_comparison(expr: &Expr) -> bool {
    match expr {
        Expr::Has(key) => is_simple_key(key),
        Expr::Not(inner) => matches!(&**inner, Expr::Has(key) if is_simple_key(key)),
        Expr::Eq(key, value) | Expr::NotEq(key, value) => is_simple_key(key) && is_simple_value(value),
        Expr::In(key, values) | Expr::NotIn(key, values) => {
            is_simple_key(key) && values.iter().all(|value| is_simple_value(value))
        }
        _ => false,
    }
}

/// Whether a key is written as it is, and is no word of the language.
fn is_simple_key(key: &str) -> bool {
    const WORDS: [&str; 9] = [
        "all", "global", "has", "in", "not", "contains", "starts", "ends", "with",
    ];
    !key.is_empty()
        && key.len() <= crate::MAX_KEY_LENGTH
        && key.bytes().all(is_key_byte)
        && !WORDS.contains(&key)
}

fn is_simple_value(value: &str) -> bool {
    !value.contains(['"', '\''])
}

/// Where an expression stands decides whether it needs parentheses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Top,
    OperandOfOr,
    OperandOfAnd,
    OperandOfNot,
}

fn write_expr(text: &mut String, expr: &Expr, place: Place) {
    let parenthesised = match expr {
        Expr::Or(_) => matches!(
            place,
            Place::OperandOfAnd | Place::OperandOfNot | Place::OperandOfOr
        ),
        Expr::And(_) => matches!(place, Place::OperandOfAnd | Place::OperandOfNot),
        // `!a == "b"` would parse as meant, but people read it the other way.
        Expr::All | Expr::Global | Expr::Has(_) | Expr::Not(_) => false,
        _ => place == Place::OperandOfNot,
    };
    if parenthesised {
        text.push('(');
    }
    match expr {
        Expr::All => text.push_str(ALL),
        Expr::Global => text.push_str("global()"),
        Expr::Has(key) => {
            text.push_str("has(");
            write_key(text, key);
            text.push(')');
        }
        Expr::Eq(key, value) => write_comparison(text, key, " == ", value),
        Expr::NotEq(key, value) => write_comparison(text, key, " != ", value),
        Expr::Contains(key, value) => write_comparison(text, key, " contains ", value),
        Expr::StartsWith(key, value) => write_comparison(text, key, " starts with ", value),
        Expr::EndsWith(key, value) => write_comparison(text, key, " ends with ", value),
        Expr::In(key, values) => write_membership(text, key, " in ", values),
        Expr::NotIn(key, values) => write_membership(text, key, " not in ", values),
        Expr::Not(inner) => {
            text.push('!');
            write_expr(text, inner, Place::OperandOfNot);
        }
        Expr::And(operands) => write_list(text, operands, " && ", Place::OperandOfAnd),
        Expr::Or(operands) => write_list(text, operands, " || ", Place::OperandOfOr),
    }
    if parenthesised {
        text.push(')');
    }
}

fn write_list(text: &mut String, operands: &[Expr], separator: &str, place: Place) {
    for (position, operand) in operands.iter().enumerate() {
        if position > 0 {
            text.push_str(separator);
        }
        write_expr(text, operand, place);
    }
}

fn write_comparison(text: &mut String, key: &str, operator: &str, value: &str) {
    write_key(text, key);
    text.push_str(operator);
    write_value(text, value);
}

fn write_membership(text: &mut String, key: &str, operator: &str, values: &[String]) {
    write_key(text, key);
    text.push_str(operator);
    text.push('{');
    for (position, value) in values.iter().enumerate() {
        if position > 0 {
            text.push_str(", ");
        }
        write_value(text, value);
    }
    text.push('}');
}

fn write_key(text: &mut String, key: &str) {
    if !key.is_empty() && key.bytes().all(is_key_byte) {
        text.push_str(key);
    } else {
        write_enclosed(text, '<', '>', key);
    }
}

fn write_value(text: &mut String, value: &str) {
    let quote = if value.contains('"') && !value.contains('\'') {
        '\''
    } else {
        '"'
    };
    write_enclosed(text, quote, quote, value);
}

/// Writes `content` between `open` and `close`, with each `close` inside doubled.
fn write_enclosed(text: &mut String, open: char, close: char, content: &str) {
    text.push(open);
    for character in content.chars() {
        if character == close {
            text.push(close);
        }
        text.push(character);
    }
    text.push(close);
}

#[cfg(test)]
mod tests {
    use crate::{Expr, Selector};

    fn canonical(text: &str) -> String {
        Selector::parse(text).unwrap().canonical().to_owned()
    }

    #[test]
    fn sets_are_sorted_without_repetitions() {
        assert_eq!(canonical("k in {'b',\"a\", 'b'}"), r#"k in {"a", "b"}"#);
        assert_eq!(canonical("k notin { }"), "k not in {}");
    }

    #[test]
    fn parentheses_stand_where_they_are_needed_only() {
        assert_eq!(
            canonical("((has(a)) && (has(b))) || (has(c))"),
            "has(a) && has(b) || has(c)"
        );
        assert_eq!(
            canonical("has(a) && (has(b) || has(c))"),
            "has(a) && (has(b) || has(c))"
        );
        assert_eq!(canonical("!(has(a))"), "!has(a)");
        assert_eq!(canonical("!a=='b'"), r#"!(a == "b")"#);
        assert_eq!(canonical("!(a == 'b' && has(c))"), r#"!(a == "b" && has(c))"#);
        assert_eq!(canonical("!!!all()"), "!all()");
    }

    #[test]
    fn the_quote_avoids_the_value() {
        assert_eq!(canonical("k == 'say \"x\"'"), "k == 'say \"x\"'");
        assert_eq!(canonical("k == \"it's\""), "k == \"it's\"");
    }

    #[test]
    fn what_the_grammar_cannot_write_cannot_be_mistaken_for_something_else() {
        let odd_key = Selector::from_expr(Expr::Has(r#"a) || has(b"#.into()));
        assert_eq!(odd_key.canonical(), "has(<a) || has(b>)");
        assert!(Selector::parse(odd_key.canonical()).is_err());
        assert_ne!(odd_key, Selector::parse("has(a) || has(b)").unwrap());
        let odd_value = Selector::from_expr(Expr::Eq("k".into(), r#"'x" || k == "y"#.into()));
        assert_eq!(odd_value.canonical(), r#"k == "'x"" || k == ""y""#);
        assert!(Selector::parse(odd_value.canonical()).is_err());
        let empty_key = Selector::from_expr(Expr::Has(String::new()));
        assert_eq!(empty_key.canonical(), "has(<>)");
    }
}
