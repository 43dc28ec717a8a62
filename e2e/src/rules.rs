//! The ways to hold policy in the kernel: which of them a run is about, and what others see of ours with each.
//!
//! A test that turns on rules runs with each ([`Rules::each`]): whole with the first, and with the others as much of it as
//! shows what they have of their own. `MANX_RULES` names those that a run is about, with spaces between them: with one name,
//! all there is runs with that one.

use crate::bed::{our_objects, tool};
use dataplane::{DataplaneSettings, IptablesSettings, RulesBackend};
use dataplane_iptables::names::{is_our_chain, is_our_set};
use dataplane_iptables::programs::{BackendChoice, LockSettings, ProgramSettings, Variant};
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use tempfile::TempDir;

/// Names the ways that a run is about.
const CHOICE: &str = "MANX_RULES";
/// By this variable the programs of the legacy variant are told of their lock file.
const LOCK_FILE: &str = "XTABLES_LOCKFILE";
/// The programs of one family, without what stands behind the variant in their names.
pub const FAMILIES: [&str; 2] = ["iptables", "ip6tables"];

/// A way to hold policy in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// A table of our own in nf_tables.
    Nftables,
    /// Chains of our own in the tables of iptables, of one of its variants.
    Iptables(Variant),
}

impl Rules {
    /// All of them.
    pub const ALL: [Rules; 3] = [
        Rules::Nftables,
        Rules::Iptables(Variant::Legacy),
        Rules::Iptables(Variant::Nft),
    ];

    /// Those that this run is about: all where nobody names some.
    pub fn of_run() -> Vec<Rules> {
        let Ok(named) = std::env::var(CHOICE) else {
            return Rules::ALL.into();
        };
        let one = |word: &str| word.parse().unwrap_or_else(|e: String| panic!("{CHOICE}: {e}"));
        let rules: Vec<Rules> = named.split_whitespace().map(one).collect();
        assert!(!rules.is_empty(), "{CHOICE} is set and names none");
        rules
    }

    /// The one with which everything runs, and which holds policy where a test is about something else.
    pub fn first() -> Rules {
        Rules::of_run()[0]
    }

    /// Runs a test with each of the run, one after the other.
    pub fn each(test: impl Fn(Rules)) {
        for rules in Rules::of_run() {
            eprintln!("with {rules}");
            test(rules);
        }
    }

    /// How much of something is done: `whole` with the first of the run, and `covering` with the others.
    pub fn share<T>(self, whole: T, covering: T) -> T {
        if self == Rules::first() { whole } else { covering }
    }

    /// The dataplane's settings that nobody said anything about, with this way to hold policy.
    pub fn settings(self) -> DataplaneSettings {
        DataplaneSettings {
            rules: self.backend(),
            ..DataplaneSettings::default()
        }
    }

    /// What chooses it in the dataplane's settings.
    pub fn backend(self) -> RulesBackend {
        match self {
            Rules::Nftables => RulesBackend::Nftables,
            Rules::Iptables(variant) => RulesBackend::Iptables(IptablesSettings::of(variant)),
        }
    }

    /// Which one the settings choose.
    pub fn of(settings: &DataplaneSettings) -> Rules {
        match &settings.rules {
            RulesBackend::Nftables => Rules::Nftables,
            RulesBackend::Iptables(own) => {
                let is_it = |variant: &Variant| BackendChoice::from(*variant) == own.choice;
                let variant = Variant::ALL.into_iter().find(is_it);
                Rules::Iptables(variant.expect("a test names the variant"))
            }
        }
    }

    /// Whether what holds policy may be owned, so that nobody else can write to it; and that it is not, in any case.
    pub fn ownerships(self) -> &'static [bool] {
        match self {
            Rules::Nftables => &[false, true],
            Rules::Iptables(_) => &[false],
        }
    }
}

impl fmt::Display for Rules {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rules::Nftables => out.write_str("nftables"),
            Rules::Iptables(variant) => write!(out, "iptables-{variant}"),
        }
    }
}

