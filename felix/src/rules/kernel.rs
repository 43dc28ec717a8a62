//! What nf_tables of this node's kernel can do for us, and where kube-proxy has its rules.

use crate::checks;
use dataplane_iptables::ipset::Ipsets;
use dataplane_iptables::ops::{Family as IpFamily, SetKind, Table};
use dataplane_iptables::ours::save;
use dataplane_iptables::programs::{ProgramSettings, Toolset, Variant, find};
use dataplane_nftables::socket::{DumpError, Link};
use dataplane_nftables::wire::Family;
use nix::errno::Errno;

/// The table of a kube-proxy in nftables mode.
const KUBE_PROXY: &str = "kube-proxy";
/// The table and the chain that a kube-proxy in iptables mode always has.
const NAT: &str = "nat";
const SERVICES: &str = "KUBE-SERVICES";

/// Where kube-proxy has its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KubeProxy {
    /// In a table of nf_tables: it is in nftables mode.
    Nftables,
    /// In chains of a variant of iptables: it is in iptables mode.
    Iptables {
        /// Which.
        variant: Variant,
        /// Why policy cannot be held there, if it cannot.
        unusable: Option<String>,
    },
    /// Nowhere, as far as can be seen: there is none, or it has not begun yet.
    Unseen,
}

/// What nf_tables is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NfTables {
    /// It has everything that policies need, as far as that could be tried.
    Sufficient {
        /// Where kube-proxy has its rules.
        kube_proxy: KubeProxy,
    },
    /// It lacks something that policies need, said in a sentence.
    Lacks(String),
    /// The kernel has none.
    Absent,
}

impl NfTables {
    /// Looks, in the calling thread's network namespace. What policies need is tried in one that vanishes; where none can be
    /// made, which takes more privileges than an agent needs, it is believed to be there. Programs of iptables are started
    /// only where the kernel says that there is something to be read by them.
    pub fn look(programs: &ProgramSettings) -> Self {
        // Without such a socket there are no IP sets either: the driver says what lacks.
        let Ok(mut link) = Link::open() else {
            return NfTables::Sufficient {
                kube_proxy: KubeProxy::Unseen,
            };
        };
        let tables = [Family::Ipv4, Family::Ipv6].map(|family| link.tables(family));
        if tables.iter().all(is_unknown) {
            return NfTables::Absent;
        }
        if let Some(lack) = checks::lacking_features() {
            return NfTables::Lacks(lack);
        }
        let mut tables = tables.iter().flatten().flatten();
        let kube_proxy = if tables.any(|table| table.name == KUBE_PROXY) {
            KubeProxy::Nftables
        } else if has_services(&mut link) {
            in_iptables(programs, Variant::Nft)
        } else if has_old_nat() && old_has_services(programs) {
            in_iptables(programs, Variant::Legacy)
        } else {
            KubeProxy::Unseen
        };
        NfTables::Sufficient { kube_proxy }
    }
}

/// Whether a kube-proxy has its chains in the nft variant, which is seen without its programs.
fn has_services(link: &mut Link) -> bool {
    [Family::Ipv4, Family::Ipv6].into_iter().any(|family| {
        let chains = link.chains(family, NAT).unwrap_or_default();
        chains.iter().any(|chain| chain.name == SERVICES)
    })
}

/// Whether the legacy variant has a table for address translation in this network namespace.
fn has_old_nat() -> bool {
    ["ip_tables_names", "ip6_tables_names"].into_iter().any(|file| {
        let names = std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
        names.lines().any(|name| name == NAT)
    })
}

fn old_has_services(programs: &ProgramSettings) -> bool {
    let has_in = |tools: &Toolset, family| {
        let saved = tools.save(family, Some(Table::Nat)).ok();
        let tables = saved
            .and_then(|saved| save::parse(&saved).ok())
            .unwrap_or_default();
        let mut chains = tables.iter().flat_map(|table| &table.chains);
        chains.any(|chain| chain.name == SERVICES)
    };
    let found = find(programs);
    found
        .variant(Variant::Legacy)
        .is_ok_and(|tools| tools.families().any(|family| has_in(tools, family)))
}

/// kube-proxy's rules in a variant, with the reason why ours cannot be there.
fn in_iptables(programs: &ProgramSettings, variant: Variant) -> KubeProxy {
    let found = find(programs);
    let lacks_programs = found.variant(variant).err().map(|error| error.to_string());
    let lacks_sets =
        || match Ipsets::open().and_then(|mut sets| sets.support(SetKind::HashIp, IpFamily::Inet)) {
            Ok(Some(_)) => None,
            Ok(None) => Some("the kernel lacks the IP set type hash:ip".to_owned()),
            Err(error) => Some(error.to_string()),
        };
    KubeProxy::Iptables {
        variant,
        unusable: lacks_programs.or_else(lacks_sets),
    }
}

/// Whether the kernel does not know the question, which it does not where it has no nf_tables.
fn is_unknown<T>(answer: &Result<T, DumpError>) -> bool {
    matches!(
        answer,
        Err(DumpError::Refused {
            errno: Errno::EINVAL | Errno::EOPNOTSUPP,
            ..
        })
    )
}
