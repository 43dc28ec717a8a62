//! What is to be done about one pool. Pure.

use super::conditions::{ALLOCATABLE, Conditions, Told};
use crate::cluster::picture::{is_reserve, node_of};
use crate::overlap::listed;
use ipnet::IpNet;
use kube::api::DynamicObject;
use policy_model::IpamBlockSpec;
use policy_model_ipam::block::{self, Holding};
use policy_model_ipam::handle;
use serde_json::Value;
use std::collections::BTreeMap;

/// What keeps the API server from forgetting a pool that was deleted; the name that Calico's controller knows.
pub(crate) const FINALIZER: &str = "projectcalico.org/ippool-finalizer";

/// A pool as the API server keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pool {
    pub(crate) name: String,
    /// The version that a compare-and-swap compares.
    pub(crate) version: String,
    pub(crate) cidr: IpNet,
    is_disabled: bool,
    is_deleting: bool,
    pub(crate) finalizers: Vec<String>,
    pub(crate) conditions: Conditions,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Keep the API server from forgetting it before its addresses are free.
    Protect,
    /// Let nobody take more addresses of it.
    Disable,
    /// Say in its status how it stands: these conditions of ours, and no other.
    Tell(Vec<Told>),
    /// Take these empty blocks, by owner, from their nodes.
    GiveBack(Vec<(IpNet, Option<String>)>),
    /// Nothing of it is in use any more: let it go.
    Free,
}

/// Who holds what of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holders {
    /// Addresses with whose they are.
    in_use: Vec<String>,
    /// Nodes, and how many addresses each keeps ahead of need.
    reserved: BTreeMap<String, usize>,
    /// Blocks of which nobody holds an address, and their owners.
    empty: Vec<(IpNet, Option<String>)>,
    is_any: bool,
}

impl Pool {
    /// Reads a pool; nothing where its range cannot be read, which the datastore reports.
    pub(crate) fn read(object: &DynamicObject) -> Option<Pool> {
        let text = |path: &str| object.data.pointer(path).and_then(Value::as_str);
        let metadata = &object.metadata;
        Some(Pool {
            name: metadata.name.clone()?,
            version: metadata.resource_version.clone()?,
            cidr: text("/spec/cidr")?.parse().ok()?,
            is_disabled: object.data.pointer("/spec/disabled") == Some(&Value::Bool(true)),
            is_deleting: metadata.deletion_timestamp.is_some(),
            finalizers: metadata.finalizers.clone().unwrap_or_default(),
            conditions: Conditions::read(object),
        })
    }

    fn is_protected(&self) -> bool {
        self.finalizers.iter().any(|name| name == FINALIZER)
    }

    /// Whether it is on its way out, and waits for us.
    pub(crate) fn is_leaving(&self) -> bool {
        self.is_deleting && self.is_protected()
    }

    /// Whether nobody can take an address of it, and nothing of it is left.
    pub(crate) fn is_empty_and_disabled(&self, holders: &Holders) -> bool {
        self.is_disabled && !holders.is_any
    }

    /// The next things to do, in their order. `holders` is asked only of a pool that is leaving; `is_settled` says
    /// that it has been disabled for long enough that everybody knows; `overlap` is what is to be said of others that
    /// have addresses of it.
    pub(crate) fn plan(&self, holders: &Holders, is_settled: bool, overlap: Option<Told>) -> Vec<Step> {
        if self.is_deleting {
            if !self.is_protected() {
                return Vec::new();
            }
            if !self.is_disabled {
                return vec![Step::Disable];
            }
            if !holders.is_any && is_settled {
                return vec![Step::Free];
            }
            let mut steps = Vec::from_iter(self.tell(holders.condition(), overlap));
            if !holders.empty.is_empty() {
                steps.push(Step::GiveBack(holders.empty.clone()));
            }
            return steps;
        }
        if !self.is_protected() {
            return vec![Step::Protect];
        }
        let (is_true, reason, message) = if self.is_disabled {
            (false, "PoolDisabled", "spec.disabled is true")
        } else {
            (true, "OK", "Addresses are taken from this pool")
        };
        let condition = Told {
            kind: ALLOCATABLE,
            is_true,
            reason: reason.to_owned(),
            message: message.to_owned(),
        };
        Vec::from_iter(self.tell(condition, overlap))
    }

    fn tell(&self, condition: Told, overlap: Option<Told>) -> Option<Step> {
        let wanted: Vec<Told> = [condition].into_iter().chain(overlap).collect();
        (!self.conditions.are(&wanted)).then_some(Step::Tell(wanted))
    }
}

