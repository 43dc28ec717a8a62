//! A row that is cut up allows what the row allows.

use crate::world::{EDGES, area, tries};
use dataplane_iptables::layout::{Parts, Pattern};
use dataplane_tables::{Painter, Span, Verdict};
use policy_model::Protocol;
use proptest::prelude::*;

fn covers(patterns: &[Pattern], protocol: u8, x: u16, y: u16) -> bool {
    let within = |(first, last): Span, n: u16| first <= n && n <= last;
    patterns.iter().any(|pattern| match pattern {
        Pattern::Rest(apart) => !apart.contains(&protocol),
        Pattern::Of(number, cells) => {
            *number == protocol && cells.iter().any(|(a, b)| within(*a, x) && within(*b, y))
        }
    })
}

proptest! {
    #![proptest_config(tries(256))]

    #[test]
    fn cutting_keeps_the_meaning(steps in prop::collection::vec((area(), 0u8..4), 0..8)) {
        let mut painter = Painter::new();
        for (area, action) in &steps {
            match action {
                0 => painter.decide(area, Verdict::Deny),
                3 => painter.log(area),
                _ => painter.decide(area, Verdict::Allow),
            }
        }
        let row = painter.finish();
        let parts = Parts::of(&row);
        for number in [6u8, 17, 1, 58, 47] {
            let protocol = Protocol::from_number(number);
            for x in EDGES {
                for y in EDGES {
                    if !protocol.has_ports() && (!protocol.is_icmp() && (x, y) != (0, 0) || x > 255 || y > 255) {
                        continue;
                    }
                    let wanted = row.verdict(protocol, x, y) == Verdict::Allow;
                    prop_assert_eq!(covers(&parts.whole, number, x, y), wanted, "whole: {} {} {}", protocol, x, y);
                    let split = covers(&parts.wide, number, x, y) || parts.singles.contains(&(number, x));
                    prop_assert_eq!(split, wanted, "split: {} {} {}", protocol, x, y);
                }
            }
        }
    }
}
