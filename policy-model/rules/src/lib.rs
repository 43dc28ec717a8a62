//! Policies to ordered rules ([`compile`]), and rules, facts and a flow to a verdict with its trace ([`oracle`]).
//!
//! A [`Rule`] is generic in how it refers to a set of addresses: in the language that is an [`AddressSet`] (a selector
//! or networks), on the wall between brain and hands it is a number. Everything else of a rule is the same on both
//! sides, so that oracle, simulator and kernel argue about one and the same thing.

pub mod compile;
pub mod oracle;
mod order;
mod policy;
mod rule;
mod set;

pub use compile::{Compiled, InvalidPolicy, compile_policy};
pub use order::{PolicySortKey, SortOrder, TierSortKey, compare_in_tier};
pub use policy::{CompiledPolicy, PolicyId, PolicyKind, TierId};
pub use rule::{IpVersion, PortMatch, Rule, RuleAction, RuleSide, Side};
pub use set::AddressSet;
