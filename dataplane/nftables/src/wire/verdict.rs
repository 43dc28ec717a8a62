//! What becomes of a packet: the verdicts of rules and of verdict maps, and the datum that holds either a value or a verdict.

use std::sync::Arc;

use super::attribute::{self, Attributes, Malformed, malformed, read_be32, read_text};
use super::value::Value;

const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;

/// The end of a rule for a packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Ends this hook; chains of the same hook with a later priority still see the packet.
    Accept,
    /// Ends the packet.
    Drop,
    /// Goes on with the next rule.
    Continue,
    /// Goes on with the next rule; what an expression that does not match says.
    Break,
    /// Goes back to the chain that jumped here.
    Return,
    /// Goes to another chain, and comes back after its last rule.
    Jump(Arc<str>),
    /// Goes to another chain, and does not come back.
    Goto(Arc<str>),
    /// A code without a name here, such as the queue.
    Other(i32),
}

impl Verdict {
    /// The chain that this verdict leads to.
    #[must_use]
    pub fn chain(&self) -> Option<&str> {
        match self {
            Self::Jump(chain) | Self::Goto(chain) => Some(chain),
            Self::Accept | Self::Drop | Self::Continue | Self::Break | Self::Return | Self::Other(_) => None,
        }
    }

    fn code(&self) -> i32 {
        match *self {
            Self::Drop => 0,
            Self::Accept => 1,
            Self::Continue => -1,
            Self::Break => -2,
            Self::Jump(_) => -3,
            Self::Goto(_) => -4,
            Self::Return => -5,
            Self::Other(code) => code,
        }
    }

    /// Appends a datum attribute of this kind that holds the verdict.
    pub(crate) fn encode(&self, out: &mut Vec<u8>, kind: u16) {
        let datum = attribute::open(out, kind);
        let verdict = attribute::open(out, NFTA_DATA_VERDICT);
        attribute::be32(out, NFTA_VERDICT_CODE, self.code().cast_unsigned());
        if let Some(chain) = self.chain() {
            attribute::text(out, NFTA_VERDICT_CHAIN, chain);
        }
        attribute::close(out, verdict);
        attribute::close(out, datum);
    }

    fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let attributes = Attributes::new(payload);
        let code = attributes
            .find(NFTA_VERDICT_CODE)
            .ok_or(malformed("verdict without code"))?;
        let chain = || -> Result<Arc<str>, Malformed> {
            let name = attributes
                .find(NFTA_VERDICT_CHAIN)
                .ok_or(malformed("jump without chain"))?;
            Ok(read_text(name).into())
        };
        Ok(match read_be32(code, "verdict code")?.cast_signed() {
            0 => Self::Drop,
            1 => Self::Accept,
            -1 => Self::Continue,
            -2 => Self::Break,
            -3 => Self::Jump(chain()?),
            -4 => Self::Goto(chain()?),
            -5 => Self::Return,
            other => Self::Other(other),
        })
    }
}

/// What a datum attribute holds.
#[derive(Debug)]
pub(crate) enum Datum {
    /// Bytes.
    Value(Value),
    /// A verdict.
    Verdict(Verdict),
}

impl Datum {
    pub(crate) fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let attributes = Attributes::new(payload);
        if let Some(value) = attributes.find(NFTA_DATA_VALUE) {
            return Ok(Self::Value(Value::bytes(value)));
        }
        let verdict = attributes
            .find(NFTA_DATA_VERDICT)
            .ok_or(malformed("datum with neither value nor verdict"))?;
        Verdict::decode(verdict).map(Self::Verdict)
    }
}

/// Appends a datum attribute of this kind that holds a value.
#[inline]
pub(crate) fn encode_value(out: &mut Vec<u8>, kind: u16, value: &Value) {
    let datum = attribute::open(out, kind);
    attribute::bytes(out, NFTA_DATA_VALUE, value.as_bytes());
    attribute::close(out, datum);
}

/// Reads a datum attribute that must hold a value.
pub(crate) fn decode_value(payload: &[u8], what: &'static str) -> Result<Value, Malformed> {
    match Datum::decode(payload)? {
        Datum::Value(value) => Ok(value),
        Datum::Verdict(_) => Err(malformed(what)),
    }
}
