//! Events, as a real API server takes them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // In a test, a panic is the failure itself.

mod bed;

use bed::{ApiServer, quick};
use http::Method;

#[tokio::test]
async fn a_warning_of_a_node_is_found_among_its_events() {
    let server = ApiServer::start(&[]);
    let (client, store) = (server.client().await, server.store(quick()).await);
    let long = "no address ".repeat(200);
    for message in ["no address", &long] {
        store.warn_of_node("node-1", "NoAddress", message).await.unwrap();
    }
    // As `kubectl describe node` asks.
    let of_node = "involvedObject.kind%3DNode%2CinvolvedObject.name%3Dnode-1%2CinvolvedObject.uid%3Dnode-1";
    let path = format!("/api/v1/events?fieldSelector={of_node}");
    let (status, found) = bed::request(&client, Method::GET, &path, None).await;
    assert_eq!(status, 200, "{found}");
    let events = found["items"].as_array().unwrap();
    assert_eq!(events.len(), 2, "{found}");
    for event in events {
        assert_eq!(
            [&event["type"], &event["reason"], &event["source"]["host"]],
            ["Warning", "NoAddress", "node-1"]
        );
        let message = event["message"].as_str().unwrap();
        assert!(
            long.starts_with(message.trim_end_matches('\u{2026}')),
            "{message}"
        );
    }
}
