//! Writes: custom resources only, each by one request that the API server takes or refuses as a whole.

use crate::failure::{Refusal, RequestError};
use crate::origin::{Origin, Place};
use crate::read;
use crate::store::KubeStore;
use http::Method;
use policy_model::{InvalidResource, Key, Kind, Resource};
use policy_model_datastore::{Datastore, DatastoreError, Version, Versioned};
use serde_json::{Value, json};

const JSON: &str = "application/json";
const JSON_PATCH: &str = "application/json-patch+json";

pub(crate) async fn create(store: &KubeStore, resource: Resource) -> Result<Versioned, DatastoreError> {
    let key = resource.key();
    let (origin, place) = target(store, &key, Some(&resource))?;
    let mut body = with_whole_numbers(resource.to_value());
    // The API server gives identities; one of our own would be refused.
    if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("uid");
    }
    let path = origin.path(namespace(&key));
    match store.api().write(Method::POST, &path, JSON, &body).await {
        Ok(made) if key.kind == Kind::IPAMBlock => {
            written(store, origin, &key, untracked(store, &place, made).await)
        }
        Ok(made) => written(store, origin, &key, made),
        Err(RequestError::Refused(refusal)) if refusal.code == 409 => {
            Err(DatastoreError::AlreadyExists { key })
        }
        // The namespace is absent, or the definition.
        Err(RequestError::Refused(refusal)) if refusal.code == 404 => Err(absent(origin, &key, refusal)),
        Err(error) => Err(error.writing(format!("create {key}"), &key)),
    }
}

pub(crate) async fn update(
    store: &KubeStore,
    resource: Resource,
    expected: &Version,
) -> Result<Versioned, DatastoreError> {
    let key = resource.key();
    let (origin, path) = target(store, &key, Some(&resource))?;
    let operation = || format!("update {key}");
    if is_revision(expected) {
        let patch = replacement(&resource, expected);
        match store.api().write(Method::PATCH, &path, JSON_PATCH, &patch).await {
            Ok(value) => return written(store, origin, &key, value),
            Err(RequestError::Refused(refusal)) if matches!(refusal.code, 404 | 409) => {}
            Err(error) => return Err(error.writing(operation(), &key)),
        }
    }
    Err(conflict(store, key).await)
}

/// The patch that makes an object of this version into a resource.
///
/// Only what is ours is replaced: owners, finalizers and the status belong to others. The version goes with it, so that
/// the API server compares and swaps.
fn replacement(resource: &Resource, expected: &Version) -> Value {
    let value = with_whole_numbers(resource.to_value());
    let mut steps =
        vec![json!({ "op": "replace", "path": "/metadata/resourceVersion", "value": expected.as_str() })];
    for path in ["/metadata/labels", "/metadata/annotations"] {
        let wanted = value.pointer(path).cloned();
        let is_absent = wanted.is_none();
        // What is absent must not be there, and an empty map would count as a change; only what is there can be taken
        // away.
        steps.push(json!({ "op": "add", "path": path, "value": wanted.unwrap_or_else(|| json!({})) }));
        if is_absent {
            steps.push(json!({ "op": "remove", "path": path }));
        }
    }
    let spec = value.get("spec").cloned().unwrap_or_else(|| json!({}));
    steps.push(json!({ "op": "add", "path": "/spec", "value": spec }));
    Value::Array(steps)
}

/// Has the API server forget who owns which field of an object, and not ask itself again at later writes.
///
/// Nobody wants to know it of a block, and to find it out is a fifth of what a write of a block costs the API server. Where
/// this fails the object is as good without it. A single empty entry removes the field, and of an object without it
/// nothing is tracked (Kubernetes' documentation of server-side apply, "Clearing managedFields").
async fn untracked(store: &KubeStore, path: &str, made: Value) -> Value {
    let version = made.pointer("/metadata/resourceVersion");
    let patch = json!([
        { "op": "replace", "path": "/metadata/resourceVersion", "value": version },
        { "op": "add", "path": "/metadata/managedFields", "value": [{}] },
    ]);
    match store.api().write(Method::PATCH, path, JSON_PATCH, &patch).await {
        Ok(value) => value,
        Err(error) => {
            tracing::debug!(%error, path, "the API server tracks who owns which field of this object");
            made
        }
    }
}

