//! The hash in a rule's comment.

use sha2::{Digest, Sha224};

/// How many characters of the hash a comment has.
pub const HASH_LENGTH: usize = 16;
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A chain of hashes: each is of the one before and a text.
#[derive(Clone, Debug)]
pub(super) struct Hashes(Vec<u8>);

impl Hashes {
    /// Begins with the name of what the texts stand in.
    pub(super) fn of(name: &str) -> Self {
        Self(Sha224::digest(name.as_bytes()).to_vec())
    }

    /// The hash of the next text.
    pub(super) fn next(&mut self, text: &str) -> String {
        let mut digest = Sha224::new();
        digest.update(&self.0);
        digest.update(text.as_bytes());
        self.0 = digest.finalize().to_vec();
        base64(&self.0)
    }
}

/// The first characters of the base64 form that is made for file names and URLs.
fn base64(bytes: &[u8]) -> String {
    // Three bytes are four characters, so this many bytes are enough.
    let bytes = bytes.get(..HASH_LENGTH / 4 * 3).unwrap_or(bytes);
    let mut text = String::with_capacity(HASH_LENGTH);
    for group in bytes.chunks(3) {
        let number = group
            .iter()
            .fold(0_usize, |number, &byte| (number << 8) | usize::from(byte));
        for shift in [18, 12, 6, 0] {
            text.extend(DIGITS.get((number >> shift) & 63).map(|&digit| char::from(digit)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_the_usual_one() {
        assert_eq!(base64(b"manx: cat no"), "bWFueDogY2F0IG5v");
        assert_eq!(base64(&[0xff; 28]), "________________");
    }

    #[test]
    fn a_hash_depends_on_everything_before_it() {
        let all = |name: &str, texts: &[&str]| {
            let mut hashes = Hashes::of(name);
            texts.iter().map(|text| hashes.next(text)).collect::<Vec<_>>()
        };
        let one = all("cali-a", &["-j ACCEPT", "-j DROP"]);
        assert!(one.iter().all(|hash| hash.len() == HASH_LENGTH));
        assert_eq!(one, all("cali-a", &["-j ACCEPT", "-j DROP"]));
        assert_ne!(one, all("cali-b", &["-j ACCEPT", "-j DROP"]));
        let swapped = all("cali-a", &["-j DROP", "-j ACCEPT"]);
        assert_ne!(one.last(), swapped.first());
        assert_ne!(one.first(), swapped.last());
    }
}
