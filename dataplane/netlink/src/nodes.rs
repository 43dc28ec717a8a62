//! Which routes lead to the pods of other nodes, where nothing encapsulates them.
//!
//! Pure. The routes go into the same [`RouteTable`] as those to local workloads: there is one wanted table,
//! and one reconciliation that brings the kernel to it.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::names::InterfaceName;
use crate::routes::{Reach, RouteTable, RouteTarget};

/// Addresses that live on another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteNet {
    /// A block of pod addresses, or one address that was borrowed from another node's block.
    pub net: IpNet,
    /// The node's own address, of the same family.
    pub node: IpAddr,
    /// The interface that leads to the node; the kernel looks it up where it is absent.
    pub interface: Option<InterfaceName>,
    /// Whether the node is taken to be on the link although no route says so.
    pub reach: Reach,
}

/// A route that would not lead to the node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRemoteNet {
    /// Addresses and node are of different families.
    #[error("route {net} via {node}: the node's address is of the other family")]
    OtherFamily {
        /// The addresses.
        net: IpNet,
        /// The node's address.
        node: IpAddr,
    },
    /// The node is itself among the addresses, so the route to it would lead through itself.
    #[error("route {net} via {node}: the node's own address is in the block")]
    ThroughItself {
        /// The addresses.
        net: IpNet,
        /// The node's address.
        node: IpAddr,
    },
    /// A gateway that is taken for granted needs an interface.
    #[error("route {net} via {node}: on-link without an interface")]
    NoInterface {
        /// The addresses.
        net: IpNet,
        /// The node's address.
        node: IpAddr,
    },
}

/// Adds the routes to other nodes' addresses to a table, and returns those that cannot be.
///
/// One that cannot be does not keep the others out.
pub fn insert_remote_nets<'nets>(
    table: &mut RouteTable,
    nets: impl IntoIterator<Item = &'nets RemoteNet>,
) -> Vec<InvalidRemoteNet> {
    let mut invalid = Vec::new();
    for remote in nets {
        match remote.target() {
            Ok(target) => {
                table.insert(remote.net, target);
            }
            Err(problem) => invalid.push(problem),
        }
    }
    invalid
}

/// Adds a route into nothing for each block of this node's own.
///
/// Its pods' own routes are longer and win; what is left of the block must not leave by the default route.
pub fn insert_local_blocks<'blocks>(
    table: &mut RouteTable,
    blocks: impl IntoIterator<Item = &'blocks IpNet>,
) {
    for block in blocks {
        // A block of one address would take the place of its pod's own route.
        if block.prefix_len() < block.max_prefix_len() {
            table.insert(*block, RouteTarget::Blackhole);
        }
    }
}

impl RemoteNet {
    /// Returns where packets to these addresses are to go.
    ///
    /// # Errors
    /// A route that would not lead to the node.
    pub fn target(&self) -> Result<RouteTarget, InvalidRemoteNet> {
        let Self {
            net,
            node,
            interface,
            reach,
        } = self;
        let (net, node) = (*net, *node);
        if net.addr().is_ipv4() != node.is_ipv4() {
            return Err(InvalidRemoteNet::OtherFamily { net, node });
        }
        if net.contains(&node) {
            return Err(InvalidRemoteNet::ThroughItself { net, node });
        }
        if *reach == Reach::OnLink && interface.is_none() {
            return Err(InvalidRemoteNet::NoInterface { net, node });
        }
        Ok(RouteTarget::Gateway {
            gateway: node,
            interface: interface.clone(),
            reach: *reach,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(net: &str, node: &str, reach: Reach) -> RemoteNet {
        RemoteNet {
            net: net.parse().unwrap(),
            node: node.parse().unwrap(),
            interface: None,
            reach,
        }
    }

    #[test]
    fn what_cannot_be_is_named_and_the_rest_is_there() {
        let mut table = RouteTable::new();
        let nets = [
            remote("10.65.1.0/26", "192.0.2.7", Reach::Routed),
            remote("10.65.2.0/26", "2001:db8::7", Reach::Routed),
            remote("192.0.2.0/26", "192.0.2.7", Reach::Routed),
            remote("10.65.3.0/26", "192.0.2.8", Reach::OnLink),
        ];
        let invalid = insert_remote_nets(&mut table, &nets);
        assert_eq!(table.len(), 1);
        assert!(matches!(
            invalid.as_slice(),
            [
                InvalidRemoteNet::OtherFamily { .. },
                InvalidRemoteNet::ThroughItself { .. },
                InvalidRemoteNet::NoInterface { .. }
            ]
        ));
    }

    #[test]
    fn a_block_of_one_address_gets_no_blackhole() {
        let mut table = RouteTable::new();
        let blocks = ["10.65.0.0/26".parse().unwrap(), "10.66.0.9/32".parse().unwrap()];
        insert_local_blocks(&mut table, &blocks);
        assert_eq!(
            table.iter().map(|(net, _)| net.to_string()).collect::<Vec<_>>(),
            ["10.65.0.0/26"]
        );
    }
}
