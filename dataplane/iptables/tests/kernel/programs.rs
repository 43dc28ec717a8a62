//! Programs that lack, are old, fail, hang; the lock held by another.

use std::fs::File;
use std::time::{Duration, Instant};

use dataplane_iptables::driver::DriverError;
use dataplane_iptables::ops::{Family, Table};
use dataplane_iptables::programs::{
    BackendChoice, Found, ProgramError, ProgramSettings, Reason, Variant, Version, choose, find,
};
use dataplane_iptables::watch::LockWatch;
use nix::fcntl::{Flock, FlockArg};

use crate::bed::{Node, apply, assert_settled, fake_programs, in_namespace, settings, small};

const VERSION: &str = "[ \"$1\" = --version ] && { echo 'iptables-restore v1.8.9 (VARIANT)'; exit; }";

fn found_in(folder: &std::path::Path) -> Found {
    find(&ProgramSettings {
        folders: vec![folder.to_owned()],
        ..ProgramSettings::default()
    })
}

#[test]
fn both_variants_are_found_with_their_versions() {
    let found = find(&ProgramSettings::default());
    for variant in Variant::ALL {
        let tools = found.variant(variant).unwrap();
        assert_eq!(tools.variant, variant);
        assert!(tools.version >= Version::OLDEST);
        assert_eq!(tools.families().collect::<Vec<_>>(), Family::BOTH);
    }
}

#[test]
fn the_plain_name_serves_if_it_is_of_the_variant() {
    let folder = tempfile::tempdir().unwrap();
    for (name, target) in [
        ("iptables-restore", "iptables-nft-restore"),
        ("ip6tables-restore", "ip6tables-nft-restore"),
        ("iptables-save", "iptables-nft-save"),
        ("ip6tables-save", "ip6tables-nft-save"),
    ] {
        std::os::unix::fs::symlink(format!("/usr/sbin/{target}"), folder.path().join(name)).unwrap();
    }
    let found = found_in(folder.path());
    assert!(found.nft.is_ok());
    let missing = found.legacy.unwrap_err();
    assert!(matches!(missing, ProgramError::Missing { .. }), "{missing}");
    assert!(
        missing.to_string().contains("iptables-legacy-restore"),
        "{missing}"
    );
    assert_eq!(
        choose(BackendChoice::Auto, &found_in(folder.path()))
            .unwrap()
            .reason,
        Reason::OnlyOne
    );
    assert!(choose(BackendChoice::Legacy, &found_in(folder.path())).is_err());
}

#[test]
fn what_is_old_or_strange_is_said() {
    let old = fake_programs("echo 'iptables-restore v1.4.21'");
    let error = found_in(old.path()).legacy.unwrap_err();
    assert!(matches!(error, ProgramError::TooOld { .. }), "{error}");
    assert!(
        error.to_string().contains("1.4.21") && error.to_string().contains("1.6.2"),
        "{error}"
    );
    let strange = fake_programs("echo sorry; echo no >&2");
    let error = found_in(strange.path()).nft.unwrap_err();
    assert!(matches!(error, ProgramError::NotUnderstood { .. }), "{error}");
    assert!(error.to_string().contains("sorry"), "{error}");
    let none = tempfile::tempdir().unwrap();
    assert!(choose(BackendChoice::Auto, &found_in(none.path())).is_err());
}

#[test]
fn auto_follows_those_who_are_there() {
    for variant in Variant::ALL {
        in_namespace(|| {
            let (node, other) = (Node::new(variant), Node::new(variant.other()));
            let chosen = || {
                let choice = choose(BackendChoice::Auto, &find(&settings(&node.lock))).unwrap();
                (choice.variant, choice.reason)
            };
            assert_eq!(chosen(), (Variant::Nft, Reason::Nothing));
            // Rules of ours in the other variant do not hold us there.
            let mut driver = other.driver();
            let (sets, tables) = small();
            driver.take(&sets, &tables);
            apply(&mut driver);
            assert_eq!(chosen(), (Variant::Nft, Reason::Nothing));
            other.iptables("-A INPUT -i lo -j ACCEPT");
            assert_eq!(chosen(), (variant.other(), Reason::ForeignRules));
            node.iptables("-N KUBE-SERVICES");
            assert_eq!(chosen(), (variant, Reason::KubeProxy));
            other.iptables("-t mangle -N KUBE-KUBELET-CANARY");
            assert_eq!(chosen(), (variant.other(), Reason::Kubelet));
            let choice = choose(BackendChoice::Legacy, &find(&settings(&node.lock))).unwrap();
            assert_eq!(
                (choice.variant, choice.reason),
                (Variant::Legacy, Reason::Setting)
            );
        });
    }
}

#[test]
fn looking_makes_no_table() {
    in_namespace(|| {
        let node = Node::new(Variant::Legacy);
        choose(BackendChoice::Auto, &find(&settings(&node.lock))).unwrap();
        let mut driver = node.driver();
        driver.apply().unwrap();
        dataplane_iptables::driver::clean_tables(&node.tools).unwrap();
        assert_eq!(node.save(Family::Inet), "");
        assert_eq!(Node::new(Variant::Nft).save(Family::Inet), "");
    });
}

#[test]
fn a_refused_rule_is_named_and_nothing_is_written() {
    for variant in Variant::ALL {
        in_namespace(|| {
            let node = Node::new(variant);
            let lines = "*filter\n:cali-a - [0:0]\n-A cali-a -j ACCEPT\n-A cali-a -p tcp --bogus 3 -j ACCEPT\nCOMMIT\n";
            let error = node
                .tools
                .restore(Family::Inet6, Table::Filter, lines)
                .unwrap_err();
            let text = error.to_string();
            for part in [
                "ip6tables",
                "filter",
                "inet6",
                "line 4",
                "--bogus 3",
                variant.name(),
            ] {
                assert!(text.contains(part), "{text}");
            }
            assert!(!node.save(Family::Inet6).contains("cali-a"));
        });
    }
}

