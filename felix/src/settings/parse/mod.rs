//! One parser for each type of setting: text in, a value that needs no further doubt out.
//!
//! Parsers are types, not functions, so that the table of settings can name one where it names the field's type.

mod choice;
mod duration;
mod interface;
mod list;
mod name;
mod net;
mod number;
mod path;
mod port;

pub use choice::{
    AllowAction, Choice, DatastoreKind, DenyAction, EndpointToHostAction, EtcdScheme, FlowsOnPolicyChange,
    InsertMode, IptablesVariant, LogFormat, LogSeverity, NatExclusions, NftablesMode, OneOf, OneOfOrNone,
    ServiceLoopPrevention, SpoofingAllowed, Switch,
};
pub use duration::{Millis, Seconds, go_duration};
pub use interface::{InterfaceFilter, InterfaceFilterList, InterfacePattern, InterfacePrefixList};
pub use list::{EndpointList, KeyDurationList, KeyValueList};
pub use name::{Authority, HostAddress, Hostname, Region, Text};
pub use net::{CidrList, Ipv4, Ipv6};
pub use number::{Bool, Int, IptablesMarks, MarkBitmask, MaybeBool, MaybePort, Port};
pub use path::{Executable, ExistingFile, File};
pub use port::{FailsafePort, FailsafeProtocol, PortList, PortRange, PortRangeList, PortRangeOrNone};
pub use port::{RouteTableRange, RouteTableRanges};

use std::fmt::Debug;
use thiserror::Error;

/// Why a text is not a value: words that finish the sentence "the value was refused: ...".
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Invalid(pub String);

impl Invalid {
    /// A refusal with this reason.
    pub fn new(reason: impl Into<String>) -> Self {
        Invalid(reason.into())
    }
}

/// Which form a FelixConfiguration resource uses for a value, where that differs from its text elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The text, number, truth value, or list of texts as it is.
    Plain,
    /// A duration with its unit (`1m30s`), which the text form gives as a number of seconds.
    Seconds,
    /// A duration with its unit, which the text form gives as a number of milliseconds.
    Millis,
}

/// Reads one type of setting.
pub trait Parser {
    /// What is read.
    type Value: Clone + Debug + PartialEq;
    /// Which form the resource uses.
    const SHAPE: Shape = Shape::Plain;
    /// Whether [`Parser::empty`] means "nothing" and so may be asked for with `none`.
    const HAS_EMPTY: bool = true;

    /// Reads a value.
    ///
    /// # Errors
    /// The reason, when the text is not of this type.
    fn parse(raw: &str) -> Result<Self::Value, Invalid>;
    /// The value that `none` stands for.
    fn empty() -> Self::Value;
    /// The value as it would be written; the empty value shows as `none` or as nothing.
    fn show(value: &Self::Value) -> String;
    /// What a value must look like.
    fn expected() -> String;
}
