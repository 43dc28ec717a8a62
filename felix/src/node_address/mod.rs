//! Which address a node is reached by: stated, or found among its interfaces. The choice is pure.
//!
//! Kubernetes' own word comes first: other components reach the node by it, and routes to its pods must go there too.

mod method;

pub use method::{InvalidMethod, InvalidWish, Method, Wanted};

use dataplane_netlink::addresses::{self, Scope};
use dataplane_netlink::{NetlinkError, Rtnetlink, links};
use ipnet::IpNet;
use regex_lite::Regex;
use std::net::{IpAddr, ToSocketAddrs, UdpSocket};

/// Interfaces that are nobody's way to the node, by the beginnings of their names.
const VIRTUAL: [&str; 22] = [
    "docker",
    "cbr",
    "dummy",
    "virbr",
    "lxcbr",
    "veth",
    "lo",
    "cali",
    "tunl",
    "flannel",
    "kube-ipvs",
    "cni",
    "vxlan.calico",
    "vxlan-v6.calico",
    "wireguard.cali",
    "wg-v6.cali",
    "nodelocaldns",
    "podman",
    "br-",
    "kube-bridge",
    "lxc",
    "cilium_",
];

/// An interface that is up, with its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Its name.
    pub name: String,
    /// Its usable addresses of global scope, in the kernel's order.
    pub addresses: Vec<IpNet>,
}

/// A method found no address of a family.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{family} address by {method}: {reason}")]
pub struct NotFound {
    family: &'static str,
    method: String,
    reason: String,
}

/// The interfaces of the calling thread's network namespace, in the order of their numbers.
///
/// # Errors
/// The kernel could not be asked.
pub fn observe() -> Result<Vec<Observed>, NetlinkError> {
    let mut netlink = Rtnetlink::open()?;
    let mut links = links::list(&mut netlink)?;
    let addresses = addresses::list(&mut netlink)?;
    links.sort_by_key(|link| link.index);
    let up = links.into_iter().filter(|link| link.up);
    Ok(up
        .map(|link| Observed {
            name: link.name.as_str().to_owned(),
            addresses: addresses
                .iter()
                .filter(|a| a.link == link.index && a.scope == Scope::Global && a.usable)
                .map(|a| a.net)
                .collect(),
        })
        .collect())
}

/// The address from which a destination would be reached; no packet is sent.
pub fn source_towards(host: &str, is_ipv4: bool) -> Option<IpAddr> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let to = (host, 53)
        .to_socket_addrs()
        .ok()?
        .find(|to| to.is_ipv4() == is_ipv4)?;
    let socket = UdpSocket::bind(if is_ipv4 { "0.0.0.0:0" } else { "[::]:0" }).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Chooses the address of a family, with the length of the network that it stands in on its interface. None where none
/// is wanted.
///
/// `internal` are the node's addresses as Kubernetes gives them; `towards` gives the address from which a host would be
/// reached.
///
/// # Errors
/// The method finds nothing.
pub fn choose(
    wanted: &Wanted,
    is_ipv4: bool,
    observed: &[Observed],
    internal: &[IpAddr],
    towards: impl Fn(&str) -> Option<IpAddr>,
) -> Result<Option<IpNet>, NotFound> {
    let method = match wanted {
        Wanted::None => return Ok(None),
        Wanted::Stated(net) => return Ok(Some(with_length(net, observed))),
        Wanted::Found(method) => method,
    };
    let not_found = |reason: String| NotFound {
        family: if is_ipv4 { "IPv4" } else { "IPv6" },
        method: method.to_string(),
        reason,
    };
    let of_family = |net: &&IpNet| net.addr().is_ipv4() == is_ipv4;
    let first_of = |interface: &Observed| interface.addresses.iter().find(of_family).copied();
    let whole = |address: IpAddr| with_length(&IpNet::from(address), observed);
    let found = match method {
        Method::InternalIp => {
            let address = internal.iter().find(|address| address.is_ipv4() == is_ipv4);
            address.copied().map(whole)
        }
        Method::CanReach(host) => towards(host).filter(|a| a.is_ipv4() == is_ipv4).map(whole),
        Method::FirstFound => observed
            .iter()
            .filter(|i| !is_virtual(&i.name))
            .find_map(first_of),
        Method::SkipInterface(patterns) => observed
            .iter()
            .filter(|i| !is_virtual(&i.name) && !fits(patterns, &i.name))
            .find_map(first_of),
        Method::Interface(patterns) => patterns.iter().find_map(|pattern| {
            let fitting = observed.iter().filter(|i| pattern.is_match(&i.name));
            fitting.filter_map(first_of).next()
        }),
        Method::Cidr(nets) => {
            let mut all = observed.iter().flat_map(|i| &i.addresses).filter(of_family);
            all.find(|net| nets.iter().any(|wanted| wanted.contains(&net.addr())))
                .copied()
        }
    };
    found.map(Some).ok_or_else(|| {
        let names: Vec<&str> = observed.iter().map(|i| i.name.as_str()).collect();
        not_found(match method {
            Method::InternalIp => "the Node object has no InternalIP of this family".to_owned(),
            Method::CanReach(_) => "there is no way there".to_owned(),
            _ => format!("no usable address on the interfaces {}", names.join(", ")),
        })
    })
}

