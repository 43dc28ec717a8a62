//! Which group each endpoint is in: what its policies, and its own addresses as far as they ask, make of it.

use super::{Changes, Group, GroupId, Placed, RowRef, Tables};
use crate::group::{Direction, GroupKey, GroupRules, OwnSide};
use crate::row::{Row, Verdict};
use dataplane_api::{AtomId, EndpointId, PolicyId, WorkloadEndpoint};
use policy_model_rules::IpVersion;
use rustc_hash::{FxHashMap, FxHashSet};
use std::rc::Rc;
use std::sync::Arc;

fn policies_of(key: &GroupKey) -> impl Iterator<Item = &PolicyId> {
    key.tiers.iter().flat_map(|t| &t.policies).chain(&key.profiles)
}

impl Tables {
    /// Endpoints whose own addresses came into or left a set that rules ask of their own side.
    pub(super) fn ask_owners_again(&mut self) {
        let own = self.own.take_changes();
        if own.intervals_v4 || own.intervals_v6 {
            self.dirty_endpoints.extend(self.endpoints.keys().cloned());
            return;
        }
        for (address, _, _) in &own.moved {
            self.dirty_endpoints
                .extend(self.holders.get(address).into_iter().flatten().cloned());
        }
    }

    /// Groups with a changed policy get their rules anew.
    pub(super) fn rebuild_groups(&mut self) -> FxHashSet<GroupId> {
        let mut rebuilt = FxHashSet::default();
        for policy in &self.dirty_policies {
            rebuilt.extend(self.groups_of.get(policy).into_iter().flatten().copied());
        }
        let policies = &self.policies;
        for id in &rebuilt {
            if let Some(group) = self.groups.get_mut(id) {
                group.rules = GroupRules::new(&group.key, |p| policies.get(p).cloned());
                self.dirty_endpoints.extend(group.endpoints.iter().cloned());
            }
        }
        rebuilt
    }

    pub(super) fn place_endpoints(&mut self, changes: &mut Changes) {
        let mut dirty: Vec<EndpointId> = self.dirty_endpoints.drain().collect();
        dirty.sort_unstable();
        let mut left: Vec<(GroupId, EndpointId)> = Vec::new();
        for id in dirty {
            let before = self.placed.remove(&id);
            let groups_before = before.iter().flat_map(|b| [b.ingress, b.egress]);
            let Some(endpoint) = self.endpoints.get(&id).cloned() else {
                left.extend(groups_before.map(|g| (g, id.clone())));
                continue;
            };
            let ingress = self.join(&id, self.key_of(&endpoint, Direction::Ingress), changes);
            let egress = self.join(&id, self.key_of(&endpoint, Direction::Egress), changes);
            left.extend(
                groups_before
                    .filter(|g| ![ingress, egress].contains(g))
                    .map(|g| (g, id.clone())),
            );
            let same = before.is_some_and(|b| {
                b.ingress == ingress
                    && b.egress == egress
                    && (Arc::ptr_eq(&b.endpoint, &endpoint) || b.endpoint == endpoint)
            });
            if !same {
                changes.changed_endpoints.push(id.clone());
            }
            self.placed.insert(
                id,
                Placed {
                    endpoint,
                    ingress,
                    egress,
                },
            );
        }
        for (id, endpoint) in left {
            let Some(group) = self.groups.get_mut(&id) else {
                continue;
            };
            group.endpoints.remove(&endpoint);
            if group.endpoints.is_empty() {
                let key = group.key.clone();
                self.groups.remove(&id);
                self.group_by_key.remove(&key);
                for policy in policies_of(&key) {
                    if let Some(groups) = self.groups_of.get_mut(policy) {
                        groups.remove(&id);
                        if groups.is_empty() {
                            self.groups_of.remove(policy);
                        }
                    }
                }
                changes.gone_groups.push(id);
            }
        }
        // A group that appeared and went within one commit was never there.
        let groups = &self.groups;
        let never: FxHashSet<GroupId> = changes
            .new_groups
            .iter()
            .filter(|g| !groups.contains_key(g))
            .copied()
            .collect();
        changes.new_groups.retain(|g| !never.contains(g));
        changes.gone_groups.retain(|g| !never.contains(g));
        // An endpoint that was removed and came back under the same name only changed.
        let endpoints = &self.endpoints;
        changes.gone_endpoints = std::mem::take(&mut self.gone_endpoints)
            .into_iter()
            .filter(|e| !endpoints.contains_key(&e.id))
            .collect();
    }

    fn join(&mut self, endpoint: &EndpointId, key: GroupKey, changes: &mut Changes) -> GroupId {
        if let Some(id) = self.group_by_key.get(&key) {
            let id = *id;
            if let Some(group) = self.groups.get_mut(&id) {
                group.endpoints.insert(endpoint.clone());
            }
            return id;
        }
        let id = GroupId(self.next_group);
        self.next_group += 1;
        let key = Rc::new(key);
        let policies = &self.policies;
        let rules = GroupRules::new(&key, |p| policies.get(p).cloned());
        let nothing: RowRef = Rc::new(Row::uniform(Verdict::Deny));
        let world = [nothing.clone(), nothing];
        for policy in policies_of(&key) {
            self.groups_of.entry(policy.clone()).or_default().insert(id);
        }
        let group = Group {
            key: key.clone(),
            rules,
            endpoints: FxHashSet::from_iter([endpoint.clone()]),
            world,
            rows: FxHashMap::default(),
        };
        self.groups.insert(id, group);
        self.group_by_key.insert(key, id);
        changes.new_groups.push(id);
        id
    }

    fn key_of(&self, endpoint: &WorkloadEndpoint, direction: Direction) -> GroupKey {
        let tiers = match direction {
            Direction::Ingress => endpoint.ingress.clone(),
            Direction::Egress => endpoint.egress.clone(),
        };
        let mut asked: FxHashSet<AtomId> = FxHashSet::default();
        for id in tiers.iter().flat_map(|t| &t.policies).chain(&endpoint.profiles) {
            let Some(policy) = self.policies.get(id) else {
                continue;
            };
            let rules = if direction == Direction::Ingress {
                &policy.ingress
            } else {
                &policy.egress
            };
            for rule in rules {
                let own = if direction == Direction::Ingress {
                    &rule.destination
                } else {
                    &rule.source
                };
                asked.extend(own.all_sets());
            }
        }
        let side = |version: IpVersion| -> OwnSide {
            if asked.is_empty() {
                return Vec::new();
            }
            let of_family = endpoint
                .addresses
                .iter()
                .filter(|a| IpVersion::of(**a) == version);
            let mut all: OwnSide = of_family
                .map(|a| {
                    let content = self.own.class(self.own.lookup(*a));
                    content
                        .iter()
                        .filter(|m| asked.contains(&m.atom()))
                        .copied()
                        .collect()
                })
                .collect();
            all.sort();
            all.dedup();
            all
        };
        let (own_v4, own_v6) = (side(IpVersion::V4), side(IpVersion::V6));
        GroupKey {
            direction,
            tiers,
            profiles: endpoint.profiles.clone(),
            own_v4,
            own_v6,
        }
    }
}
