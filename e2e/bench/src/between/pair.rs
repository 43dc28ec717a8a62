//! Two nodes on one cable with a pod on each, made by Manx or by hand.

use crate::bed::{pin, set};
use crate::hands::Hands;
use crate::nodes::ip;
use crate::realm::{self, Way};
use anyhow::Context;
use dataplane_netlink::links::{VethEnd, create_veth};
use dataplane_netlink::workload::{ConnectRequest, WorkloadSettings, Workloads};
use dataplane_netlink::{InterfaceName, MacAddress, NetworkNamespace, Rtnetlink};
use policy_model::{Action, Object, PolicyRule, ProfileSpec, Resource, WorkloadEndpointSpec};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

/// The interface of each node's pod.
const INTERFACE: &str = "cali0";
/// The gateway that every pod has.
const GATEWAY: &str = "169.254.1.1";
/// The number and the device of a tunnel that is made by hand; the same number as ours.
const HAND_MADE: (u32, &str) = (4096, "hand0");

/// Who made the way between the pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Maker {
    /// Manx, with its policy table.
    Manx,
    /// The program `ip`, and connection tracking.
    Hand,
    /// The same on a node where somebody translates addresses, as kube-proxy does on every node of Kubernetes.
    HandTranslating,
}

/// Two nodes with a pod on each. Everything goes when it is dropped.
#[derive(Debug)]
pub(super) struct Pair {
    /// The nodes' namespaces.
    pub(super) nodes: [NetworkNamespace; 2],
    /// The pods' namespaces.
    pub(super) pods: [NetworkNamespace; 2],
}

/// The address of a node's pod.
pub(super) fn pod_address(node: u32) -> Ipv4Addr {
    realm::in_block(node, 10)
}

/// The objects of the two nodes, as both know them.
pub(super) fn objects(way: Way) -> Vec<Resource> {
    let allow = || {
        vec![PolicyRule {
            action: Action::Allow,
            ..PolicyRule::default()
        }]
    };
    let profile = ProfileSpec {
        ingress: allow(),
        egress: allow(),
        ..ProfileSpec::default()
    };
    let mut all = vec![realm::pool(way), Object::named("kns.bench", profile).into()];
    for node in 0..2 {
        all.extend(realm::node_with_blocks(node, 1));
        let spec = WorkloadEndpointSpec {
            orchestrator: "k8s".to_string(),
            node: realm::name(node),
            pod: format!("pod-{node}"),
            endpoint: "eth0".to_string(),
            ip_networks: vec![std::net::IpAddr::V4(pod_address(node)).into()],
            profiles: vec!["kns.bench".to_string()],
            interface_name: INTERFACE.to_string(),
            ..WorkloadEndpointSpec::default()
        };
        all.push(Object::namespaced("bench", format!("pod-{node}"), spec).into());
    }
    all
}

impl Pair {
    /// Makes the nodes, their cable and their pods, and the way between these.
    ///
    /// # Errors
    /// The kernel refused.
    pub(super) fn make(way: Way, maker: Maker) -> anyhow::Result<Self> {
        let nodes = [NetworkNamespace::anonymous()?, NetworkNamespace::anonymous()?];
        let pods = [NetworkNamespace::anonymous()?, NetworkNamespace::anonymous()?];
        let [first, second] = &nodes;
        first.run(|| -> anyhow::Result<()> {
            let end = VethEnd {
                name: InterfaceName::new("eth0")?,
                mac: None,
            };
            create_veth(&mut Rtnetlink::open()?, &end, &end, second, 1500)?;
            Ok(())
        })??;
        for (number, (node, pod)) in (0u32..).zip(nodes.iter().zip(&pods)) {
            node.run(|| -> anyhow::Result<()> {
                set("net/ipv4/ip_forward", "1")?;
                ip("link set lo up")?;
                ip("link set eth0 up")?;
                ip(&format!(
                    "addr add {}/{} dev eth0",
                    realm::address(number),
                    realm::prefix()
                ))?;
                connect(number, pod, way)?;
                match maker {
                    Maker::Manx => Hands::open(&realm::name(number))?.begin(objects(way)).map(drop),
                    Maker::Hand => by_hand(number, way),
                    Maker::HandTranslating => by_hand(number, way).and_then(|()| nft(TRANSLATION)),
                }
            })??;
            pod.run(|| -> anyhow::Result<()> {
                let mac = MacAddress::HOST_SIDE;
                ip(&format!(
                    "neigh replace {GATEWAY} lladdr {mac} dev eth0 nud permanent"
                ))
            })??;
        }
        for namespace in nodes.iter().chain(&pods) {
            // What a closed connection leaves behind would else fill up over the rounds.
            namespace.run(|| set("net/ipv4/tcp_max_tw_buckets", "0"))??;
        }
        Ok(Pair { nodes, pods })
    }

