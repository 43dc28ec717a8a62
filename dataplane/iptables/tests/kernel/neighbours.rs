//! Other people's rules of many kinds survive everything that we do.

use dataplane_iptables::driver::{clean_sets, clean_tables};
use dataplane_iptables::ops::{Family, Place};

use crate::bed::{apply, change, ipset, on_both, small, write};

/// kube-proxy's, Docker's and an administrator's rules, in the forms that they have.
const NEIGHBOURS: &str = r#"*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A PREROUTING -p udp -m udp --dport 4789 -j NOTRACK
COMMIT
*mangle
:KUBE-IPTABLES-HINT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
-A POSTROUTING -o eth0 -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
COMMIT
*filter
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-FIREWALL - [0:0]
-A INPUT -m comment --comment "he said \"cali:0123456789abcdef\" \\ and left" -m conntrack --ctstate NEW -j ACCEPT
-A INPUT -j KUBE-FIREWALL
-A FORWARD -j DOCKER-USER
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A DOCKER-USER -j RETURN
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A DOCKER -m set --match-set theirs src,dst -m limit --limit 5/min -j LOG --log-prefix "cali- like: " --log-level 7
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-SVC-1 - [0:0]
:KUBE-SEP-1 - [0:0]
:KUBE-SEP-2 - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "default/kubernetes:https cluster IP" -m tcp --dport 443 -j KUBE-SVC-1
-A KUBE-SVC-1 -m comment --comment "default/kubernetes:https" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-1
-A KUBE-SVC-1 -j KUBE-SEP-2
-A KUBE-SEP-1 -p tcp -m tcp -j DNAT --to-destination 10.0.0.1:6443
COMMIT
"#;

/// What is there without what is ours.
fn without_ours(saved: &str) -> Vec<String> {
    let is_ours = |line: &&str| {
        line.starts_with(":cali-") || line.starts_with("-A cali-") || line.contains("--comment \"cali:")
    };
    saved
        .lines()
        .filter(|line| !is_ours(line))
        .map(str::to_owned)
        .collect()
}

#[test]
fn neighbours_survive_a_whole_life_in_their_order() {
    on_both(|node| {
        ipset("create theirs hash:net,port");
        node.restore(Family::Inet, NEIGHBOURS);
        let before = node.save(Family::Inet);
        let check = |what: &str| {
            assert_eq!(
                without_ours(&node.save(Family::Inet)),
                without_ours(&before),
                "{what}"
            )
        };
        let (sets, tables) = small();
        let mut driver = node.driver();
        driver.take(&sets, &tables);
        apply(&mut driver);
        check("the first apply");
        driver.take(
            &[],
            &[change(&[
                ("cali-fw2", Some(&["-j DROP"])),
                ("cali-pi-two", Some(&[])),
            ])],
        );
        apply(&mut driver);
        check("a change");
        driver.take(
            &[],
            &[write(
                &[("cali-pi-two", None)],
                &[("FORWARD", Place::Last, &["-j cali-hook"])],
            )],
        );
        apply(&mut driver);
        check("another place");
        node.iptables("-F cali-hook");
        driver.notice();
        assert!(apply(&mut driver).mended > 0);
        check("mending");
        driver.look_at_everything();
        apply(&mut driver);
        drop(driver);
        clean_tables(&node.tools).unwrap();
        clean_sets().unwrap();
        assert_eq!(node.save(Family::Inet), before);
        assert_eq!(ipset("list -n"), "theirs\n");
    });
}
