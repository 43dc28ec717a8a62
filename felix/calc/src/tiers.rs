//! The tiers: their order and what they do with traffic that their policies leave undecided.

use policy_model::{DEFAULT_TIER, DefaultAction, TierSpec};
use policy_model_rules::{TierId, TierSortKey};
use rustc_hash::FxHashSet;
use std::collections::HashMap;

/// What is known of a tier.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tier {
    pub(crate) place: TierSortKey,
    pub(crate) default_action: DefaultAction,
}

/// All tiers. The default tier is there even where nobody wrote it.
pub(crate) struct Tiers {
    by_name: HashMap<TierId, Tier>,
    /// Names of tiers that came, left or changed since the last flush.
    changed: FxHashSet<TierId>,
}

impl Default for Tiers {
    fn default() -> Self {
        let mut tiers = Tiers {
            by_name: HashMap::new(),
            changed: FxHashSet::default(),
        };
        tiers.set_implied();
        tiers
    }
}

impl Tiers {
    fn set_implied(&mut self) {
        self.set(DEFAULT_TIER, &TierSpec::default());
    }

    pub(crate) fn set(&mut self, name: &str, spec: &TierSpec) {
        let name: TierId = name.into();
        let tier = Tier {
            place: TierSortKey::new(name.clone(), spec.order),
            default_action: spec.default_action.unwrap_or_default(),
        };
        if self.by_name.get(&name) != Some(&tier) {
            self.by_name.insert(name.clone(), tier);
            self.changed.insert(name);
        }
    }

    pub(crate) fn remove(&mut self, name: &str) {
        if name == DEFAULT_TIER {
            self.set_implied();
        } else if let Some((name, _)) = self.by_name.remove_entry(name) {
            self.changed.insert(name);
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Tier> {
        self.by_name.get(name)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// The tiers that came, left or changed since this was last asked.
    pub(crate) fn take_changed(&mut self) -> FxHashSet<TierId> {
        std::mem::take(&mut self.changed)
    }
}
