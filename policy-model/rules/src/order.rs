//! The order in which tiers, and the policies of a tier, are met.
//!
//! Everything that sorts policies uses these keys: a brain and a judge that disagree about one tie disagree about
//! packets.

use crate::policy::{CompiledPolicy, PolicyId, PolicyKind, TierId};
use policy_model::{DEFAULT_TIER, DEFAULT_TIER_ORDER};
use std::cmp::Ordering;
use std::sync::Arc;

/// A written order: smaller first, none last.
///
/// What is no number counts as none, and both zeros as one, so that the order is total.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SortOrder {
    /// `false` sorts before `true`.
    absent: bool,
    /// The number's place on the line of all numbers; 0 where there is none.
    rank: i64,
}

impl From<Option<f64>> for SortOrder {
    fn from(order: Option<f64>) -> Self {
        match order {
            Some(number) if !number.is_nan() => {
                // Adding zero turns the negative zero into the positive one.
                let bits = (number + 0.0).to_bits().cast_signed();
                // Negative numbers grow downwards in their bits; turning all but the sign puts them in order.
                let rank = if bits < 0 { bits ^ i64::MAX } else { bits };
                SortOrder { absent: false, rank }
            }
            _ => SortOrder {
                absent: true,
                rank: 0,
            },
        }
    }
}

/// Place of a tier: by its order, then by its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TierSortKey {
    order: SortOrder,
    name: TierId,
}

impl TierSortKey {
    /// The place of the tier `name`. The default tier without an order has [`DEFAULT_TIER_ORDER`].
    pub fn new(name: TierId, order: Option<f64>) -> Self {
        let order = if &*name == DEFAULT_TIER {
            order.or(Some(DEFAULT_TIER_ORDER))
        } else {
            order
        };
        TierSortKey {
            order: order.into(),
            name,
        }
    }

    /// Name of the tier.
    pub fn name(&self) -> &TierId {
        &self.name
    }
}

/// Place of a policy within its tier: by its order, then by name, namespace and kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicySortKey {
    order: SortOrder,
    name: Arc<str>,
    namespace: Arc<str>,
    kind: PolicyKind,
}

/// Which of two policies of a tier is met first; each is its written order and its identity. The same as comparing their
/// [`PolicySortKey`]s, for who keeps the parts elsewhere.
pub fn compare_in_tier(one: (Option<f64>, &PolicyId), other: (Option<f64>, &PolicyId)) -> Ordering {
    let ((order, one), (other_order, other)) = (one, other);
    SortOrder::from(order)
        .cmp(&SortOrder::from(other_order))
        .then_with(|| one.name.cmp(&other.name))
        .then_with(|| one.namespace.cmp(&other.namespace))
        .then_with(|| one.kind.cmp(&other.kind))
}

impl<A> CompiledPolicy<A> {
    /// The policy's place within its tier.
    pub fn sort_key(&self) -> PolicySortKey {
        PolicySortKey {
            order: self.order.into(),
            name: self.id.name.clone(),
            namespace: self.id.namespace.clone(),
            kind: self.id.kind,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy_model_selector::Selector;
    use proptest::prelude::*;

    fn policy(id: PolicyId, order: Option<f64>) -> CompiledPolicy<()> {
        CompiledPolicy {
            id,
            tier: DEFAULT_TIER.into(),
            order,
            selector: Selector::all(),
            applies_ingress: true,
            applies_egress: false,
            ingress: Vec::new(),
            egress: Vec::new(),
        }
    }

    #[test]
    fn orders_go_up_and_none_is_last() {
        let line = [f64::NEG_INFINITY, -5.5, -1.0, 0.0, 0.5, 10.0, 1e6, f64::INFINITY].map(Some);
        let mut places: Vec<SortOrder> = line.into_iter().map(SortOrder::from).collect();
        places.push(None.into());
        assert!(places.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn zeros_are_one_and_no_number_is_none() {
        assert_eq!(SortOrder::from(Some(-0.0)), SortOrder::from(Some(0.0)));
        assert_eq!(SortOrder::from(Some(f64::NAN)), SortOrder::from(None));
    }

    #[test]
    fn ties_go_by_name_then_namespace_then_kind() {
        let sorted = [
            policy(PolicyId::namespaced("z", "first"), Some(1.0)),
            policy(PolicyId::global("b"), Some(2.0)),
            policy(PolicyId::namespaced("x", "b"), Some(2.0)),
            policy(PolicyId::namespaced("y", "b"), Some(2.0)),
            policy(PolicyId::namespaced("a", "c"), Some(2.0)),
            policy(PolicyId::namespaced("a", "a"), None),
        ];
        assert!(
            sorted
                .iter()
                .map(CompiledPolicy::sort_key)
                .is_sorted_by(|a, b| a < b)
        );
        for (one, other) in sorted
            .iter()
            .flat_map(|one| sorted.iter().map(move |other| (one, other)))
        {
            assert_eq!(
                compare_in_tier((one.order, &one.id), (other.order, &other.id)),
                one.sort_key().cmp(&other.sort_key())
            );
        }
    }

    #[test]
    fn the_default_tier_has_its_place_without_being_written() {
        let default = TierSortKey::new("default".into(), None);
        assert!(TierSortKey::new("z".into(), Some(999_999.0)) < default);
        assert!(default < TierSortKey::new("a".into(), Some(1_000_001.0)));
        assert!(default < TierSortKey::new("a".into(), None));
        assert!(
            TierSortKey::new("a".into(), Some(1_000_000.0)) < default,
            "a tie goes by name"
        );
        assert!(TierSortKey::new("default".into(), Some(5.0)) < TierSortKey::new("a".into(), Some(6.0)));
    }

    proptest! {
        #[test]
        fn sort_orders_agree_with_the_numbers(a in any::<f64>(), b in any::<f64>()) {
            prop_assume!(!a.is_nan() && !b.is_nan());
            prop_assert_eq!(SortOrder::from(Some(a)).partial_cmp(&SortOrder::from(Some(b))), a.partial_cmp(&b));
            prop_assert!(SortOrder::from(Some(a)) < SortOrder::from(None));
        }
    }
}
