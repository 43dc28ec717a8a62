//! Which number the addresses of a class have.
//!
//! Two classes share an identity while all groups treat them alike. A number keeps its meaning for every packet that
//! may still hold it: addresses that are treated otherwise move to another number, unless the whole identity changes
//! together and nobody has just left it.

use super::names::FIRST_IDENTITY;
use dataplane_tables::ClassId;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeMap;

/// What groups do with a class, where that is not the group's default: (group, row or result), sorted by group.
pub(super) type Vector = Vec<(GroupSlot, u32)>;

/// A group by direction (0 ingress, 1 egress) and number.
pub(super) type GroupSlot = (u8, u32);

/// The numbers of all classes.
#[derive(Debug, Default)]
pub(super) struct Identities {
    pub(super) of_class: FxHashMap<ClassId, u32>,
    pub(super) vectors: FxHashMap<u32, Vector>,
    by_vector: FxHashMap<Vector, u32>,
    classes: FxHashMap<u32, FxHashSet<ClassId>>,
    /// Numbers that addresses left, with the time (milliseconds) until which a packet may hold them.
    frozen: FxHashMap<u32, u64>,
    next: u32,
}

/// What one renumbering did.
#[derive(Debug, Default)]
pub(super) struct Renumbered {
    /// Numbers that appeared.
    pub(super) fresh: FxHashSet<u32>,
    /// Numbers that no class has any more.
    pub(super) gone: Vec<u32>,
    /// Numbers of which the vector changed in place.
    pub(super) in_place: Vec<u32>,
    /// Classes whose number changed, with the number before.
    pub(super) moved: FxHashMap<ClassId, u32>,
}

/// What a renumbering is about.
pub(super) struct Renumbering<'a> {
    /// What every class that exists gets now.
    pub(super) vectors: &'a FxHashMap<ClassId, Vector>,
    /// Groups whose map is made anew in this pass: no packet holds a row of theirs.
    pub(super) fresh_groups: &'a FxHashSet<GroupSlot>,
    /// Groups that go with this pass.
    pub(super) gone_groups: &'a FxHashSet<GroupSlot>,
    /// Numbers that addresses leave in this pass because their class changed.
    pub(super) left: &'a FxHashSet<u32>,
    /// Now, in milliseconds of any clock that does not go back.
    pub(super) now: u64,
    /// How long a packet may hold a number, in milliseconds.
    pub(super) grace: u64,
}

impl Identities {
    pub(super) fn new() -> Self {
        Identities { next: FIRST_IDENTITY, ..Identities::default() }
    }

    /// Takes over a number that the kernel has already, before the first renumbering.
    pub(super) fn adopt(&mut self, class: ClassId, number: u32, vector: Vector) {
        self.of_class.insert(class, number);
        self.classes.entry(number).or_default().insert(class);
        self.by_vector.entry(vector.clone()).or_insert(number);
        self.vectors.insert(number, vector);
    }

    /// Makes sure that numbers up to this one are not given.
    pub(super) fn skip_to(&mut self, number: u32) {
        self.next = self.next.max(number);
    }

    fn fresh(&mut self) -> u32 {
        let number = self.next;
        self.next += 1;
        number
    }

    fn set_vector(&mut self, number: u32, vector: Vector) {
        if let Some(old) = self.vectors.insert(number, vector.clone())
            && self.by_vector.get(&old) == Some(&number)
        {
            self.by_vector.remove(&old);
        }
        self.by_vector.entry(vector).or_insert(number);
    }

    fn assign(&mut self, class: ClassId, number: u32, out: &mut Renumbered) {
        let before = self.of_class.insert(class, number);
        if before == Some(number) {
            return;
        }
        if let Some(before) = before {
            out.moved.insert(class, before);
            if let Some(classes) = self.classes.get_mut(&before) {
                classes.remove(&class);
            }
        }
        self.classes.entry(number).or_default().insert(class);
    }

