//! Kubernetes' label selectors in the selector language.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use policy_model::LABEL_ORCHESTRATOR;
use policy_model_selector::{Expr, Selector};

/// Pods that a selector means: endpoints of Kubernetes, whatever else the datastore holds.
pub(super) fn pods(selector: Option<&LabelSelector>) -> String {
    let mut operands = vec![Expr::Eq(LABEL_ORCHESTRATOR.to_string(), "k8s".to_string())];
    operands.extend(selector.into_iter().flat_map(requirements));
    text(operands)
}

/// Namespaces that a selector means; none where it is absent (the policy's own namespace), all where it is empty.
pub(super) fn namespaces(selector: Option<&LabelSelector>) -> String {
    selector.map_or_else(String::new, |selector| text(requirements(selector)))
}

fn text(operands: Vec<Expr>) -> String {
    Selector::text_of(Expr::And(operands))
}

fn requirements(selector: &LabelSelector) -> Vec<Expr> {
    let LabelSelector {
        match_expressions,
        match_labels,
    } = selector;
    let labels = match_labels
        .iter()
        .flatten()
        .map(|(key, value)| Expr::Eq(key.clone(), value.clone()));
    let expressions = match_expressions.iter().flatten().map(|requirement| {
        let key = requirement.key.clone();
        let values = requirement.values.clone().unwrap_or_default();
        match requirement.operator.as_str() {
            "In" => Expr::In(key, values),
            // True without the label, here as there.
            "NotIn" => Expr::NotIn(key, values),
            "Exists" => Expr::Has(key),
            "DoesNotExist" => Expr::Has(key).negated(),
            // Checked before; an operator that nobody knows must match nothing.
            _ => Expr::Or(Vec::new()),
        }
    });
    labels.chain(expressions).collect()
}