    /// Does something on one processor in the first node's namespace.
    ///
    /// # Errors
    /// What it does failed.
    pub(super) fn on_first<T: Send>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        let [first, _] = &self.nodes;
        first.run(|| {
            pin(0)?;
            work()
        })?
    }
}

/// Connects a node's pod as the product does, with the largest packet that fits.
fn connect(node: u32, pod: &NetworkNamespace, way: Way) -> anyhow::Result<()> {
    let mtu = match way {
        Way::Plain => 1500,
        Way::Vxlan => 1450,
        Way::Ipip => 1480,
    };
    Workloads::open(WorkloadSettings::default())?.connect(&ConnectRequest {
        namespace: pod,
        container_interface: InterfaceName::new("eth0")?,
        host_interface: InterfaceName::new(INTERFACE)?,
        addresses: vec![pod_address(node).into()],
        mtu,
        container_mac: None,
        routes: Vec::new(),
    })?;
    Ok(())
}

/// The same way made with the distribution's programs, and connection tracking as every node has it.
fn by_hand(node: u32, way: Way) -> anyhow::Result<()> {
    let other = 1 - node;
    let (own, there) = (realm::address(node), realm::address(other));
    let (block, tunnel) = (realm::in_block(other, 0), realm::in_block(other, 0));
    ip(&format!("route replace {} dev {INTERFACE}", pod_address(node)))?;
    let (number, device) = HAND_MADE;
    let mac = |node: u32| format!("02:00:00:00:00:{:02x}", node + 1);
    match way {
        Way::Plain => ip(&format!("route add {block}/26 via {there}"))?,
        Way::Vxlan => {
            ip(&format!(
                "link add {device} address {} mtu 1450 type vxlan id {number} local {own} dstport 4789 nolearning",
                mac(node)
            ))?;
            ip(&format!("addr add {}/32 dev {device}", realm::in_block(node, 0)))?;
            ip(&format!("link set {device} up"))?;
            ip(&format!(
                "neigh add {tunnel} lladdr {} dev {device} nud permanent",
                mac(other)
            ))?;
            let output = Command::new("bridge")
                .args([
                    "fdb",
                    "add",
                    &mac(other),
                    "dev",
                    device,
                    "dst",
                    &there.to_string(),
                ])
                .output()
                .context("running the program 'bridge' (package iproute2)")?;
            crate::bed::succeeded("bridge fdb add", &output)?;
            ip(&format!("route add {block}/26 via {tunnel} dev {device} onlink"))?;
        }
        Way::Ipip => {
            // The kernel makes it in every namespace once it has such devices at all.
            ip("link set tunl0 mtu 1480 up")?;
            ip(&format!("addr add {}/32 dev tunl0", realm::in_block(node, 1)))?;
            ip(&format!("route add {block}/26 via {there} dev tunl0 onlink"))?;
        }
    }
    nft(TRACKING)
}

/// Rules by which the kernel tracks connections.
const TRACKING: &str = "add table inet hand; add chain inet hand forward { type filter hook forward priority 0; }; \
                        add rule inet hand forward ct state established,related accept";
/// Chains by which the kernel is ready to translate addresses, without a rule.
const TRANSLATION: &str = "add chain inet hand incoming { type nat hook prerouting priority -100; }; \
                           add chain inet hand outgoing { type nat hook postrouting priority 100; }";

fn nft(commands: &str) -> anyhow::Result<()> {
    let output = Command::new("nft")
        .arg(commands)
        .output()
        .context("running the program 'nft' (package nftables)")?;
    crate::bed::succeeded("nft", &output)
}

/// Whether the kernel makes IPIP devices; asking loads its module, where it has one.
pub(super) fn kernel_has_ipip() -> bool {
    let asked = NetworkNamespace::anonymous().map(|namespace| {
        namespace.run(|| {
            Command::new("ip")
                .args(["link", "add", "probe", "type", "ipip", "remote", "192.0.2.1"])
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        })
    });
    matches!(asked, Ok(Ok(true)))
}
