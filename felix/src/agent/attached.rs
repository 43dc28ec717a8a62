//! The addresses and interfaces of this node's workloads as this node gave them, which the cluster learns only later or
//! never.
//!
//! A pod's own resource says its addresses about a second after the attachment, and those of an earlier sandbox until
//! then; policy has to be in force before the first packet. So what the node's own journal of attachments says of a
//! local pod goes before what the resource says. A pod of Kubernetes says nothing of its interface: its name follows
//! from the pod's, behind the first of the prefixes that this node's settings name, as other networks' plugins have it
//! too. Pure.

use dataplane_netlink::InterfacePrefixes;
use felix_cni::journal::Attachment;
use felix_cni::{interface_of, pod_of};
use ipnet::IpNet;
use policy_model::{Key, Object, Resource, WorkloadEndpointSpec};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Local endpoints, and what is attached.
#[derive(Debug)]
pub(super) struct Attached {
    node: String,
    prefixes: InterfacePrefixes,
    endpoints: BTreeMap<Key, Arc<Resource>>,
    /// All attachments with an interface, as they were last told, in the order in which they came to be.
    attachments: Vec<Arc<Attachment>>,
    /// By name of the pod and of its namespace; the newest where a pod has several sandboxes.
    pods: HashMap<String, HashMap<String, Arc<Attachment>>>,
}

/// A pod by its namespace and name.
type Pod<'a> = (&'a str, &'a str);

fn pod_with(attachment: &Attachment) -> Pod<'_> {
    (&attachment.namespace, &attachment.pod)
}

/// What of an attachment decides about its pod's endpoint.
fn facts(held: Option<&Arc<Attachment>>) -> Option<(&str, &[IpAddr], &str)> {
    held.map(|held| {
        (
            held.uid.as_str(),
            held.addresses.as_slice(),
            held.host_interface.as_str(),
        )
    })
}

impl Attached {
    /// Nothing is known of a node yet; `prefixes` are the beginnings of its workload interfaces' names.
    pub(super) fn of_node(node: &str, prefixes: &InterfacePrefixes) -> Self {
        Attached {
            node: node.to_owned(),
            prefixes: prefixes.clone(),
            endpoints: BTreeMap::new(),
            attachments: Vec::new(),
            pods: HashMap::new(),
        }
    }

    /// An object as it is to be put into force.
    pub(super) fn upsert(&mut self, resource: Arc<Resource>) -> Arc<Resource> {
        if let Resource::WorkloadEndpoint(endpoint) = resource.as_ref()
            && endpoint.spec.node == self.node
        {
            let object = self.in_force(endpoint);
            self.endpoints.insert(resource.key(), resource);
            return Arc::new(object);
        }
        // One that was here has its key of here, so nothing is to be forgotten.
        resource
    }

    /// Forgets an object.
    pub(super) fn delete(&mut self, key: &Key) {
        self.endpoints.remove(key);
    }

