//! The expression tree of a selector, and the one shape in which equal expressions meet.
//!
//! Selectors are compared and shared by their text, so trees that differ only in nesting or in the order of a
//! set literal must become one tree before they are printed.

/// The label that holds the namespace of a namespaced resource; things without it are global.
pub const NAMESPACE_KEY: &str = "projectcalico.org/namespace";

/// What a selector says of the labels of one thing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expr {
    /// `all()`: everything.
    All,
    /// `global()`: everything outside of namespaces, that is, without the label [`NAMESPACE_KEY`].
    Global,
    /// `has(key)`: the label is present, with whatever value.
    Has(String),
    /// `key == 'value'`: the label is present and has this value.
    Eq(String, String),
    /// `key != 'value'`: the label is absent or has another value.
    NotEq(String, String),
    /// `key in { … }`: the label is present and its value is one of these.
    In(String, Vec<String>),
    /// `key not in { … }`: the label is absent or its value is none of these.
    NotIn(String, Vec<String>),
    /// `key contains 'text'`: the label is present and the text is part of its value.
    Contains(String, String),
    /// `key starts with 'text'`: the label is present and its value starts so.
    StartsWith(String, String),
    /// `key ends with 'text'`: the label is present and its value ends so.
    EndsWith(String, String),
    /// `!x`: what the inner expression does not select.
    Not(Box<Expr>),
    /// `x && y && …`: what all of them select; an empty list selects everything.
    And(Vec<Expr>),
    /// `x || y || …`: what at least one of them selects; an empty list selects nothing.
    Or(Vec<Expr>),
}

impl Expr {
    /// The negation of this expression.
    pub fn negated(self) -> Expr {
        Expr::Not(Box::new(self))
    }

    /// The same meaning in the one shape that [`Selector`](crate::Selector) keeps.
    ///
    /// Lists inside lists of the same kind are spliced, lists of one become their member, double negations
    /// vanish, set literals are sorted without repetitions. The order of operands stays: it is the author's.
    pub(crate) fn normalised(self) -> Expr {
        match self {
            Expr::In(key, values) => Expr::In(key, sorted_set(values)),
            Expr::NotIn(key, values) => Expr::NotIn(key, sorted_set(values)),
            Expr::Not(inner) => match inner.normalised() {
                Expr::Not(twice) => *twice,
                once => Expr::Not(Box::new(once)),
            },
            Expr::And(operands) => {
                let mut flat = Vec::with_capacity(operands.len());
                for operand in operands {
                    match operand.normalised() {
                        Expr::And(inner) => flat.extend(inner),
                        other => flat.push(other),
                    }
                }
                single(flat).unwrap_or_else(|flat| {
                    if flat.is_empty() {
                        Expr::All
                    } else {
                        Expr::And(flat)
                    }
                })
            }
            Expr::Or(operands) => {
                let mut flat = Vec::with_capacity(operands.len());
                for operand in operands {
                    match operand.normalised() {
                        Expr::Or(inner) => flat.extend(inner),
                        other => flat.push(other),
                    }
                }
                single(flat).unwrap_or_else(|flat| {
                    if flat.is_empty() {
                        Expr::Not(Box::new(Expr::All))
                    } else {
                        Expr::Or(flat)
                    }
                })
            }
            leaf @ (Expr::All
            | Expr::Global
            | Expr::Has(_)
            | Expr::Eq(..)
            | Expr::NotEq(..)
            | Expr::Contains(..)
            | Expr::StartsWith(..)
            | Expr::EndsWith(..)) => leaf,
        }
    }

    /// Rebuilds the tree from the leaves up, each node passed once through `change` after its operands were.
    pub(crate) fn mapped(self, change: &mut impl FnMut(Expr) -> Expr) -> Expr {
        let rebuilt = match self {
            Expr::Not(inner) => Expr::Not(Box::new(inner.mapped(change))),
            Expr::And(operands) => Expr::And(operands.into_iter().map(|e| e.mapped(change)).collect()),
            Expr::Or(operands) => Expr::Or(operands.into_iter().map(|e| e.mapped(change)).collect()),
            leaf => leaf,
        };
        change(rebuilt)
    }

    /// The label key that this node itself looks at; none for `all()` and for the operators.
    ///
    /// `global()` looks at [`NAMESPACE_KEY`].
    pub fn key(&self) -> Option<&str> {
        match self {
            Expr::Global => Some(NAMESPACE_KEY),
            Expr::Has(key)
            | Expr::Eq(key, _)
            | Expr::NotEq(key, _)
            | Expr::In(key, _)
            | Expr::NotIn(key, _)
            | Expr::Contains(key, _)
            | Expr::StartsWith(key, _)
            | Expr::EndsWith(key, _) => Some(key),
            Expr::All | Expr::Not(_) | Expr::And(_) | Expr::Or(_) => None,
        }
    }

    /// Calls `visit` with every node of the tree, parents before their operands.
    pub fn walk<'a>(&'a self, visit: &mut impl FnMut(&'a Expr)) {
        visit(self);
        match self {
            Expr::Not(inner) => inner.walk(visit),
            Expr::And(operands) | Expr::Or(operands) => {
                operands.iter().for_each(|operand| operand.walk(visit))
            }
            _ => {}
        }
    }
}

/// The only member of a list, or the list again if it has none or several.
fn single(mut list: Vec<Expr>) -> Result<Expr, Vec<Expr>> {
    match list.pop() {
        Some(only) if list.is_empty() => Ok(only),
        Some(last) => {
            list.push(last);
            Err(list)
        }
        None => Err(list),
    }
}

fn sorted_set(mut values: Vec<String>) -> Vec<String> {
    values.sort_unstable();
    values.dedup();
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(key: &str) -> Expr {
        Expr::Has(key.to_owned())
    }

    #[test]
    fn nesting_does_not_make_a_difference() {
        let left = Expr::And(vec![Expr::And(vec![has("a"), has("b")]), has("c")]);
        let right = Expr::And(vec![
            has("a"),
            Expr::And(vec![has("b"), Expr::Or(vec![has("c")])]),
        ]);
        assert_eq!(left.normalised(), Expr::And(vec![has("a"), has("b"), has("c")]));
        assert_eq!(right.normalised(), Expr::And(vec![has("a"), has("b"), has("c")]));
    }

    #[test]
    fn a_double_negation_of_a_list_is_spliced() {
        let inner = Expr::And(vec![has("b"), has("c")]).negated().negated();
        let tree = Expr::And(vec![has("a"), inner]);
        assert_eq!(tree.normalised(), Expr::And(vec![has("a"), has("b"), has("c")]));
    }

    #[test]
    fn empty_lists_have_their_neutral_meaning() {
        assert_eq!(Expr::And(vec![]).normalised(), Expr::All);
        assert_eq!(Expr::Or(vec![]).normalised(), Expr::All.negated());
        assert_eq!(Expr::Or(vec![]).negated().normalised(), Expr::All);
    }
}
