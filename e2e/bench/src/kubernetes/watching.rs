//! From the plugin's answer on one node to the address in the kernel of another.
//!
//! The other node has a pod whose policy lets certain pods in; theirs are the addresses that its felix must learn. Nobody
//! reports these pods' addresses to the API server, as kubelets do a second later: only their node's block tells.

use super::objects::{Making, PER_NODE};
use super::plugin::{Deed, Sandbox};
use super::world::{World, name_of};
use crate::figure::{Figure, duration};
use crate::timing::{Samples, from_environment};
use anyhow::Context;
use dataplane_netlink::NetworkNamespace;
use dataplane_nftables::socket::{Event, Monitor};
use dataplane_nftables::wire::{Notice, Object, ObservedElements};
use nix::poll::{PollFd, PollFlags, poll};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// How long an address may take to become known, or forgotten.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long it is listened before it is looked whether to stop, in milliseconds.
const LISTEN: u16 = 50;
/// Our table.
const TABLE: &str = "manx";

/// An address came into a set or map of the table, or left one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sighting {
    address: Ipv4Addr,
    is_new: bool,
    at: Instant,
}

/// Measures. The measured node gets more pods for it.
pub(super) fn measure(world: &mut World) -> anyhow::Result<Vec<Figure>> {
    let pods = from_environment("MANX_BENCH_KUBERNETES_LATE", PER_NODE);
    eprintln!("  a second node watches");
    let administrator = &world.server.administrator;
    let (mut node, plugin) = world.watching_node()?;
    let [watcher, policy] = world.size.watcher();
    let made = administrator.make(&watcher)?;
    administrator.make(&policy)?;
    let start = node.start()?;
    let sandbox = Sandbox::make(name_of(&made)?, uid(&made), 1_000_000)?;
    plugin.call(Deed::Add, &sandbox)?;
    let makings: Vec<Making> = (0..pods).map(|i| world.size.late_pod(i)).collect();
    let uids = administrator.make_all(makings.clone().into_iter())?;
    let mut late = Vec::new();
    for (n, (making, uid)) in makings.iter().zip(&uids).enumerate() {
        late.push(Sandbox::make(name_of(&making.object)?, uid, 2_000_000 + n)?);
    }
    // The watching node has work of its own until then.
    std::thread::sleep(Duration::from_secs(2));
    let outcome = watch(&node.namespace, |seen| {
        let mut samples = Samples::default();
        let mut early = 0;
        for sandbox in &late {
            let call = world.plugin.call(Deed::Add, sandbox)?;
            let address = call.address()?;
            let known = wait_for(seen, address, true)?;
            if known < call.ended {
                early += 1;
            }
            samples.add(known.saturating_duration_since(call.ended));
        }
        // Forgotten before the address can come again.
        for sandbox in &late {
            world.plugin.call(Deed::Delete, sandbox)?;
        }
        Ok((samples, early))
    });
    if outcome.is_err() {
        node.show_log();
    }
    let (samples, early) = outcome?;
    plugin.call(Deed::Delete, &sandbox)?;
    node.stop()?;
    let how = format!(
        "{} pods one by one; {early} were known before the plugin had ended; an element of the other node's table, told by \
         the kernel; two agents and the API server share the processors; least {}, largest {}",
        samples.len(),
        duration(samples.least()),
        duration(samples.largest())
    );
    Ok(vec![
        Figure::beside(
            "the watching node's felix, first start to ready, no pod connected",
            duration(start.took),
            format!(
                "once, beside the other felix; processor time {}",
                duration(start.processor)
            ),
        ),
        Figure::time(
            "CNI ADD returned, to the address known on another node, median",
            samples.median(),
            Duration::from_millis(20),
            how,
        ),
        Figure::time(
            "CNI ADD returned, to the address known on another node, 99th percentile",
            samples.quantile(0.99),
            Duration::from_millis(100),
            "",
        ),
    ])
}

fn uid(object: &serde_json::Value) -> &str {
    let uid = object.pointer("/metadata/uid");
    uid.and_then(serde_json::Value::as_str).unwrap_or_default()
}

/// Listens to a namespace's tables while `work` runs.
fn watch<Outcome>(
    namespace: &NetworkNamespace,
    work: impl FnOnce(&Receiver<Sighting>) -> anyhow::Result<Outcome>,
) -> anyhow::Result<Outcome> {
    let mut monitor = namespace.run(|| Monitor::open(&[]))??;
    let (tell, told) = channel();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = &stop;
        scope.spawn(move || {
            let mut events = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let mut fds = [PollFd::new(monitor.as_fd(), PollFlags::POLLIN)];
                let _ = poll(&mut fds, LISTEN);
                let at = Instant::now();
                while monitor.read(&mut events).unwrap_or(false) {}
                for event in events.drain(..) {
                    for sighting in sightings(&event, at) {
                        // Nobody listens any more when the work has ended.
                        let _ = tell.send(sighting);
                    }
                }
            }
        });
        let outcome = work(&told);
        stop.store(true, Ordering::Relaxed);
        outcome
    })
}

/// The addresses that an event is about.
fn sightings(event: &Event, at: Instant) -> Vec<Sighting> {
    let (elements, is_new) = match event {
        Event::Change {
            notice: Notice::New(Object::Elements(elements)),
            ..
        } => (elements, true),
        Event::Change {
            notice: Notice::Gone(Object::Elements(elements)),
            ..
        } => (elements, false),
        _ => return Vec::new(),
    };
    addresses(elements)
        .map(|address| Sighting { address, is_new, at })
        .collect()
}

fn addresses(elements: &ObservedElements) -> impl Iterator<Item = Ipv4Addr> {
    let ours = elements.table == TABLE;
    let keys = elements
        .elements
        .iter()
        .filter_map(|element| element.key.as_ref());
    keys.filter(move |_| ours)
        .filter_map(|key| <[u8; 4]>::try_from(key.as_bytes()).ok())
        .map(Ipv4Addr::from)
}

/// Waits until an address was seen to come or to go, and returns when.
fn wait_for(seen: &Receiver<Sighting>, address: Ipv4Addr, is_new: bool) -> anyhow::Result<Instant> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let sighting = seen
            .recv_timeout(left)
            .with_context(|| format!("{address} did not become known on the other node in {PATIENCE:?}"))?;
        if (sighting.address, sighting.is_new) == (address, is_new) {
            return Ok(sighting.at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane_nftables::wire::{ElementData, Family, ObservedElement, Value};

    #[test]
    fn keys_of_four_bytes_in_our_table_are_addresses() {
        let element = |bytes: &[u8]| ObservedElement {
            key: Some(Value::bytes(bytes)),
            last: None,
            interval_end: false,
            data: ElementData::None,
        };
        let mut elements = ObservedElements {
            family: Family::Inet,
            table: TABLE.to_owned(),
            set: "any".to_owned(),
            elements: vec![element(&[10, 244, 0, 7]), element(&[1; 16])],
        };
        let found: Vec<Ipv4Addr> = addresses(&elements).collect();
        assert_eq!(found, [Ipv4Addr::new(10, 244, 0, 7)]);
        elements.table = "other".to_owned();
        assert_eq!(addresses(&elements).count(), 0);
    }
}
