//! The names and addresses of everything that the lab makes. Made and recognised here only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

/// Folder of everything that the lab keeps. It is gone after a reboot, as are the namespaces.
pub const FOLDER: &str = "/run/manx-lab";
/// How the names of the lab's network namespaces begin.
pub const NAMESPACE_PREFIX: &str = "manx-lab-";
/// Where named network namespaces stand.
pub const NETNS_FOLDER: &str = "/run/netns";
/// Pool of pod addresses where the manifests have none.
pub const DEFAULT_POOLS: [(&str, &str); 2] = [("lab-ipv4", "10.65.0.0/16"), ("lab-ipv6", "fd65:6c61:6200::/64")];
/// Addresses of the host outside the cluster.
pub const OUTSIDE_ADDRESSES: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)),
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 20)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x10)),
];
/// TCP ports that the host outside answers at.
pub const OUTSIDE_PORTS: [u16; 3] = [80, 443, 8080];

/// A file or folder of the lab.
pub fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// The datastore's folder.
pub fn datastore() -> PathBuf {
    path("datastore")
}

/// A node's folder.
pub fn node_folder(node: &str) -> PathBuf {
    path("nodes").join(node)
}

/// A node's CNI socket.
pub fn cni_socket(node: &str) -> PathBuf {
    node_folder(node).join("cni.sock")
}

/// Network namespace of a node.
pub fn node_namespace(node: &str) -> String {
    format!("{NAMESPACE_PREFIX}node-{node}")
}

/// Network namespace of a pod.
pub fn pod_namespace(namespace: &str, pod: &str) -> String {
    format!("{NAMESPACE_PREFIX}pod-{namespace}.{pod}")
}

/// Network namespace of the wire between the nodes.
pub const FABRIC: &str = "manx-lab-fabric";
/// Network namespace of the host outside the cluster.
pub const OUTSIDE: &str = "manx-lab-outside";

/// Path of a network namespace.
pub fn namespace_path(name: &str) -> PathBuf {
    Path::new(NETNS_FOLDER).join(name)
}

/// Addresses of the n-th node (from 1) where no manifest says them.
pub fn node_addresses(n: usize) -> [IpAddr; 2] {
    let n = u16::try_from(n).unwrap_or(u16::MAX);
    [
        IpAddr::V4(Ipv4Addr::new(10, 98, (n >> 8) as u8, n as u8)),
        IpAddr::V6(Ipv6Addr::new(0xfd98, 0x6c61, 0x6200, 0, 0, 0, 0, n)),
    ]
}
