//! What `/proc` says of the machine.
//!
//! Files below `net` and `sys/net` show the network namespace of the thread that reads them, hence `thread-self`.

use super::{Finding, Severity};
use dataplane_iptables::programs::Variant;
use std::io;
use std::path::PathBuf;

/// Oldest kernel: catch-all elements of maps are younger than 5.10, and what is older than 5.14 is not tested.
const OLDEST: (u32, u32) = (5, 14);
/// Oldest kernel where policy is held in iptables: the programs that write it are waited for by descriptors of processes,
/// which are as old as 5.3. What is older than [`OLDEST`] is not tested there either.
const OLDEST_FOR_IPTABLES: (u32, u32) = (5, 4);
/// Capability to change the network, by its number.
const CAP_NET_ADMIN: u32 = 12;
/// How full the table of connections may be, in hundredths.
const NEARLY_FULL: u64 = 85;
const BE_ROOT: &str = "run it as root";

/// The folder that the files are in.
pub(super) struct Proc {
    root: PathBuf,
}

impl Default for Proc {
    fn default() -> Self {
        Proc {
            root: PathBuf::from("/proc"),
        }
    }
}

impl Proc {
    #[cfg(test)]
    pub(super) fn at(root: impl Into<PathBuf>) -> Self {
        Proc { root: root.into() }
    }

    fn read(&self, file: &str) -> io::Result<String> {
        std::fs::read_to_string(self.root.join(file)).map(|text| text.trim().to_string())
    }

    /// Whether the kernel is new enough for policy in nftables.
    pub(super) fn kernel(&self) -> Finding {
        self.kernel_since(OLDEST)
    }

    /// The same for policy in iptables.
    pub(super) fn kernel_for_iptables(&self) -> Finding {
        self.kernel_since(OLDEST_FOR_IPTABLES)
    }

    fn kernel_since(&self, oldest: (u32, u32)) -> Finding {
        let name = "kernel";
        let (major, minor) = oldest;
        let release = match self.read("sys/kernel/osrelease") {
            Ok(release) => release,
            Err(error) => return Finding::unseen(name, error, "mount /proc"),
        };
        match version(&release) {
            Some(found) if found >= oldest => Finding::ok(name, format!("Linux {release}")),
            Some(_) => Finding::new(
                name,
                Severity::Fatal,
                format!("Linux {release} is too old: policy cannot be enforced with it"),
                format!("upgrade to Linux {major}.{minor} or newer"),
            ),
            None => Finding::unseen(name, format!("'{release}' is no version"), ""),
        }
    }

    pub(super) fn privileges(&self) -> Finding {
        let name = "privileges";
        let status = match self.read("thread-self/status") {
            Ok(status) => status,
            Err(error) => return Finding::unseen(name, error, "mount /proc"),
        };
        let effective = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
        match effective {
            Some(bits) if bits >> CAP_NET_ADMIN & 1 == 1 => {
                Finding::ok(name, "this process may change the network (CAP_NET_ADMIN)")
            }
            Some(_) => Finding::new(
                name,
                Severity::Warning,
                "this process lacks CAP_NET_ADMIN, so much could not be looked at",
                BE_ROOT,
            ),
            None => Finding::unseen(name, "the process's status names no capabilities", ""),
        }
    }

    /// Whether the node forwards, by family.
    pub(super) fn forwarding(&self) -> Vec<Finding> {
        let check = |name, family: &str, file: &str, setting: &str| match self.read(file) {
            Ok(value) if value == "0" => Finding::new(
                name,
                Severity::Warning,
                format!("{family} packets are not forwarded: pods reach nobody beyond their node"),
                format!("sysctl -w {setting}=1, and write it to /etc/sysctl.d"),
            ),
            Ok(_) => Finding::ok(name, format!("{family} packets are forwarded")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Finding::ok(name, format!("this kernel has no {family}"))
            }
            Err(error) => Finding::unseen(name, error, BE_ROOT),
        };
        vec![
            check(
                "ipv4-forwarding",
                "IPv4",
                "sys/net/ipv4/ip_forward",
                "net.ipv4.ip_forward",
            ),
            check(
                "ipv6-forwarding",
                "IPv6",
                "sys/net/ipv6/conf/all/forwarding",
                "net.ipv6.conf.all.forwarding",
            ),
        ]
    }

    /// The kernel takes the greater of `all` and an interface's own value, so `all` decides about workload interfaces
    /// and about the node's own ones.
    pub(super) fn reverse_path(&self) -> Finding {
        let name = "rp_filter";
        let value = match self.read("sys/net/ipv4/conf/all/rp_filter") {
            Ok(value) => value,
            Err(error) => return Finding::unseen(name, error, BE_ROOT),
        };
        match value.as_str() {
            "0" => Finding::ok(
                name,
                "off for all interfaces; workload interfaces get their own check",
            ),
            "2" => Finding::ok(
                name,
                "loose for all interfaces, workload interfaces included; Manx checks the addresses of workloads itself",
            ),
            "1" => Finding::new(
                name,
                Severity::Warning,
                "strict for all interfaces: a node with several uplinks drops what comes back by another",
                "where a node has several uplinks: sysctl -w net.ipv4.conf.all.rp_filter=2",
            ),
            other => Finding::unseen(name, format!("'{other}' has no known meaning"), ""),
        }
    }

