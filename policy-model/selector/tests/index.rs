//! The index against brute force: after every operation it has reported exactly the matches that changed.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, also outside of its functions, a panic is the failure itself"
)]

use std::collections::{BTreeMap, BTreeSet};

use policy_model_selector::Selector;
use policy_model_selector::index::{
    Interner, ItemId, Label, MatchChange, MatchIndex, ParentId, SelectorId, Symbol, Transition,
};
use proptest::prelude::*;

type Text = (&'static str, &'static str);

#[derive(Clone, Debug)]
enum Operation {
    SetItem(u32, Vec<Text>, Vec<u32>),
    RemoveItem(u32),
    SetParent(u32, Vec<Text>),
    RemoveParent(u32),
    AddSelector(u32, String),
    RemoveSelector(u32),
    /// Forget the strings that nobody uses.
    Sweep,
}

/// The state as plain maps, and the matches that the index has reported so far.
#[derive(Default)]
struct World {
    interner: Interner,
    index: MatchIndex,
    items: BTreeMap<u32, (Vec<Text>, Vec<u32>)>,
    parents: BTreeMap<u32, Vec<Text>>,
    selectors: BTreeMap<u32, Selector>,
    reported: BTreeSet<(SelectorId, ItemId)>,
}

impl World {
    fn labels(&mut self, texts: &[Text]) -> Vec<Label> {
        texts
            .iter()
            .map(|(key, value)| (self.interner.intern(key), self.interner.intern(value)))
            .collect()
    }

    fn apply(&mut self, operation: Operation) -> Vec<MatchChange> {
        let mut changes = Vec::new();
        match operation {
            Operation::SetItem(item, texts, parents) => {
                let labels = self.labels(&texts);
                let ids: Vec<ParentId> = parents.iter().copied().map(ParentId).collect();
                self.index
                    .set_item(&self.interner, ItemId(item), &labels, &ids, &mut changes);
                self.items.insert(item, (texts, parents));
            }
            Operation::RemoveItem(item) => {
                self.index.remove_item(&self.interner, ItemId(item), &mut changes);
                self.items.remove(&item);
            }
            Operation::SetParent(parent, texts) => {
                let labels = self.labels(&texts);
                self.index
                    .set_parent_labels(&self.interner, ParentId(parent), &labels, &mut changes);
                self.parents.insert(parent, texts);
            }
            Operation::RemoveParent(parent) => {
                self.index
                    .remove_parent(&self.interner, ParentId(parent), &mut changes);
                self.parents.remove(&parent);
            }
            Operation::AddSelector(id, text) => {
                let selector = Selector::parse(&text).unwrap();
                self.index
                    .add_selector(&mut self.interner, SelectorId(id), &selector, &mut changes);
                self.selectors.insert(id, selector);
            }
            Operation::RemoveSelector(id) => {
                self.index
                    .remove_selector(&self.interner, SelectorId(id), &mut changes);
                self.selectors.remove(&id);
            }
            Operation::Sweep => {
                let mut used = BTreeSet::new();
                self.index.for_each_symbol(|symbol: Symbol| {
                    used.insert(symbol);
                });
                self.interner.sweep(|symbol| used.contains(&symbol));
                assert_eq!(self.interner.len(), used.len());
            }
        }
        for change in &changes {
            let pair = (change.selector, change.item);
            let news = match change.transition {
                Transition::Started => self.reported.insert(pair),
                Transition::Stopped => self.reported.remove(&pair),
            };
            assert!(news, "{change:?} was reported twice");
        }
        changes
    }

    fn brute_force(&self) -> BTreeSet<(SelectorId, ItemId)> {
        let mut matches = BTreeSet::new();
        for (item, (own, parents)) in &self.items {
            let inherited = parents
                .iter()
                .filter_map(|parent| self.parents.get(parent))
                .flatten();
            // Of a repeated key the first counts, and own labels stand first.
            let effective: Vec<Text> = own.iter().chain(inherited).copied().collect();
            for (id, selector) in &self.selectors {
                if selector.evaluate(effective.as_slice()) {
                    matches.insert((SelectorId(*id), ItemId(*item)));
                }
            }
        }
        matches
    }

