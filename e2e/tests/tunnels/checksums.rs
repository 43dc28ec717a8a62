//! Who computes the checksums of packets into a tunnel: found out where nobody has said it, and said.
//!
//! Only a pass switches a device, and here a pass is what a test asks for: what is seen before it is how things are without
//! the probe.

use crate::talk;
use dataplane_netlink::Rtnetlink;
use dataplane_netlink::links;
use dataplane_netlink::tunnels::offload::{ChecksumOffload, DeviceSettings};
use e2e::bed::{bound, ip, within};
use e2e::fabric::shown::{IPIP_DEVICE, kernel_has_ipip, vxlan_device};
use e2e::fabric::{Cables, Fabric, Family, Mode, Node, Pod, WayOut, objects};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long a connection may take that is to fail: its first packet is sent again after a second, and after two more.
const SHORT: Duration = Duration::from_millis(2_500);
const PORT: u16 = 7_500;
const BROKEN: &str = "checksum offload is broken below this tunnel";
const SOUND: &str = "arrive as they should";

/// What the nodes' hands have logged of tunnels' checksums.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Writes down what a node's engine says from now on.
    fn of(fabric: &Fabric, place: usize) -> Log {
        let log = Log::default();
        let writer = log.clone();
        fabric.nodes[place].engine.run(move |_| {
            let subscriber = tracing_subscriber::fmt()
                .with_ansi(false)
                .with_max_level(tracing::Level::DEBUG)
                .with_writer(move || writer.clone())
                .finish();
            // As long as the thread lives.
            std::mem::forget(tracing::subscriber::set_default(subscriber));
        });
        log
    }

    /// The lines that say something, and how grave it is.
    fn lines(&self, level: &str, what: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let is_it = |line: &&str| line.contains(&format!(" {level} ")) && line.contains(what);
        text.lines().filter(is_it).map(str::to_owned).collect()
    }
}

/// Two nodes with a pod on each, in VXLAN, by such cables.
fn fabric(cables: Cables, told: Option<ChecksumOffload>) -> (Fabric, [Log; 2]) {
    fabric_in(Mode::VXLAN, cables, told)
}

fn fabric_in(mode: Mode, cables: Cables, told: Option<ChecksumOffload>) -> (Fabric, [Log; 2]) {
    let mut fabric = Fabric::new(&[]);
    fabric.router.cables = cables;
    fabric.settings.tunnels.checksum_offload = told;
    fabric.join(0);
    fabric.join(0);
    let logs = [0, 1].map(|place| Log::of(&fabric, place));
    fabric.put(objects::pools(0, mode, WayOut::Own));
    fabric.connect(0, "");
    fabric.connect(1, "");
    fabric.apply();
    (fabric, logs)
}

/// Whether a connection from one pod to another carries something.
fn connects(from: &Pod, to: &Pod, family: Family, patience: Duration) -> bool {
    let target = SocketAddr::new(to.address(family), PORT);
    let listener = bound(&to.side.namespace, || TcpListener::bind(target));
    let stream = within(&from.side.namespace, || {
        TcpStream::connect_timeout(&target, patience)
    });
    let Ok(mut stream) = stream else { return false };
    let (mut there, _) = listener.accept().unwrap();
    stream.write_all(&[7; 100_000]).unwrap();
    drop(stream);
    let mut heard = Vec::new();
    there.read_to_end(&mut heard).unwrap();
    heard == [7; 100_000]
}

fn offload(node: &Node, family: Family) -> ChecksumOffload {
    offload_of(node, vxlan_device(family))
}

fn offload_of(node: &Node, device: &str) -> ChecksumOffload {
    within(&node.namespace, || {
        let name = device.parse().unwrap();
        let link = links::find(&mut Rtnetlink::open().unwrap(), &name)
            .unwrap()
            .unwrap();
        DeviceSettings::open().unwrap().checksum_offload(&link).unwrap()
    })
}

/// Pods of both nodes reach each other by TCP, or none does.
fn all_connect(fabric: &Fabric, expected: bool, what: &str) {
    let patience = if expected { Duration::from_secs(30) } else { SHORT };
    for family in Family::BOTH {
        for (from, to) in [(0, 1), (1, 0)] {
            let (from, to) = (fabric.pod(from, 0), fabric.pod(to, 0));
            let connected = connects(from, to, family, patience);
            assert_eq!(
                connected, expected,
                "{what}: {} to {}, {family:?}",
                from.name, to.name
            );
        }
    }
}

fn own_checksums(fabric: &Fabric, place: usize) -> usize {
    fabric.nodes[place]
        .engine
        .run(|core| core.dataplane.tunnels_with_own_checksums())
}

#[test]
fn a_way_that_spoils_checksums_is_found_out_and_said() {
    let (fabric, logs) = fabric(Cables::Worn, None);
    all_connect(&fabric, false, "before");
    fabric.until("both nodes say what is broken", || {
        let found = logs.iter().all(|log| log.lines("WARN", BROKEN).len() == 2);
        found.then_some(())
    });
    all_connect(&fabric, true, "afterwards");
    for (place, log) in logs.iter().enumerate() {
        assert_eq!(own_checksums(&fabric, place), 2);
        for family in Family::BOTH {
            assert_eq!(offload(&fabric.nodes[place], family), ChecksumOffload::Off);
            let lines = log.lines("WARN", BROKEN);
            let device = format!("device={}", vxlan_device(family));
            let says = |line: &&String| line.contains(&device) && line.contains("FeatureDetectOverride");
            assert_eq!(lines.iter().filter(says).count(), 1, "{lines:?}");
        }
    }

    // What is known stays in force through a look at everything, and through another life of the agent.
    fabric.nodes[0].engine.run(|core| core.differences());
    fabric.tend();
    let resources = fabric.resources();
    fabric.nodes[1].engine.restart(resources);
    fabric.tend();
    for place in [0, 1] {
        assert_eq!(offload(&fabric.nodes[place], Family::V4), ChecksumOffload::Off);
        assert_eq!(own_checksums(&fabric, place), 2);
    }
    all_connect(&fabric, true, "after a restart");

    // Another device is tried anew, and is off in the end.
    let device = vxlan_device(Family::V4);
    within(&fabric.nodes[0].namespace, || {
        ip(&format!("link delete {device}"))
    });
    fabric.until("the new device is tried", || {
        (logs[0].lines("WARN", BROKEN).len() == 3).then_some(())
    });
    assert_eq!(offload(&fabric.nodes[0], Family::V4), ChecksumOffload::Off);
    all_connect(&fabric, true, "by another device");
}

