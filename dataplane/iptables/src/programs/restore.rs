//! Writing and reading tables by the programs: one call a table and family.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::ops::{Family, Table};

use super::child::{Deadline, Ended, run};
use super::error::{Failure, ProgramError, about};
use super::find::{Programs, Toolset, unfinished_error};
use super::version::{Variant, Version};

/// How many characters of a program's complaint are told.
const TOLD: usize = 1_000;

/// The lock by which the programs of the legacy variant keep from losing each other's writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockSettings {
    /// How long one write waits for it (`IptablesLockTimeoutSecs`); whole seconds, at least one.
    pub wait: Duration,
    /// How often an old program looks whether it is free (`IptablesLockProbeIntervalMillis`).
    pub probe: Duration,
    /// The lock file (`IptablesLockFilePath`).
    pub file: PathBuf,
}

impl LockSettings {
    /// Where all programs of a node have the lock.
    pub const FILE: &str = "/run/xtables.lock";
}

impl Default for LockSettings {
    /// Ten seconds, 50 milliseconds, and the file of everybody.
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(10),
            probe: Duration::from_millis(50),
            file: Self::FILE.into(),
        }
    }
}

impl Toolset {
    /// The families whose programs are there.
    pub fn families(&self) -> impl Iterator<Item = Family> + '_ {
        self.programs.iter().map(|programs| programs.family)
    }

    /// The lock file.
    #[must_use]
    pub fn lock_file(&self) -> &Path {
        &self.lock.file
    }

    /// Carries out one table's lines (`*filter` … `COMMIT`) as a whole, leaving alone what they do not name. Returns the
    /// number of the process that did it, which is also its netlink port.
    ///
    /// # Errors
    /// The program failed: nothing was changed, unless it was killed or lost; see each error.
    pub fn restore(&self, family: Family, table: Table, lines: &str) -> Result<u32, ProgramError> {
        let what = about("writing", self.variant, family, Some(table));
        let programs = self.programs_of(family, &what)?;
        let wait = self.lock.wait.as_secs().max(1);
        let (seconds, micros) = (wait.to_string(), self.lock.probe.as_micros().max(1).to_string());
        let mut arguments = vec!["--noflush"];
        let mut limit = self.patience;
        // The nft variant has no lock, and takes the option only to ignore it.
        if self.variant == Variant::Legacy {
            arguments.extend(["--wait", &seconds]);
            if self.version < Version::WAITS_WITHOUT_PROBES {
                arguments.extend(["--wait-interval", &micros]);
            }
            limit += Duration::from_secs(wait);
        }
        let ended = self.call(&programs.restore, &arguments, lines.as_bytes(), limit, &what)?;
        if ended.status.success() {
            return Ok(ended.process);
        }
        let program = programs.restore.clone();
        if ended.complaint.contains("holding the xtables lock") {
            return Err(ProgramError::Locked {
                program,
                what,
                lock: self.lock.file.clone(),
                limit: Duration::from_secs(wait),
            });
        }
        let line = line_number(&ended.complaint);
        Err(ProgramError::Failed(Box::new(Failure {
            program,
            what,
            status: ended.status.to_string(),
            line,
            rule: line.and_then(|line| Some(lines.lines().nth(line.checked_sub(1)?)?.to_owned())),
            said: told(&ended.complaint),
        })))
    }

    /// Reads one table of a family, or all that there are. Asking for one makes it where it is not there.
    ///
    /// # Errors
    /// The program failed.
    pub fn save(&self, family: Family, table: Option<Table>) -> Result<Vec<u8>, ProgramError> {
        let what = about("reading", self.variant, family, table);
        let programs = self.programs_of(family, &what)?;
        let arguments: &[&str] = match &table {
            Some(table) => &["-t", table.name()],
            None => &[],
        };
        let ended = self.call(&programs.save, arguments, b"", self.patience, &what)?;
        if ended.status.success() {
            return Ok(ended.output);
        }
        Err(ProgramError::Failed(Box::new(Failure {
            program: programs.save.clone(),
            what,
            status: ended.status.to_string(),
            line: None,
            rule: None,
            said: told(&ended.complaint),
        })))
    }

    fn call(
        &self,
        program: &Path,
        arguments: &[&str],
        input: &[u8],
        limit: Duration,
        what: &str,
    ) -> Result<Ended, ProgramError> {
        let lock = [("XTABLES_LOCKFILE", self.lock.file.as_path())];
        // Nothing is said where everybody's place is meant: the variable may be set for a reason.
        let environment: &[_] = if self.lock.file == Path::new(LockSettings::FILE) {
            &[]
        } else {
            &lock
        };
        run(program, arguments, environment, input, Deadline(limit))
            .map_err(|unfinished| unfinished_error(program, what, limit, unfinished))
    }

    fn programs_of(&self, family: Family, what: &str) -> Result<&Programs, ProgramError> {
        let mut programs = self.programs.iter();
        programs
            .find(|programs| programs.family == family)
            .ok_or_else(|| ProgramError::Missing {
                names: format!("program for {what}: family {family} was not asked for"),
                folders: "the settings".to_owned(),
            })
    }
}

/// The first line number in a complaint: "line 3 failed", "Error occurred at line: 3", "line 3: CHAIN_DEL failed".
fn line_number(complaint: &str) -> Option<usize> {
    complaint.match_indices("line").find_map(|(at, word)| {
        let rest = complaint.get(at + word.len()..)?;
        let rest = rest.trim_start_matches([':', ' ']);
        let end = rest
            .find(|sign: char| !sign.is_ascii_digit())
            .unwrap_or(rest.len());
        rest.get(..end)?.parse().ok()
    })
}

fn told(complaint: &str) -> String {
    if complaint.is_empty() {
        return "it said nothing".to_owned();
    }
    let words = complaint.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(TOLD) {
        Some((end, _)) => format!("{}...", words.get(..end).unwrap_or_default()),
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_in_complaints() {
        for (complaint, line) in [
            ("iptables-restore: line 2 failed", Some(2)),
            (
                "unknown option \"--bogus\"\nError occurred at line: 12\nTry",
                Some(12),
            ),
            (
                "iptables-nft-restore v1.8.9 (nf_tables): \nline 3: CHAIN_DEL failed",
                Some(3),
            ),
            ("baseline lost", None),
            ("", None),
        ] {
            assert_eq!(line_number(complaint), line, "{complaint}");
        }
    }

    #[test]
    fn long_complaints_are_cut() {
        assert_eq!(told("a\n\nb"), "a b");
        assert!(told(&"ä".repeat(5_000)).len() < 2_100);
        assert_eq!(told(""), "it said nothing");
    }
}
