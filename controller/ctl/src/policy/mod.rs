//! What policies say, asked without the kernel: manifests or the objects of a cluster in, verdicts out.
//!
//! No root, no kernel, no daemon: `simulate`, `explain` and `diff` read a folder of manifests, fill in what a cluster
//! would decide (nodes and addresses, always the same ones), or read a live cluster, and ask the oracle. They run in people's pipelines, so
//! their words and exit codes are a contract: 0 as expected, 1 not so, 2 for input that cannot be trusted.
//!
//! | room | what it does |
//! |---|---|
//! | [`world`] | manifests to pods with nodes and addresses, and the facts that verdicts rest on |
//! | [`flow`] | one flow as people write it, and what it means in a world |
//! | [`flow_file`] | a file of flows |
//! | [`answer`] | a flow's verdict in the words of the manifests |
//! | [`simulate`], [`explain`], [`diff`] | the commands |
//! | [`line`] | one answer as programs read it |
//! | [`print`] | how they write |

pub mod answer;
pub mod diff;
pub mod explain;
pub mod flow;
pub mod flow_file;
pub mod line;
pub mod print;
pub mod simulate;
pub mod world;

pub use print::Output;
