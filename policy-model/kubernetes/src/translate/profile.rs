//! Namespaces and service accounts as profiles: labels that their pods inherit, and what is allowed where no policy
//! selects a pod.

use super::pod::{ANNOTATION_PREFIX, PodFacts};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use policy_model::{
    Action, Key, Kind, LABEL_NAME, Metadata, NAMESPACE_LABEL_PREFIX, NAMESPACE_PROFILE_PREFIX, Object,
    PolicyRule, ProfileSpec, Resource, SERVICE_ACCOUNT_LABEL_PREFIX, SERVICE_ACCOUNT_PROFILE_PREFIX,
};
use std::collections::{BTreeMap, BTreeSet};

/// Label that the API server puts on every namespace, whatever its manifest says.
const METADATA_NAME: &str = "kubernetes.io/metadata.name";

/// Name of the profile of a namespace.
pub fn namespace_profile_name(namespace: &str) -> String {
    format!("{NAMESPACE_PROFILE_PREFIX}{namespace}")
}

/// Name of the profile of a service account.
pub fn service_account_profile_name(namespace: &str, account: &str) -> String {
    super::bounded_name(format!("{SERVICE_ACCOUNT_PROFILE_PREFIX}{namespace}.{account}"))
}

pub(super) fn namespace(namespace: &Namespace) -> Object<ProfileSpec> {
    let name = namespace.metadata.name.as_deref().unwrap_or_default();
    let mut profile = namespace_profile(name, namespace.metadata.labels.iter().flatten());
    profile.metadata.uid = namespace.metadata.uid.clone().unwrap_or_default();
    // The pools that its pods shall have their addresses from, for example.
    let annotations = namespace.metadata.annotations.iter().flatten();
    profile.metadata.annotations = annotations
        .filter(|(key, _)| key.starts_with(ANNOTATION_PREFIX))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    profile
}

fn namespace_profile<'a>(
    name: &str,
    labels: impl Iterator<Item = (&'a String, &'a String)>,
) -> Object<ProfileSpec> {
    let mut labels_to_apply = prefixed(NAMESPACE_LABEL_PREFIX, labels);
    // Last, so that no manifest can take another namespace's name.
    for own in [METADATA_NAME, LABEL_NAME] {
        labels_to_apply.insert(format!("{NAMESPACE_LABEL_PREFIX}{own}"), name.to_string());
    }
    let allow = || {
        vec![PolicyRule {
            action: Action::Allow,
            ..PolicyRule::default()
        }]
    };
    let spec = ProfileSpec {
        ingress: allow(),
        egress: allow(),
        labels_to_apply,
    };
    Object {
        metadata: Metadata {
            name: namespace_profile_name(name),
            ..Metadata::default()
        },
        spec,
    }
}

pub(super) fn service_account(account: &ServiceAccount) -> Object<ProfileSpec> {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (namespace, name) = (text(&account.metadata.namespace), text(&account.metadata.name));
    let mut profile = service_account_profile(&namespace, &name, account.metadata.labels.iter().flatten());
    profile.metadata.uid = text(&account.metadata.uid);
    profile
}

fn service_account_profile<'a>(
    namespace: &str,
    name: &str,
    labels: impl Iterator<Item = (&'a String, &'a String)>,
) -> Object<ProfileSpec> {
    let mut labels_to_apply = prefixed(SERVICE_ACCOUNT_LABEL_PREFIX, labels);
    labels_to_apply.insert(
        format!("{SERVICE_ACCOUNT_LABEL_PREFIX}{LABEL_NAME}"),
        name.to_string(),
    );
    let metadata = Metadata {
        name: service_account_profile_name(namespace, name),
        ..Metadata::default()
    };
    Object {
        metadata,
        spec: ProfileSpec {
            labels_to_apply,
            ..ProfileSpec::default()
        },
    }
}

fn prefixed<'a>(
    prefix: &str,
    labels: impl Iterator<Item = (&'a String, &'a String)>,
) -> BTreeMap<String, String> {
    labels
        .map(|(key, value)| (format!("{prefix}{key}"), value.clone()))
        .collect()
}

/// The profile of a namespace of which nothing but the name is known.
pub(crate) fn implied_namespace(name: &str) -> Resource {
    namespace_profile(name, std::iter::empty()).into()
}

/// The profile of a service account of which nothing but the name is known.
pub(crate) fn implied_service_account(namespace: &str, name: &str) -> Resource {
    service_account_profile(namespace, name, std::iter::empty()).into()
}

/// The profiles that pods need and nothing defines, each with its name label only, in the order of their keys.
///
/// Manifests often hold no Namespace and hardly ever the ServiceAccount `default`, which a cluster would have. Pods
/// that are no endpoints need none.
pub fn implied_profiles<'a>(
    pods: impl IntoIterator<Item = &'a PodFacts>,
    is_defined: impl Fn(&Key) -> bool,
) -> Vec<Resource> {
    let mut needed = BTreeSet::new();
    for pod in pods.into_iter().filter(|pod| pod.is_endpoint()) {
        needed.insert((pod.namespace.as_str(), None));
        needed.insert((pod.namespace.as_str(), Some(pod.service_account.as_str())));
    }
    let missing = |name: String| !is_defined(&Key::global(Kind::Profile, name));
    let mut profiles: Vec<Resource> = needed
        .into_iter()
        .filter_map(|(namespace, account)| match account {
            None => missing(namespace_profile_name(namespace)).then(|| implied_namespace(namespace)),
            Some(account) => missing(service_account_profile_name(namespace, account))
                .then(|| implied_service_account(namespace, account)),
        })
        .collect();
    profiles.sort_by_key(Resource::key);
    profiles
}
