//! Decides how a VXLAN device becomes what is wanted, and whether it is ours to touch.
//!
//! Pure. The kernel changes the address, the learning, and what every interface has, while packets flow; number, port
//! and the rest it does not.

use std::fmt;

use crate::tunnels::vxlan::{DERIVED_FIRST, KIND, ObservedVxlan, VxlanAttributes, VxlanIdentity, VxlanSpec};
use crate::tunnels::{TunnelError, TunnelStep};

/// How a device becomes what is wanted. Size, address and state are not part of it: they are corrected afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// There is none: make it.
    Create,
    /// Change it where it stands; nothing is left to do if there are no steps.
    Correct(Vec<TunnelStep>),
    /// Remove it and make it anew.
    Rebuild(Difference),
}

/// What the kernel cannot change of a VXLAN device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// It has another network's number.
    Vni(u32),
    /// It has another port.
    Port(u16),
    /// It sends what it does not know to somebody.
    Remote,
    /// It leaves with an address of the other family.
    Family,
    /// Another device carries it, or any.
    Carrier,
    /// It does something that no tunnel of ours does.
    Exotic(&'static str),
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vni(vni) => write!(formatter, "it had the network number {vni}"),
            Self::Port(port) => write!(formatter, "it had the port {port}"),
            Self::Remote => formatter.write_str("it sent what it did not know to a default receiver"),
            Self::Family => formatter.write_str("it left with an address of the other family"),
            Self::Carrier => formatter.write_str("another device carried it"),
            Self::Exotic(option) => write!(formatter, "it had the option {option}"),
        }
    }
}

/// Whether a device of our name is ours: made by this software, or by another that keeps the same convention.
///
/// A device with our Ethernet address is, whatever somebody did to it since. One without is if it is as ours are made
/// (no default receiver, nothing learnt, nothing exotic, in no bridge) and has an address of the convention, or our
/// number and port: the node or the configuration had another name or number before.
///
/// # Errors
/// Why it is another's, in words.
pub fn is_ours(identity: &VxlanIdentity, observed: &ObservedVxlan) -> Result<(), String> {
    let link = &observed.link;
    let Some(vxlan) = &observed.vxlan else {
        let kind = link.kind.as_deref().unwrap_or("hardware");
        return Err(format!("it is of type {kind}, not {KIND}"));
    };
    if link.mac == Some(identity.mac) {
        return Ok(());
    }
    let VxlanAttributes {
        vni,
        port,
        local: _,
        remote,
        carrier: _,
        learning,
        exotic,
    } = vxlan;
    if let Some(remote) = remote {
        return Err(format!("it sends to {remote} by default"));
    }
    if *learning {
        return Err("it learns addresses from packets".to_owned());
    }
    if let Some(option) = exotic {
        return Err(format!("it has the option {option}"));
    }
    if let Some(master) = link.master {
        return Err(format!("it belongs to interface number {master}"));
    }
    let of_convention = link.mac.is_some_and(|mac| mac.bytes()[0] == DERIVED_FIRST);
    if of_convention || (*vni, *port) == (identity.vni.number(), identity.port) {
        return Ok(());
    }
    Err(format!(
        "its Ethernet address is not of the form {DERIVED_FIRST:02x}:xx:xx:xx:xx:xx, and network {vni} at port {port} \
         is not ours"
    ))
}

/// Returns how the observed device becomes the wanted one.
///
/// # Errors
/// It is another's.
pub fn plan(spec: &VxlanSpec, observed: Option<&ObservedVxlan>) -> Result<Change, TunnelError> {
    let Some(observed) = observed else {
        return Ok(Change::Create);
    };
    let foreign = |reason| TunnelError::Foreign {
        device: spec.identity.name.to_string(),
        reason,
    };
    is_ours(&spec.identity, observed).map_err(foreign)?;
    let vxlan = observed.vxlan.unwrap_or_default();
    if let Some(difference) = difference(spec, &vxlan) {
        return Ok(Change::Rebuild(difference));
    }
    let mut steps = Vec::new();
    if observed.link.master.is_some() {
        steps.push(TunnelStep::Detach);
    }
    if vxlan.local != Some(spec.local) {
        steps.push(TunnelStep::SetLocal(spec.local));
    }
    if vxlan.learning {
        steps.push(TunnelStep::StopLearning);
    }
    Ok(Change::Correct(steps))
}

