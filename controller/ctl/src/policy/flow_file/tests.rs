//! Files of flows, good and bad.

use super::*;

/// Every flow as one text, and every fault.
fn lines(text: &str) -> (Vec<String>, Vec<String>) {
    let file = read("f", text);
    let mut faults = file.faults.clone();
    let mut flows = Vec::new();
    for found in &file.flows {
        match &found.flow {
            Ok(flow) => flows.push(format!(
                "{} {} {} {:?} {:?} {:?} {:?}",
                flow.from, flow.to, flow.protocol, flow.port, flow.icmp_type, flow.icmp_code, flow.expect
            )),
            Err(found_faults) => faults.extend(found_faults.iter().map(|fault| {
                let number = found.number;
                Placed {
                    file: "f",
                    number,
                    fault,
                }
                .to_string()
            })),
        }
    }
    (flows, faults)
}

const A: &str = "a/b c/d TCP Some(Number(80)) None None None";
const B: &str = "ip:::1 c/d UDP Some(Name(\"dns\")) None None Some(Allow)";

#[test]
fn every_form_of_a_file_is_read() {
    let files = [
        // A list.
        "- {from: a/b, to: c/d, protocol: TCP, port: 80}\n- {from: 'ip:::1', to: c/d, protocol: udp, port: dns, expect: allow}\n",
        // A mapping with a list.
        "flows:\n- from: a/b\n  to: c/d\n  protocol: TCP\n  port: 80\n- {from: 'ip:::1', to: c/d, protocol: 17, port: dns, expect: Allow}\n",
        // Documents: a flow, and a list.
        "from: a/b\nto: c/d\nprotocol: tcp\nport: 80\n---\n# nothing\n---\n- {from: 'ip:::1', to: c/d, protocol: UDP, port: dns, expect: allow}\n",
        // One JSON object a line, with blank lines and without an end of line.
        "{\"from\":\"a/b\",\"to\":\"c/d\",\"protocol\":\"TCP\",\"port\":80}\n\n{\"from\":\"ip:::1\",\"to\":\"c/d\",\"protocol\":\"UDP\",\"port\":\"dns\",\"expect\":\"allow\"}",
        // JSON as a whole, with null for what is absent.
        "{\"flows\": [\n {\"from\": \"a/b\", \"to\": \"c/d\", \"protocol\": \"TCP\", \"port\": 80, \"expect\": null, \"type\": null},\n {\"from\":\"ip:::1\",\"to\":\"c/d\",\"protocol\":\"UDP\",\"port\":\"dns\",\"expect\":\"allow\"}]}",
        "[{\"from\":\"a/b\",\"to\":\"c/d\",\"protocol\":\"TCP\",\"port\":\"80\"},{\"from\":\"ip:::1\",\"to\":\"c/d\",\"protocol\":\"UDP\",\"port\":\"dns\",\"expect\":\"allow\"}]",
        // A byte order mark and the ends of line of another system.
        "\u{feff}- {from: a/b, to: c/d, protocol: TCP, port: 80}\r\n- {from: 'ip:::1', to: c/d, protocol: UDP, port: dns, expect: allow}\r\n",
    ];
    for text in files {
        assert_eq!(
            lines(text),
            (vec![A.to_string(), B.to_string()], vec![]),
            "{text}"
        );
    }
}

#[test]
fn icmp_takes_type_and_code() {
    let (flows, faults) = lines(
        "- {from: a/b, to: c/d, protocol: ICMP}\n- {from: a/b, to: c/d, protocol: icmpv6, type: 128}\n\
         - {from: a/b, to: c/d, protocol: ICMP, type: 3, code: 0}\n- {from: a/b, to: c/d, protocol: 47}\n",
    );
    assert_eq!(faults, Vec::<String>::new());
    assert_eq!(
        flows,
        [
            "a/b c/d ICMP None None None None",
            "a/b c/d ICMPv6 None Some(128) None None",
            "a/b c/d ICMP None Some(3) Some(0) None",
            "a/b c/d 47 None None None None",
        ]
    );
}

