//! A clean-up in a network namespace: what is ours goes, and what looks like it stays.

use super::*;
use dataplane_netlink::NetworkNamespace;
use std::process::Command;

fn ip(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(output.status.success(), "ip {arguments}: {said}");
    said
}

/// Runs in a namespace of its own, in which these commands were carried out.
fn after<T: Send>(commands: &[&str], work: impl FnOnce() -> T + Send) -> T {
    let namespace = NetworkNamespace::anonymous().unwrap();
    let work = || {
        commands.iter().for_each(|command| drop(ip(command)));
        work()
    };
    namespace.run(work).unwrap()
}

fn links() -> String {
    ip("-o link")
}

const UPLINK: [&str; 3] = [
    "link add eth0 type veth peer name eth1",
    "addr add 192.0.2.1/24 dev eth0",
    "link set eth0 up",
];

#[test]
fn tunnels_of_ours_go_after_the_routes_and_a_second_time_there_is_nothing() {
    let commands = [
        &UPLINK[..],
        &[
            "link add vxlan.calico address 66:01:02:03:04:05 type vxlan id 4096 dstport 4789 local 192.0.2.1 nolearning",
            "link add vxlan-v6.calico address 66:01:02:03:04:06 type vxlan id 4096 dstport 4790 local fd00::1 nolearning",
            "link set vxlan.calico up",
            "addr add 10.1.0.1/32 dev vxlan.calico",
            "route add 10.1.1.0/26 via 10.1.1.0 dev vxlan.calico onlink proto 80",
            "link add flannel.1 type vxlan id 1 dstport 8472 local 192.0.2.1 nolearning",
            "route add 10.9.0.0/16 via 192.0.2.2 proto 4",
        ],
    ]
    .concat();
    let (done, again, links, routes) = after(&commands, || {
        (everything().unwrap(), everything().unwrap(), links(), ip("route"))
    });
    let expected = [
        "removed 1 routes",
        "removed the tunnel device vxlan.calico",
        "removed the tunnel device vxlan-v6.calico",
    ];
    assert_eq!(done, expected);
    assert_eq!(again, ["there was nothing of ours"]);
    assert!(
        !links.contains("calico") && links.contains(": flannel.1:"),
        "{links}"
    );
    assert!(routes.contains("10.9.0.0/16"), "{routes}");
}

#[test]
fn a_device_of_our_name_that_is_anothers_stays() {
    let commands = [
        &UPLINK[..],
        &["link add vxlan.calico type vxlan id 7 dstport 8472 remote 192.0.2.9 dev eth0"],
    ]
    .concat();
    let (done, links) = after(&commands, || (everything().unwrap(), links()));
    assert_eq!(done, ["there was nothing of ours"]);
    assert!(links.contains("vxlan.calico"), "{links}");
}

#[test]
fn settings_say_whose_a_device_is() {
    let device = "link add vxlan.calico type vxlan id 77 dstport 8472 local 192.0.2.1 nolearning";
    let commands = [&UPLINK[..], &[device]].concat();
    let mut settings = Settings::built_in();
    let of_usual = settings.clone();
    settings.vxlan_vni = 77;
    settings.vxlan_port = 8472;
    let mut policy_only = settings.clone();
    policy_only.route_sync_disabled = true;
    let done = after(&commands, || {
        [&of_usual, &policy_only, &settings].map(|settings| by(settings).unwrap().join(", "))
    });
    let nothing = "there was nothing of ours";
    assert_eq!(done, [nothing, nothing, "removed the tunnel device vxlan.calico"]);
}

/// The kernel makes the device where it has the module; without that there is nothing to look at.
#[test]
fn the_ipip_device_is_released_only_where_it_is_ours() {
    let namespace = NetworkNamespace::anonymous().unwrap();
    let outcome = namespace.run(|| {
        let made = Command::new("ip")
            .args(["link", "add", IPIP_DEVICE, "type", "ipip"])
            .output();
        let name = InterfaceName::new(IPIP_DEVICE).unwrap();
        let mut netlink = Rtnetlink::open().unwrap();
        if ipip::observe(&mut netlink, &name).unwrap().is_none() {
            eprintln!("skipped: no ipip devices in this kernel: {made:?}");
            return;
        }
        ip("link set tunl0 up");
        ip("addr add 10.1.0.1/32 dev tunl0");
        let has_address = || ip("-o addr show dev tunl0").contains("10.1.0.1/32");
        let marks = |address: Option<&str>| {
            let marks = Marks::of(&Settings::built_in(), RouteOwnership::default());
            marks.with_ipip_address(address.map(|address| address.parse().unwrap()))
        };
        for others in [None, Some("10.1.0.2")] {
            of_kernel(&ProgramSettings::default(), Some(&marks(others))).unwrap();
            assert!(has_address(), "it is somebody else's");
        }
        of_kernel(&ProgramSettings::default(), Some(&marks(Some("10.1.0.1")))).unwrap();
        assert!(!has_address());
        ip("link set tunl0 up");
        ip("addr add 10.1.0.1/32 dev tunl0");
        ip("route add 10.1.1.0/26 via 192.0.2.2 dev tunl0 onlink proto 80");
        everything().unwrap();
        assert!(!has_address());
    });
    outcome.unwrap();
}
