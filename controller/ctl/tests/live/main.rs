//! The commands on a live cluster: a real API server, the built `manx`, and objects that the test makes.
//!
//! One server serves all of them, in the order in which a cluster comes into being: a second would only cost time.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a panic is how a test fails"
)]

mod bed;
mod objects;

use bed::{Bed, manx, until};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Output, Stdio};

#[test]
fn a_cluster_that_comes_into_being() {
    let bed = Bed::start();
    nothing_is_there(&bed);
    bed.define();
    objects::people(&bed);
    flows_are_answered_as_from_manifests(&bed);
    a_folder_is_compared_with_the_cluster(&bed);
    objects::components(&bed);
    status_tells_what_is_not_in_force(&bed);
    waiting_ends_when_everything_is_in_force(&bed);
    the_agent_of_a_container_is_asked(&bed);
    few_rights_show_what_they_show(&bed);
    a_service_account_leads_to_its_cluster(&bed);
    addresses_are_shown_and_checked(&bed);
    pages_of_a_long_listing_are_all_read(&bed);
}

fn code(output: &Output) -> i32 {
    output
        .status
        .code()
        .unwrap_or_else(|| panic!("it ended by a signal: {output:?}"))
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// The one object that a command wrote.
fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn lines(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .expect("a list")
        .iter()
        .map(|line| line.as_str().expect("a text"))
        .collect()
}

fn nothing_is_there(bed: &Bed) {
    let lost = manx(None, &["explain", "a/b", "c/d", "TCP/80"])
        .output()
        .expect("manx is built");
    assert_eq!(code(&lost), 2);
    for option in ["--manifests", "--kubeconfig", "KUBECONFIG", "--datastore"] {
        assert!(err(&lost).contains(option), "{option}: {lost:?}");
    }
    let status = bed.manx(&["status", "-o", "json"]);
    assert_eq!(code(&status), 1, "{status:?}");
    let report = json_of(&status);
    let trouble = lines(&report["trouble"]);
    for wanted in [
        "not defined: tiers.projectcalico.org, ",
        "no agent runs in this cluster",
        "no controller runs",
    ] {
        assert!(
            trouble.iter().any(|line| line.starts_with(wanted)),
            "{wanted}: {trouble:?}"
        );
    }
    // Kubernetes' own policies hold before anything of ours is defined.
    let explain = bed.manx(&["explain", "ip:192.0.2.9", "ip:192.0.2.8", "TCP/80"]);
    assert_eq!((code(&explain), err(&explain)), (0, String::new()));
    let gone = bed.path("gone.kubeconfig");
    let text = std::fs::read_to_string(bed.kubeconfig()).unwrap();
    let server = text.split('"').nth(1).unwrap();
    std::fs::write(&gone, text.replace(server, "https://127.0.0.1:9")).unwrap();
    let away = bed.manx(&["status", "--kubeconfig", gone.to_str().unwrap()]);
    assert_eq!(code(&away), 2, "{away:?}");
    assert!(
        out(&away).starts_with("it cannot be told whether everything is in force"),
        "{away:?}"
    );
    assert_eq!(
        code(&bed.manx(&[
            "explain",
            "a/b",
            "c/d",
            "ICMP",
            "--kubeconfig",
            gone.to_str().unwrap()
        ])),
        2
    );
}

/// The manifests that the objects were made of, and the live objects themselves, give the same answers.
fn flows_are_answered_as_from_manifests(bed: &Bed) {
    let (manifests, flows) = (bed.path("manifests.yaml"), bed.path("flows.yaml"));
    std::fs::write(&manifests, objects::manifests()).unwrap();
    let text = "
- {from: shop/web, to: shop/db, protocol: TCP, port: sql, expect: allow}
- {from: shop/other, to: shop/db, protocol: TCP, port: 5432, expect: deny}
- {from: shop/web, to: shop/db, protocol: UDP, port: 53, expect: deny}
- {from: 'ip:192.0.2.200', to: shop/web, protocol: TCP, port: 80, expect: allow}
- {from: 'ip:198.51.100.7', to: shop/web, protocol: TCP, port: 80, expect: deny}
- {from: 'node:n1', to: shop/db, protocol: TCP, port: 5432, expect: allow}
- {from: shop/db, to: shop/web, protocol: ICMP}
- {from: shop/host, to: shop/db, protocol: TCP, port: 5432}
- {from: shop/done, to: shop/db, protocol: TCP, port: 5432}
";
    std::fs::write(&flows, text).unwrap();
    let flows = flows.to_str().unwrap();
    let simulate = |more: &[&str]| bed.manx(&[&["simulate", "--flows", flows, "-o", "json"], more].concat());
    let live = simulate(&[]);
    assert_eq!((code(&live), err(&live)), (0, String::new()), "{}", out(&live));
    assert_eq!(out(&live).lines().count(), 9);
    let of_manifests = simulate(&["--manifests", manifests.to_str().unwrap()]);
    assert_eq!(err(&of_manifests), "");
    assert_eq!(out(&live), out(&of_manifests));
    let first: Value = serde_json::from_str(out(&live).lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["policy"], &first["rule"]),
        (&"default/shop/db".into(), &1.into()),
        "in its author's words"
    );

    let explain = |from: &str, to: &str, what: &str| bed.manx(&["explain", from, to, what]);
    let allowed = explain("shop/web", "shop/db", "TCP/sql");
    assert_eq!(code(&allowed), 0);
    assert!(out(&allowed).starts_with("allow: "), "{allowed:?}");
    assert!(
        out(&allowed).contains("10.65.0.1 -> 10.65.0.2"),
        "by the addresses that they have: {allowed:?}"
    );
    // Its object has no address yet, and its block has.
    let late = explain("shop/late", "shop/db", "TCP/sql");
    assert!(
        out(&late).starts_with("deny: ") && out(&late).contains("10.65.0.4 -> "),
        "{late:?}"
    );
    let homeless = explain("shop/homeless", "shop/db", "TCP/sql");
    assert_eq!(code(&homeless), 2);
    assert!(err(&homeless).contains("runs on no node yet"), "{homeless:?}");
    let wrong = bed.path("wrong.yaml");
    std::fs::write(
        &wrong,
        "- {from: shop/web, to: shop/db, protocol: TCP, port: sql, expect: deny}",
    )
    .unwrap();
    assert_eq!(
        code(&bed.manx(&["simulate", "--flows", wrong.to_str().unwrap()])),
        1
    );
}