    fn check(&self) {
        let expected = self.brute_force();
        assert_eq!(self.reported, expected);
        for id in (0..SELECTORS).map(SelectorId) {
            let items: Vec<ItemId> = expected
                .iter()
                .filter(|pair| pair.0 == id)
                .map(|pair| pair.1)
                .collect();
            assert_eq!(self.index.match_count(id), items.len(), "{id:?}");
            assert_eq!(self.index.items_of(&self.interner, id), items, "{id:?}");
            for item in (0..ITEMS).map(ItemId) {
                assert_eq!(
                    self.index.is_match(&self.interner, id, item),
                    expected.contains(&(id, item))
                );
            }
        }
        for item in (0..ITEMS).map(ItemId) {
            let selectors: Vec<SelectorId> = expected.iter().filter(|p| p.1 == item).map(|p| p.0).collect();
            assert_eq!(
                self.index.selectors_of(&self.interner, item),
                selectors,
                "{item:?}"
            );
        }
        assert_eq!(self.index.item_count(), self.items.len());
        assert_eq!(self.index.selector_count(), self.selectors.len());
    }
}

const ITEMS: u32 = 8;
const PARENTS: u32 = 4;
const SELECTORS: u32 = 10;
const KEYS: [&str; 4] = ["a", "b", "c", "projectcalico.org/namespace"];
const VALUES: [&str; 4] = ["", "x", "y", "xy"];

fn labels() -> impl Strategy<Value = Vec<Text>> {
    // Keys may be repeated, on purpose.
    prop::collection::vec(
        (prop::sample::select(&KEYS[..]), prop::sample::select(&VALUES[..])),
        0..5,
    )
}

fn selector_text() -> impl Strategy<Value = String> {
    let key = || prop::sample::select(&KEYS[..]);
    let value = || prop::sample::select(&VALUES[..]);
    let leaf = prop_oneof![
        Just("all()".to_owned()),
        Just("global()".to_owned()),
        key().prop_map(|k| format!("has({k})")),
        (
            key(),
            prop::sample::select(vec!["==", "!=", "contains", "starts with", "ends with"]),
            value()
        )
            .prop_map(|(k, op, v)| format!("{k} {op} '{v}'")),
        (
            key(),
            prop::sample::select(vec!["in", "not in"]),
            prop::collection::vec(value(), 0..3)
        )
            .prop_map(|(k, op, v)| format!(
                "{k} {op} {{{}}}",
                v.iter().map(|v| format!("'{v}',")).collect::<String>()
            )),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|e| format!("!({e})")),
            (inner.clone(), inner.clone()).prop_map(|(l, r)| format!("({l}) && ({r})")),
            (inner.clone(), inner).prop_map(|(l, r)| format!("({l}) || ({r})")),
        ]
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        6 => (0..ITEMS, labels(), prop::collection::vec(0..PARENTS, 0..4))
            .prop_map(|(item, labels, parents)| Operation::SetItem(item, labels, parents)),
        2 => (0..ITEMS).prop_map(Operation::RemoveItem),
        4 => (0..PARENTS, labels()).prop_map(|(parent, labels)| Operation::SetParent(parent, labels)),
        1 => (0..PARENTS).prop_map(Operation::RemoveParent),
        5 => (0..SELECTORS, selector_text()).prop_map(|(id, text)| Operation::AddSelector(id, text)),
        2 => (0..SELECTORS).prop_map(Operation::RemoveSelector),
        1 => Just(Operation::Sweep),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_index_reports_what_brute_force_finds(operations in prop::collection::vec(operation(), 1..60)) {
        let mut world = World::default();
        for operation in operations {
            world.apply(operation.clone());
            world.check();
            // The same again is no news.
            let repeated = world.apply(operation);
            prop_assert_eq!(repeated, vec![]);
            world.check();
        }
    }

    #[test]
    fn order_does_not_matter(
        selectors in prop::collection::vec(selector_text(), 1..SELECTORS as usize),
        items in prop::collection::vec((labels(), prop::collection::vec(0..PARENTS, 0..3)), 1..ITEMS as usize),
        parents in prop::collection::vec(labels(), PARENTS as usize),
        order in Just((0..30usize).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let numbered = |n: usize| n as u32;
        let mut operations: Vec<Operation> = selectors.into_iter().enumerate().map(|(n, s)| Operation::AddSelector(numbered(n), s)).collect();
        operations.extend(items.into_iter().enumerate().map(|(n, (l, p))| Operation::SetItem(numbered(n), l, p)));
        operations.extend(parents.into_iter().enumerate().map(|(n, l)| Operation::SetParent(numbered(n), l)));
        let mut world = World::default();
        for place in order {
            if let Some(operation) = operations.get(place) {
                world.apply(operation.clone());
            }
        }
        world.check();
    }
}

