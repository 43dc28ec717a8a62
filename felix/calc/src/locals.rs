//! The workload endpoints of this node, each with the policies that select it in their order.
//!
//! Each endpoint keeps its own ordered lists: one policy more is one place found by halving, never a scan of all
//! policies. Tiers are put in order only when an endpoint is told to the hands, so a tier that moves costs nothing
//! but that.

use crate::policies::Policies;
use crate::profiles::Profiles;
use crate::sequence::Sequence;
use crate::table::Table;
use crate::tiers::{Tier, Tiers};
use dataplane_api::{EndpointId, TierPolicies, Update, WorkloadEndpoint};
use ipnet::IpNet;
use policy_model_rules::{PolicyId, TierId};
use rustc_hash::FxHashSet;
use smallvec::SmallVec;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// What the resource of a local endpoint says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) mac: Option<[u8; 6]>,
    /// Sorted.
    pub(crate) addresses: Vec<IpAddr>,
    /// Sorted.
    pub(crate) spoofable: Vec<IpNet>,
    /// Numbers of its profiles, in order.
    pub(crate) profiles: Vec<u32>,
}

/// One local endpoint.
struct Local {
    id: EndpointId,
    interface: Interface,
    /// The policies that select it, by tier.
    tiers: SmallVec<[Tiered; 1]>,
    /// Whether the resource exists; where not, the next flush takes the endpoint away.
    present: bool,
    dirty: bool,
    sent: Option<Arc<WorkloadEndpoint>>,
}

/// The policies of one tier that select an endpoint.
struct Tiered {
    tier: TierId,
    /// By number: first those in their order, then those that came since the last flush.
    policies: Vec<u32>,
    /// How many stand in their order.
    sorted: usize,
}

impl Tiered {
    fn remove(&mut self, is_gone: impl Fn(u32) -> bool) {
        let (mut place, mut sorted) = (0, self.sorted);
        self.policies.retain(|policy| {
            let gone = is_gone(*policy);
            sorted -= usize::from(gone && place < self.sorted);
            place += 1;
            !gone
        });
        self.sorted = sorted;
    }

    fn sort(&mut self, policies: &Policies) {
        let new = self.policies.len() - self.sorted;
        if new > FEW_POLICIES {
            // Stable sorting makes use of the parts that are in order already.
            self.policies.sort_by(|a, b| policies.compare(*a, *b));
        } else if new > 0 {
            for policy in self.policies.split_off(self.sorted) {
                let place = self
                    .policies
                    .partition_point(|other| policies.compare(*other, policy).is_lt());
                self.policies.insert(place, policy);
            }
        }
        self.sorted = self.policies.len();
    }
}

/// The local endpoints by number; the numbers are those of the items in the index of policies' selectors.
#[derive(Default)]
pub(crate) struct Locals {
    table: Table<Local>,
    by_id: HashMap<EndpointId, u32>,
    dirty: Vec<u32>,
    present: usize,
}

/// Above this many new policies, sorting all is faster than finding the place of each.
const FEW_POLICIES: usize = 8;

impl Locals {
    /// The number of an endpoint that exists.
    pub(crate) fn find(&self, id: &EndpointId) -> Option<u32> {
        let number = *self.by_id.get(id)?;
        self.table
            .get(number)
            .filter(|local| local.present)
            .map(|_| number)
    }

    pub(crate) fn interface(&self, number: u32) -> Option<&Interface> {
        self.table.get(number).map(|local| &local.interface)
    }

    /// Enters an endpoint, or gives it another interface.
    pub(crate) fn put(&mut self, id: EndpointId, interface: Interface) -> u32 {
        let number = match self.by_id.get(&id) {
            Some(number) => *number,
            None => {
                let local = Local {
                    id: id.clone(),
                    interface: Interface::default(),
                    tiers: SmallVec::new(),
                    present: false,
                    dirty: false,
                    sent: None,
                };
                let number = self.table.insert(local);
                self.by_id.insert(id, number);
                number
            }
        };
        if let Some(local) = self.table.get_mut(number) {
            self.present += usize::from(!local.present);
            local.present = true;
            local.interface = interface;
        }
        self.touch(number);
        number
    }

    /// Gives an endpoint other addresses.
    pub(crate) fn set_addresses(&mut self, number: u32, addresses: Vec<IpAddr>) {
        if let Some(local) = self.table.get_mut(number) {
            local.interface.addresses = addresses;
        }
        self.touch(number);
    }

    /// Marks an endpoint as gone, and returns the policies that selected it.
    pub(crate) fn remove(&mut self, number: u32) -> impl Iterator<Item = u32> + use<> {
        let mut tiers = SmallVec::new();
        if let Some(local) = self.table.get_mut(number) {
            self.present -= usize::from(local.present);
            local.present = false;
            local.interface = Interface::default();
            tiers = std::mem::take(&mut local.tiers);
        }
        self.touch(number);
        tiers.into_iter().flat_map(|tiered| tiered.policies)
    }

