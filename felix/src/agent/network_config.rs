//! Writes the CNI network configuration when the node is ready for pods, and says why it is not.
//!
//! A container runtime calls the node ready as soon as the file exists, so it comes last. It stays when the agent ends:
//! the plugin waits for the next one.

use crate::health::{HealthAggregator, Probe, Standing};
use crate::settings::Settings;
use felix_cni::attach::Unreadiness;
use felix_cni::conflist::{self, ConflistError, DEFAULT_NAME, DEFAULT_TEMPLATE, Values};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How often it is looked whether everything is in force.
const LOOK: Duration = Duration::from_millis(50);
/// Pause before a file that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// A configuration that is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NetworkConfig {
    folder: PathBuf,
    name: String,
    text: String,
}

impl NetworkConfig {
    /// Reads what is to be written from the environment, by the names that Calico's manifests give: nothing where
    /// `CNI_CONF_DIR` is not set.
    ///
    /// # Errors
    /// The template is not valid once it is filled in, or the size of packets is no number.
    pub(crate) fn from_environment(
        node: &str,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Option<Self>, ConflistError> {
        let Some(folder) = variable("CNI_CONF_DIR").filter(|folder| !folder.is_empty()) else {
            return Ok(None);
        };
        let folder = PathBuf::from(folder);
        let text = |name: &str| {
            let value = variable(name).map(|v| v.to_string_lossy().into_owned());
            value.filter(|v| !v.is_empty())
        };
        let mtu = text("CNI_MTU").unwrap_or_else(|| "0".to_owned());
        let values = Values {
            node: node.to_owned(),
            mtu: mtu
                .parse()
                .map_err(|_| ConflistError::Invalid(format!("CNI_MTU {mtu:?} is no number of bytes")))?,
            kubeconfig: folder.join("calico-kubeconfig").display().to_string(),
        };
        let template = text("CNI_NETWORK_CONFIG");
        Ok(Some(NetworkConfig {
            name: text("CNI_CONF_NAME").unwrap_or_else(|| DEFAULT_NAME.to_owned()),
            text: conflist::render(template.as_deref().unwrap_or(DEFAULT_TEMPLATE), &values)?,
            folder,
        }))
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// What is written there.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Whether pods that the runtime connects by it may take addresses of pools.
    fn takes_from_pools(&self) -> bool {
        conflist::takes_from_pools(&self.text)
    }

    /// Whether pods that the runtime connects by it have addresses of the ranges that the cluster gave its nodes.
    pub(super) fn takes_from_node_ranges(&self) -> bool {
        conflist::takes_from_node_ranges(&self.text)
    }

    /// Waits until the node is ready and writes the file; tries again for as long as it cannot be written.
    pub(super) async fn write_when_ready(self, health: HealthAggregator) {
        while !health.passes(Probe::Readiness, Instant::now()) {
            tokio::time::sleep(LOOK).await;
        }
        loop {
            match conflist::write(&self.folder, &self.name, &self.text) {
                Ok(is_new) => {
                    let path = self.folder.join(&self.name);
                    tracing::info!(path = %path.display(), is_new, "the CNI network configuration is in place");
                    return;
                }
                Err(error) => tracing::error!(error = super::wiring::chain(&error), "pods cannot be started"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Whether this node's pods take addresses of the pools. Beside another network nobody is expected to ask.
pub(super) fn takes_from_pools(config: Option<&NetworkConfig>, settings: &Settings) -> bool {
    match config {
        Some(config) => config.takes_from_pools(),
        None => !settings.route_sync_disabled,
    }
}

/// Whether its tunnels do: devices, addresses and what the node's object says of them are otherwise another network's.
pub(crate) fn has_tunnels(config: Option<&NetworkConfig>, settings: &Settings) -> bool {
    takes_from_pools(config, settings) && !settings.route_sync_disabled
}

/// Says why the node is not ready, for the plugin's STATUS.
pub(super) fn unreadiness(health: HealthAggregator) -> Unreadiness {
    Box::new(move || {
        let now = Instant::now();
        if health.passes(Probe::Readiness, now) {
            return None;
        }
        let states = health.states(now);
        let troubled = states
            .iter()
            .find(|state| matches!(state.readiness, Standing::Fails { .. }));
        Some(troubled.map_or_else(
            || "it has just started".to_owned(),
            |state| format!("{}: {}", state.name, state.detail),
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<NetworkConfig>, ConflistError> {
        NetworkConfig::from_environment("node-1", |name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.into())
        })
    }

    #[test]
    fn nothing_is_written_where_no_folder_is_named() {
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(
            read(&[("CNI_CONF_DIR", ""), ("CNI_CONF_NAME", "x.conf")]).unwrap(),
            None
        );
    }

    #[test]
    fn tunnels_are_this_nodes_where_pods_and_routes_are() {
        let pools = read(&[("CNI_CONF_DIR", "/c")]).unwrap();
        let ranges = read(&[
            ("CNI_CONF_DIR", "/c"),
            (
                "CNI_NETWORK_CONFIG",
                r#"{"name":"x","type":"manx","ipam":{"type":"host-local"}}"#,
            ),
        ])
        .unwrap();
        let usual = Settings::built_in();
        let mut policy_only = usual.clone();
        policy_only.route_sync_disabled = true;
        for (config, settings, expected) in [
            (&None, &usual, (true, true)),
            (&pools, &usual, (true, true)),
            (&ranges, &usual, (false, false)),
            (&None, &policy_only, (false, false)),
            (&pools, &policy_only, (true, false)),
        ] {
            let config = config.as_ref();
            let found = (takes_from_pools(config, settings), has_tunnels(config, settings));
            assert_eq!(found, expected, "{config:?}");
        }
    }

    #[test]
    fn what_lacks_has_a_default_and_what_is_said_wins() {
        let usual = read(&[("CNI_CONF_DIR", "/c")]).unwrap().unwrap();
        assert_eq!(usual.name, "10-calico.conflist");
        assert!(usual.text.contains("\"nodename\": \"node-1\"") && usual.text.contains("\"mtu\": 0"));
        let own = read(&[
            ("CNI_CONF_DIR", "/c"),
            ("CNI_CONF_NAME", "05-x.conf"),
            ("CNI_MTU", "1400"),
            (
                "CNI_NETWORK_CONFIG",
                r#"{"name":"x","type":"calico","mtu":__CNI_MTU__,"k":"__KUBECONFIG_FILEPATH__"}"#,
            ),
        ]);
        let own = own.unwrap().unwrap();
        assert_eq!(own.name, "05-x.conf");
        assert_eq!(
            own.text,
            r#"{"name":"x","type":"calico","mtu":1400,"k":"/c/calico-kubeconfig"}"#
        );
        for wrong in [("CNI_MTU", "big"), ("CNI_NETWORK_CONFIG", "{")] {
            assert!(read(&[("CNI_CONF_DIR", "/c"), wrong]).is_err());
        }
    }
}
