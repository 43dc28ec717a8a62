//! One family of a group: which classes of peers it tells apart, the sets that this needs, and the rules of its chain.
//!
//! A chain asks in this order, and stops at the first answer:
//! 1. of single addresses that are treated otherwise than what is around them: what is allowed,
//! 2. whether it is one of these (then nothing else is allowed),
//! 3. of networks that are treated otherwise than the rest of the world: what is allowed,
//! 4. whether it is in one of these,
//! 5. what the rest of the world is allowed.
//!
//! Questions whose answer makes no difference are not asked: where nobody else is allowed anything, 2 to 5 are gone.

use super::pattern::{self, Lowered, Parts, Pattern, Single};
use super::rule::{End, Lookup, Match, Rule, Target};
use crate::names::{self, Role, Toward};
use crate::ops::Family;
use dataplane_tables::{ClassId, GroupId};
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Which side is meant.
pub(super) type SideId = (GroupId, Family);

/// How many combinations of ports a chain asks for one by one. With more, ports stand in the set beside the addresses.
const FEW_LISTS: usize = 2;

/// What is asked of a packet beside its address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum What {
    /// The set says ports too.
    Merged,
    /// The rule says it.
    Pattern(Pattern),
    /// Nothing.
    Nothing,
}

/// A place in a chain that asks a set. They are asked in this order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SlotKey {
    /// Whether it asks for networks, and not for single addresses.
    pub(super) net: bool,
    pub(super) role: Role,
    pub(super) what: What,
}

/// The protocols and ports that a class has in a set; one of nothing where the set says addresses alone.
pub(super) type Suffixes = Rc<[Single]>;

/// What a class has in a set before and after a pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) before: Option<Suffixes>,
    pub(super) after: Option<Suffixes>,
}

/// What a pass changes of slots: by class.
pub(super) type SlotChanges = BTreeMap<SlotKey, FxHashMap<ClassId, Change>>;

/// A class that is told apart.
#[derive(Clone, Debug)]
struct Special {
    net: bool,
    parts: Rc<Parts>,
}

/// What a slot's set is to hold, without its members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Slot {
    /// The sum of the hashes of what is in it: equal sets have equal sums, whatever came first.
    digest: u128,
    classes: usize,
}

/// One family of a group.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) toward: Toward,
    /// The number of its chain.
    pub(super) number: u32,
    /// Interfaces that lead to it.
    pub(super) interfaces: BTreeSet<String>,
    /// What everybody else is allowed.
    default: Rc<Parts>,
    special: FxHashMap<ClassId, Special>,
    /// How many classes have each combination of ports.
    lists: BTreeMap<Pattern, usize>,
    /// Whether ports stand in the sets.
    merged: bool,
    /// Whether sets with ports in them became too large.
    too_large: bool,
    slots: BTreeMap<SlotKey, Slot>,
    /// What this pass changes.
    pub(super) changes: SlotChanges,
    /// The set of each slot that the chain asks, with what it holds.
    pub(super) assigned: BTreeMap<SlotKey, (u128, u32)>,
    /// The chains that its rules need.
    pub(super) shared: BTreeSet<String>,
}

impl Side {
    pub(super) fn new(toward: Toward, number: u32) -> Self {
        Side {
            toward,
            number,
            interfaces: BTreeSet::new(),
            default: Rc::default(),
            special: FxHashMap::default(),
            lists: BTreeMap::new(),
            merged: false,
            too_large: false,
            slots: BTreeMap::new(),
            changes: BTreeMap::new(),
            assigned: BTreeMap::new(),
            shared: BTreeSet::new(),
        }
    }

    pub(super) fn chain(&self) -> String {
        names::group(self.toward, self.number)
    }

    pub(super) fn set_default(&mut self, parts: Rc<Parts>) {
        self.default = parts;
    }

    /// The classes that are told apart.
    pub(super) fn told_apart(&self) -> Vec<ClassId> {
        self.special.keys().copied().collect()
    }

