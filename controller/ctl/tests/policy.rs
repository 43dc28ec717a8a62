//! The commands that ask policies, run as people run them: what they write, and with which code they end.
//!
//! Golden files stand in `tests/policy`; with MANX_REFRESH_GOLDEN=1 they are written anew.

#![allow(clippy::expect_used, reason = "a panic is how a test fails")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/policy")
        .join(name)
}

fn manx(arguments: &[&str]) -> Output {
    // In the folder of the golden files, so that paths in what is written are short and always alike.
    Command::new(env!("CARGO_BIN_EXE_manx"))
        .current_dir(folder(""))
        .args(arguments)
        .output()
        .expect("manx is built")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it ended by itself")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// What was written, compared with a golden file.
fn golden(name: &str, found: &str) {
    let path = folder(name);
    if std::env::var_os("MANX_REFRESH_GOLDEN").is_some() {
        std::fs::write(&path, found).expect("writing the golden file");
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        found, expected,
        "{name}: if this is right, write it anew with MANX_REFRESH_GOLDEN=1"
    );
}

/// A file of flows beside the golden files, for one test.
fn flows(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), text).expect("writing flows");
    file
}

fn simulate(manifests: &str, flow_file: &Path, more: &[&str]) -> Output {
    let flow_file = flow_file.display().to_string();
    let arguments = [
        &["simulate", "--manifests", manifests, "--flows", &flow_file],
        more,
    ]
    .concat();
    manx(&arguments)
}

#[test]
fn simulate_answers_as_table_and_json() {
    let json = simulate("old", Path::new("flows.yaml"), &["-o", "json"]);
    assert_eq!(text(&json.stderr), "");
    golden("simulate.jsonl", &text(&json.stdout));
    assert_eq!(code(&json), 0, "every expectation holds");
    let table = simulate("old", Path::new("flows.yaml"), &[]);
    golden("simulate.txt", &text(&table.stdout));
    assert_eq!(code(&table), 0);
}

#[test]
fn every_answer_has_the_fields_of_the_contract() {
    let json = simulate("old", Path::new("flows.yaml"), &["--output", "json"]);
    let keys = [
        "expect", "from", "ok", "policy", "port", "protocol", "reason", "rule", "side", "to", "verdict",
    ];
    let lines = text(&json.stdout);
    assert_eq!(lines.lines().count(), 19);
    for line in lines.lines() {
        let answer: serde_json::Value = serde_json::from_str(line).expect("one object a line");
        let mut found: Vec<&String> = answer.as_object().expect("an object").keys().collect();
        found.retain(|key| !matches!(key.as_str(), "type" | "code"));
        assert_eq!(found, keys, "{line}");
    }
}

#[test]
fn the_exit_code_says_whether_expectations_hold() {
    let run = |flow: &str| code(&simulate("old", flows(flow).path(), &[]));
    assert_eq!(
        run("- {from: shop/web, to: shop/db, protocol: TCP, port: sql, expect: allow}"),
        0
    );
    assert_eq!(
        run("- {from: shop/web, to: shop/db, protocol: TCP, port: sql, expect: deny}"),
        1
    );
    assert_eq!(
        run("- {from: shop/web, to: shop/db, protocol: UDP, port: dns}"),
        0,
        "nothing was expected"
    );
    assert_eq!(run("[]"), 0);
    assert_eq!(run(""), 2, "nothing at all is a mistake");
    assert_eq!(
        run("- {from: shop/none, to: shop/db, protocol: TCP, port: sql}"),
        2
    );
    assert_eq!(
        run("- {from: shop/web, to: shop/db, protocol: TCP, port: sql, expect: deny}\n- {from: x}"),
        2,
        "bad input first"
    );
    assert_eq!(code(&simulate("old", Path::new("no-such-file"), &[])), 2);
    assert_eq!(code(&simulate("no-such-folder", Path::new("flows.yaml"), &[])), 2);
    assert_eq!(code(&manx(&["simulate", "--manifests", "old"])), 2, "usage");
}

