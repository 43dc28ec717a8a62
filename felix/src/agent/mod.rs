//! The running agent: the engine that turns datastore events into kernel state, and what is wired around it.

mod engine;
mod wiring;

pub use engine::{Engine, EngineError, EngineHandle, EngineOptions, Input};
pub use wiring::{AgentError, run};