fn a_folder_is_compared_with_the_cluster(bed: &Bed) {
    let folder = bed.path("change");
    std::fs::create_dir(&folder).unwrap();
    let policy = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec: {podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: other}}}]}]}
";
    std::fs::write(folder.join("db.yaml"), policy).unwrap();
    let diff = bed.manx(&["diff", "--live", folder.to_str().unwrap(), "-o", "json"]);
    assert_eq!((code(&diff), err(&diff)), (1, String::new()), "{diff:?}");
    let text = out(&diff);
    let changes: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let has = |change: &str, from: &str| {
        let is_it = |line: &Value| {
            line["change"] == change
                && line["from"] == from
                && line["to"] == "shop/db"
                && line["port"] == 5432
        };
        changes.iter().any(is_it)
    };
    assert!(has("opened", "shop/other") && has("closed", "shop/web"), "{text}");
    assert!(!text.contains("pod-"), "no pod came or went: {text}");
    std::fs::write(folder.join("db.yaml"), "").unwrap();
    assert_eq!(
        code(&bed.manx(&["diff", "--live", folder.to_str().unwrap()])),
        0,
        "nothing to apply"
    );
}

fn status_tells_what_is_not_in_force(bed: &Bed) {
    let status = bed.manx(&["status"]);
    assert_eq!(
        (code(&status), err(&status)),
        (0, String::new()),
        "{}",
        out(&status)
    );
    assert!(out(&status).starts_with("everything is in force\n"));
    let report = json_of(&bed.manx(&["status", "-o", "json"]));
    assert_eq!(report["standing"], "in-force");
    assert_eq!(report["datastore"]["ours"], true);
    assert!(
        report["datastore"]["version"]
            .as_str()
            .unwrap()
            .starts_with("v1."),
        "{report}"
    );
    assert_eq!(report["policies"]["networkpolicies.networking.k8s.io"], 2);
    assert_eq!(report["policies"]["globalnetworkpolicies.projectcalico.org"], 1);
    let pool = &report["pools"][0];
    assert_eq!(
        (&pool["used"], &pool["free"], &pool["blocks"]),
        (&5.into(), &251.into(), &1.into())
    );
    let node = &report["nodes"][0];
    assert_eq!(
        (&node["name"], &node["ready"], &node["networkUnavailable"]),
        (&"n1".into(), &true.into(), &false.into())
    );
    assert_eq!(
        (&node["blocks"][0], &node["agent"]["restarts"]),
        (&"10.65.0.0/26".into(), &3.into())
    );
    assert_eq!(report["controller"]["lease"]["holder"], "manx-controller-x");

    // An object that the schema lets through and nobody can understand.
    let path = "/apis/projectcalico.org/v3/globalnetworkpolicies";
    bed.make(
        path,
        &json!({
            "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
            "metadata": { "name": "broken" }, "spec": { "selector": "has(", "types": ["Ingress"] }
        }),
    );
    let status = bed.manx(&["status"]);
    assert_eq!(code(&status), 1);
    assert!(
        out(&status).contains("  invalid object: globalnetworkpolicies.projectcalico.org broken: "),
        "{}",
        out(&status)
    );
    let explain = bed.manx(&["explain", "shop/web", "shop/db", "TCP/sql"]);
    assert_eq!(code(&explain), 2, "what was read is not all");
    assert!(
        err(&explain).starts_with("GlobalNetworkPolicy broken: "),
        "{explain:?}"
    );
    bed.remove(&format!("{path}/broken"));
}

