//! The file, the environment and the resource: what each says, and how it is read.

use crate::settings::file::{self, ConfigFileError};
use crate::settings::resource;
use crate::settings::{Layer, Layers, Notice, Source};
use policy_model::FelixConfigurationSpec;
use serde_json::json;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

fn values(layer: &Layer) -> Vec<(&str, &str)> {
    layer
        .values()
        .values()
        .map(|written| (written.name.as_str(), written.value.as_str()))
        .collect()
}

fn parsed(text: &str) -> Result<Layer, ConfigFileError> {
    file::parse(text, Path::new("/etc/calico/felix.cfg"))
}

#[test]
fn a_file_has_names_and_values_in_any_section() {
    let cases: &[(&str, &[(&str, &str)])] = &[
        ("", &[]),
        ("[global]\nHealthPort=1", &[("HealthPort", "1")]),
        ("[global]\r\nHealthPort = 1\r\n", &[("HealthPort", "1")]),
        ("\u{feff}[global]\nHealthPort: 1\n", &[("HealthPort", "1")]),
        ("HealthPort=1", &[("HealthPort", "1")]),
        (
            "[a]\nHealthPort=1\n[b]\nHealthHost=x",
            &[("HealthHost", "x"), ("HealthPort", "1")],
        ),
        (
            "# a\n; b\n\n[global] # c\nLogPrefix = a b # c\n",
            &[("LogPrefix", "a b")],
        ),
        ("LogPrefix = a#b;c", &[("LogPrefix", "a#b;c")]),
        ("LogPrefix = \"a # b \" ; c", &[("LogPrefix", "a # b ")]),
        ("LogPrefix = 'it is \"x\"'", &[("LogPrefix", "it is \"x\"")]),
        (
            "FailsafeInboundHostPorts = tcp:22,udp:53",
            &[("FailsafeInboundHostPorts", "tcp:22,udp:53")],
        ),
        ("A=b=c", &[("A", "b=c")]),
        ("HealthPort=", &[("HealthPort", "")]),
        ("HealthPort=1\nhealthport=2", &[("healthport", "2")]),
    ];
    for (text, expected) in cases {
        assert_eq!(values(&parsed(text).unwrap()), *expected, "{text:?}");
    }
    assert_eq!(parsed("HealthPort=1\nhealthport=2").unwrap().repeated().len(), 1);
}

#[test]
fn a_line_that_says_nothing_is_named() {
    for (text, line) in [
        ("[global", 1),
        ("[]", 1),
        ("[global]\nnonsense", 2),
        ("\n\n=1", 3),
        ("two words = 1", 1),
        ("LogPrefix = \"open", 1),
        ("LogPrefix = \"a\" b", 1),
    ] {
        let error = parsed(text).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("/etc/calico/felix.cfg, line {line}: ")),
            "{text:?}: {error}"
        );
    }
}

#[test]
fn a_file_that_is_not_there_sets_nothing_and_one_that_cannot_be_read_is_told() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(
        values(&file::read(&folder.path().join("absent.cfg")).unwrap()),
        []
    );
    let error = file::read(folder.path()).unwrap_err();
    assert!(matches!(error, ConfigFileError::Read { .. }), "{error}");
    assert!(error.to_string().contains(&folder.path().display().to_string()));
    let large = folder.path().join("large.cfg");
    std::fs::write(&large, vec![b'#'; (1 << 20) + 1]).unwrap();
    assert!(matches!(
        file::read(&large),
        Err(ConfigFileError::TooLarge { .. })
    ));
    let no_text = folder.path().join("binary.cfg");
    std::fs::write(&no_text, [0xff, 0xfe]).unwrap();
    assert!(matches!(file::read(&no_text), Err(ConfigFileError::Read { .. })));
}

#[test]
fn the_environment_is_read_in_any_case() {
    let layer = Layer::from_environment(
        [
            ("FELIX_HEALTHPORT", "1"),
            ("felix_LogPrefix", "x"),
            ("Felix_healthhost", "::1"),
            ("FELIX", "no"),
            ("FELIXHEALTHPORT", "no"),
            ("CALICO_HEALTHPORT", "no"),
            ("ÄÄÄÄ", "no"),
        ]
        .map(|(name, value)| (OsString::from(name), OsString::from(value))),
    );
    assert_eq!(
        values(&layer),
        [("healthhost", "::1"), ("HEALTHPORT", "1"), ("LogPrefix", "x")]
    );
    assert_eq!(
        layer.values()["healthport"].place,
        "environment variable FELIX_HEALTHPORT"
    );
}

