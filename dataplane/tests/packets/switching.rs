//! One way to hold policy takes the place of another: the new rules come first, nothing opens, nothing of the old stays.

use crate::bed::{
    Bed, FRIEND, SERVER, STRANGER, apply, at, close_the_server, listen, on_one_node, open_the_server, udp,
    updates,
};
use crate::rules::{EVERYBODY, FRIENDS_ONLY, broken_programs, reached};
use dataplane::{Dataplane, DataplaneSettings, IptablesSettings, RulesBackend, RulesKind};
use dataplane_iptables::programs::{LockSettings, ProgramSettings, Variant};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const NFTABLES: RulesKind = RulesKind::Nftables;
const LEGACY: RulesKind = RulesKind::Iptables(Variant::Legacy);
const NFT: RulesKind = RulesKind::Iptables(Variant::Nft);

/// From each to each other.
const WAYS: [RulesKind; 7] = [NFTABLES, LEGACY, NFT, NFTABLES, NFT, LEGACY, NFTABLES];

fn settings(bed: &Bed, kind: RulesKind, folder: &Path) -> DataplaneSettings {
    let programs = ProgramSettings {
        lock: LockSettings {
            file: folder.join("xtables.lock"),
            ..LockSettings::default()
        },
        ..ProgramSettings::default()
    };
    let rules = match kind {
        RulesKind::Nftables => RulesBackend::Nftables,
        RulesKind::Iptables(variant) => RulesBackend::Iptables(IptablesSettings {
            programs: programs.clone(),
            ..IptablesSettings::of(variant)
        }),
    };
    DataplaneSettings {
        rules,
        programs,
        ..bed.settings()
    }
}

