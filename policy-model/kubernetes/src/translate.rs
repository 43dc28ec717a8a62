//! Makes resources of the language of Kubernetes' objects, as users of Calico know them.
//!
//! | object | becomes |
//! |---|---|
//! | NetworkPolicy | policy `knp.default.<name>` of order 1000 in the default tier |
//! | Namespace | profile `kns.<name>`: labels with the prefix `pcns.`, everything allowed |
//! | ServiceAccount | profile `ksa.<namespace>.<name>`: labels with the prefix `pcsa.` |
//! | Pod | workload endpoint `<node>-k8s-<pod>-eth0` |
//! | Node | node |
//! | EndpointSlice | service endpoints |
//! | our own kinds | themselves |

mod cluster;
mod pod;
mod policy;
mod profile;
mod selector;

pub(crate) use cluster::{ANNOTATION_NODE_PREFIX, addressing as node_addressing};
pub(crate) use pod::addressing as pod_addressing;
pub(crate) use policy::{host_bits_cleared, written as written_policy};
pub(crate) use profile::{implied_namespace, implied_service_account};

pub use pod::{
    PodFacts, is_pod_annotation, pod_facts, translate_pod, workload_endpoint_name, workload_interface_name,
};
pub use policy::WrittenPolicy;
pub use profile::{implied_profiles, namespace_profile_name, service_account_profile_name};

use crate::manifest::Manifest;
use policy_model::{FieldError, Resource};
use sha1::{Digest, Sha1};

/// What became of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Translation {
    /// The resources. None for objects that say nothing by themselves, or that were refused whole.
    pub resources: Vec<Resource>,
    /// What was left out and why. Empty for every object that [`Manifest::parse`] gave.
    pub faults: Vec<FieldError>,
}

impl Translation {
    fn of(resource: impl Into<Resource>) -> Self {
        Translation {
            resources: vec![resource.into()],
            faults: Vec::new(),
        }
    }
}

/// The resources that an object becomes.
///
/// A pod becomes an endpoint only where its own `spec.nodeName` says the node; see [`translate_pod`].
pub fn translate(manifest: &Manifest) -> Translation {
    match manifest {
        Manifest::Namespace(object) => Translation::of(profile::namespace(object)),
        Manifest::ServiceAccount(object) => Translation::of(profile::service_account(object)),
        Manifest::Pod(object) => translate_pod(object, None),
        Manifest::Node(object) => cluster::node(object),
        Manifest::EndpointSlice(object) => cluster::service_endpoints(object),
        Manifest::NetworkPolicy(object) => policy::policy(object),
        Manifest::Resource(resource) => Translation {
            resources: vec![(**resource).clone()],
            faults: Vec::new(),
        },
        Manifest::Service(_) | Manifest::Ignored { .. } => Translation::default(),
    }
}

/// As [`translate`], but takes out of the object what would have to be copied: for whoever drops it afterwards. Names,
/// addresses and ports stay in it.
pub fn translate_taking(manifest: &mut Manifest) -> Translation {
    match manifest {
        Manifest::Pod(object) => pod::translate_pod_taking(object),
        other => translate(other),
    }
}

/// Most characters that an object's name may have.
const LONGEST_NAME: usize = 253;

/// A name made of others' names, which may together be too long: the end then becomes a hash of the whole.
fn bounded_name(name: String) -> String {
    if name.len() <= LONGEST_NAME {
        return name;
    }
    let hash = hex(&Sha1::digest(name.as_bytes()));
    let cut = LONGEST_NAME - hash.len() - 1;
    // Names are ASCII wherever they were checked; elsewhere the cut must not fall into a character.
    let start: String = name
        .char_indices()
        .take_while(|(at, c)| at + c.len_utf8() <= cut)
        .map(|(_, c)| c)
        .collect();
    format!("{}-{hash}", start.trim_end_matches(['-', '.']))
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or_default();
    bytes
        .iter()
        .flat_map(|b| [digit(b >> 4), digit(b & 15)])
        .collect()
}
