//! Tables written, read back, changed, taken over.

use dataplane_iptables::driver::{clean_sets, clean_tables, found};
use dataplane_iptables::ops::{Family, Place, SetKind, SetOp};

use crate::bed::{Node, apply, assert_settled, change, create, ipset, on_both, small, write};

#[test]
fn what_is_written_is_read_back_and_nothing_is_written_twice() {
    on_both(|node| {
        let (sets, tables) = small();
        let mut driver = node.driver();
        driver.take(&sets, &tables);
        let applied = apply(&mut driver);
        assert_eq!((applied.restores, applied.mended), (8, 0), "{applied:?}");
        assert_settled(&mut driver);
        let filter = node.chain("filter", "cali-fw");
        assert_eq!(filter.len(), 3, "{filter:?}");
        assert_eq!(node.chain("filter", "FORWARD")[0], "-j cali-hook");
        // Another life of the agent finds everything as it should be.
        let saved = node.save(Family::Inet6);
        drop(driver);
        let found = found(&node.tools).unwrap();
        let names: Vec<&str> = found.sets.keys().map(String::as_str).collect();
        assert_eq!(names, ["cali40test", "cali60test"]);
        assert_eq!(found.sets["cali60test"].kind, SetKind::HashNet);
        assert_eq!(found.sets["cali60test"].members.len(), 1);
        assert_eq!(found.chains.len(), 4 * 2, "{found:?}");
        assert!(
            found
                .chains
                .values()
                .all(|names| names.len() == 4 && names.contains("cali-hook"))
        );
        let last = (Family::Inet, "cali-pi-one".to_owned());
        assert_eq!(found.leads[&last], "cali-fw2");
        let mut driver = node.driver();
        driver.take(&sets, &tables);
        let applied = apply(&mut driver);
        assert_eq!((applied.restores, applied.set_operations), (0, 0), "{applied:?}");
        assert_eq!(node.save(Family::Inet6), saved);
        clean_tables(&node.tools).unwrap();
        assert_eq!(clean_sets().unwrap(), Vec::<String>::new());
        for family in Family::BOTH {
            assert!(!node.save(family).contains("cali"), "{}", node.save(family));
        }
        assert_eq!(ipset("list -n"), "");
    });
}

#[test]
fn a_change_writes_the_chains_that_changed_and_no_others() {
    on_both(|node| {
        let mut driver = node.driver();
        let many: Vec<String> = (0..50).map(|number| format!("cali-pi-{number}")).collect();
        let jumps: Vec<String> = many.iter().map(|name| format!("-j {name}")).collect();
        let mut chains: Vec<(&str, Option<&[&str]>)> = many
            .iter()
            .map(|name| (name.as_str(), Some(&["-j DROP"][..])))
            .collect();
        let jumps: Vec<&str> = jumps.iter().map(String::as_str).collect();
        chains.push(("cali-all", Some(&jumps)));
        driver.take(
            &[],
            &[write(&chains, &[("FORWARD", Place::First, &["-j cali-all"])])],
        );
        apply(&mut driver);
        driver.take(
            &[],
            &[write(
                &[
                    ("cali-pi-7", Some(&["-j ACCEPT"])),
                    ("cali-pi-8", Some(&["-j DROP"])),
                    ("cali-pi-9", None),
                    ("cali-all", Some(&["-j cali-pi-7"])),
                ],
                &[("FORWARD", Place::First, &["-j cali-all"])],
            )],
        );
        let applied = driver.apply().unwrap();
        // Three chains named, two of them with a rule, one removed, and the frame.
        assert_eq!(
            (applied.restores, applied.saves, applied.lines),
            (1, 0, 8),
            "{applied:?}"
        );
        assert_eq!(node.chain("filter", "cali-pi-7"), ["-j ACCEPT"]);
        assert!(!node.save(Family::Inet).contains("cali-pi-9"));
        assert_settled(&mut driver);
    });
}

#[test]
fn inserts_move_and_go() {
    on_both(|node| {
        node.iptables("-A FORWARD -i foreign0 -j ACCEPT");
        let mut driver = node.driver();
        let chains: &[(&str, Option<&[&str]>)] = &[("cali-a", Some(&[])), ("cali-b", Some(&[]))];
        let both = ["-j cali-a", "-j cali-b"];
        driver.take(&[], &[write(chains, &[("FORWARD", Place::First, &both)])]);
        apply(&mut driver);
        let foreign = "-i foreign0 -j ACCEPT";
        assert_eq!(
            node.chain("filter", "FORWARD"),
            ["-j cali-a", "-j cali-b", foreign]
        );
        let moved = [
            ("FORWARD", Place::Last, &both[..]),
            ("INPUT", Place::First, &both[..1]),
        ];
        driver.take(&[], &[write(&[], &moved)]);
        apply(&mut driver);
        assert_eq!(
            node.chain("filter", "FORWARD"),
            [foreign, "-j cali-a", "-j cali-b"]
        );
        assert_eq!(node.chain("filter", "INPUT"), ["-j cali-a"]);
        driver.take(&[], &[write(&[("cali-a", None), ("cali-b", None)], &[])]);
        apply(&mut driver);
        assert_eq!(node.chain("filter", "FORWARD"), [foreign]);
        assert!(!node.save(Family::Inet).contains("cali"));
        assert_settled(&mut driver);
    });
}

