//! What is encoded is decoded to the same, for any expression, element, set and value; and no bytes make the decoder fall.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a test fails"
)]

use dataplane_nftables::wire::{
    Batch, ByteorderOp, Chain, CmpOp, CtDirection, CtKey, Datatype, Element, ElementData, ElementKey, Expr,
    Family, Fib, FibResult, Hook, KeyType, Keys, Limit, LimitUnit, Log, LogTarget, Lookup, MESSAGE_LIMIT,
    Messages, MetaKey, Nat, NatKind, NatRange, Notice, Object, ObservedElement, OnHit, PayloadBase, Policy,
    RangeOp, Register, Reject, Rule, Set, SetData, SetRef, Table, TableFlags, Value, Verdict, join_intervals,
};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

fn objects(batch: &mut Batch) -> Vec<Object> {
    let decode = |message| Notice::decode(&message).unwrap().map(Notice::into_object);
    Messages::new(batch.seal()).filter_map(decode).collect()
}

fn register() -> impl Strategy<Value = Register> {
    (0u8..16).prop_map(Register::word)
}

fn value(width: impl Into<proptest::collection::SizeRange>) -> impl Strategy<Value = Value> {
    vec(any::<u8>(), width).prop_map(|bytes| Value::bytes(&bytes))
}

fn name() -> impl Strategy<Value = String> {
    "[a-zA-Z][a-zA-Z0-9_.]{0,40}"
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        Just(Verdict::Accept),
        Just(Verdict::Drop),
        Just(Verdict::Continue),
        Just(Verdict::Return),
        name().prop_map(|chain| Verdict::Jump(chain.into())),
        name().prop_map(|chain| Verdict::Goto(chain.into())),
    ]
}

fn nat_range() -> impl Strategy<Value = Option<NatRange>> {
    proptest::option::of(
        (register(), proptest::option::of(register())).prop_map(|(first, last)| NatRange {
            first,
            last: last.filter(|&last| last != first),
        }),
    )
}

fn loads() -> impl Strategy<Value = Expr> {
    let ends = || (register(), register());
    prop_oneof![
        (0u32..40, register()).prop_map(|(key, to)| Expr::Meta {
            key: MetaKey::from_number(key),
            to
        }),
        (0u32..40, register()).prop_map(|(key, from)| Expr::SetMeta {
            key: MetaKey::from_number(key),
            from
        }),
        (0u32..4, any::<u32>(), 1u32..64, register()).prop_map(|(base, offset, len, to)| {
            Expr::Payload {
                base: PayloadBase::from_number(base),
                offset,
                len,
                to,
            }
        }),
        (0u32..30, proptest::option::of(0u32..2), register()).prop_map(|(key, direction, to)| {
            Expr::Ct {
                key: CtKey::from_number(key),
                direction: direction.map(CtDirection::from_number),
                to,
            }
        }),
        (0u32..30, register()).prop_map(|(key, from)| Expr::SetCt {
            key: CtKey::from_number(key),
            from
        }),
        (0u32..6, register(), value(1..64)).prop_map(|(op, from, value)| {
            Expr::Cmp {
                op: CmpOp::from_number(op),
                from,
                value,
            }
        }),
        (0u32..2, register(), value(1..32), value(1..32)).prop_map(|(op, from, first, last)| {
            Expr::Range {
                op: RangeOp::from_number(op),
                from,
                first,
                last,
            }
        }),
        (ends(), value(8), value(8)).prop_map(|((from, to), mask, xor)| Expr::Bitwise {
            from,
            to,
            mask,
            xor
        }),
        (ends(), 0u32..2, 1u32..16, 1u32..8).prop_map(|((from, to), op, len, size)| {
            Expr::Byteorder {
                from,
                to,
                op: ByteorderOp::from_number(op),
                len,
                size,
            }
        }),
        (name(), register(), register(), 0usize..4).prop_map(|(set, from, to, hit)| {
            let hit = [OnHit::Match, OnHit::Fail, OnHit::Load(to), OnHit::Verdict][hit];
            Expr::Lookup(Lookup {
                set: set.into(),
                id: None,
                from,
                hit,
            })
        }),
        (register(), value(1..64)).prop_map(|(to, value)| Expr::Immediate { to, value }),
        (1u32..4, any::<u32>(), register()).prop_map(|(result, flags, to)| {
            Expr::Fib(Fib {
                result: FibResult::from_number(result),
                flags,
                to,
            })
        }),
    ]
}

