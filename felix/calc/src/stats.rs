//! What the graph says of itself, for metrics.

/// Numbers of things now, and of what was done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CalcStats {
    /// Workload endpoints of the cluster.
    pub workload_endpoints: usize,
    /// Workload endpoints of this node that are enforced.
    pub local_endpoints: usize,
    /// Host endpoints of the cluster.
    pub host_endpoints: usize,
    /// Network sets, of namespaces and of the cluster.
    pub network_sets: usize,
    /// Policies, of namespaces and of the cluster.
    pub policies: usize,
    /// Policies that select an endpoint of this node.
    pub active_policies: usize,
    /// Profiles.
    pub profiles: usize,
    /// Profiles that an endpoint of this node names.
    pub active_profiles: usize,
    /// Tiers, the default one included.
    pub tiers: usize,
    /// Different selectors of rules in force.
    pub active_selectors: usize,
    /// Sets of addresses in use.
    pub atoms: usize,
    /// Slices of Services.
    pub service_slices: usize,
    /// Nodes.
    pub nodes: usize,
    /// Address blocks.
    pub blocks: usize,
    /// IP pools.
    pub pools: usize,
    /// Routes to other nodes.
    pub routes: usize,
    /// Different strings that labels, namespaces and nodes are made of.
    pub strings: usize,
    /// Objects with a fault.
    pub faulty: usize,
    /// Objects that came or changed, since the start.
    pub upserts: u64,
    /// Objects that were deleted, since the start.
    pub deletes: u64,
    /// Objects that had a fault when they came, since the start.
    pub faults: u64,
    /// Flushes, since the start.
    pub flushes: u64,
    /// Updates that were sent, since the start.
    pub updates: u64,
}