#[test]
fn names_that_all_parts_share_hold_where_felix_has_none_of_its_own() {
    let read = |variables: &[(&str, &str)]| {
        let layer =
            Layer::from_environment(variables.iter().map(|(name, value)| (name.into(), value.into())));
        let place = |name: &str| {
            layer
                .values()
                .get(name)
                .map(|w| (w.value.clone(), w.place.clone()))
        };
        (place("datastoretype"), place("felixhostname"))
    };
    let common = [
        ("DATASTORE_TYPE", "kubernetes"),
        ("NODENAME", "node-1"),
        ("HOSTNAME", "pod-x"),
    ];
    let of =
        |value: &str, variable: &str| Some((value.to_owned(), format!("environment variable {variable}")));
    assert_eq!(
        read(&common),
        (of("kubernetes", "DATASTORE_TYPE"), of("node-1", "NODENAME"))
    );
    let own = [
        common[0],
        common[1],
        ("felix_DatastoreType", "file"),
        ("FELIX_FELIXHOSTNAME", "n2"),
    ];
    assert_eq!(
        read(&own),
        (of("file", "felix_DatastoreType"), of("n2", "FELIX_FELIXHOSTNAME"))
    );
    assert_eq!(read(&[("NODENAME", ""), ("nodename", "x")]), (None, None));
}

#[test]
fn two_spellings_of_one_variable_have_one_outcome() {
    let mut variables = [
        ("FELIX_HEALTHPORT", "1"),
        ("FELIX_HealthPort", "2"),
        ("felix_healthport", "3"),
    ];
    for _ in 0..3 {
        variables.rotate_left(1);
        let layer =
            Layer::from_environment(variables.iter().map(|(name, value)| (name.into(), value.into())));
        assert_eq!(layer.values()["healthport"].value, "3");
        assert_eq!(layer.repeated().len(), 2);
    }
}

#[test]
fn bytes_that_are_no_text_are_refused_by_the_parser() {
    let mut layers = Layers::new(Some("node".into()));
    layers.put(Layer::from_environment([(
        "FELIX_HEALTHPORT".into(),
        OsString::from_vec(vec![0xff]),
    )]));
    let resolution = layers.resolve().unwrap();
    assert_eq!(resolution.settings.health_port, 9099);
    assert_eq!(resolution.notices.len(), 1);
}

