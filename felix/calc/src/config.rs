//! What the graph must be told: facts that are not in the datastore.

/// Settings of the calculation graph. They do not change in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CalcConfig {
    /// Name of the node that the graph calculates for.
    pub node: String,
}

impl CalcConfig {
    /// The settings of a node.
    pub fn for_node(node: impl Into<String>) -> Self {
        CalcConfig { node: node.into() }
    }
}
