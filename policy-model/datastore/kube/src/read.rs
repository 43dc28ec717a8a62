//! From what the API server sends to objects of ours: lists, events of watches, single objects, in either form.

use crate::body::Format;
use crate::failure::{Refusal, RequestError};
use crate::origin::Origin;
use crate::protobuf;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use policy_model::{
    API_VERSION, InvalidResource, IpamBlockSpec, KUBERNETES_POLICY_PREFIX, Key, Kind, Metadata, Object,
    Resource,
};
use policy_model_kubernetes::{Manifest, pod_facts, translate_taking, workload_endpoint_name};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Annotation of the bookmark that ends the list of a streaming list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// One object of the API server, as it concerns us.
#[derive(Debug)]
pub(crate) struct Reading {
    /// The name that the API server knows it by.
    pub(crate) place: String,
    /// The revision at which it became this.
    pub(crate) revision: u64,
    /// What it is to us.
    pub(crate) outcome: Outcome,
}

/// What an object is to us.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// An object; with what had to be left out of it, where something had.
    Object(Box<Resource>, Option<InvalidResource>),
    /// Nothing, and if it ever was something, then under this key.
    Nothing(Option<Key>),
    /// Something that cannot be understood.
    Invalid(Option<Key>, InvalidResource),
}

impl Outcome {
    /// The key that the object has, or had.
    pub(crate) fn key(&self) -> Option<Key> {
        match self {
            Outcome::Object(resource, _) => Some(resource.key()),
            Outcome::Nothing(key) | Outcome::Invalid(key, _) => key.clone(),
        }
    }
}

/// An event of a watch.
#[derive(Debug)]
pub(crate) enum Event {
    /// An object is new, or changed.
    Seen { reading: Reading, is_new: bool },
    /// An object went; this is its last form.
    Gone(Reading),
    /// Nothing happened up to this revision; and here ends the list of a streaming list, if it says so.
    Bookmark { revision: u64, ends_list: bool },
    /// The watch ends.
    Refused(Refusal),
}

/// All objects of a resource, not read yet, and the revision to watch from.
pub(crate) struct List<'a> {
    origin: Origin,
    items: Items<'a>,
    pub(crate) revision: u64,
}

enum Items<'a> {
    Json(Vec<&'a RawValue>),
    Binary(Vec<&'a [u8]>),
}

impl List<'_> {
    /// Reads one object after the other, so that nobody has to hold them all.
    pub(crate) fn readings(&self) -> impl Iterator<Item = Result<Reading, RequestError>> {
        let origin = self.origin;
        let (json, binary) = match &self.items {
            Items::Json(items) => (items.as_slice(), Default::default()),
            Items::Binary(items) => (Default::default(), items.as_slice()),
        };
        json.iter()
            .map(move |item| json_object(origin, item.get().as_bytes()))
            .chain(binary.iter().map(move |item| binary_object(origin, item)))
    }
}

/// A list in an answer.
pub(crate) fn list(origin: Origin, format: Format, bytes: &[u8]) -> Result<List<'_>, RequestError> {
    let (items, text) = match format {
        Format::Json => {
            #[derive(Deserialize)]
            struct List<'a> {
                metadata: Meta,
                #[serde(borrow, default)]
                items: Option<Vec<&'a RawValue>>,
            }
            let list: List<'_> = serde_json::from_slice(bytes).map_err(unreadable)?;
            (
                Items::Json(list.items.unwrap_or_default()),
                Cow::Owned(list.metadata.resource_version),
            )
        }
        Format::Binary => {
            let list = protobuf::list(bytes).map_err(unreadable)?;
            (Items::Binary(list.items), Cow::Borrowed(list.revision))
        }
    };
    Ok(List {
        origin,
        items,
        revision: revision(&text)?,
    })
}

