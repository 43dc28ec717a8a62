//! The planner against a literal model of the kernel's chains and sets, and against the plain judge.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is the failure itself"
)]

mod between;
mod golden;
mod kernel;
mod life;
mod lowered;
mod restart;
mod say;
mod scale;
mod skeleton;
mod steps;
mod ways;
#[path = "../../../tables/tests/world/mod.rs"]
mod world;
