//! A selector as the index evaluates it: on symbols, and with the conditions that it cannot do without.

use super::digest::LabelDigest;
use super::{Interner, Label, Symbol};
use crate::expr::{Expr, NAMESPACE_KEY};
use crate::selector::Selector;

/// The labels of an item as the index keeps them.
pub(super) trait SymbolLabels {
    /// The value of a key, own before inherited.
    fn value_of(&self, key: Symbol) -> Option<Symbol>;
}

/// Effective labels, sorted by key, each key once.
impl SymbolLabels for [Label] {
    fn value_of(&self, key: Symbol) -> Option<Symbol> {
        value_in(self, key)
    }
}

/// The value of `key` in labels that are sorted by key.
pub(super) fn value_in(labels: &[Label], key: Symbol) -> Option<Symbol> {
    // Things have a handful of labels, where looking at each is faster than halving.
    if labels.len() <= 16 {
        return labels
            .iter()
            .find(|(candidate, _)| *candidate == key)
            .map(|(_, value)| *value);
    }
    let place = labels
        .binary_search_by_key(&key, |(candidate, _)| *candidate)
        .ok()?;
    labels.get(place).map(|(_, value)| *value)
}

/// An expression on symbols; the negative comparisons are negations here.
enum Test {
    All,
    Has(Symbol),
    Eq(Symbol, Symbol),
    /// Sorted.
    In(Symbol, Box<[Symbol]>),
    Contains(Symbol, Box<str>),
    StartsWith(Symbol, Box<str>),
    EndsWith(Symbol, Box<str>),
    Not(Box<Test>),
    And(Box<[Test]>),
    Or(Box<[Test]>),
}

/// One way to meet a necessary condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Atom {
    /// Carry this label.
    Label(Label),
    /// Carry this key with whatever value.
    Key(Symbol),
}

impl Atom {
    pub(super) fn key(self) -> Symbol {
        match self {
            Atom::Label((key, _)) | Atom::Key(key) => key,
        }
    }
}

/// A compiled selector.
pub(super) struct Compiled {
    test: Test,
    /// The keys that decide the outcome, sorted.
    pub(super) keys: Box<[Symbol]>,
}

impl Compiled {
    pub(super) fn new(selector: &Selector, interner: &mut Interner) -> Self {
        let test = compile(selector.expr(), interner);
        let mut keys: Vec<Symbol> = selector
            .keys()
            .into_iter()
            .map(|key| interner.intern(key))
            .collect();
        keys.sort_unstable();
        Compiled {
            test,
            keys: keys.into_boxed_slice(),
        }
    }

    pub(super) fn evaluate(&self, labels: &(impl SymbolLabels + ?Sized), interner: &Interner) -> bool {
        evaluate(&self.test, labels, interner)
    }

    /// The necessary condition that the fewest items meet: without one of these atoms the selector is false.
    ///
    /// None if no such condition can be told. An empty list means that the selector is never true. `weigh` says
    /// how many items meet an atom, or any other measure of how often one does.
    pub(super) fn anchor(&self, weigh: &impl Fn(Atom) -> usize) -> Option<Vec<Atom>> {
        necessary(&self.test, false, weigh).map(|condition| {
            let mut atoms = condition.atoms;
            atoms.sort_unstable();
            atoms.dedup();
            atoms
        })
    }

    /// What effective labels must hold, all of it, for the selector to be true.
    pub(super) fn required(&self) -> LabelDigest {
        required(&self.test, false)
    }

    /// Whether meeting an atom of the anchor with an effective label is already a match.
    pub(super) fn is_its_anchor(&self) -> bool {
        matches!(self.test, Test::Has(_) | Test::Eq(..) | Test::In(..))
    }

    /// Calls `visit` with every symbol that this holds.
    pub(super) fn for_each_symbol(&self, visit: &mut impl FnMut(Symbol)) {
        self.keys.iter().for_each(|key| visit(*key));
        visit_values(&self.test, visit);
    }
}

fn visit_values(test: &Test, visit: &mut impl FnMut(Symbol)) {
    match test {
        Test::Eq(_, value) => visit(*value),
        Test::In(_, values) => values.iter().for_each(|value| visit(*value)),
        Test::Not(inner) => visit_values(inner, visit),
        Test::And(operands) | Test::Or(operands) => {
            operands.iter().for_each(|test| visit_values(test, visit))
        }
        // Keys are visited by the caller.
        Test::All | Test::Has(_) | Test::Contains(..) | Test::StartsWith(..) | Test::EndsWith(..) => {}
    }
}

