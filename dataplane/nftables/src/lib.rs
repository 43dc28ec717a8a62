//! The nftables driver: one table of our own, written by netlink batches.
//!
//! - [`wire`]: the nf_tables language, bytes in and out. Pure.
//! - [`socket`]: transactions, dumps and the event monitor.
//! - [`layout`]: what our table says, in numbers, and how one state becomes the next. Pure.
//! - [`contents`] and [`observe`]: what should be there and what is.
//! - [`Driver`]: carries plans out, notices drift and mends it.

mod adopt;
pub mod contents;
mod driver;
pub mod layout;
pub mod observe;
pub mod socket;
pub mod wire;

pub use driver::{Applied, Driver, DriverError, DriverSettings, cleanup};
