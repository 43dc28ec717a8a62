//! What compare-and-swap compares.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::sync::Arc;

/// Texts up to this length stand in the version itself: room for every number of 64 bits.
const SHORT: usize = 22;

/// The identity of one content of one object. Opaque: compare it, hand it back, never read it.
///
/// Two different contents of an object have different versions. Whether a content that comes back has its old version
/// again is the adapter's business.
#[derive(Clone)]
pub struct Version(Text);

/// There is a version for each object of a cluster, most of them numbers: those take no memory of their own.
#[derive(Clone)]
enum Text {
    Short { length: u8, bytes: [u8; SHORT] },
    Long(Arc<str>),
}

impl Version {
    /// Makes a version from an adapter's own text.
    pub fn new(text: impl AsRef<str>) -> Self {
        let text = text.as_ref();
        let mut bytes = [0; SHORT];
        match (bytes.get_mut(..text.len()), u8::try_from(text.len())) {
            (Some(room), Ok(length)) => {
                room.copy_from_slice(text.as_bytes());
                Version(Text::Short { length, bytes })
            }
            _ => Version(Text::Long(text.into())),
        }
    }

    /// The adapter's own text.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Text::Short { length, bytes } => {
                let text = bytes.get(..usize::from(*length)).unwrap_or_default();
                // It was copied from a text as a whole.
                std::str::from_utf8(text).unwrap_or_default()
            }
            Text::Long(text) => text,
        }
    }
}

impl From<u64> for Version {
    /// The version of which the text is a number in decimal digits.
    fn from(number: u64) -> Self {
        let mut bytes = [0; SHORT];
        let mut room = bytes.as_mut_slice();
        // No number of 64 bits has more than 20 digits.
        match write!(room, "{number}") {
            Ok(()) => {
                let left = room.len();
                Version(Text::Short {
                    length: u8::try_from(SHORT - left).unwrap_or_default(),
                    bytes,
                })
            }
            Err(_) => Version::new(number.to_string()),
        }
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            // The bytes behind the text are zero in both.
            (Text::Short { length: a, bytes: x }, Text::Short { length: b, bytes: y }) => a == b && x == y,
            (Text::Long(a), Text::Long(b)) => a == b,
            (Text::Short { .. }, Text::Long(_)) | (Text::Long(_), Text::Short { .. }) => false,
        }
    }
}

impl Eq for Version {}

impl Hash for Version {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Version({})", self.as_str())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However long a text is, the version is that text and equals those of equal texts only.
        #[test]
        fn a_version_is_its_text(a in "[a-zü]{0,30}", b in "[a-zü]{0,30}") {
            let (left, right) = (Version::new(&a), Version::new(b.clone()));
            prop_assert_eq!(left.as_str(), a.as_str());
            prop_assert_eq!(left == right, a == b);
            prop_assert_eq!(&left, &left.clone());
        }
    }

    #[test]
    fn a_number_is_its_digits() {
        for number in [0, 7, 10, u64::MAX] {
            assert_eq!(Version::from(number), Version::new(number.to_string()));
        }
    }

    #[test]
    fn numbers_take_no_memory_of_their_own() {
        assert!(matches!(Version::new(u64::MAX.to_string()).0, Text::Short { .. }));
        assert_eq!(size_of::<Version>(), 24);
    }
}