fn compile(expr: &Expr, interner: &mut Interner) -> Test {
    match expr {
        Expr::All => Test::All,
        Expr::Global => not(Test::Has(interner.intern(NAMESPACE_KEY))),
        Expr::Has(key) => Test::Has(interner.intern(key)),
        Expr::Eq(key, value) => Test::Eq(interner.intern(key), interner.intern(value)),
        Expr::NotEq(key, value) => not(Test::Eq(interner.intern(key), interner.intern(value))),
        Expr::In(key, values) => membership(key, values, interner),
        Expr::NotIn(key, values) => not(membership(key, values, interner)),
        Expr::Contains(key, part) => Test::Contains(interner.intern(key), part.as_str().into()),
        Expr::StartsWith(key, part) => Test::StartsWith(interner.intern(key), part.as_str().into()),
        Expr::EndsWith(key, part) => Test::EndsWith(interner.intern(key), part.as_str().into()),
        Expr::Not(inner) => not(compile(inner, interner)),
        Expr::And(operands) => Test::And(
            operands
                .iter()
                .map(|operand| compile(operand, interner))
                .collect(),
        ),
        Expr::Or(operands) => Test::Or(
            operands
                .iter()
                .map(|operand| compile(operand, interner))
                .collect(),
        ),
    }
}

fn not(test: Test) -> Test {
    Test::Not(Box::new(test))
}

fn membership(key: &str, values: &[String], interner: &mut Interner) -> Test {
    let key = interner.intern(key);
    let mut values: Vec<Symbol> = values.iter().map(|value| interner.intern(value)).collect();
    values.sort_unstable();
    Test::In(key, values.into_boxed_slice())
}

fn evaluate(test: &Test, labels: &(impl SymbolLabels + ?Sized), interner: &Interner) -> bool {
    let text_of = |key: &Symbol| labels.value_of(*key).map(|value| interner.resolve(value));
    match test {
        Test::All => true,
        Test::Has(key) => labels.value_of(*key).is_some(),
        Test::Eq(key, value) => labels.value_of(*key) == Some(*value),
        Test::In(key, values) => labels
            .value_of(*key)
            .is_some_and(|value| values.binary_search(&value).is_ok()),
        Test::Contains(key, part) => text_of(key).is_some_and(|text| text.contains(&**part)),
        Test::StartsWith(key, part) => text_of(key).is_some_and(|text| text.starts_with(&**part)),
        Test::EndsWith(key, part) => text_of(key).is_some_and(|text| text.ends_with(&**part)),
        Test::Not(inner) => !evaluate(inner, labels, interner),
        Test::And(operands) => operands.iter().all(|operand| evaluate(operand, labels, interner)),
        Test::Or(operands) => operands.iter().any(|operand| evaluate(operand, labels, interner)),
    }
}

/// A necessary condition: at least one of the atoms is met.
struct Condition {
    atoms: Vec<Atom>,
    weight: usize,
}

impl Condition {
    fn of(atoms: Vec<Atom>, weigh: &impl Fn(Atom) -> usize) -> Self {
        let weight = atoms
            .iter()
            .map(|atom| weigh(*atom))
            .fold(0, usize::saturating_add);
        Condition { atoms, weight }
    }
}

/// The lightest necessary condition of `test`, or of its negation.
fn necessary(test: &Test, negated: bool, weigh: &impl Fn(Atom) -> usize) -> Option<Condition> {
    match (test, negated) {
        (Test::All, true) => Some(Condition {
            atoms: Vec::new(),
            weight: 0,
        }),
        (Test::All, false) => None,
        (Test::Eq(key, value), false) => Some(Condition::of(vec![Atom::Label((*key, *value))], weigh)),
        (Test::In(key, values), false) => Some(Condition::of(
            values.iter().map(|value| Atom::Label((*key, *value))).collect(),
            weigh,
        )),
        (
            Test::Has(key) | Test::Contains(key, _) | Test::StartsWith(key, _) | Test::EndsWith(key, _),
            false,
        ) => Some(Condition::of(vec![Atom::Key(*key)], weigh)),
        // A negated comparison is true where the label is missing.
        (
            Test::Eq(..)
            | Test::In(..)
            | Test::Has(_)
            | Test::Contains(..)
            | Test::StartsWith(..)
            | Test::EndsWith(..),
            true,
        ) => None,
        (Test::Not(inner), _) => necessary(inner, !negated, weigh),
        // Any one of the operands' conditions will do.
        (Test::And(operands), false) | (Test::Or(operands), true) => operands
            .iter()
            .filter_map(|operand| necessary(operand, negated, weigh))
            .min_by_key(|condition| condition.weight),
        // One of them must hold, so each needs a condition.
        (Test::Or(operands), false) | (Test::And(operands), true) => {
            let mut joined = Condition {
                atoms: Vec::new(),
                weight: 0,
            };
            for operand in operands {
                let condition = necessary(operand, negated, weigh)?;
                joined.atoms.extend(condition.atoms);
                joined.weight = joined.weight.saturating_add(condition.weight);
            }
            Some(joined)
        }
    }
}

