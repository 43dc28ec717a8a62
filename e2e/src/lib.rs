//! The harness of the proofs: a node and its pods as network namespaces, the real brain and hands between them, and
//! probes that say of thousands of packets a second whether they arrived.
//!
//! Rooms, in reading order:
//! - [`world`]: a node, its pods and what lies outside, wired and programmed;
//! - [`fabric`]: several nodes in several subnets, each with its own engine, and what is between them;
//! - [`engine`]: the calculation graph and the dataplane on a thread of the node;
//! - [`rules`]: the ways to hold policy in the kernel, with each of which tests run;
//! - [`bed`]: namespaces, and the tools of the distribution as the second opinion and as the neighbours;
//! - [`packet`] and [`wire`]: packets made by hand, sent and observed at the interfaces;
//! - [`talk`] and [`program`]: conversations made by hand, and programs with sockets;
//! - [`manifest`]: resources in few words;
//! - [`random`]: random clusters, changes to them, and flows;
//! - [`agreement`]: oracle, simulator and kernel asked the same, and disagreements reduced and kept.
//!
//! Everything here panics where something is wrong: it is the failure of the test that called it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the harness belongs to the tests; a panic in it is the failure itself"
)]

pub mod agreement;
pub mod bed;
pub mod engine;
pub mod fabric;
pub mod manifest;
pub mod packet;
pub mod program;
pub mod random;
pub mod rules;
pub mod talk;
pub mod wire;
pub mod world;
