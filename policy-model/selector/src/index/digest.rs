//! Sets of labels and keys folded to 64 bits, which tell quickly of most selectors that they do not match.

use super::{Label, Symbol};

/// A set of labels and keys: if the digest of one is not within that of another, then the set is not either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LabelDigest(u64);

/// An odd number without pattern; multiplying by it spreads small numbers over the upper bits.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

impl LabelDigest {
    /// The digest of nothing, which is within every other.
    pub(super) const NOTHING: LabelDigest = LabelDigest(0);
    /// The digest of everything, within hardly any other: for what is never met.
    pub(super) const EVERYTHING: LabelDigest = LabelDigest(u64::MAX);

    pub(super) fn of_key(key: Symbol) -> Self {
        LabelDigest(1 << (u64::from(key.number()).wrapping_mul(SPREAD) >> 58))
    }

    /// The digest of a label and of its key.
    pub(super) fn of_label((key, value): Label) -> Self {
        let both = u64::from(key.number()) << 32 | u64::from(value.number());
        let mixed = (both.wrapping_mul(SPREAD) ^ (both >> 29)).wrapping_mul(SPREAD);
        LabelDigest(1 << (mixed >> 58)).with(Self::of_key(key))
    }

    /// The digest of the labels and of their keys.
    pub(super) fn of(labels: &[Label]) -> Self {
        labels
            .iter()
            .fold(Self::NOTHING, |digest, label| digest.with(Self::of_label(*label)))
    }

    /// What either requires.
    pub(super) fn with(self, other: Self) -> Self {
        LabelDigest(self.0 | other.0)
    }

    /// What both require.
    pub(super) fn common(self, other: Self) -> Self {
        LabelDigest(self.0 & other.0)
    }

    pub(super) fn is_within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }
}
