//! Who leads: one of several, the next when one dies or ends, and never one that was stopped for too long.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // In a test, a panic is the failure.

use crate::bed::{Bed, NAMESPACE, OURS, Running, until};
use nix::sys::signal::Signal;
use std::time::Duration;

fn user(name: &str) -> String {
    format!("system:serviceaccount:{NAMESPACE}:{name}")
}

#[tokio::test]
async fn one_leads_and_the_next_takes_over() {
    let _turn = crate::turn().await;
    let bed = Bed::start().await;
    bed.define().await;
    bed.node("n1", "192.0.2.10", &["10.244.0.0/24"]).await;
    let mut first = Running::start(&bed, bed.controller("first").await, "first");
    until("the first leads and is ready", async || {
        first.leads() && first.is_ready()
    })
    .await;
    assert!(bed.holder().await.starts_with("first_"));
    let second = Running::start(&bed, bed.controller("second").await, "second");
    until("the second stands by and is ready", async || {
        let page = second.page("/readiness");
        page.is_some_and(|(code, text)| code == 200 && text.contains("stands by for first_"))
    })
    .await;
    assert!(!second.leads());
    assert_eq!(
        bed.deeds(&user("second"))
            .iter()
            .filter(|deed| deed.is_work())
            .count(),
        0
    );
    assert_eq!(first.check_status("-r").0, Some(0));
    let (code, words) = second.check_status("-l");
    assert!(code == Some(0) && words.contains("loops move"), "{words}");

    // A clean end hands the lease over: nobody waits for it to end by itself.
    first.signal(Signal::SIGTERM);
    assert_eq!(first.ended(), Some(0));
    assert!(first.log().contains("the lease is given back"), "{}", first.log());
    until("the second leads", async || second.leads()).await;
    assert!(bed.holder().await.starts_with("second_"));
    let (code, words) = first.check_status("-l");
    assert!(code == Some(1) && words.contains("nobody answers"), "{words}");

    // A death hands nothing over.
    let third = Running::start(&bed, bed.controller("third").await, "third");
    until("the third stands by", async || third.is_ready()).await;
    second.signal(Signal::SIGKILL);
    until("the third leads", async || third.leads()).await;
    assert!(bed.holder().await.starts_with("third_"));
    for name in ["first", "second", "third"] {
        let refused = bed.deeds(&user(name)).into_iter().find(|deed| deed.code == 403);
        assert_eq!(refused, None, "the README's rights suffice");
    }
}

#[tokio::test]
async fn a_leader_that_was_stopped_past_its_lease_does_nothing_when_it_goes_on() {
    let _turn = crate::turn().await;
    let bed = Bed::start().await;
    bed.define().await;
    bed.node("n1", "192.0.2.10", &["10.244.0.0/24"]).await;
    let stopped = Running::start(&bed, bed.controller("stopped").await, "stopped");
    until("it leads and is ready", async || {
        stopped.leads() && stopped.is_ready()
    })
    .await;
    let other = Running::start(&bed, bed.controller("other").await, "other");
    until("the other stands by", async || other.is_ready()).await;

    stopped.signal(Signal::SIGSTOP);
    until("the other leads", async || other.leads() && other.is_ready()).await;
    // Work that both would do at once: a pool to protect.
    let pool = serde_json::json!({ "apiVersion": "projectcalico.org/v3", "kind": "IPPool",
        "metadata": { "name": "extra" }, "spec": { "cidr": "10.99.0.0/16" } });
    bed.put(&format!("{OURS}/ippools"), pool).await;
    let path = format!("{OURS}/ippools/extra");
    until("the other protects the pool", async || {
        let pool = bed.get(&path).await.unwrap_or_default();
        pool["metadata"]["finalizers"][0] == "projectcalico.org/ippool-finalizer"
    })
    .await;
    let before = bed.deeds(&user("stopped"));
    assert!(before.iter().any(|deed| deed.is_work()), "it worked while it led");

    // It goes on in the midst of whatever it did, with more of it waiting.
    bed.change(&path, serde_json::json!({ "spec": { "disabled": true } }))
        .await;
    stopped.signal(Signal::SIGCONT);
    until("it knows that it does not lead", async || {
        stopped
            .page("/readiness")
            .is_some_and(|(code, text)| code == 200 && text.contains("stands by for other_"))
    })
    .await;
    until("its log says so", async || {
        stopped.log().contains("leads no more")
    })
    .await;
    assert!(!stopped.leads() && other.leads());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = bed.deeds(&user("stopped"));
    let late: Vec<_> = after[before.len()..]
        .iter()
        .filter(|deed| deed.verb != "get" && deed.verb != "list" && deed.verb != "watch")
        .collect();
    assert!(
        late.is_empty(),
        "nothing was written, not even to the lease: {late:?}"
    );
    assert!(bed.holder().await.starts_with("other_"));

    // And when its turn comes again, it leads again.
    other.signal(Signal::SIGTERM);
    until("it leads again", async || stopped.leads() && stopped.is_ready()).await;

    // Without an API server nobody leads, and that is no reason to start anew.
    bed.signal(Signal::SIGSTOP);
    until("it lays its work down and says why", async || {
        let (code, words) = stopped.check_status("-r");
        !stopped.leads() && code == Some(1) && words.contains("lease")
    })
    .await;
    assert_eq!(stopped.check_status("-l").0, Some(0));
    bed.signal(Signal::SIGCONT);
    until("it goes on", async || stopped.leads() && stopped.is_ready()).await;
}
