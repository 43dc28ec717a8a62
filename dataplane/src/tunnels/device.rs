//! One tunnel device: made when it is wanted, mended, and removed some time after nobody wants it any more.

use super::Kind;
use super::facts::Facts;
use super::offload::Offload;
use super::peers::{Peers, mac_of};
use super::probe::{Footing, Subject, Word};
use super::settings::TunnelSettings;
use dataplane_api::ClusterNode;
use dataplane_netlink::links::Link;
use dataplane_netlink::tunnels::ipip::{self, IPIP_DEVICE, IpipSpec};
use dataplane_netlink::tunnels::peers::PeerNews;
use dataplane_netlink::tunnels::vxlan::{self, Family, VxlanIdentity, VxlanSpec};
use dataplane_netlink::tunnels::{Ensured, TunnelError};
use dataplane_netlink::{InterfaceName, NetlinkError, Rtnetlink, addresses};
use std::net::IpAddr;

/// How long a device stays that nobody wants any more, in milliseconds: the other nodes hear of a change at other times,
/// and what they still send through the tunnel is to arrive.
const LINGERING: u64 = 10_000;

/// Of how many other nodes one may be asked about checksums. A cluster's first nodes are not everybody's: each node begins
/// with those behind itself.
const MOST_PEERS: usize = 256;

/// Whether a device is there.
#[derive(Debug, PartialEq)]
enum State {
    /// Not known to be: nobody wanted it in this life.
    Unknown,
    /// Nobody wants it, and it is not there by us.
    Absent,
    /// It is as it is wanted.
    InForce(Link),
    /// It is wanted and cannot be had.
    Refused,
    /// Nobody wants it any more; it ends at this time, in milliseconds.
    Lingering(u64),
}

/// One device.
#[derive(Debug)]
pub(super) struct Device {
    kind: Kind,
    state: State,
    /// Whether the kernel may have it otherwise than it was made.
    look: bool,
    /// How it was made last.
    made: Option<(u32, Option<IpAddr>, Option<IpAddr>)>,
    fault: Option<String>,
    /// Whether it was made or changed, so that routes through it may have gone.
    changed: bool,
    offload: Offload,
    pub(super) peers: Peers,
}

impl Device {
    pub(super) fn new(kind: Kind) -> Self {
        Device {
            kind,
            state: State::Unknown,
            look: true,
            made: None,
            fault: None,
            changed: false,
            offload: Offload::default(),
            peers: Peers::new(kind),
        }
    }

    /// Has the next pass look at it.
    pub(super) fn look(&mut self) {
        self.look = true;
    }

    pub(super) fn has_fault(&self) -> bool {
        self.fault.is_some() || self.peers.has_fault()
    }

    pub(super) fn faults(&self) -> impl Iterator<Item = String> {
        self.fault.iter().cloned().chain(self.peers.faults())
    }

    /// Whether it is a device that has to be told of other nodes.
    pub(super) fn has_peers(&self) -> bool {
        self.kind != Kind::Ipip && matches!(self.state, State::InForce(_))
    }

    /// Whether packets may arrive through it.
    pub(super) fn is_there(&self) -> bool {
        matches!(self.state, State::InForce(_) | State::Lingering(_))
    }

    /// Its name, if packets may be sent through it.
    pub(super) fn ready(&self) -> Option<&InterfaceName> {
        match &self.state {
            State::InForce(link) => Some(&link.name),
            _ => None,
        }
    }

