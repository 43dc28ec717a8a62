//! The names of a workload's pod and of its interface on its node.
//!
//! A pod of Kubernetes says nothing of its interface; the translation, which knows no node, gives it the name that it has
//! where the prefixes are the usual ones. Whoever puts an endpoint into force on a node asks here.

use dataplane_netlink::{InterfaceName, InterfacePrefixes, InvalidInterfaceName, host_interface_name};
use policy_model::{Object, WorkloadEndpointSpec};
use policy_model_kubernetes::workload_interface_name;

/// The interface of an endpoint on a node whose workload interfaces' names begin with `prefixes`: the one that its
/// object states, or the one that follows from namespace, pod and the first prefix.
///
/// # Errors
/// The stated name is none, or the first prefix leaves no room for what follows from the pod.
pub fn interface_of(
    endpoint: &Object<WorkloadEndpointSpec>,
    prefixes: &InterfacePrefixes,
) -> Result<InterfaceName, InvalidInterfaceName> {
    let (namespace, pod) = (&endpoint.metadata.namespace, pod_of(endpoint));
    let stated = &endpoint.spec.interface_name;
    if stated.is_empty() || *stated == workload_interface_name(namespace, pod) {
        return host_interface_name(prefixes, namespace, pod);
    }
    InterfaceName::new(stated.clone())
}

/// The pod of an endpoint: the one that its object states, or the one of the object's own name.
pub fn pod_of(endpoint: &Object<WorkloadEndpointSpec>) -> &str {
    if endpoint.spec.pod.is_empty() {
        &endpoint.metadata.name
    } else {
        &endpoint.spec.pod
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is the failure itself")]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_follows_from_the_pod_begins_as_the_node_has_it() {
        let derived = workload_interface_name("shop", "web");
        let named = |stated: &str, prefixes: &[&str]| {
            let spec = WorkloadEndpointSpec {
                pod: "web".to_owned(),
                interface_name: stated.to_owned(),
                ..WorkloadEndpointSpec::default()
            };
            let endpoint = Object::namespaced("shop", "e", spec);
            let prefixes = InterfacePrefixes::new(prefixes.iter().copied()).unwrap();
            interface_of(&endpoint, &prefixes).map(|name| name.to_string())
        };
        assert_eq!(named(&derived, &["cali"]).unwrap(), derived);
        let other = derived.replacen("cali", "eni", 1);
        assert_eq!(named(&derived, &["eni", "cali"]).unwrap(), other);
        assert_eq!(named("", &["eni"]).unwrap(), other);
        assert_eq!(named("vlan7", &["eni", "vlan"]).unwrap(), "vlan7");
        assert!(named(&derived, &["interface"]).is_err(), "no room for the rest");
        assert!(named("a/b", &["cali"]).is_err());
    }
}
