//! The agent on every node: settings, wiring, health, metrics.
//!
//! The rooms here decide nothing about policy. They say what was asked of the agent ([`settings`]), how it stands
//! ([`health`], [`metrics`]) and what it does ([`logging`]); the calculation graph and the dataplane have their own
//! crates.

pub mod agent;
pub mod checks;
pub mod cleanup;
pub mod datastore;
pub mod health;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod node_address;
pub mod privileges;
pub mod rules;
pub mod settings;
pub mod uninstall;
