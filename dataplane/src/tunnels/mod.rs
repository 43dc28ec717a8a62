//! Tunnels between nodes: the devices that the pools ask for, what they know of the other nodes, and how large the packets
//! of workloads may be.
//!
//! Rooms: [`settings`], `facts` (what nodes and pools ask for: pure), `device` (one device, from wanted over lingering to
//! gone), `peers` (the nodes behind a VXLAN device), `offload` (who computes its checksums), `probe` (finds that out beside
//! the passes), and here their order. A device that cannot be had is a fault, and
//! what was to go through it goes nowhere: never as it is.

mod device;
mod facts;
mod offload;
mod peers;
mod probe;
mod settings;

pub use settings::{TunnelSettings, Tunnelling};

use crate::interfaces::{Faults, describe};
use dataplane_api::{ClusterNode, PoolRange};
use dataplane_netlink::events::{Event, Group, Monitor};
use dataplane_netlink::links::Link;
use dataplane_netlink::tunnels::carrier;
use dataplane_netlink::tunnels::mtu::Encapsulation;
use dataplane_netlink::tunnels::peers::PeerNews;
use dataplane_netlink::{InterfaceName, NetlinkError, Patience, Rtnetlink};
use dataplane_tables::{Confined, TunnelsInUse};
use device::Device;
use facts::Facts;
use ipnet::IpNet;
use probe::{Prober, Subject};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// A kind of tunnel device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Ipip,
    Vxlan4,
    Vxlan6,
}

impl Kind {
    pub(crate) const ALL: [Kind; 3] = [Kind::Ipip, Kind::Vxlan4, Kind::Vxlan6];

    fn is_ipv4(self) -> bool {
        self != Kind::Vxlan6
    }

    fn pick<T>(self, ipip: T, vxlan4: T, vxlan6: T) -> T {
        match self {
            Kind::Ipip => ipip,
            Kind::Vxlan4 => vxlan4,
            Kind::Vxlan6 => vxlan6,
        }
    }

    fn pick_mut(self, devices: &mut [Device; 3]) -> &mut Device {
        let [ipip, vxlan4, vxlan6] = devices;
        self.pick(ipip, vxlan4, vxlan6)
    }

    fn encapsulation(self) -> Encapsulation {
        self.pick(
            Encapsulation::Ipip,
            Encapsulation::VxlanV4,
            Encapsulation::VxlanV6,
        )
    }
}

/// The devices through which packets may be sent now, by their names.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Ready {
    pub(crate) ipip: Option<InterfaceName>,
    pub(crate) vxlan4: Option<InterfaceName>,
    pub(crate) vxlan6: Option<InterfaceName>,
}

/// A device that carries what goes to other nodes.
#[derive(Clone, Copy, Debug)]
struct Carried {
    link: u32,
    mtu: u32,
}

/// The interface of a node's packets to itself.
const LOOPBACK: &str = "lo";

/// The tunnels of one node.
#[derive(Debug)]
pub(crate) struct Tunnels {
    settings: TunnelSettings,
    facts: Facts,
    devices: [Device; 3],
    netlink: Rtnetlink,
    /// Tells of the entries of VXLAN devices; there is none as long as no such device is wanted.
    monitor: Option<Monitor>,
    /// The devices that carry what goes to other nodes, by family; IPv4 first.
    carriers: [Option<Carried>; 2],
    /// Those, and what the default routes lead to, by their names: where packets leave as they are.
    wires: BTreeSet<String>,
    /// Tries checksums, and which devices it was told to try; there is none as long as none is to be tried.
    prober: Option<Prober>,
    told: [Option<Subject>; 3],
    patience: Patience,
    /// Whether what carries packets may be another, or devices others than they were made.
    look: bool,
    /// Whether something is to be done at the next pass.
    due: bool,
    /// Whether a device was made or changed, so that routes through it may have gone.
    changed: bool,
}

impl Tunnels {
    pub(crate) fn open(settings: TunnelSettings, patience: Patience) -> Result<Self, NetlinkError> {
        Ok(Tunnels {
            settings,
            facts: Facts::default(),
            devices: Kind::ALL.map(Device::new),
            netlink: Rtnetlink::open_with(patience)?,
            monitor: None,
            carriers: [None; 2],
            wires: BTreeSet::new(),
            prober: None,
            told: [const { None }; 3],
            patience,
            look: true,
            due: true,
            changed: true,
        })
    }

