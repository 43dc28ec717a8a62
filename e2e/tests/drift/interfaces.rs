//! Routes, neighbours and settings of workloads' interfaces.

use crate::{PATIENCE, PODS, ask, policy_holds, resources, world};
use e2e::bed::{ip, wait_for, within};
use e2e::rules::Rules;
use e2e::world::{PodSpec, World};

/// What the routing side holds for the pods.
fn routing() -> Vec<String> {
    let mut seen = Vec::new();
    for family in ["-4", "-6"] {
        let routes = ip(&format!("{family} route show table main"));
        let mut routes: Vec<String> = routes
            .lines()
            .filter(|l| l.contains("cali") && !l.starts_with("fe80"))
            .map(|l| l.replace("linkdown", "").trim().to_string())
            .collect();
        routes.sort();
        seen.extend(routes);
    }
    seen
}

fn sysctls() -> Vec<String> {
    let read = |path: String| format!("{path}={}", std::fs::read_to_string(&path).unwrap().trim());
    let mut seen = Vec::new();
    for n in 1..=3 {
        for setting in ["proxy_arp", "route_localnet", "rp_filter", "forwarding"] {
            seen.push(read(format!("/proc/sys/net/ipv4/conf/cali{n}/{setting}")));
        }
        for setting in ["proxy_ndp", "accept_ra", "forwarding", "disable_ipv6"] {
            seen.push(read(format!("/proc/sys/net/ipv6/conf/cali{n}/{setting}")));
        }
    }
    seen
}

/// Looks at the events until something is so.
fn until(world: &World, what: &str, mut so: impl FnMut() -> bool + Send) {
    wait_for(what, PATIENCE, || {
        world.engine.run(|core| core.mend());
        within(&world.node, &mut so).then_some(())
    });
}

#[test]
fn routes_of_pods_that_others_removed_or_changed_come_back() {
    let mut world = world(Rules::first());
    let before = within(&world.node, routing);
    assert!(before.len() >= 6, "{before:?}");
    for commands in [
        vec!["route del 10.1.0.2"],
        vec!["-6 route del fd00:1::2"],
        vec!["route replace blackhole 10.1.0.2 proto 80", "route del 10.1.0.3"],
        vec!["route add 10.1.0.99 dev cali1 proto boot scope link"],
        vec!["-6 route add fd00:1::99 dev cali1 proto boot"],
        vec!["link set cali2 down", "link set cali2 up"],
        vec!["route flush dev cali2"],
        vec!["-4 neigh flush all", "-6 neigh flush all"],
    ] {
        within(&world.node, || commands.iter().for_each(|c| drop(ip(c))));
        let what = format!("the repair after {commands:?}");
        until(&world, &what, || routing() == before);
        // The kernel notices in the background that an interface came up, and drops what is sent until then.
        wait_for(&what, PATIENCE, || {
            ask(&mut world, &[("10.1.0.2", "10.1.0.3", 9)])[0].then_some(())
        });
        policy_holds(&mut world, &what);
    }
}

#[test]
fn settings_of_interfaces_are_as_before_after_everything_is_compared() {
    let mut world = world(Rules::first());
    let before = within(&world.node, sysctls);
    within(&world.node, || {
        for (file, value) in [
            ("ipv4/conf/cali1/proxy_arp", "0"),
            ("ipv4/conf/cali2/rp_filter", "0"),
            ("ipv4/conf/cali3/forwarding", "0"),
            ("ipv6/conf/cali1/proxy_ndp", "0"),
            ("ipv6/conf/cali2/accept_ra", "2"),
        ] {
            std::fs::write(format!("/proc/sys/net/{file}"), value).unwrap();
        }
        assert_ne!(sysctls(), before);
        ip("-4 neigh del 10.1.0.2 dev cali2");
        ip("-6 neigh del fd00:1::2 dev cali2");
    });
    world.engine.run(|core| {
        core.dataplane.resync().unwrap();
        core.apply();
    });
    assert_eq!(within(&world.node, sysctls), before);
    policy_holds(&mut world, "after the comparison");
}

#[test]
fn an_interface_that_went_down_and_up_or_was_made_anew_works_again() {
    let mut world = world(Rules::first());
    let (routes, settings) = (within(&world.node, routing), within(&world.node, sysctls));
    within(&world.node, || ip("link set cali3 down"));
    until(&world, "the route goes with the interface", || {
        routing().len() == routes.len() - 2
    });
    within(&world.node, || ip("link set cali3 up"));
    until(&world, "the interface is as before", || {
        routing() == routes && sysctls() == settings
    });
    wait_for("the pod speaks again", PATIENCE, || {
        ask(&mut world, &[("10.1.0.3", "10.1.0.1", 9)])[0].then_some(())
    });
    policy_holds(&mut world, "with an interface that was down");
    world.disconnect_last();
    until(&world, "the route goes with the interface", || {
        routing().len() == routes.len() - 2
    });
    world.connect(&PodSpec::new(PODS[2].0, PODS[2].1));
    world.silence();
    world.program(&resources(&world));
    until(&world, "the new interface is as the old one", || {
        routing() == routes && sysctls() == settings
    });
    policy_holds(&mut world, "with a new interface");
}
