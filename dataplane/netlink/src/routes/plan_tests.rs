//! Properties of the route plan, against a model of the kernel's table.

use proptest::prelude::*;

use super::*;
use crate::names::InterfaceName;
use crate::routes::observe::{DEFAULT_METRIC_V6, ObservedLink};

/// Interfaces of the model: two workloads, one of them down, an uplink, and a neighbour's bridge.
const LINKS: [(&str, u32, bool); 5] = [
    ("cali1", 11, true),
    ("cali2", 12, true),
    ("cali3", 13, false),
    ("eth0", 2, true),
    ("docker0", 3, true),
];

fn name(text: &str) -> InterfaceName {
    InterfaceName::new(text).unwrap()
}

fn net(number: u8) -> IpNet {
    if number.is_multiple_of(2) {
        format!("10.0.0.{number}/32").parse().unwrap()
    } else {
        format!("fd00::{number}/128").parse().unwrap()
    }
}

fn gateway(destination: IpNet, number: u8) -> IpAddr {
    match destination {
        IpNet::V4(_) => format!("192.0.2.{number}").parse().unwrap(),
        IpNet::V6(_) => format!("2001:db8::{number}").parse().unwrap(),
    }
}

/// Some routes to devices name a source, some none.
fn source(destination: IpNet, number: u8) -> Option<IpAddr> {
    (number > 1).then(|| gateway(destination, number))
}

fn target() -> impl Strategy<Value = (u8, u8, u8)> {
    (0u8..3, 0u8..5, 1u8..4)
}

fn wanted(destination: IpNet, (kind, link, number): (u8, u8, u8)) -> RouteTarget {
    let interface = name(LINKS[usize::from(link)].0);
    match kind {
        0 => RouteTarget::Device {
            interface,
            source: source(destination, number),
        },
        1 => RouteTarget::Gateway {
            gateway: gateway(destination, number),
            interface: Some(interface),
            reach: if number == 1 { Reach::OnLink } else { Reach::Routed },
        },
        _ => RouteTarget::Blackhole,
    }
}

fn metric(destination: IpNet) -> u32 {
    if destination.addr().is_ipv4() {
        0
    } else {
        DEFAULT_METRIC_V6
    }
}

fn seen(destination: IpNet, (kind, link, number): (u8, u8, u8), protocol: u8) -> ObservedRoute {
    let link = LINKS[usize::from(link)].1;
    let target = match kind {
        0 => ObservedTarget::Device {
            link,
            source: source(destination, number),
        },
        1 => ObservedTarget::Gateway {
            gateway: gateway(destination, number),
            link,
            reach: if number == 1 { Reach::OnLink } else { Reach::Routed },
        },
        _ => ObservedTarget::Blackhole,
    };
    ObservedRoute {
        destination,
        target,
        protocol,
        metric: metric(destination),
        tos: 0,
    }
}

/// Does to the model what the kernel would do; a key that is taken refuses an addition.
fn apply(observed: &mut ObservedRoutes, steps: &[RouteStep]) -> usize {
    let mut refused = 0;
    for step in steps {
        match step {
            RouteStep::Remove { route, .. } => {
                let place = observed.routes.iter().position(|seen| seen == route);
                observed
                    .routes
                    .remove(place.expect("a step removes what is not there"));
            }
            RouteStep::Add {
                destination,
                target,
                link,
                protocol,
                replaces,
            } => {
                if *replaces {
                    let has_key = |seen: &ObservedRoute| {
                        seen.destination == *destination && seen.tos == 0 && seen.has_default_metric()
                    };
                    let place = observed.routes.iter().position(has_key);
                    observed.routes.remove(place.expect("what is replaced is there"));
                }
                if observed
                    .routes
                    .iter()
                    .any(|seen| seen.destination == *destination)
                {
                    refused += 1;
                    continue;
                }
                let target = match target {
                    RouteTarget::Device { source, .. } => ObservedTarget::Device {
                        link: link.unwrap(),
                        source: *source,
                    },
                    RouteTarget::Gateway { gateway, reach, .. } => ObservedTarget::Gateway {
                        gateway: *gateway,
                        link: link.unwrap_or(2),
                        reach: *reach,
                    },
                    RouteTarget::Blackhole => ObservedTarget::Blackhole,
                };
                observed.routes.push(ObservedRoute {
                    destination: *destination,
                    target,
                    protocol: *protocol,
                    metric: metric(*destination),
                    tos: 0,
                });
            }
        }
    }
    refused
}

fn links() -> ObservedRoutes {
    let links = LINKS.iter().map(|(text, index, up)| {
        (
            name(text),
            ObservedLink {
                index: *index,
                up: *up,
            },
        )
    });
    ObservedRoutes {
        links: links.collect(),
        routes: Vec::new(),
    }
}

fn is_foreign(route: &ObservedRoute) -> bool {
    let interface = route
        .interface()
        .and_then(|index| LINKS.iter().find(|link| link.1 == index));
    match route.protocol {
        80 => false,
        3 => !interface.is_some_and(|link| link.0.starts_with("cali")),
        _ => true,
    }
}

