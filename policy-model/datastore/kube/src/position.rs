//! How far one resource has been read.

use crate::body::Stream;

/// Where a watch of one resource continues.
pub(crate) enum Position {
    /// In this answer, which is open since the listing; up to this revision it was read.
    Open(Box<Stream>, u64),
    /// After this revision.
    After(u64),
    /// Nowhere: the resource is not defined.
    Absent,
}

impl Position {
    /// The revision up to which everything is known.
    pub(crate) fn revision(&self) -> Option<u64> {
        match self {
            Position::Open(_, revision) | Position::After(revision) => Some(*revision),
            Position::Absent => None,
        }
    }
}

impl std::fmt::Debug for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Position::Open(_, revision) => write!(f, "Open({revision})"),
            Position::After(revision) => write!(f, "After({revision})"),
            Position::Absent => f.write_str("Absent"),
        }
    }
}