impl Holders {
    /// Who holds what of a range.
    pub(crate) fn of<'a>(range: &IpNet, blocks: impl IntoIterator<Item = &'a IpamBlockSpec>) -> Holders {
        let mut holders = Holders::default();
        for spec in blocks.into_iter().filter(|spec| range.contains(&spec.cidr)) {
            holders.is_any = true;
            if block::is_empty(spec) {
                let owner = block::owner(spec).map(str::to_owned);
                holders.empty.push((spec.cidr, owner));
            }
            for held in block::holders(spec) {
                if is_reserve(&held) {
                    let node = node_of(&held).unwrap_or("unknown").to_owned();
                    *holders.reserved.entry(node).or_default() += 1;
                } else {
                    holders.in_use.push(described(&held));
                }
            }
        }
        holders
    }

    fn condition(&self) -> Told {
        let mut waits = Vec::new();
        if !self.in_use.is_empty() {
            let count = self.in_use.len();
            let named = listed(self.in_use.iter().map(String::as_str));
            waits.push(format!("addresses in use ({count}): {named}"));
        }
        if !self.reserved.is_empty() {
            let nodes = listed(self.reserved.keys().map(String::as_str));
            waits.push(format!("addresses that nodes keep ahead of need: {nodes}"));
        }
        if waits.is_empty() && !self.empty.is_empty() {
            waits.push(format!("{} empty blocks to be given back", self.empty.len()));
        }
        let message = if waits.is_empty() {
            "The pool is deleted and goes in a moment".to_owned()
        } else {
            format!("The pool is deleted and waits for {}", waits.join("; "))
        };
        Told {
            kind: ALLOCATABLE,
            is_true: false,
            reason: "Terminating".to_owned(),
            message,
        }
    }
}

