//! A node with workloads and a neighbour, and what real packets reach there, with every way to hold policy.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is the failure itself"
)]

mod bed;
mod carrying;
mod confined;
mod host_ports;
mod rules;
mod sctp;
mod sockets;
#[path = "../support/mod.rs"]
mod support;
mod switching;
mod undisturbed;