    /// Gives every class the number of what it gets now.
    pub(super) fn renumber(&mut self, change: &Renumbering<'_>) -> Renumbered {
        let mut out = Renumbered::default();
        self.frozen.retain(|_, until| *until > change.now);
        let dead: Vec<ClassId> = self.of_class.keys().filter(|c| !change.vectors.contains_key(c)).copied().collect();
        for class in dead {
            if let Some(number) = self.of_class.remove(&class)
                && let Some(classes) = self.classes.get_mut(&number)
            {
                classes.remove(&class);
            }
        }
        let mut touched: Vec<u32> = Vec::new();
        let mut homeless: Vec<ClassId> = Vec::new();
        for (class, vector) in change.vectors {
            match self.of_class.get(class) {
                None => homeless.push(*class),
                Some(number) => {
                    let same = self.vectors.get(number) == Some(vector);
                    if !same || change.left.contains(number) {
                        touched.push(*number);
                    }
                }
            }
        }
        touched.sort_unstable();
        touched.dedup();
        homeless.sort_unstable();
        for number in touched {
            self.renumber_one(number, change, &mut homeless, &mut out);
        }
        for class in homeless {
            let Some(vector) = change.vectors.get(&class) else { continue };
            let number = match self.by_vector.get(vector) {
                Some(number) => *number,
                None => {
                    let number = self.fresh();
                    out.fresh.insert(number);
                    self.set_vector(number, vector.clone());
                    number
                }
            };
            self.assign(class, number, &mut out);
        }
        for number in change.left.iter().chain(out.moved.values()) {
            self.frozen.insert(*number, change.now + change.grace);
        }
        out.gone = self.classes.iter().filter(|(_, c)| c.is_empty()).map(|(n, _)| *n).collect();
        out.gone.sort_unstable();
        for number in &out.gone {
            self.classes.remove(number);
            if let Some(vector) = self.vectors.remove(number)
                && self.by_vector.get(&vector) == Some(number)
            {
                self.by_vector.remove(&vector);
            }
        }
        out.fresh.retain(|n| self.vectors.contains_key(n));
        out
    }

    /// Decides which of a number's classes keep it. The others become homeless.
    fn renumber_one(
        &mut self,
        number: u32,
        change: &Renumbering<'_>,
        homeless: &mut Vec<ClassId>,
        out: &mut Renumbered,
    ) {
        let mut parts: BTreeMap<&Vector, Vec<ClassId>> = BTreeMap::new();
        for class in self.classes.get(&number).into_iter().flatten() {
            if let Some(vector) = change.vectors.get(class) {
                parts.entry(vector).or_default().push(*class);
            }
        }
        let held = |slot: &GroupSlot| !change.fresh_groups.contains(slot) && !change.gone_groups.contains(slot);
        let before: Vector =
            self.vectors.get(&number).map(|v| v.iter().filter(|(s, _)| held(s)).copied().collect()).unwrap_or_default();
        let compatible = |v: &Vector| v.iter().filter(|(s, _)| held(s)).eq(before.iter());
        let left = change.left.contains(&number) || self.frozen.contains_key(&number);
        let keeper: Option<Vector> = if left {
            // A packet of an address that has just left may still hold the number: nothing may change under it.
            let same = |v: &Vector| compatible(v) && (change.fresh_groups.is_empty() || v.is_empty());
            parts.keys().find(|v| same(v)).map(|v| (*v).clone())
        } else {
            let largest = parts.iter().filter(|(v, _)| compatible(v)).max_by_key(|(_, c)| c.len());
            let whole = if parts.len() == 1 { parts.keys().next().copied() } else { None };
            largest.map(|(v, _)| (*v).clone()).or_else(|| whole.cloned())
        };
        let others: Vec<ClassId> =
            parts.iter().filter(|(v, _)| Some(**v) != keeper.as_ref()).flat_map(|(_, c)| c.iter().copied()).collect();
        if let Some(keeper) = keeper
            && self.vectors.get(&number) != Some(&keeper)
        {
            self.set_vector(number, keeper);
            out.in_place.push(number);
        }
        homeless.extend(others);
    }
}
