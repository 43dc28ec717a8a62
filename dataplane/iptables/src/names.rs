//! The names of everything of ours in iptables and among IP sets. Made and recognised here only.
//!
//! They are Calico's where that has such a thing, because tools and people know them.

use crate::ops::Family;
use sha2::{Digest, Sha256};

/// How all our chains begin.
pub const CHAIN_PREFIX: &str = "cali-";
/// Longest name of a chain, in characters: the kernel's limit.
pub const LONGEST_CHAIN: usize = 28;
/// Longest name of a set, in characters: the kernel's limit.
pub const LONGEST_SET: usize = 31;

/// Longest name of an interface, in characters: the kernel's limit.
pub const LONGEST_INTERFACE: usize = 15;

/// The chain of forwarded packets.
pub const FORWARD: &str = "cali-FORWARD";
/// The chain of packets to the node.
pub const INPUT: &str = "cali-INPUT";
/// The chain of packets of the node.
pub const OUTPUT: &str = "cali-OUTPUT";
/// The chain of packets that come in.
pub const PREROUTING: &str = "cali-PREROUTING";
/// The chain of packets that go out.
pub const POSTROUTING: &str = "cali-POSTROUTING";
/// Says that a packet is allowed.
pub const ALLOW: &str = "cali-allow";
/// Lets no connection begin with an address that nobody has.
pub const VACANT: &str = "cali-vacant";
/// Packets that are related to a known connection, or to none.
pub const NOT_NEW: &str = "cali-not-new";
/// From workloads to the node.
pub const WORKLOAD_TO_HOST: &str = "cali-wl-to-host";
/// Lets tunnelled packets in from nodes only.
pub const TUNNELS: &str = "cali-tunnels";
/// Stops what may leave the node inside a tunnel only.
pub const IN_CLEAR: &str = "cali-in-clear";
/// Leads to the chain of the interface that a packet came from.
pub const FROM_DISPATCH: &str = "cali-from-wl-dispatch";
/// Leads to the chain of the interface that a packet goes to.
pub const TO_DISPATCH: &str = "cali-to-wl-dispatch";
/// Lets pass only packets with an address of their interface.
pub const SOURCES: &str = "cali-wl-sources";
/// Leads packets to ports of the node on to workloads.
pub const HOST_PORTS: &str = "cali-host-ports";
/// Gives packets that leave all pools an address of the node.
pub const OUTGOING: &str = "cali-nat-outgoing";

/// Which traffic a chain is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Toward {
    /// From workloads.
    FromWorkload,
    /// To workloads.
    ToWorkload,
}

/// The chain of an interface.
pub fn endpoint(toward: Toward, interface: &str) -> String {
    match toward {
        Toward::FromWorkload => chain("cali-fw-", interface),
        Toward::ToWorkload => chain("cali-tw-", interface),
    }
}

/// The chain of a group.
pub fn group(toward: Toward, number: u32) -> String {
    match toward {
        Toward::FromWorkload => format!("cali-po-{number}"),
        Toward::ToWorkload => format!("cali-pi-{number}"),
    }
}

/// The number of a group's chain.
pub fn parse_group(name: &str) -> Option<(Toward, u32)> {
    let (toward, number) = match name.strip_prefix("cali-po-") {
        Some(number) => (Toward::FromWorkload, number),
        None => (Toward::ToWorkload, name.strip_prefix("cali-pi-")?),
    };
    Some((toward, number.parse().ok()?))
}

/// A chain of the tree that leads to interfaces: the root for the empty text, else that of the names that begin so.
pub fn dispatch(toward: Toward, beginning: &str) -> String {
    let root = match toward {
        Toward::FromWorkload => FROM_DISPATCH,
        Toward::ToWorkload => TO_DISPATCH,
    };
    if beginning.is_empty() {
        root.to_owned()
    } else {
        chain(&format!("{root}-"), beginning)
    }
}

/// Whether rules can name an interface and mean it alone. What is no such name is no interface of Linux, but for a plus sign,
/// by which the programs mean all names that begin so.
pub fn is_interface(name: &str) -> bool {
    let stands_alone = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | '+' | '"' | '\'' | '\\');
    let begins_well = !name.starts_with(['-', '!']);
    (1..=LONGEST_INTERFACE).contains(&name.len()) && begins_well && name.chars().all(stands_alone)
}

/// A chain that several groups share, named by what it says.
pub fn shared(content: &str) -> String {
    let prefix = "cali-ps-";
    format!("{prefix}{}", hash(content, LONGEST_CHAIN - prefix.len()))
}

/// The name of a chain: prefix and suffix, or the suffix's hash where that is too long.
///
/// A suffix that looks like a hash of full length is hashed too, so that no two suffixes share a name.
pub fn chain(prefix: &str, suffix: &str) -> String {
    let room = LONGEST_CHAIN.saturating_sub(prefix.len());
    if suffix.len() < room || (suffix.len() == room && !suffix.starts_with('_')) {
        return format!("{prefix}{suffix}");
    }
    format!("{prefix}_{}", hash(suffix, room.saturating_sub(1)))
}

/// Whether a chain is ours.
pub fn is_our_chain(name: &str) -> bool {
    name.starts_with(CHAIN_PREFIX)
}

/// Addresses of workloads here, each with the interface that it belongs to.
pub fn own_addresses(family: Family) -> String {
    set(family, "own")
}

