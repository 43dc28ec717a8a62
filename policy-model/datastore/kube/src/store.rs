//! The store as others see it: the port, on an API server.

use crate::api::Api;
use crate::failure::{RequestError, expired};
use crate::gathering::{Listeners, Teller, WAITING_PARTS, earliest, position};
use crate::held::Held;
use crate::listing;
use crate::origin::{Origin, Place};
use crate::position::Position;
use crate::settings::Settings;
use crate::{delivery, read, writing};
use kube::{Client, Config};
use policy_model::{Key, Resource};
use policy_model_datastore::{
    BoxFuture, Datastore, DatastoreError, Fault, Listing, Parts, Revision, Selection, Version, Versioned,
    Watch,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// A Kubernetes API server as a datastore. Clones share what little is held in memory.
///
/// A version is an object's `resourceVersion`; so is a revision. A listing of several resources is one moment for each
/// of them, and its revision is the earliest.
#[derive(Clone)]
pub struct KubeStore {
    api: Api,
    held: Arc<Held>,
}

impl std::fmt::Debug for KubeStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubeStore")
            .field("settings", self.api.settings())
            .finish_non_exhaustive()
    }
}

impl KubeStore {
    /// A store on the API server that the environment names: `KUBECONFIG`, `~/.kube/config`, or the service account of
    /// the pod that this runs in. Nothing is asked of the server yet.
    ///
    /// # Errors
    /// [`DatastoreError::Unavailable`] where nothing names a server, or what names it cannot be read.
    pub async fn connect(settings: Settings) -> Result<Self, DatastoreError> {
        let operation = "find the API server";
        let config = Config::infer()
            .await
            .map_err(|error| DatastoreError::unavailable(operation, error))?;
        KubeStore::with_config(config, settings)
    }

    /// A store on the API server of a configuration.
    ///
    /// # Errors
    /// [`DatastoreError::Unavailable`] where its keys or certificates cannot be used.
    pub fn with_config(mut config: Config, settings: Settings) -> Result<Self, DatastoreError> {
        // Every try is ours to make: the client must neither repeat a write nor hide that the server is busy.
        config.default_retry = false;
        config.connect_timeout = Some(Duration::from_secs(5).min(settings.request_timeout));
        // A connection on which nothing comes for longer than any watch is silent is dead.
        config.read_timeout = Some(settings.silence.max(settings.request_timeout).saturating_mul(2));
        let client = Client::try_from(config)
            .map_err(|error| DatastoreError::unavailable("prepare the way to the API server", error))?;
        Ok(KubeStore::with_client(client, settings))
    }

    /// A store on the API server of a client.
    pub fn with_client(client: Client, settings: Settings) -> Self {
        KubeStore {
            api: Api::new(client, settings),
            held: Arc::default(),
        }
    }

    pub(crate) fn api(&self) -> &Api {
        &self.api
    }

    pub(crate) fn held(&self) -> &Held {
        &self.held
    }

    pub(crate) fn translates(&self) -> bool {
        self.api.settings().translate
    }

    async fn read_one(&self, key: &Key) -> Result<Option<Versioned>, DatastoreError> {
        let failed = |error: RequestError| error.during(format!("get {key}"));
        let versioned = match Place::of(key, self.translates()) {
            Place::Nowhere => return Ok(None),
            Place::Named(origin, namespace, name) => {
                let path = format!("{}/{name}", origin.path(namespace.as_deref()));
                let answer = match self.api.read(&path).await {
                    Err(RequestError::Refused(refusal)) if refusal.code == 404 => return Ok(None),
                    answer => answer.map_err(failed)?,
                };
                let reading = read::object(origin, answer.format, &answer.bytes).map_err(failed)?;
                self.held.versioned(origin, reading)
            }
            // Names that had to be shortened lead nowhere; rare enough to look at all of them.
            Place::Among(origin, namespace) => {
                let mut items: Vec<Versioned> = Vec::new();
                let listed =
                    listing::list(&self.api, &self.held, origin, namespace.as_deref(), &mut items).await;
                listed.map_err(failed)?;
                items.into_iter().find(|item| item.key() == *key)
            }
        };
        // What is there may be another's: a pod of this name on another node.
        Ok(versioned.filter(|found| found.key() == *key))
    }

