//! What the CNI plugin and the node's felix say to each other, and the caller's side of it.
//!
//! A crate of its own because the plugin is started for every pod: it links this and nothing of the node's side.
//!
//! Rooms: [`words`] (requests and answers), [`client`] (asking, with descriptors), [`spool`] (removals that are noted
//! down while the node's felix is away).

pub mod client;
pub mod spool;
pub mod words;

pub use client::{CallError, call, call_with};
pub use words::{
    AddressWishes, Answer, AttachmentKey, Command, Failure, Family, PortMapping, Request, Success, Transport,
    code,
};
