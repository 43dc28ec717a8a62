//! The figures of Manx, measured on the machine at hand; nothing is asserted about them.
//!
//! What is measured is the product's own code: the calculation graph, the decision tables and the nftables driver in
//! this process, packets through private network namespaces, and, for the time from a manifest to a packet, the real
//! programs. Each group of figures runs in a process of its own, so that none meets another's memory or namespaces.
//!
//! - [`figure`], [`machine`], [`timing`]: what a figure is, where it was measured, how repeated times are summed up.
//! - [`brain`]: calculation, tables and driver of one node, with the time that each takes.
//! - [`shape`], [`snapshot`]: a large cluster, from nothing and by single changes.
//! - [`crowd`], [`changes`]: a full node, by single changes.
//! - [`bed`], [`selected`], [`walked`], [`walked_iptables`], [`traffic`], [`packets`], [`connections`]: what packets pay.
//! - [`realm`], [`hands`], [`nodes`]: a cluster of many nodes, calculated and programmed by one of them.
//! - [`between`]: what the way between pods of two nodes costs.
//! - [`probe`], [`reaction`]: from a changed manifest to the first packet that is treated by it.
//! - [`backends`]: nftables and both variants of iptables: policies, first load, sets.
//! - [`kubernetes`]: a large cluster behind a real API server, and pods of a real cluster.

pub mod backends;
pub mod bed;
pub mod between;
pub mod brain;
pub mod changes;
pub mod connections;
pub mod crowd;
pub mod figure;
pub mod hands;
pub mod kubernetes;
pub mod machine;
pub mod nodes;
pub mod packets;
pub mod probe;
pub mod reaction;
pub mod realm;
pub mod selected;
pub mod shape;
pub mod snapshot;
pub mod timing;
pub mod traffic;
pub mod walked;
pub mod walked_iptables;
