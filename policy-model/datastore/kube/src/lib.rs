//! A Kubernetes API server as the datastore: its own objects translated as they are read, ours as custom resources.
//!
//! Nothing is stored a second time. Pods, policies, namespaces, service accounts, nodes and endpoint slices are
//! translated by `policy-model-kubernetes` on their way in, and nobody writes them through here; the kinds of
//! `projectcalico.org/v3` are read and written as they are. [`schema`] makes the definitions of those.
//!
//! What the port promises and Kubernetes does not: an order between kinds. A watch of several kinds gives the events
//! of each kind (and of each of Kubernetes' own resources) in the order of their revisions, and those of different
//! ones as they come; nobody may conclude from an event of one kind that an older one of another kind has been seen.
//! A watch that takes up where a listing of the same store ended loses nothing and repeats nothing.

mod api;
mod body;
mod delivery;
mod event;
mod failure;
mod follow;
mod gathering;
mod held;
mod identity;
mod listing;
mod node;
mod origin;
mod position;
mod preflight;
mod protobuf;
mod read;
pub mod schema;
mod settings;
mod store;
mod writing;

pub use preflight::ForeignOwner;
pub use settings::Settings;
pub use store::KubeStore;
