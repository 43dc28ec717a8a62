//! Every way to hold policy in the kernel, for tests that run alike with each.

#![allow(dead_code, reason = "not every test uses all of it")]

use dataplane::{IptablesSettings, RulesBackend};
use dataplane_iptables::programs::{LockSettings, ProgramSettings, Variant};
use std::process::{Command, Output};
use tempfile::TempDir;

/// A way to hold policy.
#[derive(Debug)]
pub(crate) struct Backend {
    /// The variant of iptables; none where it is nftables.
    pub(crate) variant: Option<Variant>,
    /// Where the lock is by which programs of the legacy variant wait for each other: nobody else of this machine has it.
    folder: TempDir,
}

impl Backend {
    /// All of them.
    pub(crate) fn all() -> impl Iterator<Item = Backend> {
        let variants = std::iter::once(None).chain(Variant::ALL.into_iter().map(Some));
        variants.map(|variant| {
            eprintln!("with {}", variant.map_or("nftables", Variant::name));
            Backend {
                variant,
                folder: tempfile::tempdir().unwrap(),
            }
        })
    }

    /// What chooses it.
    pub(crate) fn settings(&self) -> RulesBackend {
        let Some(variant) = self.variant else {
            return RulesBackend::Nftables;
        };
        RulesBackend::Iptables(IptablesSettings {
            programs: ProgramSettings {
                lock: LockSettings {
                    file: self.lock(),
                    ..LockSettings::default()
                },
                ..ProgramSettings::default()
            },
            ..IptablesSettings::of(variant)
        })
    }

    fn lock(&self) -> std::path::PathBuf {
        self.folder.path().join("xtables.lock")
    }

    /// Runs somebody else's program, such as `nft …`, `iptables …` (of this variant) or `ipset …`; it must succeed.
    pub(crate) fn run(&self, command: &str) -> String {
        let output = self.output(command);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {complaint}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn output(&self, command: &str) -> Output {
        let mut words = command.split_whitespace();
        let name = words.next().unwrap();
        let program = match (name.split_once("tables"), self.variant) {
            (Some((family, rest)), Some(variant)) => format!("{family}tables-{}{rest}", variant.name()),
            _ => name.to_owned(),
        };
        let mut command = Command::new(&program);
        command.env("XTABLES_LOCKFILE", self.lock());
        let output = command.args(words).output();
        output.unwrap_or_else(|error| panic!("the tests need {program}: {error}"))
    }
}