    pub(super) fn connection_table(&self) -> Finding {
        let name = "conntrack-table";
        let number = |file: &str| -> io::Result<Option<u64>> { Ok(self.read(file)?.parse().ok()) };
        let count = number("sys/net/netfilter/nf_conntrack_count");
        let limit = number("sys/net/netfilter/nf_conntrack_max");
        match (count, limit) {
            (Ok(Some(count)), Ok(Some(limit))) if limit > 0 => {
                let hundredths = count.saturating_mul(100) / limit;
                if hundredths >= NEARLY_FULL {
                    return Finding::new(
                        name,
                        Severity::Warning,
                        format!(
                            "{count} of at most {limit} connections are tracked: new ones are soon refused"
                        ),
                        format!(
                            "sysctl -w net.netfilter.nf_conntrack_max={}",
                            limit.saturating_mul(2)
                        ),
                    );
                }
                Finding::ok(name, format!("{count} of at most {limit} connections"))
            }
            // The module is loaded with the first rule that needs it.
            (Err(error), _) | (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                Finding::ok(name, "not in use yet")
            }
            (Err(error), _) | (_, Err(error)) => Finding::unseen(name, error, BE_ROOT),
            _ => Finding::unseen(name, "the kernel gives no numbers", ""),
        }
    }

    /// With Services in IPVS, what clients send to a Service leaves its node by the output path, on which traffic from
    /// the node to its own workloads is let through: no ingress policy is asked.
    pub(super) fn ipvs(&self) -> Finding {
        let name = "ipvs";
        match self.read("thread-self/net/ip_vs") {
            Ok(table) => match services(&table) {
                0 => Finding::ok(name, "IPVS has no Services"),
                count => Finding::new(
                    name,
                    Severity::Bypass,
                    format!(
                        "IPVS holds {count} Services (kube-proxy in IPVS mode?): traffic to a Service goes past \
                         the ingress policies of the pods on this node"
                    ),
                    "run kube-proxy in nftables or iptables mode, then clear what it left: kube-proxy --cleanup, or ipvsadm -C",
                ),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Finding::ok(name, "IPVS is not in use"),
            Err(error) => Finding::unseen(name, error, BE_ROOT),
        }
    }

    /// The tables of the older iptables are not nftables', and netlink shows nothing of them. What policy that is held there
    /// accepts, nothing behind it in the same table drops.
    pub(super) fn old_iptables(&self, prefixes: &[String], held: Option<Variant>) -> Vec<Finding> {
        let families = [
            ("old-iptables", "ip_tables_names", "iptables-legacy"),
            ("old-ip6tables", "ip6_tables_names", "ip6tables-legacy"),
        ];
        let look = |(name, file, program): (&'static str, &str, &str)| match self
            .read(&format!("thread-self/net/{file}"))
        {
            Ok(tables) if tables.lines().any(|table| table == "filter") && held == Some(Variant::Legacy) => {
                Finding::ok(name, format!("policy is held in the table 'filter' of {program}"))
            }
            Ok(tables) if tables.lines().any(|table| table == "filter") => Finding::new(
                name,
                Severity::Warning,
                format!(
                    "{program} has a table 'filter', which cannot be seen from here: its chain FORWARD may drop what Manx lets through"
                ),
                format!(
                    "look: {program} -S FORWARD; where its policy is DROP: {}",
                    accept_commands(program, prefixes)
                ),
            ),
            Ok(_) => Finding::ok(name, format!("{program} has no table 'filter'")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Finding::ok(name, format!("{program} is not in use"))
            }
            Err(error) => Finding::unseen(name, error, BE_ROOT),
        };
        families.into_iter().map(look).collect()
    }
}

/// The commands by which an iptables of either kind lets workloads' traffic through.
pub(super) fn accept_commands(program: &str, prefixes: &[String]) -> String {
    let commands: Vec<String> = prefixes
        .iter()
        .flat_map(|prefix| {
            ["-i", "-o"].map(|side| format!("{program} -I FORWARD {side} {prefix}+ -j ACCEPT"))
        })
        .collect();
    commands.join("; ")
}

/// Major and minor number of a release such as `6.1.0-56-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse::<u32>().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// How many services an IPVS table lists, its heads left out.
fn services(table: &str) -> usize {
    let is_service = |line: &&str| {
        let first = line.split_whitespace().next();
        matches!(first, Some("TCP" | "UDP" | "SCTP" | "FWM"))
    };
    table.lines().filter(is_service).count()
}
