//! The layout of our table, as pure values: what it says, in numbers, and how one state becomes the next.
//!
//! An address leads to an *identity*, an interface to its *group*, identity and group to a *row*, and row, protocol and
//! port to a *result*. A packet's cost does not grow with the number of policies.
//!
//! A commit is not a moment for a packet that is between two lookups: it may see the old answer of the first and the
//! new one of the second. Hence the write protocol. *Prepare*: what is new is committed before anything points at it.
//! *Switch*: pointers change. *Retire*: what is no longer used goes a second later. A number never gets another
//! meaning while a packet may still hold it.

mod address_sets;
mod confined;
mod groups;
mod identities;
pub mod names;
mod nat;
mod ops;
mod outgoing;
mod planner;
mod row;
mod settings;
mod simulate;
pub mod skeleton;
mod state;
mod to_node;
mod tunnels;
mod vacant;

pub(crate) use address_sets::{NODE_ADDRESSES, VACANT_ADDRESSES, read_address};
pub use dataplane_tables::{
    Confined, EndpointToHost, Exclusions, Outgoing, Refusal, TunnelsFromWorkloads, TunnelsInUse,
};
pub(crate) use nat::{host_port_element, read_host_port};
pub use ops::{Op, SetSpec};
pub(crate) use planner::{Move, endpoint_elements, net_element, row_elements};
pub use planner::{Plan, Planner, TableSize};
pub use row::{LoweredRow, RowRule, lower};
pub use settings::LayoutSettings;
pub use simulate::{Packet, Way, dangling, simulate};
pub(crate) use skeleton::maps_of;
pub use state::{EndpointState, GroupState, NetEntry, State};
pub use tunnels::RefusedTunnels;
