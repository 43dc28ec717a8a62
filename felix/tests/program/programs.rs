//! Programs of iptables that are missing, old, fail or hang, and a lock that somebody else holds: felix says so, is not ready,
//! keeps what is in force, and goes on by itself when the cause is gone.

use crate::bed::{Felix, Node, put, wait_for};
use nix::fcntl::{Flock, FlockArg};
use policy_model::{Object, Resource, WorkloadEndpointSpec};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

const HEALTH: u16 = 9099;

/// The only folder in which a felix finds programs of iptables, and what these do.
struct Programs<'node> {
    node: &'node Node,
    variant: &'static str,
}

impl<'node> Programs<'node> {
    fn of(node: &'node Node, variant: &'static str) -> Self {
        for folder in ["programs", "real", "nothing"] {
            fs::create_dir(node.path(folder)).unwrap();
        }
        let programs = Programs { node, variant };
        for name in programs.names() {
            // One file that knows by its name what it is to be.
            let multi = format!("/usr/sbin/xtables-{variant}-multi");
            fs::copy(multi, node.path("real").join(&name)).unwrap();
        }
        programs
    }

    fn names(&self) -> Vec<String> {
        let of = |base: &str| ["restore", "save"].map(|action| format!("{base}-{}-{action}", self.variant));
        ["iptables", "ip6tables"]
            .iter()
            .flat_map(|base| of(base))
            .collect()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.node.path("programs").join(name)
    }

    /// Has the programs do this first; nothing is what they do anyway. Each is replaced at once.
    fn become_such(&self, script: &str) {
        for name in self.names() {
            let real = self.node.path("real").join(&name);
            let text = format!("#!/bin/sh\n{script}\nexec {} \"$@\"\n", real.display());
            let made = self.node.path("made");
            fs::write(&made, text).unwrap();
            fs::set_permissions(&made, Permissions::from_mode(0o755)).unwrap();
            fs::rename(&made, self.path(&name)).unwrap();
        }
    }

    fn vanish(&self) {
        for name in self.names() {
            fs::remove_file(self.path(&name)).unwrap();
        }
    }

    /// Starts felix where it sees no other programs of iptables.
    fn start(&self) -> Felix<'node> {
        self.node.start_as("log", |command| {
            let mut inner = Command::new("unshare");
            let script = "mount --bind \"$1\" /usr/sbin && shift && exec \"$@\"";
            inner
                .args(["--mount", "sh", "-c", script, "sh"])
                .arg(self.node.path("nothing"))
                .arg(command.get_program())
                .args(command.get_args())
                .env_clear();
            for (name, value) in command.get_envs() {
                inner.env(name, value.unwrap_or_default());
            }
            let path = format!("{}:/usr/bin:/bin", self.node.path("programs").display());
            inner
                .env("PATH", path)
                .env("FELIX_NFTABLESMODE", "Disabled")
                .env("FELIX_IPTABLESBACKEND", self.variant)
                .stderr(File::create(self.node.path("log")).unwrap());
            *command = inner;
        })
    }
}

/// Waits until felix is not ready for a reason with these words, and live.
fn wait_until_unready(node: &Node, felix: &Felix<'_>, words: &[&str]) {
    let seen = || {
        let (status, page) = node.get(HEALTH, "/readiness")?;
        (status == 503 && words.iter().all(|word| page.contains(word))).then_some(())
    };
    wait_for(&format!("a readiness that says {words:?}"), seen);
    let said = felix.said();
    assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
    let (status, page) = node.get(HEALTH, "/liveness").unwrap();
    assert!(status < 300, "{page}");
}

/// Says that a workload is on this node.
fn add_workload(node: &Node, number: u8) {
    let spec = WorkloadEndpointSpec {
        node: "node-1".into(),
        pod: format!("pod-{number}"),
        interface_name: format!("cali{number}"),
        ip_networks: vec![format!("10.65.0.{number}/32").parse().unwrap()],
        ..WorkloadEndpointSpec::default()
    };
    let resource = Resource::from(Object::namespaced(
        "shop",
        format!("node--1-k8s-pod--{number}-eth0"),
        spec,
    ));
    put(&node.store(), resource);
}

fn has_workload(node: &Node, variant: &str, number: u8) -> bool {
    let saved = node.run(&format!("iptables-{variant}-save"), &["-t", "filter"]);
    saved.contains(&format!(":cali-fw-cali{number} "))
}

/// Rules without what changes by itself.
fn rules(node: &Node, variant: &str) -> Vec<String> {
    let saved = node.run(&format!("iptables-{variant}-save"), &[]);
    let lines = saved.lines().filter(|line| line.starts_with("-A"));
    lines.map(str::to_owned).collect()
}

