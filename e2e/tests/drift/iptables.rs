//! What others do to our chains in the tables of iptables and to our IP sets.

use crate::deed::Deed;
use crate::{PATIENCE, ask, policy_holds, world};
use dataplane_iptables::programs::Variant;
use e2e::bed::{wait_for, within};
use e2e::manifest::{ingress, policy};
use e2e::rules::{FAMILIES, IpSet, Others, Rules, sets};

/// A chain of ours: program, table, name, and how many rules it has.
type Chain = (&'static str, String, String, usize);

fn our_chains(others: &Others) -> Vec<Chain> {
    let mut chains: Vec<Chain> = Vec::new();
    for object in others.our_objects() {
        let (first, rules) = (object.lines().next().unwrap(), object.lines().count() - 1);
        // Our rules in the kernel's chains and our sets say more in their first line.
        let &[family, table, chain] = &first.split(' ').collect::<Vec<_>>()[..] else {
            continue;
        };
        if let Some(family) = FAMILIES.into_iter().find(|known| *known == family) {
            chains.push((family, table.to_owned(), chain.to_owned(), rules));
        }
    }
    chains
}

/// Lines as they are restored: a chain comes with the numbers of its packets.
fn restorable(lines: impl Iterator<Item = String>) -> String {
    let line = |line: String| {
        let numbers = if line.starts_with(':') { " [0:0]" } else { "" };
        format!("{line}{numbers}\n")
    };
    lines.map(line).collect()
}

/// What a table of a family holds, ready to be restored; each line changed in some way or left out.
fn old(others: &Others, family: &str, table: &str, change: impl Fn(&str) -> Option<String>) -> String {
    let saved = others.saved(family).join("\n");
    let marker = format!("*{table}\n");
    let of_table = saved.split(&marker).nth(1).expect("the table is there");
    let lines = of_table
        .split("COMMIT")
        .next()
        .unwrap()
        .lines()
        .filter_map(change);
    format!("*{table}\n{}COMMIT\n", restorable(lines))
}

/// Every kind of thing that a person, a script or another program does to chains and sets that are not theirs; of the chains
/// only each `of_each`th is emptied.
pub(crate) fn deeds(rules: Rules, others: &Others, of_each: usize) -> Vec<Deed> {
    let mut deeds: Vec<Deed> = Vec::new();
    for family in FAMILIES {
        for command in [
            "-F",
            "-t raw -F",
            "-t nat -F",
            "-F FORWARD",
            "-F INPUT",
            "-t raw -F PREROUTING",
            "-N cali-stale",
        ] {
            deeds.push(Deed::of(format!("{family} {command}")));
        }
        for rule in [
            "FORWARD -j ACCEPT",
            "INPUT -i cali+ -j ACCEPT",
            "FORWARD -o cali2 -m comment --comment mine -j ACCEPT",
        ] {
            deeds.push(Deed::of(format!("{family} -I {rule}")).with_back(format!("{family} -D {rule}")));
        }
        for rule in [
            "cali-FORWARD -j ACCEPT",
            "cali-to-wl-dispatch -j cali-allow",
            "cali-tw-cali2 -j cali-allow",
        ] {
            deeds.push(Deed::of(format!("{family} -I {rule}")));
        }
        deeds.push(Deed::of(format!("{family} -A cali-INPUT -j ACCEPT")));
        deeds.push(Deed::of(format!("{family} -t raw -I cali-wl-sources -j RETURN")));
        // As scripts do: what they know of the table, and everything else goes.
        let restore = format!("{family}-restore");
        let empty = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n";
        deeds.push(Deed::fed(&restore, empty));
        // What was saved on an earlier day: chains without their last rules, or with other ones under the same marks.
        let shorter = |line: &str| (!line.contains("-j DROP")).then(|| line.to_owned());
        let opened = |line: &str| Some(line.replace("-j DROP", "-j ACCEPT"));
        deeds.push(Deed::fed(&restore, old(others, family, "filter", shorter)));
        deeds.push(Deed::fed(&restore, old(others, family, "filter", opened)));
        deeds.push(Deed::fed(&restore, old(others, family, "raw", opened)));
    }
    for (family, table, chain, length) in our_chains(others).into_iter().step_by(of_each) {
        if length == 0 {
            deeds.push(Deed::of(format!("{family} -t {table} -A {chain} -j ACCEPT")));
            continue;
        }
        deeds.push(Deed::of(format!("{family} -t {table} -F {chain}")));
        deeds.push(Deed::of(format!("{family} -t {table} -D {chain} 1")));
    }
    if rules == Rules::Iptables(Variant::Nft) {
        for lines in [
            "flush ruleset",
            "delete table ip filter",
            "flush table ip6 filter",
            "delete table ip raw",
            "insert rule ip filter cali-FORWARD counter accept",
        ] {
            deeds.push(Deed::fed("nft -f -", lines));
        }
    }
    deeds.extend(set_deeds());
    deeds
}

/// What is done to sets; of that nobody tells.
fn set_deeds() -> Vec<Deed> {
    let mut deeds = Vec::new();
    for set in sets().filter(|set| set.name.starts_with("cali")) {
        let (name, Some(member)) = (&set.name, set.members.first()) else {
            continue;
        };
        let member = member.split(' ').next().unwrap();
        deeds.push(Deed::of(format!("ipset flush {name}")));
        deeds.push(Deed::of(format!("ipset del {name} {member}")));
        deeds.push(
            Deed::fed(
                "ipset restore",
                format!("create mine {}\nswap mine {name}\n", set.kind),
            )
            .with_back("ipset destroy mine"),
        );
    }
    for (family, address) in [("cali40", "10.1.0.3"), ("cali60", "fd00:1::3")] {
        let of_addresses = |set: &IpSet| {
            let room = set
                .kind
                .split_once("maxelem ")
                .map(|(_, rest)| rest.split(' ').next());
            let room: usize = room.flatten().unwrap().parse().unwrap();
            let is_there = set.members.iter().any(|member| member == address);
            set.kind.starts_with("hash:ip ") && !is_there && set.members.len() < room
        };
        for set in sets()
            .filter(|set| set.name.starts_with(family))
            .filter(of_addresses)
        {
            deeds.push(Deed::of(format!("ipset add {} {address}", set.name)));
        }
    }
    deeds.into_iter().map(Deed::untold).collect()
}

/// Those of the run that are of iptables.
fn each_variant(test: impl Fn(Rules)) {
    Rules::each(|rules| {
        if rules != Rules::Nftables {
            test(rules);
        }
    });
}

#[test]
fn an_old_state_that_is_restored_does_not_come_into_force() {
    each_variant(|rules| {
        let mut world = world(rules);
        let others = world.others();
        let closed = policy("red", "in", ingress("role == 'b'", Vec::new()));
        world.change(&[], &[closed.key()]);
        let saved = within(&world.node, || {
            FAMILIES.map(|family| restorable(others.saved(family).into_iter()))
        });
        world.program(&[closed]);
        let right = world.our_objects();
        within(&world.node, || {
            for (family, saved) in FAMILIES.iter().zip(&saved) {
                others.feed(&format!("{family}-restore"), saved);
            }
        });
        wait_for("the repair", PATIENCE, || {
            world.engine.run(|core| core.mend());
            (world.our_objects() == right).then_some(())
        });
        assert_eq!(world.engine.run(|core| core.differences()), 0);
        let questions = [
            ("10.1.0.1", "10.1.0.2", 9),
            ("fd00:1::1", "fd00:1::2", 9),
            ("10.1.0.2", "10.1.0.3", 9),
        ];
        assert_eq!(ask(&mut world, &questions), [false, false, true]);
    });
}

/// kube-proxy writes its tables, an administrator inserts and deletes, and the agent follows policy, all at once.
#[test]
fn several_who_write_at_once_lose_nothing() {
    const TIMES: usize = 12;
    each_variant(|rules| {
        let mut world = world(rules);
        let others = world.others();
        let services = |n: usize| {
            format!("*nat\n:KUBE-SERVICES - [0:0]\n-A KUBE-SERVICES -d 10.96.0.{n}/32 -j RETURN\nCOMMIT\n")
        };
        within(&world.node, || {
            for family in FAMILIES {
                others.run(&format!("{family} -N MINE"));
                others.run(&format!("{family} -A FORWARD -j MINE"));
            }
            others.feed("iptables-restore --noflush", &services(1));
            others.run("iptables -t nat -A PREROUTING -j KUBE-SERVICES");
        });
        let again = crate::resources(&world);
        std::thread::scope(|scope| {
            let (node, others) = (&world.node, &others);
            let by_kube_proxy = scope.spawn(move || {
                within(node, || {
                    (1..=TIMES).for_each(|n| others.feed("iptables-restore --noflush", &services(n)))
                });
            });
            let by_hand = scope.spawn(move || {
                within(node, || {
                    for n in 0..TIMES {
                        for family in FAMILIES {
                            others.run(&format!("{family} -I FORWARD -i their{n} -j MINE"));
                            if n % 4 == 3 {
                                others.run(&format!("{family} -D FORWARD -i their{n} -j MINE"));
                            }
                        }
                    }
                });
            });
            while !by_kube_proxy.is_finished() || !by_hand.is_finished() {
                for rules in [
                    ingress("role == 'b'", Vec::new()),
                    ingress("role == 'a'", Vec::new()),
                ] {
                    world.program(&[policy("red", "in", rules)]);
                }
                world.program(&again);
            }
            by_kube_proxy.join().unwrap();
            by_hand.join().unwrap();
        });
        wait_for("the last repair", PATIENCE, || {
            world.engine.run(|core| core.mend());
            (world.engine.run(|core| core.differences()) == 0).then_some(())
        });
        policy_holds(&mut world, "after all have written");
        within(&world.node, || {
            for family in FAMILIES {
                let saved = others.saved(family);
                let forward: Vec<&String> = saved
                    .iter()
                    .filter(|line| line.starts_with("-A FORWARD "))
                    .collect();
                let theirs: Vec<&&String> = forward.iter().filter(|line| line.contains("-i their")).collect();
                assert_eq!(theirs.len(), TIMES - TIMES / 4, "{forward:#?}");
                assert!(forward[0].contains("-j cali-FORWARD"), "{forward:#?}");
                assert!(forward.last().unwrap().ends_with("-j MINE"), "{forward:#?}");
            }
            let services: Vec<String> = others
                .saved("iptables")
                .into_iter()
                .filter(|line| line.starts_with("-A KUBE-SERVICES"))
                .collect();
            assert_eq!(
                services,
                [format!("-A KUBE-SERVICES -d 10.96.0.{TIMES}/32 -j RETURN")]
            );
        });
    });
}
