//! Routes to workloads: of addresses that come after the interface, and where the routing table is somebody else's.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is the failure itself"
)]

#[path = "support/mod.rs"]
mod support;

use dataplane::{Dataplane, DataplaneSettings};
use dataplane_api::{EndpointId, Update, WorkloadEndpoint};
use dataplane_netlink::links::{self, LinkSpec, VethEnd};
use dataplane_netlink::routes;
use dataplane_netlink::{InterfaceName, NetworkNamespace, Rtnetlink};
use std::net::IpAddr;
use std::sync::Arc;
use support::Backend;

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

fn settings(backend: &Backend) -> DataplaneSettings {
    DataplaneSettings {
        rules: backend.settings(),
        ..DataplaneSettings::default()
    }
}

/// Joins a pod to the node in whose namespace the caller is, at `cali1`.
fn connect(pod: &NetworkNamespace) {
    let name = |text| InterfaceName::new(text).unwrap();
    let end = |text| VethEnd {
        name: name(text),
        mac: None,
    };
    let mut netlink = Rtnetlink::open().unwrap();
    links::create_veth(&mut netlink, &end("cali1"), &end("eth0"), pod, 1450).unwrap();
    let link = links::find(&mut netlink, &name("cali1")).unwrap().unwrap();
    links::execute(&mut netlink, &link, &links::plan(&LinkSpec::UP, &link)).unwrap();
}

#[test]
fn an_interface_that_was_seen_before_its_addresses_gets_routes_of_both_families() {
    for backend in Backend::all() {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test makes network namespaces and has to run as root"
        );
        let node = NetworkNamespace::anonymous().unwrap();
        let pod = NetworkNamespace::anonymous().unwrap();
        node.run(|| {
            let mut dataplane = Dataplane::open(settings(&backend)).unwrap();
            dataplane.take(&[endpoint(&[]), Update::InSync]);
            dataplane.apply(0).unwrap();
            connect(&pod);
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
}

#[test]
fn a_routing_table_that_is_another_networks_is_left_alone() {
    for backend in Backend::all() {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test makes network namespaces and has to run as root"
        );
        for leaves_routes in [false, true] {
            let node = NetworkNamespace::anonymous().unwrap();
            let pod = NetworkNamespace::anonymous().unwrap();
            node.run(|| {
                let mut settings = settings(&backend);
                settings.workloads.leaves_routes = leaves_routes;
                let mut dataplane = Dataplane::open(settings).unwrap();
                connect(&pod);
                dataplane.take(&[endpoint(&["10.65.0.5"]), Update::InSync]);
                dataplane.take_events().unwrap();
                let report = dataplane.apply(0).unwrap();
                assert_eq!(report.faults, Vec::<String>::new());
                let mut netlink = Rtnetlink::open().unwrap();
                let link = links::find(&mut netlink, &InterfaceName::new("cali1").unwrap())
                    .unwrap()
                    .unwrap();
                let to_it = routes::observe_all(&mut netlink)
                    .unwrap()
                    .routes
                    .iter()
                    .any(|route| {
                        route.interface() == Some(link.index)
                            && route.destination == "10.65.0.5/32".parse().unwrap()
                    });
                assert_eq!(to_it, !leaves_routes);
            })
            .unwrap();
        }
    }
}
