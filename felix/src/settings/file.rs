//! The configuration file: `name = value` lines in sections, as in Calico's `felix.cfg`.
//!
//! Parameters are customarily in `[global]`, but those of every section count, as they do for Calico.

use super::layer::{Layer, Source};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Where the file is unless somebody says otherwise.
pub const DEFAULT_CONFIG_FILE: &str = "/etc/calico/felix.cfg";

/// Larger files are not configuration.
const LARGEST_FILE: u64 = 1 << 20;

/// Why the file could not be read.
#[derive(Debug, Error)]
pub enum ConfigFileError {
    /// The file is there and cannot be read.
    #[error("the configuration file {} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is too large to be a configuration.
    #[error("the configuration file {} has {size} bytes, more than a configuration of {LARGEST_FILE} can have", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// A line is none of: empty, a comment, `[section]`, `name = value`.
    #[error("{}, line {line}: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Reads the file; one that is not there sets nothing.
///
/// # Errors
/// When the file cannot be read or has a line that says nothing.
pub fn read(path: &Path) -> Result<Layer, ConfigFileError> {
    let unreadable = |source| ConfigFileError::Read {
        path: path.to_owned(),
        source,
    };
    let size = match std::fs::metadata(path) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Layer::new(Source::File)),
        Err(error) => return Err(unreadable(error)),
    };
    if size > LARGEST_FILE {
        return Err(ConfigFileError::TooLarge {
            path: path.to_owned(),
            size,
        });
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    parse(&text, path)
}

/// Reads the file's text.
///
/// # Errors
/// The first line that says nothing.
pub fn parse(text: &str, path: &Path) -> Result<Layer, ConfigFileError> {
    let mut layer = Layer::new(Source::File);
    // Editors of other systems write a byte order mark.
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let number = index + 1;
        let refused = |reason| ConfigFileError::Syntax {
            path: path.to_owned(),
            line: number,
            reason,
        };
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(section) = line.strip_prefix('[') {
            if without_comment(section)
                .strip_suffix(']')
                .is_none_or(str::is_empty)
            {
                return Err(refused("a section is written [name]"));
            }
            continue;
        }
        let split = line
            .find(['=', ':'])
            .ok_or_else(|| refused("it is neither a section nor name = value"))?;
        let name = line[..split].trim();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(refused("a name is missing or has a space in it"));
        }
        let value =
            unquoted(line[split + 1..].trim()).ok_or_else(|| refused("a quotation mark is not closed"))?;
        layer.put(name, format!("{} line {number}", path.display()), value);
    }
    Ok(layer)
}

/// The text before a comment at its end: `#` or `;` behind white space.
fn without_comment(text: &str) -> &str {
    let comment = text.char_indices().find(|(at, letter)| {
        matches!(letter, '#' | ';') && text[..*at].chars().next_back().is_none_or(char::is_whitespace)
    });
    text[..comment.map_or(text.len(), |(at, _)| at)].trim_end()
}

/// The value without its quotation marks or comment; none if the marks are not closed.
fn unquoted(text: &str) -> Option<String> {
    for mark in ['"', '\'', '`'] {
        if let Some(rest) = text.strip_prefix(mark) {
            let (inner, behind) = rest.split_once(mark)?;
            return without_comment(behind.trim_start())
                .is_empty()
                .then(|| inner.to_owned());
        }
    }
    Some(without_comment(text).to_owned())
}
