//! Which addresses an attachment gets.
//!
//! What the pod's annotations say wins over its namespace's, those over the network configuration, and all over the choice
//! of the pools.

use crate::allocator::{Allocator, Holder, Promise, Want, as_pool};
use crate::protocol::{AddressWishes, Failure, code};
use ipnet::IpNet;
use policy_model::{Object, WorkloadEndpointSpec};
use policy_model_ipam::pool::{self, PoolRef};
use policy_model_ipam::{Family, annotation};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The names of the node's own address management in network configurations.
const OWN_SOURCES: [&str; 3] = ["", "calico-ipam", "manx-ipam"];
/// Addresses from ranges of the node.
const HOST_LOCAL: &str = "host-local";

/// What the addresses of an endpoint's resource mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StatedAddresses {
    /// Whoever wrote the resource wants these and no others.
    #[default]
    Wanted,
    /// They are what the pod had when somebody last looked (a pod's status): the next sandbox may have others, and an
    /// earlier one may still hold these.
    LastKnown,
}

impl Allocator {
    /// The addresses of an endpoint: those that it asks for, or new ones.
    pub(crate) async fn of_endpoint(
        &self,
        holder: &Holder,
        endpoint: &Object<WorkloadEndpointSpec>,
        wishes: &AddressWishes,
        meaning: StatedAddresses,
    ) -> Result<Promise, Failure> {
        if wishes.source == HOST_LOCAL {
            return self.of_ranges(wishes, &self.view().node_ranges());
        }
        known_source(wishes)?;
        if let Some(text) = endpoint.metadata.annotations.get(annotation::IP_ADDRS) {
            let asked = annotation::addresses(text).map_err(invalid)?;
            return self.these(holder, &asked).await;
        }
        let stated: Vec<IpAddr> = endpoint.spec.ip_networks.iter().map(|n| n.addr()).collect();
        match meaning {
            StatedAddresses::Wanted if !stated.is_empty() => {
                if self.outside_pools(&stated).await? {
                    // What no pool covers needs no bookkeeping but the journal's.
                    return Ok(Promise::outside(stated));
                }
                self.these(holder, &stated).await
            }
            StatedAddresses::Wanted | StatedAddresses::LastKnown => {
                // What a pod says wins over what its namespace says.
                let mut annotations = self.view().namespace_annotations(&endpoint.metadata.namespace);
                annotations.extend(endpoint.metadata.annotations.clone());
                self.of_pools(holder, &annotations, wishes).await
            }
        }
    }

    async fn these(&self, holder: &Holder, addresses: &[IpAddr]) -> Result<Promise, Failure> {
        match self.named_from_reserve(addresses) {
            Some(promise) => Ok(promise),
            None => self.named(holder, addresses).await,
        }
    }

    /// Addresses without an interface.
    pub(crate) async fn of_nobody(
        &self,
        holder: &Holder,
        wishes: &AddressWishes,
    ) -> Result<Promise, Failure> {
        if wishes.source == HOST_LOCAL {
            return self.of_ranges(wishes, &self.view().node_ranges());
        }
        known_source(wishes)?;
        self.of_pools(holder, &BTreeMap::new(), wishes).await
    }

    /// Addresses from the pools: one of each family that is wished for, or that an enabled pool has.
    async fn of_pools(
        &self,
        holder: &Holder,
        annotations: &BTreeMap<String, String>,
        wishes: &AddressWishes,
    ) -> Result<Promise, Failure> {
        self.wait_begun().await?;
        let (has_v4, has_v6) = self.families();
        let families = [
            (Family::V4, wishes.v4.assign.unwrap_or(has_v4)),
            (Family::V6, wishes.v6.assign.unwrap_or(has_v6)),
        ];
        let mut wants = Vec::new();
        for (family, is_wanted) in families {
            if is_wanted {
                let (name, wished) = match family {
                    Family::V4 => (annotation::IPV4_POOLS, &wishes.v4.pools),
                    Family::V6 => (annotation::IPV6_POOLS, &wishes.v6.pools),
                };
                let pools = match annotations.get(name) {
                    Some(text) => annotation::pools(family, text).map_err(invalid)?,
                    None => wished_pools(family, wished)?,
                };
                wants.push(Want { family, pools });
            }
        }
        if wants.is_empty() {
            return Err(Failure::new(
                code::NO_ADDRESS,
                if has_v4 || has_v6 {
                    "the network configuration wants no address (ipam.assign_ipv4, ipam.assign_ipv6) of a family that an enabled IP pool has"
                } else {
                    NO_POOL
                },
            ));
        }
        self.any(holder, &wants).await
    }

    /// Whether there is an enabled pool, for IPv4 and for IPv6.
    fn families(&self) -> (bool, bool) {
        let pools = self.pools();
        let has = |is_v4| {
            let mut pools = pools.iter().filter_map(as_pool);
            pools.any(|pool| !pool.spec.disabled && pool.spec.cidr.addr().is_ipv4() == is_v4)
        };
        (has(true), has(false))
    }

    /// Why no pod could be given an address now.
    pub(crate) fn lack(&self, wishes: &AddressWishes) -> Option<String> {
        if wishes.source == HOST_LOCAL {
            return None;
        }
        if !self.has_begun() {
            return Some("the cluster's IP pools and blocks are not known yet".to_owned());
        }
        if self.families() == (false, false) {
            return Some(NO_POOL.to_owned());
        }
        self.shortages().of_any_pool()
    }

    async fn outside_pools(&self, addresses: &[IpAddr]) -> Result<bool, Failure> {
        self.wait_begun().await?;
        let pools = self.pools();
        let is_inside = |a: &IpAddr| pool::containing(pools.iter().filter_map(as_pool), *a).is_some();
        Ok(!addresses.iter().any(is_inside))
    }
}

const NO_POOL: &str = "there is no enabled IP pool to take an address from";

fn invalid(error: annotation::InvalidAnnotation) -> Failure {
    Failure::new(code::INVALID_REQUEST, error)
}

fn known_source(wishes: &AddressWishes) -> Result<(), Failure> {
    if OWN_SOURCES.contains(&wishes.source.as_str()) {
        return Ok(());
    }
    Err(Failure::new(
        code::UNSUPPORTED_FIELD,
        format!(
            "ipam.type {:?} is not known; use \"calico-ipam\" or \"{HOST_LOCAL}\"",
            wishes.source
        ),
    ))
}

/// The pools that the network configuration names.
fn wished_pools(family: Family, wished: &[String]) -> Result<Vec<PoolRef>, Failure> {
    let field = match family {
        Family::V4 => "ipam.ipv4_pools",
        Family::V6 => "ipam.ipv6_pools",
    };
    let read = |text: &String| match text.parse::<IpNet>() {
        Ok(net) if Family::of_net(&net) != family => Err(Failure::new(
            code::INVALID_CONFIGURATION,
            format!("{field}: {net} is a range of the other family"),
        )),
        Ok(net) => Ok(PoolRef::Range(net.trunc())),
        Err(_) => Ok(PoolRef::Name(text.clone())),
    };
    wished.iter().map(read).collect()
}
