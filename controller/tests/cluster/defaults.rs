//! What every cluster has: made where it is absent, left alone where it is not, and refused where it makes no sense.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // In a test, a panic is the failure.

use crate::bed::{Bed, OURS, Running, until};
use crate::rights::OF_A_CONTROLLER;
use nix::sys::signal::Signal;
use serde_json::json;

#[tokio::test]
async fn defaults_are_made_once_and_never_overwritten() {
    let _turn = crate::turn().await;
    let bed = Bed::start().await;
    let kubeadm = json!({
        "metadata": { "name": "kubeadm-config" },
        "data": { "ClusterConfiguration": "networking:\n  podSubnet: 10.64.0.0/13\n" },
    });
    bed.put("/api/v1/namespaces/kube-system/configmaps", kubeadm)
        .await;
    bed.node("n1", "192.0.2.10", &["10.64.0.0/24"]).await;

    // Without our definitions it waits, lives, and says for what.
    let mut early = Running::start(&bed, bed.controller("early").await, "early");
    until("it says what is missing", async || {
        early
            .page("/readiness")
            .is_some_and(|(code, text)| code == 503 && text.contains("install the definitions"))
    })
    .await;
    assert_eq!(early.check_status("-l").0, Some(0));
    let (code, words) = early.check_status("-r");
    assert!(code == Some(1) && words.contains("defaults"), "{words}");
    bed.define().await;
    until("it is ready", async || early.is_ready()).await;

    let ours = async |path: &str| bed.get(&format!("{OURS}/{path}")).await;
    let pool = ours("ippools/default-ipv4-ippool").await.unwrap();
    assert_eq!(pool["spec"]["cidr"], "10.64.0.0/13", "what kubeadm was told");
    assert_eq!(pool["spec"]["natOutgoing"], true);
    assert!(pool["spec"]["ipipMode"].is_null() && pool["spec"]["vxlanMode"].is_null());
    assert!(
        ours("ippools/default-ipv6-ippool").await.is_none(),
        "nothing in the cluster is IPv6"
    );
    let tier = ours("tiers/default").await.unwrap();
    assert_eq!(tier["spec"]["order"].as_f64(), Some(1_000_000.0));
    assert!(ours("felixconfigurations/default").await.is_some());
    let cluster = ours("clusterinformations/default").await.unwrap();
    let identity = cluster["spec"]["clusterGUID"].as_str().unwrap();
    assert_eq!(identity.len(), 32);
    assert_eq!(cluster["spec"]["datastoreReady"], true);
    early.signal(Signal::SIGTERM);
    assert_eq!(early.ended(), Some(0));

    // What a user changed stays as it is, whatever a later life is told.
    for (path, change) in [
        ("tiers/default", json!({ "spec": { "order": 7 } })),
        (
            "felixconfigurations/default",
            json!({ "spec": { "logSeverityScreen": "Debug" } }),
        ),
        (
            "clusterinformations/default",
            json!({ "spec": { "datastoreReady": false, "calicoVersion": "before" } }),
        ),
        (
            "ippools/default-ipv4-ippool",
            json!({ "spec": { "natOutgoing": false } }),
        ),
    ] {
        bed.change(&format!("{OURS}/{path}"), change).await;
    }
    let mut command = bed.controller("late").await;
    command
        .env("CALICO_IPV4POOL_CIDR", "10.1.0.0/16")
        .env("CALICO_IPV4POOL_NAT_OUTGOING", "true")
        .env("CALICO_IPV6POOL_CIDR", "fd00:6::/64")
        .env("CALICO_IPV6POOL_BLOCK_SIZE", "120")
        .env("CALICO_IPV6POOL_VXLAN", "Always");
    let late = Running::start(&bed, command, "late");
    until("it leads and is ready", async || late.leads() && late.is_ready()).await;
    let tier = ours("tiers/default").await.unwrap();
    assert_eq!(tier["spec"]["order"].as_f64(), Some(7.0));
    let agents = ours("felixconfigurations/default").await.unwrap();
    assert_eq!(agents["spec"]["logSeverityScreen"], "Debug");
    let after = ours("clusterinformations/default").await.unwrap();
    assert_eq!(after["spec"]["datastoreReady"], false);
    assert_eq!(after["spec"]["clusterGUID"], identity);
    assert_eq!(
        after["spec"]["calicoVersion"],
        env!("CARGO_PKG_VERSION"),
        "what runs is said by who runs"
    );
    let pool = ours("ippools/default-ipv4-ippool").await.unwrap();
    assert_eq!(pool["spec"]["cidr"], "10.64.0.0/13");
    assert_eq!(pool["spec"]["natOutgoing"], false);
    // The family that had none gets its pool, as it was asked for.
    let pool = ours("ippools/default-ipv6-ippool").await.unwrap();
    assert_eq!(pool["spec"]["cidr"], "fd00:6::/64");
    assert_eq!(pool["spec"]["blockSize"], 120);
    assert_eq!(pool["spec"]["vxlanMode"], "Always");
}

