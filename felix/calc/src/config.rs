//! What the graph must be told: facts that are not in the datastore.

/// Settings of the calculation graph. They do not change in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CalcConfig {
    /// Name of the node that the graph calculates for.
    pub node: String,
    /// Whether workloads have their addresses from the ranges that the cluster gave their nodes (`host-local` with
    /// `usePodCidr`): then these ranges are where the nodes are, and not blocks alone.
    pub node_ranges: bool,
}

impl CalcConfig {
    /// The settings of a node whose workloads have their addresses from pools.
    pub fn for_node(node: impl Into<String>) -> Self {
        CalcConfig {
            node: node.into(),
            node_ranges: false,
        }
    }

    /// The same where workloads have their addresses from the nodes' own ranges.
    pub fn with_node_ranges(mut self, yes: bool) -> Self {
        self.node_ranges = yes;
        self
    }
}
