//! The decision tables of this node: updates from the brain in, changes for a backend out.

use crate::address::{AddressChanges, AddressIndex, ClassId};
use crate::group::{Direction, GroupKey, GroupRules, OwnSide};
use crate::row::Row;
use crate::sets::Membership;
use dataplane_api::{AtomId, AtomScope, EndpointId, Member, Policy, PolicyId, Update, WorkloadEndpoint};
use policy_model_rules::IpVersion;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

/// Number of a group. Never used again within one life of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub u32);

/// A row of the tables; equal rows are the same row.
pub type RowRef = Rc<Row>;

#[derive(Debug)]
struct Group {
    key: Rc<GroupKey>,
    rules: GroupRules,
    endpoints: usize,
    /// The row of peers that belong to nothing, per family.
    world: [RowRef; 2],
    /// Rows of the classes that are treated otherwise than the IPv4 world.
    rows: FxHashMap<ClassId, RowRef>,
}

/// What a group does, for a backend to write down.
#[derive(Clone, Debug)]
pub struct GroupView<'a> {
    /// What makes the group.
    pub key: &'a GroupKey,
    /// The row of peers that are treated like the IPv4 world.
    pub default: &'a RowRef,
    /// All other rows, by class.
    pub rows: &'a FxHashMap<ClassId, RowRef>,
}

/// What one commit changed.
#[derive(Debug, Default)]
pub struct Changes {
    /// Addresses, intervals and classes.
    pub addresses: AddressChanges,
    /// Groups that appeared.
    pub new_groups: Vec<GroupId>,
    /// Groups that no endpoint is in any more.
    pub gone_groups: Vec<GroupId>,
    /// Groups of which rows changed (new groups are not repeated here).
    pub changed_groups: Vec<GroupId>,
    /// Endpoints that appeared or changed.
    pub changed_endpoints: Vec<EndpointId>,
    /// Endpoints that left, as they were.
    pub gone_endpoints: Vec<Arc<WorkloadEndpoint>>,
}

/// An endpoint with its groups.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The endpoint.
    pub endpoint: Arc<WorkloadEndpoint>,
    /// Group of traffic to it.
    pub ingress: GroupId,
    /// Group of traffic from it.
    pub egress: GroupId,
}

/// The decision tables.
#[derive(Debug, Default)]
pub struct Tables {
    scopes: FxHashMap<AtomId, AtomScope>,
    peers: AddressIndex,
    own: AddressIndex,
    policies: FxHashMap<PolicyId, Arc<Policy>>,
    endpoints: BTreeMap<EndpointId, Arc<WorkloadEndpoint>>,
    placed: FxHashMap<EndpointId, Placed>,
    groups: FxHashMap<GroupId, Group>,
    group_by_key: FxHashMap<Rc<GroupKey>, GroupId>,
    next_group: u32,
    rows: FxHashSet<RowRef>,
    dirty_policies: FxHashSet<PolicyId>,
    dirty_endpoints: FxHashSet<EndpointId>,
    gone_endpoints: Vec<Arc<WorkloadEndpoint>>,
    own_changed: bool,
    synced: bool,
}

impl Tables {
    /// Tables of nothing.
    pub fn new() -> Self {
        Tables::default()
    }

    /// Takes an update in. Nothing is computed before [`Tables::commit`].
    pub fn apply(&mut self, update: &Update) {
        match update {
            Update::AtomCreated { atom, scope } => {
                self.scopes.insert(*atom, *scope);
            }
            Update::Members { atom, added, removed } => {
                self.index_members(*atom, removed, false);
                self.index_members(*atom, added, true);
            }
            Update::AtomRemoved(atom) => match self.scopes.remove(atom) {
                Some(AtomScope::Peer) => self.peers.remove_atom(*atom, self.synced),
                Some(AtomScope::Own) => {
                    self.own_changed = true;
                    self.own.remove_atom(*atom, false);
                }
                None => {}
            },
            Update::Policy(policy) => {
                self.dirty_policies.insert(policy.id.clone());
                self.policies.insert(policy.id.clone(), policy.clone());
            }
            Update::PolicyRemoved(id) => {
                self.dirty_policies.insert(id.clone());
                self.policies.remove(id);
            }
            Update::Workload(endpoint) => {
                self.dirty_endpoints.insert(endpoint.id.clone());
                self.endpoints.insert(endpoint.id.clone(), endpoint.clone());
            }
            Update::WorkloadRemoved(id) => {
                self.dirty_endpoints.insert(id.clone());
                if let Some(endpoint) = self.endpoints.remove(id) {
                    self.gone_endpoints.push(endpoint);
                }
            }
            Update::InSync => self.synced = true,
            Update::Route(_) | Update::RouteRemoved(_) | Update::Pool(_) | Update::PoolRemoved(_) => {}
        }
    }

