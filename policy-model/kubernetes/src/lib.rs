//! Kubernetes objects in, Manx resources out: the one translation that everything uses. Pure.
//!
//! The way of a manifest: [`read_documents`] cuts a text into values, [`Manifest::parse`] makes a typed object of a
//! value and refuses what the API server would refuse, [`translate`] makes resources of the language of it.
//! [`ManifestSet`] does all three for a changing set of files, at the cost of what changed.
//!
//! Errors fail closed: an object that was valid before keeps its last valid form, and of a policy that never was
//! valid the rules that cannot be understood are left out while the policy isolates the pods that it selects.

mod document;
mod manifest;
mod names;
mod set;
mod translate;

pub use document::{Document, DocumentError, read_documents};
pub use manifest::{InvalidManifest, Manifest, ManifestId};
pub use set::{Changes, Consequence, Fault, ManifestSet};

pub use translate::{
    PodFacts, Translation, WrittenPolicy, implied_profiles, is_pod_annotation, namespace_profile_name,
    pod_facts, service_account_profile_name, translate, translate_pod, translate_taking,
    workload_endpoint_name, workload_interface_name,
};
