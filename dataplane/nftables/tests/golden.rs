//! Our bytes against those of the nft program (captured, `tests/golden/README.md`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a test fails"
)]

mod support;

use dataplane_nftables::wire::{
    Batch, Expr, Family, Messages, Notice, Object, ObservedRule, Operation, Rule, SetData,
};
use support::{capture, layout, split};

fn messages_of(whole: &[Vec<u8>], wanted: Operation) -> Vec<&[u8]> {
    let is_wanted = |message: &&Vec<u8>| {
        let message = Messages::new(message).next().unwrap();
        message
            .operation()
            .is_some_and(|(operation, _)| operation == wanted)
    };
    whole.iter().filter(is_wanted).map(Vec::as_slice).collect()
}

/// A message without sequence number and flags that only say whether an acknowledgement is wanted.
fn comparable(message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    message[6] &= !4;
    message[8..12].fill(0);
    message
}

fn decode(message: &[u8]) -> Object {
    Notice::decode(&Messages::new(message).next().unwrap())
        .unwrap()
        .unwrap()
        .into_object()
}

fn rule_of(message: &[u8]) -> ObservedRule {
    match decode(message) {
        Object::Rule(rule) => rule,
        other => panic!("not a rule: {other:?}"),
    }
}

/// A rule of nft without what it says in vain: the number of a named set, and the turning round of a protocol's one byte in a key
/// of ranges.
fn as_we_would(theirs: &[u8]) -> Vec<u8> {
    let mut rule = rule_of(theirs);
    assert_eq!(comparable(&encode(&rule)), comparable(theirs), "{rule:?}");
    rule.expressions
        .retain(|expression| !matches!(expression, Expr::Byteorder { .. }));
    for expression in &mut rule.expressions {
        if let Expr::Lookup(lookup) = expression
            && !lookup.set.contains('%')
        {
            lookup.id = None;
        }
    }
    encode(&rule)
}

fn encode(rule: &ObservedRule) -> Vec<u8> {
    let mut batch = Batch::new(Family::Inet);
    let comment = rule.comment.as_deref();
    batch.rule(&Rule {
        comment,
        ..Rule::new(&rule.table, &rule.chain, &rule.expressions)
    });
    messages_of(&split(batch.seal()), Operation::NewRule)[0].to_vec()
}

#[test]
fn tables_chains_and_rules_of_the_layout_are_byte_for_byte_those_of_nft() {
    let theirs = capture(include_str!("golden/layout.hex"));
    let ours = split(layout::batch().seal());
    for operation in [Operation::NewTable, Operation::NewChain, Operation::NewRule] {
        let (ours, theirs) = (messages_of(&ours, operation), messages_of(&theirs, operation));
        assert_eq!(ours.len(), theirs.len(), "{operation:?}");
        for (ours, theirs) in ours.into_iter().zip(theirs) {
            let expected = if operation == Operation::NewRule {
                as_we_would(theirs)
            } else {
                theirs.to_vec()
            };
            assert_eq!(
                comparable(ours),
                comparable(&expected),
                "{:?}\n{:?}",
                decode(ours),
                decode(&expected)
            );
        }
    }
}

#[test]
fn sets_and_elements_of_the_layout_say_what_nft_says() {
    let theirs = capture(include_str!("golden/layout.hex"));
    let ours = split(layout::batch().seal());
    let (our_sets, their_sets) = (
        messages_of(&ours, Operation::NewSet),
        messages_of(&theirs, Operation::NewSet),
    );
    assert_eq!(our_sets.len(), their_sets.len());
    for (ours, theirs) in our_sets.into_iter().zip(their_sets) {
        assert_eq!(decode(ours), decode(theirs));
    }
    let elements = |whole: &[Vec<u8>]| {
        let mut found = Vec::new();
        for message in messages_of(whole, Operation::NewElements) {
            let Object::Elements(elements) = decode(message) else {
                panic!("not elements")
            };
            for element in elements.elements {
                // nft says of a map of intervals that nothing is below the first; that is so without saying.
                let nothing_below = element.interval_end
                    && element
                        .key
                        .as_ref()
                        .is_some_and(|key| key.as_bytes().iter().all(|&byte| byte == 0));
                if !nothing_below {
                    found.push(format!("{} {element:?}", elements.set));
                }
            }
        }
        found.sort();
        found
    };
    assert_eq!(elements(&ours), elements(&theirs));
}

#[test]
fn one_map_and_its_elements_in_bytes() {
    let theirs = capture(include_str!("golden/layout.hex"));
    let ours = split(layout::batch().seal());
    // Without a concatenation nft has no more notes on a set than we have, so that everything is the same.
    for operation in [Operation::NewSet, Operation::NewElements] {
        for name in ["in_1", "id4", "rows", "wl_in"] {
            let named = |message: &&&[u8]| {
                let object = decode(message);
                matches!(&object, Object::Set(set) if set.name == name)
                    || matches!(&object, Object::Elements(elements) if elements.set == name)
            };
            let find =
                |whole: &[Vec<u8>]| comparable(messages_of(whole, operation).iter().find(named).unwrap());
            let (mut ours, mut theirs) = (find(&ours), find(&theirs));
            if operation == Operation::NewElements {
                number_elements_alike(&mut ours);
                number_elements_alike(&mut theirs);
                assert_eq!(ours.len(), theirs.len(), "{name}");
                assert_eq!(sorted_words(&ours), sorted_words(&theirs), "{name}");
            } else {
                assert_eq!(ours, theirs, "{name}");
            }
        }
    }
}

/// The kernel does not read the kinds of a list's entries; nft numbers them, we do not.
fn number_elements_alike(message: &mut [u8]) {
    for at in (20..message.len() - 4).step_by(4) {
        let (length, kind) = (message[at] as usize, &message[at + 2..at + 4]);
        if kind[1] == 0x80 && kind[0] < 16 && length > 20 {
            message[at + 2] = 1;
        }
    }
}

fn sorted_words(message: &[u8]) -> Vec<&[u8]> {
    let mut words: Vec<&[u8]> = message.chunks(4).collect();
    words.sort_unstable();
    words
}

#[test]
fn rules_of_many_kinds_are_read_and_written_again_as_nft_wrote_them() {
    let theirs = capture(include_str!("golden/other.hex"));
    let rules = messages_of(&theirs, Operation::NewRule);
    assert!(rules.len() > 40);
    for theirs in rules {
        let rule = rule_of(theirs);
        for expression in &rule.expressions {
            assert!(!matches!(expression, Expr::Foreign { .. }), "{expression:?}");
        }
        let ours = encode(&rule);
        assert_eq!(rule_of(&ours), rule);
        // nft sometimes says that a bit operation is the ordinary one, and sometimes leaves the log's level out; we always decide.
        let said_otherwise = |expression: &Expr| matches!(expression, Expr::Bitwise { .. } | Expr::Log(_));
        if !rule.expressions.iter().any(said_otherwise) {
            assert_eq!(comparable(&ours), comparable(theirs), "{rule:?}");
        }
    }
}

#[test]
fn sets_of_many_kinds_are_understood() {
    let theirs = capture(include_str!("golden/other.hex"));
    let mut comments = Vec::new();
    for message in messages_of(&theirs, Operation::NewSet) {
        let Object::Set(set) = decode(message) else {
            panic!("not a set")
        };
        assert!(set.key.is_some() && set.data.is_some(), "{set:?}");
        assert_eq!(set.anonymous, set.name.starts_with("__"));
        assert_eq!(set.data != Some(SetData::None), set.flags & 8 != 0);
        comments.extend(set.comment);
    }
    assert_eq!(comments, ["six"]);
}