/// What goes wrong: the programs do this, felix says these words.
fn goes_wrong_and_is_mended(
    node: &Node,
    felix: &Felix<'_>,
    programs: &Programs<'_>,
    wrong: (&str, &[&str]),
    number: u8,
) {
    let (script, words) = wrong;
    let before = rules(node, programs.variant);
    if script.is_empty() {
        programs.vanish();
    } else {
        programs.become_such(script);
    }
    add_workload(node, number);
    wait_until_unready(node, felix, words);
    assert_eq!(rules(node, programs.variant), before, "what is in force stays");
    programs.become_such("");
    felix.wait_until_ready(HEALTH);
    assert!(has_workload(node, programs.variant, number));
}

#[test]
fn programs_that_fail_or_vanish_are_said_and_survived() {
    for variant in ["legacy", "nft"] {
        let node = Node::new();
        let programs = Programs::of(&node, variant);
        programs.become_such("");
        let felix = programs.start();
        felix.wait_until_ready(HEALTH);
        let restore = format!("iptables-{variant}-restore");
        let failing = "echo it is broken >&2; exit 4";
        let wrongs: [(&str, &[&str]); 4] = [
            (failing, &["it is broken", variant]),
            ("", &["iptables", "-restore"]),
            (
                "case $0 in *restore) echo it is broken >&2; exit 4;; esac",
                &[&restore, "it is broken"],
            ),
            // As one that knows none of our options.
            (
                "case $0 in *restore) echo \"unrecognized option '--noflush'\" >&2; exit 2;; esac",
                &["unrecognized option"],
            ),
        ];
        for (number, wrong) in (1..).zip(wrongs) {
            goes_wrong_and_is_mended(&node, &felix, &programs, wrong, number);
        }
        assert_eq!(felix.stop().code(), Some(0));
    }
}

#[test]
fn programs_that_are_missing_or_old_at_the_start_are_waited_for() {
    for variant in ["legacy", "nft"] {
        let node = Node::new();
        let programs = Programs::of(&node, variant);
        let felix = programs.start();
        add_workload(&node, 1);
        wait_until_unready(
            &node,
            &felix,
            &[&format!("no iptables-{variant}-restore"), "install iptables"],
        );
        let kind = if variant == "nft" { "nf_tables" } else { "legacy" };
        let old = format!("[ \"$1\" = --version ] && {{ echo 'iptables-restore v1.6.1 ({kind})'; exit; }}");
        programs.become_such(&old);
        wait_until_unready(&node, &felix, &["is version 1.6.1", "1.6.2 or newer is needed"]);
        assert!(!has_workload(&node, variant, 1));
        programs.become_such("");
        felix.wait_until_ready(HEALTH);
        assert!(has_workload(&node, variant, 1));
        assert_eq!(felix.stop().code(), Some(0));
    }
}

/// Takes as long as a program may take, hence both at once.
#[test]
fn programs_that_hang_are_ended_said_and_survived() {
    let hang = |variant| {
        let node = Node::new();
        let programs = Programs::of(&node, variant);
        programs.become_such("");
        let felix = programs.start();
        felix.wait_until_ready(HEALTH);
        let wrong: (&str, &[&str]) = ("exec sleep 200", &["did not end within", variant]);
        goes_wrong_and_is_mended(&node, &felix, &programs, wrong, 1);
        assert_eq!(felix.stop().code(), Some(0));
    };
    std::thread::scope(|scope| {
        for variant in ["legacy", "nft"] {
            scope.spawn(move || hang(variant));
        }
    });
}

#[test]
fn a_lock_that_somebody_else_holds_for_half_a_minute_is_said_and_waited_for() {
    for variant in ["legacy", "nft"] {
        let node = Node::new();
        let felix = crate::iptables::start_with(&node, "log", variant);
        felix.wait_until_ready(HEALTH);
        let file = File::options()
            .create(true)
            .append(true)
            .open(node.path("xtables.lock"))
            .unwrap();
        let held = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| errno)
            .unwrap();
        let until = Instant::now() + Duration::from_secs(30);
        add_workload(&node, 1);
        if variant == "nft" {
            // It has no lock: its writes are transactions.
            wait_for("the workload", || has_workload(&node, variant, 1).then_some(()));
            felix.wait_until_ready(HEALTH);
            continue;
        }
        let before = rules(&node, variant);
        wait_until_unready(&node, &felix, &["another program holds the lock", "xtables.lock"]);
        wait_for("the end of the half minute", || {
            (Instant::now() >= until).then_some(())
        });
        let (status, page) = node.get(HEALTH, "/readiness").unwrap();
        assert_eq!(status, 503, "{page}");
        assert_eq!(rules(&node, variant), before, "what is in force stays");
        drop(held);
        felix.wait_until_ready(HEALTH);
        assert!(has_workload(&node, variant, 1));
        let page = node.wait_for_page(9091, "/metrics");
        let timeouts = page
            .lines()
            .find_map(|line| line.strip_prefix("felix_iptables_lock_timeouts_total "));
        assert!(timeouts.unwrap().parse::<f64>().unwrap() >= 2.0, "{timeouts:?}");
        assert_eq!(felix.stop().code(), Some(0));
    }
}