fn spec(value: serde_json::Value) -> FelixConfigurationSpec {
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_resource_is_for_all_nodes_or_for_one() {
    assert_eq!(resource::source_of("default", "a"), Some(Source::ClusterDefault));
    assert_eq!(resource::source_of("node.a", "a"), Some(Source::Node));
    assert_eq!(resource::source_of("node.b", "a"), None);
    assert_eq!(resource::source_of("other", "a"), None);
    assert_eq!(resource::source_of("node.default", "default"), Some(Source::Node));
}

#[test]
fn a_resource_is_read_in_its_own_forms() {
    let layer = resource::layer(
        "default",
        "a",
        &spec(json!({
            "logSeverityScreen": "Debug",
            "healthPort": 1234,
            "healthEnabled": false,
            "routeRefreshInterval": "1m30s",
            "iptablesLockProbeInterval": "250ms",
            "netlinkTimeout": "5s",
            "ipipEnabled": true,
            "ipipMTU": 1400,
            "vxlanEnabled": false,
            "vxlanPort": 8472,
            "vxlanVNI": 77,
            "vxlanMTU": 1410,
            "vxlanMTUV6": 1390,
            "natPortRange": "32768:65535",
            "natOutgoingAddress": "192.0.2.1",
            "natOutgoingExclusions": "IPPoolsAndHostIPs",
            "allowIPIPPacketsFromWorkloads": true,
            "allowVXLANPacketsFromWorkloads": true,
            "featureDetectOverride": "ChecksumOffloadBroken=true",
            "iptablesMarkMask": 4278190080u32,
            "failsafeInboundHostPorts": [
                {"protocol": "tcp", "port": 22},
                {"protocol": "UDP", "port": 53, "net": "10.0.0.0/8"},
                {"port": 80, "net": "fd00::/8"},
            ],
            "failsafeOutboundHostPorts": [],
            "externalNodesList": ["10.0.0.1", "10.1.0.0/16"],
            "kubeNodePortRanges": [30000, "31000:32000"],
            "healthTimeoutOverrides": [{"name": "calculation", "timeout": "2m"}],
            "routeTableRange": {"min": 1, "max": 200},
            "interfacePrefix": "",
            "logPrefix": null,
        })),
    )
    .unwrap();
    let mut layers = Layers::new(Some("a".into()));
    layers.put(layer);
    let resolution = layers.resolve().unwrap();
    let shown = |name: &str| {
        let found = resolution
            .effective
            .iter()
            .find(|setting| setting.name == name)
            .unwrap();
        (found.value.clone(), found.source)
    };
    for (name, value) in [
        ("LogSeverityScreen", "DEBUG"),
        ("HealthPort", "1234"),
        ("HealthEnabled", "false"),
        ("RouteRefreshInterval", "90"),
        ("IptablesLockProbeIntervalMillis", "250"),
        ("NetlinkTimeoutSecs", "5"),
        ("IpInIpEnabled", "true"),
        ("IpInIpMtu", "1400"),
        ("VXLANEnabled", "false"),
        ("VXLANPort", "8472"),
        ("VXLANVNI", "77"),
        ("VXLANMTU", "1410"),
        ("VXLANMTUV6", "1390"),
        ("NATPortRange", "32768:65535"),
        ("NATOutgoingAddress", "192.0.2.1"),
        ("NATOutgoingExclusions", "IPPoolsAndHostIPs"),
        ("AllowIPIPPacketsFromWorkloads", "true"),
        ("AllowVXLANPacketsFromWorkloads", "true"),
        ("FeatureDetectOverride", "ChecksumOffloadBroken=true"),
        ("IptablesMarkMask", "0xff000000"),
        (
            "FailsafeInboundHostPorts",
            "tcp:22,udp:10.0.0.0/8:53,tcp:[fd00::/8]:80",
        ),
        ("FailsafeOutboundHostPorts", "none"),
        ("ExternalNodesCIDRList", "10.0.0.1/32,10.1.0.0/16"),
        ("KubeNodePortRanges", "30000,31000:32000"),
        ("HealthTimeoutOverrides", "calculation=120s"),
        ("RouteTableRange", "1-200"),
    ] {
        assert_eq!(shown(name), (value.to_owned(), Source::ClusterDefault), "{name}");
    }
    // What is left open is left to the next source.
    assert_eq!(shown("InterfacePrefix"), ("cali".to_owned(), Source::BuiltIn));
    assert_eq!(shown("LogPrefix"), ("calico-packet".to_owned(), Source::BuiltIn));
}

#[test]
fn a_value_of_an_unexpected_form_is_refused_like_any_other() {
    let mut layers = Layers::new(Some("a".into()));
    let odd = json!({"healthPort": {"x": 1}, "routeRefreshInterval": "soon", "logSeverityScreen": [["x"]]});
    layers.put(resource::layer("node.a", "a", &spec(odd)).unwrap());
    let resolution = layers.resolve().unwrap();
    let refused: Vec<String> = resolution
        .notices
        .iter()
        .filter(|notice| matches!(notice, Notice::Replaced { .. }))
        .map(ToString::to_string)
        .collect();
    assert_eq!(refused.len(), 3, "{refused:?}");
    assert!(
        refused
            .iter()
            .all(|line| line.starts_with("FelixConfiguration node.a field spec.")),
        "{refused:?}"
    );
    layers.put(
        resource::layer(
            "node.a",
            "a",
            &spec(json!({"failsafeInboundHostPorts": [{"port": "x"}]})),
        )
        .unwrap(),
    );
    assert!(layers.resolve().is_err());
}