    /// Takes over what is attached, in the order in which it came to be; returns the endpoints that change by that. What is
    /// told again in the same place of memory is not looked at again.
    pub(super) fn attach(&mut self, attachments: &[Arc<Attachment>]) -> Vec<Resource> {
        let with_interface = attachments.iter().filter(|a| !a.host_interface.is_empty());
        let now: Vec<Arc<Attachment>> = with_interface.cloned().collect();
        let before = std::mem::replace(&mut self.attachments, now);
        let known: HashSet<*const Attachment> = before.iter().map(Arc::as_ptr).collect();
        let still: HashSet<*const Attachment> = self.attachments.iter().map(Arc::as_ptr).collect();
        let came = self
            .attachments
            .iter()
            .filter(|a| !known.contains(&Arc::as_ptr(a)));
        let went = before.iter().filter(|a| !still.contains(&Arc::as_ptr(a)));
        let touched: HashSet<Pod<'_>> = came.chain(went).map(|a| pod_with(a)).collect();
        if touched.is_empty() {
            return Vec::new();
        }
        // The last one of a pod is its newest.
        let newest = self.attachments.iter().filter(|a| touched.contains(&pod_with(a)));
        let newest: HashMap<Pod<'_>, &Arc<Attachment>> = newest.map(|a| (pod_with(a), a)).collect();
        let mut changed: HashSet<Pod<'_>> = HashSet::new();
        for pod in touched {
            let (namespace, name) = pod;
            let of_namespace = self.pods.entry(namespace.to_owned()).or_default();
            let held = newest.get(&pod).copied();
            if facts(of_namespace.get(name)) != facts(held) {
                changed.insert(pod);
            }
            match held {
                Some(held) => drop(of_namespace.insert(name.to_owned(), held.clone())),
                None => drop(of_namespace.remove(name)),
            }
            if of_namespace.is_empty() {
                self.pods.remove(namespace);
            }
        }
        let endpoints = self
            .endpoints
            .values()
            .filter_map(|resource| match resource.as_ref() {
                Resource::WorkloadEndpoint(endpoint) if changed.contains(&name_of(endpoint)) => {
                    Some(self.in_force(endpoint))
                }
                _ => None,
            });
        endpoints.collect()
    }

    fn in_force(&self, endpoint: &Object<WorkloadEndpointSpec>) -> Resource {
        let mut endpoint = endpoint.clone();
        self.name_interface(&mut endpoint);
        let (namespace, name) = name_of(&endpoint);
        let held = self
            .pods
            .get(namespace)
            .and_then(|of_namespace| of_namespace.get(name));
        // Another pod that had the name before is none of this one's business.
        let is_its = |held: &&Arc<Attachment>| {
            held.uid.is_empty() || endpoint.metadata.uid.is_empty() || held.uid == endpoint.metadata.uid
        };
        if let Some(held) = held.filter(is_its) {
            endpoint.spec.ip_networks = held.addresses.iter().copied().map(IpNet::from).collect();
            endpoint.spec.interface_name.clone_from(&held.host_interface);
        }
        Resource::WorkloadEndpoint(endpoint)
    }

    fn name_interface(&self, endpoint: &mut Object<WorkloadEndpointSpec>) {
        // What is no name stays, for whoever judges the endpoint to name it.
        if let Ok(name) = interface_of(endpoint, &self.prefixes) {
            endpoint.spec.interface_name = name.to_string();
        }
    }
}

