//! Each type of setting: what it reads, and what it refuses.

use crate::settings::parse::*;
use proptest::prelude::*;
use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

/// Holds a parser against texts and what they stand for; none is a refusal.
fn check<P: Parser>(cases: &[(&str, Option<P::Value>)])
where
    P::Value: Debug,
{
    for (raw, expected) in cases {
        let read = P::parse(raw).ok();
        assert_eq!(read, *expected, "{} of {raw:?}", std::any::type_name::<P>());
        if let Some(value) = read {
            let shown = P::show(&value);
            if !shown.is_empty() && shown != "none" {
                assert_eq!(P::parse(&shown).ok(), Some(value), "{raw:?} shows as {shown:?}");
            }
        }
    }
    assert!(!P::expected().is_empty());
}

#[test]
fn truth_values() {
    for raw in ["true", "1", "yes", "y", "t", "TRUE", "Yes", "T"] {
        check::<Bool>(&[(raw, Some(true))]);
        check::<MaybeBool>(&[(raw, Some(Some(true)))]);
    }
    for raw in ["false", "0", "no", "n", "f", "False", "NO"] {
        check::<Bool>(&[(raw, Some(false))]);
    }
    check::<Bool>(&[
        ("", None),
        ("2", None),
        ("on", None),
        (" true", None),
        ("truee", None),
        ("wahr", None),
    ]);
}

#[test]
fn integers() {
    check::<Int>(&[
        ("0", Some(0)),
        ("-5", Some(-5)),
        ("+5", Some(5)),
        ("0x10", Some(16)),
        ("0X1f", Some(31)),
        ("010", Some(8)),
        ("0o17", Some(15)),
        ("0b101", Some(5)),
        ("9223372036854775807", Some(i64::MAX)),
        ("-9223372036854775808", Some(i64::MIN)),
        ("9223372036854775808", None),
        ("", None),
        ("-", None),
        ("--5", None),
        ("+-5", None),
        ("5.0", None),
        ("0x", None),
        ("08", None),
        ("1e3", None),
        (" 1", None),
        ("٣", None),
    ]);
    check::<Int<1, 10>>(&[("0", None), ("1", Some(1)), ("10", Some(10)), ("11", None)]);
    check::<Port>(&[
        ("0", Some(0)),
        ("65535", Some(65535)),
        ("65536", None),
        ("-1", None),
        ("http", None),
    ]);
    check::<MaybePort>(&[("9095", Some(Some(9095))), ("", None)]);
}

#[test]
fn marks() {
    check::<MarkBitmask>(&[
        ("0xffff0000", Some(0xffff_0000)),
        ("3", Some(3)),
        ("0xffffffff", Some(u32::MAX)),
        ("0x100000000", None),
        ("1", None),
        ("0", None),
        ("-1", None),
        ("", None),
    ]);
}

#[test]
fn times() {
    let seconds = |value| Some(Duration::from_secs_f64(value));
    check::<Seconds>(&[
        ("0", seconds(0.0)),
        ("90", seconds(90.0)),
        ("0.5", seconds(0.5)),
        ("1e2", seconds(100.0)),
        ("-1", None),
        ("NaN", None),
        ("inf", None),
        ("1e300", None),
        ("90s", None),
        ("", None),
    ]);
    check::<Millis>(&[
        ("50", seconds(0.05)),
        ("1500", seconds(1.5)),
        ("50ms", None),
        ("-0.1", None),
    ]);
}

#[test]
fn durations_with_units() {
    let cases = [
        ("90s", Some(90.0)),
        ("1m30s", Some(90.0)),
        ("1.5h", Some(5400.0)),
        ("250ms", Some(0.25)),
        ("5us", Some(5e-6)),
        ("5µs", Some(5e-6)),
        ("7ns", Some(7e-9)),
        ("0", Some(0.0)),
        ("+1s", Some(1.0)),
        (".5s", Some(0.5)),
        ("", None),
        ("90", None),
        ("s", None),
        ("1.2.3s", None),
        ("1d", None),
        ("-1s", None),
        ("1s ", None),
        (".s", None),
        ("99999999999999999999h", None),
    ];
    for (raw, expected) in cases {
        assert_eq!(
            go_duration(raw).ok(),
            expected.map(Duration::from_secs_f64),
            "{raw:?}"
        );
    }
}

