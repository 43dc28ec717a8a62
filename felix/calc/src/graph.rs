//! The graph itself: where events enter, and where a flush gathers what they changed.

use crate::address_book::AddressBook;
use crate::atoms::Atoms;
use crate::config::CalcConfig;
use crate::fault::{Fault, InForce};
use crate::items::{ItemKind, Items};
use crate::locals::Locals;
use crate::policies::Policies;
use crate::profiles::Profiles;
use crate::routes::Routes;
use crate::selection::Selection;
use crate::sequence::Sequence;
use crate::shared_lists::SharedLists;
use crate::stats::CalcStats;
use crate::tiers::Tiers;
use dataplane_api::Update;
use policy_model::{
    FieldError, Key, Kind, LABEL_NAMESPACE, LABEL_ORCHESTRATOR, LABEL_SERVICE_ACCOUNT, Resource,
};
use policy_model_rules::PolicyId;
use policy_model_selector::index::{Interner, Label, ParentId, Symbol};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Turns the state of the datastore into what the hands of one node must know.
///
/// ```
/// use felix_calc::{CalcConfig, CalcGraph};
///
/// let mut graph = CalcGraph::new(CalcConfig::for_node("n1"));
/// graph.on_in_sync();
/// let mut updates = Vec::new();
/// graph.flush(&mut updates);
/// assert_eq!(updates, [dataplane_api::Update::InSync]);
/// graph.flush(&mut updates);
/// assert_eq!(updates.len(), 1, "nothing changed, so nothing is said");
/// ```
pub struct CalcGraph {
    pub(crate) config: CalcConfig,
    pub(crate) interner: Interner,
    pub(crate) items: Items,
    pub(crate) profile_lists: SharedLists<u32>,
    pub(crate) atoms: Atoms,
    pub(crate) selection: Selection,
    pub(crate) locals: Locals,
    pub(crate) policies: Policies,
    pub(crate) profiles: Profiles,
    pub(crate) tiers: Tiers,
    pub(crate) book: AddressBook,
    pub(crate) routes: Routes,
    /// Objects with a fault now.
    pub(crate) faulty: BTreeMap<Key, Fault>,
    /// How many items there are of each kind.
    pub(crate) counts: [usize; 4],
    pub(crate) in_sync: InSync,
    pub(crate) stats: CalcStats,
    /// How many strings were left by the last sweep.
    swept: usize,
    /// Labels that the graph gives itself.
    pub(crate) own_labels: OwnLabels,
    /// Keys of the labels that were read last: the next object often has the same ones in the same places.
    pub(crate) recent_keys: Vec<Symbol>,
    /// Kept for their memory.
    pub(crate) labels: Vec<Label>,
    pub(crate) parents: Vec<ParentId>,
}

/// Keys of labels that say what an endpoint is.
#[derive(Clone, Copy)]
pub(crate) struct OwnLabels {
    pub(crate) namespace: Symbol,
    pub(crate) orchestrator: Symbol,
    pub(crate) service_account: Symbol,
}

/// How far the hands know that everything was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InSync {
    No,
    Due,
    Said,
}

/// Below this many strings that may be unused nobody sweeps.
const SWEEP_AT_LEAST: usize = 16_384;

impl CalcGraph {
    /// A graph that knows nothing yet.
    pub fn new(config: CalcConfig) -> Self {
        let mut interner = Interner::new();
        let here = interner.intern(&config.node);
        let own_labels = OwnLabels {
            namespace: interner.intern(LABEL_NAMESPACE),
            orchestrator: interner.intern(LABEL_ORCHESTRATOR),
            service_account: interner.intern(LABEL_SERVICE_ACCOUNT),
        };
        let routes = Routes::new(here, config.node_ranges);
        CalcGraph {
            config,
            interner,
            items: Items::default(),
            profile_lists: SharedLists::default(),
            atoms: Atoms::default(),
            selection: Selection::default(),
            locals: Locals::default(),
            policies: Policies::default(),
            profiles: Profiles::default(),
            tiers: Tiers::default(),
            book: AddressBook::default(),
            routes,
            faulty: BTreeMap::new(),
            counts: [0; 4],
            in_sync: InSync::No,
            stats: CalcStats::default(),
            swept: 0,
            own_labels,
            recent_keys: Vec::new(),
            labels: Vec::new(),
            parents: Vec::new(),
        }
    }

    /// Takes in an object that is new or changed. Repeats and objects of kinds that decide nothing here are no
    /// matter.
    ///
    /// # Errors
    /// The object has a fault, whose text says what is in force instead. The graph remembers it until the object is
    /// mended or deleted ([`CalcGraph::faulty`]); nothing need be done but to tell somebody.
    pub fn on_upsert(&mut self, resource: Resource) -> Result<(), Fault> {
        let key = self.key_of_faulty(&resource);
        let outcome = match resource {
            Resource::WorkloadEndpoint(endpoint) => self.upsert_workload(endpoint),
            other => self.ingest(&other),
        };
        self.remember(key, outcome)
    }

