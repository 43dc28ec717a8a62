//! The iptables driver: chains of our own beside others' by `iptables-restore`, one call a table and family; IP sets by
//! netlink.
//!
//! - [`names`]: what ours is called, made and recognised in one place.
//! - [`ops`]: what is to be written, as text of rules and typed members of sets: the wall inside this crate.
//! - [`layout`]: what the chains and sets say, and how one state becomes the next. Pure.
//! - [`programs`]: which variants of iptables are there, and running them with the lock and a deadline.
//! - [`ours`]: recognising what is ours among everybody's rules, and what differs from what should be.
//! - [`ipset`]: the kernel's IP sets, by its own netlink protocol.
//! - [`watch`]: what tells that somebody else changed something.
//! - [`driver`]: carries operations out, in order, until the kernel holds what is wanted.

pub mod driver;
pub mod ipset;
pub mod layout;
pub mod names;
pub mod ops;
pub mod ours;
pub mod programs;
mod show;
pub mod watch;
