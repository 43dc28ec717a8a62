//! Tunnels between nodes.

mod settings;

pub use settings::{TunnelSettings, Tunnelling};