/// Addresses of this node's that nobody has now.
pub fn vacant_addresses(family: Family) -> String {
    set(family, "vacant")
}

/// Addresses of the cluster's nodes.
pub fn node_addresses(family: Family) -> String {
    set(family, "all-hosts")
}

/// What a set of peers is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Peers that something is reported of.
    Report,
    /// Peers that something is allowed to.
    Allow,
    /// Peers that nothing else is allowed to.
    Known,
}

const ROLES: [(Role, &str); 3] = [(Role::Report, "l"), (Role::Allow, "s"), (Role::Known, "k")];

/// A set of peers. Its name says its role, so that a later life tells two sets apart that hold the same.
pub fn peers(family: Family, role: Role, number: u32) -> String {
    let letter = ROLES
        .iter()
        .find(|(r, _)| *r == role)
        .map_or("s", |(_, letter)| letter);
    set(family, &format!("{letter}{number}"))
}

/// The role and the number of a set of peers.
pub fn parse_peers(name: &str) -> Option<(Family, Role, u32)> {
    let (family, rest) = match name.strip_prefix("cali40") {
        Some(rest) => (Family::Inet, rest),
        None => (Family::Inet6, name.strip_prefix("cali60")?),
    };
    let of = |(role, letter): &(Role, &str)| Some((*role, rest.strip_prefix(letter)?.parse().ok()?));
    let (role, number) = ROLES.iter().find_map(of)?;
    Some((family, role, number))
}

/// Whether a set is ours.
pub fn is_our_set(name: &str) -> bool {
    name.starts_with("cali40") || name.starts_with("cali60")
}

/// The family of a set of ours, by its name.
pub fn family_of_set(name: &str) -> Option<Family> {
    let begins = |family: &Family| name.starts_with(&set(*family, ""));
    Family::BOTH.into_iter().find(begins)
}

fn set(family: Family, what: &str) -> String {
    format!("cali{}0{what}", family.number())
}

/// The first characters of the hash of a text, in the alphabet of base64 for URLs.
fn hash(text: &str, length: usize) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digest = Sha256::digest(text.as_bytes());
    let mut out = String::new();
    let (mut bits, mut count) = (0u32, 0u32);
    for byte in digest.iter() {
        if out.len() >= length {
            break;
        }
        bits = bits << 8 | u32::from(*byte);
        count += 8;
        while count >= 6 && out.len() < length {
            count -= 6;
            let digit = (bits >> count & 63) as usize;
            out.extend(ALPHABET.get(digit).map(|c| char::from(*c)));
        }
        bits &= (1 << count) - 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_name_that_is_too_long_becomes_a_hash() {
        assert_eq!(chain("cali-tw-", "cali0123456789a"), "cali-tw-cali0123456789a");
        assert_eq!(
            chain("cali-tw-", "12345678901234567890"),
            "cali-tw-12345678901234567890"
        );
        // The SHA-256 of the empty text begins with e3 b0 c4 42.
        assert_eq!(hash("", 5), "47DEQ");
        let long = chain("cali-tw-", "123456789012345678901");
        assert_eq!(long.len(), LONGEST_CHAIN);
        assert!(long.starts_with("cali-tw-_"), "{long}");
        let like_a_hash = &long["cali-tw-".len()..];
        assert_ne!(chain("cali-tw-", like_a_hash), long, "a name of its own");
        assert_eq!(chain("cali-tw-", "_short"), "cali-tw-_short");
    }

    #[test]
    fn a_name_that_would_mean_more_is_none() {
        for name in ["cali0", "cali01234567890", "a.b", "veth-1@x"] {
            assert!(is_interface(name), "{name}");
        }
        let bad = [
            "",
            "cali012345678901",
            "cali+",
            "cali+1",
            "a b",
            "a\n-A",
            "a/b",
            "-i",
            "!x",
            "a\"b",
            "calié",
        ];
        for name in bad {
            assert!(!is_interface(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn names_fit_and_differ(interfaces in prop::collection::btree_set("[a-z0-9_-]{1,40}", 1..20)) {
            let mut seen: BTreeMap<String, String> = BTreeMap::new();
            for interface in &interfaces {
                for toward in [Toward::FromWorkload, Toward::ToWorkload] {
                    for name in [endpoint(toward, interface), dispatch(toward, interface)] {
                        prop_assert!(name.len() <= LONGEST_CHAIN && is_our_chain(&name), "{}", name);
                        prop_assert!(seen.insert(name.clone(), interface.clone()).is_none(), "{} twice", name);
                    }
                }
            }
        }

        #[test]
        fn numbers_are_read_again(number: u32) {
            for family in Family::BOTH {
                for role in [Role::Report, Role::Allow, Role::Known] {
                    let name = peers(family, role, number);
                    prop_assert!(name.len() <= LONGEST_SET && is_our_set(&name));
                    prop_assert_eq!(parse_peers(&name), Some((family, role, number)));
                }
                for fixed in [own_addresses(family), vacant_addresses(family), node_addresses(family)] {
                    prop_assert!(is_our_set(&fixed) && parse_peers(&fixed).is_none());
                }
            }
            for toward in [Toward::FromWorkload, Toward::ToWorkload] {
                prop_assert_eq!(parse_group(&group(toward, number)), Some((toward, number)));
            }
        }
    }
}
