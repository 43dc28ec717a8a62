//! The registers that expressions of one rule hand values to each other in.
//!
//! The kernel has sixteen words of four bytes, and an older naming of the same space as four registers of sixteen bytes. The nft
//! program names a word by the old name where one starts there, and so does the kernel when it dumps; we write what they write, and
//! compare registers by word.

/// A register: a word of four bytes, numbered from the start of the space. Longer values go on into the words that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Register(u8);

/// `NFT_REG32_00`, the word-wise name of the first word.
const WORDS_FROM: u32 = 8;
/// `NFT_REG_1`, the old name of the first word.
const OLD_FROM: u32 = 1;

impl Register {
    /// The first word, which most rules need only.
    pub const FIRST: Self = Self(0);

    /// The word at this place; the kernel has 16, and refuses a rule that names a later one.
    #[must_use]
    pub const fn word(index: u8) -> Self {
        Self(index)
    }

    /// The register after a value of `bytes` bytes that starts here.
    #[must_use]
    pub fn after(self, bytes: usize) -> Self {
        Self(
            self.0
                .saturating_add(u8::try_from(bytes.div_ceil(4)).unwrap_or(u8::MAX)),
        )
    }

    /// The kernel's number.
    pub(crate) fn number(self) -> u32 {
        if self.0.is_multiple_of(4) && self.0 < 16 {
            OLD_FROM + u32::from(self.0) / 4
        } else {
            WORDS_FROM + u32::from(self.0)
        }
    }

    /// The register of a kernel number, if it is one for values (zero is the verdict).
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        match number {
            1..=4 => Some(Self((number - OLD_FROM) as u8 * 4)),
            8..=263 => Some(Self((number - WORDS_FROM) as u8)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_and_new_names_are_one_register() {
        assert_eq!(Register::from_number(1), Register::from_number(8));
        assert_eq!(Register::from_number(2), Register::from_number(12));
        assert_eq!(Register::FIRST.number(), 1);
        assert_eq!(Register::FIRST.after(4).number(), 9);
        assert_eq!(Register::FIRST.after(16).number(), 2);
        assert_eq!(Register::from_number(0), None);
        for word in 0..16 {
            assert_eq!(
                Register::from_number(Register::word(word).number()),
                Some(Register::word(word))
            );
        }
    }
}