impl FromStr for Rules {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Rules::ALL.into_iter().find(|rules| rules.to_string() == text);
        found.ok_or_else(|| {
            let all = Rules::ALL.map(|rules| rules.to_string()).join(", ");
            format!("'{text}' is no way to hold policy; there are {all}")
        })
    }
}

/// A node's lock file, by which the programs of the legacy variant wait for each other: each node has one, and so has each
/// namespace that is one here.
#[derive(Debug)]
pub struct Lock {
    folder: TempDir,
}

impl Lock {
    /// A new one, which the settings name from now on.
    pub fn named_in(settings: &mut DataplaneSettings) -> Self {
        let lock = Lock {
            folder: tempfile::tempdir().expect("make a folder for the lock file"),
        };
        name_lock(settings, &lock.file());
        lock
    }

    /// The file.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("xtables.lock")
    }
}

/// Has the settings name a lock file.
pub fn name_lock(settings: &mut DataplaneSettings, file: &Path) {
    let programs = ProgramSettings {
        lock: LockSettings {
            file: file.to_owned(),
            ..LockSettings::default()
        },
        ..ProgramSettings::default()
    };
    if let RulesBackend::Iptables(own) = &mut settings.rules {
        own.programs = programs.clone();
    }
    // Those that look for what an earlier life left are the same.
    settings.programs = programs;
}

/// Programs of the distribution in the hands of somebody else on the same node, and as the second opinion. They act in the
/// calling thread's namespace.
#[derive(Clone, Debug)]
pub struct Others {
    rules: Rules,
    lock: PathBuf,
}

impl Others {
    /// On a node where policy is held in this way and the lock is this file.
    pub fn new(rules: Rules, lock: &Lock) -> Self {
        Others {
            rules,
            lock: lock.file(),
        }
    }

    /// The same with the programs of the other variant of iptables; the same where policy is held by nftables.
    pub fn other_variant(&self) -> Others {
        Others {
            rules: match self.rules {
                Rules::Nftables => Rules::Nftables,
                Rules::Iptables(variant) => Rules::Iptables(variant.other()),
            },
            lock: self.lock.clone(),
        }
    }

    fn command(&self, program: &str) -> Command {
        let Some((family, rest)) = program.split_once("tables") else {
            return Command::new(program);
        };
        let Rules::Iptables(variant) = self.rules else {
            panic!("{program}: of which variant, where policy is held by nftables?");
        };
        let mut command = Command::new(format!("{family}tables-{variant}{rest}"));
        command.env(LOCK_FILE, &self.lock);
        command
    }

