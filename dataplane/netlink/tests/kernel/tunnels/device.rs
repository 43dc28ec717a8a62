//! The VXLAN device: made, mended, made anew, refused and removed; and what else is asked of any device.

use dataplane_netlink::tunnels::carrier::{self, Way};
use dataplane_netlink::tunnels::offload::{ChecksumOffload, DeviceSettings};
use dataplane_netlink::tunnels::vxlan::{self, Difference, VxlanSpec};
use dataplane_netlink::tunnels::{TunnelError, TunnelStep};
use dataplane_netlink::{Rtnetlink, links};

use crate::bed::{ip, iproute, name, node_address, on_a_node};
use crate::tunnels::{addresses_of, other_node, shown, vxlan as wanted};

fn ensured(netlink: &mut Rtnetlink, spec: &VxlanSpec) -> Vec<String> {
    let done = vxlan::ensure(netlink, spec).unwrap();
    assert!(done.link.up && done.link.mtu == spec.mtu && done.link.mac == Some(spec.identity.mac));
    done.steps.iter().map(ToString::to_string).collect()
}

/// Whether `ip` shows the device as ours are made.
fn assert_made(spec: &VxlanSpec) {
    let device = spec.identity.name.as_str();
    let shown = shown(device);
    let local = format!(" local {} ", spec.local);
    let (mtu, mac) = (format!(" mtu {} ", spec.mtu), spec.identity.mac.to_string());
    for part in [
        "vxlan id 4096 ",
        &local,
        " dstport 4789 ",
        " nolearning ",
        &mtu,
        &mac,
        ",UP,",
    ] {
        assert!(shown.contains(part), "no {part:?} in {shown}");
    }
    assert!(!shown.contains(" master "), "{shown}");
    let prefix = if spec.local.is_ipv4() { 32 } else { 128 };
    let wanted: Vec<String> = spec
        .address
        .iter()
        .map(|address| format!("{address}/{prefix}"))
        .collect();
    assert_eq!(addresses_of(device), wanted);
}

#[test]
fn a_device_of_either_family_is_made_once_and_goes_again() {
    on_a_node(|| {
        let _other = other_node();
        let mut netlink = Rtnetlink::open().unwrap();
        for spec in [
            wanted("node-1", "192.0.2.1", "10.65.1.1"),
            wanted("node-1", "2001:db8::1", "fd00:65:1::1"),
        ] {
            assert!(
                !vxlan::remove(&mut netlink, &spec.identity).unwrap(),
                "nothing is there"
            );
            let steps = ensured(&mut netlink, &spec);
            assert_eq!(steps.first().map(String::as_str), Some("make it, type vxlan"));
            assert_made(&spec);
            assert_eq!(
                ensured(&mut netlink, &spec),
                Vec::<String>::new(),
                "the second time"
            );
            assert!(vxlan::remove(&mut netlink, &spec.identity).unwrap());
            assert_eq!(links::find(&mut netlink, &spec.identity.name).unwrap(), None);
        }
    });
}

#[test]
fn what_somebody_changed_is_mended_where_it_stands() {
    on_a_node(|| {
        let _other = other_node();
        let mut netlink = Rtnetlink::open().unwrap();
        iproute("link add br0 type bridge");
        for (spec, addresses) in [
            (
                wanted("node-1", "192.0.2.1", "10.65.1.1"),
                ["10.65.1.1/32", "10.65.1.77/24"],
            ),
            (
                wanted("node-1", "2001:db8::1", "fd00:65:1::1"),
                ["fd00:65:1::1/128", "fd00:65:1::77/64 nodad"],
            ),
        ] {
            ensured(&mut netlink, &spec);
            let device = spec.identity.name.as_str();
            let index = links::find(&mut netlink, &spec.identity.name)
                .unwrap()
                .unwrap()
                .index;
            let [own, others] = addresses;
            let local = if spec.local.is_ipv4() {
                "192.0.2.9"
            } else {
                "2001:db8::9"
            };
            for (tampering, mended) in [
                (format!("link set {device} mtu 1400"), format!("mtu {}", spec.mtu)),
                (
                    format!("link set {device} address 66:00:00:00:00:01"),
                    format!("address {}", spec.identity.mac),
                ),
                (format!("link set {device} down"), "up".to_owned()),
                (
                    format!("addr del {own} dev {device}"),
                    format!("add address {own}"),
                ),
                (
                    format!("addr add {others} dev {device}"),
                    format!("remove address {}", others.trim_end_matches(" nodad")),
                ),
                (
                    format!("link set {device} type vxlan id 4096 local {local}"),
                    format!("local {}", spec.local),
                ),
                (
                    format!("link set {device} type vxlan id 4096 learning"),
                    "nolearning".to_owned(),
                ),
                (
                    format!("link set {device} master br0"),
                    "take it out of its bridge".to_owned(),
                ),
            ] {
                iproute(&tampering);
                let steps = ensured(&mut netlink, &spec);
                assert!(steps.contains(&mended), "{tampering}: {steps:?}");
                assert_made(&spec);
                assert_eq!(ensured(&mut netlink, &spec), Vec::<String>::new(), "{tampering}");
            }
            let after = links::find(&mut netlink, &spec.identity.name).unwrap().unwrap();
            assert_eq!(after.index, index, "it was the same device all the time");
        }
        // An address that is good for the link alone would not be answered by the other nodes.
        let spec = wanted("node-1", "192.0.2.1", "10.65.1.1");
        iproute("addr del 10.65.1.1/32 dev vxlan.calico");
        iproute("addr add 10.65.1.1/32 dev vxlan.calico scope link");
        ensured(&mut netlink, &spec);
        assert_made(&spec);
        // The node has another address, and no address in the tunnel any more.
        let moved = VxlanSpec {
            local: ip("192.0.2.3"),
            address: None,
            ..spec
        };
        assert_eq!(
            ensured(&mut netlink, &moved),
            ["local 192.0.2.3", "remove address 10.65.1.1/32"]
        );
        assert_made(&moved);
    });
}

