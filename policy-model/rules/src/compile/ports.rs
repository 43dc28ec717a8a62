//! Ports of a rule: numbers merged into few ranges, names turned into sets.

use crate::rule::PortMatch;
use crate::set::AddressSet;
use policy_model::{FieldError, Port, PortRange, Protocol};
use policy_model_selector::Selector;
use std::fmt::Display;

/// Compiles a list of ports; an empty one restricts nothing.
///
/// A name is looked for among the endpoints that `side` selects: a packet of another endpoint fails the side anyway.
pub(super) fn compile(
    field: &dyn Display,
    ports: &[Port],
    protocol: Option<Protocol>,
    side: &Selector,
) -> Result<Option<Box<PortMatch<AddressSet>>>, FieldError> {
    if ports.is_empty() {
        return Ok(None);
    }
    let mut ranges = Vec::new();
    let mut named = Vec::new();
    for port in ports {
        match port {
            Port::Range(range) => ranges.push(*range),
            Port::Name(name) => {
                let Some(protocol) = protocol else {
                    return Err(FieldError::new(
                        field.to_string(),
                        format!("port name '{name}' needs a protocol"),
                    ));
                };
                named.push(AddressSet::NamedPort {
                    selector: side.clone(),
                    name: name.clone(),
                    protocol,
                });
            }
        }
    }
    named.sort_unstable();
    named.dedup();
    Ok(Some(Box::new(PortMatch {
        ranges: merge(ranges),
        named,
    })))
}

/// The same ports as the fewest ranges, sorted, neither overlapping nor touching.
pub(super) fn merge(mut ranges: Vec<PortRange>) -> Vec<PortRange> {
    ranges.sort_unstable();
    let mut merged: Vec<PortRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.first() <= last.last().saturating_add(1) => {
                // Sorted by their first ports, so `first <= last` holds and a range comes out.
                if let Some(both) = PortRange::new(last.first(), last.last().max(range.last())) {
                    *last = both;
                }
            }
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranges(pairs: &[(u16, u16)]) -> Vec<PortRange> {
        pairs
            .iter()
            .map(|(first, last)| PortRange::new(*first, *last).unwrap())
            .collect()
    }

    #[test]
    fn overlapping_and_touching_ranges_become_one() {
        assert_eq!(
            merge(ranges(&[(80, 90), (85, 100), (101, 101), (443, 443)])),
            ranges(&[(80, 101), (443, 443)])
        );
        assert_eq!(merge(ranges(&[(10, 20), (12, 13)])), ranges(&[(10, 20)]));
        assert_eq!(
            merge(ranges(&[(65535, 65535), (0, 65535)])),
            ranges(&[(0, 65535)])
        );
        assert_eq!(merge(ranges(&[(3, 3), (1, 1)])), ranges(&[(1, 1), (3, 3)]));
    }

    proptest! {
        #[test]
        fn merging_keeps_the_ports(pairs in prop::collection::vec((0u16..40, 0u16..8), 0..8)) {
            let before: Vec<PortRange> = pairs.iter().filter_map(|(f, n)| PortRange::new(*f, f + n)).collect();
            let after = merge(before.clone());
            for port in 0..60 {
                let inside = |list: &[PortRange]| list.iter().any(|r| r.contains(port));
                prop_assert_eq!(inside(&before), inside(&after));
            }
            prop_assert!(after.windows(2).all(|pair| pair[0].last() + 1 < pair[1].first()));
        }
    }
}