    /// The same for an object that others may hold too. Of those nothing is copied but endpoints.
    ///
    /// # Errors
    /// As [`CalcGraph::on_upsert`].
    pub fn on_upsert_shared(&mut self, resource: Arc<Resource>) -> Result<(), Fault> {
        match Arc::try_unwrap(resource) {
            Ok(resource) => self.on_upsert(resource),
            Err(resource) => {
                let key = self.key_of_faulty(&resource);
                let outcome = match resource.as_ref() {
                    Resource::WorkloadEndpoint(endpoint) => self.upsert_workload(endpoint.clone()),
                    other => self.ingest(other),
                };
                self.remember(key, outcome)
            }
        }
    }

    /// The object's key, where anything is known to be faulty; else nobody asks for it.
    fn key_of_faulty(&self, resource: &Resource) -> Option<Key> {
        (!self.faulty.is_empty()).then(|| resource.key())
    }

    /// Notes what came of an object.
    fn remember(&mut self, key: Option<Key>, outcome: Result<(), Fault>) -> Result<(), Fault> {
        self.stats.upserts += 1;
        match &outcome {
            Ok(()) => {
                if let Some(key) = key {
                    self.faulty.remove(&key);
                }
            }
            Err(fault) => {
                self.stats.faults += 1;
                self.faulty.insert(fault.key.clone(), fault.clone());
            }
        }
        outcome
    }

    /// Takes in anything but a workload endpoint.
    fn ingest(&mut self, resource: &Resource) -> Result<(), Fault> {
        match resource {
            // These are validated while they are compiled.
            Resource::NetworkPolicy(_) | Resource::GlobalNetworkPolicy(_) | Resource::Profile(_) => {
                self.upsert_policy(resource)
            }
            other => {
                if let Err(invalid) = other.validate() {
                    let key = other.key();
                    let in_force = if self.knows(&key) {
                        InForce::LastValid
                    } else {
                        InForce::Nothing
                    };
                    return Err(Fault {
                        key,
                        faults: invalid.faults,
                        in_force,
                    });
                }
                self.upsert_valid(other);
                Ok(())
            }
        }
    }

    /// Takes in an object that was found to be valid.
    fn upsert_valid(&mut self, resource: &Resource) {
        match resource {
            Resource::Tier(tier) => self.tiers.set(&tier.metadata.name, &tier.spec),
            Resource::HostEndpoint(endpoint) => self.upsert_host_endpoint(endpoint),
            Resource::NetworkSet(set) => {
                self.upsert_network_set(ItemKind::NetworkSet, &set.metadata, &set.spec);
            }
            Resource::GlobalNetworkSet(set) => {
                self.upsert_network_set(ItemKind::GlobalNetworkSet, &set.metadata, &set.spec.0);
            }
            Resource::ServiceEndpoints(slice) => {
                let (namespace, name) = (&slice.metadata.namespace, &slice.metadata.name);
                self.atoms.services.set(namespace, name, slice.spec.clone());
            }
            Resource::IPPool(pool) => self.routes.set_pool(&pool.metadata.name, &pool.spec),
            Resource::IPAMBlock(block) => {
                let change = self
                    .book
                    .set_block(&mut self.interner, &block.metadata.name, &block.spec);
                self.follow_block(change);
            }
            Resource::Node(node) => {
                let symbol = self.interner.intern(&node.metadata.name);
                self.routes.set_node(symbol, &node.metadata.name, &node.spec);
            }
            Resource::NetworkPolicy(_)
            | Resource::GlobalNetworkPolicy(_)
            | Resource::Profile(_)
            | Resource::WorkloadEndpoint(_)
            | Resource::IPReservation(_)
            | Resource::BlockAffinity(_)
            | Resource::IPAMHandle(_)
            | Resource::IPAMConfig(_)
            | Resource::FelixConfiguration(_)
            | Resource::ClusterInformation(_)
            | Resource::BGPConfiguration(_)
            | Resource::BGPPeer(_) => {}
        }
    }

    /// Takes out an object; one that is not known is no matter.
    pub fn on_delete(&mut self, key: &Key) {
        self.stats.deletes += 1;
        self.faulty.remove(key);
        match key.kind {
            Kind::Tier => self.tiers.remove(&key.name),
            Kind::NetworkPolicy => self.remove_policy(&PolicyId::namespaced(&key.namespace, &key.name)),
            Kind::GlobalNetworkPolicy => self.remove_policy(&PolicyId::global(&key.name)),
            Kind::Profile => self.remove_profile(&key.name),
            Kind::WorkloadEndpoint => self.remove_item(ItemKind::Workload, key),
            Kind::HostEndpoint => self.remove_item(ItemKind::HostEndpoint, key),
            Kind::NetworkSet => self.remove_item(ItemKind::NetworkSet, key),
            Kind::GlobalNetworkSet => self.remove_item(ItemKind::GlobalNetworkSet, key),
            Kind::ServiceEndpoints => self.atoms.services.remove(&key.namespace, &key.name),
            Kind::IPPool => self.routes.remove_pool(&key.name),
            Kind::IPAMBlock => {
                let change = self.book.remove_block(&key.name);
                self.follow_block(change);
            }
            Kind::Node => {
                if let Some(symbol) = self.interner.find(&key.name) {
                    self.routes.remove_node(symbol);
                }
            }
            Kind::IPReservation
            | Kind::BlockAffinity
            | Kind::IPAMHandle
            | Kind::IPAMConfig
            | Kind::FelixConfiguration
            | Kind::ClusterInformation
            | Kind::BGPConfiguration
            | Kind::BGPPeer => {}
        }
    }

