//! What nf_tables of this node's kernel can do for us, and whether kube-proxy uses it.

use crate::checks;
use dataplane_nftables::socket::{DumpError, Link};
use dataplane_nftables::wire::Family;
use nix::errno::Errno;

/// The table of a kube-proxy in nftables mode.
const KUBE_PROXY: &str = "kube-proxy";

/// What nf_tables is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NfTables {
    /// It has everything that policies need, as far as that could be tried.
    Sufficient {
        /// Whether kube-proxy has a table there.
        kube_proxy: bool,
    },
    /// It lacks something that policies need, said in a sentence.
    Lacks(String),
    /// The kernel has none.
    Absent,
}

impl NfTables {
    /// Looks, in the calling thread's network namespace. What policies need is tried in one that vanishes; where none can be
    /// made, which takes more privileges than an agent needs, it is believed to be there.
    pub fn look() -> Self {
        // Without such a socket there are no IP sets either: the driver says what lacks.
        let Ok(mut link) = Link::open() else {
            return NfTables::Sufficient { kube_proxy: false };
        };
        let tables = [Family::Ipv4, Family::Ipv6].map(|family| link.tables(family));
        if tables.iter().all(is_unknown) {
            return NfTables::Absent;
        }
        if let Some(lack) = checks::lacking_features() {
            return NfTables::Lacks(lack);
        }
        let kube_proxy = tables
            .iter()
            .flatten()
            .flatten()
            .any(|table| table.name == KUBE_PROXY);
        NfTables::Sufficient { kube_proxy }
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