    /// Whether everything that the datastore held at the start was said.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    fn index_members(&mut self, atom: AtomId, members: &[Member], add: bool) {
        let (index, track) = match self.scopes.get(&atom) {
            Some(AtomScope::Peer) => (&mut self.peers, self.synced),
            Some(AtomScope::Own) => {
                self.own_changed = true;
                (&mut self.own, false)
            }
            // Members of a set that was never announced: the brain's mistake; nothing can refer to them.
            None => return,
        };
        for member in members {
            match member {
                Member::Net(net) => index.change_net(*net, Membership::plain(atom), add, track),
                Member::Port(address, key) => {
                    index.change_address(*address, Membership::port(atom, *key), add, track);
                }
            }
        }
    }

    /// Brings groups and rows up to date and says what changed since the last commit.
    pub fn commit(&mut self) -> Changes {
        let mut changes = Changes {
            addresses: self.peers.take_changes(),
            ..Changes::default()
        };
        if self.own_changed {
            // Own sets hold few members and change with the endpoints themselves; looking at all again is cheap.
            self.own.take_changes();
            self.own_changed = false;
            let asking: Vec<EndpointId> = self.endpoints.keys().cloned().collect();
            self.dirty_endpoints.extend(asking);
        }
        let rebuilt = self.rebuild_groups();
        // A policy may now ask other things of its endpoints' own side, which moves them to other groups.
        self.dirty_policies.clear();
        self.place_endpoints(&mut changes);
        changes.changed_groups = rebuilt
            .into_iter()
            .filter(|g| self.groups.contains_key(g))
            .collect();
        self.update_rows(&mut changes);
        self.drop_unused_rows();
        changes
    }

    /// Groups with a changed policy get their rules anew.
    fn rebuild_groups(&mut self) -> FxHashSet<GroupId> {
        let mut rebuilt = FxHashSet::default();
        if self.dirty_policies.is_empty() {
            return rebuilt;
        }
        let dirty = &self.dirty_policies;
        let policies = &self.policies;
        for (id, group) in &mut self.groups {
            let mut named = group
                .key
                .tiers
                .iter()
                .flat_map(|t| &t.policies)
                .chain(&group.key.profiles);
            if named.any(|p| dirty.contains(p)) {
                group.rules = GroupRules::new(&group.key, |p| policies.get(p).cloned());
                rebuilt.insert(*id);
            }
        }
        for (id, placed) in &self.placed {
            if rebuilt.contains(&placed.ingress) || rebuilt.contains(&placed.egress) {
                self.dirty_endpoints.insert(id.clone());
            }
        }
        rebuilt
    }

    fn place_endpoints(&mut self, changes: &mut Changes) {
        let mut dirty: Vec<EndpointId> = self.dirty_endpoints.drain().collect();
        dirty.sort_unstable();
        let mut left: Vec<GroupId> = Vec::new();
        for id in dirty {
            let before = self.placed.remove(&id);
            if let Some(before) = &before {
                left.extend([before.ingress, before.egress]);
            }
            let Some(endpoint) = self.endpoints.get(&id).cloned() else {
                continue;
            };
            let ingress = self.join(self.key_of(&endpoint, Direction::Ingress), changes);
            let egress = self.join(self.key_of(&endpoint, Direction::Egress), changes);
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
        for id in left {
            let Some(group) = self.groups.get_mut(&id) else {
                continue;
            };
            group.endpoints -= 1;
            if group.endpoints == 0 {
                let key = group.key.clone();
                self.groups.remove(&id);
                self.group_by_key.remove(&key);
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

    fn join(&mut self, key: GroupKey, changes: &mut Changes) -> GroupId {
        if let Some(id) = self.group_by_key.get(&key) {
            let id = *id;
            if let Some(group) = self.groups.get_mut(&id) {
                group.endpoints += 1;
            }
            return id;
        }
        let id = GroupId(self.next_group);
        self.next_group += 1;
        let key = Rc::new(key);
        let policies = &self.policies;
        let rules = GroupRules::new(&key, |p| policies.get(p).cloned());
        let nothing: RowRef = Rc::new(Row::uniform(crate::row::Verdict::Deny));
        let world = [nothing.clone(), nothing];
        let group = Group {
            key: key.clone(),
            rules,
            endpoints: 1,
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

    fn update_rows(&mut self, changes: &mut Changes) {
        let whole: FxHashSet<GroupId> = changes
            .new_groups
            .iter()
            .chain(&changes.changed_groups)
            .copied()
            .collect();
        let all: Vec<ClassId> = if whole.is_empty() {
            Vec::new()
        } else {
            self.peers.classes().collect()
        };
        let mut really: Vec<GroupId> = Vec::new();
        let new_classes = &changes.addresses.new_classes;
        let gone_classes = &changes.addresses.gone_classes;
        if whole.is_empty() && new_classes.is_empty() && gone_classes.is_empty() {
            return;
        }
        for (id, group) in &mut self.groups {
            let mut changed = false;
            for class in gone_classes {
                changed |= group.rows.remove(class).is_some();
            }
            let classes: &[ClassId] = if whole.contains(id) { &all } else { new_classes };
            if whole.contains(id) {
                for (n, version) in [IpVersion::V4, IpVersion::V6].into_iter().enumerate() {
                    let row = intern(&mut self.rows, group.rules.row(version, &[]));
                    changed |= !Rc::ptr_eq(&row, &group.world[n]);
                    group.world[n] = row;
                }
            }
            for class in classes {
                let row = group
                    .rules
                    .row(self.peers.version(*class), &self.peers.class(*class));
                let row = intern(&mut self.rows, row);
                let before = group.rows.get(class);
                if Rc::ptr_eq(&row, &group.world[0]) {
                    changed |= group.rows.remove(class).is_some();
                } else if before.is_none_or(|b| !Rc::ptr_eq(b, &row)) {
                    group.rows.insert(*class, row);
                    changed = true;
                }
            }
            if changed && !changes.new_groups.contains(id) {
                really.push(*id);
            }
        }
        really.sort_unstable();
        changes.changed_groups = really;
    }

    fn drop_unused_rows(&mut self) {
        // The groups' own caches hold rows too; they go with the group or with its next rebuild.
        self.rows.retain(|r| Rc::strong_count(r) > 1);
    }

    /// All groups, by number.
    pub fn groups(&self) -> impl Iterator<Item = (GroupId, GroupView<'_>)> {
        self.groups.iter().map(|(id, g)| {
            (
                *id,
                GroupView {
                    key: &g.key,
                    default: &g.world[0],
                    rows: &g.rows,
                },
            )
        })
    }

    /// One group.
    pub fn group(&self, id: GroupId) -> Option<GroupView<'_>> {
        self.groups.get(&id).map(|g| GroupView {
            key: &g.key,
            default: &g.world[0],
            rows: &g.rows,
        })
    }

    /// All endpoints with their groups.
    pub fn endpoints(&self) -> impl Iterator<Item = &Placed> {
        self.placed.values()
    }

    /// One endpoint with its groups.
    pub fn endpoint(&self, id: &EndpointId) -> Option<&Placed> {
        self.placed.get(id)
    }

    /// Peers' addresses and their classes.
    pub fn peers(&self) -> &AddressIndex {
        &self.peers
    }

    /// The row by which a group treats peers of a class.
    pub fn row(&self, group: GroupId, class: ClassId) -> Option<&RowRef> {
        self.groups
            .get(&group)
            .map(|g| g.rows.get(&class).unwrap_or(&g.world[0]))
    }
}

fn intern(rows: &mut FxHashSet<RowRef>, row: RowRef) -> RowRef {
    match rows.get(&row) {
        Some(same) => same.clone(),
        None => {
            rows.insert(row.clone());
            row
        }
    }
}