#[test]
fn what_calico_left_is_taken_over() {
    on_both(|node| {
        node.restore(
            Family::Inet,
            "*filter\n:cali-FORWARD - [0:0]\n:felix-INPUT - [0:0]\n:cali-tw-cali123 - [0:0]\n:MINE - [0:0]\n\
             -A FORWARD -m comment --comment \"cali:wUHhoiAYhphO9Mso\" -j cali-FORWARD\n\
             -A FORWARD -j MINE\n-A INPUT -j felix-INPUT\n\
             -A cali-FORWARD -m comment --comment \"cali:vjrMJCRpqwy5oRoX\" -j MARK --set-xmark 0x0/0xe0000\n\
             -A cali-FORWARD -j cali-tw-cali123\nCOMMIT\n*nat\n:felix-masq - [0:0]\n-A POSTROUTING -j felix-masq\nCOMMIT\n",
        );
        let mut driver = node.driver();
        let chains: &[(&str, Option<&[&str]>)] = &[("cali-FORWARD", Some(&["-j DROP"]))];
        driver.take(
            &[],
            &[write(chains, &[("FORWARD", Place::First, &["-j cali-FORWARD"])])],
        );
        apply(&mut driver);
        assert_eq!(node.chain("filter", "FORWARD"), ["-j cali-FORWARD", "-j MINE"]);
        assert_eq!(node.chain("filter", "cali-FORWARD"), ["-j DROP"]);
        let saved = node.save(Family::Inet);
        assert!(!saved.contains("felix") && !saved.contains("cali-tw"), "{saved}");
    });
}

#[test]
fn sets_come_before_rules_and_go_after_them() {
    on_both(|node| {
        let mut driver = node.driver();
        let rule = "-m set --match-set cali40x src -j ACCEPT";
        let made = [create("cali40x", Family::Inet, SetKind::HashIp)];
        driver.take(&made, &[write(&[("cali-a", Some(&[rule]))], &[])]);
        apply(&mut driver);
        // Both in one step, the set's removal asked for first.
        driver.take(
            &[SetOp::Destroy("cali40x".into())],
            &[write(&[("cali-a", Some(&[]))], &[])],
        );
        let applied = apply(&mut driver);
        assert_eq!(applied.kept_sets, Vec::<String>::new());
        assert_eq!(ipset("list -n"), "");
        // A set that somebody else's rule names is kept, and told, until that rule goes.
        driver.take(&made, &[]);
        apply(&mut driver);
        node.iptables(&format!("-A FORWARD {rule}"));
        driver.take(&[SetOp::Destroy("cali40x".into())], &[]);
        assert_eq!(driver.apply().unwrap().kept_sets, ["cali40x"]);
        node.iptables(&format!("-D FORWARD {rule}"));
        driver.apply().unwrap();
        assert_eq!(ipset("list -n"), "");
    });
}

#[test]
fn one_family_alone_leaves_the_other_alone() {
    crate::bed::in_namespace(|| {
        let only = |settings: &mut dataplane_iptables::programs::ProgramSettings| {
            settings.families = vec![Family::Inet];
        };
        let node = Node::with(dataplane_iptables::programs::Variant::Nft, only);
        let (sets, tables) = small();
        let mut driver = node.driver();
        driver.take(&sets, &tables);
        assert_eq!(apply(&mut driver).restores, 4);
        assert_eq!(node.save(Family::Inet6), "");
    });
}

