//! What all tunnel devices have: a size, an address, and being up.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::addresses::{self, Address, AddressStep, Scope};
use crate::links::{self, LinkSpec, LinkStep};
use crate::mac::MacAddress;
use crate::names::InterfaceName;
use crate::rtnetlink::Rtnetlink;
use crate::tunnels::{Ensured, TunnelError, TunnelStep};

/// The smallest packet of a link that IPv6 works on (RFC 8200, section 5).
const LEAST_V6: u32 = 1280;

/// What is wanted of a tunnel device of any kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DeviceSpec<'spec> {
    pub(super) name: &'spec InterfaceName,
    pub(super) mtu: u32,
    pub(super) mac: Option<MacAddress>,
    pub(super) address: Option<IpAddr>,
}

/// Refuses what cannot work before anything is touched.
pub(super) fn check(spec: &DeviceSpec<'_>) -> Result<(), TunnelError> {
    if spec.mtu < LEAST_V6 && spec.address.is_some_and(|address| address.is_ipv6()) {
        return Err(TunnelError::TooNarrow {
            device: spec.name.to_string(),
            mtu: spec.mtu,
        });
    }
    Ok(())
}

/// Brings size, address and state of a device of ours to what is wanted, and returns it with all that was changed.
pub(super) fn settle(
    netlink: &mut Rtnetlink,
    spec: &DeviceSpec<'_>,
    mut steps: Vec<TunnelStep>,
) -> Result<Ensured, TunnelError> {
    let vanished = || TunnelError::Vanished {
        device: spec.name.to_string(),
    };
    let link = links::find(netlink, spec.name)?.ok_or_else(vanished)?;
    let wanted = LinkSpec {
        mtu: Some(spec.mtu),
        mac: spec.mac,
        ..LinkSpec::UP
    };
    let changes = links::plan(&wanted, &link);
    // Up comes last, so that no packet leaves with an address that is about to go.
    let (state, form): (Vec<LinkStep>, Vec<LinkStep>) = changes
        .into_iter()
        .partition(|step| matches!(step, LinkStep::SetState(_)));
    links::execute(netlink, &link, &form)?;
    let moves = plan_address(spec.address, &addresses::list_of(netlink, &link)?);
    addresses::execute(netlink, &link, &moves)?;
    links::execute(netlink, &link, &state)?;
    steps.extend(form.into_iter().map(TunnelStep::Link));
    steps.extend(moves.into_iter().map(TunnelStep::Address));
    steps.extend(state.into_iter().map(TunnelStep::Link));
    let link = if steps.is_empty() {
        link
    } else {
        links::find_index(netlink, link.index)?.ok_or_else(vanished)?
    };
    Ok(Ensured { link, steps })
}

/// Returns the changes that leave a device this address alone, valid beyond its link: packets of the node itself that
/// go through the tunnel take it, and the other node must be able to answer it.
///
/// IPv6's link-local addresses are the kernel's and stay.
pub(super) fn plan_address(wanted: Option<IpAddr>, observed: &[Address]) -> Vec<AddressStep> {
    let wanted: Vec<IpNet> = wanted.map(IpNet::from).into_iter().collect();
    // An IPv4 address that was given a narrower scope cannot be corrected, only made anew.
    let narrow = |address: &&Address| address.scope == Scope::Local && address.net.addr().is_ipv4();
    let mut steps: Vec<AddressStep> = observed
        .iter()
        .filter(narrow)
        .map(|address| AddressStep::Remove(address.net))
        .collect();
    let rest: Vec<Address> = observed
        .iter()
        .filter(|address| !narrow(address))
        .copied()
        .collect();
    steps.extend(addresses::plan(&wanted, &rest));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(net: &str, scope: Scope) -> Address {
        Address {
            link: 7,
            net: net.parse().unwrap(),
            scope,
            usable: true,
        }
    }

    fn lines(wanted: Option<&str>, observed: &[Address]) -> Vec<String> {
        let wanted = wanted.map(|text| text.parse().unwrap());
        plan_address(wanted, observed)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn the_address_stands_alone_and_beyond_the_link() {
        assert_eq!(lines(Some("10.1.0.1"), &[]), ["add address 10.1.0.1/32"]);
        assert_eq!(lines(None, &[]), Vec::<String>::new());
        let right = address("10.1.0.1/32", Scope::Global);
        assert_eq!(lines(Some("10.1.0.1"), &[right]), Vec::<String>::new());
        assert_eq!(lines(None, &[right]), ["remove address 10.1.0.1/32"]);
        assert_eq!(
            lines(Some("10.1.0.1"), &[address("10.1.0.1/24", Scope::Global)]),
            ["remove address 10.1.0.1/24", "add address 10.1.0.1/32"]
        );
    }

    #[test]
    fn a_narrower_scope_is_corrected_and_the_kernels_own_addresses_stay() {
        assert_eq!(
            lines(Some("10.1.0.1"), &[address("10.1.0.1/32", Scope::Local)]),
            ["remove address 10.1.0.1/32", "add address 10.1.0.1/32"]
        );
        let own = address("fe80::1/64", Scope::Local);
        assert_eq!(lines(Some("fd00::1"), &[own]), ["add address fd00::1/128"]);
        assert_eq!(lines(None, &[own]), Vec::<String>::new());
    }

    #[test]
    fn ipv6_in_too_narrow_a_tunnel_is_refused_and_names_both() {
        let name = InterfaceName::new("vxlan-v6.calico").unwrap();
        let spec = |mtu, address: &str| DeviceSpec {
            name: &name,
            mtu,
            mac: None,
            address: Some(address.parse().unwrap()),
        };
        let text = check(&spec(1279, "fd00::1")).unwrap_err().to_string();
        assert!(
            text.contains("vxlan-v6.calico") && text.contains("1279"),
            "{text}"
        );
        assert!(check(&spec(1280, "fd00::1")).is_ok());
        assert!(check(&spec(1000, "10.0.0.1")).is_ok());
    }
}
