//! The intervals of a set, put together from the ends in which the kernel keeps them.

use super::element::{Element, ElementData, ElementKey, ObservedElement};

/// Puts the starts and ends of a dump of a set of intervals together.
///
/// A start without an end goes up to the last value. An end without a start says that nothing is below it, and is left out (the nft
/// program writes such ends). The catch-all element comes last; the others are in the order of their keys.
#[must_use]
pub fn join_intervals(mut observed: Vec<ObservedElement>) -> Vec<Element> {
    // An end sorts before a start at the same key: one interval ends there, and the next begins.
    observed.sort_by(|a, b| {
        (a.key.is_none(), &a.key, !a.interval_end).cmp(&(b.key.is_none(), &b.key, !b.interval_end))
    });
    let mut elements: Vec<Element> = Vec::with_capacity(observed.len() / 2 + 1);
    let mut opened: Option<(super::Value, ElementData)> = None;
    let mut catch_all = None;
    for found in observed {
        let Some(key) = found.key else {
            catch_all = Some(Element {
                key: ElementKey::Any,
                data: found.data,
            });
            continue;
        };
        if let Some((first, data)) = opened.take()
            && let Some(last) = key.predecessor()
            && first <= last
        {
            elements.push(interval(first, last, data));
        }
        if !found.interval_end {
            opened = Some((key, found.data));
        }
    }
    if let Some((first, data)) = opened {
        let last = first.all_ones();
        elements.push(interval(first, last, data));
    }
    elements.extend(catch_all);
    elements
}

fn interval(first: super::Value, last: super::Value, data: ElementData) -> Element {
    let key = if first == last {
        ElementKey::Value(first)
    } else {
        ElementKey::Range(first, last)
    };
    Element { key, data }
}

#[cfg(test)]
mod tests {
    use super::super::value::Value;
    use super::*;

    fn start(key: u8, data: u8) -> ObservedElement {
        let data = ElementData::Value(Value::byte(data));
        ObservedElement {
            key: Some(Value::byte(key)),
            last: None,
            interval_end: false,
            data,
        }
    }

    fn end(key: u8) -> ObservedElement {
        ObservedElement {
            key: Some(Value::byte(key)),
            last: None,
            interval_end: true,
            data: ElementData::None,
        }
    }

    fn range(first: u8, last: u8, data: u8) -> Element {
        interval(
            Value::byte(first),
            Value::byte(last),
            ElementData::Value(Value::byte(data)),
        )
    }

    #[test]
    fn neighbours_gaps_and_the_open_end() {
        let any = ObservedElement {
            key: None,
            last: None,
            interval_end: false,
            data: ElementData::None,
        };
        let dump = vec![
            any,
            start(20, 2),
            end(20),
            start(10, 1),
            end(21),
            end(0),
            start(200, 3),
        ];
        let expected = vec![
            range(10, 19, 1),
            Element::value(Value::byte(20)).to(Value::byte(2)),
            range(200, 255, 3),
            Element::any(),
        ];
        assert_eq!(join_intervals(dump), expected);
    }

    #[test]
    fn the_last_value_alone() {
        assert_eq!(
            join_intervals(vec![start(255, 1)]),
            vec![Element::value(Value::byte(255)).to(Value::byte(1))]
        );
        assert_eq!(join_intervals(Vec::new()), Vec::new());
    }
}
