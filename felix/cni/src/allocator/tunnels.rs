//! Keeps the addresses of the node's tunnel devices: follows pools, blocks and the node's labels, and carries out what
//! `tunnel_addresses` decides.
//!
//! It takes its turn with everything else that asks about the node's blocks. The blocks alone say what is held, so there
//! is nothing to remember over a restart, and whatever dies between two steps is found by the next look.

use super::{Allocator, Holder, as_pool, begin::as_block, locked};
use crate::ipam::RequestError;
use crate::tunnel_addresses::{Plan, Step, Tunnel, TunnelAddresses, demand, held, plan};
use policy_model::Kind;
use policy_model_ipam::Family;
use policy_model_ipam::engine::{AutoAssign, ReleaseAddresses, Request, Target};
use policy_model_ipam::pool::{PoolRef, Use};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Pause after a first failure; it doubles up to the longest.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// Longest pause between two tries while nothing that decides changes: an address that becomes free tells nobody.
const LONGEST_RETRY: Duration = Duration::from_secs(10);
/// Pause between two looks while the datastore is away.
const LOOK: Duration = Duration::from_secs(1);
/// Most steps that are made one after the other without a pause.
const MOST_STEPS: usize = 30;

type Plans = [(Tunnel, Plan); 3];

/// Why a tunnel has not the address that it should.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Trouble {
    /// No pool may give one.
    Lack(String),
    /// None is free.
    Refused(String),
    /// The datastore did not do its part.
    Store(String),
}

impl Trouble {
    fn tell(&self, tunnel: Tunnel) {
        match self {
            Trouble::Lack(reason) => {
                tracing::warn!(reason, "the {tunnel} tunnel of this node has no right address")
            }
            Trouble::Refused(reason) => tracing::warn!(
                reason,
                "the {tunnel} tunnel of this node gets no address: add an IP pool with the same mode, or make room in those \
                 that there are (manx ipam show says what holds it); it is tried again"
            ),
            Trouble::Store(reason) => tracing::warn!(
                reason,
                "the address of the {tunnel} tunnel cannot be written to the datastore now; it is tried again"
            ),
        }
    }
}

impl From<RequestError> for Trouble {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Refused(error) => Trouble::Refused(error.to_string()),
            RequestError::Store(error) => Trouble::Store(crate::interface::text(&error)),
        }
    }
}

type Troubles = BTreeMap<Tunnel, Trouble>;

impl Allocator {
    /// Follows the addresses of the node's tunnel devices; nothing before they are known, and where they are not kept.
    pub(crate) fn tunnel_addresses(&self) -> watch::Receiver<Option<TunnelAddresses>> {
        self.tunnels.subscribe()
    }

    /// Works until it is dropped, where the node's tunnels have addresses of the pools.
    pub(crate) async fn keep_tunnels(&self) {
        if !self.parts.keeps_tunnels || self.begun.subscribe().wait_for(|yes| *yes).await.is_err() {
            return;
        }
        let mut ground = self.view().ground_changes();
        let mut said = Troubles::new();
        let mut failures = 0u32;
        loop {
            ground.borrow_and_update();
            let settled = self.settle_tunnels().await;
            let pause = match &settled {
                // What is not known well is not acted on.
                None => Some(LOOK),
                Some(troubles) => {
                    note(&mut said, troubles);
                    failures = if troubles.is_empty() {
                        0
                    } else {
                        failures.saturating_add(1)
                    };
                    let pause = FIRST_RETRY
                        .saturating_mul(1 << failures.min(8))
                        .min(LONGEST_RETRY);
                    (!troubles.is_empty()).then_some(pause)
                }
            };
            let until = pause.map(|pause| Instant::now() + pause);
            let tried = self.tunnel_plans();
            loop {
                tokio::select! {
                    () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => break,
                    Ok(()) = ground.changed() => {
                        // Pods come and go all the time, and what failed is not tried again because of each.
                        if until.is_none() || self.tunnel_plans() != tried {
                            break;
                        }
                    }
                    else => return,
                }
            }
        }
    }

    /// Makes all steps that can be made, and says what is left undone; nothing while too little is known.
    async fn settle_tunnels(&self) -> Option<Troubles> {
        let mut troubles = Troubles::new();
        for _ in 0..MOST_STEPS {
            let plans = self.tunnel_plans()?;
            self.publish_tunnels(&plans);
            let mut next = None;
            for (tunnel, plan) in plans {
                if let Some(lack) = plan.lack {
                    troubles.insert(tunnel, Trouble::Lack(lack));
                } else if let (Some(step), false, None) = (plan.step, troubles.contains_key(&tunnel), &next) {
                    next = Some((tunnel, step));
                }
            }
            let Some((tunnel, step)) = next else {
                return Some(troubles);
            };
            if let Err(error) = self.carry_out(tunnel, step).await {
                troubles.insert(tunnel, error.into());
            }
        }
        // Somebody undoes them.
        None
    }

    /// How the tunnels' addresses stand, as far as is known; nothing while that may be out of date, and while the cluster
    /// does not have the node: then nobody sends anything to it, and what it had is given back by who removed it.
    fn tunnel_plans(&self) -> Option<Plans> {
        let view = self.view();
        view.current(Kind::IPPool)?;
        let labels = view.stated_node_labels()?;
        let (pools, blocks) = (self.pools(), view.own_blocks());
        Some(Tunnel::ALL.map(|tunnel| {
            let blocks = blocks.iter().filter_map(|resource| as_block(resource));
            let held = held(&tunnel.handle(self.node()), blocks);
            let demand = demand(tunnel, pools.iter().filter_map(as_pool), &labels);
            (tunnel, plan(tunnel, &held, &demand))
        }))
    }

