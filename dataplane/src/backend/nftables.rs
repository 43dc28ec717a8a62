//! The nftables driver as the passes ask it.

use super::{Applied, Opening};
use crate::settings::{DataplaneSettings, FlowsOnPolicyChange};
use dataplane_netlink::Patience;
use dataplane_nftables::layout::{LayoutSettings, Packet, Way, simulate};
use dataplane_nftables::{Driver, DriverError, DriverSettings};
use dataplane_tables::Tables;
use std::collections::BTreeMap;
use std::net::IpAddr;

impl From<dataplane_nftables::Applied> for Applied {
    fn from(applied: dataplane_nftables::Applied) -> Self {
        Applied {
            transactions: applied.transactions,
            messages: applied.messages,
            mended: applied.mended,
        }
    }
}

pub(super) fn open(settings: &DataplaneSettings, patience: Patience) -> Result<Driver, DriverError> {
    let layout = LayoutSettings {
        interface_prefixes: settings.interface_prefixes(),
        endpoint_to_host: settings.endpoint_to_host,
        refusal: settings.refusal,
        refuse_midstream: settings.flows_on_policy_change == FlowsOnPolicyChange::Recheck,
        drop_invalid: settings.drop_invalid,
        intervals_in_place: settings.intervals_in_place,
        source_spoofing: settings.source_spoofing,
        outgoing: settings.outgoing,
        vxlan_port: settings.tunnels.vxlan_port,
        vxlan_vni: settings.tunnels.vxlan_vni.number(),
        tunnels_from_workloads: settings.tunnels_from_workloads,
    };
    let mut driver = Driver::open(DriverSettings {
        layout,
        owned: settings.owned_table,
    })?;
    driver.set_patience(patience.0)?;
    Ok(driver)
}

pub(super) fn interfaces_by_address(driver: &Driver) -> BTreeMap<IpAddr, &str> {
    let mut out = BTreeMap::new();
    for (interface, endpoint) in &driver.planner().state().endpoints {
        out.extend(endpoint.addresses.iter().map(|a| (*a, interface.as_str())));
    }
    out
}

pub(super) fn lets_begin(driver: &Driver, tables: &Tables, opening: &Opening<'_>) -> bool {
    let planner = driver.planner();
    let identity = |a| tables.peers().exact(a).and_then(|c| planner.identity(c));
    let is_workload = |i: &str| planner.state().endpoints.contains_key(i);
    let packet = Packet {
        source: opening.source,
        destination: opening.destination,
        protocol: opening.protocol,
        x: opening.x,
        y: opening.y,
    };
    let way = Way {
        from: opening.from,
        to: opening.to,
    };
    simulate(planner.state(), identity, is_workload, &packet, way)
}
