//! What holds policy: taken over by another life, mended, tried again, removed.

use crate::bed::{
    Bed, FRIEND, NODE, OTHER, SERVER, STRANGER, apply, at, close_the_server, ip, lead, listen, next,
    on_a_node, on_a_node_with_iptables, open_the_server, opening, run_ip, seen, udp,
};
use dataplane::{
    DataplaneSettings, FlowsOnPolicyChange, IptablesSettings, RulesBackend, remove_iptables_rules,
};
use dataplane_iptables::ops::Family;
use dataplane_iptables::programs::Variant;
use policy_model::Protocol;
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Addresses that nobody has, and that lead outside.
const VACANT: [&str; 2] = ["10.65.0.99", "fd00:65::99"];
/// Long after everything that waits a while, in milliseconds.
const LATE: u64 = 100_000;

/// Whether the server is reached by the friend, by the stranger, and by the other workload, alike in both families.
pub(crate) fn reached(bed: &Bed, listener: &TcpListener) -> [bool; 3] {
    // All at once: it is a second until somebody who is denied by IPv6 takes the word for it.
    let by_family = std::thread::scope(|scope| {
        let asking = [0, 1].map(|n| {
            let askers = [
                (&bed.outside, FRIEND[n]),
                (&bed.outside, STRANGER[n]),
                (&bed.other, OTHER[n]),
            ];
            askers.map(|(from, source)| {
                scope.spawn(move || seen(Some(from), Some(source), at(SERVER[n], 80), listener).is_some())
            })
        });
        asking.map(|of_family| of_family.map(|asked| asked.join().unwrap()))
    });
    assert_eq!(by_family[0], by_family[1]);
    by_family[0]
}

pub(crate) const FRIENDS_ONLY: [bool; 3] = [true, false, false];
pub(crate) const EVERYBODY: [bool; 3] = [true; 3];

#[test]
fn another_life_takes_over_what_is_in_force() {
    on_a_node(|bed| {
        let mut dataplane = bed.dataplane();
        let listener = listen(&bed.server, 80);
        lead(&mut dataplane, Protocol::TCP, ("", 8080), (SERVER, 80));
        dataplane.take(
            &["0.0.0.0", "::"].map(|a| {
                dataplane_api::Update::HostPortRemoved(crate::bed::host_port(Protocol::TCP, a, 8080))
            }),
        );
        apply(&mut dataplane);
        assert_eq!(reached(bed, &listener), FRIENDS_ONLY);
        drop(dataplane);
        assert_eq!(reached(bed, &listener), FRIENDS_ONLY, "nobody is there");
        let (mut dataplane, first) = bed.start(bed.settings());
        assert_eq!((first.transactions, first.messages, first.mended), (0, 0, 0));
        assert_eq!(reached(bed, &listener), FRIENDS_ONLY);
        open_the_server(&mut dataplane);
        assert_eq!(reached(bed, &listener), EVERYBODY);
        // The next life knows that nobody is let in but the friend, and finds otherwise.
        drop(dataplane);
        let (mut dataplane, _) = bed.start(bed.settings());
        assert_eq!(reached(bed, &listener), FRIENDS_ONLY);
        dataplane.retire(LATE).unwrap();
        let resynced = dataplane.resync_policy().unwrap();
        assert_eq!(
            (resynced.transactions, resynced.mended),
            (0, 0),
            "nothing is left over"
        );
    });
}

#[test]
fn no_connection_begins_with_an_address_that_nobody_has() {
    on_a_node(|bed| {
        let mut dataplane = bed.dataplane();
        for n in 0..2 {
            run_ip(&format!("route add {} via {}", VACANT[n], FRIEND[n]));
            let there = || run_ip(&format!("addr add {} dev lo", VACANT[n]));
            bed.outside.run(there).unwrap();
        }
        let hears = |n: usize| {
            let ear = udp(&bed.outside, ["0.0.0.0", "::"][n], 53);
            let mouth = udp(&bed.server, SERVER[n], 0);
            mouth.send_to(b"to nobody", at(VACANT[n], 53)).unwrap();
            // One way keeps the order, so that what has not come before this does not come.
            mouth.send_to(b"to a neighbour", at(FRIEND[n], 53)).unwrap();
            let first = next(&ear).0;
            assert!(first == "to a neighbour" || next(&ear).0 == "to a neighbour");
            first == "to nobody"
        };
        assert_eq!([hears(0), hears(1)], [true; 2]);
        let kept: BTreeSet<_> = VACANT.iter().map(|a| ip(a)).collect();
        dataplane.keep(Arc::new(kept));
        apply(&mut dataplane);
        assert_eq!([hears(0), hears(1)], [false; 2]);
        // A life that begins does not know of them at first, and lets nothing pass meanwhile.
        drop(dataplane);
        let (mut dataplane, _) = bed.start(bed.settings());
        dataplane.keep(Arc::default());
        apply(&mut dataplane);
        assert_eq!([hears(0), hears(1)], [true; 2]);
    });
}

