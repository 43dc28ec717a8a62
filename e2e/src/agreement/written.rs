//! What the lowered tables say, read by ourselves: the simulator of whichever driver holds policy.

use crate::packet::Probe;
use dataplane::{Dataplane, RulesDriver};
use dataplane_iptables::layout as iptables;
use dataplane_nftables::layout as nftables;

/// How the names of workloads' interfaces begin.
const WORKLOAD: &str = "cali";
/// An interface that is no workload's.
const OUTSIDE: &str = "up0";

/// Whether the packet passes. `from` and `to` are the interfaces of workloads here, where it comes from one or goes to one.
pub(super) fn passes(dataplane: &Dataplane, probe: &Probe, from: Option<&str>, to: Option<&str>) -> bool {
    let Probe {
        source,
        destination,
        protocol,
        x,
        y,
        ..
    } = *probe;
    let tables = dataplane.tables();
    match dataplane.driver() {
        RulesDriver::Nftables(driver) => {
            let planner = driver.planner();
            let identity = |a| tables.peers().exact(a).and_then(|class| planner.identity(class));
            let packet = nftables::Packet {
                source,
                destination,
                protocol,
                x,
                y,
            };
            let is_workload = |interface: &str| interface.starts_with(WORKLOAD);
            nftables::simulate(
                planner.state(),
                identity,
                is_workload,
                &packet,
                nftables::Way { from, to },
            )
        }
        RulesDriver::Iptables(driver) => {
            let packet = iptables::Packet::first(source, destination, protocol, x, y);
            let way = iptables::Way {
                from: from.or(Some(OUTSIDE)),
                to: to.or(Some(OUTSIDE)),
            };
            iptables::simulate(&driver.planner().layout(tables), &packet, way)
        }
    }
}

/// Whether everything that something points at is there; says what is not.
pub(super) fn dangling(dataplane: &Dataplane) -> Result<(), String> {
    let driver = match dataplane.driver() {
        RulesDriver::Nftables(driver) => return nftables::dangling(driver.planner().state()),
        RulesDriver::Iptables(driver) => driver,
    };
    let contents = driver.planner().contents(dataplane.tables());
    for ((family, table), chains) in contents.chains {
        for (name, rules) in chains {
            for rule in rules.iter() {
                let absent_set = rule.sets().find(|set| !contents.sets.contains_key(*set));
                let absent_chain = rule.leads_to().filter(|to| !chains.contains_key(*to));
                if let Some(absent) = absent_set.or(absent_chain) {
                    return Err(format!(
                        "{family:?} {table:?}: {name} points at {absent}, which is not there"
                    ));
                }
            }
        }
    }
    Ok(())
}