/// Returns what the kernel cannot change.
fn difference(spec: &VxlanSpec, observed: &VxlanAttributes) -> Option<Difference> {
    let VxlanAttributes {
        vni,
        port,
        local,
        remote,
        carrier,
        learning: _,
        exotic,
    } = observed;
    if *vni != spec.identity.vni.number() {
        return Some(Difference::Vni(*vni));
    }
    if *port != spec.identity.port {
        return Some(Difference::Port(*port));
    }
    if remote.is_some() {
        return Some(Difference::Remote);
    }
    // Without an address the kernel takes it for one of IPv4.
    if local.is_none_or(|local| local.is_ipv4()) != spec.local.is_ipv4() {
        return Some(Difference::Family);
    }
    if *carrier != spec.carrier {
        return Some(Difference::Carrier);
    }
    exotic.map(Difference::Exotic)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::InterfaceName;
    use crate::links::{Link, OperState};
    use crate::mac::MacAddress;
    use crate::tunnels::vxlan::Family;
    use proptest::prelude::*;

    fn spec() -> VxlanSpec {
        VxlanSpec {
            identity: VxlanIdentity::of_node("node-1", Family::V4).unwrap(),
            local: "192.0.2.1".parse().unwrap(),
            carrier: None,
            mtu: 1450,
            address: None,
        }
    }

    /// The device as ours are made.
    fn made() -> ObservedVxlan {
        let spec = spec();
        ObservedVxlan {
            link: Link {
                index: 7,
                name: InterfaceName::new("vxlan.calico").unwrap(),
                kind: Some("vxlan".into()),
                mac: Some(spec.identity.mac),
                mtu: 1450,
                up: true,
                oper_state: OperState::Unknown,
                peer: None,
                peer_namespace: None,
                master: None,
                group: 0,
            },
            vxlan: Some(VxlanAttributes {
                vni: 4096,
                port: 4789,
                local: Some(spec.local),
                ..VxlanAttributes::default()
            }),
        }
    }

    fn altered(alter: impl FnOnce(&mut Link, &mut VxlanAttributes)) -> ObservedVxlan {
        let mut device = made();
        let mut vxlan = device.vxlan.unwrap();
        alter(&mut device.link, &mut vxlan);
        device.vxlan = Some(vxlan);
        device
    }

    fn planned(observed: &ObservedVxlan) -> Change {
        plan(&spec(), Some(observed)).unwrap()
    }

    fn refused(observed: &ObservedVxlan) -> String {
        plan(&spec(), Some(observed)).unwrap_err().to_string()
    }

    const STRANGE: MacAddress = MacAddress::new([0xae, 1, 2, 3, 4, 5]);

    #[test]
    fn what_is_as_wanted_is_left_alone_and_what_is_not_there_is_made() {
        assert_eq!(planned(&made()), Change::Correct(vec![]));
        assert_eq!(plan(&spec(), None).unwrap(), Change::Create);
    }

    #[test]
    fn what_the_kernel_can_change_is_changed_in_place() {
        let device = altered(|link, vxlan| {
            vxlan.local = Some("192.0.2.99".parse().unwrap());
            vxlan.learning = true;
            link.master = Some(3);
        });
        assert_eq!(
            planned(&device),
            Change::Correct(vec![
                TunnelStep::Detach,
                TunnelStep::SetLocal("192.0.2.1".parse().unwrap()),
                TunnelStep::StopLearning,
            ])
        );
        assert_eq!(
            planned(&altered(|_, vxlan| vxlan.local = None)),
            Change::Correct(vec![TunnelStep::SetLocal("192.0.2.1".parse().unwrap())])
        );
    }

    #[test]
    fn what_the_kernel_cannot_change_is_made_anew() {
        for (device, difference) in [
            (altered(|_, vxlan| vxlan.vni = 5), Difference::Vni(5)),
            (altered(|_, vxlan| vxlan.port = 8472), Difference::Port(8472)),
            (
                altered(|_, vxlan| vxlan.remote = Some("239.1.1.1".parse().unwrap())),
                Difference::Remote,
            ),
            (
                altered(|_, vxlan| vxlan.local = Some("2001:db8::1".parse().unwrap())),
                Difference::Family,
            ),
            (altered(|_, vxlan| vxlan.carrier = Some(2)), Difference::Carrier),
            (
                altered(|_, vxlan| vxlan.exotic = Some("proxy")),
                Difference::Exotic("proxy"),
            ),
        ] {
            assert_eq!(planned(&device), Change::Rebuild(difference));
        }
    }

    #[test]
    fn a_device_from_before_a_rename_or_another_number_is_ours() {
        let mac = crate::tunnels::vxlan::derived_mac("old-name", Family::V4);
        assert_eq!(
            planned(&altered(|link, _| link.mac = Some(mac))),
            Change::Correct(vec![])
        );
        let device = altered(|link, vxlan| {
            link.mac = Some(mac);
            vxlan.vni = 77;
        });
        assert_eq!(planned(&device), Change::Rebuild(Difference::Vni(77)));
        // Somebody gave it another Ethernet address.
        assert_eq!(
            planned(&altered(|link, _| link.mac = Some(STRANGE))),
            Change::Correct(vec![])
        );
    }

    #[test]
    fn another_s_device_is_refused_with_what_shows_it() {
        let mut bridge = made();
        bridge.vxlan = None;
        bridge.link.kind = Some("bridge".into());
        assert!(
            refused(&bridge).contains("it is of type bridge"),
            "{}",
            refused(&bridge)
        );
        let strange = |alter: fn(&mut Link, &mut VxlanAttributes)| {
            refused(&altered(|link, vxlan| {
                link.mac = Some(STRANGE);
                alter(link, vxlan);
            }))
        };
        for (text, word) in [
            (strange(|_, vxlan| vxlan.learning = true), "learns"),
            (
                strange(|_, vxlan| vxlan.remote = Some([239, 1, 1, 1].into())),
                "239.1.1.1",
            ),
            (strange(|_, vxlan| vxlan.exotic = Some("external")), "external"),
            (strange(|link, _| link.master = Some(9)), "number 9"),
            (strange(|_, vxlan| vxlan.vni = 12), "network 12"),
        ] {
            assert!(
                text.contains(word) && text.contains("ip link del vxlan.calico"),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn applying_a_plan_twice_changes_nothing(
            local in proptest::option::of(1u8..4), learning: bool, master in proptest::option::of(1u32..3),
            vni in 4095u32..4098, port in 4788u16..4791, remote: bool, carrier in proptest::option::of(1u32..3),
        ) {
            let mut device = altered(|link, vxlan| {
                *vxlan = VxlanAttributes {
                    vni, port, learning, carrier, exotic: None,
                    local: local.map(|last| [192, 0, 2, last].into()),
                    remote: remote.then(|| [239, 1, 1, 1].into()),
                };
                link.master = master;
            });
            match planned(&device) {
                Change::Create => prop_assert!(false, "it is there"),
                Change::Rebuild(_) => device = made(),
                Change::Correct(steps) => {
                    let vxlan = device.vxlan.as_mut().unwrap();
                    for step in steps {
                        match step {
                            TunnelStep::Detach => device.link.master = None,
                            TunnelStep::SetLocal(address) => vxlan.local = Some(address),
                            TunnelStep::StopLearning => vxlan.learning = false,
                            other => prop_assert!(false, "{other} is not its business"),
                        }
                    }
                }
            }
            prop_assert_eq!(planned(&device), Change::Correct(vec![]));
            prop_assert_eq!(device, made());
        }
    }
}
