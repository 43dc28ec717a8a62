//! Which variant to use: the one of those whose rules ours have to live beside.
//!
//! Rules of both variants are walked by every packet, and an accept in one does not win over a drop in the other. So the
//! variant follows kube-proxy and the kubelet, and where they have left no sign, whoever else has rules. Our own rules are no
//! sign: they would keep for ever what was chosen once.

use std::fmt;
use std::str::FromStr;

use crate::ours::{self, save};

use super::error::ProgramError;
use super::find::{Found, Toolset};
use super::version::Variant;

/// Chains that the kubelet makes in the table mangle, for this purpose among others.
const KUBELET_CHAINS: [&str; 2] = ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"];
/// How kube-proxy's chains begin.
const KUBE_PREFIX: &str = "KUBE-";

/// The setting (`IptablesBackend`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendChoice {
    /// Whatever fits the node.
    #[default]
    Auto,
    /// The old interface.
    Legacy,
    /// nf_tables.
    Nft,
}

impl From<Variant> for BackendChoice {
    fn from(variant: Variant) -> Self {
        match variant {
            Variant::Legacy => Self::Legacy,
            Variant::Nft => Self::Nft,
        }
    }
}

impl fmt::Display for BackendChoice {
    /// As the setting is written.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Auto => "Auto",
            Self::Legacy => "Legacy",
            Self::Nft => "NFT",
        })
    }
}

/// A setting that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("IptablesBackend {0:?} is not known: use Auto, Legacy or NFT")]
pub struct InvalidBackend(pub String);

impl FromStr for BackendChoice {
    type Err = InvalidBackend;

    /// Upper and lower case are one.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [("auto", Self::Auto), ("legacy", Self::Legacy), ("nft", Self::Nft)]
            .into_iter()
            .find_map(|(name, choice)| name.eq_ignore_ascii_case(text.trim()).then_some(choice))
            .ok_or_else(|| InvalidBackend(text.to_owned()))
    }
}

/// What others have in the tables of one variant, both families together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Whether the kubelet has left its sign.
    pub kubelet: bool,
    /// How many chains kube-proxy has.
    pub kube_chains: usize,
    /// How many rules there are that are not ours.
    pub foreign_rules: usize,
}

/// Why a variant was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The setting says so.
    Setting,
    /// The other one's programs are not there, or the kernel lacks what they need.
    OnlyOne,
    /// The kubelet left its sign there.
    Kubelet,
    /// kube-proxy has its chains there.
    KubeProxy,
    /// Others have more rules there.
    ForeignRules,
    /// Nobody has rules anywhere; the newer interface.
    Nothing,
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Setting => "the setting IptablesBackend says so",
            Self::OnlyOne => "the other variant's programs cannot be used",
            Self::Kubelet => "the kubelet has its chains there",
            Self::KubeProxy => "kube-proxy has its chains there",
            Self::ForeignRules => "most rules of others are there",
            Self::Nothing => "nobody has rules in either variant",
        })
    }
}

/// What was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The variant.
    pub variant: Variant,
    /// Why.
    pub reason: Reason,
}

impl Evidence {
    /// Looks at what others have in the tables of one variant. Makes no table that is not there.
    ///
    /// # Errors
    /// The tables cannot be read.
    pub fn gather(tools: &Toolset) -> Result<Self, ProgramError> {
        let mut evidence = Self::default();
        for family in tools.families() {
            evidence.add(&save::parse(&tools.save(family, None)?).unwrap_or_default());
        }
        Ok(evidence)
    }

    fn add(&mut self, tables: &[save::SavedTable]) {
        for chain in tables.iter().flat_map(|table| &table.chains) {
            self.kubelet |= KUBELET_CHAINS.contains(&chain.name.as_str());
            self.kube_chains += usize::from(chain.name.starts_with(KUBE_PREFIX));
            if !ours::is_our_chain(&chain.name) {
                self.foreign_rules += chain.foreign_rules();
            }
        }
    }
}

/// Chooses a variant.
///
/// # Errors
/// The programs of the variant that is wanted, or of all, cannot be used.
pub fn choose(setting: BackendChoice, found: &Found) -> Result<Choice, &ProgramError> {
    let only = |variant, reason| found.variant(variant).map(|_| Choice { variant, reason });
    match (setting, &found.legacy, &found.nft) {
        (BackendChoice::Legacy, _, _) => only(Variant::Legacy, Reason::Setting),
        (BackendChoice::Nft, _, _) => only(Variant::Nft, Reason::Setting),
        (BackendChoice::Auto, Ok(legacy), Ok(nft)) => {
            Ok(match (Evidence::gather(legacy), Evidence::gather(nft)) {
                (Ok(legacy), Ok(nft)) => weigh(legacy, nft),
                // What cannot be read could not be written either: the kernel lacks it.
                (Ok(_), Err(_)) => Choice {
                    variant: Variant::Legacy,
                    reason: Reason::OnlyOne,
                },
                (Err(_), Ok(_)) => Choice {
                    variant: Variant::Nft,
                    reason: Reason::OnlyOne,
                },
                (Err(_), Err(_)) => weigh(Evidence::default(), Evidence::default()),
            })
        }
        (BackendChoice::Auto, Ok(_), Err(_)) => only(Variant::Legacy, Reason::OnlyOne),
        (BackendChoice::Auto, Err(_), _) => only(Variant::Nft, Reason::OnlyOne),
    }
}

/// Weighs what others have, the surest sign first.
fn weigh(legacy: Evidence, nft: Evidence) -> Choice {
    let more = |reason, legacy: usize, nft: usize| {
        (legacy != nft).then_some(Choice {
            variant: if legacy > nft {
                Variant::Legacy
            } else {
                Variant::Nft
            },
            reason,
        })
    };
    more(
        Reason::Kubelet,
        usize::from(legacy.kubelet),
        usize::from(nft.kubelet),
    )
    .or_else(|| more(Reason::KubeProxy, legacy.kube_chains, nft.kube_chains))
    .or_else(|| more(Reason::ForeignRules, legacy.foreign_rules, nft.foreign_rules))
    .unwrap_or(Choice {
        variant: Variant::Nft,
        reason: Reason::Nothing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_in_any_case() {
        assert_eq!("NFT".parse(), Ok(BackendChoice::Nft));
        assert_eq!("auto".parse(), Ok(BackendChoice::Auto));
        assert_eq!(" Legacy".parse(), Ok(BackendChoice::Legacy));
        let error = "nftables".parse::<BackendChoice>().unwrap_err();
        assert!(error.to_string().contains("nftables"));
    }

    #[test]
    fn the_surest_sign_decides() {
        let none = Evidence::default();
        let rules = |foreign_rules| Evidence {
            foreign_rules,
            ..none
        };
        let proxy = Evidence {
            kube_chains: 3,
            ..rules(5)
        };
        let kubelet = Evidence {
            kubelet: true,
            ..none
        };
        let chosen = |legacy, nft| {
            let choice = weigh(legacy, nft);
            (choice.variant, choice.reason)
        };
        assert_eq!(chosen(none, none), (Variant::Nft, Reason::Nothing));
        assert_eq!(chosen(rules(1), none), (Variant::Legacy, Reason::ForeignRules));
        assert_eq!(chosen(rules(900), proxy), (Variant::Nft, Reason::KubeProxy));
        assert_eq!(chosen(kubelet, proxy), (Variant::Legacy, Reason::Kubelet));
        let both = Evidence {
            kubelet: true,
            ..proxy
        };
        assert_eq!(chosen(both, kubelet), (Variant::Legacy, Reason::KubeProxy));
    }
}
