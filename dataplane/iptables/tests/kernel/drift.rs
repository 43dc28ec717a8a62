//! Whatever others do is seen and mended.

use dataplane_iptables::driver::{Driver, DriverError};
use dataplane_iptables::ops::{Family, SetKind};
use dataplane_iptables::programs::Variant;

use crate::bed::{Node, apply, assert_settled, change, create, ipset, ipset_members, on_both, small};

fn started(node: &Node) -> Driver {
    node.restore(
        Family::Inet,
        "*filter\n:MINE - [0:0]\n-A MINE -j RETURN\n-A FORWARD -j MINE\nCOMMIT\n",
    );
    let (sets, tables) = small();
    let mut driver = node.driver();
    driver.take(&sets, &tables);
    apply(&mut driver);
    driver.notice();
    apply(&mut driver);
    assert!(!driver.notice());
    driver
}

#[test]
fn each_kind_of_damage_is_told_by_the_watch_and_mended_once() {
    on_both(|node| {
        let mut driver = started(node);
        let right = node.save(Family::Inet);
        let hash = |chain: &str, at: usize| {
            let rules: Vec<&str> = right
                .lines()
                .filter(|line| line.starts_with(&format!("-A {chain} ")))
                .collect();
            let rule = rules[at];
            let start = rule.find("cali:").unwrap();
            rule[start..start + 21].to_owned()
        };
        let disguised = format!(
            "-R cali-fw 1 -m conntrack --ctstate NEW -m comment --comment {} -j RETURN",
            hash("cali-fw", 0)
        );
        let damages = [
            "-F FORWARD",
            "-F cali-fw",
            "-D cali-fw 2",
            "-I FORWARD -i evil0 -j ACCEPT",
            "-I cali-fw -j ACCEPT",
            "-A cali-fw2 -j ACCEPT",
            "-N cali-stale",
            &disguised,
        ];
        for damage in damages {
            node.iptables(damage);
            assert!(driver.notice(), "{damage}");
            let applied = apply(&mut driver);
            assert!(applied.mended > 0, "{damage}: {applied:?}");
            assert_eq!(applied.tampered > 0, damage == disguised, "{damage}: {applied:?}");
            assert!(!driver.notice(), "own writes are no damage: {damage}");
            assert_settled(&mut driver);
            if damage.contains("evil0") {
                assert_eq!(
                    node.chain("filter", "FORWARD")[..2],
                    ["-j cali-hook", "-j MINE"].map(|rule| if rule == "-j MINE" {
                        "-i evil0 -j ACCEPT"
                    } else {
                        rule
                    })
                );
                node.iptables("-D FORWARD -i evil0 -j ACCEPT");
                assert!(driver.notice());
                assert_eq!(apply(&mut driver).mended, 0);
            }
            if damage == "-F FORWARD" {
                // What was not ours is not ours to bring back.
                node.iptables("-I FORWARD 2 -j MINE");
                driver.notice();
                apply(&mut driver);
            }
            assert_eq!(node.save(Family::Inet), right, "{damage}");
        }
    });
}

#[test]
fn a_restored_old_table_is_mended() {
    on_both(|node| {
        let mut driver = started(node);
        let old = node.save(Family::Inet);
        let changed = change(&[("cali-fw2", Some(&["-j DROP"])), ("cali-new", Some(&["-j DROP"]))]);
        driver.take(&[], &[changed]);
        apply(&mut driver);
        let right = node.save(Family::Inet);
        // As an administrator's script would: everything of an earlier day, without --noflush.
        let lines: Vec<String> = old
            .lines()
            .map(|line| {
                if line.starts_with(':') {
                    format!("{line} [0:0]")
                } else {
                    line.to_owned()
                }
            })
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("old");
        std::fs::write(&file, lines.join("\n") + "\n").unwrap();
        let program = format!("/usr/sbin/iptables-{}-restore", node.tools.variant);
        let status = std::process::Command::new(program)
            .env("XTABLES_LOCKFILE", &node.lock)
            .arg(&file)
            .status()
            .unwrap();
        assert!(status.success());
        assert!(driver.notice());
        let applied = apply(&mut driver);
        assert_eq!(applied.mended, 2, "{applied:?}");
        assert_eq!(node.save(Family::Inet), right);
    });
}

#[test]
fn a_set_that_somebody_changed_is_mended() {
    on_both(|node| {
        let mut driver = started(node);
        for damage in [
            "add cali40test 10.9.0.0/16",
            "flush cali40test",
            "del cali60test fd00:1::/32",
        ] {
            ipset(damage);
            driver.look().unwrap();
            let applied = driver.apply().unwrap();
            assert_eq!(applied.mended, 1, "{damage}: {applied:?}");
            assert_eq!(ipset_members("cali40test"), ["10.1.0.0/16"]);
            assert_settled(&mut driver);
        }
        // One member for another does not show in numbers, but in a whole look.
        ipset("del cali40test 10.1.0.0/16");
        ipset("add cali40test 10.9.0.0/16");
        driver.look().unwrap();
        assert_eq!(driver.apply().unwrap().mended, 0);
        driver.look_at_everything();
        assert_eq!(driver.apply().unwrap().mended, 1);
        // A set of ours that nobody asked for goes; others' stay.
        ipset("create cali40stale hash:ip");
        ipset("create theirs hash:ip");
        driver.look().unwrap();
        driver.apply().unwrap();
        assert_eq!(ipset("list -n"), "cali40test\ncali60test\ntheirs\n");
    });
}

