//! The store as others see it: the port, on a folder.

use crate::document;
use crate::engine::{Action, Engine};
use policy_model::{Key, Resource};
use policy_model_datastore::{
    BoxFuture, DEFAULT_REMEMBERED_REMOVALS, Datastore, DatastoreError, Fault, Listing, Revision, Selection,
    Version, Versioned, Watch,
};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How a folder is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether a write returns only when it would survive a power failure (`fsync` of file and folder).
    pub sync: bool,
    /// For how long a document that somebody took away from outside may come back before its object counts as removed.
    /// Editors replace a file by renaming it away and writing it anew; a policy must not lapse meanwhile.
    pub grace: Duration,
    /// For how long the lock is waited for. Only a process that is stopped or in trouble holds it for long.
    pub lock_patience: Duration,
    /// The journal is not written anew before it is larger than this, in bytes.
    pub journal_bytes: u64,
    /// How many removals are remembered for watchers that are behind.
    pub remembered_removals: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            sync: true,
            grace: Duration::from_millis(200),
            lock_patience: Duration::from_secs(10),
            journal_bytes: 4 << 20,
            remembered_removals: DEFAULT_REMEMBERED_REMOVALS,
        }
    }
}

/// A datastore in a folder. Clones share one view of it; other processes (and other [`FileStore::open`]s) may use the
/// same folder at the same time.
#[derive(Clone)]
pub struct FileStore {
    root: PathBuf,
    engine: Arc<Engine>,
    /// Ends the thread that follows the folder when the last clone goes.
    _follower: Arc<Follower>,
}

impl std::fmt::Debug for FileStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileStore")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

struct Follower {
    engine: Arc<Engine>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.engine.stop();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // It ends at once, unless another process holds the lock up; a panic of it was shown when it happened.
            let _ = thread.join();
        }
    }
}

impl FileStore {
    /// Opens the store in a folder, which is made where it is absent. Blocks until everything in it was read.
    ///
    /// # Errors
    /// `Permission`, `ReadOnly`, `NoSpace` or `Unavailable`, each with the path and the reason. Invalid documents are
    /// no error: see [`Datastore::faults`].
    pub fn open(root: impl AsRef<Path>, settings: Settings) -> Result<Self, DatastoreError> {
        let root = std::path::absolute(root.as_ref())
            .map_err(|e| crate::disk::failure("find the folder", root.as_ref(), e))?;
        let (engine, ears) = Engine::open(&root, settings)?;
        let engine = Arc::new(engine);
        let follower = Arc::clone(&engine);
        let thread = std::thread::Builder::new()
            .name("datastore".into())
            .spawn(move || follower.run(&ears))
            .map_err(|error| {
                DatastoreError::unavailable("start the thread that follows the folder", error)
            })?;
        let follower = Follower {
            engine: Arc::clone(&engine),
            thread: Mutex::new(Some(thread)),
        };
        Ok(FileStore {
            root,
            engine,
            _follower: Arc::new(follower),
        })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Writes the journal anew, without its history. Happens by itself where the journal grows large; watches of other
    /// processes from revisions before this moment then start with a new list.
    ///
    /// # Errors
    /// As any write.
    pub async fn compact(&self) -> Result<(), DatastoreError> {
        self.blocking("write the journal anew", Engine::compact).await
    }

    /// Runs what may wait for the disk or for another process on a thread where that holds up nobody.
    async fn blocking<T: Send + 'static>(
        &self,
        operation: &str,
        work: impl FnOnce(&Engine) -> Result<T, DatastoreError> + Send + 'static,
    ) -> Result<T, DatastoreError> {
        let engine = Arc::clone(&self.engine);
        match tokio::task::spawn_blocking(move || work(&engine)).await {
            Ok(result) => result,
            Err(error) => Err(DatastoreError::unavailable(operation, error)),
        }
    }
}

fn render(resource: &Resource) -> Result<document::Rendered, DatastoreError> {
    document::render(resource).map_err(|error| DatastoreError::Invalid {
        place: resource.key().to_string(),
        error,
    })
}

/// The object that a write left; a write that is no removal always leaves one.
fn left(written: Option<Versioned>, key: Key) -> Result<Versioned, DatastoreError> {
    written.ok_or(DatastoreError::NotFound { key })
}

impl Datastore for FileStore {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Versioned>, DatastoreError>> {
        let key = key.clone();
        Box::pin(self.blocking("get an object", move |engine| {
            engine.refresh()?;
            Ok(engine.log.read(|log| log.get(&key).cloned()))
        }))
    }

    fn list(&self, selection: Selection) -> BoxFuture<'_, Result<Listing, DatastoreError>> {
        Box::pin(self.blocking("list objects", move |engine| {
            engine.refresh()?;
            Ok(engine.log.read(|log| log.list(&selection)))
        }))
    }

    fn watch(&self, selection: Selection, from: Revision) -> BoxFuture<'_, Result<Watch, DatastoreError>> {
        Box::pin(self.blocking("watch objects", move |engine| {
            engine.refresh()?;
            engine.log.watch(selection, from)
        }))
    }

    fn create(&self, resource: Resource) -> BoxFuture<'_, Result<Versioned, DatastoreError>> {
        Box::pin(self.blocking("create an object", move |engine| {
            let key = resource.key();
            left(engine.write(&key, Action::Create(render(&resource)?))?, key)
        }))
    }

    fn update<'a>(
        &'a self,
        resource: Resource,
        expected: &'a Version,
    ) -> BoxFuture<'a, Result<Versioned, DatastoreError>> {
        let expected = expected.clone();
        Box::pin(self.blocking("update an object", move |engine| {
            let key = resource.key();
            left(
                engine.write(&key, Action::Update(render(&resource)?, expected))?,
                key,
            )
        }))
    }

    fn delete<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
    ) -> BoxFuture<'a, Result<(), DatastoreError>> {
        let (key, expected) = (key.clone(), expected.cloned());
        Box::pin(self.blocking("delete an object", move |engine| {
            engine.write(&key, Action::Delete(expected)).map(drop)
        }))
    }

    fn faults(&self) -> Vec<Fault> {
        self.engine.faults()
    }
}
