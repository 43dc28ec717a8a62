//! A node's claim on a block: pending, then confirmed, then pending deletion.
//!
//! A pending affinity gives no right; the block that its node creates does. It exists so that a crash between the two
//! leaves a trace that says who was about to own the block.

use crate::name;
use ipnet::IpNet;
use policy_model::{AffinityState, BlockAffinitySpec, Object};

/// The value of `type` for nodes.
const TYPE_HOST: &str = "host";
const PREFIX: &str = "host:";

/// A new affinity object.
pub fn new(node: &str, cidr: IpNet, state: AffinityState) -> Object<BlockAffinitySpec> {
    let spec = BlockAffinitySpec {
        state,
        node: node.to_owned(),
        cidr,
        affinity_type: TYPE_HOST.to_owned(),
    };
    Object::named(name::affinity_key(node, &cidr).name, spec)
}

/// The same affinity in another state.
#[must_use]
pub fn in_state(affinity: &Object<BlockAffinitySpec>, state: AffinityState) -> Object<BlockAffinitySpec> {
    let mut changed = affinity.clone();
    changed.spec.state = state;
    changed
}

/// Whether an affinity is of this node.
pub fn is_of(affinity: &BlockAffinitySpec, node: &str) -> bool {
    affinity.node == node && is_of_a_node(affinity)
}

/// Whether an affinity is of a node at all; what belongs to something else is not ours to judge.
pub fn is_of_a_node(affinity: &BlockAffinitySpec) -> bool {
    affinity.affinity_type.is_empty() || affinity.affinity_type == TYPE_HOST
}

/// What a block's `affinity` says for a node.
pub fn text(node: &str) -> String {
    format!("{PREFIX}{node}")
}

/// The node that a block's `affinity` names.
pub fn node_of(text: &str) -> Option<&str> {
    text.strip_prefix(PREFIX)
}
