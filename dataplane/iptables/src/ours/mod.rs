//! What is ours among everybody's rules, and how it differs from what should be.
//!
//! Chains are ours by their names, rules in the kernel's chains by their comments: each rule of ours carries `cali:` and 16
//! characters of a hash that is chained over its chain's name and all rules before it. So one look at the comments tells
//! whether a chain is as it should be and in the right order. What somebody changed under an unchanged comment shows in the
//! rule's text ([`text`]).
//!
//! Whatever an earlier Calico left is ours to take over: its chains, and its rules in the kernel's chains.

pub mod compare;
pub mod desired;
mod hash;
pub mod render;
pub mod save;
pub mod text;

pub use compare::{Learned, TablePlan, compare};
pub use desired::{DesiredTable, HashedRule};
pub use hash::HASH_LENGTH;

/// What stands before the hash in a comment.
pub const COMMENT_PREFIX: &str = "cali:";
/// How our chains' names begin.
pub const CHAIN_PREFIX: &str = "cali-";
/// How the names of Calico's chains began in earlier versions.
const OLD_CHAIN_PREFIXES: [&str; 7] = [
    "felix-", "califw-", "calitw-", "califh-", "calith-", "calipi-", "calipo-",
];
/// Sets that only rules of earlier versions of Calico name; these rules had no comments.
const OLD_SETS: [&str; 2] = ["felix-masq-ipam-pools", "felix-all-ipam-pools"];

/// Whether a chain of this name is ours.
#[must_use]
pub fn is_our_chain(name: &str) -> bool {
    name.starts_with(CHAIN_PREFIX) || is_old_chain(name)
}

fn is_old_chain(name: &str) -> bool {
    OLD_CHAIN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether a rule in a chain that is not ours is ours. A rule of the administrator that jumps to one of our chains is not.
#[must_use]
pub fn is_our_rule(rule: &save::SavedRule) -> bool {
    rule.hash.is_some()
        || rule.target().is_some_and(|target| is_old_chain(&target))
        || OLD_SETS.iter().any(|set| rule.text.contains(set))
}

/// How the names of our IP sets begin, by family and as temporary ones.
const SET_PREFIXES: [&str; 4] = ["cali40", "cali60", "cali4t", "cali6t"];
/// How the names of Calico's sets began in earlier versions.
const OLD_SET_PREFIX: &str = "felix-";

/// Whether an IP set of this name is ours.
#[must_use]
pub fn is_our_set(name: &str) -> bool {
    SET_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || name.starts_with(OLD_SET_PREFIX)
}

/// Whether an IP set of this name is one that we only fill, to exchange it with another.
#[must_use]
pub fn is_temporary_set(name: &str) -> bool {
    name.starts_with("cali4t") || name.starts_with("cali6t")
}

#[cfg(test)]
mod plan_tests;
