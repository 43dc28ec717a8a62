//! Selectors as policies write them, turned to the labels that endpoints really carry.
//!
//! Labels of namespaces and service accounts reach endpoints through profiles, under prefixes; a selector over
//! namespaces therefore becomes one over prefixed labels.

use policy_model::{
    FieldError, LABEL_NAMESPACE, LABEL_SERVICE_ACCOUNT, NAMESPACE_LABEL_PREFIX, SERVICE_ACCOUNT_LABEL_PREFIX,
};
use policy_model_selector::{Expr, Selector};
use std::fmt::Display;

fn parse(field: &dyn Display, text: &str) -> Result<Selector, FieldError> {
    Selector::parse(text)
        .map_err(|error| FieldError::new(field.to_string(), format!("invalid selector '{text}': {error}")))
}

/// A selector over endpoints' own labels.
pub(super) fn endpoints(field: &dyn Display, text: &str) -> Result<Selector, FieldError> {
    parse(field, text)
}

/// Everything in a namespace.
pub(super) fn of_namespace(namespace: &str) -> Selector {
    Selector::from_expr(Expr::Eq(LABEL_NAMESPACE.to_string(), namespace.to_string()))
}

/// A selector over namespaces' labels.
///
/// `all()` means all namespaces and `global()` what is in none: neither may come to mean every endpoint there is.
pub(super) fn namespaces(field: &dyn Display, text: &str) -> Result<Selector, FieldError> {
    let prefixed = parse(field, text)?.rewrite_keys(|key| format!("{NAMESPACE_LABEL_PREFIX}{key}"));
    let in_a_namespace = || Expr::Has(LABEL_NAMESPACE.to_string());
    Ok(prefixed.map_expr(|expr| match expr {
        Expr::All => in_a_namespace(),
        Expr::Global => in_a_namespace().negated(),
        other => other,
    }))
}

/// A selector over service accounts' labels.
pub(super) fn service_accounts(field: &dyn Display, text: &str) -> Result<Selector, FieldError> {
    if text.is_empty() {
        return Ok(Selector::all());
    }
    Ok(parse(field, text)?.rewrite_keys(|key| format!("{SERVICE_ACCOUNT_LABEL_PREFIX}{key}")))
}

/// What runs as one of these service accounts, in whatever namespace.
pub(super) fn of_service_accounts(names: &[String]) -> Selector {
    Selector::from_expr(Expr::In(LABEL_SERVICE_ACCOUNT.to_string(), names.to_vec()))
}
