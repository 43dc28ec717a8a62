//! Backend-free decision tables: peers, groups and rows, lowered from rules. Pure.
//!
//! - A *class* of addresses belongs to the same atoms ([`AddressIndex`]).
//! - A *group* is one direction of endpoints with the same ordered policies and own side ([`GroupKey`]).
//! - A *row* is what a group does with one class, for every protocol and port ([`Row`]), with tiers, order, Pass,
//!   profiles and defaults compiled away.
//!
//! Beside policy they keep what a backend needs as it is said: ports of the node, pools, and the addresses of nodes.
//!
//! Every backend lowers these tables further; none of them looks at a rule again.

mod address;
mod chain;
mod claims;
mod confined;
mod group;
mod nets;
mod row;
mod sets;
mod settings;
mod tables;
mod ways;

pub use address::{AddressChanges, AddressIndex, ClassId, Interval};
pub use claims::InterfaceClaims;
pub use confined::Confined;
pub use group::{Direction, GroupKey, OwnSide};
pub use row::{
    Area, EVERYTHING, Painter, Plane, Protocols, Row, Span, Strip, Verdict, complement, intersect, spans,
};
pub use sets::Membership;
pub use settings::{EndpointToHost, Exclusions, Outgoing, Refusal, TunnelsFromWorkloads, TunnelsInUse};
pub use tables::{Changes, GroupId, GroupView, Placed, RowRef, Tables};