#[tokio::test]
async fn what_makes_no_sense_or_is_anothers_is_refused_with_words() {
    let _turn = crate::turn().await;
    let bed = Bed::start().await;
    let refused = async |variables: &[(&str, &str)], words: &[&str]| {
        let mut command = bed.controller("refused").await;
        command.envs(variables.iter().copied());
        let output = command.args(["--metrics-port", "0"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        for word in words {
            assert!(text.contains(word), "{word}: {text}");
        }
    };
    refused(
        &[("CALICO_IPV4POOL_CIDR", "10.0.0.0/30")],
        &["CALICO_IPV4POOL_CIDR", "10.0.0.0/30", "/26"],
    )
    .await;
    refused(
        &[("ENABLED_CONTROLLERS", "nodes")],
        &["ENABLED_CONTROLLERS", "nodes"],
    )
    .await;
    refused(&[("LEAK_GRACE", "soon")], &["LEAK_GRACE", "soon", "15m"]).await;

    // A range over a node's own address: said, and not made, while the rest goes on.
    bed.define().await;
    bed.node("n1", "192.168.7.1", &[]).await;
    let mut command = bed.controller("waiting").await;
    let young = Running::start(&bed, command, "young");
    until("it says what is in the way", async || {
        young.page("/readiness").is_some_and(|(code, text)| {
            code == 503 && text.contains("192.168.7.1") && text.contains("CALICO_IPV4POOL_CIDR")
        })
    })
    .await;
    until("the rest is made", async || {
        bed.get(&format!("{OURS}/tiers/default")).await.is_some()
    })
    .await;
    drop(young);

    // Somebody else's definitions, and a server that refuses while nobody is to wait.
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/tiers.projectcalico.org";
    bed.change(
        path,
        json!({ "metadata": { "labels": { "app.kubernetes.io/part-of": null } } }),
    )
    .await;
    refused(
        &[],
        &[
            "tiers.projectcalico.org",
            "belongs to somebody else",
            "kubectl label",
        ],
    )
    .await;
    let binding = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/waiting";
    command = bed.controller("waiting").await;
    let of_patient = bed.controller("waiting").await;
    bed.remove(binding).await;
    until("the right is gone", async || {
        !bed.may("waiting", &OF_A_CONTROLLER[0]).await
    })
    .await;
    let output = command
        .env("WAIT_FOR_DATASTORE", "false")
        .args(["--metrics-port", "0"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("403") && text.contains("WAIT_FOR_DATASTORE"),
        "{text}"
    );
    let patient = Running::start(&bed, of_patient, "patient");
    until("it says what it waits for", async || {
        patient
            .page("/readiness")
            .is_some_and(|(code, text)| code == 503 && text.contains("403"))
    })
    .await;
}
