//! The decision tables of this node: updates from the brain in, changes for a backend out.

mod place;
mod rows;

use crate::address::{AddressChanges, AddressIndex, ClassId};
use crate::chain::{Chain, ChainId};
use crate::group::{GroupKey, GroupRules, OwnSide};
use crate::row::Row;
use crate::sets::Membership;
use crate::ways::Ways;
use dataplane_api::{
    AtomId, AtomScope, EndpointId, HostPort, Member, Policy, PolicyId, PoolRange, TierPolicies, Update,
    WorkloadEndpoint,
};
use ipnet::IpNet;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

/// Number of a group. Never used again within one life of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub u32);

/// A row of the tables; equal rows are the same row.
pub type RowRef = Rc<Row>;

#[derive(Debug)]
struct Group {
    key: GroupKey,
    rules: GroupRules,
    endpoints: FxHashSet<EndpointId>,
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
    /// Groups that stay of which the default changed: what every class gets from them may be another row.
    pub changed_defaults: Vec<GroupId>,
    /// Rows that changed otherwise: of groups that were there before, for classes that were there before.
    pub changed_rows: Vec<(GroupId, ClassId)>,
    /// Endpoints that appeared or changed.
    pub changed_endpoints: Vec<EndpointId>,
    /// Endpoints that left, as they were.
    pub gone_endpoints: Vec<Arc<WorkloadEndpoint>>,
    /// Ports of the node that lead somewhere else than before, or nowhere any more.
    pub host_ports: Vec<HostPort>,
    /// Whether a pool came, went or became another one.
    pub pools: bool,
    /// Addresses that came to be a node's, or that are no node's any more, sorted.
    pub node_addresses: Vec<IpAddr>,
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
    /// Whose each address of an endpoint here is.
    holders: FxHashMap<IpAddr, Vec<EndpointId>>,
    placed: FxHashMap<EndpointId, Placed>,
    groups: FxHashMap<GroupId, Group>,
    /// By chains (these are of one direction) and own side.
    group_by_key: FxHashMap<([ChainId; 2], OwnSide, OwnSide), GroupId>,
    chains: FxHashMap<ChainId, Chain>,
    /// Of each direction.
    chain_of_tiers: [FxHashMap<Rc<[TierPolicies]>, ChainId>; 2],
    chain_of_profiles: [FxHashMap<Rc<[PolicyId]>, ChainId>; 2],
    /// The chains whose rules come from a policy.
    chains_of: FxHashMap<PolicyId, FxHashSet<ChainId>>,
    next_chain: u32,
    next_group: u32,
    rows: FxHashSet<RowRef>,
    /// How many rows there were after those that nobody uses were last dropped.
    rows_kept: usize,
    dirty_policies: FxHashSet<PolicyId>,
    dirty_endpoints: FxHashSet<EndpointId>,
    gone_endpoints: Vec<Arc<WorkloadEndpoint>>,
    host_ports: BTreeMap<HostPort, SocketAddr>,
    dirty_host_ports: BTreeSet<HostPort>,
    ways: Ways,
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
                    self.own.remove_atom(*atom, true);
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
                for address in &endpoint.addresses {
                    self.holders
                        .entry(*address)
                        .or_default()
                        .push(endpoint.id.clone());
                }
                if let Some(before) = self.endpoints.insert(endpoint.id.clone(), endpoint.clone()) {
                    self.forget_addresses(&before);
                }
            }
            Update::WorkloadRemoved(id) => {
                self.dirty_endpoints.insert(id.clone());
                if let Some(endpoint) = self.endpoints.remove(id) {
                    self.forget_addresses(&endpoint);
                    self.gone_endpoints.push(endpoint);
                }
            }
            Update::HostPort(port, target) => {
                if self.host_ports.insert(*port, *target) != Some(*target) {
                    self.dirty_host_ports.insert(*port);
                }
            }
            Update::HostPortRemoved(port) => {
                if self.host_ports.remove(port).is_some() {
                    self.dirty_host_ports.insert(*port);
                }
            }
            Update::InSync => self.synced = true,
            Update::Node(node) => self.ways.set_node(node),
            Update::NodeRemoved(name) => self.ways.remove_node(name),
            Update::Pool(pool) => self.ways.set_pool(pool),
            Update::PoolRemoved(cidr) => self.ways.remove_pool(cidr),
            Update::Route(_) | Update::RouteRemoved(_) => {}
        }
    }

    /// Whether everything that the datastore held at the start was said.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    fn index_members(&mut self, atom: AtomId, members: &[Member], add: bool) {
        let (index, track) = match self.scopes.get(&atom) {
            Some(AtomScope::Peer) => (&mut self.peers, self.synced),
            Some(AtomScope::Own) => (&mut self.own, true),
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

    fn forget_addresses(&mut self, endpoint: &WorkloadEndpoint) {
        for address in &endpoint.addresses {
            if let Some(holders) = self.holders.get_mut(address) {
                if let Some(at) = holders.iter().position(|h| *h == endpoint.id) {
                    holders.swap_remove(at);
                }
                if holders.is_empty() {
                    self.holders.remove(address);
                }
            }
        }
    }

    /// Brings groups and rows up to date and says what changed since the last commit.
    pub fn commit(&mut self) -> Changes {
        let mut changes = Changes {
            addresses: self.peers.take_changes(),
            host_ports: std::mem::take(&mut self.dirty_host_ports).into_iter().collect(),
            pools: self.ways.take_pools_changed(),
            node_addresses: self.ways.take_turned(),
            ..Changes::default()
        };
        self.ask_owners_again();
        let rebuilt = self.rebuild_groups();
        // A policy may now ask other things of its endpoints' own side, which moves them to other groups.
        self.dirty_policies.clear();
        self.place_endpoints(&mut changes);
        self.update_rows(rebuilt, &mut changes);
        self.drop_unused_rows();
        changes
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

    /// Ports of the node, and where each leads.
    pub fn host_ports(&self) -> &BTreeMap<HostPort, SocketAddr> {
        &self.host_ports
    }

    /// The pools of the cluster, by range.
    pub fn pools(&self) -> &BTreeMap<IpNet, PoolRange> {
        self.ways.pools()
    }

    /// The addresses of all nodes of the cluster, this one included, and how many claims each has: two nodes may name
    /// one address.
    pub fn node_addresses(&self) -> &BTreeMap<IpAddr, usize> {
        self.ways.node_addresses()
    }

    /// The row by which a group treats peers of a class.
    pub fn row(&self, group: GroupId, class: ClassId) -> Option<&RowRef> {
        self.groups
            .get(&group)
            .map(|g| g.rows.get(&class).unwrap_or(&g.world[0]))
    }
}
