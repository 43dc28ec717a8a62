//! Reads a value as Kubernetes reads it: keys once only, merge keys applied, YAML 1.1's words for true and false.
//!
//! `kubectl` reads manifests by YAML 1.1, where an unquoted `yes`, `no`, `on` or `off` is a boolean. The parser below
//! knows YAML 1.2 only, in which these are texts; whether a text was quoted is seen in the source, out of which the
//! parser lends it. YAML 1.1's `y` and `n` stay texts: they serve as names, and hardly anybody means a boolean.

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// A value of a YAML text.
#[derive(Clone, Copy)]
pub(super) struct YamlValue<'s> {
    /// The whole text that is parsed.
    pub(super) source: &'s str,
}

/// A value of a JSON text, in which every text is quoted.
pub(super) struct JsonValue(pub(super) Value);

impl<'de> Deserialize<'de> for JsonValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        YamlValue { source: "" }.deserialize(deserializer).map(JsonValue)
    }
}

impl YamlValue<'_> {
    /// The boolean that a text lent out of the source stands for, where it stands there without quotes.
    fn old_boolean(self, text: &str) -> Option<bool> {
        let value = match text {
            "yes" | "Yes" | "YES" | "on" | "On" | "ON" => true,
            "no" | "No" | "NO" | "off" | "Off" | "OFF" => false,
            _ => return None,
        };
        self.is_plain(text).then_some(value)
    }

    /// Whether a text that was lent out of the source stands there without quotes.
    fn is_plain(self, text: &str) -> bool {
        let offset = (text.as_ptr() as usize).checked_sub(self.source.as_ptr() as usize);
        let Some(offset) = offset.filter(|offset| *offset < self.source.len()) else {
            return false;
        };
        let before = offset.checked_sub(1).and_then(|n| self.source.as_bytes().get(n));
        !matches!(before, Some(b'"' | b'\''))
    }
}

impl<'de> DeserializeSeed<'de> for YamlValue<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for YamlValue<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value without a tag")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Value, E> {
        // 80.0 is the number 80: JSON does not tell them apart.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        if v.fract() == 0.0 && v.abs() < EXACT {
            return Ok((v as i64).into());
        }
        Number::from_f64(v)
            .map(Value::Number)
            .ok_or_else(|| E::custom("infinity and NaN are no values"))
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_borrowed_str<E: de::Error>(self, v: &'de str) -> Result<Value, E> {
        Ok(self
            .old_boolean(v)
            .map_or_else(|| Value::String(v.to_owned()), Value::Bool))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = access.next_element_seed(self)? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        let mut merged = None;
        while let Some(key) = access.next_key_seed(KeySeed {
            context: self,
            seen: &map,
            merge: merged.is_some(),
        })? {
            let value = access.next_value_seed(self)?;
            match key {
                Key::Merge => merged = Some(value),
                Key::Field(key) => drop(map.insert(key, value)),
            }
        }
        if let Some(merged) = merged {
            merge(&mut map, merged).map_err(de::Error::custom)?;
        }
        Ok(Value::Object(map))
    }
}

/// Adds what the mapping or mappings behind `<<` say and the map itself does not.
fn merge(map: &mut Map<String, Value>, merged: Value) -> Result<(), &'static str> {
    let sources = match merged {
        Value::Array(list) => list,
        one => vec![one],
    };
    for source in sources {
        let Value::Object(source) = source else {
            return Err("'<<' needs a mapping or a list of mappings");
        };
        for (key, value) in source {
            map.entry(key).or_insert(value);
        }
    }
    Ok(())
}

enum Key {
    Merge,
    Field(String),
}

/// Reads a key while knowing the keys before it: an error from here carries the line of the key itself.
struct KeySeed<'s, 'm> {
    context: YamlValue<'s>,
    seen: &'m Map<String, Value>,
    merge: bool,
}

impl KeySeed<'_, '_> {
    fn field<E: de::Error>(self, key: String) -> Result<Key, E> {
        if self.seen.contains_key(&key) {
            Err(E::custom(format!("duplicate key '{key}'")))
        } else {
            Ok(Key::Field(key))
        }
    }
}

impl<'de> DeserializeSeed<'de> for KeySeed<'_, '_> {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for KeySeed<'_, '_> {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key that is a text")
    }

    // A key that is a number or a boolean becomes its text, as in the conversion to JSON that Kubernetes makes.
    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Key, E> {
        self.field(v.to_string())
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Key, E> {
        self.field(v.to_string())
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Key, E> {
        self.field(v.to_string())
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Key, E> {
        self.field(v.to_string())
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Key, E> {
        self.field(v.to_owned())
    }

    fn visit_borrowed_str<E: de::Error>(self, v: &'de str) -> Result<Key, E> {
        if v == "<<" && self.context.is_plain(v) {
            return if self.merge {
                Err(E::custom("duplicate key '<<'"))
            } else {
                Ok(Key::Merge)
            };
        }
        match self.context.old_boolean(v) {
            Some(boolean) => self.field(boolean.to_string()),
            None => self.field(v.to_owned()),
        }
    }
}