fn is_virtual(name: &str) -> bool {
    VIRTUAL.iter().any(|start| name.starts_with(start))
}

fn fits(patterns: &[Regex], name: &str) -> bool {
    patterns.iter().any(|pattern| pattern.is_match(name))
}

/// An address with the length of its network, where an interface says it.
fn with_length(net: &IpNet, observed: &[Observed]) -> IpNet {
    let all = observed.iter().flat_map(|i| &i.addresses);
    let known = all.copied().find(|known| known.addr() == net.addr());
    known
        .filter(|_| net.prefix_len() == net.max_prefix_len())
        .unwrap_or(*net)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Vec<Observed> {
        let interface = |name: &str, nets: &[&str]| Observed {
            name: name.into(),
            addresses: nets.iter().map(|n| n.parse().unwrap()).collect(),
        };
        vec![
            interface("lo", &["10.99.0.1/32"]),
            interface("docker0", &["172.17.0.1/16"]),
            interface("eth10", &["192.0.2.10/24"]),
            interface("eth1", &["198.51.100.5/25", "2001:db8::5/64"]),
        ]
    }

    fn found(method: &str, is_ipv4: bool) -> Result<Option<String>, String> {
        let wanted = Wanted::Found(method.parse().unwrap());
        let internal = ["198.51.100.5".parse().unwrap()];
        let towards = |host: &str| (host == "203.0.113.9").then(|| "192.0.2.10".parse().unwrap());
        choose(&wanted, is_ipv4, &machine(), &internal, towards)
            .map(|net| net.map(|n| n.to_string()))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn each_method_finds_its_address_with_the_length_of_its_network() {
        for (method, address) in [
            ("kubernetes-internal-ip", "198.51.100.5/25"),
            ("", "198.51.100.5/25"),
            ("first-found", "192.0.2.10/24"),
            ("can-reach=203.0.113.9", "192.0.2.10/24"),
            ("interface=eth1", "198.51.100.5/25"),
            ("interface=ens.*, eth.*", "192.0.2.10/24"),
            ("skip-interface=eth10", "198.51.100.5/25"),
            ("cidr=10.99.0.0/16", "10.99.0.1/32"),
            ("cidr=203.0.113.0/24,198.51.100.0/24", "198.51.100.5/25"),
        ] {
            assert_eq!(found(method, true), Ok(Some(address.to_owned())), "{method}");
        }
        assert_eq!(found("first-found", false), Ok(Some("2001:db8::5/64".to_owned())));
    }

    #[test]
    fn what_cannot_be_found_is_said_with_the_reason() {
        for (method, is_ipv4, part) in [
            ("kubernetes-internal-ip", false, "no InternalIP"),
            ("can-reach=203.0.113.1", true, "no way there"),
            ("interface=ens3", true, "lo, docker0, eth10, eth1"),
            ("cidr=2001:db8:1::/48", false, "no usable address"),
        ] {
            let error = found(method, is_ipv4).unwrap_err();
            assert!(
                error.contains(part) && error.contains(method.split('=').next().unwrap()),
                "{error}"
            );
        }
    }

    #[test]
    fn stated_addresses_and_wishes_are_read_and_faults_named() {
        let read = |is_ipv4, variables: &[(&str, &str)]| {
            let variable = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            Wanted::read(is_ipv4, variable)
        };
        let stated = read(true, &[("IP", "198.51.100.5")]).unwrap();
        let chosen = choose(&stated, true, &machine(), &[], |_| None);
        assert_eq!(chosen.unwrap().unwrap().to_string(), "198.51.100.5/25");
        let own_length = read(true, &[("IP", "198.51.100.5/16")]).unwrap();
        let chosen = choose(&own_length, true, &machine(), &[], |_| None);
        assert_eq!(chosen.unwrap().unwrap().to_string(), "198.51.100.5/16");
        let none = read(false, &[("IP6", "none")]).unwrap();
        assert_eq!(choose(&none, false, &machine(), &[], |_| None), Ok(None));
        for (is_ipv4, name, value) in [
            (true, "IP", "fe80::1"),
            (true, "IP", "x"),
            (false, "IP6", "10.0.0.1"),
            (true, "IP_AUTODETECTION_METHOD", "first"),
            (true, "IP_AUTODETECTION_METHOD", "interface=["),
            (true, "IP_AUTODETECTION_METHOD", "cidr=10.0.0.0/33"),
            (true, "IP_AUTODETECTION_METHOD", "can-reach="),
            (false, "IP6_AUTODETECTION_METHOD", "interface=eth0,"),
        ] {
            let error = read(is_ipv4, &[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
