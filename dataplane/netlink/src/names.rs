//! Names of interfaces: how ours are made and how they are recognised again.
//!
//! This is the only place that makes a workload interface's name and the only one that says whether a name
//! is ours, so that the two cannot drift apart: what is not recognised would never be cleaned up, and what
//! is recognised wrongly would be somebody else's.

use std::fmt;
use std::str::FromStr;

use sha1::{Digest, Sha1};

/// The longest name that the kernel takes (`IFNAMSIZ` less the final zero).
pub const MAX_NAME_LENGTH: usize = 15;

/// How many hexadecimal digits of the hash stand in a workload interface's name.
const HASH_DIGITS: usize = 11;

/// The name of a network interface, as the kernel would accept it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName(String);

/// A text that cannot be the name of an interface.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("interface name {name:?}: {reason}")]
pub struct InvalidInterfaceName {
    /// The text.
    pub name: String,
    /// Which rule it breaks.
    pub reason: &'static str,
}

impl InterfaceName {
    /// Checks a text by the kernel's rules: 1 to 15 bytes, none of them a slash, a colon, a control
    /// character or white space, and neither `.` nor `..`.
    ///
    /// # Errors
    /// The rule that the text breaks.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidInterfaceName> {
        let name = name.into();
        match flaw(&name) {
            Some(reason) => Err(InvalidInterfaceName { name, reason }),
            None => Ok(Self(name)),
        }
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Says which rule of the kernel's a name breaks.
fn flaw(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("it is empty")
    } else if name.len() > MAX_NAME_LENGTH {
        Some("it is longer than 15 bytes")
    } else if name == "." || name == ".." {
        // Names are file names in /proc/sys: these two would leave the interface's own folder.
        Some("it is a relative folder")
    } else if name.contains('/') {
        Some("it contains a slash")
    } else if name.contains(':') {
        Some("it contains a colon")
    } else if name
        .chars()
        .any(|letter| letter.is_whitespace() || letter.is_control())
    {
        Some("it contains white space or a control character")
    } else {
        None
    }
}

impl FromStr for InterfaceName {
    type Err = InvalidInterfaceName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::new(name)
    }
}

impl TryFrom<&str> for InterfaceName {
    type Error = InvalidInterfaceName;

    fn try_from(name: &str) -> Result<Self, Self::Error> {
        Self::new(name)
    }
}

impl TryFrom<String> for InterfaceName {
    type Error = InvalidInterfaceName;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::new(name)
    }
}

impl AsRef<str> for InterfaceName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for InterfaceName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, formatter)
    }
}

/// The beginnings of the names of workload interfaces (the setting `InterfacePrefix`), at least one.
///
/// New interfaces get the first; interfaces with any of them are ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfacePrefixes(Vec<String>);

/// A list of prefixes that cannot tell our interfaces from others.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidInterfacePrefixes {
    /// No prefix at all: nothing would be ours.
    #[error("the list of interface prefixes is empty")]
    Empty,
    /// One prefix cannot begin an interface's name, or would claim every interface.
    #[error("interface prefix {prefix:?}: {reason}")]
    Prefix {
        /// The prefix.
        prefix: String,
        /// Which rule it breaks.
        reason: &'static str,
    },
}

impl InterfacePrefixes {
    /// Checks a list of prefixes.
    ///
    /// # Errors
    /// An empty list, an empty prefix (it would claim every interface of the machine), or one that cannot
    /// be the beginning of an interface's name.
    pub fn new<Prefix: Into<String>>(
        prefixes: impl IntoIterator<Item = Prefix>,
    ) -> Result<Self, InvalidInterfacePrefixes> {
        let prefixes: Vec<String> = prefixes.into_iter().map(Into::into).collect();
        if prefixes.is_empty() {
            return Err(InvalidInterfacePrefixes::Empty);
        }
        for prefix in &prefixes {
            let reason = if prefix.len() >= MAX_NAME_LENGTH {
                Some("it leaves no room for the rest of a name")
            } else {
                flaw(prefix)
            };
            if let Some(reason) = reason {
                return Err(InvalidInterfacePrefixes::Prefix {
                    prefix: prefix.clone(),
                    reason,
                });
            }
        }
        Ok(Self(prefixes))
    }

