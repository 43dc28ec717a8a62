//! What the node attached, kept on the node: on the disk before the caller hears of it.
//!
//! It tells a repeated request from a new one, lets a removal succeed whatever else is away, and is what makes an
//! address that the node gave from its reserve a pod's: the datastore learns of it later.

mod log;

use crate::protocol::{AttachmentKey, PortMapping};
use log::{Log, Opened};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// One attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Which.
    pub key: AttachmentKey,
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// UID of the pod, where it is known.
    #[serde(default)]
    pub uid: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Interface on the node; empty where somebody else made the interface and only addresses were given.
    pub host_interface: String,
    /// The boot of the machine in which it was made; after another boot it does not exist any more.
    #[serde(default)]
    pub boot_id: String,
    /// Largest packet of its interface in bytes; 0 where it is the node's.
    #[serde(default)]
    pub mtu: u32,
    /// Ports of the node that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<PortMapping>,
}

impl Attachment {
    /// Whether it was made in another boot of the machine than this one, so that nothing of it is in the kernel.
    pub fn is_of_another_boot(&self, boot_id: &str) -> bool {
        !self.boot_id.is_empty() && self.boot_id != boot_id
    }
}

/// How the node came to know an attachment, and whether it is ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It made it.
    Made,
    /// It found it, in the kernel or in a block, and had no record of it: its disk was wiped, or another program made it.
    Found,
    /// However it came, it is ending: its interface passes nothing any more and has to be removed.
    Leaving,
}

/// The journal could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {path}")]
pub struct JournalError {
    /// What was tried.
    pub operation: &'static str,
    /// On which file.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: std::io::Error,
}

/// All attachments at one moment, in the order in which they came to be, without those that are ending.
pub type Attachments = Arc<Vec<Arc<Attachment>>>;

/// The attachments of a node.
#[derive(Debug)]
pub struct Journal {
    log: Log,
    known: Mutex<Known>,
    changes: watch::Sender<Attachments>,
    is_new: bool,
}

#[derive(Debug, Default)]
struct Known {
    entries: BTreeMap<AttachmentKey, Entry>,
    /// How many there ever were.
    count: u64,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    attachment: Arc<Attachment>,
    origin: Origin,
}

impl Known {
    fn put(&mut self, attachment: Attachment, origin: Origin) {
        let next = self.count;
        let entry = self.entries.entry(attachment.key.clone());
        let number = match entry {
            std::collections::btree_map::Entry::Occupied(ref old) => old.get().number,
            std::collections::btree_map::Entry::Vacant(_) => next,
        };
        self.count = self.count.max(number + 1);
        self.entries.insert(
            attachment.key.clone(),
            Entry {
                number,
                attachment: Arc::new(attachment),
                origin,
            },
        );
    }
}

impl Journal {
    /// Opens the journal in a folder, which is made where it lacks. What cannot be understood is kept aside and reported.
    ///
    /// # Errors
    /// The folder cannot be made, read or written.
    pub fn open(folder: &Path) -> Result<Self, JournalError> {
        let Opened { log, entries, is_new } = Log::open(folder)?;
        let mut known = Known::default();
        for (attachment, origin) in entries {
            known.put(attachment, origin);
        }
        let journal = Journal {
            log,
            known: Mutex::new(known),
            changes: watch::Sender::default(),
            is_new,
        };
        journal.publish();
        Ok(journal)
    }

    /// Whether there was no journal before: on this disk nothing is known of what was attached earlier.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Follows the attachments: a reader sees one as soon as it is on the disk.
    pub fn follow(&self) -> watch::Receiver<Attachments> {
        self.changes.subscribe()
    }

    /// One attachment, also one that is ending.
    pub fn get(&self, key: &AttachmentKey) -> Option<Attachment> {
        self.known()
            .entries
            .get(key)
            .map(|entry| entry.attachment.as_ref().clone())
    }

    /// The attachment under whose handle addresses are held. It may have another key than who asks for it: a handle does
    /// not say where the parts of its key end.
    pub fn with_handle(&self, handle: &str) -> Option<Attachment> {
        let known = self.known();
        let mut all = known.entries.values();
        all.find(|entry| entry.attachment.key.handle() == handle)
            .map(|entry| entry.attachment.as_ref().clone())
    }