    pub(crate) fn set_node(&mut self, node: &ClusterNode) {
        self.look |= node.is_here;
        self.due |= node.is_here;
        self.facts.set_node(node);
        self.touch_peer(&node.name);
    }

    pub(crate) fn remove_node(&mut self, name: &Arc<str>) {
        self.facts.remove_node(name);
        self.touch_peer(name);
    }

    fn touch_peer(&mut self, name: &Arc<str>) {
        for device in &mut self.devices {
            device.peers.touch(name);
        }
        // Without a device nobody asks who is behind it, and one that is made is told of all.
        self.due |= self.devices.iter().any(Device::has_peers);
    }

    pub(crate) fn set_pool(&mut self, pool: &PoolRange) {
        self.due |= self.facts.set_pool(pool);
    }

    pub(crate) fn remove_pool(&mut self, cidr: &IpNet) {
        self.due |= self.facts.remove_pool(cidr);
    }

    /// Has the next pass look at the devices and at what carries their packets.
    pub(crate) fn look_again(&mut self) {
        self.look = true;
        self.due = true;
    }

    /// Has the next pass compare everything with the kernel.
    pub(crate) fn compare(&mut self) {
        self.look_again();
        for device in &mut self.devices {
            device.peers.compare();
        }
    }

    /// Has the next pass try again what the last one could not do, and be soon.
    pub(crate) fn retry(&mut self) {
        self.due |= self.devices.iter().any(Device::has_fault);
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.due
    }

    /// Which tunnels are in use: wanted, or lingering.
    pub(crate) fn in_use(&self) -> TunnelsInUse {
        let [ipip, vxlan4, vxlan6] = Kind::ALL.map(|kind| self.wanted(kind) || self.device(kind).is_there());
        TunnelsInUse { ipip, vxlan4, vxlan6 }
    }

    /// What of one workload for another leaves this node inside a tunnel or not at all. As of the last look.
    pub(crate) fn confined(&self) -> Confined {
        let confined = Confined {
            wires: self.wires.clone(),
            ranges: self.facts.ranges(),
        };
        // What would be asked of no packet is the same whatever it names.
        if confined.any() {
            confined
        } else {
            Confined::default()
        }
    }

    /// The devices through which packets may be sent.
    pub(crate) fn ready(&self) -> Ready {
        let [ipip, vxlan4, vxlan6] = Kind::ALL.map(|kind| self.device(kind).ready().cloned());
        Ready { ipip, vxlan4, vxlan6 }
    }

    /// The largest packet of workloads that fits into every way to other nodes, in bytes, where it is known.
    pub(crate) fn workload_mtu(&self) -> Option<u32> {
        let inside = Kind::ALL
            .into_iter()
            .filter(|kind| self.wanted(*kind))
            .filter_map(|kind| self.mtu(kind).ok());
        let carriers = self.carriers.iter().flatten().map(|carrier| carrier.mtu);
        carriers.chain(inside).min()
    }

    fn wanted(&self, kind: Kind) -> bool {
        match setting(&self.settings, kind) {
            Tunnelling::Off => false,
            Tunnelling::ByPools => self.facts.is_asked_for(kind),
            Tunnelling::On => {
                let has_address = self.facts.own_address(kind.is_ipv4()).is_some();
                self.facts.is_asked_for(kind) || has_address
            }
        }
    }

    fn device(&self, kind: Kind) -> &Device {
        let [ipip, vxlan4, vxlan6] = &self.devices;
        kind.pick(ipip, vxlan4, vxlan6)
    }

    /// The device that carries a kind of tunnel, where it is known.
    fn carrying(&self, kind: Kind) -> Option<Carried> {
        let [v4, v6] = self.carriers;
        if kind.is_ipv4() { v4 } else { v6 }
    }

