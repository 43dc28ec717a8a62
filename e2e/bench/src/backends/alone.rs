//! What the hands of iptables do by themselves, with as many kernel sets and chains as a layout of one set a selector and
//! one chain a policy has: what bounds the rest.

use super::tools;
use crate::bed::succeeded;
use crate::figure::{Figure, duration};
use crate::timing::Samples;
use anyhow::Context;
use dataplane_iptables::driver::Driver;
use dataplane_iptables::ipset::Ipsets;
use dataplane_iptables::ops::{Family, Insert, Member, Place, SetKind, SetOp, SetSpec, Table, TableWrite};
use dataplane_iptables::programs::Variant;
use dataplane_netlink::NetworkNamespace;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 7;
/// All sets that change, or half of them in each family.
const SETS: u32 = 2_000;
const MEMBERS: u32 = 10_000;
const CHAINS: usize = 1_000;

/// Measures.
pub(super) fn figures() -> anyhow::Result<Vec<Figure>> {
    eprintln!("  the hands of iptables alone");
    let mut figures = NetworkNamespace::anonymous()?.run(sets)??;
    for variant in Variant::ALL {
        figures.push(first_load(variant)?);
        figures.extend(NetworkNamespace::anonymous()?.run(|| tables(variant))??);
    }
    Ok(figures)
}

fn timed(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed())
}

fn repeated(mut round: impl FnMut(usize) -> anyhow::Result<Duration>) -> anyhow::Result<Samples> {
    (0..ROUNDS).map(&mut round).collect()
}

fn address(family: Family, number: u32) -> Member {
    let address: IpAddr = match family {
        Family::Inet => Ipv4Addr::from_bits(0x0a00_0000 + number).into(),
        Family::Inet6 => Ipv6Addr::from_bits((0xfd << 120) + u128::from(number)).into(),
    };
    Member::Ip(address)
}

fn create(name: String, family: Family) -> SetOp {
    SetOp::Create(SetSpec {
        name,
        family,
        kind: SetKind::HashIp,
        max_elements: 65_536,
        with_timeout: false,
    })
}