    /// Whether it was made or changed since the last time.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    pub(super) fn ends_at(&self) -> Option<u64> {
        match self.state {
            State::Lingering(end) => Some(end),
            _ => None,
        }
    }

    /// It is wanted and cannot be.
    pub(super) fn refuse(&mut self, why: String) {
        self.fault = Some(why);
        self.state = State::Refused;
        self.made = None;
    }

    /// Brings it to what is wanted of it, and its entries too.
    pub(super) fn want(
        &mut self,
        netlink: &mut Rtnetlink,
        facts: &Facts,
        settings: &TunnelSettings,
        (mtu, carrier): (u32, Option<u32>),
    ) -> Result<(), NetlinkError> {
        let Some(here) = facts.here() else {
            return Ok(());
        };
        let local = here.address(self.kind.is_ipv4());
        let inside = self.address_of(here);
        let wanted = Some((mtu, local, inside));
        let as_wanted = matches!(self.state, State::InForce(_)) && self.made == wanted;
        if !std::mem::take(&mut self.look) && as_wanted {
            return self.settle_peers(netlink, facts);
        }
        let ensured = match self.kind {
            Kind::Ipip => ensure_ipip(netlink, mtu, inside),
            Kind::Vxlan4 | Kind::Vxlan6 => {
                let Some(identity) = identity(self.kind, facts, settings) else {
                    return Ok(());
                };
                let Some(local) = local else { return Ok(()) };
                ensure_vxlan(netlink, identity, (mtu, local, inside))
            }
        };
        let ensured = ensured.and_then(|ensured| {
            self.offload
                .settle(&ensured.link, carrier, settings.checksum_offload)?;
            Ok(ensured)
        });
        match ensured {
            Ok(Ensured { link, steps }) => {
                for step in &steps {
                    tracing::info!(device = %link.name, %step, "tunnel device");
                }
                let is_same = matches!(&self.state, State::InForce(before) if before.index == link.index);
                if !is_same || !steps.is_empty() {
                    self.peers.compare();
                    self.changed = true;
                }
                self.state = State::InForce(link);
                self.made = wanted;
                self.fault = None;
            }
            Err(TunnelError::Netlink(error)) if error.errno().is_none() => return Err(error),
            Err(error) => self.refuse(crate::interfaces::describe(&error)),
        }
        self.settle_peers(netlink, facts)
    }

    fn settle_peers(&mut self, netlink: &mut Rtnetlink, facts: &Facts) -> Result<(), NetlinkError> {
        match &self.state {
            State::InForce(link) if self.kind != Kind::Ipip => self.peers.settle(netlink, link, facts),
            _ => Ok(()),
        }
    }

    /// Nobody wants it any more, or nobody did.
    pub(super) fn linger(
        &mut self,
        netlink: &mut Rtnetlink,
        facts: &Facts,
        settings: &TunnelSettings,
        now: u64,
    ) -> Result<(), NetlinkError> {
        self.fault = None;
        let was_ours = match self.state {
            State::InForce(_) | State::Refused => true,
            State::Unknown => self.is_of_an_earlier_life(netlink, facts, settings)?,
            State::Absent | State::Lingering(_) => return Ok(()),
        };
        self.made = None;
        self.state = if was_ours {
            State::Lingering(now.saturating_add(LINGERING))
        } else {
            State::Absent
        };
        Ok(())
    }

    /// Whether an earlier life left it. The kernel's own `tunl0` is everybody's: it was ours if it has an address of a pool.
    fn is_of_an_earlier_life(
        &self,
        netlink: &mut Rtnetlink,
        facts: &Facts,
        settings: &TunnelSettings,
    ) -> Result<bool, NetlinkError> {
        match self.kind {
            Kind::Ipip => {
                let Some(name) = ipip_name() else { return Ok(false) };
                let Some(observed) = ipip::observe(netlink, &name)? else {
                    return Ok(false);
                };
                let all = addresses::list_of(netlink, &observed.link)?;
                Ok(all.iter().any(|address| facts.is_of_pool(address.net.addr())))
            }
            Kind::Vxlan4 | Kind::Vxlan6 => match identity(self.kind, facts, settings) {
                Some(identity) => Ok(vxlan::observe(netlink, &identity.name)?.is_some()),
                None => Ok(false),
            },
        }
    }

    /// Removes it.
    pub(super) fn end(
        &mut self,
        netlink: &mut Rtnetlink,
        facts: &Facts,
        settings: &TunnelSettings,
    ) -> Result<(), NetlinkError> {
        let removed = match self.kind {
            Kind::Ipip => match ipip_name() {
                Some(name) => ipip::release(netlink, &name)?,
                None => false,
            },
            Kind::Vxlan4 | Kind::Vxlan6 => match identity(self.kind, facts, settings) {
                Some(identity) => vxlan::remove(netlink, &identity)?,
                None => false,
            },
        };
        if removed {
            tracing::info!(encapsulation = %self.kind.encapsulation(), "no pool asks for this tunnel any more; it is gone");
        }
        self.state = State::Absent;
        self.offload = Offload::default();
        self.peers.forget();
        Ok(())
    }

    /// A node's address in tunnels of this kind.
    fn address_of(&self, node: &ClusterNode) -> Option<IpAddr> {
        match self.kind {
            Kind::Ipip => node.ipip.map(IpAddr::V4),
            Kind::Vxlan4 | Kind::Vxlan6 => node.vxlan(self.kind.is_ipv4()),
        }
    }

    /// What has to be known to try its checksums, as long as these are to be tried.
    pub(super) fn subject(&self, facts: &Facts) -> Option<Subject> {
        let (footing, offload, switches) = self.offload.trying()?;
        let State::InForce(link) = &self.state else {
            return None;
        };
        Some(Subject {
            device: link.name.clone(),
            footing,
            source: self.address_of(facts.here()?)?,
            peers: facts
                .after_here()
                .filter_map(|node| self.address_of(node))
                .take(MOST_PEERS)
                .collect(),
            offload,
            switches,
        })
    }

    /// Takes in what the probe says; true where something is to be done about it.
    pub(super) fn probed(&mut self, footing: Footing, word: Word) -> bool {
        let State::InForce(link) = &self.state else {
            return false;
        };
        let is_to_do = self.offload.hears(link, footing, word);
        self.look |= is_to_do;
        is_to_do
    }

    /// Whether it computes checksums itself though no operator told so.
    pub(super) fn is_off_unasked(&self) -> bool {
        self.is_there() && self.offload.is_off_unasked()
    }

    /// Takes in news of entries; says whether something is to be done about it.
    pub(super) fn hears(&mut self, news: &PeerNews) -> bool {
        match &self.state {
            State::InForce(link) if link.index == news.link() => self.peers.hears(news),
            _ => false,
        }
    }
}

