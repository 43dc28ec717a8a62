//! Parts of the space of protocols, ports and types, to paint rows with.

use dataplane_tables::{Area, EVERYTHING, Protocols, Span, complement};
use policy_model::Protocol;
use proptest::prelude::*;

/// Ports, types and codes at which something begins or ends.
pub(crate) const EDGES: [u16; 9] = [0, 1, 79, 80, 95, 96, 97, 8000, 65_535];

fn span() -> impl Strategy<Value = Span> {
    (0..EDGES.len(), 0..EDGES.len()).prop_map(|(a, b)| (EDGES[a.min(b)], EDGES[a.max(b)]))
}

fn spans() -> impl Strategy<Value = Vec<Span>> {
    prop_oneof![2 => Just(vec![EVERYTHING]), 2 => span().prop_map(|s| vec![s]), 1 => span().prop_map(|s| complement(&[s]))]
}

/// An area.
pub(crate) fn area() -> impl Strategy<Value = Area> {
    let protocol = prop::sample::select(vec![6u8, 17, 1, 58]).prop_map(Protocol::from_number);
    let whole = || (vec![EVERYTHING], vec![EVERYTHING]);
    prop_oneof![
        4 => (protocol.clone(), spans(), spans()).prop_map(|(p, x, y)| Area { protocols: Protocols::Is(p), x, y }),
        1 => Just(()).prop_map(move |()| Area { protocols: Protocols::Any, x: whole().0, y: whole().1 }),
        1 => protocol.prop_map(move |p| Area { protocols: Protocols::Not(p), x: whole().0, y: whole().1 }),
    ]
}
