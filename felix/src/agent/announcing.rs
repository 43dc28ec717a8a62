//! Says on the node's own object by which addresses it is reached, and that its network is there once it is.
//!
//! Two nodes with one address would take each other's pods' traffic, so a node whose address another one has says
//! nothing and is not ready.

use super::chain;
use crate::health::{HealthAggregator, Probe, Report, Reporter, Standing};
use crate::node_address::{self, Wanted};
use crate::uninstall::REPORTER;
use ipnet::IpNet;
use policy_model::{Key, Kind, NodeSpec, Resource};
use policy_model_datastore::{Datastore, DatastoreError, Selection};
use policy_model_datastore_kube::KubeStore;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How often the addresses are looked at anew.
const LOOK: Duration = Duration::from_secs(60);
/// Pause before something that failed is tried again, and between two looks whether the node is ready.
const RETRY: Duration = Duration::from_secs(2);
/// Pause between two looks whether everything is in force.
const READY_LOOK: Duration = Duration::from_millis(100);

/// What is wanted of a node's announcement.
#[derive(Debug)]
pub(super) struct Announcement {
    node: String,
    ipv4: Wanted,
    ipv6: Wanted,
    /// Whether other nodes' addresses are looked at.
    checks_others: bool,
}

impl Announcement {
    /// Reads what the environment says, by Calico's names.
    ///
    /// # Errors
    /// The text names the variable, what it says and what it should.
    pub(super) fn from_environment(
        node: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, node_address::InvalidWish> {
        Ok(Announcement {
            node: node.to_owned(),
            ipv4: Wanted::read(true, &variable)?,
            ipv6: Wanted::read(false, &variable)?,
            checks_others: variable("DISABLE_NODE_IP_CHECK").is_none_or(|v| v != "true"),
        })
    }

    /// Keeps the announcement true, for good.
    pub(super) async fn keep(self, store: KubeStore, reporter: Reporter, health: HealthAggregator) {
        let mut said = String::new();
        loop {
            let pause = match self.look(&store).await {
                Ok(annotations) => {
                    reporter.report(Report::ready());
                    said.clear();
                    match self.say(&store, &annotations, &health).await {
                        Ok(()) => LOOK,
                        Err(error) => {
                            tracing::warn!(error = chain(&error), "the node's object cannot be kept true");
                            RETRY
                        }
                    }
                }
                Err(why) => {
                    if said != why {
                        tracing::error!(reason = why, "the node's addresses cannot be announced");
                        said.clone_from(&why);
                    }
                    reporter.report(Report::not_ready(why));
                    RETRY
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Says the addresses as soon as it is known that the network is to stay: tunnels, without which a node is not ready,
    /// need them. That the network is there is said when it is.
    async fn say(
        &self,
        store: &KubeStore,
        annotations: &BTreeMap<String, String>,
        health: &HealthAggregator,
    ) -> Result<(), DatastoreError> {
        while is_to_go_for_all_that_is_known(health) {
            tokio::time::sleep(READY_LOOK).await;
        }
        let notes = annotations.iter();
        let notes = notes.map(|(name, value)| (name.clone(), Some(value.clone())));
        store.annotate_node(&self.node, &notes.collect()).await?;
        while !health.passes(Probe::Readiness, Instant::now()) {
            tokio::time::sleep(READY_LOOK).await;
        }
        store.announce_node(&self.node, annotations).await
    }

    /// The annotations that say the node's addresses.
    async fn look(&self, store: &KubeStore) -> Result<BTreeMap<String, String>, String> {
        let key = Key::global(Kind::Node, self.node.as_str());
        let found = store.get(&key).await.map_err(|error| chain(&error))?;
        let found = found.ok_or_else(|| format!("there is no Node {}", self.node))?;
        let Resource::Node(own) = found.resource.as_ref() else {
            return Err(format!("{key} is something else"));
        };
        let addresses = self.addresses(&own.spec).await?;
        if self.checks_others {
            self.check_others(store, &addresses).await?;
        }
        let name = |net: &IpNet| {
            if net.addr().is_ipv4() {
                "IPv4Address"
            } else {
                "IPv6Address"
            }
        };
        Ok(addresses
            .iter()
            .map(|net| (format!("projectcalico.org/{}", name(net)), net.to_string()))
            .collect())
    }

    async fn addresses(&self, own: &NodeSpec) -> Result<Vec<IpNet>, String> {
        let internal: Vec<IpAddr> = own
            .addresses
            .iter()
            .filter(|address| address.address_type == "InternalIP")
            .map(|address| address.address)
            .collect();
        let wanted = [(self.ipv4.clone(), true), (self.ipv6.clone(), false)];
        // Listing interfaces and resolving a name both wait.
        let chosen = tokio::task::spawn_blocking(move || {
            let observed = node_address::observe().map_err(|error| chain(&error))?;
            let choose = |(wanted, is_ipv4): &(Wanted, bool)| {
                let towards = |host: &str| node_address::source_towards(host, *is_ipv4);
                node_address::choose(wanted, *is_ipv4, &observed, &internal, towards)
            };
            Ok::<_, String>(wanted.each_ref().map(choose))
        });
        let chosen = chosen.await.map_err(|error| error.to_string())??;
        let (mut addresses, mut missing) = (Vec::new(), Vec::new());
        for choice in chosen {
            match choice {
                Ok(net) => addresses.extend(net),
                Err(error) => missing.push(error.to_string()),
            }
        }
        // A cluster of one family has no addresses of the other.
        if addresses.is_empty() && !missing.is_empty() {
            return Err(missing.join("; "));
        }
        Ok(addresses)
    }

    async fn check_others(&self, store: &KubeStore, addresses: &[IpNet]) -> Result<(), String> {
        let nodes = store.list(Selection::kinds([Kind::Node])).await;
        for item in nodes.map_err(|error| chain(&error))?.items {
            let Resource::Node(other) = item.resource.as_ref() else {
                continue;
            };
            let others = other.spec.all_addresses();
            let taken = addresses.iter().find(|net| others.contains(&net.addr()));
            if let Some(net) = taken.filter(|_| other.metadata.name != self.node) {
                return Err(format!(
                    "node {} has the address {} too; each node needs its own: mend it, or set DISABLE_NODE_IP_CHECK \
                     to true if you know better",
                    other.metadata.name,
                    net.addr()
                ));
            }
        }
        Ok(())
    }
}

/// Whether an order to take everything off the node is in force, or may be for all that is known.
fn is_to_go_for_all_that_is_known(health: &HealthAggregator) -> bool {
    let states = health.states(Instant::now());
    let fails = |standing: &Standing| matches!(standing, Standing::Fails { .. });
    states
        .iter()
        .any(|state| state.name == REPORTER && fails(&state.readiness))
}