    /// Runs a command such as `iptables -F FORWARD` (of the node's variant), `ipset …` or `nft …` and returns what it says,
    /// or what it complains about.
    pub fn try_run(&self, command: &str) -> Result<String, String> {
        let mut words = command.split_whitespace();
        let program = words.next().expect("a command has a program");
        let output = self.command(program).args(words).output();
        let output = output.unwrap_or_else(|e| panic!("the tests need {program}: {e}"));
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stderr))
        }
    }

    /// The same where it has to succeed.
    pub fn run(&self, command: &str) -> String {
        self.try_run(command)
            .unwrap_or_else(|complaint| panic!("{command}: {complaint}"))
    }

    /// Gives lines to a program such as `iptables-restore --noflush`; says what it complains about.
    pub fn try_feed(&self, command: &str, lines: &str) -> Result<(), String> {
        let mut words = command.split_whitespace();
        let program = words.next().expect("a command has a program");
        let mut command = self.command(program);
        let command = command.args(words).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|e| panic!("the tests need {program}: {e}"));
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(lines.as_bytes()).expect("write to the program");
        drop(stdin);
        let output = child.wait_with_output().expect("wait for the program");
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// The same where it has to succeed.
    pub fn feed(&self, command: &str, lines: &str) {
        self.try_feed(command, lines)
            .unwrap_or_else(|complaint| panic!("{command} refused\n{lines}\n{complaint}"));
    }

    /// What a program such as `iptables-save` says of all tables, without remarks and numbers of packets.
    pub fn saved(&self, family: &str) -> Vec<String> {
        let line = |line: &str| match line.strip_prefix(':').and_then(|chain| chain.rsplit_once(" [")) {
            Some((chain, _)) => format!(":{chain}"),
            None => line.to_owned(),
        };
        let text = self.run(&format!("{family}-save"));
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(line).collect()
    }

    /// Everything of ours that holds policy, object by object in an order that does not depend on who came first.
    pub fn our_objects(&self) -> Vec<String> {
        if self.rules == Rules::Nftables {
            return our_objects();
        }
        let mut objects = Vec::new();
        for family in FAMILIES {
            objects.extend(self.our_chains(family));
        }
        objects.extend(sets().filter(|set| is_our_set(&set.name)).map(|set| set.shown()));
        objects.sort();
        objects
    }

    /// Our chains with their rules, and our rules in the kernel's chains with their places there.
    fn our_chains(&self, family: &str) -> Vec<String> {
        let mut objects: Vec<String> = Vec::new();
        let (mut table, mut place) = (String::new(), (String::new(), 0));
        for line in self.saved(family) {
            if let Some(name) = line.strip_prefix('*') {
                table = name.to_owned();
            } else if let Some(chain) = line.strip_prefix(':') {
                let chain = chain.split(' ').next().unwrap_or_default();
                if is_our_chain(chain) {
                    objects.push(format!("{family} {table} {chain}"));
                }
            } else if let Some(rule) = line.strip_prefix("-A ") {
                let (chain, rule) = rule.split_once(' ').unwrap_or((rule, ""));
                place = (chain.to_owned(), if place.0 == chain { place.1 + 1 } else { 1 });
                let beginning = format!("{family} {table} {chain}");
                if is_our_chain(chain) {
                    let known = objects
                        .iter_mut()
                        .find(|object| object.split('\n').next() == Some(beginning.as_str()));
                    let known = known.expect("a chain stands before its rules");
                    known.push_str(&format!("\n\t{rule}"));
                } else if rule.contains("\"cali:") || rule.contains("-j cali-") {
                    objects.push(format!("{beginning} {}: {rule}", place.1));
                }
            }
        }
        objects
    }
}

/// An IP set as `ipset` shows it.
#[derive(Debug)]
pub struct IpSet {
    /// Its name.
    pub name: String,
    /// What kind of set it is, without what the kernel counts of it.
    pub kind: String,
    /// Its members, sorted.
    pub members: Vec<String>,
}

impl IpSet {
    /// All of it, as text.
    pub fn shown(&self) -> String {
        let members: String = self
            .members
            .iter()
            .map(|member| format!("\n\t{member}"))
            .collect();
        format!("ipset {} {}{members}", self.name, self.kind)
    }
}

/// The IP sets of the calling thread's namespace.
pub fn sets() -> impl Iterator<Item = IpSet> {
    let mut sets: Vec<IpSet> = Vec::new();
    for line in tool("ipset", &["save"]).lines() {
        let mut words = line.split_whitespace();
        let (what, name) = (words.next(), words.next().unwrap_or_default());
        // How large the kernel has made its table is its own matter, and so is where it begins to count.
        let lasting = |words: &[&str]| {
            let passing = ["hashsize", "initval", "bucketsize"];
            let pairs = words.chunks(2).filter(|pair| !passing.contains(&pair[0]));
            pairs.map(|pair| pair.join(" ")).collect::<Vec<_>>().join(" ")
        };
        let rest: Vec<&str> = words.collect();
        match (what, rest.split_first()) {
            (Some("create"), Some((kind, options))) => sets.push(IpSet {
                name: name.to_owned(),
                kind: format!("{kind} {}", lasting(options)),
                members: Vec::new(),
            }),
            (Some("add"), _) => {
                let set = sets.iter_mut().find(|set| set.name == name);
                set.expect("a set stands before its members")
                    .members
                    .push(rest.join(" "));
            }
            _ => {}
        }
    }
    for set in &mut sets {
        set.members.sort();
    }
    sets.into_iter()
}