#[test]
fn ours_that_cannot_be_changed_is_made_anew() {
    on_a_node(|| {
        let _other = other_node();
        let mut netlink = Rtnetlink::open().unwrap();
        let spec = wanted("node-1", "192.0.2.1", "10.65.1.1");
        let mac = spec.identity.mac;
        for (options, difference) in [
            (
                "id 77 dstport 4789 local 192.0.2.1 nolearning",
                Difference::Vni(77),
            ),
            (
                "id 4096 dstport 8472 local 192.0.2.1 nolearning",
                Difference::Port(8472),
            ),
            (
                "id 4096 dstport 4789 group 239.1.1.1 dev eth0",
                Difference::Remote,
            ),
            ("id 4096 dstport 4789 local 2001:db8::1", Difference::Family),
            (
                "id 4096 dstport 4789 local 192.0.2.1 dev eth0",
                Difference::Carrier,
            ),
            (
                "id 4096 dstport 4789 local 192.0.2.1 proxy",
                Difference::Exotic("proxy"),
            ),
            (
                "id 4096 dstport 4789 local 192.0.2.1 gbp",
                Difference::Exotic("gbp"),
            ),
        ] {
            iproute(&format!(
                "link add vxlan.calico address {mac} type vxlan {options}"
            ));
            let done = vxlan::ensure(&mut netlink, &spec).unwrap();
            assert_eq!(
                done.steps.first(),
                Some(&TunnelStep::Rebuild(difference)),
                "{options}"
            );
            assert_made(&spec);
            assert_eq!(ensured(&mut netlink, &spec), Vec::<String>::new(), "{options}");
            iproute("link del vxlan.calico");
        }
        // One that is carried by a device is had as well, and goes with it.
        let eth0 = links::find(&mut netlink, &name("eth0")).unwrap().unwrap().index;
        let bound = VxlanSpec {
            carrier: Some(eth0),
            ..spec
        };
        ensured(&mut netlink, &bound);
        assert!(
            shown("vxlan.calico").contains(" dev eth0 "),
            "{}",
            shown("vxlan.calico")
        );
        assert_eq!(ensured(&mut netlink, &bound), Vec::<String>::new());
    });
}

