//! The running agent: the engine that turns datastore events into kernel state, and what is wired around it.

mod announcing;
mod attached;
mod dataplane_settings;
mod engine;
mod figures;
mod following;
mod handle;
mod host_ports;
mod network_config;
mod shortages;
mod state;
mod timers;
mod tunnel_notes;
mod tunnel_settings;
mod watched;
mod wiring;
mod workload_mtu;

pub(crate) use network_config::{NetworkConfig, has_tunnels};
pub(crate) use state::StateFolder;
pub(crate) use tunnel_notes::notes as tunnel_annotations;
pub(crate) use tunnel_settings::of_tunnels;
pub(crate) use wiring::{chain, workload_settings};

pub use engine::Engine;
pub use handle::{EngineError, EngineHandle, EngineOptions, Input};
pub use state::StateError;
pub use timers::RefreshIntervals;
pub use wiring::{AgentError, Ended, run};
pub use workload_mtu::WorkloadMtu;
