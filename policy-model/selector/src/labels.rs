//! Evaluates an expression on the labels of one thing, wherever these are kept.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hash};
use std::marker::PhantomData;

use crate::expr::{Expr, NAMESPACE_KEY};

/// The labels of one thing.
pub trait Labels {
    /// The value of the label `key`; none if the thing does not carry it.
    fn get(&self, key: &str) -> Option<&str>;
}

impl<K: Borrow<str> + Ord, V: AsRef<str>> Labels for BTreeMap<K, V> {
    fn get(&self, key: &str) -> Option<&str> {
        BTreeMap::get(self, key).map(AsRef::as_ref)
    }
}

impl<K: Borrow<str> + Eq + Hash, V: AsRef<str>, S: BuildHasher> Labels for HashMap<K, V, S> {
    fn get(&self, key: &str) -> Option<&str> {
        HashMap::get(self, key).map(AsRef::as_ref)
    }
}

/// Pairs in any order; the first of a key counts.
impl<K: AsRef<str>, V: AsRef<str>> Labels for [(K, V)] {
    fn get(&self, key: &str) -> Option<&str> {
        self.iter()
            .find(|(candidate, _)| candidate.as_ref() == key)
            .map(|(_, value)| value.as_ref())
    }
}

/// Pairs in any order; the first of a key counts.
impl<K: AsRef<str>, V: AsRef<str>, const N: usize> Labels for [(K, V); N] {
    fn get(&self, key: &str) -> Option<&str> {
        Labels::get(self.as_slice(), key)
    }
}

impl<L: Labels + ?Sized> Labels for &L {
    fn get(&self, key: &str) -> Option<&str> {
        (**self).get(key)
    }
}

/// Labels that a function looks up.
pub struct LabelFn<'a, F> {
    look_up: F,
    values: PhantomData<&'a str>,
}

impl<'a, F: Fn(&str) -> Option<&'a str>> LabelFn<'a, F> {
    /// Labels of which `look_up` knows the values.
    pub fn new(look_up: F) -> Self {
        LabelFn {
            look_up,
            values: PhantomData,
        }
    }
}

impl<'a, F: Fn(&str) -> Option<&'a str>> Labels for LabelFn<'a, F> {
    fn get(&self, key: &str) -> Option<&str> {
        (self.look_up)(key)
    }
}

/// Own labels before inherited ones: of the layers that have a key, the first gives its value.
pub struct Layered<'a>(pub &'a [&'a dyn Labels]);

impl Labels for Layered<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find_map(|layer| layer.get(key))
    }
}

/// Whether `expr` selects a thing with these labels.
pub(crate) fn evaluate(expr: &Expr, labels: &(impl Labels + ?Sized)) -> bool {
    match expr {
        Expr::All => true,
        Expr::Global => labels.get(NAMESPACE_KEY).is_none(),
        Expr::Has(key) => labels.get(key).is_some(),
        Expr::Eq(key, value) => labels.get(key) == Some(value),
        Expr::NotEq(key, value) => labels.get(key) != Some(value),
        Expr::In(key, values) => is_among(labels.get(key), values),
        Expr::NotIn(key, values) => !is_among(labels.get(key), values),
        Expr::Contains(key, part) => labels.get(key).is_some_and(|value| value.contains(part.as_str())),
        Expr::StartsWith(key, part) => labels
            .get(key)
            .is_some_and(|value| value.starts_with(part.as_str())),
        Expr::EndsWith(key, part) => labels
            .get(key)
            .is_some_and(|value| value.ends_with(part.as_str())),
        Expr::Not(inner) => !evaluate(inner, labels),
        Expr::And(operands) => operands.iter().all(|operand| evaluate(operand, labels)),
        Expr::Or(operands) => operands.iter().any(|operand| evaluate(operand, labels)),
    }
}

/// `values` is sorted: expressions are evaluated in their normalised shape only.
fn is_among(value: Option<&str>, values: &[String]) -> bool {
    value.is_some_and(|value| {
        values
            .binary_search_by(|candidate| candidate.as_str().cmp(value))
            .is_ok()
    })
}
