//! What the endpoints and the other nodes ask of the routing side, destination by destination.
//!
//! Pure. One endpoint's change names the destinations that it concerns, so that nobody has to look at all of them.

use crate::tunnels::Ready;
use dataplane_api::{EndpointId, NodeRoute, Way, WorkloadEndpoint};
use dataplane_netlink::InterfaceName;
use dataplane_netlink::nodes::RemoteNet;
use dataplane_netlink::routes::{Reach, RouteTarget};
use dataplane_netlink::workload::{RouteSources, device_routes};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// The endpoints of this node and the ranges behind other nodes.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    endpoints: BTreeMap<EndpointId, Arc<WorkloadEndpoint>>,
    holders: BTreeMap<IpAddr, BTreeSet<EndpointId>>,
    by_interface: BTreeMap<String, BTreeSet<EndpointId>>,
    remote: BTreeMap<IpNet, NodeRoute>,
    /// The far ends of IPv6 tunnels, and how many ranges are behind each.
    ends: BTreeMap<Ipv6Addr, usize>,
}

impl Wanted {
    /// Takes an endpoint in and returns what it was before.
    pub(super) fn set_endpoint(&mut self, endpoint: Arc<WorkloadEndpoint>) -> Option<Arc<WorkloadEndpoint>> {
        let before = self.remove_endpoint(&endpoint.id);
        for address in &endpoint.addresses {
            let holders = self.holders.entry(*address).or_default();
            holders.insert(endpoint.id.clone());
        }
        let at = self.by_interface.entry(endpoint.interface.clone()).or_default();
        at.insert(endpoint.id.clone());
        self.endpoints.insert(endpoint.id.clone(), endpoint);
        before
    }

    /// Forgets an endpoint and returns what it was.
    pub(super) fn remove_endpoint(&mut self, id: &EndpointId) -> Option<Arc<WorkloadEndpoint>> {
        let before = self.endpoints.remove(id)?;
        for address in &before.addresses {
            take_from(&mut self.holders, address, id);
        }
        take_from(&mut self.by_interface, &before.interface, id);
        Some(before)
    }

    /// Takes in where a range is; returns the destinations that this concerns, as the kernel knows them.
    pub(super) fn set_route(&mut self, route: NodeRoute) -> Vec<IpNet> {
        let destination = route.destination.trunc();
        let now = end_of(&route);
        let before = self.remote.insert(destination, route);
        self.count_end(now, before.as_ref().and_then(end_of));
        let ends = [now, before.as_ref().and_then(end_of)].into_iter().flatten();
        ends.map(of_end).chain([destination]).collect()
    }

    /// Forgets where a range is; returns the destinations that this concerns, as the kernel knows them.
    pub(super) fn remove_route(&mut self, destination: &IpNet) -> Vec<IpNet> {
        let destination = destination.trunc();
        let end = self.remote.remove(&destination).as_ref().and_then(end_of);
        self.count_end(None, end);
        end.map(of_end).into_iter().chain([destination]).collect()
    }

    fn count_end(&mut self, more: Option<Ipv6Addr>, less: Option<Ipv6Addr>) {
        if let Some(end) = more {
            *self.ends.entry(end).or_default() += 1;
        }
        if let Some(end) = less
            && let Some(count) = self.ends.get_mut(&end)
        {
            *count -= 1;
            if *count == 0 {
                self.ends.remove(&end);
            }
        }
    }

    pub(super) fn endpoint(&self, id: &EndpointId) -> Option<&Arc<WorkloadEndpoint>> {
        self.endpoints.get(id)
    }

    pub(super) fn endpoints(&self) -> impl Iterator<Item = &Arc<WorkloadEndpoint>> {
        self.endpoints.values()
    }

    /// The endpoints whose interface has this name.
    pub(super) fn at_interface(&self, name: &str) -> impl Iterator<Item = &Arc<WorkloadEndpoint>> {
        let ids = self.by_interface.get(name).into_iter().flatten();
        ids.filter_map(|id| self.endpoints.get(id))
    }

    /// The destinations that are reached through tunnels.
    pub(super) fn through_tunnels(&self) -> impl Iterator<Item = IpNet> {
        let is_wrapped = |route: &NodeRoute| matches!(route.way, Way::Ipip(_) | Way::Vxlan(_));
        let routes = self.remote.iter().filter(move |(_, route)| is_wrapped(route));
        let ends = self.ends.keys().map(|end| of_end(*end));
        routes.map(|(destination, _)| *destination).chain(ends)
    }

    /// All destinations that somebody asks for.
    pub(super) fn destinations(&self) -> impl Iterator<Item = IpNet> {
        let held = self.holders.keys().map(|address| IpNet::from(*address));
        let ends = self.ends.keys().map(|end| of_end(*end));
        held.chain(self.remote.keys().copied()).chain(ends)
    }

