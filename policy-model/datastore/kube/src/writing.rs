//! Writes: custom resources only, each by one request that the API server takes or refuses as a whole.

use crate::failure::{Refusal, RequestError};
use crate::origin::{Origin, Place};
use crate::read;
use crate::store::KubeStore;
use http::Method;
use policy_model::{InvalidResource, Key, Resource};
use policy_model_datastore::{Datastore, DatastoreError, Version, Versioned};
use serde_json::{Value, json};

const JSON: &str = "application/json";
const JSON_PATCH: &str = "application/json-patch+json";

pub(crate) async fn create(store: &KubeStore, resource: Resource) -> Result<Versioned, DatastoreError> {
    let key = resource.key();
    let (origin, _) = target(store, &key, Some(&resource))?;
    let mut body = resource.to_value();
    // The API server gives identities; one of our own would be refused.
    if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("uid");
    }
    let path = origin.path(namespace(&key));
    match store.api().write(Method::POST, &path, JSON, &body).await {
        Ok(value) => written(store, origin, &key, value),
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
        let value = resource.to_value();
        let field = |path: &str| value.pointer(path).cloned().unwrap_or_else(|| json!({}));
        // Only what is ours is replaced: owners, finalizers and the status belong to others. The version goes with it,
        // so that the API server compares and swaps.
        let patch = json!([
            { "op": "replace", "path": "/metadata/resourceVersion", "value": expected.as_str() },
            { "op": "add", "path": "/metadata/labels", "value": field("/metadata/labels") },
            { "op": "add", "path": "/metadata/annotations", "value": field("/metadata/annotations") },
            { "op": "add", "path": "/spec", "value": field("/spec") },
        ]);
        match store.api().write(Method::PATCH, &path, JSON_PATCH, &patch).await {
            Ok(value) => return written(store, origin, &key, value),
            Err(RequestError::Refused(refusal)) if matches!(refusal.code, 404 | 409) => {}
            Err(error) => return Err(error.writing(operation(), &key)),
        }
    }
    Err(conflict(store, key).await)
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
