//! Names and values kept beside an address, small: a cluster has as many of these as it has pods.

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;

/// Names that nearly every address has; they take no memory of their own.
const USUAL: [&str; 9] = [
    "interface",
    "ipv4",
    "namespace",
    "network",
    "node",
    "pod",
    "timestamp",
    "type",
    "uid",
];

/// A map from text to text in the order of its names. Serialised as a map.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attributes(Box<[(Cow<'static, str>, String)]>);

impl Attributes {
    /// The value of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&String> {
        let place = self.0.binary_search_by(|(found, _)| (**found).cmp(name)).ok()?;
        self.0.get(place).map(|(_, value)| value)
    }

    /// Names and values, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, value.as_str()))
    }

    /// Gives a name a value, in place of one that it has.
    pub fn insert(&mut self, name: impl Into<String> + AsRef<str>, mut value: String) {
        value.shrink_to_fit();
        let place = self.0.binary_search_by(|(found, _)| (**found).cmp(name.as_ref()));
        match place {
            Ok(place) => {
                if let Some((_, before)) = self.0.get_mut(place) {
                    *before = value;
                }
            }
            Err(place) => {
                let mut list = std::mem::take(&mut self.0).into_vec();
                list.insert(place, (short(name), value));
                self.0 = list.into_boxed_slice();
            }
        }
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Of two with one name the later one counts.
impl<N: Into<String> + AsRef<str>> FromIterator<(N, String)> for Attributes {
    fn from_iter<I: IntoIterator<Item = (N, String)>>(pairs: I) -> Self {
        let pair = |(name, mut value): (N, String)| {
            value.shrink_to_fit();
            (short(name), value)
        };
        let mut list: Vec<(Cow<'static, str>, String)> = pairs.into_iter().map(pair).collect();
        list.sort_by(|(one, _), (other, _)| one.cmp(other));
        list.dedup_by(|later, earlier| {
            let is_same = later.0 == earlier.0;
            if is_same {
                // The one that stays is the earlier one.
                std::mem::swap(later, earlier);
            }
            is_same
        });
        Attributes(list.into_boxed_slice())
    }
}

impl<N: Into<String> + AsRef<str>, const COUNT: usize> From<[(N, String); COUNT]> for Attributes {
    fn from(pairs: [(N, String); COUNT]) -> Self {
        pairs.into_iter().collect()
    }
}

fn short(name: impl Into<String> + AsRef<str>) -> Cow<'static, str> {
    match USUAL.binary_search(&name.as_ref()) {
        Ok(place) => USUAL
            .get(place)
            .map_or_else(|| Cow::Owned(name.into()), |usual| Cow::Borrowed(*usual)),
        Err(_) => Cow::Owned(name.into()),
    }
}

impl fmt::Debug for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for Attributes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Attributes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = Attributes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Attributes, A::Error> {
                let mut pairs: Vec<(String, String)> = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(pairs.into_iter().collect())
            }
        }

        deserializer.deserialize_map(Pairs)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is the failure itself")]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn usual_names_are_in_their_order() {
        assert!(USUAL.is_sorted());
        let owned = |name: &str| matches!(short(name), Cow::Owned(_));
        assert!(owned("namespaces") && !USUAL.iter().any(|name| owned(name)));
    }

    proptest! {
        #[test]
        fn they_are_like_a_map(
            pairs in proptest::collection::vec(("pod|node|uid|[a-c]{0,2}", "[a-z]{0,3}"), 0..12)
        ) {
            let map: BTreeMap<String, String> = pairs.iter().cloned().collect();
            let attributes: Attributes = pairs.iter().cloned().collect();
            let expected = map.iter().map(|(n, v)| (n.as_str(), v.as_str()));
            prop_assert!(attributes.iter().eq(expected));
            for name in pairs.iter().map(|(name, _)| &**name).chain(["absent"]) {
                prop_assert_eq!(attributes.get(name), map.get(name));
            }
            prop_assert_eq!(attributes.is_empty(), map.is_empty());
            let text = serde_json::to_string(&attributes).unwrap();
            prop_assert_eq!(&text, &serde_json::to_string(&map).unwrap());
            prop_assert_eq!(serde_json::from_str::<Attributes>(&text).unwrap(), attributes);
        }
    }

    #[test]
    fn what_is_no_map_of_text_is_refused() {
        for text in [r#"{"pod": null}"#, r#"{"pod": 7}"#, r#"["pod"]"#, "7", r#""pod""#] {
            assert!(serde_json::from_str::<Attributes>(text).is_err(), "{text}");
        }
    }
}