#[test]
fn a_held_lock_is_waited_for_and_nothing_changes_meanwhile() {
    in_namespace(|| {
        let node = Node::with(Variant::Legacy, |settings| {
            settings.lock.wait = Duration::from_secs(1)
        });
        let (sets, tables) = small();
        let mut driver = node.driver();
        driver.take(&sets, &tables);
        let lock = File::create(&node.lock).unwrap();
        let lock = Flock::lock(lock, FlockArg::LockExclusive).unwrap();
        let begin = Instant::now();
        let failures = driver.apply().unwrap_err();
        // One wait, not one for each table.
        assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
        let text = failures.to_string();
        assert!(
            text.contains("lock") && text.contains(node.lock.to_str().unwrap()),
            "{text}"
        );
        let [DriverError::Program(error)] = failures.failures.as_slice() else {
            panic!("{text}")
        };
        assert!(matches!(**error, ProgramError::Locked { .. }), "{text}");
        assert!(!node.save(Family::Inet).contains("cali"));
        // It is let go while somebody waits.
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| drop(lock.unlock().unwrap()));
            let mut outcome = driver.apply();
            while outcome.is_err() {
                outcome = driver.apply();
            }
            waiter.join().unwrap();
        });
        assert_settled(&mut driver);
    });
}

#[test]
fn one_call_outlasts_a_lock_that_is_let_go() {
    in_namespace(|| {
        let node = Node::with(Variant::Legacy, |settings| {
            settings.lock.wait = Duration::from_secs(60)
        });
        let (sets, tables) = small();
        let mut driver = node.driver();
        driver.take(&sets, &tables);
        let lock = Flock::lock(File::create(&node.lock).unwrap(), FlockArg::LockExclusive).unwrap();
        let mut watch = LockWatch::open(&node.lock).unwrap();
        std::thread::scope(|scope| {
            let holder = scope.spawn(|| {
                // Held until somebody waits for it.
                while watch.take().unwrap().opened == 0 {
                    std::thread::yield_now();
                }
                drop(lock.unlock().unwrap());
            });
            let applied = driver.apply().unwrap_or_else(|failures| panic!("{failures}"));
            assert_eq!((applied.restores, applied.restore_errors), (8, 0));
            holder.join().unwrap();
        });
        assert_settled(&mut driver);
    });
}

#[test]
fn a_program_that_hangs_fails_or_goes_is_survived() {
    for variant in Variant::ALL {
        let folder = fake_programs(&format!("{VERSION}\n. $(dirname $0)/mood\nexec REAL \"$@\""));
        let mood = |script: &str| std::fs::write(folder.path().join("mood"), script).unwrap();
        mood("");
        in_namespace(|| {
            let node = Node::with(variant, |settings| {
                settings.folders = vec![folder.path().to_owned()];
                settings.patience = Duration::from_secs(3);
                settings.lock.wait = Duration::from_secs(1);
            });
            let (sets, tables) = small();
            let mut driver = node.driver();
            driver.take(&sets, &tables);
            mood("sleep 1000");
            let failures = driver.apply().unwrap_err();
            assert!(failures.to_string().contains("did not end within"), "{failures}");
            mood("echo 'out of order' >&2; exit 7");
            let failures = driver.apply().unwrap_err();
            assert!(failures.to_string().contains("out of order"), "{failures}");
            assert!(!node.save(Family::Inet).contains("cali"));
            // Once, as if somebody had been faster.
            mood("[ -e $0.failed ] || { touch $0.failed; exit 1; }");
            driver.apply().unwrap_or_else(|failures| panic!("{failures}"));
            mood("");
            assert_settled(&mut driver);
            let restore = folder.path().join(format!("iptables-{variant}-restore"));
            std::fs::rename(&restore, folder.path().join("gone")).unwrap();
            driver.take(&[], &[crate::bed::change(&[("cali-fw2", Some(&["-j DROP"]))])]);
            let failures = driver.apply().unwrap_err();
            assert!(failures.to_string().contains("cannot start"), "{failures}");
            std::fs::rename(folder.path().join("gone"), &restore).unwrap();
            apply(&mut driver);
            assert_eq!(node.chain("filter", "cali-fw2"), ["-j DROP"]);
        });
    }
}

#[test]
fn a_list_that_is_cut_removes_nothing() {
    let folder = fake_programs(&format!(
        "{VERSION}\n[ -e $(dirname $0)/cut ] && case $0 in *-save) REAL \"$@\" | head -n 7; exit 0;; esac\nexec REAL \"$@\""
    ));
    in_namespace(|| {
        let node = Node::with(Variant::Nft, |settings| {
            settings.folders = vec![folder.path().to_owned()]
        });
        let (sets, tables) = small();
        let mut driver = node.driver();
        driver.take(&sets, &tables);
        apply(&mut driver);
        let right = node.save(Family::Inet);
        std::fs::write(folder.path().join("cut"), "").unwrap();
        driver.look_at_everything();
        let failures = driver.apply().unwrap_err();
        assert!(failures.to_string().contains("no end"), "{failures}");
        assert_eq!(node.save(Family::Inet), right);
        std::fs::remove_file(folder.path().join("cut")).unwrap();
        assert_settled(&mut driver);
    });
}
