//! Asks the API server what a default pool's range has to agree with: the cluster's ranges, and the addresses in use.

use super::range::Facts;
use crate::cluster::kubeadm;
use crate::cluster::reach::Reach;
use ipnet::IpNet;
use policy_model_datastore::DatastoreError;
use std::net::IpAddr;

/// Asks.
///
/// # Errors
/// The API server does not answer, or does not let us read nodes.
pub(crate) async fn gather(reach: &Reach, service_host: Option<&str>) -> Result<Facts, DatastoreError> {
    let mut facts = Facts::default();
    for node in reach.nodes().await? {
        let name = node.metadata.name.unwrap_or_default();
        let spec = node.spec.unwrap_or_default();
        let ranges = spec
            .pod_cidrs
            .unwrap_or_default()
            .into_iter()
            .chain(spec.pod_cidr);
        for range in ranges.filter_map(|text| text.parse::<IpNet>().ok()) {
            if !facts.of_nodes.contains(&range) {
                facts.of_nodes.push(range);
            }
        }
        let addresses = node
            .status
            .and_then(|status| status.addresses)
            .unwrap_or_default();
        for address in addresses.iter().filter_map(|a| a.address.parse::<IpAddr>().ok()) {
            facts.foreign.push((address, format!("node {name}")));
        }
    }
    if let Some(address) = service_host.and_then(|text| text.parse().ok()) {
        facts
            .foreign
            .push((address, "the API server as pods reach it".to_owned()));
    }
    facts.stated = kubeadm::ranges(reach).await?.pods;
    Ok(facts)
}
