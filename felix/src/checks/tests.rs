//! What is found on machines that are made up, and on this one.

use super::machine::Proc;
use super::*;
use dataplane_iptables::programs::Variant;
use std::fs;

/// A `/proc` with some files.
fn proc(files: &[(&str, &str)]) -> (tempfile::TempDir, Proc) {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let proc = Proc::at(dir.path());
    (dir, proc)
}

fn severity(file: &str, text: &str, look: fn(&Proc) -> Finding) -> Severity {
    let (_dir, proc) = proc(&[(file, text)]);
    look(&proc).severity
}

#[test]
fn the_kernel_must_be_new_enough() {
    let of = |release: &str| severity("sys/kernel/osrelease", release, Proc::kernel);
    for old in [
        "5.13.19-generic\n",
        "4.19.0",
        "5.4.0-1-amd64",
        "3.10.0-1160.el7.x86_64",
    ] {
        assert_eq!(of(old), Severity::Fatal, "{old}");
    }
    for new in ["5.14.0", "5.15.0-91-generic", "6.1.0-56-amd64", "10.0-rc1"] {
        assert_eq!(of(new), Severity::Ok, "{new}");
    }
    assert_eq!(of("unknown"), Severity::Warning);
    let for_iptables = |release| severity("sys/kernel/osrelease", release, Proc::kernel_for_iptables);
    assert_eq!(
        ["5.3.0", "5.4.0-1-amd64", "6.1"].map(for_iptables),
        [Severity::Fatal, Severity::Ok, Severity::Ok]
    );
    assert_eq!(
        proc(&[]).1.kernel().severity,
        Severity::Warning,
        "what cannot be read is said"
    );
}

#[test]
fn ipvs_with_services_is_a_bypass() {
    let of = |table: &str| severity("thread-self/net/ip_vs", table, Proc::ipvs);
    let heads = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n";
    assert_eq!(of(heads), Severity::Ok);
    assert_eq!(
        of(&format!(
            "{heads}TCP  0A600001:01BB rr\n  -> C0A80001:192B      Masq    1      0          0\n"
        )),
        Severity::Bypass
    );
    assert_eq!(proc(&[]).1.ipvs().severity, Severity::Ok, "no IPVS at all");
    let finding = proc(&[(
        "thread-self/net/ip_vs",
        &format!("{heads}UDP  0A60000A:0035 rr\nTCP  0A60000A:0035 rr\n"),
    )])
    .1
    .ipvs();
    assert!(finding.forbids_readiness());
    let text = finding.to_string();
    assert!(
        text.contains("2 Services") && text.contains("kube-proxy"),
        "{text}"
    );
}

#[test]
fn settings_of_the_machine_are_judged() {
    let of = |value: &str| severity("sys/net/ipv4/conf/all/rp_filter", value, Proc::reverse_path);
    assert_eq!(
        [of("0\n"), of("2"), of("1"), of("x")],
        [Severity::Ok, Severity::Ok, Severity::Warning, Severity::Warning]
    );

    let forwarding = |four: &str, six: &str| {
        let (_dir, proc) = proc(&[
            ("sys/net/ipv4/ip_forward", four),
            ("sys/net/ipv6/conf/all/forwarding", six),
        ]);
        let found = proc.forwarding();
        [found[0].severity, found[1].severity]
    };
    assert_eq!(forwarding("1\n", "1\n"), [Severity::Ok, Severity::Ok]);
    assert_eq!(forwarding("0\n", "1\n"), [Severity::Warning, Severity::Ok]);
    let (_dir, four_only) = proc(&[("sys/net/ipv4/ip_forward", "1")]);
    assert_eq!(
        four_only.forwarding()[1].severity,
        Severity::Ok,
        "a kernel without IPv6 forwards none"
    );

    let table = |count: &str, limit: &str| {
        let (_dir, proc) = proc(&[
            ("sys/net/netfilter/nf_conntrack_count", count),
            ("sys/net/netfilter/nf_conntrack_max", limit),
        ]);
        proc.connection_table().severity
    };
    assert_eq!(table("84", "100"), Severity::Ok);
    assert_eq!(table("85", "100"), Severity::Warning);
    assert_eq!(table("many", "100"), Severity::Warning);
    assert_eq!(table("1", "0"), Severity::Warning);
    assert_eq!(proc(&[]).1.connection_table().severity, Severity::Ok);
}

#[test]
fn privileges_and_old_tables_are_seen() {
    let of = |status: &str| severity("thread-self/status", status, Proc::privileges);
    assert_eq!(of("Name:\tx\nCapEff:\t000001ffffffffff\n"), Severity::Ok);
    assert_eq!(of("CapEff:\t0000000000001000\n"), Severity::Ok, "this one alone");
    assert_eq!(of("CapEff:\t0000000000000000\n"), Severity::Warning);
    assert_eq!(of("Name:\tx\n"), Severity::Warning);

    let (_dir, with_table) = proc(&[
        ("thread-self/net/ip_tables_names", "nat\nfilter\n"),
        ("thread-self/net/ip6_tables_names", "nat\n"),
    ]);
    let prefixes = ["cali".to_string()];
    let held = with_table.old_iptables(&prefixes, Some(Variant::Legacy));
    assert!(held.iter().all(|finding| finding.severity == Severity::Ok));
    let found = with_table.old_iptables(&prefixes, Some(Variant::Nft));
    assert_eq!(
        [found[0].severity, found[1].severity],
        [Severity::Warning, Severity::Ok]
    );
    assert!(
        found[0]
            .remedy
            .contains("iptables-legacy -I FORWARD -i cali+ -j ACCEPT"),
        "{}",
        found[0]
    );
}

