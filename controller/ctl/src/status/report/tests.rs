//! What a report says of whole states of a cluster.

use super::*;
use crate::cluster::agents::Condition;
use crate::cluster::local::Page;
use crate::status::text;
use policy_model::{AllocationAttribute, IpPoolSpec, Object};
use policy_model_ipam::block as blocks_of;
use std::sync::Arc;

type Change = fn(&mut Facts);

fn pod(component: Component, name: &str, node: &str) -> ComponentPod {
    ComponentPod {
        component,
        namespace: "manx".to_owned(),
        name: name.to_owned(),
        node: node.to_owned(),
        ready: true,
        restarts: 0,
        why: None,
        connects: component == Component::Agent,
    }
}

fn node(name: &str, address: &str) -> NodeState {
    let says = |holds| Condition {
        holds: Some(holds),
        why: String::new(),
    };
    NodeState {
        name: name.to_owned(),
        ready: says(true),
        network_unavailable: says(false),
        addresses: vec![address.parse().unwrap()],
    }
}

/// A cluster of two nodes in which everything is in force.
fn facts() -> Facts {
    let pool = Object::named(
        "default-ipv4-ippool",
        IpPoolSpec::of("10.65.0.0/24".parse().unwrap()),
    );
    let mut block = blocks_of::new("10.65.0.64/26".parse().unwrap(), Some("n1"), false, 1).unwrap();
    let held = AllocationAttribute::default();
    blocks_of::assign(&mut block.spec, "10.65.0.64".parse().unwrap(), &held).unwrap();
    let tier = |name: &str, order| {
        let mut tier = Object::named(name, policy_model::TierSpec::default());
        tier.spec.order = order;
        Arc::new(Resource::from(tier))
    };
    let policy = |name: &str| {
        let mut policy = Object::named(name, policy_model::NetworkPolicySpec::default());
        policy.metadata.namespace = "shop".to_owned();
        Arc::new(Resource::from(policy))
    };
    let objects = [
        (Kind::Tier, vec![tier("default", None), tier("early", Some(10.0))]),
        (Kind::IPPool, vec![Arc::new(Resource::from(pool))]),
        (Kind::IPAMBlock, vec![Arc::new(Resource::from(block))]),
        (
            Kind::NetworkPolicy,
            vec![policy("knp.default.a"), policy("knp.default.b"), policy("own")],
        ),
        (Kind::GlobalNetworkPolicy, vec![]),
    ];
    Facts {
        server: "https://192.0.2.10:6443".to_owned(),
        version: Ok("v1.35.4".to_owned()),
        owner: Ok(()),
        undefined: Ok(Vec::new()),
        objects: objects
            .into_iter()
            .map(|(kind, found)| (kind, Ok(found)))
            .collect(),
        faults: Vec::new(),
        nodes: Ok(vec![node("n1", "192.0.2.1"), node("n2", "192.0.2.2")]),
        pods: Ok(vec![
            pod(Component::Agent, "manx-node-a", "n1"),
            pod(Component::Agent, "manx-node-b", "n2"),
            pod(Component::Controller, "manx-controller-x", "n1"),
        ]),
        lease: Ok(Some(Lease {
            namespace: "manx".to_owned(),
            holder: "manx-controller-x".to_owned(),
            age: Some(2),
            duration: 15,
        })),
        local: None,
    }
}

fn agents(facts: &mut Facts) -> &mut Vec<ComponentPod> {
    facts.pods.as_mut().unwrap()
}

fn nodes(facts: &mut Facts) -> &mut Vec<NodeState> {
    facts.nodes.as_mut().unwrap()
}

fn lease(facts: &mut Facts) -> &mut Lease {
    facts.lease.as_mut().unwrap().as_mut().unwrap()
}

fn forbidden() -> NoAnswer {
    NoAnswer::Forbidden {
        what: "it".to_owned(),
    }
}

