//! Links, addresses, routes, neighbours, sysctls and connection-tracking entries, by netlink.
//!
//! The crate is one driver of the dataplane: it is told what should be, looks at what is, and writes the
//! difference. It starts no process, has no clock of its own in its decisions and needs no asynchronous
//! runtime: a netlink request is answered before the call that sent it returns.
//!
//! Rooms, in reading order:
//! - [`names`], [`mac`]: the conventions by which an interface is recognised as ours;
//! - [`workload`]: one pod's interface, from nothing to reachable, and back;
//! - [`nodes`]: which routes lead to the other nodes' pods;
//! - [`routes`], [`neighbours`], [`addresses`], [`links`], [`sysctl`], [`conntrack`]: one kind of kernel
//!   object each, with its intended form, its observed form, a pure plan between them, and its execution;
//! - [`tunnels`]: the devices that carry pods' packets between nodes, and what each knows of the other nodes;
//! - [`events`]: what the kernel says has changed;
//! - [`namespace`], [`rtnetlink`], [`error`], [`socket`], [`attributes`]: how the kernel is spoken to, also by the drivers of
//!   other netlink protocols.

pub mod addresses;
pub mod attributes;
pub mod conntrack;
pub mod error;
pub mod events;
pub mod links;
pub mod mac;
pub mod names;
pub mod namespace;
pub mod neighbours;
pub mod nodes;
pub mod routes;
pub mod rtnetlink;
pub mod socket;
pub mod sysctl;
pub mod tunnels;
pub mod workload;

pub use error::{NetlinkError, chain};
pub use mac::MacAddress;
pub use names::{InterfaceName, InterfacePrefixes, InvalidInterfaceName, host_interface_name};
pub use namespace::NetworkNamespace;
pub use rtnetlink::Rtnetlink;
pub use socket::Patience;
