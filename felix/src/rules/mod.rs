//! In what policy is held on this node: nftables, or iptables in one of its variants.
//!
//! `NFTablesMode` says it. Auto follows kube-proxy, so that the rules of a node are in one place, and the kernel: nftables where
//! kube-proxy has a table there, or where no kube-proxy is seen; iptables where kube-proxy has its chains there, or where
//! nf_tables of the kernel does not suffice. Where it cannot be held beside kube-proxy, it is held in the other. Policy means the
//! same in both, and both mixtures work: whoever wants the faster one, whose table can be closed to others, says Enabled. Which
//! variant of iptables then, is `IptablesBackend`'s: a node whose rules are spread over both variants is hard to understand.
//!
//! It is decided once, at the start; a change of the settings starts the agent anew.

mod kernel;
mod settings;

pub use kernel::{KubeProxy, NfTables};
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
        Chosen::of(settings, &NfTables::look(&programs(settings)))
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
            let (is_nftables, proxy) = beside(kube_proxy);
            let why = format!("NFTablesMode is Auto, the kernel has what nftables needs, and {proxy}");
            (is_nftables, why)
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

/// The same beside such a kube-proxy, on a kernel that leaves the choice.
fn beside(kube_proxy: &KubeProxy) -> (bool, String) {
    match kube_proxy {
        KubeProxy::Nftables => (true, "kube-proxy has its rules there".to_owned()),
        KubeProxy::Unseen => (true, "no kube-proxy has rules in iptables".to_owned()),
        KubeProxy::Iptables {
            variant,
            unusable: None,
        } => (false, format!("kube-proxy has its rules in iptables ({variant})")),
        KubeProxy::Iptables {
            variant,
            unusable: Some(reason),
        } => (
            true,
            format!(
                "policy cannot be held in iptables ({variant}), where kube-proxy has its rules: {reason}"
            ),
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
    use dataplane_iptables::programs::Variant;

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

    fn beside_iptables(variant: Variant, unusable: Option<&str>) -> NfTables {
        NfTables::Sufficient {
            kube_proxy: KubeProxy::Iptables {
                variant,
                unusable: unusable.map(str::to_owned),
            },
        }
    }

    #[test]
    fn auto_follows_kube_proxy_and_what_the_kernel_has() {
        let alone = NfTables::Sufficient {
            kube_proxy: KubeProxy::Unseen,
        };
        let modern = NfTables::Sufficient {
            kube_proxy: KubeProxy::Nftables,
        };
        let lacks = NfTables::Lacks("nf_tables of this kernel lacks: verdict maps".to_owned());
        let old = beside_iptables(Variant::Legacy, None);
        let without_sets = beside_iptables(Variant::Nft, Some("no IP sets"));
        for (mode, variant, kernel, expected, words) in [
            (
                "Auto",
                "Auto",
                &alone,
                "nftables",
                "no kube-proxy has rules in iptables",
            ),
            (
                "none",
                "none",
                &alone,
                "nftables",
                "no kube-proxy has rules in iptables",
            ),
            (
                "Auto",
                "Legacy",
                &modern,
                "nftables",
                "kube-proxy has its rules there",
            ),
            (
                "Auto",
                "Auto",
                &old,
                "auto",
                "kube-proxy has its rules in iptables (legacy)",
            ),
            (
                "none",
                "NFT",
                &old,
                "nft",
                "kube-proxy has its rules in iptables (legacy)",
            ),
            (
                "Auto",
                "Auto",
                &without_sets,
                "nftables",
                "cannot be held in iptables (nft)",
            ),
            ("Auto", "Auto", &without_sets, "nftables", "no IP sets"),
            ("Enabled", "Auto", &old, "nftables", "Enabled"),
            ("Auto", "Auto", &lacks, "auto", "lacks: verdict maps"),
            ("Auto", "NFT", &lacks, "nft", "lacks: verdict maps"),
            ("Auto", "Auto", &NfTables::Absent, "legacy", "no nf_tables"),
            ("auto", "none", &NfTables::Absent, "legacy", "no nf_tables"),
            ("Enabled", "Legacy", &NfTables::Absent, "nftables", "Enabled"),
            ("Enabled", "Auto", &lacks, "nftables", "Enabled"),
            ("Disabled", "Auto", &modern, "auto", "Disabled"),
            ("disabled", "legacy", &alone, "legacy", "Disabled"),
            ("Disabled", "nft", &alone, "nft", "Disabled"),
            ("Disabled", "Auto", &NfTables::Absent, "legacy", "Disabled"),
        ] {
            let (name, sentence) = chosen(mode, variant, kernel);
            assert_eq!(name, expected, "{mode} {variant} {kernel:?}: {sentence}");
            assert!(sentence.contains("because NFTablesMode is"), "{sentence}");
            assert!(sentence.contains(words), "{sentence}");
        }
    }
}