    /// The largest packet inside a kind of tunnel.
    fn mtu(&self, kind: Kind) -> Result<u32, String> {
        let TunnelSettings {
            ipip_mtu,
            vxlan_mtu,
            vxlan_mtu_v6,
            ..
        } = self.settings;
        if let Some(stated) = kind.pick(ipip_mtu, vxlan_mtu, vxlan_mtu_v6) {
            return Ok(stated);
        }
        let carrier = self.carrying(kind).ok_or_else(|| {
            let family = if kind.is_ipv4() { "IPv4" } else { "IPv6" };
            match self.facts.own_address(kind.is_ipv4()) {
                Some(address) => format!(
                    "{}: no interface of this node has its address {address}, so nothing can carry the tunnel",
                    kind.encapsulation()
                ),
                None => format!(
                    "{}: this node has no {family} address in its Node object, so there can be no tunnel",
                    kind.encapsulation()
                ),
            }
        })?;
        kind.encapsulation()
            .inside(carrier.mtu)
            .map_err(|narrow| narrow.to_string())
    }

    /// Looks at what carries packets, where that may be another.
    ///
    /// # Errors
    /// The kernel could not be asked; the next look asks it again.
    pub(crate) fn survey(&mut self) -> Result<(), NetlinkError> {
        if !self.look {
            return Ok(());
        }
        let mut wires = BTreeSet::new();
        let mut carriers = [None; 2];
        for (is_ipv4, found) in [true, false].into_iter().zip(&mut carriers) {
            let carrier = self.carrier(is_ipv4)?;
            wires.extend(carrier.as_ref().map(|link| link.name.to_string()));
            *found = carrier.map(|link| Carried {
                link: link.index,
                mtu: link.mtu,
            });
        }
        let default = carrier::default_devices(&mut self.netlink)?;
        wires.extend(default.iter().map(|link| link.name.to_string()));
        // What the node says to itself leaves it nowhere.
        wires.remove(LOOPBACK);
        self.carriers = carriers;
        self.wires = wires;
        for device in &mut self.devices {
            device.look();
        }
        self.look = false;
        Ok(())
    }

    /// Begins to let go of what nobody wants, what an earlier life left included. `now` is in milliseconds.
    ///
    /// # Errors
    /// The kernel could not be asked.
    pub(crate) fn let_go(&mut self, now: u64) -> Result<(), NetlinkError> {
        for kind in Kind::ALL {
            if self.wanted(kind) {
                continue;
            }
            let device = kind.pick_mut(&mut self.devices);
            device.linger(&mut self.netlink, &self.facts, &self.settings, now)?;
        }
        Ok(())
    }

    /// Brings devices and their entries to what is wanted.
    ///
    /// # Errors
    /// The kernel could not be asked; what it refused is among the faults.
    pub(crate) fn apply(&mut self) -> Result<Faults, NetlinkError> {
        self.due = false;
        let outcome = self.apply_all();
        if outcome.is_err() {
            self.compare();
        }
        outcome
    }

    fn apply_all(&mut self) -> Result<Faults, NetlinkError> {
        self.survey()?;
        let wants_entries = self.wanted(Kind::Vxlan4) || self.wanted(Kind::Vxlan6);
        if wants_entries && self.monitor.is_none() {
            // Before the first entry is read or written.
            self.monitor = Some(Monitor::open(&[Group::Neighbours])?);
        }
        let mut faults = Faults::new();
        for kind in Kind::ALL {
            let wanted = self.wanted(kind).then(|| self.mtu(kind));
            let carrier = self.carrying(kind).map(|carrier| carrier.link);
            let device = kind.pick_mut(&mut self.devices);
            match wanted {
                Some(Ok(mtu)) => {
                    device.want(&mut self.netlink, &self.facts, &self.settings, (mtu, carrier))?;
                }
                Some(Err(why)) => device.refuse(why),
                None => {}
            }
            self.changed |= device.take_changed();
            faults.extend(device.faults());
            if setting(&self.settings, kind) == Tunnelling::Off && self.facts.is_asked_for(kind) {
                faults.push(format!(
                    "{}: an IP pool asks for it, and the settings switch it off: what would go through it goes nowhere",
                    kind.encapsulation()
                ));
            }
        }
        self.order_probes();
        self.take_events()?;
        Ok(faults)
    }

