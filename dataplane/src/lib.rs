//! The hands: the order of one apply pass, and the managers that turn intent into kernel terms.
//!
//! The order, from [`Dataplane::apply`]: policy tables (sets before rules, policies before endpoints), then workload
//! interfaces and routes, then routes to other nodes; for what goes, routes first and then the connection-tracking
//! entries of its addresses. Nothing is written before the brain has said everything it knows and the interfaces
//! have been read. This crate knows no datastore and no Kubernetes.

mod backend;
mod flows;
mod interfaces;
mod pass;
mod settings;
mod tunnels;
mod vacancies;
mod walker;

pub use backend::{
    BackendError, Iptables, IptablesCounts, IptablesError, IptablesSettings, Removal, RulesBackend,
    RulesDriver, RulesKind, remove_iptables_rules, remove_rules_but,
};
pub use pass::{ApplyError, Dataplane, FlowWalks, PassReport, Programmed};
pub use settings::{DataplaneSettings, FlowsOnPolicyChange};
pub use tunnels::{TunnelSettings, Tunnelling};
