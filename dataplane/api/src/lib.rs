//! The wall between brain and hands: the closed set of updates that the brain may send. Pure.
//!
//! The brain (`felix-calc`) knows labels, selectors and the datastore; the hands (`dataplane`) know the kernel. What
//! crosses between them is here: *atoms* (sets of addresses by number), policies whose rules refer to atoms, endpoints
//! with their ordered policies, the nodes and pools of the cluster with the routes to them, and the ports of the node
//! that lead to workloads.
//!
//! Order within one flush, which the hands rely on: atoms and their members, then policies, then endpoints, then
//! nodes, pools and routes; removals in exact reverse (endpoints, policies, atoms) after all of these. Ports of the node may come and go
//! at any time: a packet that they bring to an interface meets what policy says of that interface at that moment.

mod atom;
mod endpoint;
mod host_port;
mod route;

pub use atom::{AtomId, AtomScope, Member, PortKey};
pub use endpoint::{EndpointId, TierPolicies, WorkloadEndpoint};
pub use host_port::HostPort;
pub use policy_model_rules::{CompiledPolicy, PolicyId};
pub use route::{ClusterNode, NodeRoute, PoolRange, Way};

use std::net::SocketAddr;
use std::sync::Arc;

/// A policy whose rules refer to atoms.
pub type Policy = CompiledPolicy<AtomId>;

/// One update. An update replaces whatever was said before about the same thing.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// A set of addresses comes into use. Its members follow in [`Update::Members`] before any rule refers to it.
    AtomCreated {
        /// The set. A number is never used again for another set.
        atom: AtomId,
        /// Which side of rules refers to it.
        scope: AtomScope,
    },
    /// Members of a set come and go. Within one update a member stands in one of the lists only, a member that is
    /// added was not in the set, and one that is removed was.
    Members {
        /// The set.
        atom: AtomId,
        /// New members.
        added: Vec<Member>,
        /// Members that left.
        removed: Vec<Member>,
    },
    /// A set that nothing refers to any more. Its members go with it.
    AtomRemoved(AtomId),
    /// A policy or profile that endpoints here refer to.
    Policy(Arc<Policy>),
    /// A policy or profile that no endpoint here refers to any more.
    PolicyRemoved(PolicyId),
    /// A workload endpoint of this node.
    Workload(Arc<WorkloadEndpoint>),
    /// A workload endpoint that left this node.
    WorkloadRemoved(EndpointId),
    /// A node of the cluster.
    Node(ClusterNode),
    /// A node that left the cluster, by its name.
    NodeRemoved(Arc<str>),
    /// A range of workload addresses that is not to be left to the node's other routes.
    Route(NodeRoute),
    /// A range that is left to them again.
    RouteRemoved(ipnet::IpNet),
    /// A range of workload addresses of the cluster (an IP pool).
    Pool(PoolRange),
    /// A range that is no longer a pool.
    PoolRemoved(ipnet::IpNet),
    /// A port of the node leads to a port of a workload: the packets' destination becomes this, and their source stays
    /// what it is.
    HostPort(HostPort, SocketAddr),
    /// A port of the node that leads to no workload any more.
    HostPortRemoved(HostPort),
    /// Everything that the datastore held at the start has been said. Sent once; nothing is written to the kernel
    /// before it.
    InSync,
}