#[test]
fn flows_that_policy_denies_now_end_where_the_settings_have_it() {
    on_a_node(|bed| {
        let settings = DataplaneSettings {
            flows_on_policy_change: FlowsOnPolicyChange::Recheck,
            ..bed.settings()
        };
        let (mut dataplane, _) = bed.start(settings);
        open_the_server(&mut dataplane);
        let talk = |namespace, source, n: usize, to: [&str; 2]| {
            let client = udp(namespace, source, 0);
            client.connect(at(to[n], 53)).unwrap();
            client
        };
        let servers = SERVER.map(|address| udp(&bed.server, address, 53));
        let goes_on = |client: &std::net::UdpSocket| {
            client.send(b"there").unwrap();
            let n = usize::from(client.local_addr().unwrap().is_ipv6());
            let (_, sender) = next(&servers[n]);
            servers[n].send_to(b"back", sender).unwrap();
            assert_eq!(next(client).0, "back");
        };
        let mut stay = Vec::new();
        for n in 0..2 {
            stay.push(talk(&bed.outside, FRIEND[n], n, SERVER));
            goes_on(&talk(&bed.other, OTHER[n], n, SERVER));
        }
        stay.iter().for_each(goes_on);
        let report = close_the_server(&mut dataplane);
        assert_eq!(report.flows_removed, 2, "one of each family");
        stay.iter().for_each(goes_on);
        assert_eq!(dataplane.resync_policy().unwrap().mended, 0);
    });
}

#[test]
fn sets_that_others_change_are_mended_by_the_next_look() {
    on_a_node_with_iptables(|bed, _| {
        let mut dataplane = bed.dataplane();
        let listener = listen(&bed.server, 80);
        let flush =
            || ["ipset flush cali40own", "ipset flush cali60own"].map(|command| bed.backend.run(command));
        flush();
        assert!(dataplane.resync_policy().unwrap().mended > 0);
        assert_eq!(reached(bed, &listener), FRIENDS_ONLY);
        open_the_server(&mut dataplane);
        let look = dataplane.next_retirement().expect("something was written");
        flush();
        assert!(dataplane.retire(look).unwrap().mended > 0);
        assert_eq!(reached(bed, &listener), EVERYBODY);
        // What may have come to be with an address while it had no guard is looked for once more.
        let kept: BTreeSet<_> = VACANT.iter().map(|a| ip(a)).collect();
        dataplane.keep(Arc::new(kept.clone()));
        apply(&mut dataplane);
        while dataplane.clean_addresses() != kept {
            dataplane.take_events().unwrap();
            std::thread::yield_now();
        }
        close_the_server(&mut dataplane);
        assert_eq!(dataplane.clean_addresses(), kept);
        let look = dataplane.next_retirement().expect("something was written");
        bed.backend.run("ipset flush cali40vacant");
        assert!(dataplane.retire(look).unwrap().mended > 0);
        assert_eq!(dataplane.clean_addresses(), BTreeSet::new());
        assert!(dataplane.is_dirty());
    });
}

