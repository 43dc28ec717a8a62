//! Looks whether somebody else owns our group in this cluster, before anything of theirs is read as ours.

use crate::failure::RequestError;
use crate::origin::GROUP;
use crate::schema::{CUSTOM_KINDS, OWNER_LABEL};
use crate::store::KubeStore;
use policy_model_datastore::DatastoreError;
use serde_json::Value;

/// Metadata alone: a definition's schema is large and says nothing of its owner.
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// Somebody else owns the group `projectcalico.org`.
#[derive(Debug, thiserror::Error)]
pub enum ForeignOwner {
    /// An API server of its own answers for the group.
    #[error(
        "another API server answers for {GROUP}/v3: the APIService v3.{GROUP} points at the Service {service}. \
         That is Calico's; Manx keeps the same resources as custom resources, and the two cannot share a cluster. \
         Remove Calico first (with its API server: kubectl delete apiservice v3.{GROUP}), or leave this cluster to it"
    )]
    ApiServer {
        /// Namespace and name of the Service behind it.
        service: String,
    },
    /// A definition in the group was not made by us.
    #[error(
        "the definition {name} belongs to somebody else: it has no label {}={}. If its network is gone for good and its \
         objects are to be taken over, say so: kubectl label customresourcedefinition {name} {0}={1}; else remove that \
         network first, or leave this cluster to it", OWNER_LABEL.0, OWNER_LABEL.1
    )]
    Definition {
        /// Name of the definition.
        name: String,
    },
    /// It cannot be told.
    #[error("cannot tell who owns {GROUP} in this cluster: {0}")]
    Unknown(DatastoreError),
}

impl KubeStore {
    /// Looks for another owner of our group; to be called once, before the first listing.
    ///
    /// # Errors
    /// See [`ForeignOwner`]; each says what to do.
    pub async fn preflight(&self) -> Result<(), ForeignOwner> {
        let path = format!("/apis/apiregistration.k8s.io/v1/apiservices/v3.{GROUP}");
        if let Some(registered) = self.look(&path, None).await? {
            // The API server registers its own custom resources too, without a Service behind them.
            let text = |path: &str| registered.pointer(path).and_then(Value::as_str);
            if let Some(name) = text("/spec/service/name") {
                let namespace = text("/spec/service/namespace").unwrap_or_default();
                return Err(ForeignOwner::ApiServer {
                    service: format!("{namespace}/{name}"),
                });
            }
        }
        for kind in CUSTOM_KINDS {
            let name = format!("{}.{GROUP}", kind.plural());
            let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
            let Some(definition) = self.look(&path, Some(METADATA)).await? else {
                continue;
            };
            let labels = definition.pointer("/metadata/labels").and_then(Value::as_object);
            let owner = labels
                .and_then(|labels| labels.get(OWNER_LABEL.0))
                .and_then(Value::as_str);
            if owner != Some(OWNER_LABEL.1) {
                return Err(ForeignOwner::Definition { name });
            }
        }
        Ok(())
    }

    async fn look(&self, path: &str, accept: Option<&str>) -> Result<Option<Value>, ForeignOwner> {
        match self.api().read_json(path, accept).await {
            Ok(value) => Ok(Some(value)),
            Err(RequestError::Refused(refusal)) if refusal.code == 404 => Ok(None),
            Err(error) => Err(ForeignOwner::Unknown(error.during(format!("get {path}")))),
        }
    }
}
