//! What the node attached, kept on the node: one file an attachment, written before the caller hears of it.
//!
//! It tells a repeated request from a new one, and lets a removal succeed whatever else is away.

use crate::protocol::AttachmentKey;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

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

/// The attachments of a node.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    attachments: BTreeMap<AttachmentKey, Attachment>,
}

impl Journal {
    /// Opens the journal in a folder, which is made where it lacks. A file that cannot be understood is left alone and
    /// reported.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub fn open(folder: &Path) -> Result<Self, JournalError> {
        let failed = |operation, path: &Path| {
            let path = path.to_path_buf();
            move |source| JournalError {
                operation,
                path,
                source,
            }
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(failed("create folder", folder))?;
        let mut attachments = BTreeMap::new();
        for entry in std::fs::read_dir(folder).map_err(failed("read folder", folder))? {
            let path = entry.map_err(failed("read folder", folder))?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let text = std::fs::read_to_string(&path).map_err(failed("read", &path))?;
            match serde_json::from_str::<Attachment>(&text) {
                Ok(attachment) => {
                    attachments.insert(attachment.key.clone(), attachment);
                }
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a journal entry cannot be read")
                }
            }
        }
        Ok(Journal {
            folder: folder.to_path_buf(),
            attachments,
        })
    }

    /// One attachment.
    pub fn get(&self, key: &AttachmentKey) -> Option<&Attachment> {
        self.attachments.get(key)
    }

    /// All attachments.
    pub fn iter(&self) -> impl Iterator<Item = &Attachment> {
        self.attachments.values()
    }

    /// Records an attachment; it is on the disk when this returns.
    ///
    /// # Errors
    /// The file could not be written; nothing is recorded then.
    pub fn put(&mut self, attachment: Attachment) -> Result<(), JournalError> {
        let path = self.path(&attachment.key);
        let failed = |operation| {
            let path = path.clone();
            move |source| JournalError {
                operation,
                path,
                source,
            }
        };
        let text =
            serde_json::to_vec_pretty(&attachment).map_err(|e| failed("encode")(std::io::Error::other(e)))?;
        let temporary = path.with_extension("tmp");
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(failed("create"))?;
        file.write_all(&text).map_err(failed("write"))?;
        file.sync_all().map_err(failed("flush"))?;
        std::fs::rename(&temporary, &path).map_err(failed("rename"))?;
        self.sync_folder()?;
        self.attachments.insert(attachment.key.clone(), attachment);
        Ok(())
    }

    /// Removes an attachment.
    ///
    /// # Errors
    /// The file could not be removed.
    pub fn remove(&mut self, key: &AttachmentKey) -> Result<(), JournalError> {
        let path = self.path(key);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(JournalError {
                    operation: "remove",
                    path,
                    source,
                });
            }
            _ => {}
        }
        self.sync_folder()?;
        self.attachments.remove(key);
        Ok(())
    }

    fn sync_folder(&self) -> Result<(), JournalError> {
        let failed = |source| JournalError {
            operation: "flush folder",
            path: self.folder.clone(),
            source,
        };
        std::fs::File::open(&self.folder)
            .and_then(|f| f.sync_all())
            .map_err(failed)
    }

    fn path(&self, key: &AttachmentKey) -> PathBuf {
        self.folder.join(format!("{}.json", key.file_stem()))
    }
}