/// The digest of what is necessary for `test`, or for its negation.
fn required(test: &Test, negated: bool) -> LabelDigest {
    match (test, negated) {
        (Test::All, false) => LabelDigest::NOTHING,
        (Test::All, true) => LabelDigest::EVERYTHING,
        (Test::Eq(key, value), false) => LabelDigest::of_label((*key, *value)),
        (Test::In(key, values), false) => values
            .iter()
            .map(|value| LabelDigest::of_label((*key, *value)))
            .fold(LabelDigest::EVERYTHING, LabelDigest::common),
        (
            Test::Has(key) | Test::Contains(key, _) | Test::StartsWith(key, _) | Test::EndsWith(key, _),
            false,
        ) => LabelDigest::of_key(*key),
        // A negated comparison is true where the label is missing.
        (
            Test::Eq(..)
            | Test::In(..)
            | Test::Has(_)
            | Test::Contains(..)
            | Test::StartsWith(..)
            | Test::EndsWith(..),
            true,
        ) => LabelDigest::NOTHING,
        (Test::Not(inner), _) => required(inner, !negated),
        (Test::And(operands), false) | (Test::Or(operands), true) => operands
            .iter()
            .map(|operand| required(operand, negated))
            .fold(LabelDigest::NOTHING, LabelDigest::with),
        (Test::Or(operands), false) | (Test::And(operands), true) => operands
            .iter()
            .map(|operand| required(operand, negated))
            .fold(LabelDigest::EVERYTHING, LabelDigest::common),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The anchor of `text` as words, where a label is met by one item and a key by ten.
    fn anchor(text: &str) -> Option<Vec<String>> {
        let mut interner = Interner::new();
        let compiled = Compiled::new(&Selector::parse(text).unwrap(), &mut interner);
        let atoms = compiled.anchor(&|atom| if matches!(atom, Atom::Key(_)) { 10 } else { 1 })?;
        let word = |symbol| interner.resolve(symbol).to_owned();
        let mut words: Vec<String> = atoms
            .into_iter()
            .map(|atom| match atom {
                Atom::Label((key, value)) => format!("{}={}", word(key), word(value)),
                Atom::Key(key) => word(key),
            })
            .collect();
        words.sort();
        Some(words)
    }

    fn words(words: &[&str]) -> Option<Vec<String>> {
        Some(words.iter().map(|word| (*word).to_owned()).collect())
    }

    #[test]
    fn the_anchor_is_the_lightest_condition_that_cannot_be_missing() {
        assert_eq!(anchor("has(a) && b == 'x'"), words(&["b=x"]));
        assert_eq!(anchor("a contains 'x' && b != 'x'"), words(&["a"]));
        assert_eq!(anchor("a in {'x', 'y'} && b == 'z'"), words(&["b=z"]));
        assert_eq!(anchor("a == 'x' || has(b)"), words(&["a=x", "b"]));
        assert_eq!(anchor("!(a != 'x' || !has(b))"), words(&["a=x"]));
        assert_eq!(
            anchor("!(a not in {'x', 'y'} && !has(b))"),
            words(&["a=x", "a=y", "b"])
        );
    }

    #[test]
    fn what_a_thing_without_labels_may_meet_has_no_anchor() {
        for text in [
            "all()",
            "global()",
            "a != 'x'",
            "!has(a)",
            "a == 'x' || !has(a)",
            "!(a starts with 'x')",
        ] {
            assert_eq!(anchor(text), None, "{text}");
        }
    }

    #[test]
    fn what_can_never_be_true_has_an_anchor_that_nobody_meets() {
        assert_eq!(anchor("a in {}"), words(&[]));
        assert_eq!(anchor("!all() || a in {}"), words(&[]));
        assert_eq!(anchor("has(b) && !all()"), words(&[]));
    }
}
