//! The way to the API server, found with patience, and the question whose cluster this is.
//!
//! A controller that starts beside its control plane, or before its rights are granted, waits for them and says for
//! what. Somebody else's definitions are no matter of waiting: it ends, with the words what to do.

use super::figures::Figures;
use super::reach::Reach;
use super::settings::Settings;
use super::vitals::{Pulse, Vitals};
use crate::chain;
use kube::config::InferConfigError;
use kube::{Client, Config};
use policy_model_datastore::{BackOff, Datastore, DatastoreError};
use policy_model_datastore_kube::{ForeignOwner, KubeStore, Settings as StoreSettings};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// How long one request of the datastore may take; a hanging server must not hold a lease's holder up for long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why the controller cannot work in this cluster.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// Nothing says where the API server is.
    #[error(
        "nothing says where the API server is: set KUBECONFIG, or run it in a pod with a service account"
    )]
    Nowhere(#[source] Box<InferConfigError>),
    /// What says so cannot be used.
    #[error("the way to the API server cannot be used: its certificates or keys are wrong")]
    Unusable(#[source] Box<kube::Error>),
    /// The datastore cannot be made of it.
    #[error(transparent)]
    Store(DatastoreError),
    /// Somebody else owns our kinds of objects.
    #[error(transparent)]
    Foreign(ForeignOwner),
    /// The API server is away, and nobody is to wait for it.
    #[error("the API server cannot be used, and WAIT_FOR_DATASTORE is false: {0}")]
    Away(String),
}

/// The way to the API server.
pub(super) struct Connected {
    /// The start's voice, for whoever goes on: somebody has to speak at every moment, or nothing seems to be wrong.
    pub(super) pulse: Pulse,
    pub(super) store: Arc<dyn Datastore>,
    pub(super) reach: Reach,
    /// Namespace of the client's configuration.
    pub(super) namespace: String,
}

/// Finds the API server and makes sure that the cluster is ours to work in; waits for it where the settings say so.
pub(super) async fn connect(
    settings: &Settings,
    vitals: &Vitals,
    figures: &Figures,
) -> Result<Connected, ConnectError> {
    let pulse = vitals.begin("start", Some("the API server has not answered yet"));
    let mut config = Config::infer()
        .await
        .map_err(|error| ConnectError::Nowhere(Box::new(error)))?;
    let namespace = config.default_namespace.clone();
    // Every try is ours to make: the client must not repeat a write behind our back.
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    let client = Client::try_from(config.clone()).map_err(|error| ConnectError::Unusable(Box::new(error)))?;
    let patient = StoreSettings {
        request_timeout: PATIENCE,
        ..StoreSettings::default()
    };
    let store = KubeStore::with_config(config, patient).map_err(ConnectError::Store)?;
    whose(&store, settings, &pulse, figures).await?;
    Ok(Connected {
        pulse,
        store: Arc::new(store),
        reach: Reach::new(client),
        namespace,
    })
}

/// Asks whose cluster this is until there is an answer.
async fn whose(
    store: &KubeStore,
    settings: &Settings,
    pulse: &Pulse,
    figures: &Figures,
) -> Result<(), ConnectError> {
    let back_off = BackOff::default();
    let mut failures = 0;
    let mut said = None;
    loop {
        pulse.moves("ask the API server whose cluster this is");
        let why = match store.preflight().await {
            Ok(()) => {
                if said.is_some() {
                    tracing::info!("the API server answers now");
                }
                return Ok(());
            }
            Err(ForeignOwner::Unknown(error)) => {
                format!("it cannot be told whose cluster this is: {}", chain(&error))
            }
            Err(error) => return Err(ConnectError::Foreign(error)),
        };
        if !settings.must_wait {
            return Err(ConnectError::Away(why));
        }
        if said.as_ref() != Some(&why) {
            tracing::warn!("{why}; it is tried again");
            said = Some(why.clone());
        }
        figures.failed("datastore");
        pulse.set_problem(Some(why));
        let pause = back_off.pause(failures, rand::random_range(0.0..=1.0));
        failures = failures.saturating_add(1);
        tokio::time::sleep(pause).await;
    }
}