    /// Where packets to a destination are to go, given which interfaces are up; or why there can be no route.
    ///
    /// Of two endpoints with one address the first by name has the route, whatever the order of arrival. An address that
    /// a workload here has is reached here, whatever a block says of it.
    pub(super) fn target(
        &self,
        destination: &IpNet,
        sources: RouteSources,
        tunnels: &Ready,
        is_up: impl Fn(&str) -> bool,
    ) -> Result<Option<RouteTarget>, String> {
        let address = destination.addr();
        let is_one_address = destination.prefix_len() == destination.max_prefix_len();
        let holders = self.holders.get(&address).filter(|_| is_one_address);
        let mut interfaces = holders
            .into_iter()
            .flatten()
            .filter_map(|id| self.endpoints.get(id))
            .map(|endpoint| endpoint.interface.as_str());
        let interface = interfaces
            .find(|name| is_up(name))
            // What is up has a name that an interface can have.
            .and_then(|name| InterfaceName::new(name).ok());
        if let Some(name) = interface {
            return Ok(device_routes(&name, [address], sources)
                .next()
                .map(|(_, target)| target));
        }
        let Some(route) = self.remote.get(destination) else {
            return Ok(self.end(destination, tunnels));
        };
        let through = |device: &Option<InterfaceName>, gateway: IpAddr| match device {
            Some(device) => RouteTarget::Gateway {
                gateway,
                interface: Some(device.clone()),
                reach: Reach::OnLink,
            },
            // What has to be wrapped does not go as it is.
            None => RouteTarget::Blackhole,
        };
        Ok(Some(match route.way {
            Way::Plain(node) => {
                let remote = RemoteNet {
                    net: route.destination,
                    node,
                    interface: None,
                    reach: Reach::Routed,
                };
                remote.target().map_err(|invalid| invalid.to_string())?
            }
            Way::Ipip(node) => through(&tunnels.ipip, node.into()),
            Way::Vxlan(end) => {
                let device = if end.is_ipv4() {
                    &tunnels.vxlan4
                } else {
                    &tunnels.vxlan6
                };
                match device {
                    // The end itself is on the tunnel's link, and no gateway to itself.
                    Some(interface) if IpNet::from(end) == *destination => RouteTarget::Device {
                        interface: interface.clone(),
                        source: None,
                    },
                    _ => through(device, end),
                }
            }
            Way::Here | Way::Nowhere => RouteTarget::Blackhole,
        }))
    }

    /// Where packets to the far end of a tunnel are to go.
    fn end(&self, destination: &IpNet, tunnels: &Ready) -> Option<RouteTarget> {
        let IpAddr::V6(address) = destination.addr() else {
            return None;
        };
        let is_end = *destination == of_end(address) && self.ends.contains_key(&address);
        let interface = tunnels.vxlan6.clone().filter(|_| is_end)?;
        Some(RouteTarget::Device {
            interface,
            source: None,
        })
    }
}

/// The far end of the IPv6 tunnel that a range is behind.
///
/// Such an end has a route of its own. For IPv6 the kernel takes no gateway, not even one that is said to be on the
/// link, to which another route leads by another device: and the block that the end's address is from may be of a pool
/// that is not wrapped, or not yet.
fn end_of(route: &NodeRoute) -> Option<Ipv6Addr> {
    match route.way {
        Way::Vxlan(IpAddr::V6(end)) => Some(end),
        Way::Vxlan(IpAddr::V4(_)) | Way::Plain(_) | Way::Ipip(_) | Way::Here | Way::Nowhere => None,
    }
}

fn of_end(end: Ipv6Addr) -> IpNet {
    IpNet::from(IpAddr::V6(end))
}

/// The destinations of an endpoint's addresses.
pub(super) fn destinations_of(endpoint: &WorkloadEndpoint) -> impl Iterator<Item = IpNet> {
    endpoint.addresses.iter().map(|address| IpNet::from(*address))
}

