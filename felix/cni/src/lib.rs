//! Connecting a workload to its node: the node-local server, and what it does for each request.
//!
//! Whoever starts workloads (the CNI plugin, the lab) calls the node's felix over a Unix socket that only root may
//! open. felix takes the addresses from what it reserved ahead of need, makes the interface, writes policy and routes, and
//! answers when all of it is in the kernel. No credential and no datastore client on the caller's side, and no write to
//! the datastore that is waited for on this one. README.md says which source of truth wins after which death.

mod addresses;
mod allocator;
pub mod attach;
pub mod conflist;
mod connecting;
mod holder;
mod host_local;
mod interface;
mod ipam;
pub mod journal;
mod naming;
mod ports;
pub mod server;
mod shortage;
mod tunnel_addresses;
pub mod view;

/// The words of the protocol; a crate of their own, for the plugin.
pub use felix_cni_protocol::words as protocol;

pub use addresses::StatedAddresses;
pub use attach::{AttachSettings, Attacher, EndpointView, InForce, ProgrammedEndpoint};
pub use felix_cni_protocol::{
    Answer, AttachmentKey, CallError, Command, Failure, Request, Success, call, code,
};
pub use naming::{interface_of, pod_of};
pub use policy_model_ipam::Family;
pub use server::{Caller, Handler, ServerError, serve};
pub use shortage::Shortage;
pub use tunnel_addresses::TunnelAddresses;
pub use view::ClusterView;
