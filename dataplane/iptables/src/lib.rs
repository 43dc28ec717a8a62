//! The iptables driver: chains of our own beside others', and IP sets.
//!
//! - [`names`]: what ours is called, made and recognised in one place.
//! - [`ops`]: what is to be written, as text of rules and typed members of sets: the wall inside this crate.
//! - [`layout`]: what the chains and sets say, and how one state becomes the next. Pure.

pub mod layout;
pub mod names;
pub mod ops;
