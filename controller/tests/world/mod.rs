//! A folder, a datastore in memory and a controller between them, for tests to change and look at.
// Each suite uses its part, and a panic is how a test fails.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)]

use controller::{ANNOTATION_SOURCE, Controller, Health, Metrics, Options, Standing, WantedOptions};
use policy_model::{Key, Kind, Resource};
use policy_model_datastore::{BackOff, Datastore, MemoryStore, Revision, Selection};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// No condition takes this long on any machine; what does has failed.
const PATIENCE: Duration = Duration::from_secs(120);

pub struct World {
    pub dir: TempDir,
    pub store: MemoryStore,
    pub options: Options,
    running: Option<Running>,
}

struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    standing: watch::Receiver<Standing>,
    metrics: Metrics,
}

impl World {
    /// A world whose controller has not started.
    pub fn still() -> World {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("manifests")).unwrap();
        let mut options = Options::new(dir.path().join("manifests"));
        options.fault_file = Some(dir.path().join("state/faults.json"));
        options.back_off = BackOff {
            initial: Duration::from_millis(5),
            longest: Duration::from_millis(20),
            jitter: 0.0,
        };
        World {
            dir,
            store: MemoryStore::new(),
            options,
            running: None,
        }
    }

    /// A world whose controller runs and is in step.
    pub async fn running() -> World {
        let mut world = World::still();
        world.start().await;
        world
    }

    /// A world as the lab has it.
    pub fn still_lab() -> World {
        let mut world = World::still();
        world.options.wanted = WantedOptions {
            assign_nodes: true,
            requested_addresses: true,
        };
        world
    }

    pub async fn start(&mut self) {
        self.start_without_waiting();
        self.until("the datastore is in step", |standing| standing.in_sync)
            .await;
    }

    pub fn start_without_waiting(&mut self) {
        let metrics = Metrics::new().unwrap();
        let store: Arc<dyn Datastore> = Arc::new(self.store.clone());
        let controller =
            Controller::new(self.options.clone(), store, metrics.clone(), Health::new()).unwrap();
        let standing = controller.standing();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(controller.run(async move {
            // A dropped sender is a stop too.
            let _ = stopped.await;
        }));
        self.running = Some(Running {
            stop,
            task,
            standing,
            metrics,
        });
    }

    pub async fn stop(&mut self) {
        let running = self.running.take().unwrap();
        running.stop.send(()).unwrap();
        running.task.await.unwrap();
    }

    pub fn standing(&self) -> Standing {
        self.running.as_ref().unwrap().standing.borrow().clone()
    }

    pub fn metric(&self, name: &str) -> f64 {
        let page = self.running.as_ref().unwrap().metrics.page();
        let line = page.lines().find(|line| line.starts_with(&format!("{name} ")));
        line.unwrap().rsplit_once(' ').unwrap().1.parse().unwrap()
    }

    pub async fn until(&mut self, what: &str, is_so: impl FnMut(&Standing) -> bool) {
        let standing = &mut self.running.as_mut().unwrap().standing;
        let outcome = tokio::time::timeout(PATIENCE, standing.wait_for(is_so))
            .await
            .is_ok();
        assert!(outcome, "never came: {what}; it is {:?}", standing.borrow());
    }

    /// Waits until the datastore holds what it should.
    pub async fn until_stored(&self, what: &str, is_so: impl Fn(&BTreeMap<Key, Resource>) -> bool) {
        let wait = async {
            loop {
                let objects = self.objects().await;
                if is_so(&objects) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!("never came: {what}; there is {:#?}", self.objects().await.keys());
        }
    }

    /// Waits until everything that was done to the folder before was seen: a new file is, and events come in order.
    pub async fn settle(&mut self) {
        let name = format!("barrier-{}", self.revision().await);
        self.write(&format!("{name}.yaml"), &namespace(&name, ""));
        let key = profile(&name);
        self.until_stored("the barrier", |objects| objects.contains_key(&key))
            .await;
        std::fs::remove_file(self.path(&format!("{name}.yaml"))).unwrap();
        self.until_stored("the barrier's end", |objects| !objects.contains_key(&key))
            .await;
        self.until("in step", |standing| standing.in_sync).await;
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.options.manifests.join(name)
    }

    /// Writes a file in place, as an editor does that does not rename.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Replaces a file by a rename.
    pub fn replace(&self, name: &str, text: &str) {
        let beside = self.path(&format!("{name}.tmp"));
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, self.path(name)).unwrap();
    }

    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).unwrap();
    }

    pub async fn objects(&self) -> BTreeMap<Key, Resource> {
        // The store may be made unavailable by a test.
        let listing = self.store.list(Selection::all()).await;
        let items = listing.map(|listing| listing.items).unwrap_or_default();
        items
            .into_iter()
            .map(|found| (found.key(), (*found.resource).clone()))
            .collect()
    }

    pub async fn get(&self, key: &Key) -> Option<Resource> {
        self.objects().await.remove(key)
    }

    pub async fn revision(&self) -> Revision {
        self.store.list(Selection::all()).await.unwrap().revision
    }

    /// Puts an object into the datastore, whatever is there.
    pub async fn put(&self, resource: Resource) {
        match self.store.get(&resource.key()).await.unwrap() {
            Some(found) => self.store.update(resource, &found.version).await.unwrap(),
            None => self.store.create(resource).await.unwrap(),
        };
    }

    /// Messages of the fault file.
    pub fn faults(&self) -> Vec<String> {
        let path = self.options.fault_file.as_ref().unwrap();
        let text = std::fs::read(path).unwrap_or_default();
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        let faults = value["faults"].as_array().cloned().unwrap_or_default();
        faults
            .iter()
            .map(|fault| fault["message"].as_str().unwrap().to_owned())
            .collect()
    }

    pub async fn until_faults(&self, what: &str, is_so: impl Fn(&[String]) -> bool) {
        let wait = async {
            while !is_so(&self.faults()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!("never came: {what}; faults are {:#?}", self.faults());
        }
    }
}

pub fn source(resource: &Resource) -> Option<&str> {
    resource
        .metadata()
        .annotations
        .get(ANNOTATION_SOURCE)
        .map(String::as_str)
}

pub fn policy(name: &str, app: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{podSelector: {{matchLabels: {{app: {app}}}}}}}\n"
    )
}

pub fn policy_key(name: &str) -> Key {
    Key::namespaced(Kind::NetworkPolicy, "shop", format!("knp.default.{name}"))
}

/// Whether a policy is stored and selects an app.
pub fn selects(objects: &BTreeMap<Key, Resource>, name: &str, app: &str) -> bool {
    match objects.get(&policy_key(name)) {
        Some(Resource::NetworkPolicy(policy)) => policy.spec.selector.contains(&format!("\"{app}\"")),
        _ => false,
    }
}

pub fn pod(name: &str, spec: &str, annotations: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, annotations: {{{annotations}}}}}\n\
         spec: {{containers: [{{name: c}}]{spec}}}\n"
    )
}

pub fn node(name: &str) -> String {
    format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n")
}

pub fn namespace(name: &str, labels: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n")
}

pub fn profile(namespace: &str) -> Key {
    Key::global(Kind::Profile, format!("kns.{namespace}"))
}

/// Pod and node of every endpoint.
pub fn homes(objects: &BTreeMap<Key, Resource>) -> BTreeMap<String, String> {
    let endpoints = objects.values().filter_map(|resource| match resource {
        Resource::WorkloadEndpoint(endpoint) => Some(endpoint),
        _ => None,
    });
    endpoints
        .map(|e| (e.spec.pod.clone(), e.spec.node.clone()))
        .collect()
}
