//! Neighbouring versions of the protocol read each other.

#![allow(clippy::unwrap_used, reason = "a panic is the failure itself")]

use felix_cni_protocol::words::{NAMESPACE, NETLINK, VERSION, Valid, understands};
use felix_cni_protocol::{
    AddressWishes, Answer, AttachmentKey, Command, Family, PortMapping, Request, Success, Transport,
};
use proptest::prelude::*;

fn key() -> AttachmentKey {
    AttachmentKey {
        network: "net".into(),
        container_id: "c1".into(),
        interface: "eth0".into(),
    }
}

/// What a caller of version 1 sends, to the letter.
const FIRST: &str = r#"{"version":1,"command":"add","key":{"network":"net","container_id":"c1","interface":"eth0"},"netns":"/run/netns/a","namespace":"shop","pod":"web","uid":"u","mtu":1400}"#;

#[test]
fn a_request_of_the_first_version_is_read() {
    let request: Request = serde_json::from_str(FIRST).unwrap();
    assert!(understands(request.version));
    assert_eq!(request.addresses, AddressWishes::default());
    assert!(request.descriptors.is_empty());
    assert!(matches!(request.command, Command::Add { mtu: 1400, .. }));
}

#[test]
fn what_the_first_version_knows_is_written_as_it_was() {
    let request: Request = serde_json::from_str(FIRST).unwrap();
    let now = serde_json::to_value(Request {
        version: 1,
        ..request
    })
    .unwrap();
    assert_eq!(now, serde_json::from_str::<serde_json::Value>(FIRST).unwrap());
}

#[test]
fn an_answer_of_the_first_version_is_read() {
    let text = r#"{"ok":{"addresses":["10.0.0.1"],"mac":"02:00:00:00:00:01","host_interface":"cali1"}}"#;
    let expected = Success {
        addresses: vec!["10.0.0.1".parse().unwrap()],
        mac: "02:00:00:00:00:01".into(),
        host_interface: "cali1".into(),
        ..Success::default()
    };
    assert_eq!(
        serde_json::from_str::<Answer>(text).unwrap(),
        Answer::Ok(expected)
    );
}

#[test]
fn fields_of_the_next_version_are_no_hindrance() {
    let text = r#"{"version":3,"command":"del","key":{"network":"net","container_id":"c1","interface":"eth0","colour":"blue"},"descriptors":["netns","moon"],"addresses":{"v4":{"assign":true,"weight":3}},"shape":[1]}"#;
    let request: Request = serde_json::from_str(text).unwrap();
    assert!(understands(request.version) && !understands(VERSION + 2));
    assert_eq!(request.command, Command::Del { key: key() });
    assert_eq!(request.addresses.v4.assign, Some(true));
}

proptest! {
    #[test]
    fn requests_survive_the_way(
        id in "\\PC{0,40}", pool in "\\PC{0,20}", assign in proptest::option::of(any::<bool>()), mtu in any::<u32>(),
    ) {
        let key = AttachmentKey { container_id: id.clone(), ..key() };
        let commands = [
            Command::Add {
                key: key.clone(),
                netns: id.clone(),
                namespace: id.clone(),
                pod: id.clone(),
                uid: id.clone(),
                mtu,
            },
            Command::Assign { key: key.clone(), namespace: String::new(), pod: id.clone(), uid: String::new() },
            Command::Del { key: key.clone() },
            Command::Check { key: key.clone(), netns: id.clone() },
            Command::Gc {
                network: id.clone(),
                valid: vec![Valid { container_id: id.clone(), interface: "eth0".into() }],
            },
            Command::Status,
        ];
        for command in commands {
            let mut request = Request::new(command);
            request.descriptors = vec![NAMESPACE.into(), NETLINK.into()];
            request.host_ports = vec![PortMapping {
                protocol: Transport::Sctp,
                host_ip: Some("::1".parse().unwrap()),
                host_port: 1,
                container_port: 2,
            }];
            request.addresses.v6 = Family { assign, pools: vec![pool.clone()] };
            let text = serde_json::to_string(&request).unwrap();
            prop_assert!(!text.contains('\n'));
            prop_assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
        }
    }

    #[test]
    fn names_of_files_stay_in_their_folder_and_differ(a in "\\PC{0,120}", b in "\\PC{0,120}") {
        let of = |id: &str| AttachmentKey { container_id: id.into(), ..key() }.file_stem();
        prop_assert!(of(&a).len() < 230 && !of(&a).contains(['/', '.', '\0']));
        prop_assert_eq!(of(&a) == of(&b), a == b);
    }
}
