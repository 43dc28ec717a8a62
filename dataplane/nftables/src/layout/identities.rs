//! Which number the addresses of a class have.
//!
//! Two classes share an identity while all groups treat them alike. A packet may hold a number for a while after its
//! address has left it; such a number is *frozen*: what anybody makes of it stays, or becomes what the address that
//! left gets now, and nothing else.

use super::names::{FIRST_IDENTITY, FIRST_ROW};
use dataplane_tables::{ClassId, GroupId};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::hash_map::Entry;

/// What all groups do with a class, as one number: two classes that are treated alike have the same.
///
/// It is the sum of one term for each group that treats the class otherwise than by its default, so that one change
/// costs one addition. Terms are 128 well-mixed bits: sums of different terms do not meet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Print(u128);

impl Print {
    /// The term of one group.
    pub(super) fn of(group: GroupId, code: u32) -> Self {
        let word = u64::from(group.0) << 32 | u64::from(code);
        let (high, low) = (
            mix(word ^ 0x6a09_e667_f3bc_c908),
            mix(word.rotate_left(17) ^ 0xbb67_ae85_84ca_a73b),
        );
        Print(u128::from(high) << 64 | u128::from(low))
    }

    pub(super) fn plus(self, term: Print) -> Self {
        Print(self.0.wrapping_add(term.0))
    }

    pub(super) fn minus(self, term: Print) -> Self {
        Print(self.0.wrapping_sub(term.0))
    }
}

