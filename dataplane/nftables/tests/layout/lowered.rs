//! A lowered row treats every packet as the row does.

use crate::world::{EDGES, area, tries};
use dataplane_nftables::layout::lower;
use dataplane_tables::{Painter, Verdict};
use policy_model::Protocol;
use proptest::prelude::*;

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
