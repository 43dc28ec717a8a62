//! From a value to a manifest: the kind's type, the fields that nobody knows, then the checks.

use super::identity::{Family, subject};
use super::{InvalidManifest, Manifest, ManifestId, check, check_pod, check_policy};
use crate::names;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use policy_model::{API_VERSION, FieldError, Kind, Resource, decode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// See [`Manifest::parse`].
pub(super) fn manifest(mut value: Value) -> Result<Manifest, InvalidManifest> {
    let mut refusal = Refusal {
        id: None,
        subject: subject(&value),
        faults: Vec::new(),
    };
    if !value.is_object() {
        refusal.subject = "document".to_string();
        return Err(refusal.with("", "is no object: it needs apiVersion, kind and metadata"));
    }
    let text = |field: &str| value.get(field).and_then(Value::as_str).map(str::to_owned);
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    for (field, found) in [("apiVersion", &api_version), ("kind", &kind)] {
        if found.as_ref().is_none_or(String::is_empty) {
            refusal.push(
                field,
                if value.get(field).is_some() {
                    "is no text"
                } else {
                    "is missing"
                },
            );
        }
    }
    let (Some(api_version), Some(kind)) = (api_version, kind) else {
        return Err(refusal.refuse());
    };
    if !refusal.faults.is_empty() {
        return Err(refusal.refuse());
    }
    let (family, group) =
        Family::of(&api_version, &kind).map_err(|(field, why)| refusal.clone().with(field, &why))?;
    if matches!(family, Family::Ignored) {
        let name = value
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        return Ok(Manifest::Ignored {
            api_version,
            kind,
            name,
        });
    }
    prepare(&mut value, &family, &kind);
    refusal.id = identity(&value, &family, &group, &kind).map(Box::new);
    refusal.subject = subject(&value);
    match family {
        Family::Namespace => typed(&value, refusal, Manifest::Namespace, |o, out| {
            check::metadata(&o.metadata, names::dns_label, false, out);
        }),
        Family::ServiceAccount => typed(&value, refusal, Manifest::ServiceAccount, |o, out| {
            check::metadata(&o.metadata, names::dns_subdomain, true, out);
        }),
        Family::Pod => typed(&value, refusal, Manifest::Pod, check_pod::pod),
        Family::Node => typed(&value, refusal, Manifest::Node, check::node),
        Family::Service => typed(&value, refusal, Manifest::Service, check::service),
        Family::EndpointSlice => typed(&value, refusal, Manifest::EndpointSlice, check::endpoint_slice),
        Family::NetworkPolicy => policy(value, refusal),
        Family::Ours => ours(value, refusal, &kind),
        Family::Ignored => Err(refusal.with("kind", "is not read")),
    }
}

/// A refusal in the making.
#[derive(Clone)]
struct Refusal {
    id: Option<Box<ManifestId>>,
    subject: String,
    faults: Vec<FieldError>,
}

impl Refusal {
    fn push(&mut self, field: &str, reason: &str) {
        self.faults.push(FieldError::new(field, reason));
    }

    fn with(mut self, field: &str, reason: &str) -> InvalidManifest {
        self.push(field, reason);
        self.refuse()
    }

    fn refuse(self) -> InvalidManifest {
        InvalidManifest {
            id: self.id,
            subject: self.subject,
            faults: self.faults,
            remainder: None,
        }
    }

    fn unknown(&mut self, fields: Vec<String>) {
        // What the system wrote is not the author's to mend, and grows with every version of it.
        let fields = fields
            .into_iter()
            .filter(|f| !f.starts_with("status.") && !f.starts_with("metadata.managedFields"));
        self.faults
            .extend(fields.map(|field| FieldError::new(field, "is an unknown field")));
    }
}

/// Writes the default namespace, and drops what only the system reads.
fn prepare(value: &mut Value, family: &Family, kind: &str) {
    let Value::Object(fields) = value else { return };
    if !matches!(family, Family::Pod | Family::Node | Family::Service) {
        fields.remove("status");
    }
    if let Value::Object(metadata) = fields.entry("metadata").or_insert_with(|| json!({})) {
        metadata.remove("managedFields");
        if family.is_namespaced(kind) && matches!(metadata.get("namespace"), None | Some(Value::Null)) {
            metadata.insert("namespace".into(), "default".into());
        } else if metadata.get("namespace").and_then(Value::as_str) == Some("") {
            // An empty text is what an absent field is written as by some tools.
            metadata.remove("namespace");
            if family.is_namespaced(kind) {
                metadata.insert("namespace".into(), "default".into());
            }
        }
    }
    if let Some(spec) = fields.get_mut("spec") {
        quantities_to_text(spec);
    }
    if let Some(status) = fields.get_mut("status") {
        quantities_to_text(status);
    }
}

/// Amounts may be written as numbers (`cpu: 1`), but the types read only texts.
fn quantities_to_text(value: &mut Value) {
    const MAPS: [&str; 5] = ["limits", "requests", "capacity", "allocatable", "overhead"];
    const SINGLE: [&str; 3] = ["sizeLimit", "divisor", "storage"];
    let to_text = |v: &mut Value| {
        if let Value::Number(n) = v {
            *v = Value::String(n.to_string());
        }
    };
    match value {
        Value::Object(fields) => {
            for (name, field) in fields.iter_mut() {
                if SINGLE.contains(&name.as_str()) {
                    to_text(field);
                } else if MAPS.contains(&name.as_str())
                    && let Value::Object(amounts) = field
                {
                    amounts.values_mut().for_each(to_text);
                }
                quantities_to_text(field);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(quantities_to_text),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The identity, where kind, namespace and name are such that an object could have them.
fn identity(value: &Value, family: &Family, group: &str, kind: &str) -> Option<ManifestId> {
    let text = |path: &str| value.pointer(path).and_then(Value::as_str);
    let name = text("/metadata/name").filter(|n| names::dns_subdomain(n).is_ok())?;
    let namespace = match (family.is_namespaced(kind), text("/metadata/namespace")) {
        (true, Some(namespace)) if names::dns_label(namespace).is_ok() => namespace,
        (false, None) => "",
        _ => return None,
    };
    let known = !matches!(family, Family::Ours) || kind.parse::<Kind>().is_ok();
    known.then(|| ManifestId::new(group, kind, namespace, name))
}

fn typed<T: DeserializeOwned>(
    value: &Value,
    mut refusal: Refusal,
    wrap: impl FnOnce(Box<T>) -> Manifest,
    check: impl FnOnce(&T, &mut Vec<FieldError>),
) -> Result<Manifest, InvalidManifest> {
    let mut unknown = Vec::new();
    let object = decode::<T>(value, &mut unknown);
    refusal.unknown(unknown);
    match object {
        Ok(object) => {
            check(&object, &mut refusal.faults);
            if refusal.faults.is_empty() {
                Ok(wrap(Box::new(object)))
            } else {
                Err(refusal.refuse())
            }
        }
        Err(fault) => {
            refusal.faults.push(fault);
            Err(refusal.refuse())
        }
    }
}

/// A rule of a policy: its direction and position.
type RulePlace = (&'static str, usize);

/// The rule that a path of a field leads into.
fn rule_of(field: &str) -> Option<RulePlace> {
    ["ingress", "egress"].into_iter().find_map(|direction| {
        let rest = field
            .strip_prefix("spec.")?
            .strip_prefix(direction)?
            .strip_prefix('[')?;
        rest.split_once(']')?.0.parse().ok().map(|n| (direction, n))
    })
}

/// Reads a policy, rule by rule where needed: a rule that cannot be read hides neither faults nor rules behind it.
fn policy(mut value: Value, mut refusal: Refusal) -> Result<Manifest, InvalidManifest> {
    let mut unreadable: BTreeSet<RulePlace> = BTreeSet::new();
    let mut unknown_fields: Vec<String> = Vec::new();
    let mut unreadable_faults = Vec::new();
    let mut policy = loop {
        let mut unknown = Vec::new();
        let result = decode::<NetworkPolicy>(&value, &mut unknown);
        for field in unknown {
            if !unknown_fields.contains(&field) {
                unknown_fields.push(field);
            }
        }
        let fault = match result {
            Ok(policy) => break policy,
            Err(fault) => fault,
        };
        let place = rule_of(&fault.field);
        unreadable_faults.push(fault);
        let slot = place
            .filter(|place| unreadable.insert(*place))
            .and_then(|(direction, n)| value.get_mut("spec")?.get_mut(direction)?.get_mut(n));
        match slot {
            // Only so that the others can be read: the rule itself is taken out below.
            Some(slot) => *slot = json!({}),
            None => {
                refusal.unknown(unknown_fields);
                refusal.faults.append(&mut unreadable_faults);
                return Err(refusal.refuse());
            }
        }
    };
    refusal.unknown(unknown_fields);
    refusal.faults.append(&mut unreadable_faults);
    check_policy::policy(&policy, &mut refusal.faults);
    if refusal.faults.is_empty() {
        return Ok(Manifest::NetworkPolicy(Box::new(policy)));
    }
    let subject_is_sound = refusal
        .faults
        .iter()
        .all(|f| rule_of(&f.field).is_some() || is_beside_the_subject(&f.field));
    let mut refused = refusal.refuse();
    if subject_is_sound {
        let broken: BTreeSet<RulePlace> = refused.faults.iter().filter_map(|f| rule_of(&f.field)).collect();
        take_out_rules(&mut policy, &broken);
        refused.remainder = Some(Box::new(Manifest::NetworkPolicy(Box::new(policy))));
    }
    Err(refused)
}

/// Whether a fault there leaves no doubt about whom the policy selects and in which directions.
fn is_beside_the_subject(field: &str) -> bool {
    let decides = [
        "metadata.name",
        "metadata.namespace",
        "spec.podSelector",
        "spec.policyTypes",
    ];
    let within = |outer: &&str| {
        field
            .strip_prefix(*outer)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    field.contains('.') && !decides.iter().any(within)
}

fn take_out_rules(policy: &mut NetworkPolicy, broken: &BTreeSet<RulePlace>) {
    let Some(spec) = &mut policy.spec else { return };
    // The directions that are in force by default hang on whether egress rules are written, not on how many remain.
    if spec.policy_types.as_ref().is_none_or(Vec::is_empty) {
        let egress = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
        let types = if egress {
            vec!["Ingress", "Egress"]
        } else {
            vec!["Ingress"]
        };
        spec.policy_types = Some(types.into_iter().map(str::to_owned).collect());
    }
    let keep = |direction: &'static str| {
        let mut n = 0;
        move || {
            n += 1;
            !broken.contains(&(direction, n - 1))
        }
    };
    let (mut keep_ingress, mut keep_egress) = (keep("ingress"), keep("egress"));
    if let Some(rules) = &mut spec.ingress {
        rules.retain(|_| keep_ingress());
    }
    if let Some(rules) = &mut spec.egress {
        rules.retain(|_| keep_egress());
    }
}

/// Kinds that the system keeps for itself.
const KEPT_BY_THE_SYSTEM: [Kind; 5] = [
    Kind::ServiceEndpoints,
    Kind::IPAMBlock,
    Kind::BlockAffinity,
    Kind::IPAMHandle,
    Kind::ClusterInformation,
];

fn ours(mut value: Value, mut refusal: Refusal, kind: &str) -> Result<Manifest, InvalidManifest> {
    if let Ok(kind) = kind.parse::<Kind>()
        && KEPT_BY_THE_SYSTEM.contains(&kind)
    {
        return Err(refusal.with(
            "kind",
            &format!("{kind} objects are written by the system, not by manifests"),
        ));
    }
    if let Value::Object(fields) = &mut value {
        fields.insert("apiVersion".into(), API_VERSION.into());
    }
    match Resource::parse(value) {
        Ok(parsed) => {
            refusal.unknown(parsed.unknown_fields);
            let metadata = parsed.resource.metadata();
            check::labels(&"metadata.labels", &metadata.labels, &mut refusal.faults);
            reserved_name(&parsed.resource, &mut refusal.faults);
            if refusal.faults.is_empty() {
                Ok(Manifest::Resource(Box::new(parsed.resource)))
            } else {
                Err(refusal.refuse())
            }
        }
        Err(invalid) => {
            refusal.faults.extend(invalid.faults);
            Err(refusal.refuse())
        }
    }
}

/// Names that translated objects have would let a manifest stand in for another's object.
fn reserved_name(resource: &Resource, out: &mut Vec<FieldError>) {
    let name = &resource.metadata().name;
    let prefixes: &[&str] = match resource.kind() {
        Kind::NetworkPolicy | Kind::GlobalNetworkPolicy => &[policy_model::KUBERNETES_POLICY_PREFIX],
        Kind::Profile => &[
            policy_model::NAMESPACE_PROFILE_PREFIX,
            policy_model::SERVICE_ACCOUNT_PROFILE_PREFIX,
        ],
        _ => &[],
    };
    if let Some(prefix) = prefixes.iter().find(|prefix| name.starts_with(**prefix)) {
        let why =
            format!("'{name}' begins with '{prefix}', which is kept for what Kubernetes' objects become");
        out.push(FieldError::new("metadata.name", why));
    }
}