/// Every bit of the result depends on every bit of the word.
fn mix(word: u64) -> u64 {
    let mut z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Where addresses that left a number are now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Whereabouts {
    pub(super) class: ClassId,
    /// For classes of intervals, whether they are of IPv6: their addresses change class without being named.
    pub(super) interval_of: Option<bool>,
}

/// Where an address was: in a class, or (true for IPv6) in some interval of a family.
pub(super) type Origin = Result<ClassId, bool>;

/// Addresses that left a number.
#[derive(Debug)]
pub(super) struct Leavers {
    /// Until when (milliseconds) a packet may hold the number.
    until: u64,
    /// All classes that one of them may be in now; `None` means that they may be anywhere.
    now_in: Option<Vec<Whereabouts>>,
}

/// Beyond this many classes it is not worth knowing where addresses went.
pub(super) const MOST_WHEREABOUTS: usize = 16;

/// A number.
#[derive(Debug, Default)]
pub(super) struct Identity {
    /// The classes that have it. None: it only waits until no packet can hold it.
    pub(super) classes: FxHashSet<ClassId>,
    pub(super) print: Print,
    leavers: Option<Leavers>,
    /// Whether its removal is set down.
    departed: bool,
}

/// The numbers of all classes.
#[derive(Debug, Default)]
pub(super) struct Identities {
    pub(super) of_class: FxHashMap<ClassId, u32>,
    numbers: FxHashMap<u32, Identity>,
    by_print: FxHashMap<Print, u32>,
    frozen: FxHashSet<u32>,
    /// Numbers that came to be treated like another one, to be merged with it.
    pub(super) twins: FxHashSet<u32>,
    next: u32,
}

impl Identities {
    pub(super) fn new() -> Self {
        Identities {
            next: FIRST_IDENTITY,
            ..Identities::default()
        }
    }

    /// Takes over a number that the kernel has already, before the first pass.
    pub(super) fn adopt(&mut self, class: ClassId, number: u32) {
        self.of_class.insert(class, number);
        self.numbers.entry(number).or_default().classes.insert(class);
    }

    /// Takes over a number that the kernel has and nobody uses.
    pub(super) fn adopt_stranger(&mut self, number: u32, until: u64) {
        self.numbers.entry(number).or_default().departed = true;
        self.leave(number, until, None);
    }

    /// Makes sure that numbers below this one are not given.
    pub(super) fn skip_to(&mut self, number: u32) {
        self.next = self.next.max(number);
    }

    pub(super) fn get(&self, number: u32) -> Option<&Identity> {
        self.numbers.get(&number)
    }

    pub(super) fn is_live(&self, number: u32) -> bool {
        self.numbers.get(&number).is_some_and(|i| !i.classes.is_empty())
    }

    /// The number for classes with this print.
    pub(super) fn find(&self, print: Print) -> Option<u32> {
        self.by_print.get(&print).copied()
    }

    /// A number that nobody has had.
    pub(super) fn fresh(&mut self, print: Print) -> u32 {
        loop {
            // Two thousand million numbers later they begin anew.
            let number = if self.next < FIRST_ROW {
                self.next
            } else {
                FIRST_IDENTITY
            };
            self.next = number + 1;
            if let Entry::Vacant(free) = self.numbers.entry(number) {
                free.insert(Identity {
                    print,
                    ..Identity::default()
                });
                self.by_print.insert(print, number);
                return number;
            }
        }
    }

    /// Says what the classes of a number get now.
    pub(super) fn set_print(&mut self, number: u32, print: Print) {
        let Some(identity) = self.numbers.get_mut(&number) else {
            return;
        };
        let before = std::mem::replace(&mut identity.print, print);
        if self.by_print.get(&before) == Some(&number) {
            self.by_print.remove(&before);
        }
        self.offer(number, print);
    }

    /// Lets classes with this print find the number; where they find another one already, the two are twins.
    pub(super) fn offer(&mut self, number: u32, print: Print) {
        if *self.by_print.entry(print).or_insert(number) == number {
            self.twins.remove(&number);
        } else {
            self.twins.insert(number);
        }
    }

    /// Lets classes with this print find this number and not its twin.
    pub(super) fn prefer(&mut self, number: u32, print: Print) {
        self.by_print.insert(print, number);
        self.twins.remove(&number);
    }

    /// Gives a class a number and returns the one that it had.
    pub(super) fn assign(&mut self, class: ClassId, number: u32) -> Option<u32> {
        let before = self.of_class.insert(class, number).filter(|b| *b != number);
        if let Some(identity) = before.and_then(|b| self.numbers.get_mut(&b)) {
            identity.classes.remove(&class);
        }
        self.numbers.entry(number).or_default().classes.insert(class);
        before
    }

    /// Forgets a class that no address has any more, and returns its number.
    pub(super) fn forget_class(&mut self, class: ClassId) -> Option<u32> {
        let number = self.of_class.remove(&class)?;
        if let Some(identity) = self.numbers.get_mut(&number) {
            identity.classes.remove(&class);
        }
        Some(number)
    }

    /// Nobody finds the number any more; it only waits.
    pub(super) fn bury(&mut self, number: u32) {
        self.twins.remove(&number);
        if let Some(identity) = self.numbers.get(&number)
            && self.by_print.get(&identity.print) == Some(&number)
        {
            self.by_print.remove(&identity.print);
        }
    }

    /// Says whether a number has just lost its last class: from now on it only waits.
    pub(super) fn depart(&mut self, number: u32, until: u64) -> bool {
        let Some(identity) = self.numbers.get_mut(&number) else {
            return false;
        };
        if !identity.classes.is_empty() || std::mem::replace(&mut identity.departed, true) {
            return false;
        }
        self.bury(number);
        if !self.is_frozen(number) {
            self.leave(number, until, None);
        }
        true
    }

    /// Forgets a number that no packet can hold.
    pub(super) fn drop_number(&mut self, number: u32) {
        self.bury(number);
        self.numbers.remove(&number);
        self.frozen.remove(&number);
    }

    // --- addresses that left --------------------------------------------------------------------------------------

    /// Numbers that a packet may hold whose address has another one now.
    pub(super) fn frozen(&self) -> impl Iterator<Item = u32> + '_ {
        self.frozen.iter().copied()
    }

    pub(super) fn is_frozen(&self, number: u32) -> bool {
        self.frozen.contains(&number)
    }

    /// Frozen numbers that nobody has any more.
    pub(super) fn departed(&self) -> Vec<u32> {
        let mut out: Vec<u32> = self.frozen().filter(|n| !self.is_live(*n)).collect();
        out.sort_unstable();
        out
    }

    /// Lets numbers go that no packet can hold any more.
    pub(super) fn thaw(&mut self, now: u64) {
        let numbers = &mut self.numbers;
        self.frozen.retain(|number| {
            let Some(identity) = numbers.get_mut(number) else {
                return false;
            };
            if identity.leavers.as_ref().is_some_and(|l| l.until > now) {
                return true;
            }
            identity.leavers = None;
            false
        });
    }

    /// An address with this number has gone to a class, or (`None`) anywhere.
    pub(super) fn leave(&mut self, number: u32, until: u64, to: Option<Whereabouts>) {
        let Some(identity) = self.numbers.get_mut(&number) else {
            return;
        };
        self.frozen.insert(number);
        let leavers = identity.leavers.get_or_insert_with(|| Leavers {
            until,
            now_in: Some(Vec::new()),
        });
        leavers.until = leavers.until.max(until);
        match to {
            Some(to) => add_whereabouts(&mut leavers.now_in, to),
            None => leavers.now_in = None,
        }
    }

    /// The classes in which the addresses are that left a number; `None` means anywhere, or that none left.
    pub(super) fn whereabouts(&self, number: u32) -> Option<&[Whereabouts]> {
        self.numbers
            .get(&number)?
            .leavers
            .as_ref()?
            .now_in
            .as_deref()
            .filter(|list| !list.is_empty())
    }

    /// Those who left and were in a class may now be where its addresses went.
    pub(super) fn follow(&mut self, went: &FxHashMap<Origin, Vec<Whereabouts>>) {
        for number in &self.frozen {
            let Some(leavers) = self.numbers.get_mut(number).and_then(|i| i.leavers.as_mut()) else {
                continue;
            };
            // Nobody goes on twice in one pass: what is added here is not followed again.
            let mut places = Vec::new();
            for known in leavers.now_in.iter().flatten() {
                places.extend(went.get(&Ok(known.class)));
                places.extend(known.interval_of.and_then(|v6| went.get(&Err(v6))));
            }
            for place in places.into_iter().flatten() {
                add_whereabouts(&mut leavers.now_in, *place);
            }
        }
    }

    /// Intervals of a family changed: those who left and were in one may be anywhere.
    pub(super) fn lose_intervals(&mut self, v6: bool) {
        for number in &self.frozen {
            let Some(leavers) = self.numbers.get_mut(number).and_then(|i| i.leavers.as_mut()) else {
                continue;
            };
            if leavers
                .now_in
                .as_ref()
                .is_some_and(|list| list.iter().any(|w| w.interval_of == Some(v6)))
            {
                leavers.now_in = None;
            }
        }
    }

    /// Classes (sorted) went; their numbers may be given to other classes later.
    pub(super) fn lose_classes(&mut self, gone: &[ClassId]) {
        for number in &self.frozen {
            if let Some(leavers) = self.numbers.get_mut(number).and_then(|i| i.leavers.as_mut())
                && let Some(list) = &mut leavers.now_in
            {
                list.retain(|w| gone.binary_search(&w.class).is_err());
            }
        }
    }
}

fn add_whereabouts(list: &mut Option<Vec<Whereabouts>>, to: Whereabouts) {
    let Some(known) = list else { return };
    if known.contains(&to) {
        return;
    }
    if known.len() < MOST_WHEREABOUTS {
        known.push(to);
    } else {
        *list = None;
    }
}