    /// Returns the prefix of new interfaces.
    pub fn first(&self) -> &str {
        self.0.first().map_or("cali", String::as_str)
    }

    /// Returns all prefixes.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Whether an interface of this name is a workload interface of ours.
    pub fn is_ours(&self, name: &str) -> bool {
        self.0
            .iter()
            .any(|prefix| name.len() > prefix.len() && name.starts_with(prefix.as_str()))
    }
}

impl Default for InterfacePrefixes {
    fn default() -> Self {
        Self(vec!["cali".to_owned()])
    }
}

impl FromStr for InterfacePrefixes {
    type Err = InvalidInterfacePrefixes;

    /// Reads the setting's form: prefixes separated by commas.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text.split(',').map(str::trim))
    }
}

/// Whether an interface of this name is ours (see [`InterfacePrefixes::is_ours`]).
pub fn is_ours(name: &str, prefixes: &InterfacePrefixes) -> bool {
    prefixes.is_ours(name)
}

/// Returns the name of a pod's host-side interface: the first prefix and 11 hexadecimal digits of
/// SHA-1 of `namespace.pod`.
///
/// Other software on the node (CNI plugins, dashboards, `calicoctl`) computes the same name, so neither the
/// hash nor its cut can change.
///
/// # Errors
/// A prefix of more than four bytes leaves no room for the hash.
pub fn host_interface_name(
    prefixes: &InterfacePrefixes,
    namespace: &str,
    pod: &str,
) -> Result<InterfaceName, InvalidInterfaceName> {
    let mut hash = Sha1::new();
    hash.update(namespace.as_bytes());
    hash.update(b".");
    hash.update(pod.as_bytes());
    let mut name = prefixes.first().to_owned();
    let digits = hash
        .finalize()
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .take(HASH_DIGITS)
        .collect::<Vec<_>>();
    name.extend(
        digits
            .into_iter()
            .filter_map(|digit| char::from_digit(digit.into(), 16)),
    );
    InterfaceName::new(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_name_is_that_of_the_convention() {
        // printf default.nginx | sha1sum
        let name = host_interface_name(&InterfacePrefixes::default(), "default", "nginx").unwrap();
        assert_eq!(name.as_str(), "calic440f455693");
    }

    #[test]
    fn a_prefix_that_leaves_no_room_is_an_error() {
        let prefixes = InterfacePrefixes::new(["calico"]).unwrap();
        assert!(host_interface_name(&prefixes, "a", "b").is_err());
    }

    #[test]
    fn names_that_the_kernel_refuses_are_refused() {
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "a\tb",
            "a:1",
            "a\u{0}b",
            "0123456789abcdef",
            "éééééééé",
        ] {
            assert!(InterfaceName::new(name).is_err(), "{name:?}");
        }
        for name in ["lo", "eth0.100", "0123456789abcde", "a@b"] {
            assert!(InterfaceName::new(name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn prefixes_are_read_from_the_settings_form() {
        let prefixes: InterfacePrefixes = "cali, tap".parse().unwrap();
        assert_eq!(prefixes.first(), "cali");
        assert!(is_ours("tap0", &prefixes));
        assert!(!is_ours("cali", &prefixes), "the prefix alone names no workload");
        assert!(!is_ours("xcali1", &prefixes));
        assert!(
            "".parse::<InterfacePrefixes>().is_err(),
            "would claim every interface"
        );
        assert!("cali,".parse::<InterfacePrefixes>().is_err());
    }

    proptest! {
        #[test]
        fn every_name_that_is_made_is_recognised(namespace in ".{0,80}", pod in ".{0,260}") {
            let prefixes = InterfacePrefixes::default();
            let name = host_interface_name(&prefixes, &namespace, &pod).unwrap();
            prop_assert!(is_ours(name.as_str(), &prefixes));
            prop_assert_eq!(name.as_str().len(), MAX_NAME_LENGTH);
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = InterfaceName::new(text.clone());
            let _ = text.parse::<InterfacePrefixes>();
            let _ = text.parse::<crate::MacAddress>();
        }
    }
}
