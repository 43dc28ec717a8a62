//! What the settings say of tunnels between nodes, and of the packets that leave the pods' network.
//!
//! A size of 0 means everywhere: found out. What cannot be honoured is left to what is found out as well, and named.

use crate::settings::Settings;
use crate::settings::parse::{Bool, NatExclusions, Parser};
use dataplane::{TunnelSettings, Tunnelling};
use dataplane_netlink::tunnels::offload::ChecksumOffload;
use dataplane_netlink::tunnels::vxlan::{DEFAULT_PORT, DEFAULT_VNI, Vni};
use dataplane_nftables::layout::{Exclusions, Outgoing, TunnelsFromWorkloads};

/// The one feature that FeatureDetectOverride may speak of.
const CHECKSUM_OFFLOAD_BROKEN: &str = "ChecksumOffloadBroken";

/// The settings of tunnels, and what has to be said of them.
pub(crate) fn of_tunnels(settings: &Settings) -> (TunnelSettings, Vec<String>) {
    let mut warnings = Vec::new();
    if settings.vxlan_port == 0 {
        warnings.push(format!(
            "VXLANPort 0 is no port that VXLAN could use; it is {DEFAULT_PORT}: set VXLANPort (FELIX_VXLANPORT) to one from \
             1 to 65535"
        ));
    }
    let tunnels = TunnelSettings {
        ipip: tunnelling(settings.ip_in_ip_enabled),
        ipip_mtu: size(settings.ip_in_ip_mtu),
        vxlan: tunnelling(settings.vxlan_enabled),
        vxlan_port: match settings.vxlan_port {
            0 => DEFAULT_PORT,
            port => port,
        },
        vxlan_vni: vxlan_vni(settings),
        vxlan_mtu: size(settings.vxlan_mtu),
        vxlan_mtu_v6: size(settings.vxlan_mtu_v6),
        checksum_offload: checksum_offload(&settings.feature_detect_override, &mut warnings),
    };
    (tunnels, warnings)
}

/// How packets that leave all pools take an address of the node.
pub(crate) fn of_outgoing(settings: &Settings) -> Outgoing {
    let ports = settings
        .nat_port_range
        .map(|range| (range.first.max(1), range.last));
    Outgoing {
        // Port 0 is none.
        ports: ports.filter(|(first, last)| first <= last),
        address: settings.nat_outgoing_address,
        exclusions: match settings.nat_outgoing_exclusions {
            None | Some(NatExclusions::PoolsOnly) => Exclusions::Pools,
            Some(NatExclusions::PoolsAndNodes) => Exclusions::PoolsAndNodes,
        },
    }
}

/// Which tunnelled packets workloads may send themselves.
pub(crate) fn of_workloads(settings: &Settings) -> TunnelsFromWorkloads {
    TunnelsFromWorkloads {
        ipip: settings.allow_ipip_packets_from_workloads,
        vxlan: settings.allow_vxlan_packets_from_workloads,
    }
}

fn vxlan_vni(settings: &Settings) -> Vni {
    let number = u32::try_from(settings.vxlan_vni).ok();
    number
        .and_then(|number| Vni::try_from(number).ok())
        .unwrap_or(DEFAULT_VNI)
}

fn tunnelling(enabled: Option<bool>) -> Tunnelling {
    match enabled {
        None => Tunnelling::ByPools,
        Some(true) => Tunnelling::On,
        Some(false) => Tunnelling::Off,
    }
}

fn size(mtu: i64) -> Option<u32> {
    u32::try_from(mtu).ok().filter(|mtu| *mtu != 0)
}