    /// Enters policies that select an endpoint and did not before.
    pub(crate) fn link(&mut self, number: u32, new: &[u32], policies: &Policies) {
        let Some(local) = self.table.get_mut(number) else {
            return;
        };
        for policy in new {
            let Some(record) = policies.get(*policy) else {
                continue;
            };
            match local
                .tiers
                .iter_mut()
                .find(|tiered| tiered.tier == record.subject.tier)
            {
                Some(tiered) => tiered.policies.push(*policy),
                None => local.tiers.push(Tiered {
                    tier: record.subject.tier.clone(),
                    policies: vec![*policy],
                    sorted: 0,
                }),
            }
        }
        self.touch(number);
    }

    /// Takes out policies that select an endpoint no more.
    pub(crate) fn unlink(&mut self, number: u32, gone: &[u32]) {
        let Some(local) = self.table.get_mut(number) else {
            return;
        };
        if let [policy] = gone {
            local
                .tiers
                .iter_mut()
                .for_each(|tiered| tiered.remove(|other| other == *policy));
        } else {
            let gone: FxHashSet<u32> = gone.iter().copied().collect();
            local
                .tiers
                .iter_mut()
                .for_each(|tiered| tiered.remove(|other| gone.contains(&other)));
        }
        local.tiers.retain(|tiered| !tiered.policies.is_empty());
        self.touch(number);
    }

    /// Has the next flush look at an endpoint.
    pub(crate) fn touch(&mut self, number: u32) {
        if let Some(local) = self.table.get_mut(number)
            && !local.dirty
        {
            local.dirty = true;
            self.dirty.push(number);
        }
    }

    /// Has the next flush look at the endpoints with policies of these tiers, and at these policies.
    pub(crate) fn touch_tiers(&mut self, changed: &FxHashSet<TierId>, policies: &mut Policies) {
        if changed.is_empty() {
            return;
        }
        let mut touched = Vec::new();
        for (number, local) in self.table.iter() {
            for tiered in local.tiers.iter().filter(|tiered| changed.contains(&tiered.tier)) {
                touched.push(number);
                tiered.policies.iter().for_each(|policy| policies.touch(*policy));
            }
        }
        touched.into_iter().for_each(|number| self.touch(number));
    }

    /// Tells what changed since the last flush.
    pub(crate) fn settle(
        &mut self,
        tiers: &Tiers,
        policies: &Policies,
        profiles: &Profiles,
        out: &mut Sequence,
    ) {
        for number in std::mem::take(&mut self.dirty) {
            let Some(local) = self.table.get_mut(number) else {
                continue;
            };
            local.dirty = false;
            if local.present {
                local.tiers.iter_mut().for_each(|tiered| tiered.sort(policies));
                let now = endpoint(local, tiers, policies, profiles);
                if local.sent.as_deref() != Some(&now) {
                    let now = Arc::new(now);
                    local.sent = Some(now.clone());
                    out.endpoints.push(Update::Workload(now));
                }
            } else if let Some(local) = self.table.remove(number) {
                self.by_id.remove(&local.id);
                if local.sent.is_some() {
                    out.gone_endpoints.push(Update::WorkloadRemoved(local.id));
                }
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.present
    }
}

fn endpoint(local: &Local, tiers: &Tiers, policies: &Policies, profiles: &Profiles) -> WorkloadEndpoint {
    let mut ordered: Vec<(&Tier, &Vec<u32>)> = local
        .tiers
        .iter()
        .filter_map(|of| Some((tiers.get(&of.tier)?, &of.policies)))
        .collect();
    ordered.sort_unstable_by(|(a, _), (b, _)| a.place.cmp(&b.place));
    let in_direction = |applies: fn(&crate::policies::Record) -> bool| -> Vec<TierPolicies> {
        let of_tier = |(tier, list): &(&Tier, &Vec<u32>)| {
            let records = list.iter().filter_map(|number| policies.get(*number));
            let ids: Vec<PolicyId> = records
                .filter(|r| applies(r))
                .map(|r| r.subject.id.clone())
                .collect();
            (!ids.is_empty()).then(|| TierPolicies {
                tier: tier.place.name().clone(),
                default_action: tier.default_action,
                policies: ids,
            })
        };
        ordered.iter().filter_map(of_tier).collect()
    };
    let Interface {
        name,
        mac,
        addresses,
        spoofable,
        profiles: named,
    } = &local.interface;
    WorkloadEndpoint {
        id: local.id.clone(),
        interface: name.clone(),
        mac: *mac,
        addresses: addresses.clone(),
        spoofable: spoofable.clone(),
        ingress: in_direction(|record| record.subject.applies_ingress),
        egress: in_direction(|record| record.subject.applies_egress),
        profiles: named
            .iter()
            .filter_map(|number| profiles.id(*number).cloned())
            .collect(),
    }
}
