//! The three ways to hold policy in the kernel, side by side in one run: nftables, and both variants of iptables.

mod alone;
mod loading;
mod reacting;
mod world;

use crate::figure::Figure;
use anyhow::Context;
use dataplane::{DataplaneSettings, IptablesSettings, RulesBackend};
use dataplane_iptables::programs::{ProgramSettings, Toolset, Variant, find};
use std::path::Path;
use std::time::Duration;

/// A way to hold policy in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Backend {
    /// A table of our own in nf_tables.
    Nftables,
    /// Tables of iptables and IP sets.
    Iptables(Variant),
}

impl Backend {
    /// All of them.
    pub const ALL: [Backend; 3] = [
        Backend::Nftables,
        Backend::Iptables(Variant::Legacy),
        Backend::Iptables(Variant::Nft),
    ];

    /// As the table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Nftables => "nftables",
            Backend::Iptables(Variant::Legacy) => "iptables legacy",
            Backend::Iptables(Variant::Nft) => "iptables nft",
        }
    }

    /// The dataplane's settings. `folder` holds the lock of the legacy programs, so that no other program's write is
    /// measured along.
    pub fn settings(self, folder: &Path) -> DataplaneSettings {
        let rules = match self {
            Backend::Nftables => RulesBackend::Nftables,
            Backend::Iptables(variant) => {
                let mut settings = IptablesSettings::of(variant);
                settings.programs = programs(folder);
                RulesBackend::Iptables(settings)
            }
        };
        // Not owned: the rules are to stay while packets are measured, whoever holds the socket.
        DataplaneSettings {
            rules,
            owned_table: false,
            ..DataplaneSettings::default()
        }
    }

    /// One of three durations: of nftables, legacy and the nft variant.
    fn choose(self, of: [Duration; 3]) -> Duration {
        let [nftables, legacy, nft] = of;
        match self {
            Backend::Nftables => nftables,
            Backend::Iptables(Variant::Legacy) => legacy,
            Backend::Iptables(Variant::Nft) => nft,
        }
    }
}

fn programs(folder: &Path) -> ProgramSettings {
    let mut programs = ProgramSettings::default();
    programs.lock.file = folder.join("xtables.lock");
    programs
}

/// The programs of a variant, with their lock in a folder of ours.
///
/// # Errors
/// They are not there.
pub fn tools(variant: Variant, folder: &Path) -> anyhow::Result<Toolset> {
    let found = find(&programs(folder));
    let tools = found.variant(variant).map_err(|error| anyhow::anyhow!("{error}"));
    tools.cloned().context("looking for iptables")
}

/// Measures.
///
/// # Errors
/// The kernel refused, or a program of iptables lacks.
pub fn run() -> anyhow::Result<Vec<Figure>> {
    let mut figures = reacting::figures()?;
    figures.extend(loading::figures()?);
    figures.extend(alone::figures()?);
    Ok(figures)
}