#[test]
fn findings_are_objects_for_programs() {
    let finding = Finding::new("ipvs", Severity::Bypass, "what", "remedy");
    let json = serde_json::to_string(&finding).unwrap();
    assert_eq!(
        json,
        r#"{"name":"ipvs","severity":"bypass","what":"what","remedy":"remedy"}"#
    );
}

/// Looks at a network namespace of its own, so that nothing depends on the machine's rules.
#[test]
fn this_machine_is_sufficient_and_other_firewalls_are_named() {
    let namespace = dataplane_netlink::NetworkNamespace::anonymous()
        .expect("these tests make network namespaces, which needs root");
    let found = namespace
        .run(|| {
            let before = run(&["cali".to_string()]);
            let mut link = dataplane_nftables::socket::Link::open().unwrap();
            let mut batch = dataplane_nftables::wire::Batch::new(dataplane_nftables::wire::Family::Ipv4);
            batch.table(&dataplane_nftables::wire::Table::new("filter"));
            let mut forward = dataplane_nftables::wire::Chain::filter(
                "filter",
                "FORWARD",
                dataplane_nftables::wire::Hook::Forward,
                0,
            );
            if let Some(base) = &mut forward.base {
                base.policy = dataplane_nftables::wire::Policy::Drop;
            }
            batch.chain(&forward);
            link.transact(&mut batch).unwrap();
            [before, run(&["cali".to_string()])]
        })
        .unwrap();
    let [before, after] = found;
    let of = |found: &[Finding], name: &str| found.iter().find(|f| f.name == name).cloned().unwrap();
    for name in [
        "kernel",
        "privileges",
        "nf_tables",
        "owned-tables",
        "veth",
        "other-firewalls",
        "ipvs",
    ] {
        assert_eq!(of(&before, name).severity, Severity::Ok, "{}", of(&before, name));
    }
    assert_eq!(
        of(&before, "ipv4-forwarding").severity,
        Severity::Warning,
        "a fresh namespace does not forward"
    );
    let firewall = of(&after, "other-firewalls");
    assert_eq!(firewall.severity, Severity::Warning);
    assert!(firewall.what.contains("'ip filter FORWARD'"), "{firewall}");
    let iptables = dataplane::IptablesSettings::of(Variant::Legacy);
    for backend in [RulesBackend::Nftables, RulesBackend::Iptables(iptables)] {
        assert_eq!(
            namespace.run(|| bypasses(&backend)).unwrap(),
            Vec::<String>::new()
        );
    }
}

/// What is looked at where policy is held in iptables: ours is no other agent, and no other firewall.
#[test]
fn policy_in_iptables_is_known_as_ours() {
    for variant in Variant::ALL {
        let namespace = dataplane_netlink::NetworkNamespace::anonymous()
            .expect("these tests make network namespaces, which needs root");
        let folder = tempfile::tempdir().unwrap();
        let lock = folder.path().join("xtables.lock");
        let found = namespace.run(|| {
            let closed = std::process::Command::new(format!("iptables-{variant}"))
                .args(["-P", "FORWARD", "DROP"])
                .env("XTABLES_LOCKFILE", &lock)
                .status();
            assert!(closed.expect("the tests need iptables").success());
            let before = run(&["cali".to_string()]);
            let mut own = dataplane::IptablesSettings::of(variant);
            own.programs.lock.file.clone_from(&lock);
            let mut dataplane = dataplane::Dataplane::open(dataplane::DataplaneSettings {
                programs: own.programs.clone(),
                rules: RulesBackend::Iptables(own),
                ..dataplane::DataplaneSettings::default()
            })
            .unwrap();
            dataplane.take(&[dataplane_api::Update::InSync]);
            dataplane.apply(0).unwrap();
            [before, run(&["cali".to_string()])]
        });
        let [before, after] = found.unwrap();
        let warnings = |found: &[Finding]| -> Vec<String> {
            let names = ["other-firewalls", "other-agents", "old-iptables"];
            let of = found.iter().filter(|finding| names.contains(&finding.name));
            of.filter(|finding| finding.severity != Severity::Ok)
                .map(ToString::to_string)
                .collect()
        };
        assert_eq!(warnings(&before).len(), 1, "{variant}: {before:?}");
        assert_eq!(warnings(&after), Vec::<String>::new(), "{variant}");
        let said = after.iter().find(|finding| finding.name == "felix").unwrap();
        assert!(said.what.contains(variant.name()), "{said}");
        let programs = after
            .iter()
            .find(|finding| finding.name == iptables::IPTABLES)
            .unwrap();
        assert!(programs.what.contains(variant.name()), "{programs}");
    }
}
