//! The planner against a literal model of the kernel's table, and against the plain judge.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is the failure itself"
)]

mod interleaving;
mod kernel;
mod life;
mod lowered;
mod steps;
mod ways;
#[path = "../../../tables/tests/world/mod.rs"]
mod world;
