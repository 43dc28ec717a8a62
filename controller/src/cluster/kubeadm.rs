//! What kubeadm was told about the cluster's addresses, where kubeadm made the cluster.

use super::reach::Reach;
use ipnet::IpNet;
use policy_model_datastore::DatastoreError;
use serde::Deserialize;

/// Where clusters made by kubeadm keep what they were made with.
const PLACE: (&str, &str, &str) = ("kube-system", "kubeadm-config", "ClusterConfiguration");

/// The ranges that a kubeadm configuration states.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges {
    /// Of pods.
    pub(crate) pods: Vec<IpNet>,
    /// Of Services.
    pub(crate) services: Vec<IpNet>,
}

/// Asks for them. There are none where kubeadm did not make the cluster, or where its configuration may not be read:
/// the operator of another cluster has no reason to let us look.
///
/// # Errors
/// The API server does not answer.
pub(crate) async fn ranges(reach: &Reach) -> Result<Ranges, DatastoreError> {
    let (namespace, name, entry) = PLACE;
    match reach.config_map_text(namespace, name, entry).await {
        Ok(text) => Ok(text.map(|text| stated(&text)).unwrap_or_default()),
        Err(DatastoreError::Permission { .. }) => {
            tracing::debug!(
                "the ConfigMap {namespace}/{name} may not be read; ranges are told from other objects"
            );
            Ok(Ranges::default())
        }
        Err(error) => Err(error),
    }
}

/// The ranges that a text states.
fn stated(text: &str) -> Ranges {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Configuration {
        networking: Networking,
    }
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Networking {
        pod_subnet: String,
        service_subnet: String,
    }
    let read: Configuration = match serde_norway::from_str(text) {
        Ok(read) => read,
        Err(error) => {
            tracing::warn!(%error, "kubeadm's configuration cannot be read; ranges are told from other objects");
            return Ranges::default();
        }
    };
    let ranges = |text: &str| {
        let parts = text.split(',');
        parts.filter_map(|range| range.trim().parse().ok()).collect()
    };
    Ranges {
        pods: ranges(&read.networking.pod_subnet),
        services: ranges(&read.networking.service_subnet),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(ranges: &[IpNet]) -> Vec<String> {
        ranges.iter().map(IpNet::to_string).collect()
    }

    #[test]
    fn kubeadm_states_ranges_of_both_families() {
        let text = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nnetworking:\n  dnsDomain: \
                    cluster.local\n  podSubnet: 10.244.0.0/16, fd00:10:244::/56\n  serviceSubnet: 10.96.0.0/12\n";
        let ranges = stated(text);
        assert_eq!(texts(&ranges.pods), ["10.244.0.0/16", "fd00:10:244::/56"]);
        assert_eq!(texts(&ranges.services), ["10.96.0.0/12"]);
        assert_eq!(stated("networking: {}"), Ranges::default());
        let of_services = stated("networking:\n  serviceSubnet: 10.96.0.0/12\n");
        assert!(of_services.pods.is_empty());
        assert_eq!(stated("- not\n- this"), Ranges::default());
    }
}