    /// Whether an attachment is ending.
    pub fn is_leaving(&self, key: &AttachmentKey) -> bool {
        self.is_of(key, Origin::Leaving)
    }

    /// Whether an attachment was found, and is not ending.
    pub fn is_found(&self, key: &AttachmentKey) -> bool {
        self.is_of(key, Origin::Found)
    }

    fn is_of(&self, key: &AttachmentKey, origin: Origin) -> bool {
        let known = self.known();
        known.entries.get(key).is_some_and(|entry| entry.origin == origin)
    }

    /// All attachments, in the order in which they came to be, without those that are ending.
    pub fn all(&self) -> Attachments {
        self.changes.borrow().clone()
    }

    /// Whether the interface of an attachment is another's by now, of this boot of the machine and not ending: the sandbox
    /// that follows another of the same pod has its name.
    pub fn is_interface_of_another(&self, attachment: &Attachment, boot_id: &str) -> bool {
        self.all().iter().any(|other| {
            other.key != attachment.key
                && other.host_interface == attachment.host_interface
                && !other.is_of_another_boot(boot_id)
        })
    }

    /// Those that the node found and did not make.
    pub fn found(&self) -> Vec<Arc<Attachment>> {
        self.of_origin(Origin::Found)
    }

    /// Those that are ending; their addresses are not free yet.
    pub fn leaving(&self) -> Vec<Arc<Attachment>> {
        self.of_origin(Origin::Leaving)
    }

    fn of_origin(&self, origin: Origin) -> Vec<Arc<Attachment>> {
        let known = self.known();
        let found = known.entries.values().filter(|entry| entry.origin == origin);
        found.map(|entry| entry.attachment.clone()).collect()
    }

    /// Records an attachment; it is on the disk when this returns. The same again costs nothing.
    ///
    /// # Errors
    /// It could not be written; nothing is recorded then.
    pub async fn put(&self, attachment: Attachment, origin: Origin) -> Result<(), JournalError> {
        let is_known = |entry: &Entry| *entry.attachment == attachment && entry.origin == origin;
        if self.known().entries.get(&attachment.key).is_some_and(is_known) {
            return Ok(());
        }
        self.log.put(&attachment, origin).await?;
        self.known().put(attachment, origin);
        self.publish();
        Ok(())
    }

    /// Removes an attachment, if it is there; it is gone from the disk when this returns.
    ///
    /// # Errors
    /// It could not be written; the attachment stays then.
    pub async fn remove(&self, key: &AttachmentKey) -> Result<(), JournalError> {
        self.remove_all(&[key]).await.into_iter().collect()
    }

    /// Removes several attachments, which the disk is waited for once or twice; says of each, in their order, whether it is
    /// gone from there.
    pub async fn remove_all(&self, keys: &[&AttachmentKey]) -> Vec<Result<(), JournalError>> {
        // All are handed over before the first is waited for.
        let mut handed = Vec::with_capacity(keys.len());
        for key in keys {
            let is_known = self.known().entries.contains_key(key);
            handed.push(is_known.then(|| self.log.remove(key)));
        }
        let mut removed = Vec::with_capacity(keys.len());
        for (key, written) in keys.iter().zip(handed) {
            removed.push(match written {
                None => Ok(()),
                Some(written) => written.await.inspect(|()| drop(self.known().entries.remove(key))),
            });
        }
        self.publish();
        removed
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // What the lock guards is written in single steps; a panic between them leaves nothing half done.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self) {
        // Under the lock, so that an older picture never takes the place of a newer one.
        let known = self.known();
        let staying = known
            .entries
            .values()
            .filter(|entry| entry.origin != Origin::Leaving);
        let mut entries: Vec<&Entry> = staying.collect();
        entries.sort_by_key(|entry| entry.number);
        let all = entries
            .into_iter()
            .map(|entry| entry.attachment.clone())
            .collect();
        self.changes.send_replace(Arc::new(all));
    }
}