    /// Has the checksums of devices tried that are to be, and no others any more.
    fn order_probes(&mut self) {
        for (kind, told) in Kind::ALL.into_iter().zip(&mut self.told) {
            let [ipip, vxlan4, vxlan6] = &self.devices;
            let subject = kind.pick(ipip, vxlan4, vxlan6).subject(&self.facts);
            if *told == subject {
                continue;
            }
            if self.prober.is_none() {
                match Prober::start(self.patience) {
                    Ok(prober) => self.prober = Some(prober),
                    Err(error) => {
                        tracing::warn!(
                            error = describe(&error),
                            "checksums through tunnels cannot be tried now: there is no thread for it"
                        );
                        return;
                    }
                }
            }
            if let Some(prober) = &mut self.prober {
                prober.order(kind, subject.clone());
                *told = subject;
            }
        }
    }

    /// Takes in what was found of devices' checksums.
    fn take_findings(&mut self) {
        for (kind, footing, word) in self.prober.iter_mut().flat_map(Prober::reports) {
            let device = kind.pick_mut(&mut self.devices);
            self.due |= device.probed(footing, word);
        }
    }

    /// How many devices compute checksums themselves though no operator told so.
    pub(crate) fn off_unasked(&self) -> usize {
        self.devices
            .iter()
            .filter(|device| device.is_off_unasked())
            .count()
    }

    /// The device that has the node's own address.
    fn carrier(&mut self, is_ipv4: bool) -> Result<Option<Link>, NetlinkError> {
        let Some(address): Option<IpAddr> = self.facts.own_address(is_ipv4) else {
            return Ok(None);
        };
        carrier::device_of(&mut self.netlink, address)
    }

    /// When [`Tunnels::retire`] has something to do, in milliseconds.
    pub(crate) fn next_retirement(&self) -> Option<u64> {
        self.devices.iter().filter_map(Device::ends_at).min()
    }

    /// Removes devices that have lingered long enough.
    ///
    /// # Errors
    /// The kernel could not be asked, or refused.
    pub(crate) fn retire(&mut self, now: u64) -> Result<(), NetlinkError> {
        for device in &mut self.devices {
            if device.ends_at().is_some_and(|end| end <= now) {
                device.end(&mut self.netlink, &self.facts, &self.settings)?;
                self.due = true;
            }
        }
        Ok(())
    }

    /// Takes in what the kernel says of the devices' entries, and what was found of their checksums.
    pub(crate) fn take_events(&mut self) -> Result<(), NetlinkError> {
        self.take_findings();
        let Some(monitor) = &mut self.monitor else {
            return Ok(());
        };
        let events = match monitor.read() {
            Ok(events) => events,
            Err(error) => {
                self.monitor = None;
                self.compare();
                tracing::warn!(
                    error = describe(&error),
                    "news of tunnels' entries is lost; they are compared"
                );
                return Ok(());
            }
        };
        for event in events {
            let news = match event {
                Event::Forwarding(change, entry) => PeerNews::Forwarding(change, entry),
                Event::Neighbour(change, entry) => PeerNews::Neighbour(change, entry),
                Event::Resync => {
                    self.compare();
                    continue;
                }
                Event::Link(..) | Event::Address(..) | Event::Route(..) | Event::RouteReplaced(_) => continue,
            };
            for device in &mut self.devices {
                self.due |= device.hears(&news);
            }
        }
        Ok(())
    }

    /// Whether a device was made or changed since the last time.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// How many lists of the kernel's were read so far.
    pub(crate) fn lists(&self) -> u64 {
        self.netlink.lists()
    }

    /// The descriptors to poll, if there are any.
    pub(crate) fn event_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let monitor = self.monitor.as_ref().map(AsFd::as_fd);
        let prober = self.prober.as_ref().map(AsFd::as_fd);
        monitor.into_iter().chain(prober)
    }
}

fn setting(settings: &TunnelSettings, kind: Kind) -> Tunnelling {
    match kind {
        Kind::Ipip => settings.ipip,
        Kind::Vxlan4 | Kind::Vxlan6 => settings.vxlan,
    }
}
