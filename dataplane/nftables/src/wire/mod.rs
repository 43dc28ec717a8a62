//! The nf_tables netlink language: typed messages in, bytes out, and back.
//!
//! Written by hand from the kernel's own description (`linux/netfilter/nf_tables.h`, `linux/netfilter/nfnetlink.h`), because the
//! usual library is under the GPL and its safe layers know no maps. Everything here is pure: no socket, no clock. A [`Batch`] is
//! one growing buffer; nothing is allocated per attribute, so a quarter of a million map elements cost milliseconds.
//!
//! What the kernel sends back is decoded into `Observed…` types. Whatever we encode we can decode; what others made and we do not
//! know stays as bytes ([`Expr::Foreign`], [`Object::Foreign`]), so that a foreign rule never makes a dump fail.

#[macro_use]
mod numbers;
mod attribute;
mod batch;
mod chain;
mod datatype;
mod element;
mod expr;
mod interval;
mod message;
mod notice;
mod register;
mod request;
mod rule;
mod sequence;
mod set;
mod table;
mod userdata;
mod value;
mod verdict;

pub use attribute::{Attributes, Malformed};
pub use batch::{Batch, Existing, MESSAGE_LIMIT, SetId};
pub use chain::{BaseChain, Chain, ChainType, Hook, ObservedChain, Policy, priority};
pub use datatype::{Datatype, KeyType, SetData};
pub use element::{Element, ElementData, ElementKey, Keys, ObservedElement, ObservedElements, SetRef};
pub use expr::{
    ByteorderOp, CmpOp, CtDirection, CtKey, Expr, Fib, FibResult, Limit, LimitUnit, Log, LogTarget, Lookup,
    MetaKey, Nat, NatKind, NatRange, OnHit, PayloadBase, RangeOp, Reject, ct_state, ct_status, fib_flag,
    log_flag, nat_flag,
};
pub use interval::join_intervals;
pub use message::{Acknowledgement, Message, Messages, Operation};
pub use notice::{Generation, Notice, Object};
pub use register::Register;
pub use request::Request;
pub use rule::{ObservedRule, Rule, RulePlace};
pub use sequence::{
    Source, compare, concat, drop_counted, icmp_type, icmpv6_type, inline, interface_is,
    interface_starts_with, jump, load, masked, only_family, only_protocol, port_range, set_priority,
    set_priority_from_map, vmap,
};
pub use set::{ObservedSet, Set};
pub use table::{ObservedTable, Table, TableFlags};
pub use value::{MAX_VALUE, Value};
pub use verdict::Verdict;

pub use numbers::Family;
