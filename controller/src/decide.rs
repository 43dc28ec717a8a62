//! What is to be done about one object: the pure half of keeping the datastore in step.
//!
//! Law: after a step was carried out, the same question is answered by [`Decision::Nothing`].

use crate::wanted::{IMPLIED_SOURCE, says_the_same, source_of};
use policy_model::{Key, Kind, Resource};
use policy_model_datastore::{Version, Versioned};

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    /// The datastore is in step, or what stands there is none of our business.
    Nothing,
    /// The object is missing.
    Create(Resource),
    /// The object is ours and differs, or says the same as ours and becomes ours.
    Update(Resource, Version),
    /// The object is ours and no longer wanted.
    Delete(Key, Version),
    /// Somebody else's object stands in the way.
    Foreign,
}

/// Decides about one object.
pub(crate) fn decide(wanted: Option<&Resource>, stored: Option<&Versioned>) -> Decision {
    match (wanted, stored) {
        (None, None) => Decision::Nothing,
        (None, Some(stored)) => match source_of(&stored.resource) {
            Some(_) => Decision::Delete(stored.key(), stored.version.clone()),
            None => Decision::Nothing,
        },
        (Some(wanted), None) => Decision::Create(wanted.clone()),
        (Some(wanted), Some(stored)) => {
            let is_ours = source_of(&stored.resource).is_some();
            if is_ours && *stored.resource == *wanted {
                Decision::Nothing
            } else if is_ours || says_the_same(&stored.resource, wanted) {
                Decision::Update(wanted.clone(), stored.version.clone())
            } else if source_of(wanted) == Some(IMPLIED_SOURCE) {
                // Nobody asked for it by name: what somebody else says of the namespace serves as well.
                Decision::Nothing
            } else {
                Decision::Foreign
            }
        }
    }
}

/// When a step's turn is. What others need comes before them, and goes after them: sets before the policies that use
/// them, policies before the endpoints that they protect, endpoints gone before what protected them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Turn {
    /// Tiers, sets, pools and settings appear or change.
    Ground,
    /// Policies and profiles appear or change.
    Policy,
    /// Endpoints go. Before others appear: one address is never at two endpoints of ours.
    EndpointGone,
    /// Endpoints appear or change.
    Endpoint,
    /// Policies and profiles go.
    PolicyGone,
    /// Everything else goes.
    GroundGone,
}

impl Turn {
    /// The turn of a decision about an object of a kind.
    pub(crate) fn of(decision: &Decision, kind: Kind) -> Turn {
        let is_removal = matches!(decision, Decision::Delete(..));
        match (kind, is_removal) {
            (Kind::WorkloadEndpoint | Kind::HostEndpoint, true) => Turn::EndpointGone,
            (Kind::WorkloadEndpoint | Kind::HostEndpoint, false) => Turn::Endpoint,
            (Kind::NetworkPolicy | Kind::GlobalNetworkPolicy | Kind::Profile, true) => Turn::PolicyGone,
            (Kind::NetworkPolicy | Kind::GlobalNetworkPolicy | Kind::Profile, false) => Turn::Policy,
            (_, true) => Turn::GroundGone,
            (_, false) => Turn::Ground,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wanted::ANNOTATION_SOURCE;
    use policy_model::{Object, TierSpec};
    use policy_model_datastore::Revision;
    use std::sync::Arc;

    fn tier(order: f64, source: Option<&str>) -> Resource {
        let spec = TierSpec {
            order: Some(order),
            ..TierSpec::default()
        };
        let mut tier = Resource::from(Object::named("t", spec));
        if let Some(source) = source {
            let annotations = &mut tier.metadata_mut().annotations;
            annotations.insert(ANNOTATION_SOURCE.to_owned(), source.to_owned());
        }
        tier
    }

    fn stored(resource: &Resource) -> Versioned {
        Versioned {
            resource: Arc::new(resource.clone()),
            version: Version::new("1"),
            revision: Revision::new(1),
        }
    }

    #[test]
    fn every_pair_of_states_ends_in_step() {
        let states = [
            None,
            Some(tier(1.0, None)),
            Some(tier(2.0, None)),
            Some(tier(1.0, Some("a"))),
            Some(tier(2.0, Some("a"))),
            Some(tier(1.0, Some("b"))),
        ];
        let wishes = [
            None,
            Some(tier(1.0, Some("a"))),
            Some(tier(1.0, Some(IMPLIED_SOURCE))),
        ];
        for before in &states {
            for wanted in &wishes {
                let found = before.as_ref().map(stored);
                let is_foreign = before.as_ref().is_some_and(|r| source_of(r).is_none());
                let after = match decide(wanted.as_ref(), found.as_ref()) {
                    Decision::Nothing => before.clone(),
                    Decision::Create(new) | Decision::Update(new, _) => Some(new),
                    Decision::Delete(..) => None,
                    Decision::Foreign => {
                        assert!(is_foreign);
                        continue;
                    }
                };
                let again = decide(wanted.as_ref(), after.as_ref().map(stored).as_ref());
                assert_eq!(again, Decision::Nothing, "{before:?} -> {wanted:?}");
                if is_foreign && after != *before {
                    assert!(says_the_same(before.as_ref().unwrap(), after.as_ref().unwrap()));
                }
            }
        }
    }
}