fn described(held: &Holding<'_>) -> String {
    let text = |name: &str| held.attribute.secondary.get(name).map(String::as_str);
    match (text(handle::ATTRIBUTE_NAMESPACE), text(handle::ATTRIBUTE_POD)) {
        (Some(namespace), Some(pod)) => format!("{} ({namespace}/{pod})", held.address),
        _ => match text(handle::ATTRIBUTE_NODE) {
            Some(node) => format!("{} (node {node})", held.address),
            None => held.address.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::conditions::OVERLAP;
    use super::*;
    use crate::cluster::picture::tests::block_with;
    use proptest::prelude::*;
    use serde_json::json;

    fn pool(change: impl FnOnce(&mut Value)) -> Pool {
        let mut value = json!({
            "apiVersion": "projectcalico.org/v3", "kind": "IPPool",
            "metadata": { "name": "p", "resourceVersion": "7" },
            "spec": { "cidr": "10.0.0.0/16" },
        });
        change(&mut value);
        Pool::read(&serde_json::from_value(value).unwrap()).unwrap()
    }

    fn leaving(disabled: bool) -> Pool {
        pool(|value| {
            value["metadata"]["finalizers"] = json!(["other", FINALIZER]);
            value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            value["spec"]["disabled"] = json!(disabled);
        })
    }

    fn told(steps: &[Step]) -> &[Told] {
        match steps {
            [Step::Tell(told)] => told,
            _ => panic!("{steps:?}"),
        }
    }

    #[test]
    fn a_pool_is_protected_first_and_then_says_how_it_stands() {
        let none = Holders::default();
        assert_eq!(pool(|_| {}).plan(&none, true, None), [Step::Protect]);
        let protected = pool(|value| value["metadata"]["finalizers"] = json!([FINALIZER]));
        let steps = protected.plan(&none, true, None);
        let told = told(&steps);
        let [allocatable] = told else { panic!("{told:?}") };
        assert!(allocatable.is_true && allocatable.reason == "OK");
        let saying = |told: &[Told]| {
            pool(|value| {
                value["metadata"]["finalizers"] = json!([FINALIZER]);
                let conditions = protected.conditions.with(told, "2026-01-01T00:00:00Z");
                value["status"] = json!({ "conditions": conditions });
            })
        };
        let content = saying(told);
        assert_eq!(
            content.plan(&none, true, None),
            [],
            "what was said is not said again"
        );
        let overlap = Told {
            kind: OVERLAP,
            is_true: true,
            reason: "OverlapsNode".to_owned(),
            message: "n1".to_owned(),
        };
        let both = [allocatable.clone(), overlap.clone()];
        let steps = content.plan(&none, true, Some(overlap.clone()));
        assert_eq!(
            steps,
            [Step::Tell(both.to_vec())],
            "addresses are taken of it all the same"
        );
        assert_eq!(saying(&both).plan(&none, true, Some(overlap)), []);
        assert_eq!(
            saying(&both).plan(&none, true, None),
            [Step::Tell(told.to_vec())],
            "it goes"
        );
        let disabled = pool(|value| {
            value["metadata"]["finalizers"] = json!([FINALIZER]);
            value["spec"]["disabled"] = json!(true);
        });
        let steps = disabled.plan(&none, true, None);
        assert!(matches!(self::told(&steps), [told] if told.reason == "PoolDisabled" && !told.is_true));
    }

    #[test]
    fn a_deleted_pool_is_disabled_then_waits_and_says_for_whom() {
        let blocks = [
            block_with(
                "10.0.0.0/26",
                Some("a"),
                &[
                    ("n.1", &[("namespace", "shop"), ("pod", "web"), ("node", "a")]),
                    ("manx-reserve-a", &[("node", "a")]),
                ],
            ),
            block_with("10.0.0.64/26", Some("b"), &[]),
            block_with("10.1.0.0/26", Some("c"), &[("n.2", &[("node", "c")])]),
        ];
        let holders = Holders::of(&"10.0.0.0/16".parse().unwrap(), &blocks);
        assert_eq!(leaving(false).plan(&holders, true, None), [Step::Disable]);
        let steps = leaving(true).plan(&holders, true, None);
        let [Step::Tell(told), Step::GiveBack(empty)] = steps.as_slice() else {
            panic!("{steps:?}");
        };
        assert_eq!(told[0].reason, "Terminating");
        for word in ["addresses in use (1)", "shop/web", "ahead of need: a"] {
            assert!(told[0].message.contains(word), "{told:?}");
        }
        assert_eq!(empty, &[("10.0.0.64/26".parse().unwrap(), Some("b".to_owned()))]);
    }

    proptest! {
        /// Whatever is held in a pool, by whomever: while any of it is, the pool does not go, and nothing that is held
        /// is given back.
        #[test]
        fn a_pool_never_goes_with_anything_of_it(
            blocks in prop::collection::vec((0u8..4, prop::collection::vec(0u8..3, 0..4)), 0..4),
            is_settled: bool,
        ) {
            let blocks: Vec<IpamBlockSpec> = blocks
                .iter()
                .enumerate()
                .map(|(n, (net, held))| {
                    let kinds: [(&str, &[(&str, &str)]); 3] = [
                        ("n.1", &[("namespace", "x"), ("pod", "y"), ("node", "a")]),
                        ("manx-reserve-a", &[("node", "a")]),
                        ("vxlan-tunnel-addr-a", &[("node", "a")]),
                    ];
                    let held: Vec<_> = held.iter().map(|kind| kinds[usize::from(*kind)]).collect();
                    block_with(&format!("10.{net}.{n}.0/26"), Some("a"), &held)
                })
                .collect();
            let range: IpNet = "10.0.0.0/16".parse().unwrap();
            let steps = leaving(true).plan(&Holders::of(&range, &blocks), is_settled, None);
            let inside: Vec<_> = blocks.iter().filter(|block| range.contains(&block.cidr)).collect();
            prop_assert_eq!(steps.contains(&Step::Free), inside.is_empty() && is_settled);
            for step in &steps {
                if let Step::GiveBack(empty) = step {
                    for (cidr, _) in empty {
                        prop_assert!(inside.iter().any(|b| b.cidr == *cidr && block::is_empty(b)));
                    }
                }
            }
        }
    }

    #[test]
    fn a_pool_goes_when_nothing_of_it_is_left_and_everybody_knows() {
        let none = Holders::default();
        assert_eq!(leaving(true).plan(&none, true, None), [Step::Free]);
        let steps = leaving(true).plan(&none, false, None);
        assert!(matches!(&steps[..], [Step::Tell(_)]), "{steps:?}");
        let anothers = pool(|value| {
            value["metadata"]["finalizers"] = json!(["other"]);
            value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        });
        assert_eq!(
            anothers.plan(&none, true, None),
            [],
            "we have nothing to say any more"
        );
        let last = block_with("10.0.0.0/26", Some("a"), &[]);
        let holders = Holders::of(&"10.0.0.0/16".parse().unwrap(), [&last]);
        assert!(!leaving(true).plan(&holders, true, None).contains(&Step::Free));
    }
}
