//! Which group each endpoint is in: what its policies, and its own addresses as far as they ask, make of it.

use super::{Changes, Group, GroupId, Placed, RowRef, Tables};
use crate::chain::{Chain, ChainId, Content};
use crate::group::{Direction, GroupKey, GroupRules, OwnSide};
use crate::row::{Row, Verdict};
use crate::sets::Membership;
use dataplane_api::{EndpointId, PolicyId, TierPolicies, WorkloadEndpoint};
use policy_model_rules::IpVersion;
use rustc_hash::{FxHashMap, FxHashSet};
use std::rc::Rc;
use std::sync::Arc;

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

    /// Chains with a changed policy get their rules anew. Returns the groups that have them.
    pub(super) fn rebuild_groups(&mut self) -> FxHashSet<GroupId> {
        let mut rebuilt = FxHashSet::default();
        let of_policies = self
            .dirty_policies
            .iter()
            .flat_map(|p| self.chains_of.get(p))
            .flatten();
        let dirty: FxHashSet<ChainId> = of_policies.copied().collect();
        if dirty.is_empty() {
            return rebuilt;
        }
        let policies = &self.policies;
        for id in &dirty {
            if let Some(chain) = self.chains.get_mut(id) {
                let groups = chain.groups;
                *chain = Chain::new(chain.direction, chain.content.clone(), |p| {
                    policies.get(p).cloned()
                });
                chain.groups = groups;
            }
        }
        for (id, group) in &mut self.groups {
            if group.rules.chains.iter().any(|chain| dirty.contains(chain)) {
                group.rules.forget();
                self.dirty_endpoints.extend(group.endpoints.iter().cloned());
                rebuilt.insert(*id);
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
            let ingress = self.join(&endpoint, Direction::Ingress, changes);
            let egress = self.join(&endpoint, Direction::Egress, changes);
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
            if group.endpoints.is_empty()
                && let Some(group) = self.groups.remove(&id)
            {
                let GroupKey { own_v4, own_v6, .. } = group.key;
                self.group_by_key.remove(&(group.rules.chains, own_v4, own_v6));
                group
                    .rules
                    .chains
                    .iter()
                    .for_each(|chain| self.leave_chain(*chain));
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

    /// Puts an endpoint into its group of a direction, which is made if there is none.
    fn join(&mut self, endpoint: &WorkloadEndpoint, direction: Direction, changes: &mut Changes) -> GroupId {
        let tiers = match direction {
            Direction::Ingress => &endpoint.ingress,
            Direction::Egress => &endpoint.egress,
        };
        let chains = [
            self.chain_of_tiers(direction, tiers),
            self.chain_of_profiles(direction, &endpoint.profiles),
        ];
        let own_v4 = self.own_side(endpoint, chains, IpVersion::V4);
        let own_v6 = self.own_side(endpoint, chains, IpVersion::V6);
        let key = (chains, own_v4, own_v6);
        if let Some(id) = self.group_by_key.get(&key) {
            let id = *id;
            if let Some(group) = self.groups.get_mut(&id) {
                group.endpoints.insert(endpoint.id.clone());
            }
            return id;
        }
        let id = GroupId(self.next_group);
        self.next_group += 1;
        let (mut tiers, mut profiles) = (Rc::from([]), Rc::from([]));
        for chain in chains {
            if let Some(chain) = self.chains.get_mut(&chain) {
                chain.groups += 1;
                match &chain.content {
                    Content::Tiers(list) => tiers = list.clone(),
                    Content::Profiles(list) => profiles = list.clone(),
                }
            }
        }
        self.group_by_key.insert(key.clone(), id);
        let (_, own_v4, own_v6) = key;
        let key = GroupKey {
            direction,
            tiers,
            profiles,
            own_v4,
            own_v6,
        };
        let nothing: RowRef = Rc::new(Row::uniform(Verdict::Deny));
        let group = Group {
            rules: GroupRules::new(&key, chains),
            key,
            endpoints: FxHashSet::from_iter([endpoint.id.clone()]),
            world: [nothing.clone(), nothing],
            rows: FxHashMap::default(),
        };
        self.groups.insert(id, group);
        changes.new_groups.push(id);
        id
    }

    fn chain_of_tiers(&mut self, direction: Direction, tiers: &[TierPolicies]) -> ChainId {
        if let Some(id) = self.chain_of_tiers[direction as usize].get(tiers) {
            return *id;
        }
        let tiers: Rc<[TierPolicies]> = tiers.into();
        let id = self.new_chain(direction, Content::Tiers(tiers.clone()));
        self.chain_of_tiers[direction as usize].insert(tiers, id);
        id
    }

    fn chain_of_profiles(&mut self, direction: Direction, profiles: &[PolicyId]) -> ChainId {
        if let Some(id) = self.chain_of_profiles[direction as usize].get(profiles) {
            return *id;
        }
        let profiles: Rc<[PolicyId]> = profiles.into();
        let id = self.new_chain(direction, Content::Profiles(profiles.clone()));
        self.chain_of_profiles[direction as usize].insert(profiles, id);
        id
    }

    fn new_chain(&mut self, direction: Direction, content: Content) -> ChainId {
        let id = ChainId(self.next_chain);
        self.next_chain += 1;
        for policy in content.policies() {
            self.chains_of.entry(policy.clone()).or_default().insert(id);
        }
        let policies = &self.policies;
        let chain = Chain::new(direction, content, |p| policies.get(p).cloned());
        self.chains.insert(id, chain);
        id
    }

    /// One group less has a chain.
    fn leave_chain(&mut self, id: ChainId) {
        let Some(chain) = self.chains.get_mut(&id) else {
            return;
        };
        chain.groups -= 1;
        if chain.groups > 0 {
            return;
        }
        let Some(chain) = self.chains.remove(&id) else {
            return;
        };
        let direction = chain.direction as usize;
        match &chain.content {
            Content::Tiers(list) => self.chain_of_tiers[direction].remove(list),
            Content::Profiles(list) => self.chain_of_profiles[direction].remove(list),
        };
        for policy in chain.content.policies() {
            if let Some(chains) = self.chains_of.get_mut(policy) {
                chains.remove(&id);
                if chains.is_empty() {
                    self.chains_of.remove(policy);
                }
            }
        }
    }

    /// What an endpoint's addresses of a family are in, as far as its chains ask.
    fn own_side(&self, endpoint: &WorkloadEndpoint, chains: [ChainId; 2], version: IpVersion) -> OwnSide {
        let chains = chains.map(|id| self.chains.get(&id));
        let asked = |m: &&Membership| {
            chains
                .iter()
                .flatten()
                .any(|c| c.asked_of_own.contains(&m.atom()))
        };
        if chains.iter().flatten().all(|chain| chain.asked_of_own.is_empty()) {
            return Vec::new();
        }
        let of_family = endpoint
            .addresses
            .iter()
            .filter(|a| IpVersion::of(**a) == version);
        let mut all: OwnSide = of_family
            .map(|a| {
                let content = self.own.class(self.own.lookup(*a));
                content.iter().filter(asked).copied().collect()
            })
            .collect();
        all.sort();
        all.dedup();
        all
    }
}