#[test]
fn the_other_variant_takes_over_before_the_old_one_goes() {
    on_both(|old| {
        let new = Node::new(old.tools.variant.other());
        let (sets, tables) = small();
        let mut driver = old.driver();
        driver.take(&sets, &tables);
        driver.take(&[create("cali40older", Family::Inet, SetKind::HashIp)], &[]);
        let rule = "-m set --match-set cali40older src -j DROP";
        driver.take(&[], &[change(&[("cali-older", Some(&[rule]))])]);
        apply(&mut driver);
        drop(driver);
        let mut driver = new.driver();
        driver.take(&sets, &tables);
        let applied = driver.apply().unwrap();
        assert_eq!(applied.restores, 8, "{applied:?}");
        // Rules of the old variant still name it.
        assert_eq!(applied.kept_sets, ["cali40older"]);
        assert!(old.save(Family::Inet).contains("cali-hook"));
        clean_tables(&old.tools).unwrap();
        assert_eq!(driver.apply().unwrap().kept_sets, Vec::<String>::new());
        assert_settled(&mut driver);
        assert!(!old.save(Family::Inet).contains("cali") && !old.save(Family::Inet6).contains("cali"));
        assert_eq!(ipset("list -n"), "cali40test\ncali60test\n");
    });
}

/// Rules as the layout writes them.
const FORMS: [&str; 22] = [
    "-m conntrack --ctstate INVALID,NEW,RELATED,ESTABLISHED,DNAT -j RETURN",
    "-s 10.0.0.0/8 -d 10.0.0.1/32 -i cali0123456789a -o cali+ -p tcp -m tcp --sport 1:1024 --dport 80 -j ACCEPT",
    "! -p icmp -m mark ! --mark 0x10000/0x10000 -j DROP",
    "-p icmp -m icmp --icmp-type 8/0 -j ACCEPT",
    "-p icmp -m icmp --icmp-type 8 -j ACCEPT",
    "-p sctp -m sctp --dport 7 -j ACCEPT",
    "-p udplite -m multiport --dports 7,9 -j ACCEPT",
    "-p udp -m multiport --dports 53,8000:8080 -j ACCEPT",
    "-p 47 -j DROP",
    "-p 4 -j DROP",
    "-p 253 -j DROP",
    "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -j DROP",
    "-m set --match-set cali40test src -j RETURN",
    "-m set ! --match-set cali40test dst -j RETURN",
    "-m addrtype --dst-type LOCAL -j RETURN",
    "-m addrtype ! --src-type LOCAL --limit-iface-out -j RETURN",
    "-p udp -m udp --dport 4789 -m u32 --u32 \"0x0>>0x16&0x3c@0xc>>0x8=0x1000\" -j DROP",
    "-j NFLOG --nflog-prefix \"manx \" --nflog-group 7",
    "-j MARK --set-xmark 0x0/0x10000",
    "-j REJECT --reject-with icmp-port-unreachable",
    "-m comment --comment \"of a policy: \\\"a\\\" \\\\ b's\" -g cali-b",
    "-m limit --limit 10/sec -j LOG --log-prefix \"calico-drop: \"",
];

#[test]
fn a_second_life_knows_rules_of_every_form_again() {
    on_both(|node| {
        let (sets, _) = small();
        let chains: &[(&str, Option<&[&str]>)] = &[("cali-a", Some(&FORMS)), ("cali-b", Some(&[]))];
        let mut driver = node.driver();
        driver.take(&sets, &[write(chains, &[])]);
        apply(&mut driver);
        let mut driver = node.driver();
        driver.take(&sets, &[write(chains, &[])]);
        let applied = apply(&mut driver);
        assert_eq!(applied.restores, 0, "{}", node.save(Family::Inet));
    });
}

#[test]
fn a_rule_that_is_printed_in_another_form_is_learned() {
    on_both(|node| {
        // Printed with `-m tcp`, as a net, with another name of the option.
        let rules = [
            "-p tcp --dport 80 -s 10.0.0.1/255.0.0.0 -j ACCEPT",
            "-j MARK --or-mark 0x4",
        ];
        let wanted = write(
            &[("cali-a", Some(&rules))],
            &[("FORWARD", Place::First, &["-p udp --dport 53 -j cali-a"])],
        );
        let mut driver = node.driver();
        driver.take(&[], std::slice::from_ref(&wanted));
        apply(&mut driver);
        assert_settled(&mut driver);
        // Somebody changes a rule, and leaves the comment as it was.
        let saved = node.save(Family::Inet);
        let rule = saved.lines().find(|line| line.starts_with("-A cali-a ")).unwrap();
        let changed = rule
            .replace("-A cali-a", "-R cali-a 1")
            .replace("--dport 80", "--dport 81");
        node.restore(Family::Inet, &format!("*filter\n{changed}\nCOMMIT\n"));
        assert!(driver.notice());
        let applied = apply(&mut driver);
        assert_eq!((applied.mended, applied.tampered), (1, 1), "{applied:?}");
        assert_eq!(node.save(Family::Inet), saved);
        // A later life cannot know the form; it writes once, and knows then.
        let mut driver = node.driver();
        driver.take(&[], &[wanted]);
        apply(&mut driver);
        assert_settled(&mut driver);
        assert_eq!(node.save(Family::Inet), saved);
    });
}
