//! Addresses that come after the interface: what was settled without them must not hold against them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is the failure itself"
)]

use dataplane::{Dataplane, DataplaneSettings};
use dataplane_api::{EndpointId, Update, WorkloadEndpoint};
use dataplane_netlink::links::{self, AdminState, LinkSpec, VethEnd};
use dataplane_netlink::{InterfaceName, NetworkNamespace, Rtnetlink};
use std::net::IpAddr;
use std::sync::Arc;

fn endpoint(addresses: &[&str]) -> Update {
    let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
    Update::Workload(Arc::new(WorkloadEndpoint {
        id: EndpointId {
            namespace: "ns".into(),
            name: "late".into(),
        },
        interface: "cali1".to_owned(),
        mac: None,
        addresses,
        spoofable: Vec::new(),
        ingress: Vec::new(),
        egress: Vec::new(),
        profiles: Vec::new(),
    }))
}

#[test]
fn an_interface_that_was_seen_before_its_addresses_gets_routes_of_both_families() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes network namespaces and has to run as root"
    );
    let node = NetworkNamespace::anonymous().unwrap();
    let pod = NetworkNamespace::anonymous().unwrap();
    node.run(|| {
        let mut dataplane = Dataplane::open(DataplaneSettings::default()).unwrap();
        dataplane.take(&[endpoint(&[]), Update::InSync]);
        dataplane.apply(0).unwrap();
        let name = |text| InterfaceName::new(text).unwrap();
        let end = |text| VethEnd {
            name: name(text),
            mac: None,
        };
        let mut netlink = Rtnetlink::open().unwrap();
        links::create_veth(&mut netlink, &end("cali1"), &end("eth0"), &pod, 1450).unwrap();
        let link = links::find(&mut netlink, &name("cali1")).unwrap().unwrap();
        let up = LinkSpec {
            mtu: None,
            mac: None,
            state: AdminState::Up,
        };
        links::execute(&mut netlink, &link, &links::plan(&up, &link)).unwrap();
        for (pass, addresses) in [vec![], vec!["10.65.0.5"], vec!["10.65.0.5", "fd00:65::5"]]
            .iter()
            .enumerate()
        {
            dataplane.take(&[endpoint(addresses)]);
            dataplane.take_events().unwrap();
            let report = dataplane.apply(pass as u64 + 1).unwrap();
            assert_eq!(report.faults, Vec::<String>::new(), "{addresses:?}");
        }
    })
    .unwrap();
}
