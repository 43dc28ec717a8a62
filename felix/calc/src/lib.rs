//! The calculation graph: datastore updates in, dataplane updates out. Pure and incremental.
//!
//! ```text
//!                    +-> profiles ---------+             +-> atoms (sets of rules in force) --+
//! objects -> graph --+-> policies          +-> selection +-> policies in force                +-> sequence -> updates
//!                    +-> items (labelled)--+             +-> local endpoints                  |
//!                    +-> address book, nodes, pools -> routes --------------------------------+
//! ```
//!
//! Work is in proportion to the change: an event changes a few records and marks what it may concern; a flush looks
//! at what was marked, derives it anew and says what differs from what was said before. Nothing is said twice, what
//! comes and goes between two flushes is never said, and the order of events leaves no trace in the result.
//!
//! The crate knows no clock, thread, socket or file.

mod address_book;
mod atoms;
mod config;
mod expansion;
mod fault;
mod few;
mod graph;
mod ingest;
mod items;
mod locals;
mod members;
mod nets;
mod policies;
mod profiles;
mod routes;
mod selection;
mod sequence;
mod services;
mod shared_lists;
mod stats;
mod table;
mod tiers;
mod tunnel_ends;
mod waiting;

pub use config::CalcConfig;
pub use fault::{Fault, InForce};
pub use graph::CalcGraph;
pub use stats::CalcStats;
