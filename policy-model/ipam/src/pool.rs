//! Which pools may serve a request, and why each other one may not.

use crate::address::Family;
use ipnet::IpNet;
use policy_model::{IpPoolSpec, Object};
use policy_model_selector::Selector;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// What an address is wanted for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Use {
    /// A pod.
    #[default]
    Workload,
    /// A node's tunnel device.
    Tunnel,
    /// A Service of type LoadBalancer.
    LoadBalancer,
}

impl Use {
    /// As a pool's `allowedUses` names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Use::Workload => "Workload",
            Use::Tunnel => "Tunnel",
            Use::LoadBalancer => "LoadBalancer",
        }
    }

    fn is_allowed_by(self, pool: &IpPoolSpec) -> bool {
        if pool.allowed_uses.is_empty() {
            return self != Use::LoadBalancer;
        }
        pool.allowed_uses.iter().any(|u| u == self.as_str())
    }
}

/// A pool as somebody asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PoolRef {
    /// By name.
    Name(String),
    /// By range.
    Range(IpNet),
}

impl PoolRef {
    fn means(&self, pool: &Object<IpPoolSpec>) -> bool {
        match self {
            PoolRef::Name(name) => *name == pool.metadata.name,
            PoolRef::Range(range) => *range == pool.spec.cidr.trunc(),
        }
    }
}

impl fmt::Display for PoolRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PoolRef::Name(name) => f.write_str(name),
            PoolRef::Range(range) => range.fmt(f),
        }
    }
}

/// Why a pool may not serve a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such pool (asked for by name or range).
    #[error("does not exist")]
    Unknown,
    /// It is of the other family (asked for by name).
    #[error("holds {0} addresses")]
    OtherFamily(Family),
    /// It is disabled.
    #[error("is disabled")]
    Disabled,
    /// It is for other uses.
    #[error("is not for the use {}", .0.as_str())]
    OtherUse(Use),
    /// It is used only where it is asked for.
    #[error("is used only when asked for by name (assignmentMode Manual)")]
    ManualOnly,
    /// Its selector does not match the node.
    #[error("does not select the node (nodeSelector '{0}')")]
    NodeNotSelected(String),
    /// Its selector does not match the namespace.
    #[error("does not select the namespace (namespaceSelector '{0}')")]
    NamespaceNotSelected(String),
    /// A selector of it cannot be read.
    #[error("has an invalid selector: {0}")]
    InvalidSelector(String),
    /// Its range cannot be cut into blocks.
    #[error("cannot be cut into blocks of /{0}")]
    BlockSize(u8),
}

/// What a pool is chosen by.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// Family of the addresses.
    pub family: Family,
    /// What they are for.
    pub intended_use: Use,
    /// Pools that were asked for, in the order of preference; empty means any.
    pub requested: &'a [PoolRef],
    /// Labels of the node.
    pub node_labels: &'a BTreeMap<String, String>,
    /// Labels of the namespace; nothing for addresses that are no pod's.
    pub namespace_labels: Option<&'a BTreeMap<String, String>>,
}

/// The pools of one family, sorted by whether they may serve.
#[derive(Clone, Debug)]
pub struct Choice<'a> {
    /// Those that may, in the order in which to try them.
    pub usable: Vec<&'a Object<IpPoolSpec>>,
    /// Those that may not, by name, and why.
    pub refused: Vec<(String, Refusal)>,
}

