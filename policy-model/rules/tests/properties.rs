//! What must hold for any policies: unions, order, independence, complements, and agreement with Kubernetes' own words.

#![allow(clippy::unwrap_used)] // A panic here is the failure itself.

mod world;

use policy_model::Resource;
use policy_model_rules::oracle::{Facts, Flow, Peer, Settings, Verdict};
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use serde_json::{Value, json};
use std::net::IpAddr;
use world::{facts, global_policy, policy};

/// The pods of the small cluster: namespace, name, its label `env`, label `app`, addresses, ports named http.
struct Pod(
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
    Option<(&'static str, u16)>,
);

const PODS: [Pod; 4] = [
    Pod("shop", "web", "prod", &["10.0.0.1", "fd00::1"], Some(("TCP", 80))),
    Pod(
        "shop",
        "db",
        "prod",
        &["10.0.0.2", "fd00::2"],
        Some(("TCP", 8080)),
    ),
    Pod("dev", "tool", "test", &["10.0.1.1"], None),
    Pod("dev", "six", "test", &["fd00::11"], Some(("UDP", 8080))),
];

const NETS: [&str; 7] = [
    "10.0.0.0/16",
    "10.0.1.0/24",
    "10.0.0.2/32",
    "8.8.8.8/32",
    "fd00::/64",
    "fd00::10/124",
    "0.0.0.0/0",
];

/// An address of a pod or outside, with the pod.
fn ends() -> Vec<(IpAddr, Option<&'static Pod>)> {
    let pods = PODS
        .iter()
        .flat_map(|pod| pod.3.iter().map(move |a| (a.parse().unwrap(), Some(pod))));
    let outside = ["8.8.8.8", "192.0.2.1", "172.16.0.9", "fd00::99"]
        .iter()
        .map(|a| (a.parse().unwrap(), None));
    pods.chain(outside).collect()
}

/// A port of a Kubernetes policy.
#[derive(Clone, Debug)]
enum KubePort {
    Any,
    Range(u16, u16),
    Http,
}

/// A peer of a Kubernetes policy, with the words of its specification.
#[derive(Clone, Debug)]
enum KubePeer {
    /// namespaceSelector (absent, empty, or on `env`) and podSelector (empty or on `app`).
    Pods(Option<Option<&'static str>>, Option<&'static str>),
    Block(&'static str, Vec<&'static str>),
}

#[derive(Clone, Debug)]
struct KubeRule {
    /// Empty means everybody.
    peers: Vec<KubePeer>,
    /// Empty means every port of every protocol.
    ports: Vec<(&'static str, KubePort)>,
}

#[derive(Clone, Debug)]
struct KubePolicy {
    namespace: &'static str,
    app: Option<&'static str>,
    ingress: Option<Vec<KubeRule>>,
    egress: Option<Vec<KubeRule>>,
}

fn apps() -> impl Strategy<Value = Option<&'static str>> {
    prop::option::of(select(vec!["web", "db", "tool", "six"]))
}

fn kube_peer() -> impl Strategy<Value = KubePeer> {
    let namespaces = prop::option::of(prop::option::of(select(vec!["prod", "test"])));
    prop_oneof![
        (namespaces, apps()).prop_map(|(n, a)| KubePeer::Pods(n, a)),
        (select(NETS.to_vec()), subsequence(NETS[..6].to_vec(), 0..=2))
            .prop_map(|(n, e)| KubePeer::Block(n, e)),
    ]
}

fn kube_rule() -> impl Strategy<Value = KubeRule> {
    let port = prop_oneof![
        Just(KubePort::Any),
        select(vec![(80, 80), (8080, 8080), (79, 81), (0, 65535)]).prop_map(|(a, b)| KubePort::Range(a, b)),
        Just(KubePort::Http),
    ];
    let ports = prop::collection::vec((select(vec!["TCP", "UDP", "SCTP"]), port), 0..3);
    (prop::collection::vec(kube_peer(), 0..3), ports).prop_map(|(peers, ports)| KubeRule { peers, ports })
}

fn kube_policy() -> impl Strategy<Value = KubePolicy> {
    let rules = || prop::option::of(prop::collection::vec(kube_rule(), 0..3));
    (select(vec!["shop", "dev"]), apps(), rules(), rules()).prop_map(|(namespace, app, ingress, egress)| {
        KubePolicy {
            namespace,
            app,
            ingress,
            egress,
        }
    })
}

/// The policy as its translation is.
fn translate(name: &str, kube: &KubePolicy) -> Resource {
    let app = |app: Option<&str>| {
        let pods = "projectcalico.org/orchestrator == 'k8s'".to_string();
        app.map_or(pods.clone(), |a| format!("{pods} && app == '{a}'"))
    };
    let side = |peer: &KubePeer| match peer {
        KubePeer::Pods(namespaces, pods) => {
            let mut side = json!({ "selector": app(*pods) });
            match namespaces {
                None => {}
                Some(None) => side["namespaceSelector"] = json!("all()"),
                Some(Some(env)) => side["namespaceSelector"] = json!(format!("env == '{env}'")),
            }
            side
        }
        KubePeer::Block(net, except) => json!({ "nets": [net], "notNets": except }),
    };
    let rules = |kube: &[KubeRule], peer_side: &str| {
        let mut rules = Vec::new();
        for rule in kube {
            let peers: Vec<Value> = if rule.peers.is_empty() {
                vec![json!({})]
            } else {
                rule.peers.iter().map(side).collect()
            };
            for peer in peers {
                let mut add = |protocol: Option<&str>, port: Option<Value>| {
                    let mut one = json!({ "action": "Allow", "source": {}, "destination": {} });
                    one[peer_side] = peer.clone();
                    if let Some(protocol) = protocol {
                        one["protocol"] = json!(protocol);
                    }
                    if let Some(port) = port {
                        one["destination"]["ports"] = json!([port]);
                    }
                    rules.push(one);
                };
                if rule.ports.is_empty() {
                    add(None, None);
                }
                for (protocol, port) in &rule.ports {
                    add(
                        Some(protocol),
                        match port {
                            KubePort::Any => None,
                            KubePort::Range(first, last) => Some(json!(format!("{first}:{last}"))),
                            KubePort::Http => Some(json!("http")),
                        },
                    );
                }
            }
        }
        json!(rules)
    };
    let mut types = Vec::new();
    let mut spec = json!({ "order": 1000, "selector": app(kube.app) });
    if let Some(list) = &kube.ingress {
        types.push("Ingress");
        spec["ingress"] = rules(list, "source");
    }
    if let Some(list) = &kube.egress {
        types.push("Egress");
        spec["egress"] = rules(list, "destination");
    }
    if types.is_empty() {
        types.push("Ingress");
    }
    spec["types"] = json!(types);
    policy(kube.namespace, name, spec)
}

/// Kubernetes' specification, word by word: is a flow allowed by the policies of one direction?
fn kube_allows(
    policies: &[KubePolicy],
    subject: &Pod,
    peer: (IpAddr, Option<&Pod>),
    bearer: Option<&Pod>,
    protocol: &str,
    port: u16,
    rules_of: impl Fn(&KubePolicy) -> Option<Vec<KubeRule>>,
) -> bool {
    let mut isolated = false;
    for policy in policies {
        let Some(rules) = rules_of(policy) else { continue };
        if policy.namespace != subject.0 || policy.app.is_some_and(|app| app != subject.1) {
            continue;
        }
        isolated = true;
        for rule in rules {
            let from =
                rule.peers.is_empty() || rule.peers.iter().any(|p| peer_matches(p, policy.namespace, peer));
            let on = rule.ports.is_empty()
                || rule.ports.iter().any(|(wanted, number)| {
                    *wanted == protocol
                        && match number {
                            KubePort::Any => true,
                            KubePort::Range(first, last) => (*first..=*last).contains(&port),
                            KubePort::Http => bearer.is_some_and(|pod| pod.4 == Some((protocol, port))),
                        }
                });
            if from && on {
                return true;
            }
        }
    }
    !isolated
}

fn peer_matches(wanted: &KubePeer, own: &str, (address, pod): (IpAddr, Option<&Pod>)) -> bool {
    match wanted {
        KubePeer::Pods(namespaces, app) => pod.is_some_and(|pod| {
            let namespace = match namespaces {
                None => pod.0 == own,
                Some(None) => true,
                Some(Some(env)) => pod.2 == *env,
            };
            namespace && app.is_none_or(|app| app == pod.1)
        }),
        KubePeer::Block(net, except) => {
            let inside = |net: &str| net.parse::<ipnet::IpNet>().unwrap().contains(&address);
            inside(net) && !except.iter().any(|e| inside(e))
        }
    }
}

/// Any two ends of one family, with protocol and port.
fn any_flow() -> impl Strategy<Value = (usize, usize, &'static str, u16)> {
    let count = ends().len();
    (
        0..count,
        0..count,
        select(vec!["TCP", "UDP", "SCTP"]),
        select(vec![80u16, 8080, 53]),
    )
        .prop_filter("one family", |(from, to, _, _)| {
            ends()[*from].0.is_ipv4() == ends()[*to].0.is_ipv4()
        })
}

fn ask(facts: &Facts, (from, to, protocol, port): (usize, usize, &str, u16)) -> Verdict {
    let ends = ends();
    let peer = |n: usize| Peer::Address(ends[n].0);
    let flow = Flow::new(peer(from), peer(to), protocol.parse().unwrap(), port);
    let judgement = facts.judge(&flow).unwrap();
    let untraced = facts.judge_untraced(&flow).unwrap();
    assert_eq!(
        (judgement.verdict, judgement.policy, judgement.rule),
        (untraced.verdict, untraced.policy, untraced.rule)
    );
    judgement.verdict
}

fn translated(policies: &[KubePolicy]) -> Facts {
    facts(
        policies
            .iter()
            .enumerate()
            .map(|(n, p)| translate(&format!("knp.default.p{n}"), p)),
    )
}

fn policies() -> impl Strategy<Value = Vec<KubePolicy>> {
    prop::collection::vec(kube_policy(), 0..5)
}

/// A policy with any actions, orders and tiers.
fn native_policy() -> impl Strategy<Value = Value> {
    let rule = (
        select(vec!["Allow", "Deny", "Pass", "Log"]),
        prop::option::of(select(vec!["TCP", "UDP"])),
        prop::option::of(select(vec![
            "app == 'web'",
            "has(app)",
            "env == 'x'",
            "app != 'db'",
        ])),
        prop::option::of(select(NETS.to_vec())),
    );
    let rule = rule.prop_map(|(action, protocol, selector, net)| {
        let mut rule = json!({ "action": action, "source": {} });
        if let Some(protocol) = protocol {
            rule["protocol"] = json!(protocol);
        }
        if let Some(selector) = selector {
            rule["source"]["selector"] = json!(selector);
        }
        if let Some(net) = net {
            rule["source"]["nets"] = json!([net]);
        }
        rule
    });
    let rules = || prop::collection::vec(rule.clone(), 0..4);
    (
        select(vec!["default", "admin"]),
        prop::option::of(0..3),
        apps(),
        rules(),
        rules(),
    )
        .prop_map(|(tier, order, app, ingress, egress)| {
            let selector = app.map_or("all()".to_string(), |a| format!("app == '{a}'"));
            json!({"tier": tier, "order": order, "selector": selector, "types": ["Ingress", "Egress"],
                "ingress": ingress, "egress": egress})
        })
}

fn native(policies: &[Value]) -> Vec<Resource> {
    let tier = world::tier("admin", json!({ "order": 10 }));
    let mut resources = vec![tier];
    resources.extend(
        policies
            .iter()
            .enumerate()
            .map(|(n, p)| global_policy(&format!("p{n}"), p.clone())),
    );
    resources
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_words_of_kubernetes(policies in policies(), on in any_flow()) {
        let (protocol, port) = (on.2, on.3);
        let facts = translated(&policies);
        prop_assert_eq!(facts.faults(), []);
        let ends = ends();
        // Every pair: one pair alone would seldom meet the policies.
        for (from, to) in ends.iter().flat_map(|from| ends.iter().map(move |to| (*from, *to))) {
            let same = matches!((from.1, to.1), (Some(a), Some(b)) if std::ptr::eq(a, b));
            let egress = from.1.is_none_or(|subject| {
                kube_allows(&policies, subject, to, to.1, protocol, port, |p| p.egress.clone())
            });
            let ingress = to.1.is_none_or(|subject| {
                // A policy of neither direction is one of ingress.
                let rules = |p: &KubePolicy| p.ingress.clone().or(p.egress.is_none().then(Vec::new));
                kube_allows(&policies, subject, from, to.1, protocol, port, rules)
            });
            let routed = from.0.is_ipv4() == to.0.is_ipv4();
            let expected = if routed && (same || (egress && ingress)) { Verdict::Allow } else { Verdict::Deny };
            let flow = Flow::new(Peer::Address(from.0), Peer::Address(to.0), protocol.parse().unwrap(), port);
            let judgement = facts.judge_untraced(&flow).unwrap();
            prop_assert_eq!(judgement.verdict, expected, "{:?}: {}", flow, judgement.reason);
        }
    }

    #[test]
    fn another_allow_rule_never_denies(
        policies in prop::collection::vec(kube_policy(), 1..4),
        which in any::<Index>(), rule in kube_rule(), to_egress in any::<bool>(), flow in any_flow(),
    ) {
        let before = ask(&translated(&policies), flow);
        let mut more = policies.clone();
        let target = &mut more[which.index(policies.len())];
        let list = if to_egress { &mut target.egress } else { &mut target.ingress };
        // A direction that was not policed would be from now on: that is another change.
        prop_assume!(list.is_some());
        list.as_mut().unwrap().push(rule);
        let after = ask(&translated(&more), flow);
        prop_assert!(before == Verdict::Deny || after == Verdict::Allow);
    }

    #[test]
    fn a_policy_is_the_union_of_its_rules(policies in policies(), flow in any_flow()) {
        let mut split = Vec::new();
        for p in &policies {
            split.push(KubePolicy {
                ingress: p.ingress.as_ref().map(|_| Vec::new()).or(p.egress.is_none().then(Vec::new)),
                egress: p.egress.as_ref().map(|_| Vec::new()),
                ..p.clone()
            });
            for rule in p.ingress.iter().flatten() {
                split.push(KubePolicy { ingress: Some(vec![rule.clone()]), egress: None, ..p.clone() });
            }
            for rule in p.egress.iter().flatten() {
                split.push(KubePolicy { ingress: None, egress: Some(vec![rule.clone()]), ..p.clone() });
            }
        }
        prop_assert_eq!(ask(&translated(&policies), flow), ask(&translated(&split), flow));
    }

    #[test]
    fn names_of_policies_that_only_allow_do_not_matter(
        policies in policies().prop_flat_map(|p| (Just(p.clone()), Just(p).prop_shuffle())), flow in any_flow(),
    ) {
        // The names are given by position, so that the order of evaluation changes too.
        let (before, after) = policies;
        prop_assert_eq!(ask(&translated(&before), flow), ask(&translated(&after), flow));
    }

    #[test]
    fn the_order_of_resources_does_not_matter(
        policies in prop::collection::vec(native_policy(), 0..5), seed in any::<u64>(), flow in any_flow(),
    ) {
        let mut resources: Vec<Resource> = world::cluster().into_iter().chain(native(&policies)).collect();
        let before = Facts::new(&resources, Settings::default());
        // A permutation that the seed decides.
        let count = resources.len();
        for n in (1..count).rev() {
            resources.swap(n, (seed.rotate_left(n as u32 * 7) % (n as u64 + 1)) as usize);
        }
        let after = Facts::new(&resources, Settings::default());
        prop_assert_eq!(ask(&before, flow), ask(&after, flow));
    }

    #[test]
    fn a_policy_that_selects_nobody_changes_nothing(
        policies in prop::collection::vec(native_policy(), 0..5), extra in native_policy(), flow in any_flow(),
    ) {
        let before = ask(&facts(native(&policies)), flow);
        let mut extra = extra;
        extra["selector"] = json!("app == 'nobody'");
        extra["order"] = json!(-1);
        let mut more = native(&policies);
        more.push(global_policy("extra", extra));
        prop_assert_eq!(before, ask(&facts(more), flow));
    }

    #[test]
    fn a_log_rule_changes_nothing(
        policies in prop::collection::vec(native_policy(), 1..5), which in any::<Index>(), flow in any_flow(),
    ) {
        let before = ask(&facts(native(&policies)), flow);
        let mut logging = policies.clone();
        let target = &mut logging[which.index(policies.len())];
        for direction in ["ingress", "egress"] {
            target[direction].as_array_mut().unwrap().insert(0, json!({ "action": "Log" }));
        }
        prop_assert_eq!(before, ask(&facts(native(&logging)), flow));
    }

    #[test]
    fn a_match_and_its_negation_split_all_flows(
        (part, not_part) in select(vec![
            (json!({"nets": ["10.0.0.0/16", "fd00::10/124"]}), json!({"notNets": ["10.0.0.0/16", "fd00::10/124"]})),
            (json!({"selector": "app == 'db' || has(kind)"}), json!({"notSelector": "app == 'db' || has(kind)"})),
            (json!({"ports": [80, "http", "8000:9000"]}), json!({"notPorts": [80, "http", "8000:9000"]})),
        ]),
        source in any::<bool>(), flow in any_flow(),
    ) {
        let allowed = |side: &Value| {
            let mut rule = json!({"action": "Allow", "protocol": "TCP"});
            rule[if source { "source" } else { "destination" }] = side.clone();
            let spec = json!({"types": ["Ingress"], "ingress": [rule]});
            ask(&facts([global_policy("p", spec)]), (flow.0, flow.1, "TCP", flow.3)) == Verdict::Allow
        };
        let ends = ends();
        let same = matches!((ends[flow.0].1, ends[flow.1].1), (Some(a), Some(b)) if std::ptr::eq(a, b));
        prop_assume!(ends[flow.1].1.is_some() && !same);
        prop_assert_ne!(allowed(&part), allowed(&not_part));
    }
}
