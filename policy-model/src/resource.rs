//! Any object of the model, and its way in and out of the serialised form.

use crate::{
    API_VERSION, BgpConfigurationSpec, BgpPeerSpec, BlockAffinitySpec, ClusterInformationSpec,
    FelixConfigurationSpec, GlobalNetworkPolicySpec, HostEndpointSpec, InvalidResource, IpPoolSpec,
    IpReservationSpec, IpamBlockSpec, IpamConfigSpec, IpamHandleSpec, Key, Kind, Metadata, NetworkPolicySpec,
    NetworkSetSpec, NodeSpec, Object, ProfileSpec, ServiceEndpointsSpec, TierSpec, WorkloadEndpointSpec,
    decode, validate,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

macro_rules! resources {
    ($($kind:ident($spec:ty)),* $(,)?) => {
        /// An object of any kind.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs)] // Each variant is the kind of its name; the specification types say what each is.
        pub enum Resource {
            $($kind(Object<$spec>),)*
        }

        impl Resource {
            /// Kind of the object.
            pub fn kind(&self) -> Kind {
                match self { $(Resource::$kind(_) => Kind::$kind,)* }
            }

            /// Metadata of the object.
            pub fn metadata(&self) -> &Metadata {
                match self { $(Resource::$kind(object) => &object.metadata,)* }
            }

            /// Metadata of the object, to change.
            pub fn metadata_mut(&mut self) -> &mut Metadata {
                match self { $(Resource::$kind(object) => &mut object.metadata,)* }
            }

            fn body(&self) -> Result<Value, serde_json::Error> {
                match self { $(Resource::$kind(object) => serde_json::to_value(object),)* }
            }

            fn read(kind: Kind, value: &mut Value, unknown: &mut Vec<String>) -> Result<Self, InvalidResource> {
                match kind { $(Kind::$kind => read_object::<$spec>(value, unknown).map(Resource::$kind),)* }
            }
        }

        $(
            impl From<Object<$spec>> for Resource {
                fn from(object: Object<$spec>) -> Self {
                    Resource::$kind(object)
                }
            }
        )*
    };
}

/// Network sets of a namespace and of the cluster share a specification, so this one conversion is written by hand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct GlobalSet(pub NetworkSetSpec);

resources! {
    Tier(TierSpec),
    NetworkPolicy(NetworkPolicySpec),
    GlobalNetworkPolicy(GlobalNetworkPolicySpec),
    Profile(ProfileSpec),
    WorkloadEndpoint(WorkloadEndpointSpec),
    HostEndpoint(HostEndpointSpec),
    NetworkSet(NetworkSetSpec),
    GlobalNetworkSet(GlobalSet),
    ServiceEndpoints(ServiceEndpointsSpec),
    IPPool(IpPoolSpec),
    IPReservation(IpReservationSpec),
    IPAMBlock(IpamBlockSpec),
    BlockAffinity(BlockAffinitySpec),
    IPAMHandle(IpamHandleSpec),
    IPAMConfig(IpamConfigSpec),
    Node(NodeSpec),
    FelixConfiguration(FelixConfigurationSpec),
    ClusterInformation(ClusterInformationSpec),
    BGPConfiguration(BgpConfigurationSpec),
    BGPPeer(BgpPeerSpec),
}

/// A resource and the paths of the fields that nobody knows.
#[derive(Clone, Debug, PartialEq)]
pub struct ParsedResource {
    /// The object, valid in itself.
    pub resource: Resource,
    /// Paths of unknown fields, such as `spec.ingres`. A manifest from a person with any of these is refused; an
    /// object that another version of Manx stored is not.
    pub unknown_fields: Vec<String>,
}

impl Resource {
    /// The name under which the datastore keeps the object.
    pub fn key(&self) -> Key {
        let metadata = self.metadata();
        Key {
            kind: self.kind(),
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone(),
        }
    }

    /// Reads an object from its serialised form and validates it.
    ///
    /// # Errors
    /// Every fault found, each with the path of its field: a wrong `apiVersion`, an unknown `kind`, a value of the
    /// wrong type (the first only: reading stops there), or values that contradict the specification of the kind.
    pub fn parse(value: Value) -> Result<ParsedResource, InvalidResource> {
        let text = |field: &str| value.get(field).and_then(Value::as_str);
        match text("apiVersion") {
            Some(API_VERSION) => {}
            Some(other) => {
                return Err(InvalidResource::one(
                    "apiVersion",
                    format!("'{other}' is not {API_VERSION}"),
                ));
            }
            None => {
                return Err(InvalidResource::one(
                    "apiVersion",
                    format!("is missing; write {API_VERSION}"),
                ));
            }
        }
        let kind: Kind = match text("kind") {
            Some(kind) => kind
                .parse()
                .map_err(|reason| InvalidResource::one("kind", reason))?,
            None => return Err(InvalidResource::one("kind", "is missing")),
        };
        let mut unknown_fields = Vec::new();
        let mut value = value;
        drop_null_fields(&mut value);
        if let Value::Object(map) = &mut value {
            map.remove("apiVersion");
            map.remove("kind");
            // Written by the system, not by people: never an unknown field, and never trusted.
            map.remove("status");
            if let Some(Value::Object(metadata)) = map.get_mut("metadata") {
                for field in [
                    "creationTimestamp",
                    "resourceVersion",
                    "generation",
                    "managedFields",
                    "selfLink",
                    "finalizers",
                    "ownerReferences",
                    "deletionTimestamp",
                    "deletionGracePeriodSeconds",
                    "generateName",
                ] {
                    metadata.remove(field);
                }
            }
        }
        let resource = Resource::read(kind, &mut value, &mut unknown_fields)?;
        resource.validate()?;
        Ok(ParsedResource {
            resource,
            unknown_fields,
        })
    }

    /// Checks what the types alone cannot say.
    ///
    /// # Errors
    /// Every fault found, each with the path of its field.
    pub fn validate(&self) -> Result<(), InvalidResource> {
        let faults = validate::resource(self);
        if faults.is_empty() {
            Ok(())
        } else {
            Err(InvalidResource { faults })
        }
    }

    /// The serialised form, with `apiVersion` and `kind` first.
    pub fn to_value(&self) -> Value {
        let mut value = json!({ "apiVersion": API_VERSION, "kind": self.kind().as_str() });
        // Serialising plain structs of strings and numbers into memory does not fail; an infinite order becomes null.
        if let (Value::Object(target), Ok(Value::Object(body))) = (&mut value, self.body()) {
            target.extend(body);
        }
        value
    }
}

fn read_object<S: DeserializeOwned>(
    value: &mut Value,
    unknown: &mut Vec<String>,
) -> Result<Object<S>, InvalidResource> {
    if let Value::Object(map) = value {
        // An object without a specification is one whose every field has its default.
        map.entry("spec").or_insert_with(|| json!({}));
    }
    decode(value, unknown).map_err(|fault| InvalidResource { faults: vec![fault] })
}

/// A field that is null is a field that is absent, as everywhere in Kubernetes. Nulls in lists keep their place: a
/// block's free addresses are such.
fn drop_null_fields(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, field| !field.is_null());
            map.values_mut().for_each(drop_null_fields);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_null_fields),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