fn waiting_ends_when_everything_is_in_force(bed: &Bed) {
    objects::set_network_unavailable(bed, true);
    let patience = bed.manx(&["status", "--wait=1"]);
    assert_eq!(
        code(&patience),
        1,
        "at the end of the patience it is said how it stands"
    );
    assert!(
        out(&patience).contains("node n1: its network is unavailable: "),
        "{patience:?}"
    );
    let mut waiting = manx(Some(&bed.kubeconfig()), &["status", "--wait=240", "-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("manx is built");
    let mut progress = BufReader::new(waiting.stderr.take().unwrap());
    let mut line = String::new();
    progress.read_line(&mut line).unwrap();
    assert!(line.starts_with("waiting ("), "{line}");
    line.clear();
    progress.read_line(&mut line).unwrap();
    assert!(
        line.starts_with("  node n1: its network is unavailable"),
        "{line}"
    );
    objects::set_network_unavailable(bed, false);
    let done = waiting.wait_with_output().unwrap();
    assert_eq!(code(&done), 0, "{done:?}");
    assert_eq!(json_of(&done)["standing"], "in-force");
}

fn the_agent_of_a_container_is_asked(bed: &Bed) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let server = std::thread::spawn(move || {
        for answer in [
            "HTTP/1.0 200 OK\r\n\r\nlive\n",
            "HTTP/1.0 503 No\r\n\r\nnot ready: calc\n",
        ] {
            let (mut stream, _) = listener.accept().unwrap();
            let length = stream.read(&mut [0; 512]).unwrap();
            assert!(length > 0);
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let mut inside = manx(Some(&bed.kubeconfig()), &["status"]);
    inside
        .env("NODENAME", "n1")
        .env("FELIX_HEALTHPORT", &port)
        .env("DATASTORE_TYPE", "kubernetes");
    let status = inside.output().unwrap();
    server.join().unwrap();
    assert_eq!(code(&status), 1);
    let text = out(&status);
    assert!(
        text.contains("  the agent of this container is not ready: not ready: calc\n"),
        "{text}"
    );
    assert!(text.contains("liveness of the agent of n1:\n  live\n"), "{text}");
}

/// The account of an agent may not read the lease; somebody without any right may read nothing at all.
fn few_rights_show_what_they_show(bed: &Bed) {
    let poor = bed.poor_kubeconfig();
    let poor = |arguments: &[&str]| manx(Some(&poor), arguments).output().expect("manx is built");
    let status = poor(&["status"]);
    assert_eq!(code(&status), 2, "{}", out(&status));
    for what in ["nodes", "pods", "ippools"] {
        assert!(
            out(&status).contains(&format!("this account may not read {what}\n")),
            "{what}: {}",
            out(&status)
        );
    }
    let explain = poor(&["explain", "shop/web", "shop/db", "TCP/sql"]);
    assert_eq!(code(&explain), 2);
    assert!(
        err(&explain).contains("may not read pods; what is said here leaves it out"),
        "{explain:?}"
    );
    assert_eq!(code(&poor(&["ipam", "show"])), 2);

    objects::let_nobody_be_an_agent(bed);
    // The API server follows roles and bindings one by one.
    until("the roles are in force", || {
        code(&poor(&["ipam", "show"])) == 0 && code(&poor(&["status"])) == 0
    });
    let status = poor(&["status"]);
    assert_eq!(code(&status), 0, "{}", out(&status));
    let explain = poor(&["explain", "shop/web", "shop/db", "TCP/sql"]);
    assert_eq!((code(&explain), err(&explain)), (0, String::new()));
    assert_eq!(code(&poor(&["ipam", "check"])), 0);
}

/// As in an agent's container: no file leads to the cluster, and what is mounted for the pod's account does.
fn a_service_account_leads_to_its_cluster(bed: &Bed) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("not root: without a mount of its own nothing can stand in for a container");
        return;
    }
    let account = objects::account_of_an_agent(bed);
    let script = "mount -t tmpfs none /run
        mkdir -p /run/secrets/kubernetes.io/serviceaccount
        cp \"$ACCOUNT\"/* /run/secrets/kubernetes.io/serviceaccount/
        exec \"$MANX\" \"$@\"";
    let inside = |arguments: &[&str]| {
        Command::new("unshare")
            .args(["--mount", "--", "bash", "-euc", script, "bash"])
            .args(arguments)
            .env_remove("KUBECONFIG")
            .env_remove("HOME")
            .env("ACCOUNT", &account)
            .env("MANX", env!("CARGO_BIN_EXE_manx"))
            .env("DATASTORE_TYPE", "kubernetes")
            .env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
            .env("KUBERNETES_SERVICE_PORT", bed.port())
            .output()
            .expect("unshare is there")
    };
    let status = inside(&["status"]);
    assert_eq!(
        (code(&status), err(&status)),
        (0, String::new()),
        "{}",
        out(&status)
    );
    let explain = inside(&["explain", "shop/web", "shop/db", "TCP/sql"]);
    assert_eq!((code(&explain), err(&explain)), (0, String::new()));
    assert!(out(&explain).starts_with("allow: "), "{explain:?}");
}

fn addresses_are_shown_and_checked(bed: &Bed) {
    let show = bed.manx(&["ipam", "show", "--blocks"]);
    assert_eq!(code(&show), 0);
    assert_eq!(
        out(&show),
        "GROUPING  NAME        CIDR          TOTAL  USED    FREE\n\
         pool      main        10.65.0.0/24  256    5 (1%)  251 (98%)\n\
         block     of node n1  10.65.0.0/26  64     5 (7%)  59 (92%)\n"
    );
    let ip = bed.manx(&["ipam", "show", "--ip=10.65.0.2"]);
    assert!(
        out(&ip).starts_with("10.65.0.2 is held by pod shop/db on node n1\n"),
        "{ip:?}"
    );
    let check = bed.manx(&["ipam", "check"]);
    assert_eq!(
        (code(&check), out(&check).as_str()),
        (0, "5 addresses held in 1 blocks, 9 pods: they agree\n")
    );
    // A pod that went without its address, and one whose address nobody gave it.
    bed.remove("/api/v1/namespaces/shop/pods/late");
    objects::pod(
        bed,
        "stray",
        json!({ "nodeName": "n1" }),
        "Running",
        &["10.65.0.30"],
    );
    let check = bed.manx(&["ipam", "check", "-o", "json"]);
    assert_eq!(code(&check), 1, "{check:?}");
    let text = out(&check);
    let found: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let short: Vec<_> = found
        .iter()
        .map(|one| (one["ip"].as_str().unwrap(), one["finding"].as_str().unwrap()))
        .collect();
    assert_eq!(short, [("10.65.0.4", "leaked"), ("10.65.0.30", "not-held")]);
}

/// More objects than are asked for at once.
fn pages_of_a_long_listing_are_all_read(bed: &Bed) {
    for n in 0..520 {
        let name = format!("account-{n}");
        bed.make(
            "/api/v1/namespaces/shop/serviceaccounts",
            &json!({ "metadata": { "name": name } }),
        );
    }
    objects::pod(
        bed,
        "last",
        json!({ "nodeName": "n1", "serviceAccountName": "account-519" }),
        "Running",
        &["10.65.0.31"],
    );
    let flow = |role: &str| {
        let path = "/api/v1/namespaces/shop/serviceaccounts/account-519";
        bed.change(path, &json!({ "metadata": { "labels": { "role": role } } }));
        out(&bed.manx(&["explain", "shop/last", "shop/guarded", "TCP/80"]))
    };
    objects::guarded(bed);
    assert!(flow("guest").starts_with("deny: "));
    assert!(
        flow("friend").starts_with("allow: "),
        "the label of the account on the last page counts"
    );
}
