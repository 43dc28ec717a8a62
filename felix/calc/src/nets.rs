//! The addresses of one thing with labels, in as few bytes as the common case allows.

use ipnet::{IpNet, Ipv4Net};
use std::net::{IpAddr, Ipv4Addr};

/// Networks without host bits, sorted, none twice; an address is a network of full length.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum Nets {
    #[default]
    None,
    /// What nearly every pod has.
    One(Ipv4Addr),
    Many(Box<[IpNet]>),
}

impl Nets {
    pub(crate) fn of(nets: impl IntoIterator<Item = IpNet>) -> Self {
        let mut nets = nets.into_iter();
        let (first, second) = (nets.next(), nets.next());
        match (first, second) {
            (None, _) => Nets::None,
            (Some(IpNet::V4(net)), None) if net.prefix_len() == 32 => Nets::One(net.addr()),
            (Some(first), second) => {
                let rest = second.into_iter().chain(nets);
                let mut all: Vec<IpNet> = std::iter::once(first)
                    .chain(rest)
                    .map(|net| net.trunc())
                    .collect();
                all.sort_unstable();
                all.dedup();
                if let [IpNet::V4(net)] = all.as_slice()
                    && net.prefix_len() == 32
                {
                    return Nets::One(net.addr());
                }
                Nets::Many(all.into_boxed_slice())
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Nets::None => 0,
            Nets::One(_) => 1,
            Nets::Many(nets) => nets.len(),
        }
    }

    pub(crate) fn get(&self, place: usize) -> Option<IpNet> {
        match self {
            Nets::None => None,
            Nets::One(address) => (place == 0).then(|| IpNet::V4(Ipv4Net::from(*address))),
            Nets::Many(nets) => nets.get(place).copied(),
        }
    }

    pub(crate) fn contains(&self, net: IpNet) -> bool {
        match self {
            Nets::None => false,
            Nets::One(address) => net == IpNet::V4(Ipv4Net::from(*address)),
            Nets::Many(nets) => nets.binary_search(&net).is_ok(),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = IpNet> {
        (0..self.len()).filter_map(|place| self.get(place))
    }

    /// Those that are single addresses.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.iter().filter(is_address).map(|net| net.addr())
    }
}

/// Whether a network is a single address.
pub(crate) fn is_address(net: &IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Nets {
        Nets::of(texts.iter().map(|text| text.parse::<IpNet>().unwrap()))
    }

    #[test]
    fn equal_sets_of_networks_have_one_form() {
        assert_eq!(nets(&[]), Nets::None);
        assert_eq!(nets(&["10.0.0.1/32", "10.0.0.1/32"]), nets(&["10.0.0.1/32"]));
        assert_eq!(
            nets(&["fd00::1/128", "10.1.2.3/8"]),
            nets(&["10.0.0.0/8", "fd00::1/128", "10.9.9.9/8"])
        );
        let both = nets(&["fd00::1/128", "10.0.0.1/32", "10.0.0.0/8"]);
        assert_eq!(
            both.addresses().map(|a| a.to_string()).collect::<Vec<_>>(),
            ["10.0.0.1", "fd00::1"]
        );
        assert!(both.iter().all(|net| both.contains(net)) && !both.contains("10.0.0.2/32".parse().unwrap()));
        assert_eq!((both.len(), both.iter().count(), both.get(3)), (3, 3, None));
    }
}
