//! What is decided about tunnels' addresses, case by case.

use super::*;
use policy_model::{AllocationAttribute, IpamBlockSpec};
use policy_model_ipam::reservation::Reservations;

fn pool(name: &str, cidr: &str, change: impl FnOnce(&mut IpPoolSpec)) -> Object<IpPoolSpec> {
    let mut spec = IpPoolSpec::of(cidr.parse().unwrap());
    change(&mut spec);
    Object::named(name, spec)
}

fn ipip(mode: EncapsulationMode) -> impl Fn(&mut IpPoolSpec) {
    move |spec| spec.ipip_mode = mode
}

fn target(address: &str) -> Target {
    Target {
        address: address.parse().unwrap(),
        guard: Guard {
            handle: Some("ipip-tunnel-addr-a".into()),
            sequence: Some(1),
        },
    }
}

fn labels(rack: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("rack".to_owned(), rack.to_owned())])
}

/// The plan for a node of rack `a`.
fn plan_of(tunnel: Tunnel, held: &[&str], pools: &[Object<IpPoolSpec>]) -> Plan {
    let held: Vec<Target> = held.iter().map(|address| target(address)).collect();
    plan(tunnel, &held, &demand(tunnel, pools, &labels("a")))
}

fn take(pools: &[&str], held: usize) -> Option<Step> {
    let pools = pools.iter().map(|name| PoolRef::Name((*name).to_owned()));
    Some(Step::Take {
        pools: pools.collect(),
        held,
    })
}

fn release(addresses: &[&str]) -> Option<Step> {
    Some(Step::Release(
        addresses.iter().map(|address| target(address)).collect(),
    ))
}

#[test]
fn an_address_is_taken_from_the_pools_whose_traffic_is_wrapped_on_this_node() {
    let pools = [
        pool("plain", "10.0.0.0/24", |_| ()),
        pool("always", "10.0.1.0/24", ipip(EncapsulationMode::Always)),
        pool("sometimes", "10.0.2.0/24", ipip(EncapsulationMode::CrossSubnet)),
        pool("off", "10.0.3.0/24", |spec| {
            spec.ipip_mode = EncapsulationMode::Always;
            spec.disabled = true;
        }),
        pool("elsewhere", "10.0.4.0/24", |spec| {
            spec.ipip_mode = EncapsulationMode::Always;
            spec.node_selector = "rack == 'b'".into();
        }),
        pool("here", "10.0.5.0/24", |spec| {
            spec.ipip_mode = EncapsulationMode::Always;
            spec.node_selector = "rack == 'a'".into();
        }),
        pool("workloads", "10.0.6.0/24", |spec| {
            spec.ipip_mode = EncapsulationMode::Always;
            spec.allowed_uses = vec!["Workload".into()];
        }),
        // For pods these two are only where they are asked for, or for some namespaces.
        pool("manual", "10.0.7.0/24", |spec| {
            spec.ipip_mode = EncapsulationMode::Always;
            spec.assignment_mode = Some("Manual".into());
        }),
        pool("team", "10.0.8.0/24", |spec| {
            spec.ipip_mode = EncapsulationMode::Always;
            spec.namespace_selector = "team == 'shop'".into();
        }),
        pool("vxlan", "10.0.9.0/24", |spec| {
            spec.vxlan_mode = EncapsulationMode::Always;
        }),
        pool("six", "fd00::/64", |spec| {
            spec.vxlan_mode = EncapsulationMode::CrossSubnet;
        }),
        // Nobody can wrap IPv6 in IPIP.
        pool("odd", "fd01::/64", ipip(EncapsulationMode::Always)),
    ];
    let sources = ["always", "sometimes", "here", "manual", "team"];
    assert_eq!(plan_of(Tunnel::Ipip, &[], &pools).step, take(&sources, 0));
    assert_eq!(plan_of(Tunnel::VxlanV4, &[], &pools).step, take(&["vxlan"], 0));
    assert_eq!(plan_of(Tunnel::VxlanV6, &[], &pools).step, take(&["six"], 0));
}

#[test]
fn a_new_address_comes_before_the_old_one_goes() {
    let pools = [pool("new", "10.0.1.0/24", ipip(EncapsulationMode::Always))];
    let before = plan_of(Tunnel::Ipip, &["10.0.0.7"], &pools);
    assert_eq!(before.step, take(&["new"], 1));
    assert_eq!(before.address, Some("10.0.0.7".parse().unwrap()));
    let between = plan_of(Tunnel::Ipip, &["10.0.0.7", "10.0.1.9"], &pools);
    assert_eq!(between.step, release(&["10.0.0.7"]));
    assert_eq!(between.address, Some("10.0.1.9".parse().unwrap()));
    let after = plan_of(Tunnel::Ipip, &["10.0.1.9"], &pools);
    assert_eq!(after.step, None);
    assert_eq!(after.address, between.address);
}

