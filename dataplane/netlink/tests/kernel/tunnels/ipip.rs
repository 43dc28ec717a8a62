//! The IPIP device, where the kernel has such: Debian's in the virtual machine suite has, others may not.

use dataplane_netlink::tunnels::ipip::{self, IPIP_DEVICE, IpipSpec};
use dataplane_netlink::tunnels::offload::{ChecksumOffload, DeviceSettings};
use dataplane_netlink::tunnels::{Ensured, TunnelError};
use dataplane_netlink::{Rtnetlink, links};

use crate::bed::{exchange, ip, iproute, name, nft, node_address, on_a_node, socket, socket_in};
use crate::tunnels::traffic::{NOTHING_IN_CLEAR, ping};
use crate::tunnels::{addresses_of, other_node, shown};

fn wanted(address: &str) -> IpipSpec {
    IpipSpec {
        name: name(IPIP_DEVICE),
        mtu: 1480,
        address: Some(address.parse().unwrap()),
    }
}

/// Makes the device; where the kernel has none, looks at what is said instead.
fn ensured(netlink: &mut Rtnetlink, spec: &IpipSpec) -> Option<Ensured> {
    match ipip::ensure(netlink, spec) {
        Ok(done) => {
            assert!(done.link.up && done.link.mtu == spec.mtu, "{done:?}");
            Some(done)
        }
        Err(error) => {
            assert!(
                matches!(error, TunnelError::NoModule { module: "ipip", .. }),
                "{error}"
            );
            assert!(error.to_string().contains("modprobe ipip"), "{error}");
            assert_eq!(links::find(netlink, &spec.name).unwrap(), None);
            // Where the kernel is known to have them, what is not seen must not look like what passed.
            assert!(std::env::var_os("MANX_NEEDS_IPIP").is_none(), "{error}");
            eprintln!("this kernel has no IPIP devices (CONFIG_NET_IPIP): only the error is seen here");
            None
        }
    }
}

#[test]
fn the_device_is_set_up_mended_and_released_or_the_module_is_named() {
    on_a_node(|| {
        let mut netlink = Rtnetlink::open().unwrap();
        let spec = wanted("10.65.1.1");
        if ensured(&mut netlink, &spec).is_none() {
            return;
        }
        assert!(shown(IPIP_DEVICE).contains("ipip "), "{}", shown(IPIP_DEVICE));
        assert_eq!(addresses_of(IPIP_DEVICE), ["10.65.1.1/32"]);
        let steps = |netlink: &mut Rtnetlink| ensured(netlink, &spec).map(|done| done.steps.len());
        assert_eq!(steps(&mut netlink), Some(0), "the second time");
        for tampering in [
            "link set tunl0 mtu 1300",
            "link set tunl0 down",
            "addr del 10.65.1.1/32 dev tunl0",
            "addr add 10.65.1.9/24 dev tunl0",
        ] {
            iproute(tampering);
            assert_eq!(steps(&mut netlink), Some(1), "{tampering}");
            assert_eq!(addresses_of(IPIP_DEVICE), ["10.65.1.1/32"], "{tampering}");
            assert_eq!(steps(&mut netlink), Some(0), "{tampering}");
        }
        let link = links::find(&mut netlink, &spec.name).unwrap().unwrap();
        let mut settings = DeviceSettings::open().unwrap();
        for state in [ChecksumOffload::Off, ChecksumOffload::On] {
            assert_eq!(settings.set_checksum_offload(&link, state).unwrap(), state);
        }
        assert!(ipip::release(&mut netlink, &spec.name).unwrap());
        assert_eq!(addresses_of(IPIP_DEVICE), Vec::<String>::new());
        assert!(!links::find(&mut netlink, &spec.name).unwrap().unwrap().up);
    });
}

#[test]
fn another_s_device_of_the_name_stays_as_it_is() {
    on_a_node(|| {
        let mut netlink = Rtnetlink::open().unwrap();
        // The kernel makes its own in each namespace, at the latest when it is asked for one: another name frees this one.
        let has_ipip = ensured(&mut netlink, &wanted("10.65.1.1")).is_some();
        if has_ipip {
            assert!(ipip::release(&mut netlink, &name(IPIP_DEVICE)).unwrap());
            iproute("link set tunl0 name kernels");
        }
        iproute("link add tunl0 type bridge");
        let before = shown(IPIP_DEVICE);
        let error = ipip::ensure(&mut netlink, &wanted("10.65.1.1")).unwrap_err();
        assert!(matches!(error, TunnelError::Foreign { .. }), "{error}");
        assert!(error.to_string().contains("type bridge"), "{error}");
        assert!(!ipip::release(&mut netlink, &name(IPIP_DEVICE)).unwrap());
        assert_eq!(shown(IPIP_DEVICE), before);
        iproute("link del tunl0");
        // And the kernel's own under another name takes all packets: the one wanted could not be.
        if has_ipip {
            let error = ipip::ensure(&mut netlink, &wanted("10.65.1.1")).unwrap_err();
            assert!(
                matches!(&error, TunnelError::Taken { holder, .. } if holder == "kernels"),
                "{error}"
            );
        }
    });
}

#[test]
fn pods_of_two_nodes_speak_through_it() {
    on_a_node(|| {
        let mut netlink = Rtnetlink::open().unwrap();
        if ensured(&mut netlink, &wanted("10.65.1.1")).is_none() {
            return;
        }
        let other = other_node();
        nft(NOTHING_IN_CLEAR);
        iproute("route add 10.65.2.0/26 via 192.0.2.2 dev tunl0 onlink");
        other
            .run(|| {
                nft(NOTHING_IN_CLEAR);
                ensured(&mut Rtnetlink::open().unwrap(), &wanted("10.65.2.1")).unwrap();
                iproute("route add 10.65.1.0/26 via 192.0.2.1 dev tunl0 onlink");
                node_address("10.65.2.5");
            })
            .unwrap();
        node_address("10.65.1.5");
        let (near, far) = (socket(ip("10.65.1.5")), socket_in(&other, ip("10.65.2.5")));
        exchange(&near, &far);
        exchange(&far, &near);
        assert!(ping("10.65.1.5", "10.65.2.5", 1480));
        assert!(!ping("10.65.1.5", "10.65.2.5", 1481));
    });
}
