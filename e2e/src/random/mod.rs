//! Random clusters, changes to them, and flows, from a number that says which.
//!
//! Small pools of names, addresses and ports, so that rules and flows meet: a random port that no rule names would
//! prove nothing.

mod cluster;
mod dice;
mod flows;
mod rules;

pub use cluster::{Change, Cluster, local_pods};
pub use dice::Dice;
pub use flows::{flow_from, flows};
