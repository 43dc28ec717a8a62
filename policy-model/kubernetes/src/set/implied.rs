//! Profiles of namespaces and service accounts that pods use and no document defines.
//!
//! A document that speaks of the namespace, even an invalid one, ends the implied profile: without its labels a
//! namespace could be meant by rules that exclude it, and an endpoint without its profile is closed.

use super::outcome::Outcome;
use crate::manifest::ManifestId;
use crate::translate::{PodFacts, implied_namespace, implied_service_account};
use policy_model::Resource;
use std::collections::{BTreeMap, BTreeSet};

/// Something that has a profile: a namespace, or a service account of it.
type Owner = (String, Option<String>);

/// Who needs profiles, and who is defined.
#[derive(Debug, Default)]
pub(super) struct ImpliedProfiles {
    /// How many endpoints need the profile.
    users: BTreeMap<Owner, usize>,
    defined: BTreeSet<Owner>,
}

impl ImpliedProfiles {
    /// Takes the place of a pod's former facts.
    pub(super) fn replace_pod(
        &mut self,
        before: Option<&PodFacts>,
        after: Option<&PodFacts>,
        outcome: &mut Outcome,
    ) {
        // The new ones first: a profile that both need is never touched.
        for owner in after.into_iter().flat_map(owners) {
            *self.users.entry(owner.clone()).or_default() += 1;
            self.refresh(&owner, outcome);
        }
        for owner in before.into_iter().flat_map(owners) {
            if let Some(count) = self.users.get_mut(&owner) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.users.remove(&owner);
                }
            }
            self.refresh(&owner, outcome);
        }
    }

    /// Notes whether a document speaks of an object.
    pub(super) fn note_definition(&mut self, id: &ManifestId, is_defined: bool, outcome: &mut Outcome) {
        let owner = match (id.group.as_str(), id.kind.as_str()) {
            ("", "Namespace") => (id.name.clone(), None),
            ("", "ServiceAccount") => (id.namespace.clone(), Some(id.name.clone())),
            _ => return,
        };
        let changed = if is_defined {
            self.defined.insert(owner.clone())
        } else {
            self.defined.remove(&owner)
        };
        if changed {
            self.refresh(&owner, outcome);
        }
    }

    fn refresh(&self, owner: &Owner, outcome: &mut Outcome) {
        let profile = profile(owner);
        let wanted = self.users.contains_key(owner) && !self.defined.contains(owner);
        outcome.set_implied(profile.key(), wanted.then_some(profile));
    }
}

fn owners(pod: &PodFacts) -> Vec<Owner> {
    if !pod.is_endpoint() {
        return Vec::new();
    }
    vec![
        (pod.namespace.clone(), None),
        (pod.namespace.clone(), Some(pod.service_account.clone())),
    ]
}

fn profile((namespace, account): &Owner) -> Resource {
    match account {
        None => implied_namespace(namespace),
        Some(account) => implied_service_account(namespace, account),
    }
}
