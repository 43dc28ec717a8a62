//! What is wrong now: kept as a list, said once in the log, and written to a file that others can show.

use crate::overlap::{DANGER, Overlap, REMEDY};
use policy_model_datastore as datastore;
use policy_model_kubernetes::{self as kubernetes, Consequence};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use thiserror::Error;

/// Something that is wrong, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// File, relative to the manifest folder; empty where the fault is not of one file.
    pub file: String,
    /// Number of the document in the file, from 1, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<usize>,
    /// Number of the item, from 0, where the document is a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item: Option<usize>,
    /// Line of the syntax error, or on which the document begins; from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The object as people call it; empty where none can be told.
    pub subject: String,
    /// Path of the field; empty where the fault is not of one field.
    pub field: String,
    /// Why it cannot be accepted.
    pub reason: String,
    /// What became of it, as a sentence without its full stop.
    pub consequence: String,
    /// All of it in one line.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Fault {
    /// A fault of a document.
    pub(crate) fn of_document(found: kubernetes::Fault) -> Fault {
        let consequence = match found.consequence {
            Consequence::NotInForce => "nothing of it is in force",
            Consequence::LastValidInForce => "its last valid form stays in force",
            Consequence::RestInForce => "it is in force without what is wrong, and allows nothing by that",
            Consequence::OtherDocumentInForce => "what another document says is in force",
        };
        Fault {
            message: format!("{found} ({consequence})"),
            file: found.file,
            document: Some(found.document),
            item: found.item,
            line: Some(found.line),
            subject: found.subject,
            field: found.field,
            reason: found.reason,
            consequence: consequence.to_owned(),
        }
    }

    /// A fault of a file as a whole, or of an object that comes from it.
    pub(crate) fn of_file(file: &str, subject: &str, reason: &str, consequence: &str) -> Fault {
        Fault::of_field(file, subject, "", reason, consequence)
    }

    /// A fault of a field of an object that comes from a file.
    fn of_field(file: &str, subject: &str, field: &str, reason: &str, consequence: &str) -> Fault {
        let place = if file.is_empty() { "manifests" } else { file };
        let about = if subject.is_empty() {
            String::new()
        } else {
            format!(" ({subject})")
        };
        let at = if field.is_empty() {
            String::new()
        } else {
            format!("{field}: ")
        };
        let message = format!("{place}{about}: {at}{reason} ({consequence})");
        Fault {
            file: file.to_owned(),
            document: None,
            item: None,
            line: None,
            subject: subject.to_owned(),
            field: field.to_owned(),
            reason: reason.to_owned(),
            consequence: consequence.to_owned(),
            message: message
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect(),
        }
    }

    /// A pool that others have addresses of; `file` is empty where it comes from no manifest.
    pub(crate) fn of_overlap(file: &str, pool: &str, overlap: &Overlap) -> Fault {
        let reason = format!("{}. {DANGER}. {REMEDY}", overlap.finding);
        let consequence = "nothing was changed for that";
        Fault::of_field(file, &format!("IPPool {pool}"), "spec.cidr", &reason, consequence)
    }

    /// A fault of the datastore.
    pub(crate) fn of_datastore(found: &datastore::Fault) -> Fault {
        let subject = found.key.as_ref().map(ToString::to_string).unwrap_or_default();
        let consequence = if found.in_force {
            "the last valid version stays in force"
        } else {
            "nothing of it is in force"
        };
        let reason = format!("the datastore holds something invalid: {}", found.error);
        Fault::of_file(&found.place, &subject, &reason, consequence)
    }
}

/// How the controller stands, beside its faults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    /// The manifest folder.
    pub manifests: PathBuf,
    /// Whether the datastore is in step with every manifest.
    pub in_sync: bool,
    /// Why it is not, where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// How many files the folder holds.
    pub files: usize,
    /// How many objects they amount to.
    pub objects: usize,
    /// How many objects of files that are broken now stay as an earlier process stored them.
    pub kept: usize,
    /// How often the datastore was written to.
    pub writes: u64,
    /// How often something that somebody else had changed was put right.
    pub repairs: u64,
    /// How many folder or datastore changes were worked off.
    pub passes: u64,
}

/// Why the list of faults could not be written.
#[derive(Debug, Error)]
#[error("the list of faults cannot be written to {}", path.display())]
pub struct FaultFileError {
    /// The file.
    path: PathBuf,
    /// What the system said.
    source: io::Error,
}

/// How a new list differs from the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Whether it differs at all.
    pub(crate) is_changed: bool,
    /// How many faults are new.
    pub(crate) new: u64,
}

/// The faults that were told.
#[derive(Debug, Default)]
pub(crate) struct FaultLog {
    told: BTreeMap<String, Fault>,
}

impl FaultLog {
    /// Takes what is wrong now; says in the log what is new and what is over. Returns what changed.
    pub(crate) fn update(&mut self, faults: Vec<Fault>) -> Found {
        let now: BTreeMap<String, Fault> = faults.into_iter().map(|f| (f.message.clone(), f)).collect();
        if now == self.told {
            return Found::default();
        }
        let mut found = Found {
            is_changed: true,
            new: 0,
        };
        for message in now.keys().filter(|message| !self.told.contains_key(*message)) {
            found.new += 1;
            tracing::warn!("{message}");
        }
        for message in self.told.keys().filter(|message| !now.contains_key(*message)) {
            tracing::info!("no longer: {message}");
        }
        self.told = now;
        found
    }

    /// How much is wrong.
    pub(crate) fn len(&self) -> u64 {
        self.told.len() as u64
    }

    /// Everything that is wrong, in the order of the files.
    pub(crate) fn faults(&self) -> Vec<Fault> {
        let mut faults: Vec<Fault> = self.told.values().cloned().collect();
        faults.sort();
        faults
    }
}

/// What the fault file holds.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    /// Seconds since the Unix epoch.
    updated: u64,
    #[serde(flatten)]
    standing: &'a Standing,
    faults: &'a [Fault],
}

/// Writes the list so that a reader sees the old or the new one, never a half.
///
/// It is not synced to the disk: after a power failure the controller writes it anew.
///
/// # Errors
/// The file or its folder cannot be written.
pub(crate) fn write(path: &Path, standing: &Standing, faults: &[Fault]) -> Result<(), FaultFileError> {
    let updated = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    let written = Written {
        updated,
        standing,
        faults,
    };
    let text = serde_json::to_string_pretty(&written).map_err(io::Error::other);
    let outcome = text.and_then(|text| {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder {
            std::fs::create_dir_all(folder)?;
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let beside = path.with_file_name(name);
        let mut file = std::fs::File::create(&beside)?;
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        std::fs::rename(&beside, path)
    });
    outcome.map_err(|source| FaultFileError {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_told_once_and_its_end_too() {
        let fault = Fault::of_file("a.yaml", "", "it cannot\nbe read", "it stays");
        assert_eq!(fault.to_string(), "a.yaml: it cannot be read (it stays)");
        let mut log = FaultLog::default();
        assert_eq!(log.update(vec![fault.clone()]).new, 1);
        assert_eq!(log.update(vec![fault.clone()]), Found::default());
        assert_eq!(log.faults(), [fault]);
        let over = log.update(Vec::new());
        assert_eq!((over.is_changed, over.new), (true, 0));
        assert!(log.faults().is_empty());
    }

    #[test]
    fn the_file_is_one_json_object() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/faults.json");
        let faults = [Fault::of_file("a.yaml", "Pod n/p", "no", "stays")];
        write(&path, &Standing::default(), &faults).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(value["faults"][0]["file"], "a.yaml");
        assert_eq!(value["inSync"], false);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