#[test]
fn of_several_right_ones_one_is_kept_always_the_same() {
    let pools = [pool("p", "10.0.0.0/16", ipip(EncapsulationMode::Always))];
    let plan = plan_of(Tunnel::Ipip, &["10.0.0.7", "10.0.1.9"], &pools);
    assert_eq!(plan.step, release(&["10.0.1.9"]));
    assert_eq!(plan.address, Some("10.0.0.7".parse().unwrap()));
}

#[test]
fn what_no_pool_asks_for_is_given_back() {
    for pools in [
        vec![],
        vec![pool("p", "10.0.0.0/24", |_| ())],
        vec![pool("p", "10.0.0.0/24", |spec| {
            spec.ipip_mode = EncapsulationMode::Always;
            spec.node_selector = "rack == 'b'".into();
        })],
    ] {
        let with = plan_of(Tunnel::Ipip, &["10.0.0.7"], &pools);
        assert_eq!((with.step, with.address), (release(&["10.0.0.7"]), None));
        assert_eq!(plan_of(Tunnel::Ipip, &[], &pools), Plan::default());
    }
}

#[test]
fn what_is_of_a_pool_that_is_switched_off_stays_until_another_gives_one() {
    let off = pool("off", "10.0.0.0/24", |spec| {
        spec.ipip_mode = EncapsulationMode::Always;
        spec.disabled = true;
    });
    let pools = [off.clone()];
    let plan = plan_of(Tunnel::Ipip, &["10.0.0.7", "10.0.9.7"], &pools);
    assert_eq!((plan.step, plan.lack), (release(&["10.0.9.7"]), None));
    assert_eq!(plan.address, Some("10.0.0.7".parse().unwrap()));
    // It gives none.
    assert_eq!(plan_of(Tunnel::Ipip, &[], &pools), Plan::default());
    let pools = [off, pool("on", "10.0.1.0/24", ipip(EncapsulationMode::Always))];
    let plan = plan_of(Tunnel::Ipip, &["10.0.0.7"], &pools);
    assert!(matches!(plan.step, Some(Step::Take { .. })), "{plan:?}");
    assert_eq!(plan.address, Some("10.0.0.7".parse().unwrap()));
}

#[test]
fn where_no_pool_may_give_another_what_is_held_stays_and_it_is_said() {
    let broken: [fn(&mut IpPoolSpec); 3] = [
        |spec| spec.allowed_uses = vec!["Workload".into()],
        |spec| spec.node_selector = "rack ==".into(),
        |spec| spec.block_size = Some(8),
    ];
    for change in broken {
        let pools = [pool("p", "10.0.0.0/24", |spec| {
            spec.ipip_mode = EncapsulationMode::Always;
            change(spec);
        })];
        let plan = plan_of(Tunnel::Ipip, &["10.0.0.7"], &pools);
        assert_eq!(plan.step, None);
        assert_eq!(plan.address, Some("10.0.0.7".parse().unwrap()));
        let lack = plan.lack.unwrap();
        assert!(
            lack.contains("pool p ") && lack.contains("IPIP") && lack.contains("allowedUses"),
            "{lack}"
        );
    }
}

#[test]
fn what_is_held_is_read_from_the_blocks_by_its_handle() {
    let mut spec = block::new("10.0.0.0/28".parse().unwrap(), Some("a"), false, 1)
        .unwrap()
        .spec;
    let mut give = |attribute: &AllocationAttribute| {
        block::assign_next(&mut spec, 1, attribute, &Reservations::default())[0]
    };
    let own = give(&Tunnel::Ipip.attribute("a"));
    give(&Tunnel::VxlanV4.attribute("a"));
    give(&Tunnel::Ipip.attribute("b"));
    let again = give(&Tunnel::Ipip.attribute("a"));
    let blocks: [&IpamBlockSpec; 1] = [&spec];
    let held = held(&Tunnel::Ipip.handle("a"), blocks);
    let addresses: Vec<IpAddr> = held.iter().map(|target| target.address).collect();
    assert_eq!(addresses, [own, again]);
    // What is given back is this allocation and no later one of the same address.
    assert!(held.iter().all(|target| target.guard.sequence.is_some()));
    assert_ne!(held[0].guard.sequence, held[1].guard.sequence);
}

#[test]
fn handles_and_attributes_are_calicos() {
    let said = Tunnel::ALL.map(|tunnel| {
        let attribute = tunnel.attribute("n1");
        let of_type = attribute.secondary.get(handle::ATTRIBUTE_TYPE).cloned().unwrap();
        assert_eq!(attribute.secondary.get(handle::ATTRIBUTE_NODE).unwrap(), "n1");
        (attribute.handle_id.unwrap(), of_type)
    });
    let expected = [
        ("ipip-tunnel-addr-n1", "ipipTunnelAddress"),
        ("vxlan-tunnel-addr-n1", "vxlanTunnelAddress"),
        ("vxlan-v6-tunnel-addr-n1", "vxlanV6TunnelAddress"),
    ];
    assert_eq!(
        said,
        expected.map(|(handle, of_type)| (handle.to_owned(), of_type.to_owned()))
    );
}
