//! Paths of files, with what must be true of them when the agent starts.

use super::{Invalid, Parser};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

fn show_path(path: &Path) -> String {
    path.display().to_string()
}

/// A path; the empty path switches off what needs it.
#[derive(Debug)]
pub struct File;

impl Parser for File {
    type Value = PathBuf;

    fn parse(raw: &str) -> Result<PathBuf, Invalid> {
        if raw.contains('\0') {
            return Err(Invalid::new("a path has no zero byte"));
        }
        Ok(PathBuf::from(raw))
    }
    fn empty() -> PathBuf {
        PathBuf::new()
    }
    fn show(value: &PathBuf) -> String {
        show_path(value)
    }
    fn expected() -> String {
        "a path".to_owned()
    }
}

/// A path of a file that is there, or the empty path.
#[derive(Debug)]
pub struct ExistingFile;

impl Parser for ExistingFile {
    type Value = PathBuf;

    fn parse(raw: &str) -> Result<PathBuf, Invalid> {
        let path = File::parse(raw)?;
        if !raw.is_empty() {
            std::fs::metadata(&path).map_err(|error| Invalid(format!("the file cannot be read: {error}")))?;
        }
        Ok(path)
    }
    fn empty() -> PathBuf {
        PathBuf::new()
    }
    fn show(value: &PathBuf) -> String {
        show_path(value)
    }
    fn expected() -> String {
        "the path of a file that exists".to_owned()
    }
}

/// A program: a path, or a name that is looked for beside the agent and in `PATH`.
#[derive(Debug)]
pub struct Executable;

fn can_be_run(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

impl Parser for Executable {
    type Value = PathBuf;

    fn parse(raw: &str) -> Result<PathBuf, Invalid> {
        let asked = File::parse(raw)?;
        let beside = std::env::current_exe()
            .ok()
            .and_then(|own| own.parent().map(Path::to_owned));
        let folders = match asked.components().count() {
            // A path with a folder names one file and nothing else.
            0 | 1 => std::env::var_os("PATH")
                .map(|all| std::env::split_paths(&all).collect())
                .unwrap_or_default(),
            _ => vec![PathBuf::new()],
        };
        beside
            .into_iter()
            .chain(folders)
            .map(|folder| folder.join(&asked))
            .find(|candidate| can_be_run(candidate))
            .ok_or_else(|| Invalid::new("there is no such program"))
    }
    fn empty() -> PathBuf {
        PathBuf::new()
    }
    fn show(value: &PathBuf) -> String {
        show_path(value)
    }
    fn expected() -> String {
        "a program that exists".to_owned()
    }
}