fn checksum_offload(stated: &[(String, String)], warnings: &mut Vec<String>) -> Option<ChecksumOffload> {
    let mut offload = None;
    for (name, value) in stated {
        if !name.eq_ignore_ascii_case(CHECKSUM_OFFLOAD_BROKEN) {
            warnings.push(format!(
                "FeatureDetectOverride: {name:?} has no effect here; only {CHECKSUM_OFFLOAD_BROKEN} has"
            ));
            continue;
        }
        match Bool::parse(value) {
            Ok(true) => offload = Some(ChecksumOffload::Off),
            Ok(false) => offload = Some(ChecksumOffload::On),
            Err(_) => warnings.push(format!(
                "FeatureDetectOverride: {name}={value} is left out: the value has to be true or false"
            )),
        }
    }
    offload
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Layer, Layers, Source};

    fn settings(stated: &[(&str, &str)]) -> Settings {
        let mut layer = Layer::new(Source::Environment);
        for (name, value) in stated {
            layer = layer.with(name, *value);
        }
        let mut layers = Layers::new(Some("a".into()));
        layers.put(layer);
        let resolution = layers.resolve().unwrap();
        assert!(resolution.notices.is_empty(), "{:?}", resolution.notices);
        resolution.settings
    }

    #[test]
    fn without_settings_pools_decide_and_sizes_are_found_out() {
        let (tunnels, warnings) = of_tunnels(&Settings::built_in());
        assert_eq!(tunnels, TunnelSettings::default());
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(of_outgoing(&Settings::built_in()), Outgoing::default());
        let refused = TunnelsFromWorkloads::default();
        assert_eq!(of_workloads(&Settings::built_in()), refused);
    }

    #[test]
    fn what_is_set_arrives() {
        let settings = settings(&[
            ("IpInIpEnabled", "true"),
            ("IpInIpMtu", "1440"),
            ("VXLANEnabled", "false"),
            ("VXLANPort", "8472"),
            ("VXLANVNI", "1"),
            ("VXLANMTU", "1410"),
            ("VXLANMTUV6", "1390"),
            ("FeatureDetectOverride", "ChecksumOffloadBroken=true"),
            ("NATPortRange", "32768:65535"),
            ("NATOutgoingAddress", "192.0.2.1"),
            ("NATOutgoingExclusions", "IPPoolsAndHostIPs"),
            ("AllowIPIPPacketsFromWorkloads", "true"),
            ("AllowVXLANPacketsFromWorkloads", "true"),
        ]);
        let (tunnels, warnings) = of_tunnels(&settings);
        assert!(warnings.is_empty(), "{warnings:?}");
        let expected = TunnelSettings {
            ipip: Tunnelling::On,
            ipip_mtu: Some(1440),
            vxlan: Tunnelling::Off,
            vxlan_port: 8472,
            vxlan_vni: Vni::try_from(1).unwrap(),
            vxlan_mtu: Some(1410),
            vxlan_mtu_v6: Some(1390),
            checksum_offload: Some(ChecksumOffload::Off),
        };
        assert_eq!(tunnels, expected);
        let expected = Outgoing {
            ports: Some((32_768, 65_535)),
            address: Some([192, 0, 2, 1].into()),
            exclusions: Exclusions::PoolsAndNodes,
        };
        assert_eq!(of_outgoing(&settings), expected);
        let allowed = TunnelsFromWorkloads {
            ipip: true,
            vxlan: true,
        };
        assert_eq!(of_workloads(&settings), allowed);
    }

    #[test]
    fn what_cannot_be_honoured_is_named_and_left_out() {
        for (stated, offload, named) in [
            ("ChecksumOffloadBroken=false", Some(ChecksumOffload::On), ""),
            ("ChecksumOffloadBroken=maybe", None, "ChecksumOffloadBroken=maybe"),
            ("ChecksumOffloadBroken=", None, "ChecksumOffloadBroken="),
            ("SNATFullyRandom=true", None, "SNATFullyRandom"),
            (
                "SNATFullyRandom=true,checksumoffloadbroken=true",
                Some(ChecksumOffload::Off),
                "SNATFullyRandom",
            ),
        ] {
            let (tunnels, warnings) = of_tunnels(&settings(&[("FeatureDetectOverride", stated)]));
            assert_eq!(tunnels.checksum_offload, offload, "{stated}");
            assert_eq!(warnings.is_empty(), named.is_empty(), "{warnings:?}");
            assert!(warnings.iter().all(|line| line.contains(named)), "{warnings:?}");
        }
        let (tunnels, warnings) = of_tunnels(&settings(&[("VXLANPort", "0")]));
        assert_eq!(tunnels.vxlan_port, DEFAULT_PORT);
        assert!(
            warnings.iter().any(|line| line.contains("VXLANPort")),
            "{warnings:?}"
        );
        for (range, ports) in [
            ("0", None),
            ("0:0", None),
            ("0:9", Some((1, 9))),
            ("7", Some((7, 7))),
        ] {
            let outgoing = of_outgoing(&settings(&[("NATPortRange", range)]));
            assert_eq!(outgoing.ports, ports, "{range}");
        }
    }
}
