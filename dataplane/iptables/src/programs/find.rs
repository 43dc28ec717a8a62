//! Which programs are there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::ops::Family;

use super::child::{Deadline, Unfinished, run};
use super::error::ProgramError;
use super::restore::LockSettings;
use super::version::{Variant, Version};

/// How long a program may take to say its version.
const VERSION_DEADLINE: Deadline = Deadline(Duration::from_secs(10));
/// How much of an answer that is not understood is shown.
const SHOWN: usize = 200;

/// Where the programs are and how they are run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramSettings {
    /// The folders that are searched, in their order.
    pub folders: Vec<PathBuf>,
    /// The families whose programs are needed.
    pub families: Vec<Family>,
    /// How long one call may take, beside its waiting for the lock.
    pub patience: Duration,
    /// The lock of the legacy variant.
    pub lock: LockSettings,
}

impl Default for ProgramSettings {
    /// The folders of `PATH` and those where distributions have the programs, both families, 60 seconds.
    fn default() -> Self {
        let mut folders: Vec<PathBuf> = std::env::var_os("PATH")
            .map(|path| std::env::split_paths(&path).collect())
            .unwrap_or_default();
        for usual in ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"] {
            if !folders.iter().any(|folder| folder == Path::new(usual)) {
                folders.push(usual.into());
            }
        }
        Self {
            folders,
            families: Family::BOTH.to_vec(),
            patience: Duration::from_secs(60),
            lock: LockSettings::default(),
        }
    }
}

/// The programs of one variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolset {
    /// The variant.
    pub variant: Variant,
    /// The older of the families' versions.
    pub version: Version,
    pub(super) programs: Vec<Programs>,
    pub(super) patience: Duration,
    pub(super) lock: LockSettings,
}

/// The programs of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Programs {
    pub(super) family: Family,
    pub(super) restore: PathBuf,
    pub(super) save: PathBuf,
}

/// The variants that are there, or why they are not.
#[derive(Debug)]
pub struct Found {
    /// The old interface's.
    pub legacy: Result<Toolset, ProgramError>,
    /// nf_tables'.
    pub nft: Result<Toolset, ProgramError>,
}

impl Found {
    /// One variant's programs.
    ///
    /// # Errors
    /// They are not there, too old, or do not answer.
    pub fn variant(&self, variant: Variant) -> Result<&Toolset, &ProgramError> {
        match variant {
            Variant::Legacy => self.legacy.as_ref(),
            Variant::Nft => self.nft.as_ref(),
        }
    }
}

/// Looks for both variants. Starts each program that it finds once, to ask for its version.
#[must_use]
pub fn find(settings: &ProgramSettings) -> Found {
    Found {
        legacy: find_variant(settings, Variant::Legacy),
        nft: find_variant(settings, Variant::Nft),
    }
}

fn find_variant(settings: &ProgramSettings, variant: Variant) -> Result<Toolset, ProgramError> {
    let mut programs = Vec::new();
    let mut oldest: Option<Version> = None;
    for &family in &settings.families {
        let (restore, version) = find_restore(settings, variant, family)?;
        let save = beside(&restore).filter(|path| path.is_file());
        let save = save.ok_or_else(|| missing(settings, &["the -save program beside it"]))?;
        oldest = Some(oldest.map_or(version, |oldest| oldest.min(version)));
        programs.push(Programs {
            family,
            restore,
            save,
        });
    }
    let version = oldest.ok_or_else(|| missing(settings, &["program, since no family is asked for"]))?;
    Ok(Toolset {
        variant,
        version,
        programs,
        patience: settings.patience,
        lock: settings.lock.clone(),
    })
}

/// The program that restores: by the variant's own name, or by the plain name if it says that it is of the variant.
fn find_restore(
    settings: &ProgramSettings,
    variant: Variant,
    family: Family,
) -> Result<(PathBuf, Version), ProgramError> {
    let base = match family {
        Family::Inet => "iptables",
        Family::Inet6 => "ip6tables",
    };
    let names = [format!("{base}-{variant}-restore"), format!("{base}-restore")];
    let mut trouble = None;
    for name in &names {
        for program in settings.folders.iter().map(|folder| folder.join(name)) {
            if !program.is_file() {
                continue;
            }
            match ask_version(&program) {
                Ok((version, said)) if said == variant && version >= Version::OLDEST => {
                    return Ok((program, version));
                }
                Ok((_, said)) if said != variant => {}
                Ok((version, _)) => {
                    trouble.get_or_insert(ProgramError::TooOld {
                        program,
                        version,
                        oldest: Version::OLDEST,
                    });
                }
                Err(error) => {
                    trouble.get_or_insert(error);
                }
            }
        }
    }
    Err(trouble.unwrap_or_else(|| missing(settings, &names.each_ref().map(String::as_str))))
}

fn ask_version(program: &Path) -> Result<(Version, Variant), ProgramError> {
    let ended = run(program, &["--version"], &[], b"", VERSION_DEADLINE);
    let ended =
        ended.map_err(|unfinished| unfinished_error(program, "--version", VERSION_DEADLINE.0, unfinished))?;
    let output = String::from_utf8_lossy(&ended.output);
    Version::read(&output).ok_or_else(|| ProgramError::NotUnderstood {
        program: program.to_owned(),
        output: output
            .chars()
            .chain(ended.complaint.chars())
            .take(SHOWN)
            .collect(),
    })
}

/// `iptables-save` for `iptables-restore`, of the same folder and variant.
fn beside(restore: &Path) -> Option<PathBuf> {
    let name = restore.file_name()?.to_str()?.strip_suffix("restore")?;
    Some(restore.with_file_name(format!("{name}save")))
}

fn missing(settings: &ProgramSettings, names: &[&str]) -> ProgramError {
    let folders: Vec<_> = settings
        .folders
        .iter()
        .map(|folder| folder.display().to_string())
        .collect();
    ProgramError::Missing {
        names: names.join(" or "),
        folders: folders.join(":"),
    }
}

pub(super) fn unfinished_error(
    program: &Path,
    what: &str,
    limit: Duration,
    unfinished: Unfinished,
) -> ProgramError {
    let (program, what) = (program.to_owned(), what.to_owned());
    match unfinished {
        Unfinished::Start(source) => ProgramError::Start { program, source },
        Unfinished::Talk(source) => ProgramError::Talk {
            program,
            what,
            source,
        },
        Unfinished::Hangs => ProgramError::Hangs { program, what, limit },
        Unfinished::TooMuch(limit) => ProgramError::TooMuch { program, what, limit },
    }
}
