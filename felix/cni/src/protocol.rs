//! What caller and node say to each other: one JSON document a line, one request and one answer a connection.
//!
//! The version stands in every request. A node understands its own version and its neighbours'; fields that it does
//! not know are ignored, and fields that a caller leaves out have defaults.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;

/// The version of this protocol.
pub const VERSION: u32 = 1;

/// Error codes, those of the CNI specification and the ones that it leaves to plugins (100 and up).
pub mod code {
    /// The protocol version is not understood.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A field of the request is not valid.
    pub const INVALID_REQUEST: u32 = 4;
    /// The sandbox cannot be used.
    pub const UNKNOWN_SANDBOX: u32 = 3;
    /// Try again later: something that is needed is not there yet.
    pub const TRY_AGAIN: u32 = 11;
    /// There is no address to give.
    pub const NO_ADDRESS: u32 = 50;
    /// The kernel refused.
    pub const KERNEL: u32 = 100;
    /// The datastore or the node's journal failed.
    pub const STORE: u32 = 101;
}

/// Names one attachment of one workload: a repeated request with the same key means the same attachment.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttachmentKey {
    /// Name of the network.
    pub network: String,
    /// Identity of the sandbox.
    pub container_id: String,
    /// Name of the interface inside.
    pub interface: String,
}

impl AttachmentKey {
    /// The handle under which its addresses are held.
    pub fn handle(&self) -> String {
        // Only further interfaces of one sandbox need their name in it; the first has the usual form.
        if self.interface == "eth0" {
            format!("{}.{}", self.network, self.container_id)
        } else {
            format!("{}.{}.{}", self.network, self.container_id, self.interface)
        }
    }
}

impl fmt::Display for AttachmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.network, self.container_id, self.interface)
    }
}

/// What the node is asked to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase")]
pub enum Command {
    /// Connect a workload.
    Add {
        /// Which attachment.
        key: AttachmentKey,
        /// Path of the sandbox's network namespace.
        netns: String,
        /// Namespace of the pod.
        namespace: String,
        /// Name of the pod.
        pod: String,
        /// UID of the pod, where the caller knows it.
        #[serde(default)]
        uid: String,
        /// Largest packet in bytes; 0 leaves it to the node.
        #[serde(default)]
        mtu: u32,
    },
    /// Disconnect a workload. Succeeds also when there is nothing to disconnect.
    Del {
        /// Which attachment.
        key: AttachmentKey,
    },
    /// Say whether an attachment is as it should be.
    Check {
        /// Which attachment.
        key: AttachmentKey,
        /// Path of the sandbox's network namespace.
        netns: String,
    },
    /// Say whether the node can connect workloads.
    Status,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Protocol version of the caller.
    pub version: u32,
    /// What to do.
    #[serde(flatten)]
    pub command: Command,
}

impl Request {
    /// A request in this version.
    pub fn new(command: Command) -> Self {
        Request {
            version: VERSION,
            command,
        }
    }
}

/// What an attachment is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Success {
    /// Addresses of the workload.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Hardware address inside.
    #[serde(default)]
    pub mac: String,
    /// Name of the interface on the node.
    #[serde(default)]
    pub host_interface: String,
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// One of [`code`].
    pub code: u32,
    /// A sentence that a person can act on.
    pub message: String,
}

impl Failure {
    /// A failure with its code and sentence.
    pub fn new(code: u32, message: impl fmt::Display) -> Self {
        Failure {
            code,
            message: message.to_string(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.message, self.code)
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// It was done.
    Ok(Success),
    /// It was not.
    Error(Failure),
}

/// Whether a node of this version understands a caller of that one.
pub fn understands(caller: u32) -> bool {
    caller.abs_diff(VERSION) <= 1
}