/// A life with these settings, which has put everything into force.
fn live(settings: DataplaneSettings) -> Dataplane {
    let mut dataplane = Dataplane::open(settings).unwrap();
    dataplane.take(&updates());
    apply(&mut dataplane);
    dataplane
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("the tests need {program}: {error}"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What of ours is in the kernel.
fn in_the_kernel() -> Vec<RulesKind> {
    let mut found = Vec::new();
    if said("nft", &["list", "tables"]).contains("table inet manx") {
        found.push(NFTABLES);
    }
    for variant in Variant::ALL {
        let saved =
            ["iptables", "ip6tables"].map(|base| said(&format!("{base}-{}-save", variant.name()), &[]));
        let has = saved.each_ref().map(|text| text.contains("cali"));
        assert_eq!(has[0], has[1], "{saved:?}");
        if has[0] {
            found.push(RulesKind::Iptables(variant));
        }
    }
    let sets = said("ipset", &["list", "-n"]);
    let is_iptables = found.iter().any(|kind| *kind != NFTABLES);
    assert_eq!(sets.contains("cali"), is_iptables, "{sets}");
    found
}

/// Somebody who has a connection to the server and uses it, and somebody who is denied and never stops trying.
struct Traffic {
    stop: AtomicBool,
    /// Nobody tries now: the kernel tells only so many of those who are denied in a second.
    rest: AtomicBool,
    /// Round trips of the connection.
    trips: AtomicUsize,
    /// Datagrams that were sent in vain.
    tries: AtomicUsize,
}

impl Traffic {
    /// Waits for more of both.
    fn goes_on(&self) {
        let until = Instant::now() + Duration::from_secs(60);
        for counter in [&self.trips, &self.tries] {
            let before = counter.load(Ordering::Relaxed);
            while counter.load(Ordering::Relaxed) < before + 20 {
                assert!(Instant::now() < until, "the traffic stands still");
                std::thread::yield_now();
            }
        }
    }

    fn talk(&self, bed: &Bed, listener: &TcpListener) {
        // The address that the outside takes by itself is the friend's.
        let to = at(SERVER[0], 81);
        let mut client = bed.outside.run(|| TcpStream::connect(to).unwrap()).unwrap();
        assert_eq!(client.local_addr().unwrap().ip().to_string(), FRIEND[0]);
        let (mut server, _) = listener.accept().unwrap();
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        }
        let mut word = [0; 4];
        while !self.stop.load(Ordering::Relaxed) {
            client.write_all(b"ping").unwrap();
            server.read_exact(&mut word).expect("the connection is not cut");
            server.write_all(b"pong").unwrap();
            client.read_exact(&mut word).expect("the connection is not cut");
            self.trips.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn probe(&self, bed: &Bed, family: usize) {
        let target = udp(&bed.server, SERVER[family], 9000);
        target.set_nonblocking(true).unwrap();
        let mut number = 0u16;
        while !self.stop.load(Ordering::Relaxed) {
            if self.rest.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            // A port of its own each time, so that each is the first packet of a flow.
            number = number.wrapping_add(1);
            let prober = udp(&bed.outside, STRANGER[family], 20_000 + number % 20_000);
            let _ = prober.send_to(b"let me in", at(SERVER[family], 9000));
            self.tries.fetch_add(1, Ordering::Relaxed);
            let mut buffer = [0; 16];
            if let Ok((_, sender)) = target.recv_from(&mut buffer) {
                panic!("{sender} got through");
            }
        }
    }
}

#[test]
fn policy_moves_under_traffic_and_nothing_opens_or_is_cut() {
    on_one_node(|bed| {
        let folder = tempfile::tempdir().unwrap();
        let mut dataplane = live(settings(bed, WAYS[0], folder.path()));
        let listener = listen(&bed.server, 80);
        let talking = listen(&bed.server, 81);
        talking.set_nonblocking(false).unwrap();
        let traffic = Traffic {
            stop: AtomicBool::new(false),
            rest: AtomicBool::new(false),
            trips: AtomicUsize::new(0),
            tries: AtomicUsize::new(0),
        };
        std::thread::scope(|scope| {
            let traffic = &traffic;
            let threads = [
                scope.spawn(|| traffic.talk(bed, &talking)),
                scope.spawn(|| traffic.probe(bed, 0)),
                scope.spawn(|| traffic.probe(bed, 1)),
            ];
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                for (before, kind) in WAYS.iter().zip(&WAYS[1..]) {
                    traffic.goes_on();
                    let next = live(settings(bed, *kind, folder.path()));
                    // The one before is gone without a word, as if it had been killed.
                    drop(std::mem::replace(&mut dataplane, next));
                    assert_eq!(in_the_kernel(), [*kind], "after {before:?}");
                    assert_eq!(dataplane.driver().kind(), Some(*kind));
                    traffic.goes_on();
                    traffic.rest.store(true, Ordering::Relaxed);
                    assert_eq!(reached(bed, &listener), FRIENDS_ONLY, "{before:?} to {kind:?}");
                    traffic.rest.store(false, Ordering::Relaxed);
                }
            }));
            traffic.stop.store(true, Ordering::Relaxed);
            for thread in threads {
                thread.join().unwrap();
            }
            if let Err(panic) = outcome {
                std::panic::resume_unwind(panic);
            }
        });
        // What came after the last of them changes as ever.
        open_the_server(&mut dataplane);
        assert_eq!(reached(bed, &listener), EVERYBODY);
        close_the_server(&mut dataplane);
        assert_eq!(reached(bed, &listener), FRIENDS_ONLY);
    });
}

