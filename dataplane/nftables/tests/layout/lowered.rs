//! A lowered row treats every packet as the row does.

use crate::world::tries;
use dataplane_nftables::layout::lower;
use dataplane_tables::{Area, EVERYTHING, Painter, Protocols, Span, Verdict, complement};
use policy_model::Protocol;
use proptest::prelude::*;

const EDGES: [u16; 9] = [0, 1, 79, 80, 95, 96, 97, 8000, 65_535];

fn span() -> impl Strategy<Value = Span> {
    (0..EDGES.len(), 0..EDGES.len()).prop_map(|(a, b)| (EDGES[a.min(b)], EDGES[a.max(b)]))
}

fn spans() -> impl Strategy<Value = Vec<Span>> {
    prop_oneof![2 => Just(vec![EVERYTHING]), 2 => span().prop_map(|s| vec![s]), 1 => span().prop_map(|s| complement(&[s]))]
}

fn area() -> impl Strategy<Value = Area> {
    let protocol = prop::sample::select(vec![6u8, 17, 1, 58]).prop_map(Protocol::from_number);
    let whole = || (vec![EVERYTHING], vec![EVERYTHING]);
    prop_oneof![
        4 => (protocol.clone(), spans(), spans()).prop_map(|(p, x, y)| Area { protocols: Protocols::Is(p), x, y }),
        1 => Just(()).prop_map(move |()| Area { protocols: Protocols::Any, x: whole().0, y: whole().1 }),
        1 => protocol.prop_map(move |p| Area { protocols: Protocols::Not(p), x: whole().0, y: whole().1 }),
    ]
}

proptest! {
    #![proptest_config(tries(256))]

    #[test]
    fn lowering_keeps_the_meaning(steps in prop::collection::vec((area(), 0u8..4), 0..8)) {
        let mut painter = Painter::new();
        for (area, action) in &steps {
            match action {
                0 => painter.decide(area, Verdict::Deny),
                3 => painter.log(area),
                _ => painter.decide(area, Verdict::Allow),
            }
        }
        let row = painter.finish();
        for protocol in [6u8, 17, 1, 58, 47] {
            let protocol = Protocol::from_number(protocol);
            for x in EDGES {
                for y in EDGES {
                    if !protocol.has_ports() && (!protocol.is_icmp() && (x, y) != (0, 0) || x > 255 || y > 255) {
                        continue;
                    }
                    let wanted = row.verdict(protocol, x, y) == Verdict::Allow;
                    let says = match lower(&row) {
                        Err(verdict) => verdict == Verdict::Allow,
                        Ok(lowered) => lowered.verdict(protocol.number(), x, y).unwrap_or(false),
                    };
                    prop_assert_eq!(says, wanted, "{} {} {}", protocol, x, y);
                }
            }
        }
    }
}
