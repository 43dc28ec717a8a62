//! The driver against a real kernel, in network namespaces that each test makes for itself and that vanish
//! with it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic in a test is the failure itself, and the helpers of an integration test are not test functions"
)]

mod bed;
mod conntrack;
mod events;
mod routes;
mod tunnels;
#[path = "../../../tests/packets/undisturbed.rs"]
mod undisturbed;
mod workload;
