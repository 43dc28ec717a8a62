//! What can go wrong with sets, each with what the caller can do.

use std::fmt;

use dataplane_netlink::NetlinkError;

use crate::ops::{Family, Member, SetKind};

use super::numbers;

/// Sets could not be changed or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IpsetError {
    /// Some operations were refused; the others are in force. Compare and try again.
    #[error("{first}{}", and_more(*.more))]
    Refused {
        /// The first that was refused.
        first: Box<SetProblem>,
        /// How many others were.
        more: usize,
    },
    /// The kernel has no such type of set.
    #[error("this kernel has no set type {} for {family}: load the kernel module ip_set_{}, or install it", .kind.name(), .kind.name().replace(':', "_").replace(',', ""))]
    NoType {
        /// The type.
        kind: SetKind,
        /// For which family.
        family: Family,
    },
    /// The set's name cannot be one: empty, or longer than 31 bytes. A mistake in what was asked.
    #[error("{0:?} cannot be the name of an IP set: names have 1 to 31 bytes")]
    Name(String),
    /// The kernel did not answer, or not as it should: what is in force is not known.
    #[error("speaking to the kernel about IP sets")]
    Netlink(#[from] NetlinkError),
}

/// One operation that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetProblem {
    /// What was tried.
    pub operation: String,
    /// The set.
    pub set: String,
    /// The member that was refused, if it is about one; those of the operation before it are in force, those after it not.
    pub member: Option<Member>,
    /// Why.
    pub reason: String,
    /// The kernel's number of it; from 4096 on those of IP sets.
    pub number: i32,
}

impl fmt::Display for SetProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            operation,
            set: _,
            member,
            reason,
            number: _,
        } = self;
        formatter.write_str(operation)?;
        if let Some(member) = member {
            write!(formatter, ", member {member}")?;
        }
        write!(formatter, ": {reason}")
    }
}

impl SetProblem {
    /// Whether the set (or one of the two) is not there.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.number == numbers::NO_ENTRY
    }

    /// Whether a rule still names the set, so that it cannot go.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        matches!(self.number, numbers::ERR_BUSY | numbers::ERR_REFERENCED)
    }

    /// Whether the same may succeed later without anybody changing what is asked: the kernel lacked memory, or somebody was
    /// faster.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        self.number < numbers::ERR_PRIVATE || self.is_in_use()
    }

    /// Whether two sets cannot be exchanged because their kinds or families differ.
    #[must_use]
    pub fn is_of_another_type(&self) -> bool {
        self.number == numbers::ERR_TYPE_MISMATCH
    }
}

impl IpsetError {
    /// Whether what was asked about is not there.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        match self {
            Self::Refused { first, more } => first.is_absent() && *more == 0,
            Self::Netlink(error) => error.is_absent(),
            Self::NoType { .. } | Self::Name(_) => false,
        }
    }
}

fn and_more(more: usize) -> String {
    match more {
        0 => String::new(),
        more => format!("; and {more} more"),
    }
}