/// Sets by netlink, as the driver does it, and by the program, which it does not.
fn sets() -> anyhow::Result<Vec<Figure>> {
    let mut ipsets = Ipsets::open()?;
    let name = |number: u32| format!("cali40{number}");
    let member = |round: usize| vec![address(Family::Inet, 1 + u32::try_from(round).unwrap_or(0))];
    let made: Vec<SetOp> = (0..SETS)
        .flat_map(|n| [create(name(n), Family::Inet), SetOp::Add(name(n), member(0))])
        .collect();
    let removed: Vec<SetOp> = (0..SETS).map(|n| SetOp::Destroy(name(n))).collect();
    let changed = |round: usize| -> Vec<SetOp> {
        let change = |n| {
            [
                SetOp::Add(name(n), member(round + 1)),
                SetOp::Remove(name(n), member(round)),
            ]
        };
        (0..SETS).flat_map(change).collect()
    };
    let load = [
        create("large".to_string(), Family::Inet),
        SetOp::Add(
            "large".to_string(),
            (0..MEMBERS).map(|n| address(Family::Inet, n)).collect(),
        ),
    ];
    let unload = [SetOp::Destroy("large".to_string())];
    let mut netlink = |operations: &[SetOp]| ipsets.apply(operations).context("changing IP sets");
    let mut program = by_program;
    type Way<'a> = &'a mut dyn FnMut(&[SetOp]) -> anyhow::Result<()>;
    let ways: [Way<'_>; 2] = [&mut netlink, &mut program];
    let mut changing = Vec::new();
    let mut loading = Vec::new();
    for apply in ways {
        apply(&made)?;
        changing.push(repeated(|round| timed(|| apply(&changed(round))))?.median());
        apply(&removed)?;
        loading.push(
            repeated(|_| {
                let time = timed(|| apply(&load))?;
                apply(&unload)?;
                Ok(time)
            })?
            .median(),
        );
    }
    let line = |what: &str, times: &[Duration], goal: u64| {
        let of = |n: usize| times.get(n).copied().unwrap_or_default();
        Figure::time(
            what,
            of(0),
            Duration::from_millis(goal),
            format!(
                "by netlink, median of {ROUNDS}; by the program `ipset restore` {}",
                duration(of(1))
            ),
        )
    };
    Ok(vec![
        line(
            "IP sets alone: one member changed in each of 2,000",
            &changing,
            150,
        ),
        line("IP sets alone: one of 10,000 members loaded", &loading, 50),
    ])
}

/// The same by the program, as one call.
fn by_program(operations: &[SetOp]) -> anyhow::Result<()> {
    let mut lines = String::new();
    for operation in operations {
        let mut each = |verb: &str, name: &str, members: &[Member]| {
            members
                .iter()
                .for_each(|member| lines.push_str(&format!("{verb} {name} {member} -exist\n")));
        };
        match operation {
            SetOp::Create(spec) => lines.push_str(&format!("create {} {}\n", spec.name, spec.kind.name())),
            SetOp::Add(name, members) => each("add", name, members),
            SetOp::Remove(name, members) => each("del", name, members),
            SetOp::Swap(one, other) => lines.push_str(&format!("swap {one} {other}\n")),
            SetOp::Destroy(name) => lines.push_str(&format!("destroy {name}\n")),
        }
    }
    let mut child = Command::new("ipset")
        .arg("restore")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("running the program 'ipset' (package ipset)")?;
    child
        .stdin
        .take()
        .context("writing to ipset")?
        .write_all(lines.as_bytes())?;
    succeeded("ipset", &child.wait_with_output()?)
}

fn write(family: Family, chains: Vec<(String, Option<Vec<String>>)>, hook: &str) -> TableWrite {
    TableWrite {
        family,
        table: Table::Filter,
        chains,
        inserts: vec![Insert {
            chain: "FORWARD",
            rule: format!("-j {hook}"),
            place: Place::First,
        }],
    }
}

fn apply(driver: &mut Driver) -> anyhow::Result<dataplane_iptables::driver::Applied> {
    driver.apply().map_err(|failures| anyhow::anyhow!("{failures}"))
}

/// 100 interfaces, 500 policies and 1,000 sets of three members, in each of both families.
fn first_load(variant: Variant) -> anyhow::Result<Figure> {
    let (mut sets, mut writes) = (Vec::new(), Vec::new());
    for family in Family::BOTH {
        let name = |n: u32| format!("cali{}0s{n}", family.number());
        for n in 0..SETS / 2 {
            sets.push(create(name(n), family));
            sets.push(SetOp::Add(
                name(n),
                (0..3).map(|k| address(family, n * 8 + k)).collect(),
            ));
        }
        let policies = (0..500u32).map(|policy| {
            let rule = |set: u32| {
                let asked = name(policy * 2 + set);
                format!("-p tcp -m set --match-set {asked} src -m multiport --dports 80,443 -j MARK --set-xmark 0x10000/0x10000")
            };
            (format!("cali-pi-{policy}"), Some((0..2).map(rule).collect()))
        });
        let interfaces = (0..100).map(|pod| {
            let jumps = (0..5).map(|policy| format!("-j cali-pi-{}", pod * 5 + policy));
            (format!("cali-tw-{pod}"), Some(jumps.collect()))
        });
        let dispatch = (0..100)
            .map(|pod| format!("-o cali{pod} -g cali-tw-{pod}"))
            .collect();
        let hook = "cali-FORWARD";
        let chains = policies
            .chain(interfaces)
            .chain([(hook.to_string(), Some(dispatch))])
            .collect();
        writes.push(write(family, chains, hook));
    }
    let folder = tempfile::tempdir()?;
    let tools = tools(variant, folder.path())?;
    let times = repeated(|_| {
        NetworkNamespace::anonymous()?.run(|| {
            let mut driver = Driver::open(tools.clone())?;
            timed(|| {
                driver.take(&sets, &writes);
                apply(&mut driver).map(drop)
            })
        })?
    })?;
    Ok(Figure::time(
        format!(
            "iptables {variant} alone: 100 interfaces, 500 policies in chains of their own, 2,000 sets, both families"
        ),
        times.median(),
        Duration::from_millis(600),
        format!(
            "the driver without a layout, reading back included; median of {ROUNDS}, least {}",
            duration(times.least())
        ),
    ))
}

/// A thousand chains with two rules each.
fn tables(variant: Variant) -> anyhow::Result<Vec<Figure>> {
    let folder = tempfile::tempdir()?;
    let tools = tools(variant, folder.path())?;
    let mut driver = Driver::open(tools.clone())?;
    let name = |n: usize| format!("cali-pi-{n}");
    let rules = || {
        let rules = [
            "-p tcp -m multiport --dports 80,443 -j MARK --set-xmark 0x10000/0x10000",
            "-m mark --mark 0x10000/0x10000 -j RETURN",
        ];
        Some(rules.map(str::to_string).to_vec())
    };
    let chains = (0..CHAINS).map(|n| (name(n), rules())).collect();
    driver.take(&[], &[write(Family::Inet, chains, "cali-pi-1")]);
    apply(&mut driver)?;
    let change = repeated(|round| {
        let rule = format!("-p tcp -m tcp --dport {} -j ACCEPT", round + 1);
        driver.take(
            &[],
            &[write(
                Family::Inet,
                vec![(name(5), Some(vec![rule]))],
                "cali-pi-1",
            )],
        );
        timed(|| apply(&mut driver).map(drop))
    })?;
    let look = repeated(|_| {
        timed(|| {
            driver.look_at_everything();
            apply(&mut driver).map(drop)
        })
    })?;
    let save = repeated(|_| {
        timed(|| {
            tools.save(Family::Inet, Some(Table::Filter))?;
            Ok(())
        })
    })?;
    Ok(vec![
        Figure::beside(
            format!("iptables {variant} alone: one of {CHAINS} chains of two rules written anew"),
            duration(change.median()),
            format!(
                "one call of the restoring program, median of {ROUNDS}, least {}",
                duration(change.least())
            ),
        ),
        Figure::beside(
            format!("iptables {variant} alone: a look at all tables"),
            duration(look.median()),
            format!(
                "what follows a write by a second; the saving program alone {}",
                duration(save.median())
            ),
        ),
    ])
}