    /// Forgets a class that is gone; says whether it was told apart.
    pub(super) fn forget(&mut self, class: ClassId) -> bool {
        let net = match self.special.get(&class) {
            Some(special) => special.net,
            None => return false,
        };
        self.tell(class, net, None)
    }

    /// Tells a class apart, or (`None`) no longer; says whether that is new.
    pub(super) fn tell(&mut self, class: ClassId, net: bool, parts: Option<Rc<Parts>>) -> bool {
        let after = parts.map(|parts| Special { net, parts });
        let before = match after.clone() {
            Some(after) => self.special.insert(class, after),
            None => self.special.remove(&class),
        };
        if let (Some(a), Some(b)) = (&before, &after)
            && a.net == b.net
            && (Rc::ptr_eq(&a.parts, &b.parts) || a.parts == b.parts)
        {
            return false;
        }
        let changes = before.is_some() || after.is_some();
        if let Some(before) = before {
            for list in lists_of(&before.parts) {
                if let Some(count) = self.lists.get_mut(list) {
                    *count -= 1;
                    if *count == 0 {
                        self.lists.remove(list);
                    }
                }
            }
            self.take_out(class, &before);
        }
        if let Some(after) = after {
            for list in lists_of(&after.parts) {
                *self.lists.entry(list.clone()).or_default() += 1;
            }
            self.put_in(class, &after);
        }
        changes
    }

    fn take_out(&mut self, class: ClassId, special: &Special) {
        for (key, suffixes) in contributions(special, self.merged) {
            if let Some(slot) = self.slots.get_mut(&key) {
                slot.digest = slot.digest.wrapping_sub(digest(class, &suffixes));
                slot.classes -= 1;
                if slot.classes == 0 {
                    self.slots.remove(&key);
                }
            }
            let before = Some(suffixes);
            let of_slot = self.changes.entry(key).or_default();
            of_slot
                .entry(class)
                .or_insert(Change { before, after: None })
                .after = None;
        }
    }

    fn put_in(&mut self, class: ClassId, special: &Special) {
        for (key, suffixes) in contributions(special, self.merged) {
            let slot = self.slots.entry(key.clone()).or_default();
            slot.digest = slot.digest.wrapping_add(digest(class, &suffixes));
            slot.classes += 1;
            self.changes
                .entry(key)
                .or_default()
                .entry(class)
                .or_default()
                .after = Some(suffixes);
        }
    }

    /// Decides whether ports stand in the sets. `members` says how many members a class has, and is asked only when the
    /// side is made anew; else `too_large` says whether a set has grown beyond measure.
    pub(super) fn choose(
        &mut self,
        limit: usize,
        members: Option<&dyn Fn(ClassId) -> usize>,
        too_large: bool,
    ) {
        if let Some(members) = members {
            let count =
                |(class, special): (&ClassId, &Special)| members(*class) * special.parts.singles.len();
            self.too_large = self.special.iter().map(count).sum::<usize>() > limit;
        }
        self.too_large |= too_large;
        let merged = self.lists.len() > FEW_LISTS && !self.too_large;
        if merged == self.merged {
            return;
        }
        let all: Vec<(ClassId, Special)> = self.special.iter().map(|(c, s)| (*c, s.clone())).collect();
        for (class, special) in &all {
            self.take_out(*class, special);
        }
        self.merged = merged;
        for (class, special) in &all {
            self.put_in(*class, special);
        }
    }

    /// The slots that the chain asks, with the digest of what each is to hold.
    pub(super) fn wanted(&self) -> BTreeMap<SlotKey, u128> {
        let beyond_nets = !self.default.is_nothing();
        let nets_matter = self.slots.keys().any(|key| key.net && key.role != Role::Known);
        let asked = |key: &SlotKey| match (key.role, key.net) {
            (Role::Known, true) => beyond_nets,
            (Role::Known, false) => beyond_nets || nets_matter,
            _ => true,
        };
        let slots = self.slots.iter().filter(|(key, _)| asked(key));
        slots.map(|(key, slot)| (key.clone(), slot.digest)).collect()
    }

