//! What the environment asks of the controller, by the names that Calico's controllers and nodes know.

use super::defaults::wanted::WantedPools;
use super::variable::{InvalidVariable, Variables};
use std::time::Duration;

/// Which loops run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enabled {
    /// Whether what vanished nodes and pods held is given back.
    pub node: bool,
    /// What was asked for and has nothing to do: Kubernetes' objects are the datastore.
    pub idle: Vec<&'static str>,
}

/// Names of Calico's controllers that have no work where Kubernetes' objects are the datastore.
const IDLE: [&str; 6] = [
    "policy",
    "namespace",
    "serviceaccount",
    "workloadendpoint",
    "loadbalancer",
    "migration",
];

/// What the environment asks for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which loops run (`ENABLED_CONTROLLERS`).
    pub enabled: Enabled,
    /// How often everything is looked at anew (`RECONCILER_PERIOD`).
    pub reconcile: Duration,
    /// For how long an address must have been nobody's before it is given back (`LEAK_GRACE`); none gives none back.
    pub leak_grace: Option<Duration>,
    /// Whether a start waits for the API server (`WAIT_FOR_DATASTORE`).
    pub must_wait: bool,
    /// Namespace of the lease (`POD_NAMESPACE`); none is that of the client's configuration.
    pub namespace: Option<String>,
    /// Name of this process among its like (`POD_NAME`, else that of the machine).
    pub name: String,
    /// The pools that are made where there are none (`CALICO_IPV4POOL_CIDR` and its relatives).
    pub pools: WantedPools,
}

impl Settings {
    /// Reads an environment.
    ///
    /// # Errors
    /// The first variable that makes no sense.
    pub fn read(variables: &Variables) -> Result<Settings, InvalidVariable> {
        let grace = variables.duration("LEAK_GRACE")?;
        let grace = grace.unwrap_or(Duration::from_secs(15 * 60));
        let period = variables.duration("RECONCILER_PERIOD")?;
        if period.is_some_and(|period| period < Duration::from_secs(1)) {
            return Err(variables.complain("RECONCILER_PERIOD", "is shorter than 1s"));
        }
        let machine = || {
            let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            let name = name.trim();
            if name.is_empty() { "manx-controller" } else { name }.to_owned()
        };
        Ok(Settings {
            enabled: variables
                .parse("ENABLED_CONTROLLERS", enabled)?
                .unwrap_or(Enabled {
                    node: true,
                    idle: Vec::new(),
                }),
            reconcile: period.unwrap_or(Duration::from_secs(300)),
            leak_grace: (!grace.is_zero()).then_some(grace),
            must_wait: variables.truth("WAIT_FOR_DATASTORE")?.unwrap_or(true),
            namespace: variables.get("POD_NAMESPACE").map(str::to_owned),
            name: variables
                .get("POD_NAME")
                .map(str::to_owned)
                .unwrap_or_else(machine),
            pools: WantedPools::read(variables)?,
        })
    }
}

fn enabled(text: &str) -> Result<Enabled, String> {
    let mut enabled = Enabled::default();
    for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let lower = name.to_ascii_lowercase();
        if lower == "node" {
            enabled.node = true;
        } else if let Some(known) = IDLE.iter().find(|known| **known == lower) {
            enabled.idle.push(known);
        } else {
            return Err(format!(
                "there is no controller '{name}'; there are node, {}",
                IDLE.join(", ")
            ));
        }
    }
    Ok(enabled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_environment_means_the_defaults() {
        let settings = Settings::read(&Variables::default()).unwrap();
        assert!(settings.enabled.node && settings.enabled.idle.is_empty() && settings.must_wait);
        assert_eq!(settings.reconcile, Duration::from_secs(300));
        assert_eq!(settings.leak_grace, Some(Duration::from_secs(900)));
        assert!(!settings.name.is_empty());
    }

    #[test]
    fn calicos_names_are_known_and_others_are_refused() {
        let read = |text| {
            let variables = Variables::from([("ENABLED_CONTROLLERS", text)]);
            Settings::read(&variables).map(|settings| settings.enabled)
        };
        let all =
            read("node,policy,namespace,serviceaccount,workloadendpoint,loadbalancer,migration").unwrap();
        assert!(all.node);
        assert_eq!(all.idle.len(), 6);
        let without = read("Policy, namespace").unwrap();
        assert!(!without.node);
        assert_eq!(without.idle, ["policy", "namespace"]);
        let error = read("node,nodes").unwrap_err().to_string();
        assert!(
            error.contains("ENABLED_CONTROLLERS")
                && error.contains("'nodes'")
                && error.contains("loadbalancer"),
            "{error}"
        );
    }

    #[test]
    fn no_grace_means_no_collection() {
        let settings = Settings::read(&Variables::from([("LEAK_GRACE", "0s")])).unwrap();
        assert_eq!(settings.leak_grace, None);
        assert!(Settings::read(&Variables::from([("RECONCILER_PERIOD", "10ms")])).is_err());
    }
}