#[test]
fn json_lines_and_the_standard_input_are_read() {
    let file = flows(
        "{\"from\":\"shop/web\",\"to\":\"shop/db\",\"protocol\":\"TCP\",\"port\":5432,\"expect\":\"allow\"}\n\
         {\"from\":\"shop/web\",\"to\":\"shop/db\",\"protocol\":\"TCP\",\"port\":\"sql\",\"expect\":\"allow\"}\n",
    );
    let output = simulate("old", file.path(), &["-o", "json"]);
    assert_eq!((code(&output), text(&output.stdout).lines().count()), (0, 2));
    let input = std::fs::File::open(file.path()).expect("it is there");
    let by_input = Command::new(env!("CARGO_BIN_EXE_manx"))
        .current_dir(folder(""))
        .args(["simulate", "--manifests", "old", "--flows", "-", "-o", "json"])
        .stdin(input)
        .output()
        .expect("manx is built");
    assert_eq!(text(&by_input.stdout), text(&output.stdout));
}

#[test]
fn every_bad_flow_is_told_and_the_rest_is_answered() {
    let file = flows(
        "- {from: shop/none, to: gone/pod, protocol: TCP, port: 80}\n\
         - {from: shop/web, to: shop/db, protocol: TCP, port: sql, expect: allow}\n\
         - {from: shop/web, to: shop/db, protocol: TCP, port: http}\n\
         - {from: shop/web, to: ip:203.0.113.1, protocol: TCP, port: http}\n\
         - {from: shop/web, to: node:x, protocol: FOO, port: 1}\n\
         - {from: shop/web, to: node:x, protocol: TCP, port: 1}\n",
    );
    let output = simulate("old", file.path(), &["-o", "json"]);
    assert_eq!(code(&output), 2);
    assert_eq!(text(&output.stdout).lines().count(), 1);
    let name = file.path().display().to_string();
    let lines = text(&output.stderr).replace(&name, "FILE");
    let expected = [
        "FILE: flow 5: protocol: 'FOO' is no protocol: write TCP, UDP, SCTP, ICMP, ICMPv6, UDPLite or a number from 1 to 255",
        "FILE: flow 1: from: there is no pod shop/none (there are: db, done, web)",
        "FILE: flow 1: to: there is no pod gone/pod: no pod is in namespace gone",
        "FILE: flow 3: port: pod shop/db declares no TCP port 'http' (there are: sql)",
        "FILE: flow 4: port: ip:203.0.113.1 is no pod, so it declares no port 'http'; write the number",
        "FILE: flow 6: to: there is no node x (there are: a, b)",
    ];
    let mut found: Vec<&str> = lines.lines().collect();
    let mut expected: Vec<&str> = expected.to_vec();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn an_invalid_manifest_is_told_and_the_rest_answers() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for name in ["cluster.yaml", "policies.yaml"] {
        std::fs::copy(folder("old").join(name), dir.path().join(name)).expect("copying");
    }
    let path = dir.path().display().to_string();
    let write = |text: &str| std::fs::write(dir.path().join("broken.yaml"), text).expect("writing");
    write("apiVersion: v1\nkind: Pod\nmetadata: {name: x, namespace: shop}\nspec: {containrs: []}\n");
    let output = simulate(&path, Path::new("flows.yaml"), &["-o", "json"]);
    assert_eq!(code(&output), 2);
    let stderr = text(&output.stderr);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(
        stderr.starts_with(&format!(
            "{path}/broken.yaml: document 1 (Pod shop/x): spec.containrs"
        )),
        "{stderr}"
    );
    let expected = std::fs::read_to_string(folder("simulate.jsonl")).expect("the golden file");
    assert_eq!(text(&output.stdout), expected);

    // What is left of an invalid policy isolates whom it selects.
    let ask = flows("- {from: shop/web, to: shop/db, protocol: TCP, port: sql, expect: allow}");
    write(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: x, namespace: shop}\nspec: {podSelector: {}, policyTypes: [Egress], egress: [{too: []}]}\n",
    );
    let output = simulate(&path, ask.path(), &["-o", "json"]);
    assert_eq!(code(&output), 2);
    assert!(
        text(&output.stdout).contains("\"policy\":\"default/shop/x\""),
        "{}",
        text(&output.stdout)
    );
}

