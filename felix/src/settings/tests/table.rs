//! The table of settings is sound.

use crate::settings::Settings;
use crate::settings::elsewhere::{ELSEWHERE, known_elsewhere};
use crate::settings::registry::REGISTRY;
use std::collections::BTreeSet;

#[test]
fn every_default_is_a_value_and_shows_as_one() {
    for row in REGISTRY {
        let mut settings = Settings::built_in();
        if !row.default.is_empty() {
            (row.put)(&mut settings, row.default).unwrap_or_else(|reason| panic!("{}: {reason}", row.name));
        }
        assert_eq!(settings, Settings::built_in(), "the default of {}", row.name);
        let shown = (row.show)(&settings);
        if !row.default.is_empty() && shown != "none" {
            (row.put)(&mut settings, &shown)
                .unwrap_or_else(|reason| panic!("{} shows {shown:?}: {reason}", row.name));
            assert_eq!(settings, Settings::built_in(), "{} shows {shown:?}", row.name);
        }
    }
}

#[test]
fn a_type_without_nothing_is_never_asked_for_nothing() {
    for row in REGISTRY {
        assert!(
            row.has_empty || row.flags.non_zero,
            "{} has no empty value and takes none",
            row.name
        );
        assert!(!row.purpose.trim().is_empty(), "{} has no purpose", row.name);
    }
}

#[test]
fn names_are_known_once() {
    let mut names = BTreeSet::new();
    for name in REGISTRY
        .iter()
        .map(|row| row.name)
        .chain(ELSEWHERE.iter().copied())
    {
        assert!(names.insert(name.to_ascii_lowercase()), "{name} is there twice");
    }
    assert_eq!(known_elsewhere("bpfloglevel"), Some("BPFLogLevel"));
    assert_eq!(known_elsewhere("HealthPort"), None);
}

/// Defaults that people rely on, in the words of the configuration file.
#[test]
fn defaults_are_the_documented_ones() {
    let expected = [
        ("DefaultEndpointToHostAction", "DROP"),
        ("InterfacePrefix", "cali"),
        ("InterfaceExclude", "kube-ipvs0"),
        ("ChainInsertMode", "insert"),
        ("IptablesMarkMask", "0xffff0000"),
        (
            "FailsafeInboundHostPorts",
            "tcp:22,udp:68,tcp:179,tcp:2379,tcp:2380,tcp:5473,tcp:6443,tcp:6666,tcp:6667",
        ),
        (
            "FailsafeOutboundHostPorts",
            "udp:53,udp:67,tcp:179,tcp:2379,tcp:2380,tcp:5473,tcp:6443,tcp:6666,tcp:6667",
        ),
        ("HealthEnabled", "true"),
        ("HealthHost", "localhost"),
        ("HealthPort", "9099"),
        ("PrometheusMetricsEnabled", "true"),
        ("PrometheusMetricsHost", ""),
        ("PrometheusMetricsPort", "9091"),
        ("LogSeverityScreen", "INFO"),
        ("LogFilePath", "/var/log/calico/felix.log"),
        ("RouteRefreshInterval", "90"),
        ("IptablesLockProbeIntervalMillis", "50"),
        ("DatastoreType", "file"),
        ("FlowsOnPolicyChange", "Keep"),
        ("NftablesOwnedTable", "true"),
        ("VXLANEnabled", "none"),
        ("VXLANPort", "4789"),
        ("VXLANVNI", "4096"),
        ("VXLANMTU", "0"),
        ("VXLANMTUV6", "0"),
        ("IpInIpEnabled", "none"),
        ("IpInIpMtu", "0"),
        ("AllowIPIPPacketsFromWorkloads", "false"),
        ("AllowVXLANPacketsFromWorkloads", "false"),
        ("NATPortRange", ""),
        ("NATOutgoingAddress", ""),
        ("NATOutgoingExclusions", "IPPoolsOnly"),
        ("KubeNodePortRanges", "30000:32767"),
        ("MaxIpsetSize", "1048576"),
    ];
    let settings = Settings::built_in();
    for (name, value) in expected {
        let row = REGISTRY.iter().find(|row| row.name == name).unwrap();
        assert_eq!((row.show)(&settings), value, "{name}");
    }
}

#[test]
fn demands_are_the_documented_ones() {
    let with = |demand: fn(&crate::settings::Flags) -> bool| -> BTreeSet<&str> {
        REGISTRY
            .iter()
            .filter(|row| demand(&row.flags))
            .map(|row| row.name)
            .collect()
    };
    let fatal = with(|flags| flags.die_on_fail);
    for name in [
        "DatastoreType",
        "MetadataAddr",
        "MetadataPort",
        "OpenstackRegion",
        "InterfacePrefix",
        "ChainInsertMode",
        "DefaultEndpointToHostAction",
        "IptablesFilterAllowAction",
        "IptablesMangleAllowAction",
        "LogFilePath",
        "IptablesMarkMask",
        "FailsafeInboundHostPorts",
        "FailsafeOutboundHostPorts",
        "ExternalNodesCIDRList",
    ] {
        assert!(fatal.contains(name), "{name} ends the agent");
    }
    for name in [
        "LogSeverityScreen",
        "HealthPort",
        "RouteRefreshInterval",
        "InterfaceExclude",
    ] {
        assert!(!fatal.contains(name), "{name} falls back");
    }
    let local = with(|flags| flags.local);
    for name in [
        "DatastoreType",
        "FelixHostname",
        "EtcdAddr",
        "EtcdEndpoints",
        "TyphaAddr",
        "TyphaCN",
    ] {
        assert!(local.contains(name), "{name} is local");
    }
    assert!(with(|flags| flags.secret).contains("EtcdEndpoints"));
}

/// The sources that may read settings: everything but the table and its tests, and without tests of other rooms.
fn readers(folder: &std::path::Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() && name != "tests" {
            readers(&path, text);
        } else if name.ends_with(".rs") && name != "tests.rs" && name != "registry.rs" && name != "resolve.rs"
        {
            text.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

/// An operator is told which settings have no effect. That is only worth something while it is true.
#[test]
fn a_setting_has_no_effect_exactly_if_nobody_reads_it() {
    let mut text = String::new();
    readers(
        &std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut text,
    );
    let read: BTreeSet<&str> = text
        .split(|letter: char| !(letter.is_alphanumeric() || letter == '_' || letter == '.'))
        .flat_map(|path| path.split('.').skip(1))
        .collect();
    let wrong: Vec<String> = REGISTRY
        .iter()
        .filter(|row| row.flags.inert == read.contains(row.field))
        .map(|row| match row.flags.inert {
            true => format!("{} is read, so it is not inert", row.name),
            false => format!("{} is read by nobody, so it is inert", row.name),
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
