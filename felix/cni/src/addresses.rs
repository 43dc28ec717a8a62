//! Which addresses an attachment gets, and how they are given back.
//!
//! What the pod's annotations say wins over the network configuration, and both over the choice of the pools.

use crate::ipam;
use crate::protocol::{AddressWishes, AttachmentKey, Failure, code};
use ipnet::IpNet;
use policy_model::{Kind, Object, Resource, WorkloadEndpointSpec};
use policy_model_datastore::{Datastore, Selection};
use policy_model_ipam::engine::{AssignSpecific, AutoAssign, Outcome, Request as IpamRequest};
use policy_model_ipam::pool::PoolRef;
use policy_model_ipam::{Family, annotation, handle};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// The names of the node's own address management in network configurations.
const OWN_SOURCES: [&str; 3] = ["", "calico-ipam", "manx-ipam"];

/// The pod of an attachment.
#[derive(Clone, Debug)]
pub(crate) struct PodRef {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// Gives and takes addresses for one node.
#[derive(Clone, Copy)]
pub(crate) struct Addresses<'a> {
    pub(crate) store: &'a dyn Datastore,
    pub(crate) node: &'a str,
}

impl Addresses<'_> {
    /// The attachment's addresses: those that it has, those that it asks for, or new ones.
    pub(crate) async fn of_endpoint(
        self,
        key: &AttachmentKey,
        endpoint: &Object<WorkloadEndpointSpec>,
        pod: &PodRef,
        wishes: &AddressWishes,
    ) -> Result<Vec<IpAddr>, Failure> {
        known_source(wishes)?;
        let fixed: Vec<IpAddr> = endpoint.spec.ip_networks.iter().map(|n| n.addr()).collect();
        let annotations = &endpoint.metadata.annotations;
        let asked = match annotations.get(annotation::IP_ADDRS) {
            Some(text) => annotation::addresses(text).map_err(invalid)?,
            None => fixed.clone(),
        };
        if asked.is_empty() {
            return self.of_pools(key, pod, annotations, wishes).await;
        }
        let request = IpamRequest::AssignSpecific(AssignSpecific {
            addresses: asked.clone(),
            handle: key.handle(),
            attributes: self.attributes(pod),
            node: self.node.to_owned(),
            strict_affinity: Some(false),
        });
        match self.assign(request).await {
            Ok(addresses) => Ok(addresses),
            // An address that the endpoint itself states and that no pool covers needs no bookkeeping.
            Err(error) if !fixed.is_empty() && self.outside_pools(&asked).await? => {
                tracing::debug!(%error, "addresses outside all pools are taken as they are");
                Ok(sorted(asked))
            }
            Err(error) => Err(error),
        }
    }

    /// Addresses from the pools: one of each family that is wished for, or that an enabled pool has.
    pub(crate) async fn of_pools(
        self,
        key: &AttachmentKey,
        pod: &PodRef,
        annotations: &BTreeMap<String, String>,
        wishes: &AddressWishes,
    ) -> Result<Vec<IpAddr>, Failure> {
        known_source(wishes)?;
        let (has_v4, has_v6) = self.families().await?;
        let ipv4 = usize::from(wishes.v4.assign.unwrap_or(has_v4));
        let ipv6 = usize::from(wishes.v6.assign.unwrap_or(has_v6));
        if ipv4 + ipv6 == 0 {
            return Err(Failure::new(
                code::NO_ADDRESS,
                if has_v4 || has_v6 {
                    "the network configuration wants no address (ipam.assign_ipv4, ipam.assign_ipv6) of a family that an enabled IP pool has"
                } else {
                    "there is no enabled IP pool to take an address from"
                },
            ));
        }
        let pools = |family, name, wished: &[String]| match annotations.get(name) {
            Some(text) => annotation::pools(family, text).map_err(invalid),
            None => wished_pools(family, wished),
        };
        let request = AutoAssign {
            ipv4,
            ipv6,
            attributes: self.attributes(pod),
            ipv4_pools: pools(Family::V4, annotation::IPV4_POOLS, &wishes.v4.pools)?,
            ipv6_pools: pools(Family::V6, annotation::IPV6_POOLS, &wishes.v6.pools)?,
            node_labels: self.node_labels().await?,
            ..AutoAssign::new(self.node, &key.handle())
        };
        self.assign(IpamRequest::AutoAssign(request)).await
    }

    /// Gives back everything that an attachment holds.
    pub(crate) async fn release(self, key: &AttachmentKey) -> Result<(), Failure> {
        ipam::run(self.store, IpamRequest::ReleaseByHandle(key.handle()))
            .await
            .map(|_| ())
    }

    /// Whether there is an enabled pool, for IPv4 and for IPv6.
    pub(crate) async fn families(self) -> Result<(bool, bool), Failure> {
        let mut has = (false, false);
        for resource in self.list(Kind::IPPool).await? {
            if let Resource::IPPool(pool) = resource.as_ref()
                && !pool.spec.disabled
            {
                if pool.spec.cidr.addr().is_ipv4() {
                    has.0 = true;
                } else {
                    has.1 = true;
                }
            }
        }
        Ok(has)
    }

    fn attributes(self, pod: &PodRef) -> BTreeMap<String, String> {
        let stated = [
            (handle::ATTRIBUTE_NAMESPACE, pod.namespace.as_str()),
            (handle::ATTRIBUTE_POD, pod.name.as_str()),
            (handle::ATTRIBUTE_NODE, self.node),
            (handle::ATTRIBUTE_UID, pod.uid.as_str()),
        ];
        stated
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    async fn assign(self, request: IpamRequest) -> Result<Vec<IpAddr>, Failure> {
        match ipam::run(self.store, request).await? {
            Outcome::Assigned(assigned) => Ok(sorted(assigned.into_iter().map(|a| a.address).collect())),
            other => Err(Failure::new(
                code::STORE,
                format!("address management answered {other:?}"),
            )),
        }
    }

    async fn list(self, kind: Kind) -> Result<Vec<Arc<Resource>>, Failure> {
        let listing = self
            .store
            .list(Selection::kinds([kind]))
            .await
            .map_err(ipam::failure)?;
        Ok(listing.items.into_iter().map(|v| v.resource).collect())
    }

    async fn outside_pools(self, addresses: &[IpAddr]) -> Result<bool, Failure> {
        let pools = self.list(Kind::IPPool).await?;
        let inside = |a: &IpAddr| {
            pools
                .iter()
                .any(|r| matches!(r.as_ref(), Resource::IPPool(pool) if pool.spec.cidr.contains(a)))
        };
        Ok(!addresses.iter().any(inside))
    }

    async fn node_labels(self) -> Result<BTreeMap<String, String>, Failure> {
        let nodes = self.list(Kind::Node).await?;
        let own = nodes.iter().find(|n| n.metadata().name == self.node);
        Ok(own.map(|n| n.metadata().labels.clone()).unwrap_or_default())
    }
}

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
            "ipam.type {:?}: this felix gives addresses from its pools only; use \"calico-ipam\"",
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

fn sorted(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    addresses.sort_unstable();
    addresses
}