    fn publish_tunnels(&self, plans: &Plans) {
        let mut now = TunnelAddresses::default();
        for (tunnel, plan) in plans {
            match (tunnel, plan.address) {
                (Tunnel::Ipip, Some(IpAddr::V4(address))) => now.ipip = Some(address),
                (Tunnel::VxlanV4, Some(IpAddr::V4(address))) => now.vxlan_v4 = Some(address),
                (Tunnel::VxlanV6, Some(IpAddr::V6(address))) => now.vxlan_v6 = Some(address),
                (Tunnel::Ipip | Tunnel::VxlanV4 | Tunnel::VxlanV6, _) => {}
            }
        }
        self.tunnels.send_if_modified(|known| {
            let is_new = *known != Some(now);
            *known = Some(now);
            is_new
        });
    }

    async fn carry_out(&self, tunnel: Tunnel, step: Step) -> Result<(), RequestError> {
        let _turn = self.turn.lock().await;
        self.write_behind().await?;
        match step {
            Step::Take { pools, held } => self.take_for_tunnel(tunnel, pools, held).await,
            Step::Release(targets) => self.release_of_tunnel(tunnel, targets).await,
        }
    }

    /// The caller has the turn, and nothing is left to be recorded.
    async fn take_for_tunnel(
        &self,
        tunnel: Tunnel,
        pools: Vec<PoolRef>,
        held: usize,
    ) -> Result<(), RequestError> {
        let holder = Holder {
            handle: tunnel.handle(self.node()),
            attribute: tunnel.attribute(self.node()),
        };
        // What the node has set aside need not be looked for, and where it has set all of its blocks aside nothing else is
        // to be had but a whole block more.
        if let Some(address) = self.take_reserved(tunnel, &pools) {
            let outcome = self.assign_named(&holder, &[address], vec![address]).await;
            self.publish_kept();
            self.work.notify_one();
            match outcome {
                Ok(_) => {
                    tracing::info!(%address, "the {tunnel} tunnel of this node has an address");
                    return Ok(());
                }
                Err(RequestError::Refused(error)) => {
                    tracing::debug!(%address, %error, "a reserved address is not to be had for a tunnel");
                }
                Err(error) => return Err(error),
            }
        }
        let (ipv4, ipv6) = match tunnel.family() {
            Family::V4 => (held + 1, 0),
            Family::V6 => (0, held + 1),
        };
        let request = AutoAssign {
            ipv4,
            ipv6,
            attributes: holder.attribute.secondary,
            ipv4_pools: if ipv4 > 0 { pools.clone() } else { Vec::new() },
            ipv6_pools: if ipv6 > 0 { pools } else { Vec::new() },
            intended_use: Use::Tunnel,
            node_labels: self.view().node_labels(),
            takes_abandoned: self.parts.takes_abandoned,
            ..AutoAssign::new(self.node(), &holder.handle)
        };
        self.request(Request::AutoAssign(request)).await?;
        tracing::info!("the {tunnel} tunnel of this node has an address");
        Ok(())
    }

    /// Takes an unused address from the reserve that a tunnel may have: it is of one of these pools, and nobody reserved it
    /// for something else.
    fn take_reserved(&self, tunnel: Tunnel, pools: &[PoolRef]) -> Option<IpAddr> {
        let all = self.pools();
        let is_asked = |name: &str| {
            pools
                .iter()
                .any(|p| matches!(p, PoolRef::Name(asked) if asked == name))
        };
        let ranges: Vec<_> = all
            .iter()
            .filter_map(as_pool)
            .filter(|pool| is_asked(&pool.metadata.name))
            .map(|pool| pool.spec.cidr)
            .collect();
        let kept_back = self.view().reservations();
        let is_usable = |address: IpAddr| {
            Family::of_address(address) == tunnel.family()
                && !kept_back.contains(address)
                && ranges.iter().any(|range| range.contains(&address))
        };
        let is_clean = self.is_clean();
        let mut reserve = locked(&self.reserve);
        let clean = reserve.take(|address| is_clean(&address) && is_usable(address));
        clean.or_else(|| reserve.take(is_usable))
    }

    /// Gives back what is not needed any more. The caller has the turn, and nothing is left to be recorded.
    async fn release_of_tunnel(&self, tunnel: Tunnel, targets: Vec<Target>) -> Result<(), RequestError> {
        let addresses: Vec<IpAddr> = targets.iter().map(|target| target.address).collect();
        let request = ReleaseAddresses { targets };
        self.request(Request::ReleaseAddresses(request)).await?;
        tracing::info!(?addresses, "the {tunnel} tunnel of this node gave addresses back");
        Ok(())
    }
}

/// Says each trouble once, and again only after it was gone.
fn note(said: &mut Troubles, troubles: &Troubles) {
    let kind = std::mem::discriminant;
    said.retain(|tunnel, before| troubles.get(tunnel).map(kind) == Some(kind(before)));
    for (tunnel, trouble) in troubles {
        if !said.contains_key(tunnel) {
            trouble.tell(*tunnel);
            said.insert(*tunnel, trouble.clone());
        }
    }
}