    /// All that a slot's set is to hold.
    pub(super) fn content(&self, key: &SlotKey) -> FxHashMap<ClassId, Suffixes> {
        let of = |(class, special): (&ClassId, &Special)| {
            let mut found = contributions(special, self.merged).into_iter();
            found
                .find(|(k, _)| k == key)
                .map(|(_, suffixes)| (*class, suffixes))
        };
        self.special.iter().filter_map(of).collect()
    }

    /// The rules of the chain, and chains that they need.
    pub(super) fn rules(&self, family: Family) -> SideRules {
        let end = match self.toward {
            Toward::FromWorkload => End::Destination,
            Toward::ToWorkload => End::Source,
        };
        let allow = Target::Goto(names::ALLOW.to_owned());
        let mut out = SideRules::default();
        for (key, (_, set)) in &self.assigned {
            let lookup = match key.what {
                What::Merged => Lookup::AddressAndPort(end),
                _ => Lookup::Address(end),
            };
            let asked = Match::InSet(names::peers(family, key.role, *set), lookup);
            let target = match key.role {
                Role::Report => Target::Report,
                Role::Allow => allow.clone(),
                Role::Known => Target::Return,
            };
            match &key.what {
                What::Pattern(pattern) => out.take(pattern::rules(pattern, family, &[asked], &target)),
                What::Merged | What::Nothing => out.rules.push(Rule::new([asked], target)),
            }
        }
        for (patterns, target) in [(&self.default.logs, Target::Report), (&self.default.whole, allow)] {
            for pattern in patterns {
                out.take(pattern::rules(pattern, family, &[], &target));
            }
        }
        out
    }
}

/// Rules, and chains that they lead to.
#[derive(Debug, Default)]
pub(super) struct SideRules {
    pub(super) rules: Vec<Rule>,
    pub(super) chains: BTreeMap<String, Vec<Rule>>,
}

impl SideRules {
    fn take(&mut self, lowered: Lowered) {
        self.rules.extend(lowered.rules);
        self.chains.extend(lowered.chain);
    }
}

/// The combinations of ports that could stand in a set.
fn lists_of(parts: &Parts) -> impl Iterator<Item = &Pattern> {
    let has_singles = |pattern: &&Pattern| matches!(pattern, Pattern::Of(p, _) if parts.singles.iter().any(|(q, _)| p == q));
    parts.whole.iter().filter(has_singles)
}

/// What a class has in the set of each slot.
fn contributions(special: &Special, merged: bool) -> Vec<(SlotKey, Suffixes)> {
    let Special { net, parts } = special;
    let plain: Suffixes = Rc::from([(0u8, 0u16)]);
    let slot = |role, what| SlotKey {
        net: *net,
        role,
        what,
    };
    let mut out = vec![(slot(Role::Known, What::Nothing), plain.clone())];
    let mut add = |role, patterns: &[Pattern]| {
        let patterns = patterns.iter().cloned();
        out.extend(patterns.map(|p| (slot(role, What::Pattern(p)), plain.clone())));
    };
    add(Role::Report, &parts.logs);
    add(Role::Allow, if merged { &parts.wide } else { &parts.whole });
    if merged && !parts.singles.is_empty() {
        out.push((slot(Role::Allow, What::Merged), parts.singles.as_slice().into()));
    }
    out
}

fn digest(class: ClassId, suffixes: &[Single]) -> u128 {
    let one = |(protocol, port): &Single| {
        let text = u64::from(class.0) << 24 | u64::from(*protocol) << 16 | u64::from(*port);
        u128::from(scatter(text)) << 64 | u128::from(scatter(text ^ 0x5851_f42d_4c95_7f2d))
    };
    suffixes.iter().map(one).fold(0, u128::wrapping_add)
}

/// A number whose bits all depend on all bits of another.
fn scatter(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
