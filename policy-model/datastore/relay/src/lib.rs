//! The datastore port through another process: a relay offers any store on a Unix socket, and a client is a store there.
//!
//! A relay that reads the API server once and serves every node of a cluster is to come. What it will need of the rest of
//! Manx is that nobody behind the port can tell whether a store is in the same process, and this crate is the proof: the
//! port's whole conformance suite passes through a relay process, in front of every store that there is. It is also what
//! such a relay can begin with: framed messages with a version, listings in pieces, watches that say when they are alive,
//! and errors that keep their kinds.
//!
//! What it is not: it translates nothing, keeps nothing, shares nothing between two clients (each of their watches is one
//! of the store behind it), authenticates nobody (only the socket's owner can open it) and crosses no network. No program
//! of Manx uses it.
//!
//! | room | what it does |
//! |---|---|
//! | `message` | what is said, and how the port's values are written (pure) |
//! | `frame` | whole messages out of a stream of bytes, bounded |
//! | `server` | a store, offered |
//! | `client` | a store, as it is offered elsewhere |

mod client;
mod frame;
mod message;
mod server;

pub use client::RelayStore;
pub use server::{Relay, RelayError};

use std::time::Duration;

/// The version of what is said. Both sides refuse another one.
pub const VERSION: u32 = 1;

/// How patient a side is with the other.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long the other side may be silent when it is its turn, or not take what is sent to it.
    pub patience: Duration,
    /// How often a watch on which nothing happens says that it is alive; shorter than the other side's patience.
    pub beat: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            patience: Duration::from_secs(30),
            beat: Duration::from_secs(10),
        }
    }
}
