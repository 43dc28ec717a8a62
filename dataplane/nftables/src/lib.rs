//! The nftables driver: one table of our own, written by netlink batches.

pub mod socket;
pub mod wire;
pub mod layout;
