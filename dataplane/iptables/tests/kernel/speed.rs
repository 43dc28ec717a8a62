//! Figures, printed and not judged: `cargo test -p dataplane-iptables --release --test kernel -- --ignored speed --nocapture`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use dataplane_iptables::driver::{clean_sets, clean_tables};
use dataplane_iptables::ipset::Ipsets;
use dataplane_iptables::ops::{Family, Member, Place, SetKind, SetOp, Table, TableWrite};

use crate::bed::{create, in_namespace, on_both, write};

const ROUNDS: usize = 7;
const SETS: u32 = 2_000;
const MEMBERS: u32 = 10_000;

fn address(number: u32) -> Member {
    Member::Ip(Ipv4Addr::from(0x0a00_0000 + number).into())
}

/// The median of some rounds.
fn median(mut round: impl FnMut(usize) -> Duration) -> Duration {
    let mut times: Vec<Duration> = (0..ROUNDS).map(&mut round).collect();
    times.sort();
    times[ROUNDS / 2]
}

fn timed(work: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}

/// The same by the program, as one call.
fn by_program(operations: &[SetOp]) {
    let mut lines = String::new();
    for operation in operations {
        match operation {
            SetOp::Create(spec) => writeln!(lines, "create {} {}", spec.name, spec.kind.name()).unwrap(),
            SetOp::Add(name, members) => {
                members
                    .iter()
                    .for_each(|member| writeln!(lines, "add {name} {member} -exist").unwrap());
            }
            SetOp::Remove(name, members) => {
                members
                    .iter()
                    .for_each(|member| writeln!(lines, "del {name} {member} -exist").unwrap());
            }
            SetOp::Swap(one, other) => writeln!(lines, "swap {one} {other}").unwrap(),
            SetOp::Destroy(name) => writeln!(lines, "destroy {name}").unwrap(),
        }
    }
    let mut child = Command::new("/usr/sbin/ipset")
        .arg("restore")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
#[ignore = "prints figures"]
fn speed_of_sets() {
    in_namespace(|| {
        let mut ipsets = Ipsets::open().unwrap();
        let name = |number: u32| format!("cali40{number}");
        let made: Vec<SetOp> = (0..SETS)
            .flat_map(|number| {
                [
                    create(&name(number), Family::Inet, SetKind::HashIp),
                    SetOp::Add(name(number), vec![address(1)]),
                ]
            })
            .collect();
        let removed: Vec<SetOp> = (0..SETS).map(|number| SetOp::Destroy(name(number))).collect();
        let changed = |round: usize| -> Vec<SetOp> {
            let member = |round: usize| vec![address(1 + round as u32)];
            (0..SETS)
                .flat_map(|number| {
                    [
                        SetOp::Add(name(number), member(round + 1)),
                        SetOp::Remove(name(number), member(round)),
                    ]
                })
                .collect()
        };
        let load = [
            create("large", Family::Inet, SetKind::HashIp),
            SetOp::Add("large".into(), (0..MEMBERS).map(address).collect()),
        ];
        let unload = [SetOp::Destroy("large".into())];
        let mut netlink = |operations: &[SetOp]| timed(|| ipsets.apply(operations).unwrap());
        let program = |operations: &[SetOp]| timed(|| by_program(operations));
        type Way<'a> = (&'a str, &'a mut dyn FnMut(&[SetOp]) -> Duration);
        let mut program = program;
        let ways: [Way<'_>; 2] = [("netlink", &mut netlink), ("ipset restore", &mut program)];
        for (way, apply) in ways {
            let making = median(|_| {
                let time = apply(&made);
                apply(&removed);
                time
            });
            apply(&made);
            let changing = median(|round| apply(&changed(round)));
            let removing = apply(&removed);
            let loading = median(|_| {
                let time = apply(&load);
                apply(&unload);
                time
            });
            println!(
                "{way}: {SETS} sets made {making:?}, one member changed in each {changing:?}, removed {removing:?}; {MEMBERS} members loaded {loading:?}"
            );
        }
        ipsets.apply(&made).unwrap();
        let headers = median(|_| timed(|| drop(ipsets.headers().unwrap())));
        let all = median(|_| timed(|| drop(ipsets.list_all(|_| true).unwrap())));
        println!("{SETS} sets: headers {headers:?}, with members {all:?}");
    });
}

#[test]
#[ignore = "prints figures"]
fn speed_of_tables() {
    on_both(|node| {
        let mut driver = node.driver();
        let names: Vec<String> = (0..1_000).map(|number| format!("cali-pi-{number}")).collect();
        let rules = [
            "-p tcp -m multiport --dports 80,443 -j MARK --set-xmark 0x10000/0x10000",
            "-m mark --mark 0x10000/0x10000 -j RETURN",
        ];
        let chains: Vec<(&str, Option<&[&str]>)> = names
            .iter()
            .map(|name| (name.as_str(), Some(&rules[..])))
            .collect();
        let hook = [("FORWARD", Place::First, &["-j cali-pi-1"][..])];
        driver.take(&[], &[write(&chains, &hook)]);
        let first = timed(|| drop(driver.apply().unwrap()));
        let change = median(|round| {
            let rule = format!("-p tcp -m tcp --dport {} -j ACCEPT", round + 1);
            driver.take(&[], &[write(&[("cali-pi-5", Some(&[&rule]))], &hook)]);
            timed(|| assert_eq!(driver.apply().unwrap().saves, 0))
        });
        let notice = timed(|| _ = driver.notice());
        let look = median(|_| {
            timed(|| {
                driver.look_at_everything();
                driver.apply().unwrap();
            })
        });
        let save = median(|_| timed(|| drop(node.tools.save(Family::Inet, None).unwrap())));
        println!(
            "{}: 1,000 chains written and read back {first:?}, one of them changed {change:?}, whole look {look:?}, one save {save:?}, the watch read {notice:?}",
            node.tools.variant
        );
    });
}

#[test]
#[ignore = "prints figures"]
fn speed_of_a_first_load() {
    on_both(|node| {
        let times = median(|_| {
            // 100 interfaces, 500 policies, 2,000 sets of three members, in both families.
            let (mut sets, mut writes) = (Vec::new(), Vec::new());
            for (family, letter) in [(Family::Inet, '4'), (Family::Inet6, '6')] {
                let address = |number: u32| match family {
                    Family::Inet => address(number),
                    Family::Inet6 => {
                        Member::Ip(std::net::Ipv6Addr::from(u128::from(number) + (0xfd << 120)).into())
                    }
                };
                for number in 0..SETS {
                    let name = format!("cali{letter}0s{number}");
                    sets.push(create(&name, family, SetKind::HashIp));
                    sets.push(SetOp::Add(
                        name,
                        (0..3).map(|member| address(number * 8 + member)).collect(),
                    ));
                }
                let policies = (0..500).map(|policy| {
                    let rule = |set: usize| {
                        format!(
                            "-p tcp -m set --match-set cali{letter}0s{} src -m multiport --dports 80,443 -j MARK --set-xmark 0x10000/0x10000",
                            policy * 4 + set
                        )
                    };
                    (format!("cali-pi-{policy}"), Some((0..4).map(rule).collect()))
                });
                let interfaces = (0..100).map(|pod| {
                    let jumps = (0..5).map(|policy| format!("-j cali-pi-{}", pod * 5 + policy));
                    (format!("cali-tw-{pod}"), Some(jumps.collect()))
                });
                let dispatch = (0..100)
                    .map(|pod| format!("-o cali{pod} -g cali-tw-{pod}"))
                    .collect();
                writes.push(TableWrite {
                    family,
                    table: Table::Filter,
                    chains: policies
                        .chain(interfaces)
                        .chain([("cali-FORWARD".to_owned(), Some(dispatch))])
                        .collect(),
                    inserts: write(&[], &[("FORWARD", Place::First, &["-j cali-FORWARD"])]).inserts,
                });
            }
            let mut driver = node.driver();
            let time = timed(|| {
                driver.take(&sets, &writes);
                driver.apply().unwrap();
            });
            clean_tables(&node.tools).unwrap();
            clean_sets().unwrap();
            time
        });
        println!("{}: first load of both families {times:?}", node.tools.variant);
    });
}