/// An event of a watch.
pub(crate) fn event(origin: Origin, format: Format, message: &[u8]) -> Result<Event, RequestError> {
    match format {
        Format::Json => {
            #[derive(Deserialize)]
            struct Envelope<'a> {
                #[serde(rename = "type", borrow)]
                kind: Cow<'a, str>,
                #[serde(borrow)]
                object: &'a RawValue,
            }
            let envelope: Envelope<'_> = serde_json::from_slice(message).map_err(unreadable)?;
            let object = envelope.object.get().as_bytes();
            match envelope.kind.as_ref() {
                "BOOKMARK" => {
                    #[derive(Deserialize)]
                    struct Mark {
                        metadata: Meta,
                    }
                    let mark: Mark = serde_json::from_slice(object).map_err(unreadable)?;
                    bookmark(
                        &mark.metadata.resource_version,
                        mark.metadata.annotations.as_ref(),
                    )
                }
                "ERROR" => Ok(Event::Refused(
                    serde_json::from_slice(object).map_err(unreadable)?,
                )),
                kind => changed(kind, || json_object(origin, object)),
            }
        }
        Format::Binary => {
            let event = protobuf::event(message).map_err(unreadable)?;
            match event.kind {
                "BOOKMARK" => {
                    // Every object has its metadata in the same place.
                    let mark = protobuf::namespace(event.object).map_err(unreadable)?.metadata;
                    bookmark(
                        mark.resource_version.as_deref().unwrap_or_default(),
                        mark.annotations.as_ref(),
                    )
                }
                "ERROR" => Ok(Event::Refused(
                    protobuf::refusal(event.object).map_err(unreadable)?,
                )),
                kind => changed(kind, || binary_object(origin, event.object)),
            }
        }
    }
}

/// One object, as an answer to a request for it.
pub(crate) fn object(origin: Origin, format: Format, bytes: &[u8]) -> Result<Reading, RequestError> {
    match format {
        Format::Json => json_object(origin, bytes),
        Format::Binary => binary_object(origin, protobuf::object(bytes).map_err(unreadable)?),
    }
}