/// Chooses among pools.
///
/// Pools that were asked for override their selectors and their assignment mode, but must be enabled and allow the
/// use. Otherwise a pool serves when its selectors match; a pool with a namespace selector serves pods only.
///
/// # Errors
/// A pool that was asked for may not serve: which, and why. The request then fails as a whole, because addresses from
/// elsewhere are what it did not ask for.
pub fn choose<'a>(
    pools: impl IntoIterator<Item = &'a Object<IpPoolSpec>>,
    wish: &Wish<'_>,
) -> Result<Choice<'a>, (PoolRef, Refusal)> {
    let pools: Vec<&Object<IpPoolSpec>> = pools.into_iter().collect();
    let mut choice = Choice {
        usable: Vec::new(),
        refused: Vec::new(),
    };
    if !wish.requested.is_empty() {
        for wanted in wish.requested {
            let Some(pool) = pools.iter().find(|p| wanted.means(p)) else {
                return Err((wanted.clone(), Refusal::Unknown));
            };
            refuse_in_itself(&pool.spec, wish).map_err(|refusal| (wanted.clone(), refusal))?;
            if !choice
                .usable
                .iter()
                .any(|p| p.metadata.name == pool.metadata.name)
            {
                choice.usable.push(pool);
            }
        }
        return Ok(choice);
    }
    for pool in pools
        .into_iter()
        .filter(|p| Family::of_net(&p.spec.cidr) == wish.family)
    {
        match refuse_in_itself(&pool.spec, wish).and_then(|()| refuse_by_selection(&pool.spec, wish)) {
            Ok(()) => choice.usable.push(pool),
            Err(refusal) => choice.refused.push((pool.metadata.name.clone(), refusal)),
        }
    }
    Ok(choice)
}

/// Whether a pool's node selector matches a node.
///
/// # Errors
/// It does not, or it cannot be read.
pub fn selects_node(pool: &IpPoolSpec, labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
    if matches(&pool.node_selector, labels)? {
        return Ok(());
    }
    Err(Refusal::NodeNotSelected(pool.node_selector.clone()))
}

/// The pool in which an address lies: the one with the longest prefix, if people made pools overlap.
pub fn containing<'a>(
    pools: impl IntoIterator<Item = &'a Object<IpPoolSpec>>,
    address: IpAddr,
) -> Option<&'a Object<IpPoolSpec>> {
    pools
        .into_iter()
        .filter(|p| p.spec.cidr.contains(&address))
        .max_by_key(|p| p.spec.cidr.prefix_len())
}

/// Whether a pool's range can be cut into blocks of its size.
///
/// # Errors
/// The size that it cannot be cut into.
pub fn check_block_size(pool: &IpPoolSpec) -> Result<u8, Refusal> {
    let prefix = pool.block_prefix_len();
    let bits = Family::of_net(&pool.cidr).bits();
    if prefix < pool.cidr.prefix_len() || prefix > bits || bits - prefix > 16 {
        return Err(Refusal::BlockSize(prefix));
    }
    Ok(prefix)
}

fn refuse_in_itself(pool: &IpPoolSpec, wish: &Wish<'_>) -> Result<(), Refusal> {
    let family = Family::of_net(&pool.cidr);
    if family != wish.family {
        return Err(Refusal::OtherFamily(family));
    }
    if pool.disabled {
        return Err(Refusal::Disabled);
    }
    if !wish.intended_use.is_allowed_by(pool) {
        return Err(Refusal::OtherUse(wish.intended_use));
    }
    check_block_size(pool).map(|_| ())
}

fn refuse_by_selection(pool: &IpPoolSpec, wish: &Wish<'_>) -> Result<(), Refusal> {
    if pool.assignment_mode.as_deref() == Some("Manual") {
        return Err(Refusal::ManualOnly);
    }
    selects_node(pool, wish.node_labels)?;
    if pool.namespace_selector.trim().is_empty() {
        return Ok(());
    }
    match wish.namespace_labels {
        Some(labels) if matches(&pool.namespace_selector, labels)? => Ok(()),
        _ => Err(Refusal::NamespaceNotSelected(pool.namespace_selector.clone())),
    }
}