fn name_of(endpoint: &Object<WorkloadEndpointSpec>) -> Pod<'_> {
    (&endpoint.metadata.namespace, pod_of(endpoint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use felix_cni::AttachmentKey;
    use policy_model::Metadata;

    fn endpoint(node: &str, uid: &str, addresses: &[&str]) -> Arc<Resource> {
        let metadata = Metadata {
            name: format!("{node}-k8s-web-eth0"),
            namespace: "shop".into(),
            uid: uid.into(),
            ..Metadata::default()
        };
        let spec = WorkloadEndpointSpec {
            node: node.into(),
            pod: "web".into(),
            ip_networks: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            ..WorkloadEndpointSpec::default()
        };
        Arc::new(Object { metadata, spec }.into())
    }

    fn attachment(container: &str, uid: &str, address: &str) -> Arc<Attachment> {
        Arc::new(Attachment {
            key: AttachmentKey {
                network: "n".into(),
                container_id: container.into(),
                interface: "eth0".into(),
            },
            namespace: "shop".into(),
            pod: "web".into(),
            uid: uid.into(),
            addresses: vec![address.parse().unwrap()],
            host_interface: "cali1".into(),
            boot_id: String::new(),
            mtu: 0,
            host_ports: Vec::new(),
        })
    }

    fn addresses(resource: &Resource) -> Vec<String> {
        let Resource::WorkloadEndpoint(endpoint) = resource else {
            panic!("no endpoint");
        };
        endpoint
            .spec
            .ip_networks
            .iter()
            .map(|n| n.addr().to_string())
            .collect()
    }

    #[test]
    fn what_the_node_gave_goes_before_what_the_cluster_says() {
        let mut attached = Attached::of_node("n1", &InterfacePrefixes::default());
        let silent = endpoint("n1", "u1", &[]);
        assert!(addresses(&attached.upsert(silent)).is_empty());
        let first = [attachment("a", "u1", "10.0.0.1")];
        let changed = attached.attach(&first);
        assert_eq!(changed.len(), 1);
        assert_eq!(addresses(&changed[0]), ["10.0.0.1"]);
        assert!(attached.attach(&first).is_empty(), "nothing is said twice");
        // The next sandbox, while the resource still tells of the one before.
        let stale = endpoint("n1", "u1", &["10.0.0.1/32"]);
        assert_eq!(addresses(&attached.upsert(stale.clone())), ["10.0.0.1"]);
        let both = [first[0].clone(), attachment("b", "u1", "10.0.0.2")];
        assert_eq!(addresses(&attached.attach(&both)[0]), ["10.0.0.2"]);
        assert_eq!(addresses(&attached.upsert(stale.clone())), ["10.0.0.2"]);
        // Nothing attached: what the resource says is all that is known.
        assert_eq!(addresses(&attached.attach(&[])[0]), ["10.0.0.1"]);
        // The same facts at another place of memory change nothing.
        attached.attach(&both);
        let again = [
            attachment("a", "u1", "10.0.0.1"),
            attachment("b", "u1", "10.0.0.2"),
        ];
        assert!(attached.attach(&again).is_empty());
        // The newest goes: what is left of the pod counts again.
        assert_eq!(addresses(&attached.attach(&again[..1])[0]), ["10.0.0.1"]);
    }

    fn interface(resource: &Resource) -> &str {
        let Resource::WorkloadEndpoint(endpoint) = resource else {
            panic!("no endpoint");
        };
        &endpoint.spec.interface_name
    }

    #[test]
    fn a_pods_interface_has_the_name_that_it_has_on_this_node() {
        let named = |node: &str, name: &str| {
            let mut resource = endpoint(node, "u1", &[]);
            if let Resource::WorkloadEndpoint(endpoint) = Arc::make_mut(&mut resource) {
                endpoint.spec.interface_name = name.to_owned();
            }
            resource
        };
        let usual = InterfacePrefixes::default();
        let nameless = Object::namespaced("shop", "web", WorkloadEndpointSpec::default());
        let derived = interface_of(&nameless, &usual).unwrap().to_string();
        let prefixes = InterfacePrefixes::new(["eni", "vlan"]).unwrap();
        let mut attached = Attached::of_node("n1", &prefixes);
        assert_eq!(
            interface(&attached.upsert(named("n1", &derived))),
            derived.replacen("cali", "eni", 1)
        );
        assert_eq!(interface(&attached.upsert(named("n2", &derived))), derived);
        assert_eq!(
            interface(&attached.upsert(named("n1", "vlan7"))),
            "vlan7",
            "stated"
        );
        // What was given here goes before what follows from the name.
        attached.attach(&[attachment("a", "u1", "10.0.0.1")]);
        assert_eq!(interface(&attached.upsert(named("n1", &derived))), "cali1");
        let long = InterfacePrefixes::new(["interface"]).unwrap();
        let mut attached = Attached::of_node("n1", &long);
        assert_eq!(interface(&attached.upsert(named("n1", &derived))), derived);
    }

    #[test]
    fn another_pod_of_the_name_and_another_node_are_left_alone() {
        let mut attached = Attached::of_node("n1", &InterfacePrefixes::default());
        attached.attach(&[attachment("a", "u1", "10.0.0.1")]);
        assert!(addresses(&attached.upsert(endpoint("n1", "u2", &[]))).is_empty());
        assert_eq!(
            addresses(&attached.upsert(endpoint("n2", "u1", &["10.0.9.9/32"]))),
            ["10.0.9.9"]
        );
        attached.upsert(endpoint("n1", "u1", &[]));
        attached.delete(&endpoint("n1", "u1", &[]).key());
        assert!(attached.attach(&[]).is_empty());
    }
}
