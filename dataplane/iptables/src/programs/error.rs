//! What can go wrong with a program, each with what the caller can do.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::ops::{Family, Table};

use super::version::{Variant, Version};

/// A program was not found, not started, or did not do what it should. Nothing of what it was to write is in force, but
/// where a variant says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// None of the names is in any of the folders. Install iptables, or choose the other backend.
    #[error("no {names} in {folders}: install iptables there, or choose another backend")]
    Missing {
        /// The names that were looked for.
        names: String,
        /// The folders that were searched.
        folders: String,
    },
    /// It is there and cannot be started.
    #[error("cannot start {}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It says of itself what nobody understands.
    #[error("{} --version says {output:?}, which is no version of iptables", program.display())]
    NotUnderstood {
        /// The program.
        program: PathBuf,
        /// The beginning of what it said.
        output: String,
    },
    /// It is too old.
    #[error("{} is version {version}: {oldest} or newer is needed, since before that it ignores the lock by which programs keep from losing each other's rules", program.display())]
    TooOld {
        /// The program.
        program: PathBuf,
        /// Its version.
        version: Version,
        /// The oldest that serves.
        oldest: Version,
    },
    /// It took longer than it may, and was killed. What it was to write may be in force or not: read again.
    #[error("{} did not end within {limit:?} and was killed ({what}): see what holds it up (a kernel module being loaded, a name being looked up)", program.display())]
    Hangs {
        /// The program.
        program: PathBuf,
        /// What it was to do.
        what: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// Another program held the lock all the time. Nothing was changed; try again.
    #[error("{} {what}: another program holds the lock {} for longer than {limit:?}; find it with 'fuser', or raise IptablesLockTimeoutSecs", program.display(), lock.display())]
    Locked {
        /// The program.
        program: PathBuf,
        /// What it was to do.
        what: String,
        /// The lock file.
        lock: PathBuf,
        /// How long it waited.
        limit: Duration,
    },
    /// It ended with an error. Nothing was changed: a restore is carried out as a whole.
    #[error("{0}")]
    Failed(Box<Failure>),
    /// Its output is longer than anybody's rules can be.
    #[error("{} {what}: its output is longer than {limit} bytes", program.display())]
    TooMuch {
        /// The program.
        program: PathBuf,
        /// What it was to do.
        what: String,
        /// The most that is read.
        limit: usize,
    },
    /// Talking to it failed. What it was to write may be in force or not: read again.
    #[error("talking to {} ({what})", program.display())]
    Talk {
        /// The program.
        program: PathBuf,
        /// What it was to do.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A program that ended with an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The program.
    pub program: PathBuf,
    /// What it was to do.
    pub what: String,
    /// How it ended.
    pub status: String,
    /// The number of the input's line that it names, from 1.
    pub line: Option<usize>,
    /// This line.
    pub rule: Option<String>,
    /// What it said, bounded.
    pub said: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            program,
            what,
            status,
            line,
            rule,
            said,
        } = self;
        write!(formatter, "{} {what}: ended with {status}", program.display())?;
        if let Some(line) = line {
            write!(formatter, " at line {line}")?;
        }
        if let Some(rule) = rule {
            write!(formatter, ", '{rule}'")?;
        }
        write!(formatter, ": {said}")
    }
}

impl ProgramError {
    /// Whether the same call may succeed a moment later without anybody doing anything.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Failed(_) | Self::Talk { .. } => true,
            // It was waited for long enough by the program itself, or nothing will change by itself.
            Self::Locked { .. }
            | Self::Hangs { .. }
            | Self::Missing { .. }
            | Self::Start { .. }
            | Self::NotUnderstood { .. }
            | Self::TooOld { .. }
            | Self::TooMuch { .. } => false,
        }
    }
}

/// What a call is about, for messages.
pub(super) fn about(action: &str, variant: Variant, family: Family, table: Option<Table>) -> String {
    match table {
        Some(table) => format!("{action} table {table} of {family} ({variant})"),
        None => format!("{action} the tables of {family} ({variant})"),
    }
}