fn matches(selector: &str, labels: &BTreeMap<String, String>) -> Result<bool, Refusal> {
    match Selector::parse(selector) {
        Ok(selector) => Ok(selector.evaluate(labels)),
        Err(error) => Err(Refusal::InvalidSelector(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(name: &str, cidr: &str, change: impl FnOnce(&mut IpPoolSpec)) -> Object<IpPoolSpec> {
        let mut spec = IpPoolSpec::of(cidr.parse().unwrap());
        change(&mut spec);
        Object::named(name, spec)
    }

    fn labels(key: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(key.to_owned(), value.to_owned())])
    }

    #[test]
    fn each_pool_serves_or_is_refused_with_its_reason() {
        let pools = [
            pool("any", "10.0.0.0/24", |_| ()),
            pool("off", "10.0.1.0/24", |p| p.disabled = true),
            pool("rack-b", "10.0.2.0/24", |p| {
                p.node_selector = "rack == 'b'".into()
            }),
            pool("rack-a", "10.0.3.0/24", |p| {
                p.node_selector = "rack == 'a'".into()
            }),
            pool("shop", "10.0.4.0/24", |p| {
                p.namespace_selector = "team == 'shop'".into()
            }),
            pool("bank", "10.0.5.0/24", |p| {
                p.namespace_selector = "team == 'bank'".into()
            }),
            pool("tunnels", "10.0.6.0/24", |p| {
                p.allowed_uses = vec!["Tunnel".into()]
            }),
            pool("manual", "10.0.7.0/24", |p| {
                p.assignment_mode = Some("Manual".into())
            }),
            pool("broken", "10.0.8.0/24", |p| p.node_selector = "rack ==".into()),
            pool("tiny", "10.0.9.0/28", |_| ()),
            pool("six", "fd00::/64", |_| ()),
        ];
        let (node, namespace) = (labels("rack", "a"), labels("team", "shop"));
        let wish = Wish {
            family: Family::V4,
            intended_use: Use::Workload,
            requested: &[],
            node_labels: &node,
            namespace_labels: Some(&namespace),
        };
        let choice = choose(&pools, &wish).unwrap();
        let names: Vec<_> = choice.usable.iter().map(|p| p.metadata.name.as_str()).collect();
        assert_eq!(names, ["any", "rack-a", "shop"]);
        let refused: Vec<_> = choice.refused.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            refused,
            ["off", "rack-b", "bank", "tunnels", "manual", "broken", "tiny"]
        );

        let tunnel = Wish {
            intended_use: Use::Tunnel,
            namespace_labels: None,
            ..wish
        };
        let choice = choose(&pools, &tunnel).unwrap();
        let names: Vec<_> = choice.usable.iter().map(|p| p.metadata.name.as_str()).collect();
        assert_eq!(
            names,
            ["any", "rack-a", "tunnels"],
            "a pool with a namespace selector is for pods"
        );
        let balancer = Wish {
            intended_use: Use::LoadBalancer,
            ..wish
        };
        assert!(
            choose(&pools, &balancer).unwrap().usable.is_empty(),
            "load balancers need a pool that says so"
        );
    }

    #[test]
    fn requested_pools_override_selectors_in_their_order_but_not_being_disabled() {
        let pools = [
            pool("a", "10.0.0.0/24", |p| p.node_selector = "!all()".into()),
            pool("b", "10.0.1.0/24", |p| p.assignment_mode = Some("Manual".into())),
            pool("c", "10.0.2.0/24", |p| p.disabled = true),
            pool("d", "fd00::/64", |_| ()),
        ];
        let none = BTreeMap::new();
        let ask = |requested: &[PoolRef]| {
            let wish = Wish {
                family: Family::V4,
                intended_use: Use::Workload,
                requested,
                node_labels: &none,
                namespace_labels: None,
            };
            choose(&pools, &wish).map(|c| {
                c.usable
                    .iter()
                    .map(|p| p.metadata.name.clone())
                    .collect::<Vec<_>>()
            })
        };
        let name = |n: &str| PoolRef::Name(n.to_owned());
        assert_eq!(
            ask(&[name("b"), PoolRef::Range("10.0.0.0/24".parse().unwrap())]).unwrap(),
            ["b", "a"]
        );
        assert_eq!(ask(&[name("a"), name("c")]), Err((name("c"), Refusal::Disabled)));
        assert_eq!(ask(&[name("x")]), Err((name("x"), Refusal::Unknown)));
        assert_eq!(
            ask(&[name("d")]),
            Err((name("d"), Refusal::OtherFamily(Family::V6)))
        );
    }
}