#[test]
fn words() {
    check::<OneOf<InsertMode>>(&[
        ("insert", Some(InsertMode::Insert)),
        ("APPEND", Some(InsertMode::Append)),
        ("", None),
        ("prepend", None),
    ]);
    check::<OneOf<EndpointToHostAction>>(&[
        ("accept", Some(EndpointToHostAction::Accept)),
        ("Return", Some(EndpointToHostAction::Return)),
        ("DROP", Some(EndpointToHostAction::Drop)),
        ("reject", None),
    ]);
    check::<OneOfOrNone<LogSeverity>>(&[
        ("debug", Some(Some(LogSeverity::Debug))),
        ("Warning", Some(Some(LogSeverity::Warning))),
        ("warn", None),
        ("verbose", None),
    ]);
    check::<OneOf<FlowsOnPolicyChange>>(&[("recheck", Some(FlowsOnPolicyChange::Recheck)), ("cut", None)]);
    check::<OneOf<DatastoreKind>>(&[("etcdv3", Some(DatastoreKind::Etcd)), ("etcdv2", None)]);
    assert!(LogSeverity::Trace < LogSeverity::Fatal);
    assert!(
        OneOf::<InsertMode>::parse("x")
            .unwrap_err()
            .to_string()
            .contains("insert, append")
    );
}

#[test]
fn names_and_hosts() {
    let text = |raw: &str| Some(raw.to_owned());
    check::<Hostname>(&[
        ("node-1.example_x", text("node-1.example_x")),
        ("", None),
        ("a b", None),
        ("a/b", None),
        ("ümlaut", None),
    ]);
    check::<HostAddress>(&[
        ("localhost", text("localhost")),
        ("0.0.0.0", text("0.0.0.0")),
        ("::1", text("::1")),
        ("fe80::1%eth0", None),
        ("", None),
        ("a b", None),
    ]);
    check::<Authority>(&[
        ("127.0.0.1:2379", text("127.0.0.1:2379")),
        ("etcd:0", text("etcd:0")),
        ("[::1]:2379", text("[::1]:2379")),
        ("::1:2379", None),
        ("etcd", None),
        (":2379", None),
        ("etcd:", None),
        ("etcd:70000", None),
        ("http://etcd:1", None),
    ]);
    check::<Region>(&[
        ("europe-1", text("europe-1")),
        ("Europe", None),
        ("-a", None),
        ("a-", None),
        ("", None),
        (&"a".repeat(46), text(&"a".repeat(46))),
        (&"a".repeat(47), None),
    ]);
    check::<Text>(&[("a b; c", text("a b; c")), ("", text("")), ("a\nb", None)]);
}

#[test]
fn interfaces() {
    let list = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    check::<InterfacePrefixList>(&[
        ("cali", list(&["cali"])),
        ("cali,tap", list(&["cali", "tap"])),
        ("", None),
        ("cali,", None),
        ("cali, tap", None),
        ("0123456789abcdef", None),
        ("a/b", None),
    ]);
    check::<InterfaceFilterList>(&[
        (
            "kube-ipvs0",
            Some(vec![InterfaceFilter::Name("kube-ipvs0".into())]),
        ),
        (
            "/^veth.*/,docker0",
            Some(vec![
                InterfaceFilter::Pattern("^veth.*".into()),
                InterfaceFilter::Name("docker0".into()),
            ]),
        ),
        ("//", None),
        ("/a", None),
        ("", None),
        ("/", None),
    ]);
    check::<InterfacePattern>(&[("eth+", Some("eth+".into())), ("", None), ("a,b", None)]);
}