#[test]
fn a_family_that_nobody_spoke_of_does_not_decide() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("writing");
    let pod = |name: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: n}}\nspec: {{containers: [{{name: c}}]}}\n"
        )
    };
    write("pods.yaml", &(pod("a") + &pod("b")));
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: n}\n\
                  spec: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}\n";
    write("policy.yaml", policy);
    let path = dir.path().display().to_string();
    let ask = |flow: &str| {
        let output = simulate(&path, flows(flow).path(), &["-o", "json"]);
        serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("one answer")
    };
    let answer = ask("- {from: n/a, to: n/b, protocol: TCP, port: 80}");
    assert_eq!(answer["verdict"], "allow");
    let reason = answer["reason"].as_str().expect("text");
    assert!(
        reason.contains("IPv6, of which the manifests name no address, would be denied"),
        "{reason}"
    );
    assert_eq!(
        ask("- {from: n/a, to: n/b, protocol: ICMPv6}")["verdict"],
        "deny",
        "asked for by name"
    );
    assert_eq!(
        ask("- {from: n/a, to: 'ip:2001:db8::1', protocol: TCP, port: 80}")["verdict"],
        "deny"
    );

    let pools = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: four}\nspec: {cidr: 10.9.0.0/16}\n---\n\
                 apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: six}\nspec: {cidr: 'fd09::/64'}\n";
    write("pools.yaml", pools);
    let answer = ask("- {from: n/a, to: n/b, protocol: TCP, port: 80}");
    assert_eq!(answer["verdict"], "deny", "the manifests say that there is IPv6");
    assert!(
        answer["reason"]
            .as_str()
            .expect("text")
            .starts_with("IPv6 is denied and IPv4 allowed: ")
    );
}

#[test]
fn explain_shows_the_way_of_a_flow() {
    let explain = |from: &str, to: &str, what: &str| manx(&["explain", from, to, what, "--manifests", "old"]);
    let allowed = explain("shop/web", "shop/db", "TCP/sql");
    golden("explain-allow.txt", &text(&allowed.stdout));
    assert_eq!((code(&allowed), text(&allowed.stderr)), (0, String::new()));
    let denied = explain("other/both-2", "other/both", "TCP/http");
    golden("explain-deny.txt", &text(&denied.stdout));
    assert_eq!(code(&denied), 0, "a denial is an answer");
    let icmp = explain("ip:203.0.113.1", "shop/web", "ICMP/8:0");
    assert!(
        text(&icmp.stdout).starts_with(
            "allow: ingress to shop/web: no policy decides, and rule 0 (Allow) of profile kns.shop"
        ),
        "{}",
        text(&icmp.stdout)
    );
    let own = explain("shop/db", "shop/db", "TCP/1");
    assert_eq!(text(&own.stdout), "allow: a workload always reaches itself\n");
    let unknown = explain("shop/none", "shop/db", "TCP/80");
    assert_eq!(code(&unknown), 2);
    assert!(text(&unknown.stderr).starts_with("manx explain: FROM: there is no pod shop/none"));
    assert_eq!(code(&explain("shop/web", "shop/db", "TCP")), 2);
}

#[test]
fn diff_lists_what_opens_and_closes() {
    let same = manx(&["diff", "old", "old"]);
    assert_eq!(code(&same), 0);
    assert!(
        text(&same.stdout).starts_with("0 flows opened, 0 closed, of "),
        "{}",
        text(&same.stdout)
    );
    let changed = manx(&["diff", "old", "new"]);
    golden("diff.txt", &text(&changed.stdout));
    assert_eq!((code(&changed), text(&changed.stderr)), (1, String::new()));
    let json = manx(&["diff", "old", "new", "-o", "json"]);
    golden("diff.jsonl", &text(&json.stdout));
    assert_eq!(code(&json), 1);
    assert_eq!(code(&manx(&["diff", "old", "no-such-folder"])), 2);
}

#[test]
fn diff_backwards_is_its_mirror() {
    let lines = |old: &str, new: &str| -> Vec<serde_json::Value> {
        let output = text(&manx(&["diff", old, new, "-o", "json"]).stdout);
        output
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    };
    let flow = |line: &serde_json::Value, opened: &str, closed: &str| {
        let change = match line["change"].as_str() {
            Some("opened") => opened.to_string(),
            Some("closed") => closed.to_string(),
            _ => return None,
        };
        Some((
            change,
            line["from"].to_string(),
            line["to"].to_string(),
            line["port"].to_string(),
        ))
    };
    let mut forward: Vec<_> = lines("old", "new")
        .iter()
        .filter_map(|l| flow(l, "o", "c"))
        .collect();
    let mut backward: Vec<_> = lines("new", "old")
        .iter()
        .filter_map(|l| flow(l, "c", "o"))
        .collect();
    forward.sort();
    backward.sort();
    assert!(!forward.is_empty());
    assert_eq!(forward, backward);
}