/// IPv6 has no IPIP and goes in VXLAN.
#[test]
fn ipip_is_tried_as_well_and_its_device_given_back_as_it_was() {
    if !kernel_has_ipip() {
        return;
    }
    let (mut fabric, logs) = fabric_in(Mode::IPIP, Cables::Worn, None);
    all_connect(&fabric, false, "before");
    fabric.until("both nodes say what is broken", || {
        let found = logs.iter().all(|log| log.lines("WARN", BROKEN).len() == 2);
        found.then_some(())
    });
    all_connect(&fabric, true, "afterwards");
    for (node, log) in fabric.nodes.iter().zip(&logs) {
        assert_eq!(offload_of(node, IPIP_DEVICE), ChecksumOffload::Off);
        let lines = log.lines("WARN", &format!("device={IPIP_DEVICE}"));
        assert_eq!(lines.len(), 1, "{lines:?}");
    }
    fabric.program(objects::pools(0, Mode::PLAIN, WayOut::Own));
    fabric.settle();
    for (place, node) in fabric.nodes.iter().enumerate() {
        assert_eq!(offload_of(node, IPIP_DEVICE), ChecksumOffload::On);
        assert_eq!(own_checksums(&fabric, place), 0);
    }

    let (fabric, logs) = fabric_in(Mode::IPIP, Cables::Sound, None);
    fabric.until("both nodes know that all is well", || {
        let known = logs.iter().all(|log| log.lines("DEBUG", SOUND).len() == 2);
        known.then_some(())
    });
    all_connect(&fabric, true, "by good cables");
    for node in &fabric.nodes {
        assert_eq!(offload_of(node, IPIP_DEVICE), ChecksumOffload::On);
    }
}

#[test]
fn a_good_way_is_left_as_it_is() {
    let (fabric, logs) = fabric(Cables::Sound, None);
    all_connect(&fabric, true, "at once");
    fabric.until("both nodes know that all is well", || {
        let known = logs.iter().all(|log| log.lines("DEBUG", SOUND).len() == 2);
        known.then_some(())
    });
    fabric.tend();
    for (place, log) in logs.iter().enumerate() {
        assert_eq!(
            log.lines("WARN", "").len() + log.lines("INFO", "checksum").len(),
            0
        );
        assert_eq!(own_checksums(&fabric, place), 0);
        for family in Family::BOTH {
            assert_eq!(offload(&fabric.nodes[place], family), ChecksumOffload::On);
        }
    }
}

#[test]
fn only_nodes_behind_the_tunnel_are_asked() {
    let mut fabric = Fabric::new(&[0, 0, 1]);
    let logs = [0, 1, 2].map(|place| Log::of(&fabric, place));
    fabric.put(objects::pools(0, Mode::VXLAN_ACROSS, WayOut::Own));
    for place in 0..3 {
        fabric.connect(place, "");
    }
    fabric.apply();
    fabric.until("all nodes know that all is well", || {
        let known = logs.iter().all(|log| log.lines("DEBUG", SOUND).len() == 2);
        known.then_some(())
    });
    for family in Family::BOTH {
        talk(&fabric, 0, 1, family);
        talk(&fabric, 0, 2, family);
    }
}

#[test]
fn what_the_operator_says_is_done_and_nothing_is_tried() {
    for (told, works) in [(ChecksumOffload::On, false), (ChecksumOffload::Off, true)] {
        let (fabric, logs) = fabric(Cables::Worn, Some(told));
        fabric.forget_captures();
        all_connect(&fabric, works, "as told");
        fabric.tend();
        for (place, log) in logs.iter().enumerate() {
            assert_eq!(
                own_checksums(&fabric, place),
                0,
                "{told}: an operator's word is not counted"
            );
            assert_eq!(log.lines("WARN", "").len(), 0, "{told}");
            let tunnels = |seen: &e2e::fabric::Seen| seen_tunnels(&fabric, seen);
            let asked = fabric.nodes[place]
                .capture
                .look()
                .iter()
                .filter(|s| tunnels(s))
                .count();
            assert_eq!(asked, 0, "{told}: node to node through the tunnel");
            for family in Family::BOTH {
                assert_eq!(offload(&fabric.nodes[place], family), told);
            }
        }
    }
}

/// Whether a packet goes from one tunnel's address to another's.
fn seen_tunnels(fabric: &Fabric, seen: &e2e::fabric::Seen) -> bool {
    use e2e::fabric::addresses::{VXLAN_ORDINAL, in_block};
    let own = |address| {
        let numbers = fabric.nodes.iter().map(|node| node.number);
        numbers
            .flat_map(|number| Family::BOTH.map(|family| in_block(family, 0, number, VXLAN_ORDINAL)))
            .any(|tunnel| tunnel == address)
    };
    match seen.load {
        e2e::fabric::Load::Vxlan(_, Some((from, to))) => own(from) && own(to),
        _ => false,
    }
}