#[test]
fn failsafe_ports() {
    let port = |protocol, net: Option<&str>, port| FailsafePort {
        protocol,
        net: net.map(|net| net.parse().unwrap()),
        port,
    };
    let (tcp, udp) = (FailsafeProtocol::Tcp, FailsafeProtocol::Udp);
    check::<PortList>(&[
        ("22", Some(vec![port(tcp, None, 22)])),
        (
            "tcp:22, udp:53",
            Some(vec![port(tcp, None, 22), port(udp, None, 53)]),
        ),
        ("UDP:0", Some(vec![port(udp, None, 0)])),
        ("tcp:10.0.0.0/8:22", Some(vec![port(tcp, Some("10.0.0.0/8"), 22)])),
        ("tcp:10.1.2.3/8:22", Some(vec![port(tcp, Some("10.0.0.0/8"), 22)])),
        ("tcp:10.1.2.3:22", Some(vec![port(tcp, Some("10.1.2.3/32"), 22)])),
        ("tcp:[fd00::/8]:22", Some(vec![port(tcp, Some("fd00::/8"), 22)])),
        ("tcp:[fd00::]/8:22", Some(vec![port(tcp, Some("fd00::/8"), 22)])),
        ("udp:fd00::/8:53", Some(vec![port(udp, Some("fd00::/8"), 53)])),
        ("tcp:[fd00::1]:22", Some(vec![port(tcp, Some("fd00::1/128"), 22)])),
        ("", Some(vec![])),
        (",,22,", Some(vec![port(tcp, None, 22)])),
        ("sctp:22", None),
        ("tcp:65536", None),
        ("tcp:-1", None),
        ("tcp:+1", None),
        ("tcp:", None),
        ("tcp", None),
        (":22", None),
        ("tcp:10.0.0.0/33:22", None),
        ("tcp:nonsense:22", None),
        ("tcp:[:22", None),
        ("tcp::22", None),
        ("22:tcp", None),
    ]);
    assert_eq!(PortList::show(&Vec::new()), "none");
}

#[test]
fn ranges() {
    let range = |first, last| PortRange { first, last };
    check::<PortRangeList>(&[
        ("30000:32767", Some(vec![range(30000, 32767)])),
        ("80,100:200", Some(vec![range(80, 80), range(100, 200)])),
        ("200:100", None),
        ("1:70000", None),
        ("http", None),
        ("", None),
    ]);
    check::<PortRangeOrNone>(&[("1:2", Some(Some(range(1, 2)))), ("1:2:3", None)]);
    check::<RouteTableRange>(&[
        ("1-250", Some(Some((1, 250)))),
        ("0-5", None),
        ("1-251", None),
        ("9-3", None),
        ("7", None),
    ]);
    check::<RouteTableRanges>(&[
        ("1-250,1000-2000", Some(vec![(1, 250), (1000, 2000)])),
        ("1-4294967295", None),
        ("x", None),
    ]);
}

#[test]
fn networks_and_addresses() {
    let nets = |all: &[&str]| {
        Some(
            all.iter()
                .map(|net| net.parse().unwrap())
                .collect::<Vec<ipnet::IpNet>>(),
        )
    };
    check::<CidrList>(&[
        ("10.0.0.0/8, 192.168.1.1", nets(&["10.0.0.0/8", "192.168.1.1/32"])),
        ("10.1.2.3/8", nets(&["10.0.0.0/8"])),
        ("fd00::/8", nets(&["fd00::/8"])),
        ("", nets(&[])),
        ("10.0.0.0/33", None),
        ("10.0.0", None),
    ]);
    check::<Ipv4>(&[
        ("1.2.3.4", Some(Some("1.2.3.4".parse().unwrap()))),
        ("::1", None),
        ("", None),
        ("1.2.3", None),
    ]);
    check::<Ipv6>(&[("::1", Some(Some("::1".parse().unwrap()))), ("1.2.3.4", None)]);
}

#[test]
fn keys_with_values() {
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    check::<KeyValueList>(&[
        ("a=b, c=d=e", Some(vec![pair("a", "b"), pair("c", "d=e")])),
        ("a=", Some(vec![pair("a", "")])),
        ("", Some(vec![])),
        ("a", None),
        ("=b", None),
    ]);
    check::<KeyDurationList>(&[
        (
            "calculation=2m,dataplane=90s",
            Some(vec![
                ("calculation".to_owned(), Duration::from_secs(120)),
                ("dataplane".to_owned(), Duration::from_secs(90)),
            ]),
        ),
        ("a=5", None),
        ("a", None),
    ]);
}

