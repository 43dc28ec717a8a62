//! What the kernel tells about objects, in dumps and in events.

use super::attribute::{Attributes, Malformed, malformed, read_be32, read_text};
use super::chain::ObservedChain;
use super::element::ObservedElements;
use super::message::{Message, Operation};
use super::numbers::Family;
use super::rule::ObservedRule;
use super::set::ObservedSet;
use super::table::ObservedTable;

const NFTA_GEN_ID: u16 = 1;
const NFTA_GEN_PROC_PID: u16 = 2;
const NFTA_GEN_PROC_NAME: u16 = 3;

/// The generation of the ruleset: a number that every commit of any program makes larger, and who made the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The number. It starts again after 32 bits.
    pub id: u32,
    /// The process that committed; in answers to questions, the asking one.
    pub process: Option<u32>,
    /// Its name.
    pub name: Option<String>,
}

/// An object of nf_tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A table.
    Table(ObservedTable),
    /// A chain.
    Chain(ObservedChain),
    /// A rule.
    Rule(ObservedRule),
    /// A set.
    Set(ObservedSet),
    /// Elements of one set.
    Elements(ObservedElements),
    /// The generation; ends the events of a commit.
    Generation(Generation),
    /// An object without a name here (a stateful object, a flow table), by the kernel's operation number.
    Foreign(Family, Operation),
}

impl Object {
    /// The family and name of the table that the object is or belongs to.
    #[must_use]
    pub fn table(&self) -> Option<(Family, &str)> {
        match self {
            Self::Table(table) => Some((table.family, &table.name)),
            Self::Chain(chain) => Some((chain.family, &chain.table)),
            Self::Rule(rule) => Some((rule.family, &rule.table)),
            Self::Set(set) => Some((set.family, &set.table)),
            Self::Elements(elements) => Some((elements.family, &elements.table)),
            Self::Generation(_) | Self::Foreign(..) => None,
        }
    }
}

/// An object that came, changed or stands; or one that went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The object is there.
    New(Object),
    /// The object is gone.
    Gone(Object),
}

impl Notice {
    /// Reads a message; none if it is not about nf_tables.
    ///
    /// # Errors
    /// The message is about nf_tables but lacks what it must have.
    pub fn decode(message: &Message<'_>) -> Result<Option<Self>, Malformed> {
        let Some((operation, family)) = message.operation() else {
            return Ok(None);
        };
        let payload = message.attributes();
        let object = match operation {
            Operation::NewTable | Operation::DeleteTable => {
                Object::Table(ObservedTable::decode(family, payload)?)
            }
            Operation::NewChain | Operation::DeleteChain => {
                Object::Chain(ObservedChain::decode(family, payload)?)
            }
            Operation::NewRule | Operation::DeleteRule => {
                Object::Rule(ObservedRule::decode(family, payload)?)
            }
            Operation::NewSet | Operation::DeleteSet => Object::Set(ObservedSet::decode(family, payload)?),
            Operation::NewElements | Operation::DeleteElements => {
                Object::Elements(ObservedElements::decode(family, payload)?)
            }
            Operation::NewGeneration => Object::Generation(Generation::decode(payload)?),
            other => Object::Foreign(family, other),
        };
        Ok(Some(match operation {
            Operation::DeleteTable
            | Operation::DeleteChain
            | Operation::DeleteRule
            | Operation::DeleteSet
            | Operation::DeleteElements => Self::Gone(object),
            _ => Self::New(object),
        }))
    }

    /// The object.
    #[must_use]
    pub fn object(&self) -> &Object {
        match self {
            Self::New(object) | Self::Gone(object) => object,
        }
    }

    /// The object, without whether it came or went.
    #[must_use]
    pub fn into_object(self) -> Object {
        match self {
            Self::New(object) | Self::Gone(object) => object,
        }
    }
}

impl Generation {
    fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let attributes = Attributes::new(payload);
        let id = attributes
            .find(NFTA_GEN_ID)
            .ok_or(malformed("generation without number"))?;
        let process = attributes.find(NFTA_GEN_PROC_PID);
        Ok(Self {
            id: read_be32(id, "generation")?,
            process: process.map(|process| read_be32(process, "process")).transpose()?,
            name: attributes.find(NFTA_GEN_PROC_NAME).map(read_text),
        })
    }
}
