//! In what policy is held on this node: nftables, or iptables in one of its variants.
//!
//! `NFTablesMode` says it. Auto takes nftables wherever the kernel has what is needed, because it is the faster one and its
//! table can be closed to others; what else is on the node does not matter for that. A kube-proxy in iptables mode is lived
//! beside: its translation of addresses happens in front of our decisions in either case. So Auto means iptables only where
//! nftables cannot be had. Which variant of iptables then, is `IptablesBackend`'s: there rules of others do matter, since a
//! node whose rules are spread over both variants is hard to understand.
//!
//! It is decided once, at the start; a change of the settings starts the agent anew.

mod kernel;
mod settings;

pub use kernel::NfTables;
use settings::iptables;
pub(crate) use settings::{programs, refresh};

use crate::settings::Settings;
use crate::settings::parse::{IptablesVariant, NftablesMode};
use dataplane::RulesBackend;
use dataplane_iptables::programs::BackendChoice;

/// What is not the same in iptables, said once at the start.
pub const IPTABLES_DIFFERS: &str = "in iptables others cannot be kept from writing to the tables (NftablesOwnedTable has no \
     effect): what they change of ours is noticed and mended; neighbour discovery from link-local addresses is open to every \
     workload";

/// What was chosen, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// In what policy is held.
    pub backend: RulesBackend,
    /// Why, in words that follow "because".
    pub why: String,
}

impl Chosen {
    /// What is chosen by these settings on a node with such a kernel.
    pub fn of(settings: &Settings, kernel: &NfTables) -> Self {
        let (is_nftables, why) = decide(settings.nftables_mode, kernel);
        let backend = if is_nftables {
            RulesBackend::Nftables
        } else {
            RulesBackend::Iptables(iptables(settings, variant(settings, kernel)))
        };
        Chosen { backend, why }
    }

    /// What is chosen on this node, by a look at it in the calling thread's network namespace.
    pub fn here(settings: &Settings) -> Self {
        Chosen::of(settings, &NfTables::look())
    }

    /// The choice in one line.
    pub fn sentence(&self) -> String {
        let what = match &self.backend {
            RulesBackend::Nftables => "nftables".to_owned(),
            RulesBackend::Iptables(own) => format!("iptables (IptablesBackend {})", own.choice),
        };
        format!("policy is held in {what}, because {}", self.why)
    }
}

/// Whether nftables is to be used, and why.
fn decide(mode: Option<NftablesMode>, kernel: &NfTables) -> (bool, String) {
    match (mode, kernel) {
        (Some(NftablesMode::Enabled), _) => (true, "NFTablesMode is Enabled".to_owned()),
        (Some(NftablesMode::Disabled), _) => (false, "NFTablesMode is Disabled".to_owned()),
        (Some(NftablesMode::Auto) | None, NfTables::Sufficient { kube_proxy }) => {
            let beside = if *kube_proxy {
                ", and kube-proxy has its rules there"
            } else {
                ""
            };
            (
                true,
                format!("NFTablesMode is Auto and the kernel has what is needed{beside}"),
            )
        }
        (Some(NftablesMode::Auto) | None, NfTables::Lacks(what)) => {
            (false, format!("NFTablesMode is Auto and {what}"))
        }
        (Some(NftablesMode::Auto) | None, NfTables::Absent) => (
            false,
            "NFTablesMode is Auto and this kernel has no nf_tables".to_owned(),
        ),
    }
}

fn variant(settings: &Settings, kernel: &NfTables) -> BackendChoice {
    match (settings.iptables_backend, kernel) {
        (Some(IptablesVariant::Legacy), _) => BackendChoice::Legacy,
        (Some(IptablesVariant::Nft), _) => BackendChoice::Nft,
        // The other variant writes nf_tables too.
        (Some(IptablesVariant::Auto) | None, NfTables::Absent) => BackendChoice::Legacy,
        (Some(IptablesVariant::Auto) | None, _) => BackendChoice::Auto,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(mode: &str, variant: &str, kernel: &NfTables) -> (&'static str, String) {
        let mut layer = crate::settings::Layer::new(crate::settings::Source::Environment);
        layer = layer.with("NFTablesMode", mode).with("IptablesBackend", variant);
        let mut layers = crate::settings::Layers::new(Some("a".into()));
        layers.put(layer);
        let chosen = Chosen::of(&layers.resolve().unwrap().settings, kernel);
        let name = match &chosen.backend {
            RulesBackend::Nftables => "nftables",
            RulesBackend::Iptables(own) => match own.choice {
                BackendChoice::Auto => "auto",
                BackendChoice::Legacy => "legacy",
                BackendChoice::Nft => "nft",
            },
        };
        (name, chosen.sentence())
    }

    #[test]
    fn nftables_is_taken_wherever_the_kernel_has_what_is_needed() {
        let full = |kube_proxy| NfTables::Sufficient { kube_proxy };
        let lacks = NfTables::Lacks("nf_tables of this kernel lacks: verdict maps".to_owned());
        for (mode, variant, kernel, expected) in [
            ("Auto", "Auto", full(false), "nftables"),
            ("Auto", "Legacy", full(true), "nftables"),
            ("none", "none", full(false), "nftables"),
            ("Auto", "Auto", lacks.clone(), "auto"),
            ("Auto", "NFT", lacks.clone(), "nft"),
            ("Auto", "Auto", NfTables::Absent, "legacy"),
            ("auto", "none", NfTables::Absent, "legacy"),
            ("Enabled", "Legacy", NfTables::Absent, "nftables"),
            ("Enabled", "Auto", lacks.clone(), "nftables"),
            ("Disabled", "Auto", full(true), "auto"),
            ("disabled", "legacy", full(false), "legacy"),
            ("Disabled", "nft", full(false), "nft"),
            ("Disabled", "Auto", NfTables::Absent, "legacy"),
        ] {
            let (name, sentence) = chosen(mode, variant, &kernel);
            assert_eq!(name, expected, "{mode} {variant} {kernel:?}: {sentence}");
            assert!(sentence.contains("because NFTablesMode is"), "{sentence}");
        }
        let (_, sentence) = chosen("Auto", "Auto", &lacks);
        assert!(sentence.contains("lacks: verdict maps"), "{sentence}");
        let (_, sentence) = chosen("Auto", "Auto", &full(true));
        assert!(sentence.contains("kube-proxy has its rules there"), "{sentence}");
    }
}
