//! Numbers that came to mean the same are merged again, a few at a time, when nothing is urgent.

use super::endpoints::DirectionPlacing;
use super::renumber::Renumbered;
use super::{GRACE, Pass, Plan, Planner};
use dataplane_tables::{Changes, ClassId, Tables};

/// How many addresses one compaction moves at most, unless a single number has more.
const MOST_MOVES: usize = 4_096;

impl Planner {
    /// Plans a pass that merges identities which all groups came to treat alike, and maps of one group.
    ///
    /// Call it when [`Planner::next_retirement`] is due, before [`Planner::retire`]; nothing depends on it but memory.
    pub fn compact(&mut self, tables: &Tables, now: u64) -> Plan {
        let due = self.compact_at.is_some_and(|due| due <= now);
        if !due {
            return Plan::default();
        }
        self.compact_at = None;
        self.pass(
            &Pass {
                tables,
                changes: &Changes::default(),
                all: false,
                compacts: true,
                now,
            },
            Vec::new(),
        )
    }

    /// Sets down when to compact, if there is something to merge.
    pub(super) fn compact_later(&mut self, pass: &Pass<'_>) {
        let split = self.groups.iter().any(|groups| groups.split().next().is_some());
        if split || !self.identities.twins.is_empty() {
            self.compact_at.get_or_insert(pass.now + GRACE);
        }
    }

    /// Lets all interfaces of a group with several numbers come to the one that most have.
    pub(super) fn unite(&self, n: usize, out: &mut DirectionPlacing) {
        let groups = &self.groups[n];
        let members = |number: u32| groups.get(number).map_or(0, |m| m.members.len());
        for group in groups.split() {
            let numbers = groups.numbers(group);
            let most = numbers
                .iter()
                .copied()
                .max_by_key(|number| (members(*number), std::cmp::Reverse(*number)));
            for number in numbers.iter().copied().filter(|number| Some(*number) != most) {
                let mut interfaces: Vec<String> = groups
                    .get(number)
                    .map(|m| m.members.iter().cloned().collect())
                    .unwrap_or_default();
                interfaces.sort_unstable();
                out.left.insert(number);
                out.cohorts.insert((group, Some(number)), interfaces);
            }
        }
    }

    /// Lets the classes of a number that is treated like another one have that other one. A packet reads the number of
    /// an address first, so that a change of it alone is always safe. Returns the numbers that lost their classes.
    pub(super) fn merge_twins(&mut self, pass: &Pass<'_>, out: &mut Renumbered) -> Vec<u32> {
        let mut twins: Vec<u32> = self.identities.twins.iter().copied().collect();
        twins.sort_unstable();
        let (mut moved, mut emptied) = (0, Vec::new());
        for twin in twins {
            let Some(print) = self.identities.get(twin).map(|i| i.print) else {
                continue;
            };
            let other = self.identities.find(print).filter(|other| *other != twin);
            let Some(other) = other.filter(|_| self.identities.is_live(twin)) else {
                self.identities.twins.remove(&twin);
                if self.identities.is_live(twin) {
                    self.identities.offer(twin, print);
                }
                continue;
            };
            let weight = |number: u32| -> usize {
                let classes = self
                    .identities
                    .get(number)
                    .map(|i| &i.classes)
                    .into_iter()
                    .flatten();
                classes.map(|class| pass.tables.peers().members(*class)).sum()
            };
            let (from, to) = if weight(twin) <= weight(other) {
                (twin, other)
            } else {
                (other, twin)
            };
            if moved > 0 && moved + weight(from) > MOST_MOVES {
                break;
            }
            moved += weight(from);
            let mut classes: Vec<ClassId> = self
                .identities
                .get(from)
                .map(|i| i.classes.iter().copied().collect())
                .unwrap_or_default();
            classes.sort_unstable();
            for class in classes {
                self.move_class(pass, class, to, out);
            }
            self.identities.bury(from);
            self.identities.prefer(to, print);
            emptied.push(from);
        }
        emptied
    }
}