#[test]
fn a_cluster_in_order_is_told_as_a_whole() {
    let report = Report::of(facts());
    assert_eq!(
        (report.standing, report.trouble.len(), report.unread.len()),
        (Standing::InForce, 0, 0)
    );
    assert_eq!(
        text::table(&report),
        "everything is in force

datastore: https://192.0.2.10:6443, v1.35.4, all definitions of projectcalico.org are there and ours

nodes:
  NAME  READY  NETWORK  AGENT                ADDRESSES  BLOCKS
  n1    yes    up       ready (manx-node-a)  192.0.2.1  10.65.0.64/26
  n2    yes    up       ready (manx-node-b)  192.0.2.2  -

controller:
  ready (manx-controller-x) on n1
  manx-controller-x leads, renewed 2 s ago

tiers:
  NAME     ORDER  DEFAULT
  early    10     Deny
  default  last   Deny

pools:
  NAME                 CIDR          USED  FREE  BLOCKS
  default-ipv4-ippool  10.65.0.0/24  1     255   1

policies:
  globalnetworkpolicies.projectcalico.org  0
  networkpolicies.networking.k8s.io        2
  networkpolicies.projectcalico.org        1
"
    );
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["standing"], "in-force");
    assert_eq!(json["datastore"]["version"], "v1.35.4");
    assert_eq!(json["nodes"][0]["agent"]["name"], "manx-node-a");
    assert_eq!(json["pools"][0]["free"], 255);
    assert_eq!(json["controller"]["lease"]["age"], 2);
}

#[test]
fn each_thing_that_is_not_in_force_is_one_line() {
    let cases: Vec<(Change, &str)> = vec![
        (
            |f| f.undefined = Ok(vec![Kind::Tier, Kind::IPPool]),
            "not defined: tiers.projectcalico.org, ippools.",
        ),
        (
            |f| f.owner = Err(Owner::Foreign("of Calico".into())),
            "the datastore is another network's: of Calico",
        ),
        (|f| nodes(f)[0].ready.holds = None, "node n1 is not Ready"),
        (
            |f| {
                nodes(f)[1].ready = Condition {
                    holds: Some(false),
                    why: "KubeletNotReady: no network".into(),
                }
            },
            "node n2 is not Ready: KubeletNotReady: no network",
        ),
        (
            |f| nodes(f)[0].network_unavailable.holds = Some(true),
            "node n1: its network is unavailable",
        ),
        (|f| drop(agents(f).remove(1)), "node n2 has no agent"),
        (
            |f| {
                agents(f)[0].ready = false;
                agents(f)[0].why = Some("felix ended with code 2 (Error)".into());
            },
            "node n1: its agent manx-node-a is not ready: felix ended with code 2 (Error)",
        ),
        (
            |f| agents(f).retain(|pod| pod.component != Component::Agent),
            "no agent runs in this cluster",
        ),
        (
            |f| {
                let mut stray = pod(Component::Agent, "manx-node-c", "");
                (stray.ready, stray.why) = (false, Some("Unschedulable".into()));
                agents(f).push(stray);
            },
            "agent manx-node-c: it has no node: Unschedulable",
        ),
        (
            |f| agents(f).push(pod(Component::Agent, "manx-node-d", "n9")),
            "agent manx-node-d: its node n9 does not exist",
        ),
        (
            |f| agents(f)[2].ready = false,
            "controller manx-controller-x is not ready",
        ),
        (
            |f| f.lease = Ok(None),
            "no controller leads: the lease manx-controller does not exist yet",
        ),
        (
            |f| {
                f.lease = Err(forbidden());
                agents(f).retain(|pod| pod.component == Component::Agent);
            },
            "no controller runs in this cluster",
        ),
        (
            |f| lease(f).holder.clear(),
            "no controller leads: nobody holds the lease",
        ),
        (
            |f| lease(f).age = Some(61),
            "no controller leads: manx-controller-x holds the lease and has not renewed it for 61 s",
        ),
        (
            |f| lease(f).age = None,
            "no controller leads: manx-controller-x holds the lease and has not renewed it for ever",
        ),
        (
            |f| drop(f.objects.insert(Kind::IPPool, Ok(Vec::new()))),
            "there is no pool that addresses are taken from",
        ),
        (
            |f| f.faults.push("tiers x: spec.order: is no number".into()),
            "invalid object: tiers x: spec.order",
        ),
    ];
    for (change, wanted) in cases {
        let mut facts = facts();
        change(&mut facts);
        let report = Report::of(facts);
        assert_eq!(report.standing, Standing::NotInForce, "{wanted}");
        let [line] = report.trouble.as_slice() else {
            panic!("{wanted}: {:?}", report.trouble);
        };
        assert!(line.starts_with(wanted), "{line} / {wanted}");
        assert!(
            text::table(&report).starts_with("1 thing is not in force:\n"),
            "{wanted}"
        );
    }
}