proptest! {
    #[test]
    fn a_plan_reaches_what_is_wanted_touches_nothing_foreign_and_is_empty_the_second_time(
        desired in proptest::collection::btree_map(0u8..12, target(), 0..8),
        present in proptest::collection::btree_map(0u8..12, (target(), prop_oneof![Just(80u8), Just(3), Just(2), Just(4), Just(12)]), 0..8),
    ) {
        let ownership = RouteOwnership::default();
        let table: RouteTable =
            desired.iter().map(|(number, parts)| (net(*number), wanted(net(*number), *parts))).collect();
        let mut observed = links();
        observed.routes =
            present.iter().map(|(number, (parts, protocol))| seen(net(*number), *parts, *protocol)).collect();
        let foreign: Vec<ObservedRoute> = observed.routes.iter().copied().filter(is_foreign).collect();

        let steps = plan(&table, &observed, &ownership);
        let first_addition = steps.iter().position(|step| matches!(step, RouteStep::Add { .. }));
        let last_removal = steps.iter().rposition(|step| matches!(step, RouteStep::Remove { .. }));
        if let (Some(addition), Some(removal)) = (first_addition, last_removal) {
            prop_assert!(removal < addition, "removals come first");
        }
        let refused = apply(&mut observed, &steps);

        for route in &foreign {
            prop_assert!(observed.routes.contains(route), "a foreign route was touched: {route:?}");
        }
        let late = waiting(&table, &observed);
        let blocked =
            table.iter().filter(|(net, _)| foreign.iter().any(|route| route.destination == **net)).count();
        prop_assert!(refused <= blocked, "only a foreign route of the same key may refuse an addition");
        for (destination, target) in table.iter() {
            let in_the_way = foreign.iter().any(|route| route.destination == *destination);
            let there = observed.routes.iter().any(|route| {
                route.destination == *destination
                    && route.protocol == ownership.protocol(target)
                    && is_target(target, route, &observed)
            });
            prop_assert!(there || in_the_way || late.contains(destination), "{destination} {target}");
        }
        let ours = observed.routes.iter().filter(|route| !is_foreign(route)).count();
        prop_assert!(ours <= table.len(), "something of ours is left over");

        // Whatever was refused is tried again; nothing else is left to do.
        prop_assert_eq!(plan(&table, &observed, &ownership).len(), refused);
    }

    #[test]
    fn adding_what_is_missing_twice_changes_nothing_and_leaves_other_destinations_alone(
        desired in proptest::collection::btree_map(0u8..12, target(), 0..8),
        present in proptest::collection::btree_map(0u8..12, (target(), 0u8..100), 0..8),
    ) {
        let ownership = RouteOwnership::default();
        let table: RouteTable =
            desired.iter().map(|(number, parts)| (net(*number), wanted(net(*number), *parts))).collect();
        let mut observed = links();
        observed.routes =
            present.iter().map(|(number, (parts, protocol))| seen(net(*number), *parts, *protocol)).collect();
        let others: Vec<ObservedRoute> =
            observed.routes.iter().copied().filter(|route| table.get(&route.destination).is_none()).collect();
        let steps = missing(&table, &observed, &ownership);
        prop_assert_eq!(apply(&mut observed, &steps), 0);
        prop_assert_eq!(missing(&table, &observed, &ownership), vec![]);
        for route in others {
            prop_assert!(observed.routes.contains(&route));
        }
        let late = waiting(&table, &observed);
        for (destination, target) in table.iter() {
            let there = observed
                .routes
                .iter()
                .any(|route| route.destination == *destination && is_target(target, route, &observed));
            prop_assert!(there || late.contains(destination));
        }
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = crate::routes::read_body(&bytes);
    }
}

#[test]
fn a_device_route_comes_before_the_gateway_that_may_need_it() {
    let table: RouteTable = [
        (
            "0.0.0.0/0".parse().unwrap(),
            RouteTarget::Gateway {
                gateway: "169.254.1.1".parse().unwrap(),
                interface: Some(name("eth0")),
                reach: Reach::Routed,
            },
        ),
        (
            "169.254.1.1/32".parse().unwrap(),
            RouteTarget::Device {
                interface: name("eth0"),
                source: None,
            },
        ),
    ]
    .into_iter()
    .collect();
    let steps = plan(&table, &links(), &RouteOwnership::default());
    let texts: Vec<String> = steps.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "add route 169.254.1.1/32 dev eth0",
            "add route 0.0.0.0/0 via 169.254.1.1 dev eth0"
        ]
    );
}

#[test]
fn a_route_of_ours_with_another_rank_is_made_anew() {
    let destination = net(2);
    let table: RouteTable = [(
        destination,
        RouteTarget::Device {
            interface: name("cali1"),
            source: None,
        },
    )]
    .into_iter()
    .collect();
    let mut observed = links();
    observed.routes = vec![ObservedRoute {
        metric: 7,
        ..seen(destination, (0, 0, 1), 3)
    }];
    let steps = plan(&table, &observed, &RouteOwnership::default());
    assert!(
        matches!(
            steps.as_slice(),
            [RouteStep::Remove { .. }, RouteStep::Add { .. }]
        ),
        "{steps:?}"
    );
}