fn acts() -> impl Strategy<Value = Expr> {
    let target = prop_oneof![
        (any::<u16>(), any::<u32>(), any::<u16>()).prop_map(|(group, snaplen, threshold)| LogTarget::Group {
            group,
            snaplen,
            threshold
        }),
        (0u32..9, 0u32..64).prop_map(|(level, flags)| LogTarget::Syslog { level, flags }),
    ];
    prop_oneof![
        verdict().prop_map(Expr::Verdict),
        (any::<u64>(), any::<u64>()).prop_map(|(packets, bytes)| Expr::Counter { packets, bytes }),
        (proptest::option::of("[ -~]{1,127}"), target).prop_map(|(prefix, target)| Expr::Log(Log {
            prefix: prefix.map(Into::into),
            target
        })),
        (any::<u64>(), any::<u64>(), any::<u32>(), 0u32..2, any::<bool>()).prop_map(
            |(rate, period, burst, unit, over)| {
                Expr::Limit(Limit {
                    rate,
                    period,
                    burst,
                    unit: LimitUnit::from_number(unit),
                    over,
                })
            }
        ),
        any::<u8>().prop_map(|code| Expr::Reject(Reject::Icmp(code))),
        any::<u8>().prop_map(|code| Expr::Reject(Reject::Icmpx(code))),
        Just(Expr::Reject(Reject::TcpReset)),
        Just(Expr::NoTrack),
        (0u32..32, nat_range()).prop_map(|(flags, ports)| Expr::Masquerade { flags, ports }),
        (0u32..32, nat_range()).prop_map(|(flags, ports)| Expr::Redirect { flags, ports }),
        (0u32..2, any::<bool>(), nat_range(), nat_range(), 0u32..32).prop_map(
            |(kind, six, address, port, flags)| {
                let family = if six { 10 } else { 2 };
                Expr::Nat(Nat {
                    kind: NatKind::from_number(kind),
                    family,
                    address,
                    port,
                    flags,
                })
            }
        ),
        ("x[a-z]{1,12}", vec(any::<u8>(), 0..64)).prop_map(|(name, data)| Expr::Foreign { name, data }),
    ]
}

fn element(keys: Keys) -> impl Strategy<Value = Element> {
    let key = (value(12), value(12)).prop_map(move |(a, b)| match keys {
        Keys::Exact => ElementKey::Value(a),
        Keys::Interval | Keys::ConcatenatedInterval if a == b => ElementKey::Value(a),
        Keys::Interval | Keys::ConcatenatedInterval => ElementKey::Range(a.clone().min(b.clone()), a.max(b)),
    });
    let data = prop_oneof![
        Just(ElementData::None),
        value(1..40).prop_map(ElementData::Value),
        verdict().prop_map(ElementData::Verdict),
    ];
    (prop_oneof![1 => Just(ElementKey::Any), 20 => key], data).prop_map(|(key, data)| Element { key, data })
}

fn observed(batch: &mut Batch) -> Vec<ObservedElement> {
    let mut found = Vec::new();
    for object in objects(batch) {
        match object {
            Object::Elements(mut elements) => found.append(&mut elements.elements),
            other => panic!("not elements: {other:?}"),
        }
    }
    found
}

