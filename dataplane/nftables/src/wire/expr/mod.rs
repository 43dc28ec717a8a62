//! Expressions: the steps of a rule.
//!
//! A rule loads values into registers, compares or looks them up, and acts. An expression that does not match ends the rule for the
//! packet. We decode all that we encode; anything else is [`Expr::Foreign`] with its bytes, so that it can be compared and shown.

mod decode;
mod encode;
mod numbers;
mod statement;

use std::sync::Arc;

pub(crate) use decode::decode_list;
pub(crate) use encode::encode_list;
pub use numbers::{
    ByteorderOp, CmpOp, CtDirection, CtKey, FibResult, LimitUnit, MetaKey, NatKind, PayloadBase, RangeOp,
    ct_state, ct_status, fib_flag, log_flag, nat_flag,
};
pub use statement::{Fib, Limit, Log, LogTarget, Nat, NatRange, Reject};

use super::batch::SetId;
use super::register::Register;
use super::value::Value;
use super::verdict::Verdict;

/// One step of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expr {
    /// Loads a property of the packet that stands beside it.
    Meta {
        /// Which property.
        key: MetaKey,
        /// Where to.
        to: Register,
    },
    /// Sets a property of the packet: priority, mark, trace.
    SetMeta {
        /// Which property.
        key: MetaKey,
        /// Where from.
        from: Register,
    },
    /// Loads bytes of the packet. No match if the packet is too short or has no such header.
    Payload {
        /// The header that the offset counts from.
        base: PayloadBase,
        /// The first byte.
        offset: u32,
        /// How many bytes.
        len: u32,
        /// Where to.
        to: Register,
    },
    /// Loads a property of the packet's connection.
    Ct {
        /// Which property.
        key: CtKey,
        /// Of which direction, for properties that each direction has.
        direction: Option<CtDirection>,
        /// Where to.
        to: Register,
    },
    /// Sets a property of the packet's connection.
    SetCt {
        /// Which property.
        key: CtKey,
        /// Where from.
        from: Register,
    },
    /// Matches if a register compares so with a value; a shorter value compares a prefix.
    Cmp {
        /// How.
        op: CmpOp,
        /// The left side.
        from: Register,
        /// The right side.
        value: Value,
    },
    /// Matches if a register is within, or without, two values, both counted.
    Range {
        /// Within or without.
        op: RangeOp,
        /// The register.
        from: Register,
        /// The least value.
        first: Value,
        /// The greatest value.
        last: Value,
    },
    /// Computes `(register & mask) ^ xor`.
    Bitwise {
        /// Where from.
        from: Register,
        /// Where to.
        to: Register,
        /// The bits to keep.
        mask: Value,
        /// The bits to flip after that, of the same width.
        xor: Value,
    },
    /// Turns the bytes of each number in a register round.
    Byteorder {
        /// Where from.
        from: Register,
        /// Where to.
        to: Register,
        /// Which way.
        op: ByteorderOp,
        /// How many bytes in all.
        len: u32,
        /// The bytes of one number.
        size: u32,
    },
    /// Looks a register up in a set or map.
    Lookup(Lookup),
    /// Puts a value into a register.
    Immediate {
        /// Where to.
        to: Register,
        /// The value.
        value: Value,
    },
    /// Ends the rule with a verdict.
    Verdict(Verdict),
    /// Counts packets and bytes. In a rule to be made: where to count from.
    Counter {
        /// Packets.
        packets: u64,
        /// Bytes.
        bytes: u64,
    },
    /// Writes to the log.
    Log(Log),
    /// Matches up to, or above, a rate.
    Limit(Limit),
    /// Answers with an error and drops.
    Reject(Reject),
    /// Asks the routing tables.
    Fib(Fib),
    /// Leaves the packet out of connection tracking. Only before it (priority below -200).
    NoTrack,
    /// Translates the source to the outgoing interface's address.
    Masquerade {
        /// How ports are chosen ([`nat_flag`]).
        flags: u32,
        /// The ports to choose from, in registers.
        ports: Option<NatRange>,
    },
    /// Translates the destination to this host.
    Redirect {
        /// How ports are chosen ([`nat_flag`]).
        flags: u32,
        /// The port, in registers.
        ports: Option<NatRange>,
    },
    /// Translates source or destination.
    Nat(Nat),
    /// An expression that has no name here.
    Foreign {
        /// The kernel's name of it.
        name: String,
        /// Its attributes as they stand.
        data: Vec<u8>,
    },
}

/// Looks a register up in a set or map.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lookup {
    /// The set's name. An anonymous set is named by a pattern until the kernel has given it a name.
    pub set: Arc<str>,
    /// The set's number in the batch that makes it; needed for anonymous sets only. Dumps do not tell it.
    pub id: Option<SetId>,
    /// The first word of the key.
    pub from: Register,
    /// What is done on a hit.
    pub hit: OnHit,
}

/// What a lookup does on a hit; a miss does not match (and the other way round for [`OnHit::Fail`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnHit {
    /// Goes on: the packet is in the set.
    Match,
    /// Does not match: the packet must not be in the set.
    Fail,
    /// Puts the map's value into a register.
    Load(Register),
    /// Ends the rule with the map's verdict.
    Verdict,
}

impl Expr {
    /// Loads a property of the packet into the first register.
    #[must_use]
    pub const fn meta(key: MetaKey) -> Self {
        Self::Meta {
            key,
            to: Register::FIRST,
        }
    }

    /// Sets a property of the packet from the first register.
    #[must_use]
    pub const fn set_meta(key: MetaKey) -> Self {
        Self::SetMeta {
            key,
            from: Register::FIRST,
        }
    }

    /// Loads a property of the connection into the first register.
    #[must_use]
    pub const fn ct(key: CtKey) -> Self {
        Self::Ct {
            key,
            direction: None,
            to: Register::FIRST,
        }
    }

    /// Loads bytes of the packet into the first register.
    #[must_use]
    pub const fn payload(base: PayloadBase, offset: u32, len: u32) -> Self {
        Self::Payload {
            base,
            offset,
            len,
            to: Register::FIRST,
        }
    }

    /// Matches if the first register equals the value.
    #[must_use]
    pub const fn equals(value: Value) -> Self {
        Self::Cmp {
            op: CmpOp::Eq,
            from: Register::FIRST,
            value,
        }
    }

    /// Matches if the first register differs from the value.
    #[must_use]
    pub const fn differs(value: Value) -> Self {
        Self::Cmp {
            op: CmpOp::Neq,
            from: Register::FIRST,
            value,
        }
    }

    /// Looks the first register up in a named set or map.
    #[must_use]
    pub fn lookup(set: impl Into<Arc<str>>, hit: OnHit) -> Self {
        Self::Lookup(Lookup {
            set: set.into(),
            id: None,
            from: Register::FIRST,
            hit,
        })
    }

    /// Puts a value into the first register.
    #[must_use]
    pub const fn immediate(value: Value) -> Self {
        Self::Immediate {
            to: Register::FIRST,
            value,
        }
    }

    /// A counter that starts at zero.
    #[must_use]
    pub const fn counter() -> Self {
        Self::Counter { packets: 0, bytes: 0 }
    }

    /// Ends the rule by going to a chain and coming back.
    #[must_use]
    pub fn jump(chain: impl Into<Arc<str>>) -> Self {
        Self::Verdict(Verdict::Jump(chain.into()))
    }

    /// Ends the rule by going to a chain for good.
    #[must_use]
    pub fn goto(chain: impl Into<Arc<str>>) -> Self {
        Self::Verdict(Verdict::Goto(chain.into()))
    }
}
