#![allow(clippy::unwrap_used, reason = "a panic is the failure itself")]

use super::*;

fn pod() -> Attached {
    let gateway = |text: &str| Some(text.parse().unwrap());
    Attached {
        interfaces: vec![
            Interface {
                name: "cali1".into(),
                mac: "ee:ee:ee:ee:ee:ee".into(),
                mtu: 1440,
                sandbox: String::new(),
            },
            Interface {
                name: "eth0".into(),
                mac: "02:00:00:00:00:01".into(),
                mtu: 1440,
                sandbox: "/run/netns/a".into(),
            },
        ],
        addresses: vec![
            Address {
                address: "10.0.0.7".parse().unwrap(),
                prefix: 32,
                gateway: gateway("169.254.1.1"),
                interface: Some(1),
            },
            Address {
                address: "fd00::7".parse().unwrap(),
                prefix: 128,
                gateway: gateway("fe80::1"),
                interface: Some(1),
            },
        ],
        routes: vec![
            Route {
                gateway: "169.254.1.1".parse().unwrap(),
            },
            Route {
                gateway: "fe80::1".parse().unwrap(),
            },
        ],
    }
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn the_first_form_has_one_address_a_family() {
    for version in ["0.1.0", "0.2.0"] {
        let mut golden = parsed(
            r#"{"ip4":{"ip":"10.0.0.7/32","gateway":"169.254.1.1","routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1"}]},
                "ip6":{"ip":"fd00::7/128","gateway":"fe80::1","routes":[{"dst":"::/0","gw":"fe80::1"}]}}"#,
        );
        golden["cniVersion"] = version.into();
        assert_eq!(pod().document(version, None, None), golden);
    }
}

/// What is common to all later forms.
fn golden(version: &str) -> Value {
    let mut golden = parsed(
        r#"{"interfaces":[{"name":"cali1","mac":"ee:ee:ee:ee:ee:ee"},
                          {"name":"eth0","mac":"02:00:00:00:00:01","sandbox":"/run/netns/a"}],
            "ips":[{"interface":1,"address":"10.0.0.7/32","gateway":"169.254.1.1"},
                   {"interface":1,"address":"fd00::7/128","gateway":"fe80::1"}],
            "routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1"},{"dst":"::/0","gw":"fe80::1"}]}"#,
    );
    golden["cniVersion"] = version.into();
    golden
}

#[test]
fn the_second_form_says_the_family() {
    for version in ["0.3.0", "0.3.1", "0.4.0"] {
        let mut golden = golden(version);
        golden["ips"][0]["version"] = "4".into();
        golden["ips"][1]["version"] = "6".into();
        assert_eq!(pod().document(version, None, None), golden);
    }
}

#[test]
fn the_third_form_does_not() {
    assert_eq!(pod().document("1.0.0", None, None), golden("1.0.0"));
}

#[test]
fn the_newest_form_says_the_size_of_packets() {
    let mut golden = golden("1.1.0");
    golden["interfaces"][0]["mtu"] = 1440.into();
    golden["interfaces"][1]["mtu"] = 1440.into();
    assert_eq!(pod().document("1.1.0", None, None), golden);
}

#[test]
fn what_earlier_plugins_made_stays_and_places_move() {
    let previous = parsed(
        r#"{"cniVersion":"1.0.0","interfaces":[{"name":"a"}],"ips":[{"address":"10.9.0.1/24","interface":0}],
            "dns":{"nameservers":["10.9.0.53"]},"custom":{"x":1}}"#,
    );
    let dns = parsed(r#"{"nameservers":["10.0.0.53"]}"#);
    let together = pod().document("1.0.0", Some(&previous), Some(&dns));
    assert_eq!(together["interfaces"].as_array().unwrap().len(), 3);
    assert_eq!(together["ips"][0], previous["ips"][0]);
    assert_eq!(together["ips"][1]["interface"], 2);
    assert_eq!(together["interfaces"][2]["name"], "eth0");
    assert_eq!(together["dns"], previous["dns"]);
    assert_eq!(together["custom"]["x"], 1);
    assert_eq!(pod().document("1.0.0", None, Some(&dns))["dns"], dns);
}

#[test]
fn addresses_are_found_in_every_form() {
    let expected: Vec<IpAddr> = vec!["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
    for version in crate::configuration::VERSIONS {
        assert_eq!(
            addresses(&pod().document(version, None, None)),
            expected,
            "{version}"
        );
    }
    for odd in [
        "{}",
        r#"{"ips":7}"#,
        r#"{"ips":[{"address":"x"},{}, 3]}"#,
        r#"{"ip4":{"ip":[]}}"#,
    ] {
        assert_eq!(addresses(&parsed(odd)), Vec::<IpAddr>::new());
    }
}