/// Puts programs into a folder that fail while the file is there whose name is returned, in the place of a variant's own.
pub(crate) fn broken_programs(folder: &Path, variant: Variant) -> PathBuf {
    let sign = folder.join("broken");
    for base in ["iptables", "ip6tables"] {
        for action in ["restore", "save"] {
            let name = format!("{base}-{variant}-{action}");
            let path = folder.join(&name);
            let script = format!(
                "#!/bin/sh\n[ \"$1\" != --version ] && [ -e {} ] && {{ echo broken >&2; exit 1; }}\nexec /usr/sbin/{name} \"$@\"\n",
                sign.display()
            );
            std::fs::write(&path, script).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
    sign
}

/// The settings with programs that fail at times.
fn failing(folder: &Path, bed: &Bed, settings: &IptablesSettings) -> RulesBackend {
    let variant = bed.backend.variant.expect("a variant of iptables");
    broken_programs(folder, variant);
    let mut settings = settings.clone();
    settings.programs.folders = vec![folder.to_owned()];
    RulesBackend::Iptables(settings)
}

#[test]
fn what_programs_failed_to_do_is_done_once_they_work_again() {
    on_a_node_with_iptables(|bed, own| {
        let folder = tempfile::tempdir().unwrap();
        let sign = folder.path().join("broken");
        let settings = DataplaneSettings {
            rules: failing(folder.path(), bed, own),
            ..bed.settings()
        };
        let mut dataplane = dataplane::Dataplane::open(settings).unwrap();
        let listener = listen(&bed.server, 80);
        std::fs::write(&sign, "").unwrap();
        dataplane.take(&crate::bed::updates());
        for _ in 0..2 {
            dataplane.apply(0).unwrap_err();
            assert!(dataplane.is_dirty() && !dataplane.is_programmed());
        }
        std::fs::remove_file(&sign).unwrap();
        apply(&mut dataplane);
        assert_eq!(reached(bed, &listener), FRIENDS_ONLY);
        // What is in force stays, whatever is said meanwhile.
        std::fs::write(&sign, "").unwrap();
        dataplane.take(&[opening()]);
        let error = dataplane.apply(0).unwrap_err();
        let text = dataplane::Dataplane::describe(&error);
        assert!(text.contains("broken"), "{text}");
        let ports = [("0.0.0.0", SERVER[0]), ("::", SERVER[1])].map(|(all, server)| {
            let port = crate::bed::host_port(Protocol::TCP, all, 8080);
            dataplane_api::Update::HostPort(port, at(server, 80))
        });
        dataplane.take(&ports);
        dataplane.apply(0).unwrap_err();
        assert_eq!(reached(bed, &listener), FRIENDS_ONLY);
        assert!(dataplane.is_dirty());
        std::fs::remove_file(&sign).unwrap();
        apply(&mut dataplane);
        assert!(!dataplane.is_dirty());
        assert_eq!(reached(bed, &listener), EVERYBODY);
        for address in NODE {
            assert!(seen(None, None, at(address, 8080), &listener).is_some());
        }
        let resynced = dataplane.resync_policy().unwrap();
        assert_eq!((resynced.transactions, resynced.mended), (0, 0));
        close_the_server(&mut dataplane);
        assert_eq!(reached(bed, &listener), FRIENDS_ONLY);
    });
}

#[test]
fn programs_that_move_are_found_again() {
    on_a_node_with_iptables(|bed, own| {
        let variant = bed.backend.variant.expect("a variant of iptables");
        let [old, new] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        broken_programs(old.path(), variant);
        let mut own = own.clone();
        own.programs.folders = [&old, &new].map(|folder| folder.path().to_owned()).into();
        let (mut dataplane, _) = bed.start(DataplaneSettings {
            rules: RulesBackend::Iptables(own),
            ..bed.settings()
        });
        let listener = listen(&bed.server, 80);
        for program in std::fs::read_dir(old.path()).unwrap() {
            std::fs::remove_file(program.unwrap().path()).unwrap();
        }
        dataplane.take(&[opening()]);
        dataplane.apply(0).unwrap_err();
        let text = dataplane::Dataplane::describe(&dataplane.apply(0).unwrap_err());
        assert!(text.contains("install iptables"), "{text}");
        // Whatever happens meanwhile, what is in force stays.
        bed.backend.run("iptables -N theirs");
        dataplane.take_events().unwrap();
        dataplane.apply(0).unwrap_err();
        assert_eq!(reached(bed, &listener), FRIENDS_ONLY);
        broken_programs(new.path(), variant);
        close_the_server(&mut dataplane);
        assert_eq!(reached(bed, &listener), FRIENDS_ONLY);
        assert!(!dataplane.is_dirty());
        let resynced = dataplane.resync_policy().unwrap();
        assert_eq!((resynced.transactions, resynced.mended), (0, 0));
        open_the_server(&mut dataplane);
        assert_eq!(reached(bed, &listener), EVERYBODY);
    });
}

#[test]
fn where_only_ipv4_is_spoken_nothing_of_ipv6_is_made() {
    on_a_node_with_iptables(|bed, own| {
        let mut own = own.clone();
        own.programs.families = vec![Family::Inet];
        let (mut dataplane, _) = bed.start(DataplaneSettings {
            rules: RulesBackend::Iptables(own),
            ..bed.settings()
        });
        let listener = listen(&bed.server, 80);
        let gets_in = |source| seen(Some(&bed.outside), Some(source), at(SERVER[0], 80), &listener).is_some();
        assert!(gets_in(FRIEND[0]) && !gets_in(STRANGER[0]));
        open_the_server(&mut dataplane);
        assert!(gets_in(STRANGER[0]));
        close_the_server(&mut dataplane);
        assert!(gets_in(FRIEND[0]) && !gets_in(STRANGER[0]));
        let resynced = dataplane.resync_policy().unwrap();
        assert_eq!((resynced.transactions, resynced.mended), (0, 0));
        assert!(!bed.backend.run("ip6tables-save").contains("cali"));
        let sets = bed.backend.run("ipset list -n");
        assert!(sets.contains("cali40") && !sets.contains("cali60"), "{sets}");
    });
}

#[test]
fn all_of_ours_can_be_removed_and_nothing_of_others() {
    on_a_node_with_iptables(|bed, settings| {
        bed.backend.run("iptables -A FORWARD -s 203.0.113.1 -j DROP");
        bed.backend.run("ipset create theirs hash:ip");
        let said = || {
            let saved = ["iptables-save", "ip6tables-save"].map(|command| bed.backend.run(command));
            let rules = |text: &String| text.lines().filter(|line| line.starts_with("-A")).count();
            let ours = saved.iter().any(|text| text.contains("cali"));
            (
                saved.iter().map(rules).sum::<usize>(),
                ours,
                bed.backend.run("ipset list -n"),
            )
        };
        let before = said();
        let dataplane = bed.dataplane();
        assert!(said().1);
        drop(dataplane);
        assert_eq!(remove_iptables_rules(settings).unwrap(), Vec::<String>::new());
        assert_eq!(said(), before);
    });
}
