//! One file: what its documents speak of, and what is wrong with them.

use super::fault::{Consequence, DocumentPlace, Fault};
use crate::document::{Document, read_documents};
use crate::manifest::{InvalidManifest, Manifest, ManifestId};
use policy_model::FieldError;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is remembered of a file beside the claims themselves.
#[derive(Debug, Default)]
pub(super) struct File {
    /// Which objects its documents speak of, and where, in the order of the documents.
    pub(super) claims: Vec<(ManifestId, DocumentPlace)>,
    pub(super) faults: Vec<DocumentFault>,
    /// Whether a document cannot be read and no earlier text of the file said what it held.
    pub(super) hides_unknown: bool,
    /// Whether objects of an earlier text stay in force because of documents that cannot be read.
    keeps_hidden: bool,
}

/// A fault of one document of a file.
#[derive(Debug)]
pub(super) struct DocumentFault {
    document: usize,
    item: Option<usize>,
    line: usize,
    subject: String,
    error: FieldError,
    /// The object, where it can be told.
    pub(super) id: Option<ManifestId>,
}

/// What one document says of one object.
#[derive(Debug)]
pub(super) enum Claim {
    /// A valid form.
    Valid(Arc<Manifest>),
    /// An invalid form, or none that can be read.
    Invalid {
        /// The last valid form that this file had.
        last_valid: Option<Arc<Manifest>>,
        /// What of the invalid form can stand alone.
        remainder: Option<Arc<Manifest>>,
        /// Whether a document names the object, rather than perhaps hiding it.
        written: bool,
    },
}

impl Claim {
    /// The newest valid form that the claim knows.
    pub(super) fn last_valid(self) -> Option<Arc<Manifest>> {
        match self {
            Claim::Valid(form) => Some(form),
            Claim::Invalid { last_valid, .. } => last_valid,
        }
    }

    /// Whether a document names the object.
    pub(super) fn is_written(&self) -> bool {
        match self {
            Claim::Valid(_) => true,
            Claim::Invalid { written, .. } => *written,
        }
    }
}

impl File {
    /// What became of the objects of documents that cannot be read.
    pub(super) fn consequence_of_broken(&self) -> Consequence {
        if self.keeps_hidden {
            Consequence::LastValidInForce
        } else {
            Consequence::NotInForce
        }
    }
}

impl DocumentFault {
    pub(super) fn fault(&self, file: &str, consequence: Consequence) -> Fault {
        Fault {
            file: file.to_string(),
            document: self.document,
            item: self.item,
            line: self.line,
            subject: self.subject.clone(),
            field: self.error.field.clone(),
            reason: self.error.reason.clone(),
            consequence,
        }
    }
}

/// Reads a file's text. `known` are the valid forms that an earlier text had, and `hid_unknown` says whether that text
/// had unreadable documents of which nobody knows what they held.
pub(super) fn read(
    path: &Arc<str>,
    text: &str,
    known: &BTreeMap<ManifestId, Arc<Manifest>>,
    hid_unknown: bool,
) -> (File, Vec<(ManifestId, DocumentPlace, Claim)>) {
    let mut file = File::default();
    let mut claims: Vec<(ManifestId, DocumentPlace, Claim)> = Vec::new();
    let mut unreadable = None;
    for (
        position,
        Document {
            number,
            item,
            line,
            body,
        },
    ) in read_documents(text).into_iter().enumerate()
    {
        let place = DocumentPlace {
            file: Arc::clone(path),
            document: number,
            item,
            position,
            line,
        };
        let fault = |line: usize, subject: &str, error, id| DocumentFault {
            document: number,
            item,
            line,
            subject: subject.to_string(),
            error,
            id,
        };
        match body.map(Manifest::parse) {
            Ok(Ok(manifest)) => {
                if let Some(id) = manifest.id() {
                    claims.push((id, place, Claim::Valid(Arc::new(manifest))));
                }
            }
            Ok(Err(InvalidManifest {
                id,
                subject,
                faults,
                remainder,
            })) => {
                file.faults.extend(
                    faults
                        .into_iter()
                        .map(|error| fault(line, &subject, error, id.as_deref().cloned())),
                );
                match id.map(|id| *id) {
                    Some(id) => {
                        let last_valid = known.get(&id).cloned();
                        let remainder = remainder.map(|form| Arc::from(*form));
                        claims.push((
                            id,
                            place,
                            Claim::Invalid {
                                last_valid,
                                remainder,
                                written: true,
                            },
                        ));
                    }
                    None => unreadable = Some(place),
                }
            }
            Err(error) => {
                let reason = FieldError::new("", format!("column {}: {}", error.column, error.reason));
                file.faults.push(fault(error.line, "", reason, None));
                unreadable = Some(place);
            }
        }
    }
    if let Some(place) = unreadable {
        // Any object that the file had and that no document of it names now may stand in what cannot be read.
        let hidden: Vec<_> = known
            .iter()
            .filter(|(id, _)| !claims.iter().any(|(named, _, _)| named == *id))
            .collect();
        file.keeps_hidden = !hidden.is_empty();
        file.hides_unknown = known.is_empty() || hid_unknown;
        for (n, (id, form)) in hidden.into_iter().enumerate() {
            let place = DocumentPlace {
                position: usize::MAX - n,
                ..place.clone()
            };
            let claim = Claim::Invalid {
                last_valid: Some(Arc::clone(form)),
                remainder: None,
                written: false,
            };
            claims.push((id.clone(), place, claim));
        }
    }
    file.claims = claims
        .iter()
        .map(|(id, place, _)| (id.clone(), place.clone()))
        .collect();
    (file, claims)
}
