//! Spreads nodes over pools and blocks: the same inputs give the same number, different inputs far apart ones.
//!
//! Nodes that all began their search at a pool's first block would collide at every claim. This is no cryptography.

/// A number from text (FNV-1a, 64 bits).
pub(crate) fn of_text(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// A number from a seed and text, mixed so that texts that differ in one digit end far apart.
pub(crate) fn mix(seed: u64, text: &str) -> u64 {
    let mut z = (seed ^ of_text(text)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
