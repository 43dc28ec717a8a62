//! Namespaces, programs and what others do.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use dataplane_iptables::driver::{Applied, Driver};
use dataplane_iptables::ops::{Family, Insert, Place, SetKind, SetOp, SetSpec, Table, TableWrite};
use dataplane_iptables::programs::{LockSettings, ProgramSettings, Toolset, Variant, find};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

/// One node: a namespace with its lock file, and one variant's programs.
pub(crate) struct Node {
    pub(crate) tools: Toolset,
    pub(crate) lock: PathBuf,
    _folder: TempDir,
}

/// Runs `body` on a thread in a network namespace of its own, which goes with the thread.
pub(crate) fn in_namespace<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests make network namespaces, which needs root");
            body()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs `body` once for each variant.
pub(crate) fn on_both(body: impl Fn(&Node) + Sync) {
    for variant in Variant::ALL {
        in_namespace(|| body(&Node::new(variant)));
    }
}

pub(crate) fn settings(lock: &Path) -> ProgramSettings {
    ProgramSettings {
        lock: LockSettings {
            file: lock.to_owned(),
            ..LockSettings::default()
        },
        ..ProgramSettings::default()
    }
}

impl Node {
    pub(crate) fn new(variant: Variant) -> Self {
        Self::with(variant, |_| {})
    }

