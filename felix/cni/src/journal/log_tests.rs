//! Tests of the journal's file: cut, damaged, grown, and written by many at once.

use super::*;
use crate::journal::Journal;
use std::sync::Arc;

fn attachment(id: usize) -> Attachment {
    Attachment {
        key: AttachmentKey {
            network: "k8s-pod-network".into(),
            container_id: format!("c{id}"),
            interface: "eth0".into(),
        },
        namespace: "shop".into(),
        pod: format!("web-{id}"),
        uid: String::new(),
        addresses: vec![std::net::Ipv4Addr::from_bits(u32::try_from(id).unwrap()).into()],
        host_interface: format!("cali{id}"),
        boot_id: "b".into(),
        mtu: 1400,
        host_ports: Vec::new(),
    }
}

fn ids(journal: &Journal) -> Vec<String> {
    journal.all().iter().map(|a| a.key.container_id.clone()).collect()
}

#[tokio::test]
async fn a_file_that_is_cut_anywhere_holds_what_was_whole() {
    let place = tempfile::tempdir().unwrap();
    let journal = Journal::open(place.path()).unwrap();
    assert!(journal.is_new());
    for id in 0..3 {
        journal.put(attachment(id), Origin::Made).await.unwrap();
    }
    journal.remove(&attachment(1).key).await.unwrap();
    drop(journal);
    let whole = std::fs::read(place.path().join(NAME)).unwrap();
    let ends: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] == b'\n').collect();
    // Every length around the ends of lines, and some of the others.
    let is_near_an_end = |length: &usize| ends.iter().any(|end| length.abs_diff(*end) < 3);
    for length in (0..=whole.len()).filter(|length| length % 50 == 0 || is_near_an_end(length)) {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join(NAME), &whole[..length]).unwrap();
        let journal = Journal::open(place.path()).unwrap();
        assert!(!journal.is_new());
        let expected: &[&str] = match ends.iter().filter(|end| **end < length).count() {
            0 => &[],
            1 => &["c0"],
            2 => &["c0", "c1"],
            3 => &["c0", "c1", "c2"],
            _ => &["c0", "c2"],
        };
        assert_eq!(ids(&journal), expected, "cut at {length}");
        // It can be gone on with.
        journal.put(attachment(9), Origin::Made).await.unwrap();
        drop(journal);
        assert_eq!(ids(&Journal::open(place.path()).unwrap()).last().unwrap(), "c9");
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_kept_aside() {
    let place = tempfile::tempdir().unwrap();
    let journal = Journal::open(place.path()).unwrap();
    journal.put(attachment(1), Origin::Found).await.unwrap();
    drop(journal);
    let path = place.path().join(NAME);
    let mut text = std::fs::read(&path).unwrap();
    text.extend(b"rubbish\n");
    std::fs::write(&path, &text).unwrap();
    let journal = Journal::open(place.path()).unwrap();
    assert_eq!(ids(&journal), ["c1"]);
    assert_eq!(journal.found().len(), 1);
    assert_eq!(
        std::fs::read(place.path().join(format!("{NAME}.damaged"))).unwrap(),
        text
    );
}

#[tokio::test]
async fn files_of_the_former_kind_are_taken_over() {
    let place = tempfile::tempdir().unwrap();
    let old = place.path().join("old.json");
    std::fs::write(&old, serde_json::to_vec_pretty(&attachment(7)).unwrap()).unwrap();
    for _ in 0..2 {
        let journal = Journal::open(place.path()).unwrap();
        assert!(!journal.is_new());
        assert_eq!(ids(&journal), ["c7"]);
        assert!(!old.exists());
    }
}

#[tokio::test]
async fn the_file_stays_small_while_attachments_come_and_go() {
    let place = tempfile::tempdir().unwrap();
    let journal = Arc::new(Journal::open(place.path()).unwrap());
    journal.put(attachment(0), Origin::Made).await.unwrap();
    let works: Vec<_> = (1..=20)
        .map(|n| {
            let journal = journal.clone();
            tokio::spawn(async move {
                for round in 0..50 {
                    let one = attachment(n * 1000 + round);
                    journal.put(one.clone(), Origin::Made).await.unwrap();
                    journal.remove(&one.key).await.unwrap();
                }
            })
        })
        .collect();
    for work in works {
        work.await.unwrap();
    }
    assert_eq!(ids(&journal), ["c0"]);
    assert!(std::fs::metadata(place.path().join(NAME)).unwrap().len() < 2 * SMALL);
    drop(journal);
    assert_eq!(ids(&Journal::open(place.path()).unwrap()), ["c0"]);
}

#[tokio::test]
async fn a_disk_that_refuses_is_said_and_leaves_nothing_half_written() {
    let place = tempfile::tempdir().unwrap();
    let journal = Journal::open(place.path()).unwrap();
    journal.put(attachment(1), Origin::Made).await.unwrap();
    journal.put(attachment(1), Origin::Made).await.unwrap();
    let path = place.path().join(NAME);
    let length = std::fs::metadata(&path).unwrap().len();
    // What a failed write may leave.
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"{\"made\":").unwrap();
    journal.put(attachment(2), Origin::Made).await.unwrap();
    drop(journal);
    assert!(std::fs::metadata(&path).unwrap().len() > length);
    let journal = Journal::open(place.path()).unwrap();
    assert_eq!(ids(&journal), ["c1", "c2"]);
    assert!(!place.path().join(format!("{NAME}.damaged")).exists());
}

#[tokio::test]
async fn ports_of_the_node_are_kept_and_entries_without_them_are_read() {
    let place = tempfile::tempdir().unwrap();
    let with_ports = Attachment {
        host_ports: vec![crate::protocol::PortMapping {
            protocol: crate::protocol::Transport::Sctp,
            host_ip: Some("192.0.2.1".parse().unwrap()),
            host_port: 38412,
            container_port: 80,
        }],
        ..attachment(7)
    };
    let journal = Journal::open(place.path()).unwrap();
    for attachment in [&attachment(1), &with_ports] {
        journal.put(attachment.clone(), Origin::Made).await.unwrap();
    }
    drop(journal);
    let text = std::fs::read_to_string(place.path().join(NAME)).unwrap();
    assert_eq!(text.matches("host_ports").count(), 1, "{text}");
    let journal = Journal::open(place.path()).unwrap();
    let again = journal.all();
    assert_eq!(
        again.as_slice(),
        [attachment(1), with_ports.clone()].map(Arc::new)
    );
    let led: Vec<String> = again
        .iter()
        .flat_map(|attachment| attachment.mapped_ports())
        .map(|(port, to)| format!("{} {}:{} {to}", port.protocol, port.address, port.port))
        .collect();
    assert_eq!(led, ["SCTP 192.0.2.1:38412 0.0.0.7:80"]);
    // Another port for the same attachment is a change.
    let other = Attachment {
        host_ports: Vec::new(),
        ..with_ports.clone()
    };
    journal.put(other.clone(), Origin::Made).await.unwrap();
    assert_eq!(journal.get(&with_ports.key), Some(other));
}
