//! Free text, and names with an alphabet.

use super::{Invalid, Parser};

/// Declares a parser of text whose empty value is the empty text.
macro_rules! text_parser {
    ($(#[$doc:meta])+ $name:ident, $check:expr, $expected:literal) => {
        $(#[$doc])+
        #[derive(Debug)]
        pub struct $name;

        impl Parser for $name {
            type Value = String;

            fn parse(raw: &str) -> Result<String, Invalid> {
                let check: fn(&str) -> Result<(), Invalid> = $check;
                check(raw).map(|()| raw.to_owned())
            }
            fn empty() -> String {
                String::new()
            }
            fn show(value: &String) -> String {
                value.clone()
            }
            fn expected() -> String {
                $expected.to_owned()
            }
        }
    };
}

/// Whether the text has from 1 to `most` characters, all letters, digits or one of `others`.
pub(super) fn made_of(raw: &str, others: &str, most: usize) -> bool {
    (1..=most).contains(&raw.len())
        && raw
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || others.contains(letter))
}

text_parser!(
    /// Text on one line.
    Text,
    |raw| match raw.contains(['\n', '\r', '\0']) {
        true => Err(Invalid::new("it has more than one line")),
        false => Ok(()),
    },
    "text on one line"
);

text_parser!(
    /// The name of a node: letters, digits, `_`, `.` and `-`.
    Hostname,
    |raw| match made_of(raw, "_.-", 253) {
        true => Ok(()),
        false => Err(Invalid::new("a name has letters, digits, '_', '.' and '-', at most 253 of them")),
    },
    "a host name of letters, digits, '_', '.' and '-'"
);

text_parser!(
    /// Where to listen: a host name or an address.
    HostAddress,
    |raw| match made_of(raw, ":._+-", 64) {
        true => Ok(()),
        false => Err(Invalid::new("it is neither a host name nor an address")),
    },
    "a host name or an IP address"
);

text_parser!(
    /// A host and a port, as `host:port`.
    Authority,
    |raw| {
        let refused = || Invalid::new("it is not of the form host:port");
        let (host, port) = raw.rsplit_once(':').ok_or_else(refused)?;
        let bracketed = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
        if host.is_empty() || (host.contains([':', '/']) && bracketed.is_none()) {
            return Err(refused());
        }
        match port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok() {
            true => Ok(()),
            false => Err(Invalid::new("its port is not a number from 0 to 65535")),
        }
    },
    "host:port"
);

text_parser!(
    /// An OpenStack region: a DNS label that still fits behind the prefix `openstack-region-`.
    Region,
    |raw| {
        let label = made_of(raw, "-", 63 - "openstack-region-".len())
            && !raw.starts_with('-')
            && !raw.ends_with('-')
            && !raw.bytes().any(|byte| byte.is_ascii_uppercase());
        match label {
            true => Ok(()),
            false => Err(Invalid::new("it is not a DNS label of at most 46 lower-case letters, digits and '-'")),
        }
    },
    "a DNS label of at most 46 characters"
);
