//! Says on the node's own object which addresses its tunnels have, by Calico's annotations.
//!
//! The blocks are what other nodes go by; these are for people, and for programs that read what Calico's would say.

use super::chain;
use felix_cni::TunnelAddresses;
use policy_model_datastore_kube::KubeStore;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::watch;

/// How often it is looked whether all of it is still said.
const LOOK: Duration = Duration::from_secs(60);
/// Pause before something that failed is tried again.
const RETRY: Duration = Duration::from_secs(2);

const IPIP: &str = "projectcalico.org/IPv4IPIPTunnelAddr";
const VXLAN: &str = "projectcalico.org/IPv4VXLANTunnelAddr";
const VXLAN_V6: &str = "projectcalico.org/IPv6VXLANTunnelAddr";

/// The annotations that say the addresses, and those that are to go because there is none.
pub(crate) fn notes(addresses: TunnelAddresses) -> BTreeMap<String, Option<String>> {
    let TunnelAddresses {
        ipip,
        vxlan_v4,
        vxlan_v6,
    } = addresses;
    let all = [
        (IPIP, ipip.map(|address| address.to_string())),
        (VXLAN, vxlan_v4.map(|address| address.to_string())),
        (VXLAN_V6, vxlan_v6.map(|address| address.to_string())),
    ];
    all.map(|(name, value)| (name.to_owned(), value)).into()
}

/// Keeps them true, for good. Where the addresses are not known, or another network's, nothing is said and nothing taken
/// away.
pub(super) async fn keep(
    node: String,
    store: KubeStore,
    mut addresses: watch::Receiver<Option<TunnelAddresses>>,
) {
    let mut has_failed = false;
    loop {
        let known = *addresses.borrow_and_update();
        let said = match known {
            Some(known) => store.annotate_node(&node, &notes(known)).await,
            None => Ok(()),
        };
        if let Err(error) = &said
            && !has_failed
        {
            tracing::warn!(
                error = chain(error),
                "the addresses of the node's tunnels cannot be said on its object; it is tried again"
            );
        }
        has_failed = said.is_err();
        let pause = if has_failed { RETRY } else { LOOK };
        if let Ok(Err(_)) = tokio::time::timeout(pause, addresses.changed()).await {
            // Nobody follows them any more: the agent ends.
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_said_and_what_is_not_is_taken_away() {
        let said = notes(TunnelAddresses {
            ipip: Some([10, 0, 0, 1].into()),
            vxlan_v4: None,
            vxlan_v6: Some("fd00::1".parse().unwrap()),
        });
        let expected = [
            ("projectcalico.org/IPv4IPIPTunnelAddr", Some("10.0.0.1")),
            ("projectcalico.org/IPv4VXLANTunnelAddr", None),
            ("projectcalico.org/IPv6VXLANTunnelAddr", Some("fd00::1")),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.map(str::to_owned)));
        assert_eq!(said, BTreeMap::from(expected));
    }
}
