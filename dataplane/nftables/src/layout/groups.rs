//! Which number a group has, and whether its map may change in place.

use dataplane_api::EndpointId;
use dataplane_tables::GroupId;
use rustc_hash::{FxHashMap, FxHashSet};

/// Numbers of the groups of one direction.
#[derive(Debug, Default)]
pub(super) struct Groups {
    pub(super) of_group: FxHashMap<GroupId, u32>,
    members: FxHashMap<u32, FxHashSet<EndpointId>>,
    /// Numbers that endpoints left, with the time until which a packet may be on its way through their chain.
    frozen: FxHashMap<u32, u64>,
    next: u32,
}

/// What one pass does with the groups of one direction.
#[derive(Debug, Default)]
pub(super) struct GroupPass {
    /// Numbers that appear.
    pub(super) fresh: FxHashSet<u32>,
    /// Numbers that keep their endpoints, while what they do changes.
    pub(super) in_place: FxHashSet<u32>,
    /// Numbers that no endpoint has any more.
    pub(super) gone: FxHashSet<u32>,
}

impl Groups {
    /// Takes over a number that the kernel has already.
    pub(super) fn adopt(&mut self, number: u32, endpoint: EndpointId) {
        self.members.entry(number).or_default().insert(endpoint);
    }

    /// Makes sure that numbers up to this one are not given.
    pub(super) fn skip_to(&mut self, number: u32) {
        self.next = self.next.max(number);
    }

    /// Places all endpoints.
    ///
    /// `placed`: each endpoint that there is now, with its group. `may_stay`: whether the number's map can become the
    /// group's without another default and within its size. `changed`: groups of which rows changed.
    pub(super) fn place(
        &mut self,
        placed: &[(EndpointId, GroupId)],
        changed: &FxHashSet<GroupId>,
        now: u64,
        grace: u64,
        may_stay: impl Fn(GroupId, u32) -> bool,
    ) -> GroupPass {
        self.frozen.retain(|_, until| *until > now);
        let mut pass = GroupPass::default();
        let mut wanted: FxHashMap<GroupId, FxHashSet<EndpointId>> = FxHashMap::default();
        for (endpoint, group) in placed {
            wanted.entry(*group).or_default().insert(endpoint.clone());
        }
        let mut number_of: FxHashMap<&EndpointId, u32> = FxHashMap::default();
        for (number, members) in &self.members {
            number_of.extend(members.iter().map(|e| (e, *number)));
        }
        let mut taken: FxHashSet<u32> = FxHashSet::default();
        let mut next_of: FxHashMap<GroupId, u32> = FxHashMap::default();
        let mut order: Vec<GroupId> = wanted.keys().copied().collect();
        order.sort_unstable();
        // First the groups that have a number: they keep it unless it must change under a packet's feet.
        let nobody_left = |number: u32, endpoints: &FxHashSet<EndpointId>| {
            self.members.get(&number).is_none_or(|m| m.iter().all(|e| endpoints.contains(e)))
        };
        let mut undecided: Vec<GroupId> = Vec::new();
        for group in order {
            let endpoints = &wanted[&group];
            let Some(number) = self.of_group.get(&group).copied() else {
                undecided.push(group);
                continue;
            };
            let calm = nobody_left(number, endpoints) && !self.frozen.contains_key(&number);
            if !changed.contains(&group) || (calm && may_stay(group, number)) {
                if changed.contains(&group) {
                    pass.in_place.insert(number);
                }
                taken.insert(number);
                next_of.insert(group, number);
            } else {
                undecided.push(group);
            }
        }
        for group in undecided {
            let endpoints = &wanted[&group];
            let mut candidates: Vec<u32> = endpoints.iter().filter_map(|e| number_of.get(e).copied()).collect();
            candidates.sort_unstable();
            candidates.dedup();
            let size = |n: &u32| self.members.get(n).map_or(0, FxHashSet::len);
            candidates.sort_by_key(|n| std::cmp::Reverse(size(n)));
            let stay = candidates.into_iter().find(|n| {
                let calm = nobody_left(*n, endpoints) && !self.frozen.contains_key(n);
                calm && !taken.contains(n) && may_stay(group, *n)
            });
            let number = match stay {
                Some(number) => {
                    pass.in_place.insert(number);
                    number
                }
                None => {
                    let number = self.next;
                    self.next += 1;
                    pass.fresh.insert(number);
                    number
                }
            };
            taken.insert(number);
            next_of.insert(group, number);
        }
        for (number, members) in &self.members {
            let now_in = |e: &EndpointId| placed.binary_search_by(|(p, _)| p.cmp(e)).ok().map(|at| placed[at].1);
            let left = members.iter().any(|e| now_in(e).and_then(|g| next_of.get(&g)) != Some(number));
            if left {
                self.frozen.insert(*number, now + grace);
            }
            if !taken.contains(number) {
                pass.gone.insert(*number);
            }
        }
        self.members = wanted.into_iter().map(|(group, endpoints)| (next_of[&group], endpoints)).collect();
        self.of_group = next_of;
        pass
    }
}
