//! A parsed selector: cheap to clone, compared by its canonical text.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::{Arc, LazyLock, OnceLock};

use crate::canonical;
use crate::error::ParseError;
use crate::expr::Expr;
use crate::labels::{self, Labels};
use crate::memo;
use crate::parser;

/// Which labelled things are meant.
///
/// Cloning shares the expression. Two selectors are equal if their canonical texts are; equal selectors select
/// the same things, while different ones may happen to.
#[derive(Clone)]
pub struct Selector(Arc<Parsed>);

struct Parsed {
    /// Absent in a condensed selector until somebody asks for it.
    expr: OnceLock<Box<Expr>>,
    canonical: Box<str>,
}

impl Selector {
    /// Parses a selector; blank text is `all()`.
    ///
    /// # Errors
    /// The text does not follow the grammar (see the crate's documentation), a key is longer than
    /// [`MAX_KEY_LENGTH`](crate::MAX_KEY_LENGTH), or parentheses nest deeper than
    /// [`MAX_DEPTH`](crate::MAX_DEPTH).
    pub fn parse(text: &str) -> Result<Selector, ParseError> {
        memo::remembered(text, || parser::parse(text).map(Selector::from_expr))
    }

    /// The selector `all()`.
    pub fn all() -> Selector {
        static ALL: LazyLock<Selector> = LazyLock::new(|| Selector::from_expr(Expr::All));
        ALL.clone()
    }

    /// The selector with the meaning of `expr`, brought into canonical shape.
    ///
    /// Keys and values that the grammar cannot write are allowed (they select as they should), but then the
    /// canonical text cannot be parsed.
    pub fn from_expr(expr: Expr) -> Selector {
        let expr = expr.normalised();
        let canonical = canonical::print(&expr).into_boxed_str();
        Selector(Arc::new(Parsed {
            expr: Box::new(expr).into(),
            canonical,
        }))
    }

    /// The canonical text of the selector with the meaning of `expr`, where nothing but the text is needed.
    pub fn text_of(expr: Expr) -> String {
        canonical::print(&expr.normalised())
    }

    /// The same selector in less memory, for one that may never be evaluated: its expression is read from its text when
    /// somebody asks for it, and kept from then on. One whose text cannot be read again, or not simply, stays as it is.
    #[must_use]
    pub fn condensed(&self) -> Selector {
        match self.0.expr.get() {
            Some(expr) if canonical::is_simple(expr) => Selector(Arc::new(Parsed {
                expr: OnceLock::new(),
                canonical: self.0.canonical.clone(),
            })),
            _ => self.clone(),
        }
    }

    /// The one text of this selector, stable from release to release.
    pub fn canonical(&self) -> &str {
        &self.0.canonical
    }

    /// The expression, in canonical shape: no list directly inside a list of the same kind, none of fewer than
    /// two members, no double negation, set literals sorted without repetitions.
    pub fn expr(&self) -> &Expr {
        self.0.expr.get_or_init(|| {
            // Only what can be read is condensed. Were it not so, the selector would select nothing.
            let expr = parser::parse(&self.0.canonical).unwrap_or(Expr::Or(Vec::new()));
            Box::new(expr.normalised())
        })
    }

    /// Whether this is `all()`.
    pub fn is_all(&self) -> bool {
        match self.0.expr.get() {
            Some(expr) => **expr == Expr::All,
            None => &*self.0.canonical == canonical::ALL,
        }
    }

    /// Whether a thing with these labels is selected.
    pub fn evaluate(&self, labels: &(impl Labels + ?Sized)) -> bool {
        labels::evaluate(self.expr(), labels)
    }

    /// The label keys that decide the outcome, sorted; `global()` counts as
    /// [`NAMESPACE_KEY`](crate::NAMESPACE_KEY).
    pub fn keys(&self) -> BTreeSet<&str> {
        let mut keys = BTreeSet::new();
        self.expr().walk(&mut |node| keys.extend(node.key()));
        keys
    }

    /// What both select. `all()` adds nothing to the other.
    #[must_use]
    pub fn and(&self, other: &Selector) -> Selector {
        match (self.is_all(), other.is_all()) {
            (true, _) => other.clone(),
            (false, true) => self.clone(),
            (false, false) => memo::joined(self, other, || {
                Selector::from_expr(Expr::And(vec![self.expr().clone(), other.expr().clone()]))
            }),
        }
    }

    /// What this does not select.
    #[must_use]
    pub fn not(&self) -> Selector {
        Selector::from_expr(self.expr().clone().negated())
    }

    /// The same selector on other label keys; `all()` and `global()` name no key and stay.
    #[must_use]
    pub fn rewrite_keys(&self, mut rewrite: impl FnMut(&str) -> String) -> Selector {
        self.map_expr(|node| match node {
            Expr::Has(key) => Expr::Has(rewrite(&key)),
            Expr::Eq(key, value) => Expr::Eq(rewrite(&key), value),
            Expr::NotEq(key, value) => Expr::NotEq(rewrite(&key), value),
            Expr::In(key, values) => Expr::In(rewrite(&key), values),
            Expr::NotIn(key, values) => Expr::NotIn(rewrite(&key), values),
            Expr::Contains(key, value) => Expr::Contains(rewrite(&key), value),
            Expr::StartsWith(key, value) => Expr::StartsWith(rewrite(&key), value),
            Expr::EndsWith(key, value) => Expr::EndsWith(rewrite(&key), value),
            other @ (Expr::All | Expr::Global | Expr::Not(_) | Expr::And(_) | Expr::Or(_)) => other,
        })
    }

    /// The selector whose nodes went once through `change`, operands before the operators that hold them.
    ///
    /// What `change` returns is not visited again, so a leaf may become a tree that contains such a leaf.
    #[must_use]
    pub fn map_expr(&self, mut change: impl FnMut(Expr) -> Expr) -> Selector {
        Selector::from_expr(self.expr().clone().mapped(&mut change))
    }
}

impl Default for Selector {
    fn default() -> Self {
        Selector::all()
    }
}

impl FromStr for Selector {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Selector::parse(text)
    }
}

impl From<Expr> for Selector {
    fn from(expr: Expr) -> Self {
        Selector::from_expr(expr)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.canonical())
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Selector").field(&self.canonical()).finish()
    }
}

impl PartialEq for Selector {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.canonical() == other.canonical()
    }
}

impl Eq for Selector {}

impl Hash for Selector {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.canonical().hash(state);
    }
}

impl PartialOrd for Selector {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Selector {
    fn cmp(&self, other: &Self) -> Ordering {
        self.canonical().cmp(other.canonical())
    }
}
