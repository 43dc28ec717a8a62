//! What no parser sees: a combination of settings that cannot be honoured.
//!
//! Where the agent would do something weaker than what was asked (metrics in the clear in place of TLS, another
//! dataplane), it must not start.

use super::parse::DatastoreKind;
use super::registry::Settings;

/// Reasons why these settings cannot be honoured, each with what to do; none if they can.
pub fn unmet(settings: &Settings) -> Vec<String> {
    let mut reasons = Vec::new();
    if settings.felix_hostname.is_empty() {
        reasons
            .push("the name of this node is not known: set FelixHostname (FELIX_FELIXHOSTNAME)".to_owned());
    }
    if !settings.use_internal_dataplane_driver {
        reasons.push(
            "UseInternalDataplaneDriver is false, and there is no way to use another program as the dataplane: \
             remove the setting"
                .to_owned(),
        );
    }
    let tls = [
        ("PrometheusMetricsCAFile", &settings.prometheus_metrics_ca_file),
        (
            "PrometheusMetricsCertFile",
            &settings.prometheus_metrics_cert_file,
        ),
        ("PrometheusMetricsKeyFile", &settings.prometheus_metrics_key_file),
    ];
    for (name, _) in tls
        .iter()
        .filter(|(_, path)| settings.prometheus_metrics_enabled && !path.as_os_str().is_empty())
    {
        reasons.push(format!(
            "{name} asks for TLS on the metrics port, which is not available: remove the setting and let \
             PrometheusMetricsHost be localhost, or switch metrics off with PrometheusMetricsEnabled"
        ));
    }
    if settings.datastore_type == DatastoreKind::Etcd {
        reasons.push(
            "DatastoreType is etcdv3, which is not available: set DatastoreType (FELIX_DATASTORETYPE) to kubernetes \
             or file"
                .to_owned(),
        );
    }
    if settings.datastore_type == DatastoreKind::File && settings.datastore_path.as_os_str().is_empty() {
        reasons.push(
            "DatastoreType is file and DatastorePath is empty: set DatastorePath to a folder".to_owned(),
        );
    }
    reasons
}
