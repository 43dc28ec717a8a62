//! The running agent: the engine that turns datastore events into kernel state, and what is wired around it.

mod engine;
mod figures;
mod following;
mod network_config;
mod state;
mod timers;
mod wiring;

pub use engine::{Engine, EngineError, EngineHandle, EngineOptions, Input};
pub use state::StateError;
pub use timers::RefreshIntervals;
pub use wiring::{AgentError, Ended, run};
