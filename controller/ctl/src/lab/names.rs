//! The names and addresses of everything that the lab makes. Made and recognised here only.

pub(super) use crate::policy::world::DEFAULT_POOLS;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

/// Folder of everything that the lab keeps. It is gone after a reboot, as are the namespaces.
pub(super) const FOLDER: &str = "/run/manx-lab";
/// Variable in the environment of every process that the lab starts, by which it knows them again without its folder.
pub(super) const MARK: (&str, &str) = ("MANX_LAB", FOLDER);
/// How the names of the lab's network namespaces begin.
pub(super) const NAMESPACE_PREFIX: &str = "manx-lab-";
/// Where named network namespaces stand.
pub(super) const NETNS_FOLDER: &str = "/run/netns";
/// Addresses of the host outside the cluster.
pub(super) const OUTSIDE_ADDRESSES: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)),
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 20)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x10)),
];
/// Ports that the host outside answers at.
pub(super) const OUTSIDE_PORTS: [(&str, u16); 4] = [("TCP", 80), ("TCP", 443), ("TCP", 8080), ("UDP", 53)];
/// Network namespace of the wire between the nodes.
pub(super) const FABRIC: &str = "manx-lab-fabric";
/// Network namespace of the host outside the cluster.
pub(super) const OUTSIDE: &str = "manx-lab-outside";

/// Longest part of a name that is kept as it is: file names and socket paths have bounds.
const LONGEST: usize = 64;

/// A name that fits into file names; long ones end in a hash of the whole.
fn bounded(name: &str) -> String {
    if name.len() <= LONGEST {
        return name.to_string();
    }
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    let start: String = name.chars().take(LONGEST - 17).collect();
    format!("{start}-{:016x}", hasher.finish())
}

/// A file or folder of the lab.
pub(super) fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// The datastore's folder.
pub(super) fn datastore() -> PathBuf {
    path("datastore")
}

/// The file to which the controller writes what is wrong.
pub(super) fn faults() -> PathBuf {
    path("faults.json")
}

/// A node's folder.
pub(super) fn node_folder(node: &str) -> PathBuf {
    path("nodes").join(bounded(node))
}

/// A node's CNI socket.
pub(super) fn cni_socket(node: &str) -> PathBuf {
    node_folder(node).join("cni.sock")
}

/// Network namespace of a node.
pub(super) fn node_namespace(node: &str) -> String {
    format!("{NAMESPACE_PREFIX}node-{}", bounded(node))
}

/// Network namespace of a pod. Namespaces have no dots in their names, so no two pods share one.
pub(super) fn pod_namespace(namespace: &str, pod: &str) -> String {
    format!("{NAMESPACE_PREFIX}pod-{}", bounded(&format!("{namespace}.{pod}")))
}

/// Path of a network namespace.
pub(super) fn namespace_path(name: &str) -> PathBuf {
    Path::new(NETNS_FOLDER).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_stay_apart_and_fit() {
        let (one, other) = (format!("{}a", "x".repeat(253)), format!("{}b", "x".repeat(253)));
        assert_ne!(pod_namespace("n", &one), pod_namespace("n", &other));
        assert!(pod_namespace("n", &one).len() < 255);
        // What a Unix socket's path may have.
        assert!(cni_socket(&one).as_os_str().len() < 108);
        assert_eq!(pod_namespace("shop", "web"), "manx-lab-pod-shop.web");
    }
}
