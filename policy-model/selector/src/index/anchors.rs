//! From the labels of an item to the selectors that they may concern.

use rustc_hash::FxHashMap;

use super::compiled::{Atom, Compiled};
use super::digest::LabelDigest;
use super::{Label, Symbol};

/// A selector in a list, with digests that tell of most selectors, without a look at them in memory far away,
/// that they need not be evaluated.
#[derive(Clone, Copy)]
struct Anchored {
    selector: u32,
    mentioned: KeyDigest,
    required: LabelDigest,
}

/// A set of keys folded to 32 bits: sets whose digests share no bit share no key.
#[derive(Clone, Copy)]
struct KeyDigest(u32);

impl KeyDigest {
    fn of(keys: &[Symbol]) -> Self {
        KeyDigest(keys.iter().fold(0, |bits, key| bits | 1 << (key.number() % 32)))
    }

    fn meets(self, other: KeyDigest) -> bool {
        self.0 & other.0 != 0
    }
}

/// The selectors by what they need and by what they mention.
#[derive(Default)]
pub(super) struct Anchors {
    keys: FxHashMap<Symbol, KeyAnchors>,
    /// Selectors without an anchor: each item may match them.
    unanchored: Vec<Anchored>,
}

/// The selectors that concern one key.
#[derive(Default)]
struct KeyAnchors {
    /// Anchored at the key with whatever value.
    any_value: Vec<Anchored>,
    /// Anchored at the key with one value.
    values: FxHashMap<Symbol, Vec<Anchored>>,
    /// Those that mention the key, whatever their anchor.
    mentions: Mentions,
}

/// The selectors that mention a key.
enum Mentions {
    Listed(Vec<Anchored>),
    /// So many that nobody would go through them: they are found by what they need. In a large cluster every policy names
    /// its namespace, and a list of all of them would be never read. Until none is left, since who they are is not known.
    Many(usize),
}

/// With more mentions than this they are counted and no more.
const MANY: usize = 256;

impl Default for Mentions {
    fn default() -> Self {
        Mentions::Listed(Vec::new())
    }
}

impl Mentions {
    fn len(&self) -> usize {
        match self {
            Mentions::Listed(list) => list.len(),
            Mentions::Many(count) => *count,
        }
    }

    fn add(&mut self, anchored: Anchored) {
        match self {
            Mentions::Listed(list) if list.len() < MANY => list.push(anchored),
            Mentions::Listed(list) => *self = Mentions::Many(list.len() + 1),
            Mentions::Many(count) => *count += 1,
        }
    }

    /// Takes out one that was added.
    fn remove(&mut self, selector: u32) {
        match self {
            Mentions::Listed(list) => take_out(list, selector),
            Mentions::Many(1) => *self = Mentions::default(),
            Mentions::Many(count) => *count -= 1,
        }
    }
}

impl KeyAnchors {
    fn is_empty(&self) -> bool {
        self.any_value.is_empty() && self.values.is_empty() && self.mentions.len() == 0
    }
}

impl Anchors {
    /// Enters a selector with its anchor (see [`Compiled::anchor`]).
    pub(super) fn insert(&mut self, selector: u32, anchor: Option<&[Atom]>, compiled: &Compiled) {
        let mentioned = KeyDigest::of(&compiled.keys);
        let anchored = Anchored {
            selector,
            mentioned,
            required: compiled.required(),
        };
        match anchor {
            None => self.unanchored.push(anchored),
            Some(atoms) => {
                for atom in atoms {
                    let of_key = self.keys.entry(atom.key()).or_default();
                    match atom {
                        Atom::Key(_) => of_key.any_value.push(anchored),
                        Atom::Label((_, value)) => of_key.values.entry(*value).or_default().push(anchored),
                    }
                }
            }
        }
        for key in &compiled.keys {
            self.keys.entry(*key).or_default().mentions.add(anchored);
        }
    }