    async fn read_all(&self, selection: Selection) -> Result<Listing, DatastoreError> {
        let origins = Origin::of_selection(&selection, self.translates());
        let mut reads = JoinSet::new();
        for origin in origins {
            let (api, held) = (self.api.clone(), Arc::clone(&self.held));
            let namespace = selection.namespace().map(str::to_owned);
            reads.spawn(async move {
                let mut items: Vec<Versioned> = Vec::new();
                let listed = listing::list(&api, &held, origin, namespace.as_deref(), &mut items).await;
                (items, (origin, listed))
            });
        }
        let (mut items, mut positions) = (Vec::new(), Vec::new());
        while let Some(read) = reads.join_next().await {
            let (found, read) = read.map_or_else(
                |error| (Vec::new(), Err(error)),
                |(found, read)| (found, Ok(read)),
            );
            positions.push(position(read)?);
            items.extend(found);
        }
        items.sort_by_cached_key(Versioned::key);
        let revision = earliest(&self.held, &positions);
        self.held.park(selection, revision, positions);
        Ok(Listing { items, revision })
    }

    /// Reads each resource in a task of its own, and tells what is decoded while the rest is on its way.
    fn tell_all(&self, selection: Selection) -> Parts {
        let (mouth, ear) = mpsc::channel(WAITING_PARTS);
        let mut reads = JoinSet::new();
        for origin in Origin::of_selection(&selection, self.translates()) {
            let (api, held) = (self.api.clone(), Arc::clone(&self.held));
            let namespace = selection.namespace().map(str::to_owned);
            let mut teller = Teller::to(mouth.clone());
            reads.spawn(async move {
                let listed = listing::list(&api, &held, origin, namespace.as_deref(), &mut teller).await;
                (origin, listed)
            });
        }
        Parts::new(Listeners {
            ear,
            reads,
            held: Arc::clone(&self.held),
            selection,
            positions: Vec::new(),
        })
    }

    async fn follow(&self, selection: Selection, from: Revision) -> Result<Watch, DatastoreError> {
        let positions = match self.held.unpark(&selection, from) {
            Some(positions) => positions,
            None => {
                let origins = Origin::of_selection(&selection, self.translates());
                self.check_past(&origins, from.get()).await?;
                let after = |origin| (origin, Position::After(from.get()));
                origins.into_iter().map(after).collect()
            }
        };
        Ok(delivery::watch(
            &self.api,
            &self.held,
            selection.namespace(),
            positions,
        ))
    }

    /// The API server waits silently for a revision of the future; but such a one belongs to another life of the
    /// store, and whoever waits for it would miss everything until then.
    async fn check_past(&self, origins: &[Origin], from: u64) -> Result<(), DatastoreError> {
        if from <= self.held.newest() {
            return Ok(());
        }
        for origin in origins {
            let path = format!("{}?limit=1", origin.path(None));
            match self.api.read(&path).await {
                Ok(answer) => {
                    let newest = read::list(*origin, answer.format, &answer.bytes).map(|list| list.revision);
                    let newest = newest.map_err(|error| error.during("ask for the newest revision"))?;
                    self.held.seen(newest);
                    return if from <= newest {
                        Ok(())
                    } else {
                        Err(expired(from))
                    };
                }
                Err(RequestError::Refused(refusal)) if refusal.code == 404 => {}
                Err(error) => return Err(error.during(format!("watch {}", origin.resource()))),
            }
        }
        Ok(())
    }
}

impl Datastore for KubeStore {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Versioned>, DatastoreError>> {
        Box::pin(self.read_one(key))
    }

    fn list(&self, selection: Selection) -> BoxFuture<'_, Result<Listing, DatastoreError>> {
        Box::pin(self.read_all(selection))
    }

    fn list_in_parts(&self, selection: Selection) -> BoxFuture<'_, Result<Parts, DatastoreError>> {
        Box::pin(std::future::ready(Ok(self.tell_all(selection))))
    }

    fn watch(&self, selection: Selection, from: Revision) -> BoxFuture<'_, Result<Watch, DatastoreError>> {
        Box::pin(self.follow(selection, from))
    }

    fn create(&self, resource: Resource) -> BoxFuture<'_, Result<Versioned, DatastoreError>> {
        Box::pin(writing::create(self, resource))
    }

    fn update<'a>(
        &'a self,
        resource: Resource,
        expected: &'a Version,
    ) -> BoxFuture<'a, Result<Versioned, DatastoreError>> {
        Box::pin(writing::update(self, resource, expected))
    }

    fn delete<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
    ) -> BoxFuture<'a, Result<(), DatastoreError>> {
        Box::pin(writing::delete(self, key, expected))
    }

    fn faults(&self) -> Vec<Fault> {
        self.held.faults()
    }
}
