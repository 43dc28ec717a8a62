//! The CustomResourceDefinitions of our kinds, generated: names, scope, columns and a structural schema.
//!
//! The API server refuses what a schema refuses, at the moment when a person is looking; whatever it lets through is
//! still checked when it is read. The schema must know every field of the types, because the API server silently
//! drops fields that it does not know: `tests/schema.rs` holds the two together.

mod fields;
mod kinds;
mod policy;

use crate::origin::GROUP;
use policy_model::Kind;
use serde_json::{Value, json};

/// Label that our definitions carry. A definition without it belongs to somebody else.
pub const OWNER_LABEL: (&str, &str) = ("app.kubernetes.io/part-of", "manx");

/// The kinds that are kept as custom resources, in the order of a listing. The others are made of Kubernetes' own
/// objects.
pub const CUSTOM_KINDS: [Kind; 16] = [
    Kind::Tier,
    Kind::NetworkPolicy,
    Kind::GlobalNetworkPolicy,
    Kind::HostEndpoint,
    Kind::NetworkSet,
    Kind::GlobalNetworkSet,
    Kind::IPPool,
    Kind::IPReservation,
    Kind::IPAMBlock,
    Kind::BlockAffinity,
    Kind::IPAMHandle,
    Kind::IPAMConfig,
    Kind::FelixConfiguration,
    Kind::ClusterInformation,
    Kind::BGPConfiguration,
    Kind::BGPPeer,
];

/// What a definition says of a kind beside its schema.
struct Presentation {
    short_names: &'static [&'static str],
    /// Title, type and path of each column.
    columns: &'static [(&'static str, &'static str, &'static str)],
    /// Whether people write objects of it and want to hear what became of them.
    has_status: bool,
}

/// The CustomResourceDefinition of a kind, as the API server takes it.
pub fn definition(kind: Kind) -> Value {
    let presentation = kinds::presentation(kind);
    let plural = kind.plural();
    let mut columns: Vec<Value> = presentation
        .columns
        .iter()
        .map(|(name, of, path)| json!({ "name": name, "type": of, "jsonPath": path }))
        .collect();
    columns.push(json!({ "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" }));
    let mut properties = json!({
        "apiVersion": { "type": "string" },
        "kind": { "type": "string" },
        "metadata": { "type": "object" },
        "spec": kinds::spec(kind),
    });
    let mut version = json!({
        "name": "v3",
        "served": true,
        "storage": true,
        "additionalPrinterColumns": columns,
    });
    if presentation.has_status {
        properties["status"] = fields::status();
        version["subresources"] = json!({ "status": {} });
    }
    version["schema"] = json!({ "openAPIV3Schema": {
        "description": kinds::description(kind),
        "type": "object",
        "properties": properties,
    }});
    let mut names = json!({
        "kind": kind.as_str(),
        "listKind": format!("{kind}List"),
        "plural": plural,
        "singular": kind.as_str().to_ascii_lowercase(),
        "categories": ["calico"],
    });
    if !presentation.short_names.is_empty() {
        names["shortNames"] = json!(presentation.short_names);
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.{GROUP}"),
            "labels": { (OWNER_LABEL.0): OWNER_LABEL.1 },
            // A release that goes must not take every policy, pool and address block with it.
            "annotations": { "helm.sh/resource-policy": "keep" },
        },
        "spec": {
            "group": GROUP,
            "names": names,
            "scope": if kind.is_namespaced() { "Namespaced" } else { "Cluster" },
            "versions": [version],
        },
    })
}

/// The name of the chart's file for a kind.
pub fn template_name(kind: Kind) -> String {
    format!("{}.yaml", kind.plural())
}

/// The chart's file around a definition's YAML. Definitions are templates and not in Helm's own folder for them,
/// because what is there is neither upgraded nor watched over.
pub fn template(definition: &str) -> String {
    format!(
        "# Made by `cargo run -p policy-model-datastore-kube --example definitions`: change the types, not this.\n\
             {{{{- if .Values.crds.install }}}}\n{definition}{{{{- end }}}}\n"
    )
}
