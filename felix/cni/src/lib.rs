//! Connecting a workload to its node: the node-local server, its protocol, and the client that calls it.
//!
//! Whoever starts workloads (the CNI plugin, the lab) calls the node's felix over a Unix socket that only root may
//! open. felix allocates the addresses, makes the interface, writes policy and routes, and answers when all of it is
//! in the kernel. No credential and no datastore client on the caller's side.

pub mod attach;
pub mod client;
mod ipam;
pub mod journal;
pub mod protocol;
pub mod server;

pub use attach::{AttachSettings, Attacher, EndpointView, ProgrammedEndpoint};
pub use client::{CallError, call};
pub use protocol::{Answer, AttachmentKey, Command, Failure, Request, Success, code};
pub use server::{Handler, ServerError, serve};
