#![allow(missing_docs, clippy::unwrap_used)]
use e2e::{bed::*, manifest::*, world::*, packet::Probe, engine::NODE};
use policy_model::Protocol;
#[test]
fn scratch() {
    let mut w = World::new(&[PodSpec::new("cali0","10.1.0.1"),PodSpec::new("cali1","10.1.0.2")], Default::default());
    w.silence();
    let a=|s:&str| s.parse().unwrap();
    let r=vec![open_profile("red"), endpoint("red","p0",NODE,"cali0",&[a("10.1.0.1")],""), endpoint("red","p1",NODE,"cali1",&[a("10.1.0.2")],"")];
    w.engine.run(move |c| { c.upsert(&r); c.apply(); });
    for p in [17u8,136] {
    let pr=Probe{number:p.into(),source:a("10.1.0.1"),destination:a("10.1.0.2"),protocol:Protocol::from_number(p),x:80,y:4000};
    println!("{:?}", w.send(&[pr]));
    within(&w.node, || { println!("{}", tool("nft",&["list","ruleset"])); println!("{}", tool("conntrack",&["-S"])); println!("{}", tool("conntrack",&["-L"])); println!("{}", std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap()); });
    }
}
