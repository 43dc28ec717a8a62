//! The hands on a real kernel: each test in a network namespace of its own, with a lock file of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is the failure itself, and the helpers of an integration test are not test functions"
)]

mod bed;
mod drift;
mod history;
mod ipsets;
mod neighbours;
mod programs;
mod tables;
