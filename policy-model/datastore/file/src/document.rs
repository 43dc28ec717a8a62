//! An object as a YAML document, and back.

use policy_model::{FieldError, InvalidResource, Key, Resource};
use policy_model_datastore::Version;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// An object in the forms in which the store keeps it.
pub(crate) struct Rendered {
    /// As another process will read it.
    pub(crate) resource: Resource,
    /// For the journal.
    pub(crate) value: Value,
    /// For the folder.
    pub(crate) bytes: Vec<u8>,
    /// Hash of the bytes.
    pub(crate) version: Version,
}

/// Writes an object down.
///
/// # Errors
/// Every fault of an object that nobody could read again.
pub(crate) fn render(resource: &Resource) -> Result<Rendered, InvalidResource> {
    let value = resource.to_value();
    // The reader's judgement is taken before anything is written: what is stored can be read.
    let resource = Resource::parse(value.clone())?.resource;
    let text = serde_norway::to_string(&value)
        .map_err(|error| InvalidResource::one("", format!("cannot be written as YAML: {error}")))?;
    let bytes = text.into_bytes();
    let version = version(&bytes);
    Ok(Rendered {
        resource,
        value,
        bytes,
        version,
    })
}

/// Reads a document that somebody put into the folder.
///
/// # Errors
/// Every fault found: syntax with line and column, a second document, a field that nobody knows (a slip of the pen in
/// a policy must not pass unseen), an object that does not belong into this file.
pub(crate) fn read(bytes: &[u8], key: &Key) -> Result<Resource, InvalidResource> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(InvalidResource::one("", "the document is empty"));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| InvalidResource::one("", format!("is not UTF-8: {error}")))?;
    // Through YAML's own value, because it refuses a key that stands twice.
    let yaml: serde_norway::Value = serde_norway::from_str(text).map_err(|e| InvalidResource::one("", e))?;
    let value = serde_json::to_value(yaml).map_err(|e| InvalidResource::one("", e))?;
    let parsed = Resource::parse(value)?;
    let mut faults: Vec<FieldError> = parsed
        .unknown_fields
        .iter()
        .map(|field| FieldError::new(field, "is not a known field"))
        .collect();
    let found = parsed.resource.key();
    let mut expect = |field: &str, found: &str, expected: &str| {
        if found != expected {
            let reason = format!("is '{found}', but the file is the place of '{expected}'");
            faults.push(FieldError::new(field, reason));
        }
    };
    expect("kind", found.kind.as_str(), key.kind.as_str());
    expect("metadata.namespace", &found.namespace, &key.namespace);
    expect("metadata.name", &found.name, &key.name);
    if faults.is_empty() {
        Ok(parsed.resource)
    } else {
        Err(InvalidResource { faults })
    }
}

/// The version of a document: half of its SHA-256, as hexadecimal digits.
pub(crate) fn version(bytes: &[u8]) -> Version {
    Version::new(hash(bytes, 16))
}

/// The first `length` bytes of the SHA-256, as hexadecimal digits.
pub(crate) fn hash(bytes: &[u8], length: usize) -> String {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
    ];
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or('0');
    Sha256::digest(bytes)
        .iter()
        .take(length)
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy_model::{Kind, Object, TierSpec};
    use proptest::prelude::*;

    fn key() -> Key {
        Key::global(Kind::Tier, "t")
    }

    fn faults(text: &str) -> Vec<String> {
        read(text.as_bytes(), &key())
            .unwrap_err()
            .faults
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    const HEAD: &str = "apiVersion: projectcalico.org/v3\nkind: Tier\n";

    #[test]
    fn faults_name_field_and_reason() {
        assert_eq!(faults(" \n"), ["the document is empty"]);
        assert!(faults("kind: [unclosed")[0].contains("line 1"));
        assert!(
            faults("a: 1\na: 2\n")[0].contains("duplicate"),
            "{:?}",
            faults("a: 1\na: 2\n")
        );
        assert_eq!(
            faults("apiVersion: v9\nkind: Tier"),
            ["apiVersion: 'v9' is not projectcalico.org/v3"]
        );
        let unknown = format!("{HEAD}metadata: {{name: t}}\nspec: {{oder: 1}}\n");
        assert_eq!(faults(&unknown), ["spec.oder: is not a known field"]);
        let elsewhere = format!("{HEAD}metadata: {{name: u}}\n");
        assert_eq!(
            faults(&elsewhere),
            ["metadata.name: is 'u', but the file is the place of 't'"]
        );
        let two = format!("{HEAD}metadata: {{name: t}}\n---\n{HEAD}metadata: {{name: t}}\n");
        assert!(faults(&two)[0].contains("more than one document"));
        assert!(
            read(b"\xff\xfe", &key())
                .unwrap_err()
                .to_string()
                .contains("UTF-8")
        );
        read(
            format!("# a note\n{HEAD}metadata: {{name: t}}\n").as_bytes(),
            &key(),
        )
        .unwrap();
    }

    proptest! {
        #[test]
        fn every_object_comes_back(order in any::<f64>(), key_text in ".{0,12}", text in ".{0,30}") {
            let mut object = Object::named("t", TierSpec { order: order.is_finite().then_some(order), default_action: None });
            object.metadata.annotations.insert(key_text, text);
            let resource = Resource::from(object);
            let rendered = render(&resource).unwrap();
            prop_assert_eq!(&rendered.resource, &resource);
            prop_assert_eq!(&read(&rendered.bytes, &key()).unwrap(), &resource);
            let journal = serde_json::to_string(&rendered.value).unwrap();
            let value = serde_json::from_str(&journal).unwrap();
            prop_assert_eq!(&Resource::parse(value).unwrap().resource, &resource);
        }

        #[test]
        fn no_bytes_bring_it_down(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes, &key());
        }
    }
}