    /// Takes out what [`Anchors::insert`] entered with the same arguments.
    pub(super) fn remove(&mut self, selector: u32, anchor: Option<&[Atom]>, compiled: &Compiled) {
        match anchor {
            None => take_out(&mut self.unanchored, selector),
            Some(atoms) => {
                for atom in atoms {
                    let Some(of_key) = self.keys.get_mut(&atom.key()) else {
                        continue;
                    };
                    match atom {
                        Atom::Key(_) => take_out(&mut of_key.any_value, selector),
                        Atom::Label((_, value)) => {
                            let Some(list) = of_key.values.get_mut(value) else {
                                continue;
                            };
                            take_out(list, selector);
                            if list.is_empty() {
                                of_key.values.remove(value);
                            }
                        }
                    }
                }
            }
        }
        for key in &compiled.keys {
            let Some(of_key) = self.keys.get_mut(key) else {
                continue;
            };
            of_key.mentions.remove(selector);
            if of_key.is_empty() {
                self.keys.remove(key);
            }
        }
    }

    /// Whether any selector mentions the key.
    pub(super) fn mentions(&self, key: Symbol) -> bool {
        self.keys
            .get(&key)
            .is_some_and(|of_key| of_key.mentions.len() > 0)
    }

    /// Appends every selector that may match an item with these effective labels, some of them repeatedly.
    pub(super) fn candidates(&self, labels: &[Label], found: &mut Vec<u32>) {
        let present = LabelDigest::of(labels);
        let concerned = |anchored: &Anchored| anchored.required.is_within(present);
        self.met_by(labels, &concerned, found);
        append(&self.unanchored, &concerned, found);
    }

    /// Appends every selector whose outcome may differ between two sets of effective labels, some repeatedly,
    /// and perhaps some that mention none of the `changed` keys.
    pub(super) fn affected(&self, old: &[Label], new: &[Label], changed: &[Symbol], found: &mut Vec<u32>) {
        let keys = KeyDigest::of(changed);
        let (before, after) = (LabelDigest::of(old), LabelDigest::of(new));
        let concerned = |anchored: &Anchored| {
            anchored.mentioned.meets(keys)
                && (anchored.required.is_within(before) || anchored.required.is_within(after))
        };
        // Passing over some selectors in vain is cheaper than two look-ups for every label.
        if let Some(lists) = self.mentioning(changed, 8 * (old.len() + new.len())) {
            lists
                .iter()
                .for_each(|selectors| append(selectors, &concerned, found));
            return;
        }
        self.met_by(old, &concerned, found);
        // What both have was just looked up.
        for label in new {
            if old.binary_search(label).is_err() {
                self.met_by(std::slice::from_ref(label), &concerned, found);
            }
        }
        append(&self.unanchored, &concerned, found);
    }

    /// Who mentions one of the keys, where it is known of all and there are not more than `most`.
    fn mentioning(&self, keys: &[Symbol], most: usize) -> Option<Vec<&[Anchored]>> {
        let mut lists = Vec::with_capacity(keys.len());
        let mut sum = 0;
        for of_key in keys.iter().filter_map(|key| self.keys.get(key)) {
            match &of_key.mentions {
                Mentions::Listed(list) => lists.push(list.as_slice()),
                Mentions::Many(_) => return None,
            }
            sum += of_key.mentions.len();
        }
        (sum <= most).then_some(lists)
    }

    /// Appends the concerned among the selectors whose anchor these labels meet.
    fn met_by(&self, labels: &[Label], concerned: &impl Fn(&Anchored) -> bool, found: &mut Vec<u32>) {
        for (key, value) in labels {
            let Some(of_key) = self.keys.get(key) else {
                continue;
            };
            append(&of_key.any_value, concerned, found);
            if let Some(with_value) = of_key.values.get(value) {
                append(with_value, concerned, found);
            }
        }
    }
}

fn append(list: &[Anchored], concerned: &impl Fn(&Anchored) -> bool, found: &mut Vec<u32>) {
    found.extend(
        list.iter()
            .filter(|anchored| concerned(anchored))
            .map(|anchored| anchored.selector),
    );
}

/// Removes the one entry of a selector; the order of the others may change.
fn take_out(list: &mut Vec<Anchored>, selector: u32) {
    if let Some(place) = list.iter().position(|anchored| anchored.selector == selector) {
        list.swap_remove(place);
    }
}