fn take_from<K: Ord>(ids: &mut BTreeMap<K, BTreeSet<EndpointId>>, key: &K, id: &EndpointId) {
    if let Some(these) = ids.get_mut(key) {
        these.remove(id);
        if these.is_empty() {
            ids.remove(key);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is the failure itself")]
mod tests {
    use super::*;

    fn endpoint(name: &str, interface: &str, addresses: &[&str]) -> Arc<WorkloadEndpoint> {
        Arc::new(WorkloadEndpoint {
            id: EndpointId {
                namespace: "ns".into(),
                name: name.into(),
            },
            interface: interface.to_owned(),
            mac: None,
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            spoofable: Vec::new(),
            ingress: Vec::new(),
            egress: Vec::new(),
            profiles: Vec::new(),
        })
    }

    fn range(destination: &str, via: &str) -> NodeRoute {
        NodeRoute {
            destination: destination.parse().unwrap(),
            node: "other".into(),
            way: Way::Plain(via.parse().unwrap()),
        }
    }

    fn target(wanted: &Wanted, destination: &str, up: &[&str]) -> String {
        let destination = destination.parse().unwrap();
        match wanted.target(&destination, RouteSources::default(), &Ready::default(), |name| {
            up.contains(&name)
        }) {
            Ok(Some(target)) => target.to_string(),
            Ok(None) => "none".to_owned(),
            Err(why) => why,
        }
    }

    #[test]
    fn a_destination_has_the_first_holder_that_is_up_then_another_node_then_nobody() {
        let mut wanted = Wanted::default();
        let address = "10.0.0.1/32";
        assert_eq!(target(&wanted, address, &["cali1"]), "none");
        wanted.set_route(range(address, "192.0.2.1"));
        assert_eq!(target(&wanted, address, &["cali1"]), "via 192.0.2.1");
        assert!(
            wanted
                .set_endpoint(endpoint("b", "cali1", &["10.0.0.1"]))
                .is_none()
        );
        wanted.set_endpoint(endpoint("a", "cali2", &["10.0.0.1", "fd00::1"]));
        assert_eq!(target(&wanted, address, &["cali1", "cali2"]), "dev cali2");
        assert_eq!(target(&wanted, address, &["cali1"]), "dev cali1");
        assert_eq!(target(&wanted, address, &[]), "via 192.0.2.1");
        assert_eq!(target(&wanted, "fd00::1/128", &["cali2"]), "dev cali2");
        assert_eq!(target(&wanted, "10.0.0.0/31", &["cali2"]), "none");

        let before = wanted
            .set_endpoint(endpoint("a", "cali3", &["10.0.0.2"]))
            .unwrap();
        assert_eq!(before.interface, "cali2");
        assert_eq!(target(&wanted, address, &["cali1", "cali2"]), "dev cali1");
        assert_eq!(target(&wanted, "fd00::1/128", &["cali2"]), "none");
        assert_eq!(wanted.at_interface("cali2").count(), 0);
        assert_eq!(wanted.at_interface("cali3").count(), 1);
        for id in [before.id.clone(), endpoint("b", "", &[]).id.clone()] {
            wanted.remove_endpoint(&id);
        }
        wanted.remove_route(&address.parse().unwrap());
        assert_eq!(wanted.destinations().count(), 0);
        assert_eq!(wanted.endpoints().count(), 0);
    }

    #[test]
    fn a_range_that_holds_its_own_gateway_is_refused_by_name() {
        let mut wanted = Wanted::default();
        // Bits beyond the prefix are dropped, as the kernel does.
        let destination = wanted.set_route(range("192.0.2.77/24", "192.0.2.1"));
        assert_eq!(destination, ["192.0.2.0/24".parse::<IpNet>().unwrap()]);
        let why = target(&wanted, "192.0.2.0/24", &[]);
        assert!(why.contains("the node's own address is in the block"), "{why}");
    }

    #[test]
    fn the_far_end_of_an_ipv6_tunnel_has_a_route_as_long_as_a_range_is_behind_it() {
        let mut wanted = Wanted::default();
        let behind = |range: &str, end: &str| NodeRoute {
            destination: range.parse().unwrap(),
            node: "other".into(),
            way: Way::Vxlan(end.parse().unwrap()),
        };
        let ready = Ready {
            vxlan6: Some(InterfaceName::new("vxlan-v6.calico").unwrap()),
            ..Ready::default()
        };
        let shown = |wanted: &Wanted, ready: &Ready, destination: &str| {
            let target = wanted.target(
                &destination.parse().unwrap(),
                RouteSources::default(),
                ready,
                |_| false,
            );
            target
                .unwrap()
                .map_or("none".to_owned(), |target| target.to_string())
        };
        let (block, end): (IpNet, IpNet) =
            ("fd00::2:0/122".parse().unwrap(), "fd00::2:1/128".parse().unwrap());
        let concerned = wanted.set_route(behind("fd00::2:0/122", "fd00::2:1"));
        assert!(
            concerned.contains(&end) && concerned.contains(&block),
            "{concerned:?}"
        );
        wanted.set_route(behind("fd01::2:0/122", "fd00::2:1"));
        assert_eq!(shown(&wanted, &ready, "fd00::2:1/128"), "dev vxlan-v6.calico");
        assert_eq!(
            shown(&wanted, &ready, "fd00::2:0/122"),
            "via fd00::2:1 dev vxlan-v6.calico onlink"
        );
        assert_eq!(
            shown(&wanted, &Ready::default(), "fd00::2:1/128"),
            "none",
            "without a device there is none"
        );
        assert_eq!(
            shown(&wanted, &ready, "fd00::2:2/128"),
            "none",
            "only the end has one"
        );
        // The pool becomes a plain one, and another range is still behind the end.
        wanted.set_route(range("fd00::2:0/122", "fd09::2"));
        assert_eq!(shown(&wanted, &ready, "fd00::2:1/128"), "dev vxlan-v6.calico");
        assert!(
            wanted
                .remove_route(&"fd01::2:0/122".parse().unwrap())
                .contains(&end)
        );
        assert_eq!(shown(&wanted, &ready, "fd00::2:1/128"), "none");
        wanted.set_route(behind("10.0.2.0/26", "10.0.2.1"));
        assert_eq!(shown(&wanted, &ready, "10.0.2.1/32"), "none", "IPv4 does without");
    }
}