fn ipip_name() -> Option<InterfaceName> {
    InterfaceName::new(IPIP_DEVICE).ok()
}

/// What this node's VXLAN device is called and known by.
fn identity(kind: Kind, facts: &Facts, settings: &TunnelSettings) -> Option<VxlanIdentity> {
    let here = facts.here()?;
    let family = family(kind);
    let mut identity = VxlanIdentity::of_node(&here.name, family).ok()?;
    identity.vni = settings.vxlan_vni;
    identity.port = settings.vxlan_port;
    identity.mac = mac_of(here, family);
    Some(identity)
}

pub(super) fn family(kind: Kind) -> Family {
    if kind.is_ipv4() { Family::V4 } else { Family::V6 }
}

fn ensure_ipip(netlink: &mut Rtnetlink, mtu: u32, inside: Option<IpAddr>) -> Result<Ensured, TunnelError> {
    let name = InterfaceName::new(IPIP_DEVICE).map_err(|invalid| TunnelError::Foreign {
        device: IPIP_DEVICE.to_owned(),
        reason: invalid.to_string(),
    })?;
    let address = match inside {
        Some(IpAddr::V4(address)) => Some(address),
        _ => None,
    };
    ipip::ensure(netlink, &IpipSpec { name, mtu, address })
}

fn ensure_vxlan(
    netlink: &mut Rtnetlink,
    identity: VxlanIdentity,
    (mtu, local, address): (u32, IpAddr, Option<IpAddr>),
) -> Result<Ensured, TunnelError> {
    vxlan::ensure(
        netlink,
        &VxlanSpec {
            identity,
            local,
            carrier: None,
            mtu,
            address,
        },
    )
}
