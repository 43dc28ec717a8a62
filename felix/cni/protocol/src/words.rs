//! Requests and answers: one JSON document a line, one request and one answer a connection.
//!
//! The version stands in every request. A node understands its own version and its neighbours'; fields that it does
//! not know are ignored, and fields that a caller leaves out have defaults. Version 2 added descriptors, wishes for
//! addresses, collection and addresses without an interface. Ports of the node came to it later: a node that knows them
//! repeats them in its answer.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The version of this protocol.
pub const VERSION: u32 = 2;

/// A descriptor of the sandbox's network namespace, in [`Request::descriptors`].
pub const NAMESPACE: &str = "netns";
/// A netlink socket (route family) that was opened inside the sandbox, in [`Request::descriptors`].
///
/// With it the node needs no right to enter the sandbox.
pub const NETLINK: &str = "netlink";
/// Most descriptors that go with a request.
pub const MOST_DESCRIPTORS: usize = 8;

/// Error codes: those of the CNI specification, and the ones that it leaves to plugins (100 and up).
pub mod code {
    /// The version is not understood.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A field of the network configuration has a value that is not supported.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The sandbox or the attachment cannot be found.
    pub const UNKNOWN_SANDBOX: u32 = 3;
    /// A field of the request (for the plugin: an environment variable) is not valid.
    pub const INVALID_REQUEST: u32 = 4;
    /// Something could not be read or written.
    pub const IO: u32 = 5;
    /// Something could not be decoded.
    pub const DECODE: u32 = 6;
    /// The network configuration is not valid.
    pub const INVALID_CONFIGURATION: u32 = 7;
    /// Try again later: something that is needed is not there yet.
    pub const TRY_AGAIN: u32 = 11;
    /// The node cannot connect workloads now; also: there is no address to give.
    pub const NOT_AVAILABLE: u32 = 50;
    /// There is no address to give.
    pub const NO_ADDRESS: u32 = NOT_AVAILABLE;
    /// The node cannot connect workloads now, and those that are connected may have limited connectivity.
    pub const LIMITED: u32 = 51;
    /// The kernel refused.
    pub const KERNEL: u32 = 100;
    /// The datastore or the node's journal failed.
    pub const STORE: u32 = 101;
    /// A port of the node that is asked for belongs to another pod.
    pub const PORT_TAKEN: u32 = 102;
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

/// Longest part of a key that stands in a file's name, in bytes; file systems take 255.
const LONGEST_NAME: usize = 200;

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

    /// A name for a file about this attachment, without its ending: the key, with everything that a path could misread
    /// written as a number.
    pub fn file_stem(&self) -> String {
        let mut name = String::new();
        for part in [&self.network, &self.container_id, &self.interface] {
            for byte in part.bytes() {
                match byte {
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => name.push(char::from(byte)),
                    other => name.push_str(&format!("%{other:02x}")),
                }
            }
            name.push('_');
        }
        if name.len() > LONGEST_NAME {
            // Cut names stay different: the rest is in the number (FNV-1a).
            let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
                (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
            });
            name.truncate(LONGEST_NAME);
            name.push_str(&format!("{hash:016x}"));
        }
        name
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
        /// Path of the sandbox's network namespace. A descriptor of it wins, where the caller sends one.
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
    /// Give addresses to a sandbox whose interface somebody else makes.
    Assign {
        /// Which attachment.
        key: AttachmentKey,
        /// Namespace of the pod; may be empty.
        #[serde(default)]
        namespace: String,
        /// Name of the pod; may be empty.
        #[serde(default)]
        pod: String,
        /// UID of the pod, where the caller knows it.
        #[serde(default)]
        uid: String,
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
        /// Path of the sandbox's network namespace. A descriptor of it wins, where the caller sends one.
        netns: String,
    },
    /// Remove every attachment of a network that is not named.
    Gc {
        /// Name of the network.
        network: String,
        /// Those that stay.
        valid: Vec<Valid>,
    },
    /// Say whether the node can connect workloads.
    Status,
}

/// The CNI operation and what it is about, for people.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Add { key, .. } => write!(f, "ADD {key}"),
            Command::Assign { key, .. } => write!(f, "ADD {key} (addresses only)"),
            Command::Del { key } => write!(f, "DEL {key}"),
            Command::Check { key, .. } => write!(f, "CHECK {key}"),
            Command::Gc { network, .. } => write!(f, "GC {network}"),
            Command::Status => f.write_str("STATUS"),
        }
    }
}

/// One attachment that is still valid, of the network that is collected.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Valid {
    /// Identity of the sandbox.
    pub container_id: String,
    /// Name of the interface inside.
    pub interface: String,
}

/// A port of the node that leads to a port of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortMapping {
    /// Protocol.
    pub protocol: Transport,
    /// The one address of the node at which it is; all of them where it lacks. The unspecified address of a family is
    /// every address of that family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// Port of the node.
    pub host_port: u16,
    /// Port of the workload.
    pub container_port: u16,
}

impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            Some(ip) => write!(f, "{} {}", self.protocol, SocketAddr::new(ip, self.host_port)),
            None => write!(f, "{} {}", self.protocol, self.host_port),
        }
    }
}

/// A protocol with ports that the kernel can lead elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Tcp => "TCP",
            Transport::Udp => "UDP",
            Transport::Sctp => "SCTP",
        })
    }
}

/// What the network configuration says about addresses. What a pod's or a namespace's annotations say wins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AddressWishes {
    /// Who gives addresses: empty or `calico-ipam` is the node from its pools, `host-local` from the node's pod range.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// What is wished for IPv4.
    pub v4: Family,
    /// What is wished for IPv6.
    pub v6: Family,
}

/// What is wished for one family of addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Family {
    /// Whether there is to be one; where nobody says, whether an enabled pool has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assign: Option<bool>,
    /// Names or ranges of the pools to take it from; empty means any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<String>,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Protocol version of the caller.
    pub version: u32,
    /// What to do.
    #[serde(flatten)]
    pub command: Command,
    /// What the descriptors are that go with the first byte, in their order. Unknown ones are closed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub descriptors: Vec<String>,
    /// Wishes for addresses.
    #[serde(default, skip_serializing_if = "is_default")]
    pub addresses: AddressWishes,
    /// Ports of the node that are to lead to the workload that is connected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<PortMapping>,
}

fn is_default(wishes: &AddressWishes) -> bool {
    *wishes == AddressWishes::default()
}

impl Request {
    /// A request in this version.
    pub fn new(command: Command) -> Self {
        Request {
            version: VERSION,
            command,
            descriptors: Vec::new(),
            addresses: AddressWishes::default(),
            host_ports: Vec::new(),
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
    /// Hardware address on the node; the gateways' too.
    #[serde(default)]
    pub host_mac: String,
    /// Next hops of the workload, one a family.
    #[serde(default)]
    pub gateways: Vec<IpAddr>,
    /// Largest packet in bytes; 0 where it is not known.
    #[serde(default)]
    pub mtu: u32,
    /// Ports of the node that lead to the workload.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<PortMapping>,
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
