//! The datastore that the settings name, opened with patience.
//!
//! An agent that starts while its datastore is away (a node that boots beside its control plane, an API server that
//! restarts) waits for it, live and not ready, and what an earlier life put into force stays in force meanwhile. What
//! no waiting mends ends it at once: a folder that cannot be used, another owner of our kinds of objects.

use crate::agent;
use crate::health::{Counts, HealthAggregator, HealthPages, Report};
use crate::http::{BindError, Limits, Purpose, bind};
use crate::settings::parse::DatastoreKind;
use crate::settings::{ClusterSettings, Layers, Resolution, Settings, SettingsError};
use policy_model::{Kind, Resource};
use policy_model_datastore::{Datastore, DatastoreError, Selection};
use policy_model_datastore_file::{FileStore, Settings as FileSettings};
use policy_model_datastore_kube::{ForeignOwner, KubeStore, Settings as KubeSettings};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Pause after a first failed try; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// No waiting will open the datastore.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder of the embedded datastore cannot be used.
    #[error(
        "the datastore folder {} cannot be used; make it usable and see that its file system has room, or set \
         DatastorePath (FELIX_DATASTOREPATH) to another", path.display()
    )]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: DatastoreError,
    },
    /// The datastore has no adapter.
    #[error("DatastoreType is {0}, which is not available")]
    NoAdapter(&'static str),
    /// Somebody else owns our kinds of objects in this cluster.
    #[error(transparent)]
    Foreign(ForeignOwner),
    /// The cluster's settings cannot be honoured.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The server that says what is waited for cannot listen.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A thread could not be made.
    #[error("starting {what}")]
    Thread {
        /// What was to be started.
        what: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// What a try came to that brought nothing.
enum Failure {
    /// Another try may help.
    Away(String),
    /// No other try will.
    Final(OpenError),
}

/// An open datastore, with the settings that it holds.
pub struct Opened {
    /// The datastore.
    pub store: Arc<dyn Datastore>,
    /// The same, where it is a Kubernetes API server.
    pub kubernetes: Option<KubeStore>,
    /// All settings.
    pub cluster: ClusterSettings,
    /// What to say of the settings that the datastore holds: name and value.
    pub changes: Vec<(&'static str, String)>,
    /// What to warn of.
    pub warnings: Vec<String>,
}

/// Opens the datastore and reads the settings in it; waits for as long as it is away.
///
/// # Errors
/// See [`OpenError`]: what no waiting mends.
pub async fn open(layers: Layers, local: Resolution) -> Result<Opened, OpenError> {
    let settings = local.settings.clone();
    let mut pause = FIRST_PAUSE;
    let mut waiting: Option<Waiting> = None;
    let (store, kubernetes, objects) = loop {
        match attempt(&settings).await {
            Ok(opened) => break opened,
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Away(why)) => {
                let room = match waiting.take() {
                    Some(room) => room,
                    None => Waiting::begin(&settings)?,
                };
                waiting.insert(room).say(&why);
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    };
    // Its port is the agent's from here on.
    drop(waiting);
    let mut cluster = ClusterSettings::new(layers, local);
    for object in &objects {
        if let Resource::FelixConfiguration(found) = object.as_ref() {
            cluster.upsert(&found.metadata.name, &found.spec);
        }
    }
    let (changes, warnings) = cluster.begin()?;
    Ok(Opened {
        store,
        kubernetes,
        cluster,
        changes: changes
            .into_iter()
            .map(|change| (change.name, change.after))
            .collect(),
        warnings,
    })
}

type Reached = (Arc<dyn Datastore>, Option<KubeStore>, Vec<Arc<Resource>>);

async fn attempt(settings: &Settings) -> Result<Reached, Failure> {
    let mut kubernetes = None;
    let (store, objects): (Arc<dyn Datastore>, _) = match settings.datastore_type {
        DatastoreKind::File => {
            let store = open_folder(&settings.datastore_path).await?;
            let objects = configurations(store.as_ref()).await?;
            (store, objects)
        }
        DatastoreKind::Kubernetes => {
            let store = kubernetes.insert(connect().await?).clone();
            // Together: a start waits for each round trip. Whoever else owns our kinds is said before what they hold.
            let (owned, objects) = tokio::join!(preflight(&store), configurations(&store));
            owned?;
            (Arc::new(store), objects?)
        }
        DatastoreKind::Etcd => return Err(Failure::Final(OpenError::NoAdapter("etcdv3"))),
    };
    Ok((store, kubernetes, objects))
}

async fn configurations(store: &dyn Datastore) -> Result<Vec<Arc<Resource>>, Failure> {
    let listing = store.list(Selection::kinds([Kind::FelixConfiguration])).await;
    let listing = listing.map_err(|error| Failure::Away(agent::chain(&error)))?;
    Ok(listing.items.into_iter().map(|item| item.resource).collect())
}

async fn open_folder(path: &std::path::Path) -> Result<Arc<dyn Datastore>, Failure> {
    let root = path.to_path_buf();
    // Opening reads every document, which blocks.
    let opened = tokio::task::spawn_blocking(move || FileStore::open(root, FileSettings::default())).await;
    match opened {
        Ok(Ok(store)) => Ok(Arc::new(store)),
        Ok(Err(source)) => Err(Failure::Final(OpenError::Folder {
            path: path.to_path_buf(),
            source,
        })),
        Err(error) => Err(Failure::Away(format!(
            "the thread that opens the folder ended: {error}"
        ))),
    }
}

async fn connect() -> Result<KubeStore, Failure> {
    let store = KubeStore::connect(KubeSettings::default()).await;
    store.map_err(|error| Failure::Away(agent::chain(&error)))
}

async fn preflight(store: &KubeStore) -> Result<(), Failure> {
    match store.preflight().await {
        Ok(()) => Ok(()),
        Err(error @ ForeignOwner::Unknown(_)) => Err(Failure::Away(agent::chain(&error))),
        Err(error) => Err(Failure::Final(OpenError::Foreign(error))),
    }
}

/// What answers for the agent until there is one.
struct Waiting {
    reporter: crate::health::Reporter,
    said: String,
    _server: Option<crate::http::ServerThread>,
}

impl Waiting {
    fn begin(settings: &Settings) -> Result<Self, OpenError> {
        let health = HealthAggregator::new(&settings.health_timeout_overrides);
        let reporter = health.register("datastore", Counts::Both, Duration::ZERO, Instant::now());
        let mut server = None;
        if settings.health_enabled {
            let listening = bind(Purpose::Health, &settings.health_host, settings.health_port)?;
            let pages = Arc::new(HealthPages::new(health));
            let started = listening.serve_on_thread("health", pages, Limits::default());
            server = Some(started.map_err(|source| OpenError::Thread {
                what: "the health server",
                source,
            })?);
        }
        Ok(Waiting {
            reporter,
            said: String::new(),
            _server: server,
        })
    }

    /// Says why, once for each reason.
    fn say(&mut self, why: &str) {
        self.reporter
            .report(Report::not_ready(format!("waiting for the datastore: {why}")));
        if self.said != why {
            tracing::warn!(
                error = why,
                "the datastore is away; what is in force stays in force until it comes"
            );
            self.said = why.to_owned();
        }
    }
}
