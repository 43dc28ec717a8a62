//! Asks the API server which addresses are those of Services.

use crate::cluster::kubeadm;
use crate::cluster::reach::{Reach, is_absent};
use ipnet::IpNet;
use policy_model_datastore::DatastoreError;
use std::net::IpAddr;

/// The ranges of Services with what says so. `host` is the API server's address as pods reach it, usually a Service's.
///
/// ServiceCIDR objects say it all. Where the API server has none (before Kubernetes 1.33), or does not let us read
/// them, what kubeadm was told is the best that there is, and `host` at least is one of them.
///
/// # Errors
/// The API server does not answer.
pub(crate) async fn ranges(
    reach: &Reach,
    host: Option<&str>,
) -> Result<Vec<(IpNet, String)>, DatastoreError> {
    let mut ranges = Vec::new();
    match reach.service_ranges().await {
        Ok(found) => {
            ranges.extend(
                found
                    .into_iter()
                    .map(|(name, range)| (range, format!("ServiceCIDR {name}"))),
            );
        }
        Err(error @ DatastoreError::Permission { .. }) => tracing::debug!("{error}"),
        Err(error) if is_absent(&error) => {}
        Err(error) => return Err(error),
    }
    if ranges.is_empty() {
        let told = kubeadm::ranges(reach).await?.services;
        ranges.extend(told.into_iter().map(|range| (range, "kubeadm-config".to_owned())));
    }
    if let Some(address) = host.and_then(|text| text.parse::<IpAddr>().ok())
        && !ranges.iter().any(|(range, _)| range.contains(&address))
    {
        ranges.push((address.into(), "the API server as pods reach it".to_owned()));
    }
    Ok(ranges)
}