#[test]
fn servers() {
    let list = |all: &[&str]| Some(all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>());
    check::<EndpointList>(&[
        ("http://a:1,http://b:2/", list(&["http://a:1", "http://b:2"])),
        ("HTTPS://a:1", list(&["https://a:1"])),
        ("", list(&[])),
        ("http://a:1,https://b:1", None),
        ("ftp://a", None),
        ("a:1", None),
        ("http://a/b", None),
        ("http://", None),
        ("http://a?x", None),
    ]);
    let refusal = EndpointList::parse("http://root:secret@etcd:2379").unwrap_err();
    assert!(!refusal.to_string().contains("secret"), "{refusal}");
}

#[test]
fn files() {
    let folder = tempfile::tempdir().unwrap();
    let there = folder.path().join("there");
    std::fs::write(&there, "").unwrap();
    let path = there.display().to_string();
    let absent = folder.path().join("absent").display().to_string();
    check::<File>(&[
        ("/a/b", Some("/a/b".into())),
        ("", Some(PathBuf::new())),
        ("a\0b", None),
    ]);
    check::<ExistingFile>(&[
        (path.as_str(), Some(there.clone())),
        ("", Some(PathBuf::new())),
        (absent.as_str(), None),
    ]);
    // A file that nobody may run is no program.
    check::<Executable>(&[(path.as_str(), None), ("no-such-program-anywhere", None)]);
    assert!(Executable::parse("sh").unwrap().is_absolute());
}

proptest! {
    /// No text brings a parser down, and what one reads it also shows as what it reads.
    #[test]
    fn any_text_is_read_or_refused(raw in any::<String>(), near in "[0-9a-z:,./=\\[\\]+-]{0,24}") {
        for text in [raw, near] {
            for row in crate::settings::registry::REGISTRY {
                let mut settings = crate::settings::Settings::built_in();
                if (row.put)(&mut settings, &text).is_ok() {
                    let shown = (row.show)(&settings);
                    let mut again = crate::settings::Settings::built_in();
                    if !shown.is_empty() && shown != "none" && row.name != "DataplaneDriver" {
                        prop_assert!((row.put)(&mut again, &shown).is_ok(), "{} shows {:?} for {:?}", row.name, shown, text);
                        prop_assert_eq!((row.show)(&again), shown);
                    }
                }
            }
            let _ = go_duration(&text);
        }
    }

    #[test]
    fn failsafe_ports_are_read_as_shown(udp: bool, bits in 0u8..=128, address: u128, port: u16, v4: bool) {
        let net = match v4 {
            true => ipnet::IpNet::new(std::net::Ipv4Addr::from(address as u32).into(), bits % 33).unwrap().trunc(),
            false => ipnet::IpNet::new(std::net::Ipv6Addr::from(address).into(), bits).unwrap().trunc(),
        };
        let protocol = if udp { FailsafeProtocol::Udp } else { FailsafeProtocol::Tcp };
        let value = vec![FailsafePort { protocol, net: Some(net), port }, FailsafePort { protocol, net: None, port }];
        prop_assert_eq!(PortList::parse(&PortList::show(&value)).unwrap(), value);
    }
}

#[test]
fn a_mask_for_iptables_leaves_a_bit_beside_kube_proxys() {
    assert_eq!(IptablesMarks::parse("0xffff0000"), Ok(0xffff_0000));
    assert_eq!(IptablesMarks::parse("0x1c000"), Ok(0x0001_c000));
    for (mask, words) in [
        ("0xc000", "which kube-proxy uses"),
        ("0x10000", "two bits"),
        ("0", "two bits"),
        ("mask", "32 bits"),
    ] {
        let reason = IptablesMarks::parse(mask).unwrap_err().to_string();
        assert!(reason.contains(words), "{mask}: {reason}");
    }
}
