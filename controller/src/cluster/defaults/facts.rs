//! Asks the API server what a default pool's range has to agree with: the cluster's ranges, and the addresses in use.

use super::range::Facts;
use crate::cluster::reach::Reach;
use ipnet::IpNet;
use policy_model_datastore::DatastoreError;
use serde::Deserialize;
use std::net::IpAddr;

/// Where clusters made by kubeadm keep what they were made with.
const KUBEADM: (&str, &str, &str) = ("kube-system", "kubeadm-config", "ClusterConfiguration");

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
    let (namespace, name, entry) = KUBEADM;
    match reach.config_map_text(namespace, name, entry).await {
        Ok(text) => facts.stated = text.map(|text| stated(&text)).unwrap_or_default(),
        // A cluster that was not made by kubeadm has no such object, and its operator no reason to let us look for it.
        Err(DatastoreError::Permission { .. }) => {
            tracing::debug!(
                "the ConfigMap {namespace}/{name} may not be read; ranges are told from the nodes alone"
            );
        }
        Err(error) => return Err(error),
    }
    Ok(facts)
}

/// The ranges of pods that a kubeadm configuration states.
fn stated(text: &str) -> Vec<IpNet> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Configuration {
        networking: Networking,
    }
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Networking {
        pod_subnet: String,
    }
    let read: Configuration = match serde_norway::from_str(text) {
        Ok(read) => read,
        Err(error) => {
            tracing::warn!(%error, "kubeadm's configuration cannot be read; ranges are told from the nodes alone");
            return Vec::new();
        }
    };
    let ranges = read.networking.pod_subnet;
    ranges
        .split(',')
        .filter_map(|range| range.trim().parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubeadm_states_ranges_of_both_families() {
        let text = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nnetworking:\n  dnsDomain: \
                    cluster.local\n  podSubnet: 10.244.0.0/16, fd00:10:244::/56\n  serviceSubnet: 10.96.0.0/12\n";
        let ranges: Vec<String> = stated(text).iter().map(IpNet::to_string).collect();
        assert_eq!(ranges, ["10.244.0.0/16", "fd00:10:244::/56"]);
        assert!(stated("networking: {}").is_empty());
        assert!(stated("networking:\n  serviceSubnet: 10.96.0.0/12\n").is_empty());
        assert!(stated("- not\n- this").is_empty());
    }
}
