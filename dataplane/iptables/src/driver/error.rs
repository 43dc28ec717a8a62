//! What the driver could not do.

use std::fmt;

use crate::ipset::IpsetError;
use crate::ops::{Family, Table};
use crate::ours::save::SaveError;
use crate::programs::ProgramError;

use super::Applied;

/// One thing that could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// Sets could not be read or changed.
    #[error(transparent)]
    Sets(#[from] IpsetError),
    /// A program failed.
    #[error(transparent)]
    Program(Box<ProgramError>),
    /// A program's output cannot be read.
    #[error("reading the tables of {family}")]
    Save {
        /// The family.
        family: Family,
        /// What is wrong with it.
        #[source]
        source: SaveError,
    },
    /// Whatever was written to a table, it was not as it should be afterwards: somebody else keeps changing it, or a rule is
    /// printed each time in another form.
    #[error(
        "table {table} of {family} is not as it should be after {rounds} writes; does another program keep changing it?"
    )]
    Unsettled {
        /// The family.
        family: Family,
        /// The table.
        table: Table,
        /// How often it was written.
        rounds: u32,
    },
    /// A set of another type has the name of one of ours, and rules name it.
    #[error("IP set {name} is of another type than wanted, and {references} rules name it: remove them")]
    SetInTheWay {
        /// The set.
        name: String,
        /// How many rules name it.
        references: u32,
    },
}

impl From<ProgramError> for DriverError {
    fn from(error: ProgramError) -> Self {
        Self::Program(Box::new(error))
    }
}

impl DriverError {
    /// Whether the same may succeed a moment later.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Sets(IpsetError::Refused { first, .. }) => first.is_passing(),
            Self::Sets(IpsetError::Netlink(_)) => true,
            Self::Sets(_) | Self::Unsettled { .. } | Self::SetInTheWay { .. } => false,
            Self::Program(error) => error.is_passing(),
            Self::Save { .. } => true,
        }
    }
}

/// All that an apply could not do; at least one.
#[derive(Debug)]
pub struct Failures {
    /// What could not be done.
    pub failures: Vec<DriverError>,
    /// What was done.
    pub applied: Box<Applied>,
}

impl Failures {
    /// Whether a program could not be started: it may be elsewhere now, or not at all.
    #[must_use]
    pub fn lack_programs(&self) -> bool {
        let lacks = |failure: &DriverError| matches!(failure, DriverError::Program(error) if matches!(**error, ProgramError::Start { .. }));
        self.failures.iter().any(lacks)
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, failure) in self.failures.iter().enumerate() {
            if index > 0 {
                formatter.write_str("; ")?;
            }
            write!(formatter, "{failure}")?;
            let mut source = std::error::Error::source(failure);
            while let Some(cause) = source {
                write!(formatter, ": {cause}")?;
                source = cause.source();
            }
        }
        Ok(())
    }
}

impl std::error::Error for Failures {}