/// Many selectors on few keys, and many items: the paths that small worlds do not take.
#[test]
fn a_crowd_is_matched_as_brute_force_does() {
    let mut world = World::default();
    let value = |n: u32| VALUES[n as usize % 4];
    for n in 0..ITEMS {
        let own = vec![("a", value(n)), ("b", value(n / 4))];
        world.apply(Operation::SetItem(n, own, vec![n % PARENTS, (n + 1) % PARENTS]));
    }
    let mut number = SELECTORS;
    for key in KEYS {
        for other in KEYS {
            for v in VALUES {
                for w in VALUES {
                    for text in [
                        format!("{key} == '{v}' && {other} != '{w}'"),
                        format!("{key} == '{v}' || {other} starts with '{w}'"),
                        format!("{key} != '{v}' && {other} not in {{'{w}'}}"),
                    ] {
                        world.apply(Operation::AddSelector(number, text));
                        number += 1;
                    }
                }
            }
        }
    }
    world.check();
    for n in 0..40 {
        world.apply(Operation::SetItem(
            n % ITEMS,
            vec![("a", value(n / 3)), ("c", value(n))],
            vec![n % PARENTS],
        ));
        assert_eq!(world.reported, world.brute_force());
        world.apply(Operation::SetParent(
            n % PARENTS,
            vec![("b", value(n)), (KEYS[3], value(n / 2))],
        ));
        assert_eq!(world.reported, world.brute_force());
    }
    // Fewer and fewer, until few mention a key.
    for id in SELECTORS..number {
        world.apply(Operation::RemoveSelector(id));
        if id % 8 == 0 {
            world.apply(Operation::SetItem(
                id / 8 % ITEMS,
                vec![("a", value(id / 24)), ("b", value(id / 8))],
                vec![id % PARENTS],
            ));
            assert_eq!(world.reported, world.brute_force());
        }
    }
    assert!(world.reported.is_empty());
}

#[test]
fn own_labels_override_and_the_first_parent_wins() {
    let mut world = World::default();
    world.apply(Operation::AddSelector(0, "a == 'x'".into()));
    world.apply(Operation::SetParent(0, vec![("a", "x")]));
    world.apply(Operation::SetParent(1, vec![("a", "y")]));
    assert_eq!(world.apply(Operation::SetItem(0, vec![], vec![1, 0])), vec![]);
    let started = MatchChange {
        selector: SelectorId(0),
        item: ItemId(0),
        transition: Transition::Started,
    };
    assert_eq!(world.apply(Operation::SetItem(0, vec![], vec![0, 1])), [started]);
    let stopped = MatchChange {
        transition: Transition::Stopped,
        ..started
    };
    assert_eq!(
        world.apply(Operation::SetItem(0, vec![("a", "y")], vec![0, 1])),
        [stopped]
    );
    // What is overridden changes nothing.
    assert_eq!(world.apply(Operation::SetParent(0, vec![("a", "xy")])), vec![]);
    world.check();
}

#[test]
fn replacing_a_selector_reports_the_difference_only() {
    let mut world = World::default();
    world.apply(Operation::SetItem(0, vec![("a", "x")], vec![]));
    world.apply(Operation::SetItem(1, vec![("a", "y")], vec![]));
    world.apply(Operation::SetItem(2, vec![("a", "xy")], vec![]));
    world.apply(Operation::AddSelector(0, "a in {'x', 'y'}".into()));
    let changes = world.apply(Operation::AddSelector(0, "a in {'y', 'xy'}".into()));
    let change = |item, transition| MatchChange {
        selector: SelectorId(0),
        item: ItemId(item),
        transition,
    };
    assert_eq!(
        changes,
        [change(0, Transition::Stopped), change(2, Transition::Started)]
    );
    world.check();
}