#[test]
fn check_writes_findings_whoever_runs_it() {
    let output = manx(&["check", "--json"]);
    assert!(matches!(code(&output), 0 | 1));
    let names: Vec<String> = text(&output.stdout)
        .lines()
        .map(|line| {
            let finding: serde_json::Value = serde_json::from_str(line).expect("JSON");
            assert!(
                ["ok", "warning", "bypass", "fatal"].contains(&finding["severity"].as_str().expect("text"))
            );
            assert!(finding["remedy"].is_string() && !finding["what"].as_str().expect("text").is_empty());
            finding["name"].as_str().expect("text").to_string()
        })
        .collect();
    for name in [
        "kernel",
        "privileges",
        "nf_tables",
        "ipv4-forwarding",
        "rp_filter",
        "conntrack-table",
        "ipvs",
    ] {
        assert!(names.iter().any(|found| found == name), "{name}: {names:?}");
    }
    assert!(text(&manx(&["check"]).stdout).lines().count() > names.len());
}

#[test]
fn packets_of_tunnels_are_denied_unless_the_settings_allow_them() {
    let asked = flows(
        "- {from: n/a, to: n/b, protocol: UDP, port: 4789}\n- {from: n/a, to: n/b, protocol: 4}\n\
         - {from: n/a, to: n/b, protocol: UDP, port: 4788, expect: allow}\n",
    );
    let pods = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: n}\nspec: {nodeName: x, containers: [{name: c}]}\n---\n\
                apiVersion: v1\nkind: Pod\nmetadata: {name: b, namespace: n}\nspec: {nodeName: y, containers: [{name: c}]}\n";
    let of = |name: &str, spec: &str| {
        format!(
            "---\napiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
        )
    };
    let folder = |more: &str| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("all.yaml"), format!("{pods}{more}")).expect("writing manifests");
        folder
    };
    let verdicts = |more: &str| -> Vec<(String, String)> {
        let folder = folder(more);
        let output = simulate(
            &folder.path().display().to_string(),
            asked.path(),
            &["-o", "json"],
        );
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
        let lines = text(&output.stdout);
        lines
            .lines()
            .map(|line| {
                let answer: serde_json::Value = serde_json::from_str(line).expect("one object a line");
                let field = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
                (field("verdict"), field("reason"))
            })
            .collect()
    };
    let by_default = verdicts("");
    for (n, setting) in ["allowVXLANPacketsFromWorkloads", "allowIPIPPacketsFromWorkloads"]
        .iter()
        .enumerate()
    {
        assert_eq!(by_default[n].0, "deny");
        assert!(by_default[n].1.contains(setting), "{}", by_default[n].1);
    }
    let allows_vxlan = of("node.x", "allowVXLANPacketsFromWorkloads: true");
    let allowed: Vec<String> = verdicts(&allows_vxlan).into_iter().map(|one| one.0).collect();
    assert_eq!(
        allowed,
        ["allow", "deny", "allow"],
        "the setting of the sender's node"
    );
    let elsewhere = verdicts(&of("node.y", "allowVXLANPacketsFromWorkloads: true"));
    assert_eq!(elsewhere, by_default);

    // The way to the verdict is shown with the setting.
    let closed = folder("");
    let explained = manx(&[
        "explain",
        "n/a",
        "n/b",
        "UDP/4789",
        "--manifests",
        &closed.path().display().to_string(),
    ]);
    let words = text(&explained.stdout);
    assert!(words.starts_with("deny: egress of n/a: "), "{words}");
    assert!(
        words.contains("egress of n/a: deny, because workloads may not send VXLAN"),
        "{words}"
    );

    let open = folder(&of("default", "allowVXLANPacketsFromWorkloads: true"));
    let paths = [&closed, &open].map(|folder| folder.path().display().to_string());
    let differences = manx(&["diff", &paths[0], &paths[1], "-o", "json"]);
    assert_eq!(code(&differences), 1);
    let opened = text(&differences.stdout);
    assert!(
        opened
            .lines()
            .any(|line| line.contains(r#""from":"n/a","to":"n/b","protocol":"UDP","port":4789"#)),
        "{opened}"
    );
    assert!(
        opened
            .lines()
            .all(|line| line.starts_with(r#"{"change":"opened""#)),
        "{opened}"
    );
}