#[test]
fn every_fault_is_told_with_flow_and_field() {
    let cases = [
        ("{to: c/d, protocol: TCP, port: 80}", "from: is missing"),
        ("{from: '', to: c/d, protocol: TCP, port: 80}", "from: is missing"),
        (
            "{from: 7, to: c/d, protocol: TCP, port: 80}",
            "from: '7' is no text",
        ),
        ("{from: a/b, protocol: TCP, port: 80}", "to: is missing"),
        ("{from: a/b, to: c/d, port: 80}", "protocol: is missing"),
        (
            "{from: a/b, to: c/d, protocol: TPC, port: 80}",
            "protocol: 'TPC' is no protocol",
        ),
        (
            "{from: a/b, to: c/d, protocol: 256, port: 80}",
            "protocol: '256' is no protocol",
        ),
        (
            "{from: a/b, to: c/d, protocol: [TCP], port: 80}",
            "protocol: '[\"TCP\"]' is no protocol",
        ),
        (
            "{from: a/b, to: c/d, protocol: TCP}",
            "port: is missing; TCP needs one",
        ),
        (
            "{from: a/b, to: c/d, protocol: TCP, port: 0}",
            "port: '0' is no port",
        ),
        (
            "{from: a/b, to: c/d, protocol: TCP, port: 65536}",
            "port: '65536' is no port",
        ),
        (
            "{from: a/b, to: c/d, protocol: TCP, port: -1}",
            "port: '-1' is no port",
        ),
        (
            "{from: a/b, to: c/d, protocol: TCP, port: 80.5}",
            "port: '80.5' is no port",
        ),
        (
            "{from: a/b, to: c/d, protocol: TCP, port: HTTP}",
            "port: 'HTTP' is no port",
        ),
        (
            "{from: a/b, to: c/d, protocol: TCP, port: [80]}",
            "port: '[80]' is no port",
        ),
        (
            "{from: a/b, to: c/d, protocol: ICMP, port: 80}",
            "port: ICMP has no ports",
        ),
        (
            "{from: a/b, to: c/d, protocol: 47, port: 80}",
            "port: 47 has no ports",
        ),
        (
            "{from: a/b, to: c/d, protocol: ICMP, type: 256}",
            "type: '256' is not a number from 0 to 255",
        ),
        (
            "{from: a/b, to: c/d, protocol: ICMP, type: -1}",
            "type: '-1' is not",
        ),
        (
            "{from: a/b, to: c/d, protocol: ICMP, type: 8, code: x}",
            "code: 'x' is not",
        ),
        (
            "{from: a/b, to: c/d, protocol: ICMP, code: 1}",
            "code: needs a type",
        ),
        (
            "{from: a/b, to: c/d, protocol: TCP, port: 80, type: 8}",
            "type: TCP has none",
        ),
        (
            "{from: a/b, to: c/d, protocol: TCP, port: 80, expect: maybe}",
            "expect: 'maybe' is neither",
        ),
        (
            "{from: a/b, to: c/d, protocol: TCP, port: 80, expect: true}",
            "expect: 'true' is neither",
        ),
        (
            "{from: a/b, to: c/d, protocol: TCP, port: 80, expects: deny}",
            "expects: is no known field",
        ),
        ("a/b", "flow: 'a/b' is no flow"),
        ("[]", "flow: a list in a list is no flow"),
    ];
    for (flow, expected) in cases {
        // The flow after a bad one is read all the same.
        let (flows, faults) = lines(&format!(
            "- {flow}\n- {{from: a/b, to: c/d, protocol: TCP, port: 80}}\n"
        ));
        assert_eq!(flows, [A], "{flow}");
        assert_eq!(faults.len(), 1, "{flow}: {faults:?}");
        assert!(
            faults[0].starts_with(&format!("f: flow 1: {expected}")),
            "{flow}: {}",
            faults[0]
        );
        assert!(!faults[0].contains('\n'), "{flow}");
    }
    let (_, faults) = lines("- {from: 1, protocol: X, port: 0, expect: no, foo: 1}");
    assert_eq!(faults.len(), 6, "all faults of one flow: {faults:?}");
}

#[test]
fn faults_of_the_file_name_the_line() {
    let (flows, faults) = lines(
        "{\"from\":\"a/b\",\"to\":\"c/d\",\"protocol\":\"TCP\",\"port\":80}\n{\"from\": \"a/b\"\n\n{\"from\":\"a/b\",\"to\":\"c/d\",\"protocol\":\"TCP\",\"port\":80}\n",
    );
    assert_eq!(flows, [A, A], "{faults:?}");
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(
        faults[0].starts_with("f: flow 2: flow: line 2: "),
        "{}",
        faults[0]
    );

    let (flows, faults) = lines("- from: a\n to: b\n");
    assert!(flows.is_empty());
    assert!(
        faults.len() == 1 && faults[0].starts_with("f: line "),
        "{faults:?}"
    );

    for text in ["", "# only a comment\n", "---\n---\n"] {
        let (flows, faults) = lines(text);
        assert!(
            flows.is_empty() && faults.len() == 1 && faults[0].contains("no flow in it"),
            "{faults:?}"
        );
    }
    assert_eq!(
        lines("[]"),
        (vec![], vec![]),
        "an empty list is what somebody wrote"
    );
    assert_eq!(lines("flows: []"), (vec![], vec![]));
    let (_, faults) = lines("flows: {from: a/b}");
    assert!(faults[0].contains("flows: must be a list"), "{faults:?}");
    let (_, faults) = lines("flow: []\nflows: []");
    assert!(faults[0].contains("flow: is no known field"), "{faults:?}");
}

proptest::proptest! {
    #[test]
    fn no_text_is_too_strange(text in "[\\-\\[\\]{}:,'\"a-z0-9/ \n]{0,80}") {
        let file = read("f", &text);
        for line in &file.faults {
            proptest::prop_assert!(!line.contains('\n'), "{:?}", line);
        }
    }
}
