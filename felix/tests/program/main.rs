//! The program itself, in network namespaces and folders of its own: what it says, answers and leaves behind.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is the failure itself"
)]

mod bed;
mod iptables;
mod metrics;
mod programs;
mod settings;
mod start;
mod text_format;
mod uninstall;