#[test]
fn a_set_that_does_not_fit_is_replaced_under_its_rules() {
    on_both(|node| {
        // Of the right type, with another size and a timeout, and named by a rule of an earlier life.
        ipset("create cali40test hash:net maxelem 100 timeout 600");
        ipset("add cali40test 10.3.0.0/16");
        node.restore(
            Family::Inet,
            "*filter\n:cali-fw - [0:0]\n-A cali-fw -m set --match-set cali40test src -j DROP\nCOMMIT\n",
        );
        // Of another type, named by nobody; and of another type, named by a rule.
        ipset("create cali60test hash:ip family inet6");
        ipset("create cali40ports hash:ip,port");
        node.restore(
            Family::Inet,
            "*raw\n:cali-x - [0:0]\n-A cali-x -m set --match-set cali40ports src,src -j ACCEPT\nCOMMIT\n",
        );
        let (sets, tables) = small();
        let mut driver = node.driver();
        driver.take(&sets, &tables);
        driver.take(&[create("cali40ports", Family::Inet, SetKind::HashIp)], &[]);
        apply(&mut driver);
        assert_eq!(ipset_members("cali40test"), ["10.1.0.0/16"]);
        assert_eq!(ipset_members("cali60test"), ["fd00:1::/32"]);
        let mut names: Vec<_> = ipset("list -n").lines().map(str::to_owned).collect();
        names.sort();
        assert_eq!(names, ["cali40ports", "cali40test", "cali60test"]);
        assert!(ipset("list -t cali40ports").contains("Type: hash:ip\n"));
        assert_settled(&mut driver);
    });
}

#[test]
fn two_who_write_at_once_lose_nothing() {
    on_both(|node| {
        let mut driver = started(node);
        let namespace = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                for number in 0..40 {
                    node.iptables(&format!("-I FORWARD -i their{number} -j MINE"));
                    if number % 4 == 3 {
                        node.iptables(&format!("-D FORWARD -i their{number} -j MINE"));
                    }
                }
            });
            let mut number = 0;
            while !other.is_finished() {
                number += 1;
                let rule = format!("-m mark --mark {number:#x} -j DROP");
                driver.take(&[], &[change(&[("cali-fw2", Some(&[&rule]))])]);
                driver.notice();
                // Whoever puts rules before ours all the time keeps the table from being settled.
                if let Err(failures) = driver.apply() {
                    let is_fight = |error: &DriverError| matches!(error, DriverError::Unsettled { .. });
                    assert!(failures.failures.iter().all(is_fight), "{failures}");
                }
            }
            other.join().unwrap();
        });
        driver.look().unwrap();
        driver.apply().unwrap();
        assert_settled(&mut driver);
        let forward = node.chain("filter", "FORWARD");
        let theirs: Vec<&String> = forward.iter().filter(|rule| rule.contains("their")).collect();
        assert_eq!(theirs.len(), 30, "{forward:?}");
        assert!(
            theirs[0].contains("their38") && theirs[29].contains("their0"),
            "{theirs:?}"
        );
        assert_eq!((forward[0].as_str(), forward.len()), ("-j cali-hook", 33));
    });
}

#[test]
fn a_look_after_a_write_reads_what_the_watch_does_not_tell() {
    on_both(|node| {
        let mut driver = started(node);
        driver.look().unwrap();
        let nothing_written = apply(&mut driver);
        driver.take(&[], &[change(&[("cali-fw2", Some(&["-j DROP"]))])]);
        assert_eq!(apply(&mut driver).saves, 0);
        driver.notice();
        driver.look().unwrap();
        let one_written = apply(&mut driver);
        // Whoever wrote to a legacy table while we did was not told, so all of it is read, once for each family.
        let expected = match node.tools.variant {
            Variant::Legacy => [2, 2],
            Variant::Nft => [0, 1],
        };
        assert_eq!([nothing_written.saves, one_written.saves], expected);
        assert_eq!((nothing_written.mended, one_written.mended), (0, 0));
        assert_settled(&mut driver);
    });
}

#[test]
fn a_rule_that_others_jump_to_is_emptied_and_kept() {
    on_both(|node| {
        let mut driver = started(node);
        driver.take(&[], &[change(&[("cali-used", Some(&["-j DROP"]))])]);
        apply(&mut driver);
        node.iptables("-A MINE -j cali-used");
        driver.notice();
        driver.take(&[], &[change(&[("cali-used", None)])]);
        apply(&mut driver);
        assert_eq!(node.chain("filter", "cali-used"), Vec::<String>::new());
        assert!(node.save(Family::Inet).contains(":cali-used"));
        node.iptables("-D MINE -j cali-used");
        // What happens in their chains is not told.
        driver.look_at_everything();
        apply(&mut driver);
        assert!(!node.save(Family::Inet).contains(":cali-used"));
    });
}