#[test]
fn a_full_pool_is_trouble_and_a_disabled_one_is_none() {
    let mut facts = facts();
    let mut pool = Object::named("full", IpPoolSpec::of("10.65.0.64/32".parse().unwrap()));
    let mut block = blocks_of::new("10.65.0.64/32".parse().unwrap(), None, false, 1).unwrap();
    blocks_of::assign(
        &mut block.spec,
        "10.65.0.64".parse().unwrap(),
        &AllocationAttribute::default(),
    )
    .unwrap();
    facts
        .objects
        .insert(Kind::IPAMBlock, Ok(vec![Arc::new(Resource::from(block))]));
    facts
        .objects
        .insert(Kind::IPPool, Ok(vec![Arc::new(Resource::from(pool.clone()))]));
    let mut judge = Judge::default();
    let found = judge.pools(&facts, &blocks(&facts), true);
    assert_eq!((found[0].used, found[0].free), (1, 0));
    assert_eq!(
        judge.trouble,
        ["pool full: all 1 addresses of 10.65.0.64/32 are held"]
    );
    pool.spec.disabled = true;
    facts
        .objects
        .insert(Kind::IPPool, Ok(vec![Arc::new(Resource::from(pool))]));
    let mut judge = Judge::default();
    judge.pools(&facts, &blocks(&facts), false);
    assert_eq!(judge.trouble, Vec::<String>::new());
}

#[test]
fn what_may_not_be_read_is_said_and_only_what_decides_leaves_it_open() {
    let cases: Vec<(Change, Standing)> = vec![
        (|f| f.lease = Err(forbidden()), Standing::InForce),
        (|f| f.owner = Err(Owner::Unknown(forbidden())), Standing::InForce),
        (
            |f| drop(f.objects.insert(Kind::IPPool, Err(forbidden()))),
            Standing::InForce,
        ),
        (|f| f.nodes = Err(forbidden()), Standing::Unknown),
        (|f| f.pods = Err(forbidden()), Standing::Unknown),
        (
            |f| {
                f.nodes = Err(forbidden());
                f.faults.push("broken".into());
            },
            Standing::NotInForce,
        ),
        (
            |f| {
                f.version = Err(forbidden());
                f.faults.push("broken".into());
            },
            Standing::Unknown,
        ),
    ];
    for (n, (change, wanted)) in cases.into_iter().enumerate() {
        let mut facts = facts();
        change(&mut facts);
        let report = Report::of(facts);
        assert_eq!(report.standing, wanted, "case {n}: {:?}", report.trouble);
        assert_eq!(report.unread, ["this account may not read it"], "case {n}");
        assert!(
            text::table(&report).contains("this account may not read it"),
            "case {n}"
        );
    }
}

#[test]
fn the_agent_of_this_container_has_its_say() {
    let page = |ok, text: &str| Page {
        ok,
        text: text.to_owned(),
    };
    let mut facts = facts();
    facts.local = Some(LocalAgent {
        node: "n1".to_owned(),
        liveness: page(true, "live"),
        readiness: page(false, "not ready: calc\ncalc: waiting"),
    });
    let report = Report::of(facts);
    assert_eq!(
        report.trouble,
        ["the agent of this container is not ready: not ready: calc"]
    );
    let text = text::table(&report);
    assert!(
        text.ends_with("readiness of the agent of n1:\n  not ready: calc\n  calc: waiting\n"),
        "{text}"
    );
}
