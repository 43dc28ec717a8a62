//! Pools, nodes and tunnels in our table: what real packets meet, what the distribution's nft says of it, and what is
//! written when.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is the failure itself"
)]

mod bed;
#[path = "../../../tests/packets/carrying.rs"]
mod carrying;
mod guards;
mod outgoing;
#[path = "../../../tests/packets/sctp.rs"]
mod sctp;
#[path = "../../../tests/packets/sockets.rs"]
mod sockets;
#[path = "../support/mod.rs"]
mod support;
mod table;
#[path = "../../../tests/packets/undisturbed.rs"]
mod undisturbed;