#[test]
fn another_s_device_stays_as_it_is_and_is_named() {
    on_a_node(|| {
        let mut netlink = Rtnetlink::open().unwrap();
        let spec = wanted("node-1", "192.0.2.1", "10.65.1.1");
        for (options, reason) in [
            ("type bridge", "type bridge"),
            ("type vxlan id 4096 dstport 4789", "learns"),
            ("type vxlan id 9 dstport 4789 nolearning", "network 9"),
            ("type vxlan external dstport 4789", "option external"),
        ] {
            iproute(&format!(
                "link add vxlan.calico address ae:01:02:03:04:05 {options}"
            ));
            let before = shown("vxlan.calico");
            let error = vxlan::ensure(&mut netlink, &spec).unwrap_err();
            assert!(matches!(error, TunnelError::Foreign { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains("vxlan.calico") && text.contains(reason), "{text}");
            assert!(!vxlan::remove(&mut netlink, &spec.identity).unwrap());
            assert_eq!(shown("vxlan.calico"), before);
            iproute("link del vxlan.calico");
        }
        // Flannel's device by our number: the kernel takes only one.
        iproute("link add flannel.1 type vxlan id 4096 dstport 4789 local 192.0.2.1 nolearning");
        let error = vxlan::ensure(&mut netlink, &spec).unwrap_err();
        assert!(
            matches!(&error, TunnelError::Taken { holder, .. } if holder == "flannel.1"),
            "{error}"
        );
        assert!(error.to_string().contains("4096"), "{error}");
        iproute("link show flannel.1");
    });
}

#[test]
fn who_computes_checksums_is_read_and_set_for_one_device() {
    on_a_node(|| {
        let mut netlink = Rtnetlink::open().unwrap();
        let spec = wanted("node-1", "192.0.2.1", "10.65.1.1");
        let device = vxlan::ensure(&mut netlink, &spec).unwrap().link;
        iproute("link add v0 type veth peer v1");
        let veth = links::find(&mut netlink, &name("v0")).unwrap().unwrap();
        let mut settings = DeviceSettings::open().unwrap();
        for state in [
            ChecksumOffload::On,
            ChecksumOffload::Off,
            ChecksumOffload::Off,
            ChecksumOffload::On,
        ] {
            assert_eq!(settings.set_checksum_offload(&device, state).unwrap(), state);
            // A second socket: it is the kernel's state and not this one's memory.
            let mut second = DeviceSettings::open().unwrap();
            assert_eq!(second.checksum_offload(&device).unwrap(), state);
            assert_eq!(second.checksum_offload(&veth).unwrap(), ChecksumOffload::On);
        }
        settings
            .set_checksum_offload(&device, ChecksumOffload::Off)
            .unwrap();
        assert_eq!(ensured(&mut netlink, &spec), Vec::<String>::new());
        assert_eq!(settings.checksum_offload(&device).unwrap(), ChecksumOffload::Off);
        links::delete(&mut netlink, &device).unwrap();
        let error = settings.checksum_offload(&device).unwrap_err();
        assert!(
            error.is_absent() && error.to_string().contains("vxlan.calico"),
            "{error}"
        );
        let anew = vxlan::ensure(&mut netlink, &spec).unwrap().link;
        assert_eq!(
            settings.checksum_offload(&anew).unwrap(),
            ChecksumOffload::On,
            "a new device has the kernel's default: set it after each making"
        );
    });
}

#[test]
fn the_way_to_an_address_is_the_kernels() {
    on_a_node(|| {
        let _other = other_node();
        let mut netlink = Rtnetlink::open().unwrap();
        let eth0 = links::find(&mut netlink, &name("eth0")).unwrap().unwrap();
        let way = |netlink: &mut Rtnetlink, address: &str| carrier::way_to(netlink, ip(address)).unwrap();
        for command in [
            "route add 198.51.100.0/24 via 192.0.2.2 mtu 1400",
            "route add unreachable 198.51.101.0/24",
            "route add blackhole 198.51.102.0/24",
            "-6 route add 2001:db8:1::/64 via 2001:db8::2 src 2001:db8::1",
        ] {
            iproute(command);
        }
        let Way::Out(direct) = way(&mut netlink, "192.0.2.2") else {
            panic!("{:?}", way(&mut netlink, "192.0.2.2"));
        };
        assert_eq!(
            (direct.link, direct.gateway, direct.mtu),
            (eth0.index, None, None)
        );
        assert_eq!(direct.source, Some(ip("192.0.2.1")));
        let Way::Out(behind) = way(&mut netlink, "198.51.100.7") else {
            panic!("{:?}", way(&mut netlink, "198.51.100.7"));
        };
        assert_eq!(
            (behind.link, behind.gateway, behind.mtu),
            (eth0.index, Some(ip("192.0.2.2")), Some(1400))
        );
        let Way::Out(six) = way(&mut netlink, "2001:db8:1::7") else {
            panic!("{:?}", way(&mut netlink, "2001:db8:1::7"));
        };
        assert_eq!((six.link, six.gateway), (eth0.index, Some(ip("2001:db8::2"))));
        assert_eq!(six.source, Some(ip("2001:db8::1")));
        for nowhere in ["198.51.101.1", "198.51.102.1", "203.0.113.1", "2001:db8:9::1"] {
            assert_eq!(way(&mut netlink, nowhere), Way::Nowhere, "{nowhere}");
        }
        assert_eq!(way(&mut netlink, "192.0.2.1"), Way::Here);
        let device = |netlink: &mut Rtnetlink, address: &str| {
            let found = carrier::device_of(netlink, ip(address)).unwrap();
            found.map(|link| link.name.to_string())
        };
        assert_eq!(device(&mut netlink, "192.0.2.1").as_deref(), Some("eth0"));
        assert_eq!(device(&mut netlink, "2001:db8::1").as_deref(), Some("eth0"));
        assert_eq!(device(&mut netlink, "192.0.2.2"), None);
        node_address("203.0.113.9");
        assert_eq!(device(&mut netlink, "203.0.113.9").as_deref(), Some("lo"));
    });
}