    pub(crate) fn with(variant: Variant, change: impl FnOnce(&mut ProgramSettings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lock = folder.path().join("xtables.lock");
        let mut settings = settings(&lock);
        change(&mut settings);
        let found = find(&settings);
        let tools = found
            .variant(variant)
            .expect("both variants of iptables are installed")
            .clone();
        Self {
            tools,
            lock,
            _folder: folder,
        }
    }

    pub(crate) fn driver(&self) -> Driver {
        Driver::open(self.tools.clone()).unwrap()
    }

    fn program(&self, family: Family, action: &str) -> Command {
        let base = match family {
            Family::Inet => "iptables",
            Family::Inet6 => "ip6tables",
        };
        let mut command = Command::new(format!("/usr/sbin/{base}-{}{action}", self.tools.variant));
        command.env("XTABLES_LOCKFILE", &self.lock);
        command
    }

    /// Somebody else's `iptables`.
    pub(crate) fn iptables(&self, arguments: &str) {
        let mut command = self.program(Family::Inet, "");
        let output = command
            .arg("--wait")
            .args(arguments.split_whitespace())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "iptables {arguments}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Somebody else's `iptables` or `ipset`, which may fail.
    pub(crate) fn try_command(&self, command: &str) {
        let mut words = command.split_whitespace();
        let mut command = match words.next() {
            Some("iptables") => self.program(Family::Inet, ""),
            _ => Command::new("/usr/sbin/ipset"),
        };
        command.args(words).output().unwrap();
    }

    /// Somebody else's `iptables-restore --noflush`.
    pub(crate) fn restore(&self, family: Family, lines: &str) {
        let mut command = self.program(family, "-restore");
        let mut child = command
            .args(["--noflush", "--wait"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{lines}");
    }

    /// What somebody else sees, without remarks and numbers of packets.
    pub(crate) fn save(&self, family: Family) -> String {
        let output = self.program(family, "-save").output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| match line.strip_prefix(':') {
                Some(chain) => &line[..1 + chain.rfind(" [").unwrap()],
                None => line,
            })
            .collect();
        lines.join("\n")
    }

    /// The rules of one chain, without our comments.
    pub(crate) fn chain(&self, table: &str, chain: &str) -> Vec<String> {
        let saved = self.save(Family::Inet);
        let of_table = saved.split(&format!("*{table}\n")).nth(1).unwrap_or_default();
        let of_table = of_table.split("COMMIT").next().unwrap();
        let prefix = format!("-A {chain} ");
        of_table
            .lines()
            .filter_map(|line| line.strip_prefix(&prefix))
            .map(without_comment)
            .collect()
    }
}

fn without_comment(rule: &str) -> String {
    match rule.find("-m comment --comment \"cali:") {
        Some(at) => format!("{}{}", &rule[..at], &rule[(at + 45).min(rule.len())..]),
        None => rule.to_owned(),
    }
}

pub(crate) fn texts(rules: &[&str]) -> Vec<String> {
    rules.iter().map(|&rule| rule.to_owned()).collect()
}

pub(crate) fn write(
    chains: &[(&str, Option<&[&str]>)],
    inserts: &[(&'static str, Place, &[&str])],
) -> TableWrite {
    TableWrite {
        family: Family::Inet,
        table: Table::Filter,
        chains: chains
            .iter()
            .map(|(name, rules)| ((*name).to_owned(), rules.map(texts)))
            .collect(),
        inserts: inserts
            .iter()
            .flat_map(|&(chain, place, rules)| {
                rules.iter().map(move |&rule| Insert {
                    chain,
                    rule: rule.to_owned(),
                    place,
                })
            })
            .collect(),
    }
}

/// A change of chains of [`small`]'s filter table, which has to say what stands in the kernel's chains too.
pub(crate) fn change(chains: &[(&str, Option<&[&str]>)]) -> TableWrite {
    let (_, tables) = small();
    let is_filter = |write: &&TableWrite| (write.family, write.table) == (Family::Inet, Table::Filter);
    TableWrite {
        inserts: tables.iter().find(is_filter).unwrap().inserts.clone(),
        ..write(chains, &[])
    }
}

/// A small layout in all tables of both families, with a set.
pub(crate) fn small() -> (Vec<SetOp>, Vec<TableWrite>) {
    let (mut sets, mut writes) = (Vec::new(), Vec::new());
    for (family, name, member) in [
        (Family::Inet, "cali40test", "10.1.0.0/16"),
        (Family::Inet6, "cali60test", "fd00:1::/32"),
    ] {
        sets.push(create(name, family, SetKind::HashNet));
        sets.push(SetOp::Add(
            name.to_owned(),
            vec![dataplane_iptables::ops::Member::Net(member.parse().unwrap())],
        ));
        let matches = format!("-m set --match-set {name} src -j cali-pi-one");
        for table in Table::ALL {
            let hook = if table == Table::Filter {
                "FORWARD"
            } else {
                "PREROUTING"
            };
            let hook = if table == Table::Nat { "POSTROUTING" } else { hook };
            writes.push(TableWrite {
                family,
                table,
                chains: vec![
                    ("cali-hook".into(), Some(vec!["-i cali+ -j cali-fw".into(), "-o eth0 -j RETURN".into()])),
                    (
                        "cali-fw".into(),
                        Some(vec![
                            "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN".into(),
                            matches.clone(),
                            "-m comment --comment \"nothing \\\"matched\\\"\" -m mark ! --mark 0x10000/0x10000 -j MARK --set-xmark 0x20000/0x20000".into(),
                        ]),
                    ),
                    (
                        "cali-pi-one".into(),
                        Some(vec![
                            "-p tcp -m multiport --dports 80,443,8000:8080 -j MARK --set-xmark 0x10000/0x10000".into(),
                            "-p udp -m udp --dport 53 -g cali-fw2".into(),
                        ]),
                    ),
                    ("cali-fw2".into(), Some(Vec::new())),
                ],
                inserts: vec![
                    Insert {
                        chain: hook,
                        place: Place::First,
                        rule: "-j cali-hook".into(),
                    },
                    Insert {
                        chain: hook,
                        place: Place::Last,
                        rule: "-m mark --mark 0x10000/0x10000 -j ACCEPT".into(),
                    },
                ],
            });
        }
    }
    // Interfaces have no direction "out" before routing, and none "in" after it.
    for write in &mut writes {
        for (_, rules) in &mut write.chains {
            for rule in rules.iter_mut().flatten() {
                match write.table {
                    Table::Filter => {}
                    Table::Nat => *rule = rule.replace("-i cali+", "-o cali+"),
                    Table::Raw | Table::Mangle => *rule = rule.replace("-o eth0", "-i eth0"),
                }
            }
        }
        if write.table == Table::Raw {
            // Nothing is known of connections there.
            for (_, rules) in &mut write.chains {
                rules
                    .iter_mut()
                    .flatten()
                    .for_each(|rule| *rule = rule.replace("-m conntrack --ctstate RELATED,ESTABLISHED ", ""));
            }
        }
    }
    (sets, writes)
}

pub(crate) fn create(name: &str, family: Family, kind: SetKind) -> SetOp {
    SetOp::Create(SetSpec {
        name: name.to_owned(),
        family,
        kind,
        max_elements: 65_536,
        with_timeout: false,
    })
}

/// Applies twice: the second time nothing may be left to do.
pub(crate) fn apply(driver: &mut Driver) -> Applied {
    let applied = driver.apply().unwrap_or_else(|failures| panic!("{failures}"));
    let again = driver.apply().unwrap_or_else(|failures| panic!("{failures}"));
    assert_eq!((again.restores, again.set_operations), (0, 0), "{again:?}");
    applied
}

/// Whether the tables are as they should be, by a reading of them all.
pub(crate) fn assert_settled(driver: &mut Driver) {
    driver.look_at_everything();
    let applied = driver.apply().unwrap_or_else(|failures| panic!("{failures}"));
    assert_eq!(
        (applied.restores, applied.set_operations, applied.mended),
        (0, 0, 0),
        "{applied:?}"
    );
}

/// A folder with programs that stand for iptables: each is a shell script.
pub(crate) fn fake_programs(script: &str) -> TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    for base in ["iptables", "ip6tables"] {
        for variant in Variant::ALL {
            for action in ["restore", "save"] {
                let path = folder.path().join(format!("{base}-{variant}-{action}"));
                let said = match variant {
                    Variant::Legacy => "legacy",
                    Variant::Nft => "nf_tables",
                };
                let script = script
                    .replace("VARIANT", said)
                    .replace("REAL", &format!("/usr/sbin/{base}-{variant}-{action}"));
                std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
    }
    folder
}

/// Runs `ipset` in the calling thread's namespace.
pub(crate) fn ipset(arguments: &str) -> String {
    let output = Command::new("/usr/sbin/ipset")
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "ipset {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The members of a set as the `ipset` program lists them, sorted.
pub(crate) fn ipset_members(name: &str) -> Vec<String> {
    let saved = ipset(&format!("save {name}"));
    let prefix = format!("add {name} ");
    let mut members: Vec<String> = saved
        .lines()
        .filter_map(|line| line.strip_prefix(&prefix))
        .map(str::to_owned)
        .collect();
    members.sort();
    members
}
