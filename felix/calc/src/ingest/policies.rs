//! Policies and profiles: compiled, entered in their places, and taken out.

use crate::fault::{Fault, InForce};
use crate::graph::CalcGraph;
use policy_model::{Kind, Resource};
use policy_model_rules::{AddressSet, CompiledPolicy, PolicyId, PolicyKind, compile_policy};
use policy_model_selector::index::{ParentId, SelectorId};
use std::collections::BTreeMap;

impl CalcGraph {
    /// Takes in a policy or profile.
    pub(crate) fn upsert_policy(&mut self, resource: &Resource) -> Result<(), Fault> {
        let id = policy_id(resource);
        let is_known = match id.kind {
            PolicyKind::Profile => self.profiles.find(&id.name).is_some(),
            PolicyKind::Namespaced | PolicyKind::Global => self.policies.find(&id).is_some(),
        };
        let compiled = match compile_policy(resource) {
            Ok(Some(compiled)) => compiled,
            Ok(None) => {
                // It became one for host endpoints alone.
                self.remove_policy(&id);
                return Ok(());
            }
            Err(invalid) => {
                let in_force = match self.faulty.get(&invalid.key) {
                    Some(Fault {
                        in_force: InForce::Closed,
                        ..
                    }) if is_known => InForce::Closed,
                    _ if is_known => InForce::LastValid,
                    _ => InForce::Nothing,
                };
                return Err(Fault {
                    key: invalid.key,
                    faults: invalid.faults,
                    in_force,
                });
            }
        };
        let fault = (!compiled.faults.is_empty()).then(|| {
            let key = resource.key();
            let was_valid = is_known
                && self
                    .faulty
                    .get(&key)
                    .is_none_or(|f| f.in_force != InForce::Closed);
            let in_force = match (resource.validate(), was_valid) {
                // A valid policy may say what cannot be enforced here; it is in force all the same.
                (Ok(()), _) => InForce::Partly,
                (Err(_), true) => InForce::LastValid,
                (Err(_), false) => InForce::Closed,
            };
            Fault {
                key,
                faults: compiled.faults,
                in_force,
            }
        });
        if fault
            .as_ref()
            .is_none_or(|fault| fault.in_force != InForce::LastValid)
        {
            match resource {
                Resource::Profile(profile) => {
                    self.put_profile(&profile.spec.labels_to_apply, compiled.policy);
                }
                _ => self.put_policy(compiled.policy),
            }
        }
        fault.map_or(Ok(()), Err)
    }

    fn put_policy(&mut self, mut policy: CompiledPolicy<AddressSet>) {
        let selector = self.selection.enter(&mut self.interner, &mut policy.selector);
        let known = self.policies.find(&policy.id);
        if known.is_some_and(|number| self.policies.has_same_subject(number, &policy, selector)) {
            self.policies.put(policy, selector);
            return;
        }
        if let Some(number) = known {
            self.unlink_policy(number, selector);
        }
        let number = self.policies.put(policy, selector);
        self.selection
            .add_policy(selector, number, &mut self.policies, &mut self.locals);
    }

    pub(crate) fn remove_policy(&mut self, id: &PolicyId) {
        let Some(number) = self.policies.find(id) else {
            return;
        };
        if let Some(selector) = self.policies.get(number).map(|record| record.selector) {
            self.selection
                .remove_policy(selector, number, &mut self.policies, &mut self.locals);
            self.selection.leave(&self.interner, selector);
        }
        self.policies.remove(number);
    }

    /// Takes a policy from its endpoints before it gets another place, and forgets its selector unless it is `next`.
    fn unlink_policy(&mut self, number: u32, next: SelectorId) {
        let Some(selector) = self.policies.get(number).map(|record| record.selector) else {
            return;
        };
        self.selection
            .remove_policy(selector, number, &mut self.policies, &mut self.locals);
        if selector != next {
            self.selection.leave(&self.interner, selector);
        }
    }

    fn put_profile(&mut self, labels: &BTreeMap<String, String>, policy: CompiledPolicy<AddressSet>) {
        let number = self.profiles.number_of(&policy.id.name);
        self.labels.clear();
        for (key, value) in labels {
            let label = (self.interner.intern(key), self.interner.intern(value));
            self.labels.push(label);
        }
        self.set_profile_labels(number);
        self.profiles.put(number, policy);
    }

    pub(crate) fn remove_profile(&mut self, name: &str) {
        let Some(number) = self.profiles.find(name) else {
            return;
        };
        self.labels.clear();
        self.set_profile_labels(number);
        self.profiles.remove(number);
    }

    /// Gives a profile the labels in the buffer.
    pub(super) fn set_profile_labels(&mut self, number: u32) {
        let parent = ParentId(number);
        self.atoms
            .set_parent_labels(&self.interner, &self.items, parent, &self.labels);
        if self.profiles.is_used(number) {
            let labels = self.labels.as_slice();
            self.selection.set_parent_labels(
                &self.interner,
                parent,
                labels,
                &mut self.policies,
                &mut self.locals,
            );
        }
    }
}

fn policy_id(resource: &Resource) -> PolicyId {
    let metadata = resource.metadata();
    match resource.kind() {
        Kind::NetworkPolicy => PolicyId::namespaced(&metadata.namespace, &metadata.name),
        Kind::Profile => PolicyId::profile(&metadata.name),
        _ => PolicyId::global(&metadata.name),
    }
}