#[test]
fn what_could_not_be_removed_is_said_and_removed_later_or_by_the_next_life() {
    on_one_node(|bed| {
        let listener = listen(&bed.server, 80);
        for (old, new) in [(LEGACY, NFTABLES), (NFT, LEGACY), (NFT, NFTABLES), (LEGACY, NFT)] {
            let RulesKind::Iptables(variant) = old else {
                continue;
            };
            let folder = tempfile::tempdir().unwrap();
            drop(live(settings(bed, old, folder.path())));
            assert_eq!(in_the_kernel(), [old]);
            // The old variant's programs fail while the sign is there; the other's work.
            let sign = broken_programs(folder.path(), variant);
            let mut with_wrappers = settings(bed, new, folder.path());
            with_wrappers.programs.folders.insert(0, folder.path().to_owned());
            if let RulesBackend::Iptables(own) = &mut with_wrappers.rules {
                own.programs.folders.insert(0, folder.path().to_owned());
            }
            std::fs::write(&sign, "").unwrap();
            for ends in [false, true] {
                let mut dataplane = Dataplane::open(with_wrappers.clone()).unwrap();
                dataplane.take(&updates());
                let report = dataplane.apply(0).unwrap();
                let [fault] = report.faults.as_slice() else {
                    panic!("{old:?} to {new:?}: {:?}", report.faults)
                };
                assert!(
                    fault.contains("broken") && fault.contains(variant.name()),
                    "{fault}"
                );
                assert!(!dataplane.is_dirty());
                let found = in_the_kernel();
                assert!(found.contains(&old) && found.contains(&new), "{found:?}");
                assert_eq!(reached(bed, &listener), FRIENDS_ONLY);
                if ends {
                    std::fs::remove_file(&sign).unwrap();
                    dataplane.retry_faults();
                    assert!(dataplane.is_dirty());
                    apply(&mut dataplane);
                    assert_eq!(in_the_kernel(), [new], "{old:?} to {new:?}");
                    assert_eq!(reached(bed, &listener), FRIENDS_ONLY);
                }
            }
            // The next pair begins with nothing.
            let removal = dataplane::remove_rules_but(None, &settings(bed, new, folder.path()).programs);
            assert_eq!(
                (removal.failures.len(), removal.notes.len()),
                (0, 0),
                "{removal:?}"
            );
            assert_eq!(in_the_kernel(), []);
        }
    });
}

#[test]
fn rules_of_others_stay_and_nothing_is_found_where_nothing_of_ours_is() {
    on_one_node(|bed| {
        let folder = tempfile::tempdir().unwrap();
        let programs = settings(bed, NFTABLES, folder.path()).programs;
        let theirs = [
            "iptables-legacy",
            "iptables-nft",
            "ip6tables-legacy",
            "ip6tables-nft",
        ];
        let save = || theirs.map(|program| said(&format!("{program}-save"), &[]));
        let rules = |texts: [String; 4]| -> Vec<String> {
            let lines = texts.iter().flat_map(|text| text.lines());
            lines
                .filter(|line| line.starts_with("-A"))
                .map(str::to_owned)
                .collect()
        };
        for program in theirs {
            let words = ["-A", "FORWARD", "-m", "mark", "--mark", "0x1/0x1", "-j", "DROP"];
            assert!(
                Command::new(program)
                    .args(words)
                    .env("XTABLES_LOCKFILE", folder.path().join("xtables.lock"))
                    .status()
                    .unwrap()
                    .success()
            );
        }
        let before = rules(save());
        assert_eq!(before.len(), 4);
        for kind in WAYS {
            drop(live(settings(bed, kind, folder.path())));
        }
        drop(live(settings(bed, NFT, folder.path())));
        let removal = dataplane::remove_rules_but(None, &programs);
        assert_eq!(removal.removed.len(), 2, "{removal:?}");
        assert_eq!(rules(save()), before);
        let nothing = dataplane::remove_rules_but(None, &programs);
        assert_eq!(nothing, dataplane::Removal::default());
    });
}

#[test]
fn missing_programs_matter_only_where_something_of_ours_is() {
    on_one_node(|bed| {
        let folder = tempfile::tempdir().unwrap();
        let empty = tempfile::tempdir().unwrap();
        let lacking = ProgramSettings {
            folders: vec![empty.path().to_owned()],
            ..ProgramSettings::default()
        };
        assert_eq!(
            dataplane::remove_rules_but(None, &lacking),
            dataplane::Removal::default()
        );
        for kind in [LEGACY, NFT] {
            drop(live(settings(bed, kind, folder.path())));
            let removal = dataplane::remove_rules_but(None, &lacking);
            let [failure] = removal.failures.as_slice() else {
                panic!("{removal:?}")
            };
            assert!(failure.contains("install iptables"), "{failure}");
            assert_eq!(in_the_kernel(), [kind], "nothing went");
            let programs = settings(bed, kind, folder.path()).programs;
            assert_eq!(dataplane::remove_rules_but(None, &programs).failures.len(), 0);
            assert_eq!(in_the_kernel(), []);
        }
    });
}
