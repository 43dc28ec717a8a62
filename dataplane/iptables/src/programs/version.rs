//! What a program says of itself with `--version`.

use std::fmt;

/// Through which interface of the kernel a program writes. A node has the tables of both, and packets meet both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Variant {
    /// The old interface: a whole table is read and replaced, under a lock file that all programs share.
    Legacy,
    /// nf_tables: transactions, no lock.
    Nft,
}

impl Variant {
    /// Both, in their order.
    pub const ALL: [Self; 2] = [Self::Legacy, Self::Nft];

    /// What stands in the programs' names.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Nft => "nft",
        }
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Legacy => Self::Nft,
            Self::Nft => Self::Legacy,
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A version of iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The first number.
    pub major: u16,
    /// The second number.
    pub minor: u16,
    /// The third number.
    pub patch: u16,
}

impl Version {
    /// The oldest that we use: before it `iptables-restore` knows no lock (`--wait`), so that its writes and others' lose
    /// each other.
    pub const OLDEST: Self = Self::new(1, 6, 2);
    /// From here on the legacy variant sleeps until the lock is free, and `--wait-interval` only makes it complain.
    pub(super) const WAITS_WITHOUT_PROBES: Self = Self::new(1, 8, 8);

    /// The version of these numbers.
    #[must_use]
    pub const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self { major, minor, patch }
    }

    /// Reads the output of `--version`, such as `iptables-restore v1.8.9 (nf_tables)`. Before 1.8 there was only the legacy
    /// variant, and none was named.
    #[must_use]
    pub fn read(output: &str) -> Option<(Self, Variant)> {
        let line = output.lines().find(|line| !line.trim().is_empty())?;
        let mut words = line.split_whitespace();
        let version = words.find_map(|word| Self::parse(word.strip_prefix('v')?))?;
        let variant = match words.next() {
            Some("(nf_tables)") => Variant::Nft,
            Some("(legacy)") | None => Variant::Legacy,
            Some(_) => return None,
        };
        Some((version, variant))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('.').map(|part| {
            let digits = part.split(|sign: char| !sign.is_ascii_digit()).next()?;
            digits.parse::<u16>().ok()
        });
        Some(Self {
            major: numbers.next()??,
            minor: numbers.next()??,
            patch: numbers.next().flatten().unwrap_or_default(),
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_variants_are_read() {
        let read = |text| Version::read(text);
        assert_eq!(
            read("iptables-restore v1.8.9 (legacy)\n"),
            Some((Version::new(1, 8, 9), Variant::Legacy))
        );
        assert_eq!(
            read("iptables-nft-restore v1.8.11 (nf_tables)"),
            Some((Version::new(1, 8, 11), Variant::Nft))
        );
        assert_eq!(
            read("\niptables v1.4.21"),
            Some((Version::new(1, 4, 21), Variant::Legacy))
        );
        assert_eq!(
            read("iptables v1.8"),
            Some((Version::new(1, 8, 0), Variant::Legacy))
        );
        for text in ["", "iptables", "busybox v", "iptables v1.8.9 (ebpf)", "v1..2"] {
            assert_eq!(read(text), None, "{text}");
        }
        assert!(Version::new(1, 4, 21) < Version::OLDEST);
    }
}
