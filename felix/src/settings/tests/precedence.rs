//! Which source wins, what a bad value does, and what is told.

use crate::settings::parse::{EndpointToHostAction, LogSeverity};
use crate::settings::{Layer, Layers, Notice, Resolution, SettingsError, Source};
use proptest::prelude::*;

const FROM_LOW_TO_HIGH: [Source; 5] = [
    Source::ClusterDefault,
    Source::Node,
    Source::File,
    Source::Environment,
    Source::Override,
];

/// A value that a source sets for a name.
type Row<'a> = (Source, &'a str, &'a str);

fn layers(written: &[Row<'_>]) -> Layers {
    let mut layers = Layers::new(Some("Host.Example\n".into()));
    for source in FROM_LOW_TO_HIGH {
        let mut layer = Layer::new(source);
        for (_, name, value) in written.iter().filter(|(of, _, _)| *of == source) {
            layer.put(*name, format!("{source} for {name}"), *value);
        }
        layers.put(layer);
    }
    layers
}

fn resolve(written: &[Row<'_>]) -> Result<Resolution, SettingsError> {
    layers(written).resolve()
}

fn effective(resolution: &Resolution, name: &str) -> (String, Source) {
    let found = resolution
        .effective
        .iter()
        .find(|setting| setting.name == name)
        .unwrap();
    (found.value.clone(), found.source)
}

#[test]
fn each_source_wins_over_those_below() {
    for number in 0..=FROM_LOW_TO_HIGH.len() {
        let written: Vec<(Source, &str, String)> = FROM_LOW_TO_HIGH[..number]
            .iter()
            .enumerate()
            .map(|(at, source)| (*source, "healthPORT", (at + 1).to_string()))
            .collect();
        let written: Vec<Row<'_>> = written
            .iter()
            .map(|(source, name, value)| (*source, *name, value.as_str()))
            .collect();
        let resolution = resolve(&written).unwrap();
        let (value, source) = match number {
            0 => ("9099".to_owned(), Source::BuiltIn),
            number => (number.to_string(), FROM_LOW_TO_HIGH[number - 1]),
        };
        assert_eq!(effective(&resolution, "HealthPort"), (value.clone(), source));
        assert_eq!(resolution.settings.health_port.to_string(), value);
        assert_eq!(resolution.notices, []);
    }
}

#[test]
fn the_name_of_the_node_is_the_host_s_unless_it_is_set() {
    let resolution = resolve(&[]).unwrap();
    assert_eq!(resolution.settings.felix_hostname, "host.example");
    assert_eq!(
        effective(&resolution, "FelixHostname"),
        ("host.example".to_owned(), Source::BuiltIn)
    );
    let resolution = resolve(&[(Source::File, "FelixHostname", "Other")]).unwrap();
    assert_eq!(resolution.settings.felix_hostname, "Other");
    let error = Layers::new(None).resolve().unwrap_err().to_string();
    assert!(error.contains("FELIX_FELIXHOSTNAME"), "{error}");
}

#[test]
fn nothing_can_be_asked_for() {
    let resolution = resolve(&[
        (Source::Environment, "FailsafeInboundHostPorts", "none"),
        (Source::Environment, "LogSeverityScreen", "None"),
        (Source::Environment, "LogFilePath", "NONE"),
        (Source::File, "LogFilePath", "/tmp/x"),
        (Source::Environment, "RouteRefreshInterval", "none"),
        (Source::Environment, "HealthEnabled", "none"),
    ])
    .unwrap();
    let settings = &resolution.settings;
    assert_eq!(settings.failsafe_inbound_host_ports, []);
    assert_eq!(settings.log_severity_screen, None);
    assert!(settings.log_file_path.as_os_str().is_empty());
    assert!(settings.route_refresh_interval.is_zero());
    assert!(!settings.health_enabled);
    assert_eq!(
        effective(&resolution, "LogFilePath"),
        (String::new(), Source::Environment)
    );
    assert!(
        resolution
            .notices
            .iter()
            .all(|notice| matches!(notice, Notice::NoEffect(_)))
    );
}

#[test]
fn nothing_is_refused_where_there_must_be_something() {
    for name in [
        "InterfacePrefix",
        "ChainInsertMode",
        "MaxIpsetSize",
        "FelixHostname",
        "DatastoreType",
    ] {
        let error = resolve(&[(Source::Environment, name, "none")]).unwrap_err();
        assert!(
            matches!(&error, SettingsError::Refused { setting, .. } if *setting == name),
            "{name}: {error}"
        );
    }
}

#[test]
fn a_fatal_value_is_named_with_its_source_and_reason() {
    let cases = [
        ("ChainInsertMode", "sideways", "insert, append"),
        ("DefaultEndpointToHostAction", "allow", "DROP, RETURN, ACCEPT"),
        ("InterfacePrefix", "a b", "interface"),
        ("IptablesMarkMask", "1", "two bits"),
        ("FailsafeInboundHostPorts", "tcp:99999", "65535"),
        ("ExternalNodesCIDRList", "10.0.0.0/40", "CIDR"),
        ("MetadataPort", "99999", "65535"),
        ("FlowsOnPolicyChange", "cut", "Keep, Recheck"),
        ("DatastoreType", "mysql", "file, kubernetes, etcdv3"),
    ];
    for (name, value, reason) in cases {
        let error = resolve(&[(Source::File, name, value)]).unwrap_err().to_string();
        for part in [
            &format!("configuration file for {name}"),
            name,
            &format!("{value:?}"),
            reason,
        ] {
            assert!(error.contains(part), "{error} does not have {part}");
        }
    }
}

#[test]
fn a_harmless_value_falls_back_to_the_default_and_is_told() {
    // The default holds, not the value of a source below: what was meant is not known.
    let resolution = resolve(&[
        (Source::Environment, "HealthPort", "ninety"),
        (Source::File, "HealthPort", "1234"),
    ])
    .unwrap();
    assert_eq!(
        effective(&resolution, "HealthPort"),
        ("9099".to_owned(), Source::Environment)
    );
    assert_eq!(
        resolution
            .notices
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        [
            "environment for HealthPort: HealthPort cannot be \"ninety\": it is not an integer; the default \"9099\" holds"
        ]
    );
}

#[test]
fn a_bad_value_that_does_not_hold_is_told_and_does_no_harm() {
    let resolution = resolve(&[
        (Source::Environment, "IptablesMangleAllowAction", "RETURN"),
        (Source::ClusterDefault, "IptablesMangleAllowAction", "sideways"),
        (Source::Node, "IptablesMangleAllowAction", "none"),
    ])
    .unwrap();
    let told: Vec<String> = resolution.notices.iter().map(ToString::to_string).collect();
    assert_eq!(
        effective(&resolution, "IptablesMangleAllowAction"),
        ("RETURN".to_owned(), Source::Environment)
    );
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(
        told.iter()
            .any(|line| line.contains("\"sideways\"") && line.contains("another source"))
    );
    assert!(told.iter().any(|line| line.contains("no effect")));
}

#[test]
fn local_settings_are_not_taken_from_the_datastore() {
    let resolution = resolve(&[
        (Source::Node, "FelixHostname", "evil"),
        (Source::ClusterDefault, "DatastorePath", "/evil"),
        (Source::File, "DatastorePath", "/good"),
    ])
    .unwrap();
    assert_eq!(resolution.settings.felix_hostname, "host.example");
    assert_eq!(resolution.settings.datastore_path.to_str(), Some("/good"));
    let ignored = resolution
        .notices
        .iter()
        .filter(|notice| matches!(notice, Notice::OnlyLocal { .. }))
        .count();
    assert_eq!(ignored, 2);
}

#[test]
fn names_without_effect_are_told_in_one_notice_and_unknown_ones_with_a_guess() {
    let resolution = resolve(&[
        (Source::Environment, "BPFLOGLEVEL", "info"),
        (Source::File, "IgnoreLooseRPF", "true"),
        (Source::File, "TyphaK8sServiceName", "calico-typha"),
        (Source::Environment, "HEALTHPORTS", "1"),
        (Source::Environment, "SOMETHINGELSE", "hunter2"),
        (Source::Environment, &"x".repeat(100_000), "1"),
    ])
    .unwrap();
    let told: Vec<String> = resolution.notices.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 4, "{told:?}");
    assert!(
        told.iter()
            .any(|line| line.ends_with(": BPFLogLevel, IgnoreLooseRPF, TyphaK8sServiceName"))
    );
    assert!(
        told.iter()
            .any(|line| line.contains("\"HEALTHPORTS\"") && line.contains("HealthPort may be meant"))
    );
    assert!(
        told.iter()
            .any(|line| line.contains("SOMETHINGELSE") && !line.contains("meant"))
    );
    assert!(told.iter().all(|line| !line.contains("hunter2")));
}

#[test]
fn secrets_are_never_shown() {
    let secret = "http://root:hunter2@etcd:2379";
    let written = [(Source::Environment, "EtcdEndpoints", secret)];
    let resolution = resolve(&written).unwrap();
    assert!(!format!("{:?}", resolution.effective).contains("hunter2"));
    assert!(
        resolution
            .notices
            .iter()
            .all(|notice| !notice.to_string().contains("hunter2"))
    );
    let good = resolve(&[(Source::Environment, "EtcdEndpoints", "http://hunter2:2379")]).unwrap();
    assert_eq!(effective(&good, "EtcdEndpoints").0, "(hidden)");
    let changes = good.changes_since(&resolution);
    assert_eq!(changes.len(), 1);
    assert!(!format!("{changes:?}").contains("hunter2"));
}

#[test]
fn what_cannot_be_honoured_together_is_refused() {
    let cases: [(&[Row], &str); 4] = [
        (
            &[(Source::File, "UseInternalDataplaneDriver", "false")],
            "UseInternalDataplaneDriver",
        ),
        (&[(Source::File, "PrometheusMetricsCertFile", "/x")], "TLS"),
        (&[(Source::File, "DatastorePath", "none")], "DatastorePath"),
        (&[(Source::File, "DatastoreType", "etcdv3")], "DatastoreType"),
    ];
    for (written, part) in cases {
        let error = resolve(written).unwrap_err();
        assert!(
            matches!(error, SettingsError::Unmet(_)) && error.to_string().contains(part),
            "{error}"
        );
    }
    let off = [
        (Source::File, "PrometheusMetricsCertFile", "/x"),
        (Source::File, "PrometheusMetricsEnabled", "false"),
    ];
    assert!(resolve(&off).is_ok());
}

#[test]
fn a_new_reading_says_what_changed() {
    let mut layers = layers(&[
        (Source::File, "LogSeverityScreen", "INFO"),
        (Source::File, "HealthPort", "1"),
    ]);
    let before = layers.resolve().unwrap();
    layers.put(
        Layer::new(Source::ClusterDefault)
            .with("LogSeverityScreen", "DEBUG")
            .with("DefaultEndpointToHostAction", "accept"),
    );
    layers.put(Layer::new(Source::File).with("HealthPort", "1"));
    layers.put(Layer::new(Source::Environment).with("HealthPort", "0x1"));
    let after = layers.resolve().unwrap();
    let changes: Vec<(&str, String, String)> = after
        .changes_since(&before)
        .into_iter()
        .map(|change| (change.name, change.before, change.after))
        .collect();
    assert_eq!(
        changes,
        [
            (
                "DefaultEndpointToHostAction",
                "DROP".to_owned(),
                "ACCEPT".to_owned()
            ),
            ("LogSeverityScreen", "INFO".to_owned(), "DEBUG".to_owned()),
        ]
    );
    assert_eq!(after.settings.log_severity_screen, Some(LogSeverity::Debug));
    assert_eq!(
        after.settings.default_endpoint_to_host_action,
        EndpointToHostAction::Accept
    );
    layers.remove(Source::ClusterDefault);
    assert_eq!(
        layers.resolve().unwrap().settings.log_severity_screen,
        Some(LogSeverity::Info)
    );
}

#[test]
fn at_start_the_file_and_the_environment_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("felix.cfg");
    std::fs::write(
        &path,
        "[global]\nHealthPort = 1\nLogPrefix = file\nChainInsertMode = x\n",
    )
    .unwrap();
    let environment = [("FELIX_HEALTHPORT", "2"), ("FELIX_CHAININSERTMODE", "append")];
    let environment = environment.map(|(name, value)| (name.into(), value.into()));
    let resolution = Layers::at_start(&path, environment, Some("a".into()))
        .unwrap()
        .resolve()
        .unwrap();
    assert_eq!(
        (
            resolution.settings.health_port,
            resolution.settings.log_prefix.as_str()
        ),
        (2, "file")
    );
    let place = format!("{} line 4", path.display());
    assert!(
        resolution
            .notices
            .iter()
            .any(|notice| notice.to_string().starts_with(&place))
    );
    let error = Layers::at_start(&path, [], None)
        .unwrap()
        .resolve()
        .unwrap_err()
        .to_string();
    assert!(error.starts_with(&place), "{error}");
    std::fs::write(&path, "[global").unwrap();
    assert!(matches!(
        Layers::at_start(&path, [], None),
        Err(SettingsError::File(_))
    ));
}

proptest! {
    /// Whatever is written where, the winner is the greatest source that may set it and was not refused.
    #[test]
    fn the_greatest_source_wins(values in proptest::collection::vec(proptest::option::of(0u16..=65535), 5)) {
        let written: Vec<(Source, String)> = FROM_LOW_TO_HIGH.iter().zip(&values)
            .filter_map(|(source, value)| value.map(|value| (*source, value.to_string()))).collect();
        let rows: Vec<Row<'_>> =
            written.iter().map(|(source, value)| (*source, "PrometheusMetricsPort", value.as_str())).collect();
        let expected = written.last().map_or((9091.to_string(), Source::BuiltIn), |(source, value)| (value.clone(), *source));
        prop_assert_eq!(effective(&resolve(&rows).unwrap(), "PrometheusMetricsPort"), expected);
    }
}