/// A custom resource.
pub(crate) fn custom(kind: Kind, mut value: Value) -> Result<Reading, RequestError> {
    let text = |path: &str| {
        value
            .pointer(path)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
    let revision = revision(&text("/metadata/resourceVersion"))?;
    let key = Key {
        kind,
        namespace,
        name,
    };
    let place = place(&key.namespace, &key.name);
    // The definition of the resource says what its objects are; what they say of themselves is the same or nothing.
    value["apiVersion"] = API_VERSION.into();
    value["kind"] = kind.as_str().into();
    let outcome = match Resource::parse(value) {
        Ok(parsed) if kind == Kind::NetworkPolicy && key.name.starts_with(KUBERNETES_POLICY_PREFIX) => {
            let why = format!(
                "names that begin with '{KUBERNETES_POLICY_PREFIX}' are kept for Kubernetes' own policies"
            );
            drop(parsed);
            // Under this key stands what Kubernetes' policy became; this object must not speak for it.
            Outcome::Invalid(None, InvalidResource::one("metadata.name", why))
        }
        Ok(parsed) => {
            let mut resource = parsed.resource;
            // An identity that the API server gave would make what is read differ from what was written.
            resource.metadata_mut().uid.clear();
            Outcome::Object(Box::new(resource), None)
        }
        Err(error) => Outcome::Invalid(Some(key), error),
    };
    Ok(Reading {
        place,
        revision,
        outcome,
    })
}

/// A block as blocks usually are, read at once into its own form: each is large, and a cluster has hundreds. None where
/// anything is unusual; [`custom`] then finds out what.
fn usual_block(bytes: &[u8]) -> Option<Reading> {
    #[derive(Deserialize)]
    struct Block<'a> {
        #[serde(borrow)]
        metadata: &'a RawValue,
        spec: IpamBlockSpec,
    }
    let Block { metadata, spec } = serde_json::from_slice(bytes).ok()?;
    let known: Meta = serde_json::from_str(metadata.get()).ok()?;
    let mut metadata: Metadata = serde_json::from_str(metadata.get()).ok()?;
    metadata.uid.clear();
    let place = place(&metadata.namespace, &metadata.name);
    let resource = Resource::from(Object { metadata, spec });
    resource.validate().ok()?;
    Some(Reading {
        place,
        revision: revision(&known.resource_version).ok()?,
        outcome: Outcome::Object(Box::new(resource), None),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(default)]
    resource_version: String,
    annotations: Option<BTreeMap<String, String>>,
}

fn unreadable(error: impl std::fmt::Display) -> RequestError {
    RequestError::Unreadable(error.to_string())
}

fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

fn revision(text: &str) -> Result<u64, RequestError> {
    text.parse()
        .map_err(|_| unreadable(format!("'{text}' is no resourceVersion")))
}

fn place(namespace: &str, name: &str) -> String {
    if namespace.is_empty() {
        name.to_owned()
    } else {
        format!("{namespace}/{name}")
    }
}

fn bookmark(text: &str, annotations: Option<&BTreeMap<String, String>>) -> Result<Event, RequestError> {
    Ok(Event::Bookmark {
        revision: revision(text)?,
        ends_list: annotations
            .and_then(|all| all.get(INITIAL_EVENTS_END))
            .is_some_and(|value| value == "true"),
    })
}

fn changed(kind: &str, read: impl FnOnce() -> Result<Reading, RequestError>) -> Result<Event, RequestError> {
    match kind {
        "ADDED" | "MODIFIED" => Ok(Event::Seen {
            reading: read()?,
            is_new: kind == "ADDED",
        }),
        "DELETED" => Ok(Event::Gone(read()?)),
        other => Err(unreadable(format!("an event of type '{other}'"))),
    }
}

fn json_object(origin: Origin, bytes: &[u8]) -> Result<Reading, RequestError> {
    fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<Box<T>, RequestError> {
        serde_json::from_slice(bytes).map(Box::new).map_err(unreadable)
    }
    let manifest = match origin {
        Origin::Custom(kind) => {
            let usual = (kind == Kind::IPAMBlock).then(|| usual_block(bytes)).flatten();
            return match usual {
                Some(reading) => Ok(reading),
                None => custom(kind, serde_json::from_slice(bytes).map_err(unreadable)?),
            };
        }
        Origin::Namespaces => Manifest::Namespace(parse::<Namespace>(bytes)?),
        Origin::ServiceAccounts => Manifest::ServiceAccount(parse::<ServiceAccount>(bytes)?),
        Origin::Pods => Manifest::Pod(parse::<Pod>(bytes)?),
        Origin::Nodes => Manifest::Node(parse::<Node>(bytes)?),
        Origin::EndpointSlices => Manifest::EndpointSlice(parse::<EndpointSlice>(bytes)?),
        Origin::Policies => Manifest::NetworkPolicy(parse::<NetworkPolicy>(bytes)?),
    };
    translated(manifest)
}

fn binary_object(origin: Origin, bytes: &[u8]) -> Result<Reading, RequestError> {
    let manifest = match origin {
        Origin::Custom(_) => return Err(unreadable("a custom resource in binary form")),
        Origin::Namespaces => protobuf::namespace(bytes).map(|o| Manifest::Namespace(Box::new(o))),
        Origin::ServiceAccounts => {
            protobuf::service_account(bytes).map(|o| Manifest::ServiceAccount(Box::new(o)))
        }
        Origin::Pods => protobuf::pod(bytes).map(Manifest::Pod),
        Origin::Nodes => protobuf::node(bytes).map(|o| Manifest::Node(Box::new(o))),
        Origin::EndpointSlices => {
            protobuf::endpoint_slice(bytes).map(|o| Manifest::EndpointSlice(Box::new(o)))
        }
        Origin::Policies => protobuf::network_policy(bytes).map(|o| Manifest::NetworkPolicy(Box::new(o))),
    };
    translated(manifest.map_err(unreadable)?)
}

fn translated(mut manifest: Manifest) -> Result<Reading, RequestError> {
    let metadata =
        metadata(&manifest).ok_or_else(|| unreadable("an object of a kind that was not asked for"))?;
    let place = place(text(&metadata.namespace), text(&metadata.name));
    let revision = revision(text(&metadata.resource_version))?;
    let translation = translate_taking(&mut manifest);
    let fault = (!translation.faults.is_empty()).then_some(InvalidResource {
        faults: translation.faults,
    });
    let outcome = match (translation.resources.into_iter().next(), fault) {
        (Some(resource), fault) => Outcome::Object(Box::new(resource), fault),
        (None, Some(error)) if !matches!(manifest, Manifest::Pod(_)) => Outcome::Invalid(None, error),
        // A pod without a network of its own is nothing, whatever its annotations say.
        (None, _) => Outcome::Nothing(former_key(&manifest)),
    };
    Ok(Reading {
        place,
        revision,
        outcome,
    })
}

fn metadata(manifest: &Manifest) -> Option<&ObjectMeta> {
    match manifest {
        Manifest::Namespace(o) => Some(&o.metadata),
        Manifest::ServiceAccount(o) => Some(&o.metadata),
        Manifest::Pod(o) => Some(&o.metadata),
        Manifest::Node(o) => Some(&o.metadata),
        Manifest::Service(o) => Some(&o.metadata),
        Manifest::EndpointSlice(o) => Some(&o.metadata),
        Manifest::NetworkPolicy(o) => Some(&o.metadata),
        Manifest::Resource(_) | Manifest::Ignored { .. } => None,
    }
}

/// The key under which something that is nothing now may have been something: a pod that has finished, a slice that
/// was taken from its Service.
fn former_key(manifest: &Manifest) -> Option<Key> {
    match manifest {
        Manifest::Pod(pod) => {
            let facts = pod_facts(pod);
            let name = workload_endpoint_name(facts.node.as_deref()?, &facts.name);
            Some(Key::namespaced(Kind::WorkloadEndpoint, facts.namespace, name))
        }
        Manifest::EndpointSlice(slice) => Some(Key::namespaced(
            Kind::ServiceEndpoints,
            slice.metadata.namespace.clone()?,
            slice.metadata.name.clone()?,
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn block() -> Value {
        let holder =
            json!({ "handle_id": "n.c", "secondary": { "namespace": "shop", "pod": "web", "node": "n1" } });
        json!({
            "apiVersion": API_VERSION, "kind": "IPAMBlock",
            "metadata": {
                "name": "10-0-0-0-30", "uid": "u", "resourceVersion": "7", "generation": 2,
                "labels": { "a": "b" }, "annotations": { "c": "d" },
                "managedFields": [{ "manager": "felix", "fieldsV1": { "f:spec": {} } }],
            },
            "spec": {
                "cidr": "10.0.0.0/30", "affinity": "host:n1", "strictAffinity": false,
                "allocations": [null, 0, null, null], "unallocated": [0, 2, 3], "attributes": [holder],
                "sequenceNumber": 5, "sequenceNumberForAllocation": { "1": 4 },
            },
        })
    }

    #[test]
    fn a_usual_block_is_what_the_careful_way_makes_of_it() {
        let value = block();
        let usual = usual_block(value.to_string().as_bytes()).unwrap();
        let careful = custom(Kind::IPAMBlock, value).unwrap();
        assert_eq!((usual.place, usual.revision), (careful.place, careful.revision));
        match (usual.outcome, careful.outcome) {
            (Outcome::Object(usual, None), Outcome::Object(careful, None)) => assert_eq!(usual, careful),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_unusual_in_a_block_goes_the_careful_way() {
        for (path, value) in [
            ("/metadata/labels", json!(null)),
            ("/metadata/resourceVersion", json!("new")),
            ("/spec/affinity", json!(7)),
            ("/spec/attributes", json!(null)),
            ("/spec/attributes/0/secondary/pod", json!(null)),
            ("/spec/cidr", json!("10.0.0.0/99")),
            ("/spec/allocations", json!([9])),
        ] {
            let mut block = block();
            *block.pointer_mut(path).unwrap() = value;
            assert!(usual_block(block.to_string().as_bytes()).is_none(), "{path}");
        }
    }
}