/// The same value with 1 in place of 1.0. The API server keeps a whole number as such; the same number written as a
/// fraction would be a change to it.
fn with_whole_numbers(mut value: Value) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match &mut value {
        Value::Object(fields) => fields
            .values_mut()
            .for_each(|field| *field = with_whole_numbers(field.take())),
        Value::Array(list) => list
            .iter_mut()
            .for_each(|item| *item = with_whole_numbers(item.take())),
        Value::Number(number) if number.is_f64() => {
            let whole = number.as_f64().filter(|n| n.fract() == 0.0 && n.abs() <= EXACT);
            // Exact by the check before.
            #[allow(clippy::cast_possible_truncation)]
            if let Some(whole) = whole {
                return json!(whole as i64);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    value
}

pub(crate) async fn delete(
    store: &KubeStore,
    key: &Key,
    expected: Option<&Version>,
) -> Result<(), DatastoreError> {
    if matches!(Place::of(key, store.translates()), Place::Nowhere) {
        return Err(DatastoreError::NotFound { key: key.clone() });
    }
    let (_, path) = target(store, key, None)?;
    if expected.is_none_or(is_revision) {
        let mut options = json!({ "apiVersion": "v1", "kind": "DeleteOptions" });
        if let Some(version) = expected {
            options["preconditions"] = json!({ "resourceVersion": version.as_str() });
        }
        match store.api().write(Method::DELETE, &path, JSON, &options).await {
            Ok(_) => return Ok(()),
            Err(RequestError::Refused(refusal)) if refusal.code == 404 => {
                return Err(DatastoreError::NotFound { key: key.clone() });
            }
            Err(RequestError::Refused(refusal)) if refusal.code == 409 => {}
            Err(error) => return Err(error.writing(format!("delete {key}"), key)),
        }
    }
    Err(conflict(store, key.clone()).await)
}

/// What to say of an object that does not have the expected version.
async fn conflict(store: &KubeStore, key: Key) -> DatastoreError {
    match store.get(&key).await {
        Ok(Some(current)) => DatastoreError::Conflict {
            key,
            current: Box::new(current),
        },
        Ok(None) => DatastoreError::NotFound { key },
        Err(error) => error,
    }
}

/// Where an object is written, if it can be written at all.
fn target(
    store: &KubeStore,
    key: &Key,
    resource: Option<&Resource>,
) -> Result<(Origin, String), DatastoreError> {
    let invalid = |error| DatastoreError::Invalid {
        place: key.to_string(),
        error,
    };
    if let Some(resource) = resource {
        resource.validate().map_err(invalid)?;
    }
    match Place::of(key, store.translates()) {
        Place::Named(origin @ Origin::Custom(_), namespace, name) => {
            Ok((origin, format!("{}/{name}", origin.path(namespace.as_deref()))))
        }
        Place::Named(origin, ..) | Place::Among(origin, _) => {
            let why = format!(
                "is made of a {} of Kubernetes and is not written by itself; change that object",
                origin.singular()
            );
            Err(invalid(InvalidResource::one("", why)))
        }
        Place::Nowhere => {
            let why = "Kubernetes has no object of this kind, namespace and name";
            Err(invalid(InvalidResource::one("metadata.name", why)))
        }
    }
}

fn written(store: &KubeStore, origin: Origin, key: &Key, value: Value) -> Result<Versioned, DatastoreError> {
    let reading = read::custom(origin.kind(), value);
    let reading = reading.map_err(|error| error.during(format!("read what was written as {key}")))?;
    store
        .held()
        .versioned(origin, reading)
        .ok_or_else(|| DatastoreError::NotFound { key: key.clone() })
}

fn absent(origin: Origin, key: &Key, refusal: Refusal) -> DatastoreError {
    let namespace_is_absent = refusal
        .details
        .as_ref()
        .is_some_and(|details| details.kind == "namespaces");
    let (field, why) = if namespace_is_absent {
        (
            "metadata.namespace",
            format!("there is no namespace '{}'", key.namespace),
        )
    } else {
        (
            "kind",
            format!(
                "{} is not defined in the cluster: install the definitions",
                origin.resource()
            ),
        )
    };
    DatastoreError::Invalid {
        place: key.to_string(),
        error: InvalidResource::one(field, why),
    }
}

/// Whether a version could be one of the API server's.
fn is_revision(version: &Version) -> bool {
    version.as_str().parse::<u64>().is_ok_and(|number| number > 0)
}

fn namespace(key: &Key) -> Option<&str> {
    (!key.namespace.is_empty()).then_some(key.namespace.as_str())
}