proptest! {
    #[test]
    fn rules(expressions in vec(prop_oneof![loads(), acts()], 0..12), comment in proptest::option::of("[ -~äß]{0,60}")) {
        let mut batch = Batch::new(Family::Inet);
        batch.rule(&Rule { comment: comment.as_deref(), ..Rule::new("t", "chain", &expressions) });
        let found = objects(&mut batch);
        let [Object::Rule(rule)] = found.as_slice() else { panic!("not one rule: {found:?}") };
        prop_assert_eq!(&rule.expressions, &expressions);
        prop_assert_eq!(&rule.comment, &comment);
        prop_assert_eq!((rule.table.as_str(), rule.chain.as_str()), ("t", "chain"));
    }

    #[test]
    fn elements_of_single_keys(elements in vec(element(Keys::Exact), 1..40)) {
        let mut batch = Batch::new(Family::Inet);
        batch.elements(&SetRef::exact("t", "set"), &elements);
        let found: Vec<Element> = observed(&mut batch).into_iter().map(ObservedElement::into_element).collect();
        prop_assert_eq!(found, elements);
    }

    #[test]
    fn elements_of_concatenated_intervals(elements in vec(element(Keys::ConcatenatedInterval), 1..40)) {
        let mut batch = Batch::new(Family::Inet);
        let set = SetRef { keys: Keys::ConcatenatedInterval, ..SetRef::exact("t", "set") };
        batch.elements(&set, &elements);
        let found: Vec<Element> = observed(&mut batch).into_iter().map(ObservedElement::into_element).collect();
        prop_assert_eq!(found, elements);
    }

    /// Disjoint intervals, some side by side, some up to the last value, in any order.
    #[test]
    fn elements_of_intervals(bounds in btree_set(any::<u16>(), 2..60), ends in any::<bool>(), start in any::<bool>()) {
        let mut bounds = bounds;
        if start { bounds.insert(0); }
        let bounds: Vec<u16> = bounds.into_iter().collect();
        let mut elements = Vec::new();
        for (index, pair) in bounds.windows(2).enumerate() {
            if index % 3 == 1 { continue; }
            let (first, last) = (Value::port(pair[0]), Value::port(pair[1] - 1));
            let key = if first == last { ElementKey::Value(first) } else { ElementKey::Range(first, last) };
            elements.push(Element { key, data: ElementData::Value(Value::host32(index as u32)) });
        }
        let top = bounds[bounds.len() - 1];
        if ends && top < u16::MAX {
            elements.push(Element::range(Value::port(top), Value::port(u16::MAX)).to(Value::host32(9999)));
        }
        let mut batch = Batch::new(Family::Inet);
        batch.elements(&SetRef::interval("t", "set"), elements.iter().rev());
        prop_assert_eq!(join_intervals(observed(&mut batch)), elements);
    }

    #[test]
    fn long_lists_are_cut_and_nothing_is_lost(count in 1usize..9000, width in 1usize..40, label in 0usize..5) {
        let key = |index: usize| {
            let mut bytes = vec![0; width.max(4)];
            bytes[..4].copy_from_slice(&(index as u32).to_be_bytes());
            Value::bytes(&bytes)
        };
        let mut batch = Batch::new(Family::Inet);
        let elements = (0..count).map(|index| Element::value(key(index)));
        batch.at(label).elements(&SetRef::exact("t", "set"), elements);
        prop_assert_eq!(batch.too_long(), None);
        prop_assert!((1..=batch.last_sequence()).all(|sequence| batch.label_of(sequence) == Some(label)));
        for message in Messages::new(batch.seal()) {
            prop_assert!(message.body.len() + 16 <= MESSAGE_LIMIT);
        }
        let found = observed(&mut batch);
        prop_assert_eq!(found.len(), count);
        prop_assert!(found.into_iter().enumerate().all(|(index, element)| element.key == Some(key(index))));
    }

    #[test]
    fn sets(fields in vec(0usize..13, 1..6), data in proptest::option::of(0usize..13), intervals: bool, size: Option<u32>) {
        const ALL: [Datatype; 13] = [
            Datatype::Ipv4, Datatype::Ipv6, Datatype::Ethernet, Datatype::Protocol, Datatype::Port, Datatype::IcmpType,
            Datatype::Icmpv6Type, Datatype::Mark, Datatype::Classid, Datatype::InterfaceIndex, Datatype::InterfaceName,
            Datatype::CtState, Datatype::AddressType,
        ];
        let key = KeyType::concat(fields.iter().map(|&field| ALL[field]));
        let data = data.map_or(SetData::Verdict, |field| SetData::value(ALL[field]));
        let set = Set { intervals, size, comment: Some("why"), ..Set::new("t", "name", key.clone()).to(data.clone()) };
        let mut batch = Batch::new(Family::Inet);
        batch.set(&set);
        let found = objects(&mut batch);
        let [Object::Set(found)] = found.as_slice() else { panic!("not one set: {found:?}") };
        prop_assert_eq!(found.key.as_ref(), Some(&key));
        prop_assert_eq!(found.data.as_ref(), Some(&data));
        prop_assert_eq!((found.intervals, found.size, found.keys()), (intervals, size, set.keys()));
        prop_assert_eq!(found.comment.as_deref(), Some("why"));
        prop_assert!(!found.anonymous);
    }

    #[test]
    fn tables_and_chains(name in name(), priority: i32, drop: bool, comment in proptest::option::of("[ -~]{1,120}")) {
        let flags = TableFlags::OWNER.and(TableFlags::PERSIST);
        let mut chain = Chain { comment: comment.as_deref(), ..Chain::filter("t", &name, Hook::Output, priority) };
        if let Some(base) = &mut chain.base {
            base.policy = if drop { Policy::Drop } else { Policy::Accept };
        }
        let mut batch = Batch::new(Family::Ipv6);
        batch.table(&Table { name: &name, flags, comment: comment.as_deref() });
        batch.chain(&chain);
        let found = objects(&mut batch);
        let [Object::Table(table), Object::Chain(seen)] = found.as_slice() else { panic!("not both: {found:?}") };
        prop_assert_eq!((&table.name, table.flags, &table.comment, table.family), (&name, flags, &comment, Family::Ipv6));
        prop_assert_eq!((&seen.name, &seen.base, &seen.comment), (&name, &chain.base, &comment));
    }

    #[test]
    fn no_bytes_make_the_decoder_fall(bytes in vec(any::<u8>(), 0..400), operation in 0u16..26) {
        let mut datagram = ((bytes.len() + 20) as u32).to_ne_bytes().to_vec();
        datagram.extend_from_slice(&(operation | 10 << 8).to_ne_bytes());
        datagram.extend_from_slice(&[0; 14]);
        datagram.extend_from_slice(&bytes);
        for message in Messages::new(&datagram).chain(Messages::new(&bytes)) {
            let _ = (Notice::decode(&message), message.acknowledgement());
        }
    }

    /// Broken messages that were whole: every decoder sees nearly right bytes.
    #[test]
    fn a_changed_byte_does_not_make_the_decoder_fall(
        expressions in vec(prop_oneof![loads(), acts()], 1..6),
        at in any::<prop::sample::Index>(),
        byte: u8,
    ) {
        let mut batch = Batch::new(Family::Inet);
        batch.rule(&Rule::new("t", "chain", &expressions));
        batch.set(&Set::new("t", "set", KeyType::concat([Datatype::Ipv4, Datatype::Port])).of_intervals());
        batch.elements(&SetRef::interval("t", "set"), [Element::value(Value::port(1)).verdict(Verdict::Accept)]);
        let mut bytes = batch.seal().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        for message in Messages::new(&bytes) {
            let _ = (Notice::decode(&message), message.acknowledgement());
        }
    }
}