    /// Says that everything that the datastore held at the start has come.
    pub fn on_in_sync(&mut self) {
        if self.in_sync == InSync::No {
            self.in_sync = InSync::Due;
        }
    }

    /// Appends what changed since the last flush, in the order that the hands rely on.
    pub fn flush(&mut self, updates: &mut Vec<Update>) {
        self.stats.flushes += 1;
        let mut out = Sequence::default();
        // Tiers decide which policies are in force, these which sets are needed, and both what endpoints refer to.
        let changed = self.tiers.take_changed();
        self.locals.touch_tiers(&changed, &mut self.policies);
        self.policies.settle(&self.tiers, &mut self.atoms, &mut out);
        // Endpoints name profiles by number, so they are told before a number is taken back.
        self.locals
            .settle(&self.tiers, &self.policies, &self.profiles, &mut out);
        self.profiles.settle(&mut self.atoms, &mut out);
        self.atoms.settle(&mut self.interner, &self.items, &mut out);
        self.routes
            .settle(&self.interner, &self.items, &self.book, &mut out);
        let in_sync = self.in_sync == InSync::Due;
        if in_sync {
            self.in_sync = InSync::Said;
        }
        self.stats.updates += out.write_to(updates, in_sync) as u64;
        self.sweep();
    }

    /// The objects that have a fault now, by key.
    pub fn faulty(&self) -> impl Iterator<Item = &Fault> {
        self.faulty.values()
    }

    /// Numbers for metrics.
    pub fn stats(&self) -> CalcStats {
        let [workloads, host_endpoints, sets, global_sets] = self.counts;
        CalcStats {
            workload_endpoints: workloads,
            local_endpoints: self.locals.len(),
            host_endpoints,
            network_sets: sets + global_sets,
            policies: self.policies.len(),
            active_policies: self.policies.in_force(),
            profiles: self.profiles.len(),
            active_profiles: self.profiles.in_force(),
            tiers: self.tiers.len(),
            active_selectors: self.atoms.selector_count(),
            atoms: self.atoms.len(),
            service_slices: self.atoms.services.slice_count(),
            nodes: self.routes.node_count(),
            blocks: self.book.block_count(),
            pools: self.routes.pool_count(),
            routes: self.routes.route_count(),
            strings: self.interner.len(),
            faulty: self.faulty.len(),
            ..self.stats
        }
    }

    /// Whether an object of this key is in force.
    pub(crate) fn knows(&self, key: &Key) -> bool {
        let kind = match key.kind {
            Kind::WorkloadEndpoint => ItemKind::Workload,
            Kind::HostEndpoint => ItemKind::HostEndpoint,
            Kind::NetworkSet => ItemKind::NetworkSet,
            Kind::GlobalNetworkSet => ItemKind::GlobalNetworkSet,
            Kind::Tier => return self.tiers.get(&key.name).is_some(),
            Kind::IPPool => return self.routes.has_pool(&key.name),
            Kind::IPAMBlock => return self.book.has_block(&key.name),
            _ => return false,
        };
        self.find_item(kind, key).is_some()
    }

    /// Forgets strings that nothing refers to any more, when there may be as many of them as of others.
    fn sweep(&mut self) {
        if self.interner.len() < 2 * self.swept + SWEEP_AT_LEAST {
            return;
        }
        let mut used = vec![false; self.interner.len() + self.swept];
        let mut visit = |symbol: Symbol| {
            let number = symbol.number() as usize;
            if number >= used.len() {
                used.resize(number + 1, false);
            }
            if let Some(slot) = used.get_mut(number) {
                *slot = true;
            }
        };
        self.atoms.index.for_each_symbol(&mut visit);
        self.selection.index.for_each_symbol(&mut visit);
        self.book.for_each_symbol(&mut visit);
        self.routes.for_each_symbol(&mut visit);
        for (_, item) in self.items.iter() {
            visit(item.namespace);
            visit(item.node);
        }
        self.interner
            .sweep(|symbol| used.get(symbol.number() as usize).copied().unwrap_or(false));
        self.swept = self.interner.len();
    }
}

impl Fault {
    pub(crate) fn of(key: Key, fault: FieldError, in_force: InForce) -> Self {
        Fault {
            key,
            faults: vec![fault],
            in_force,
        }
    }
}
