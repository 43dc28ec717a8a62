//! The cluster controller: manifests in, datastore model out.
//!
//! It follows a folder of Kubernetes manifests and keeps the datastore in step with what they say, whoever changes
//! either. Every object that it writes says from which file it comes ([`ANNOTATION_SOURCE`]); objects without that are
//! somebody else's, and it never touches them. One controller keeps one datastore: what carries the annotation and
//! stands in none of its files is deleted.
//!
//! | room | what it does |
//! |---|---|
//! | `folder` | which files there are, and what happens to them |
//! | `wanted`, `sources`, `placement` | what they amount to, from which file, and on which node (pure) |
//! | `observed` | what the datastore holds |
//! | `overlap` | what else has addresses of a pool (pure) |
//! | `decide` | what is to be done about one object, and when (pure) |
//! | `controller` | the loop, and the writes |
//! | `departed` | addresses of nodes that are gone |
//! | `faults`, `metrics`, `health`, `http`, `probe` | how it stands, for people and programs |
//! | `cluster` | the other mode: Kubernetes' own objects are the datastore, and one of several replicas leads |
//! | `uninstall` | the job that takes the network off a cluster |

mod cluster;
mod controller;
mod decide;
mod departed;
mod exposition;
mod faults;
mod folder;
mod health;
mod http;
mod metrics;
mod observed;
mod overlap;
mod placement;
mod probe;
mod sources;
mod uninstall;
mod wanted;

pub use cluster::{
    Cluster, ConnectError, Enabled, InvalidVariable, Settings, Timings, Variables, WantedPools,
    parse_duration,
};
pub use controller::{Controller, Options};
pub use departed::{ReleaseError, release_node};
pub use faults::{Fault, FaultFileError, Standing};
pub use folder::{Content, Edit, Folder, FolderError, FolderOptions, LARGEST_FILE, Texts, read_once};
pub use health::{Health, SILENCE};
pub use http::{Host, Pages, ServerError, serve};
pub use metrics::Metrics;
pub use probe::{StatusError, check_status};
pub use uninstall::{UninstallError, UninstallOptions, uninstall};
pub use wanted::{ANNOTATION_INCOMPLETE, ANNOTATION_SOURCE, IMPLIED_SOURCE, WantedOptions};

/// An error with everything that caused it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some errors repeat their cause in their own text.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
