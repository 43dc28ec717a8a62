//! Which file an object is kept in, and which object a file is about.
//!
//! Names are validated before they come here; this room makes sure once more that no name can leave its folder.

use policy_model::{Key, Kind};
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

/// The folder of the lock and the journal.
pub(crate) const CONTROL: &str = ".manx";
/// How the names of documents end.
const EXTENSION: &str = ".yaml";
/// The longest name of a file that Linux's file systems take, in bytes.
const LONGEST_FILE_NAME: usize = 255;

/// What a file in the folder is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Location {
    /// The document of this object.
    Document(Key),
    /// Something that looks like a document and is none, because of this.
    Misplaced(&'static str),
    /// Nothing of ours: an editor's backup, a hidden file, a note.
    Foreign,
}

/// The path of an object's document, relative to the root; `None` where no object can have this key.
pub(crate) fn of_key(key: &Key) -> Option<PathBuf> {
    let mut path = PathBuf::from(key.kind.plural());
    if key.kind.is_namespaced() {
        path.push(encode(&key.namespace)?);
    } else if !key.namespace.is_empty() {
        return None;
    }
    let name = encode(&key.name)? + EXTENSION;
    if name.len() > LONGEST_FILE_NAME {
        return None;
    }
    path.push(name);
    Some(path)
}

/// What a file with this path, relative to the root, is.
pub(crate) fn locate(relative: &Path) -> Location {
    let mut parts = Vec::new();
    for component in relative.components() {
        match component {
            Component::Normal(part) => match part.to_str() {
                Some(text) => parts.push(text),
                None => return Location::Foreign,
            },
            _ => return Location::Foreign,
        }
    }
    if parts.iter().any(|part| part.starts_with('.')) {
        return Location::Foreign;
    }
    let Some(file) = parts.last() else {
        return Location::Foreign;
    };
    let Some(stem) = file.strip_suffix(EXTENSION) else {
        let nearly = file.ends_with(".yml") || file.ends_with(".json");
        return if nearly {
            Location::Misplaced("a document's file is named <name>.yaml")
        } else {
            Location::Foreign
        };
    };
    let Some(kind) = parts
        .first()
        .and_then(|folder| kind_of_folder(OsStr::new(folder)))
    else {
        return Location::Misplaced("a document stands in the folder of its kind, such as tiers");
    };
    let key = match (kind.is_namespaced(), parts.as_slice()) {
        (true, [_, namespace, _]) => decode(namespace)
            .zip(decode(stem))
            .map(|(namespace, name)| Key::namespaced(kind, namespace, name)),
        (true, _) => {
            return Location::Misplaced("a document of this kind stands in the folder of its namespace");
        }
        (false, [_, _]) => decode(stem).map(|name| Key::global(kind, name)),
        (false, _) => {
            return Location::Misplaced("a document of this kind stands directly in the folder of the kind");
        }
    };
    // The way back must lead here, or one object could stand in two files.
    match key {
        Some(key) if of_key(&key).as_deref() == Some(relative) => Location::Document(key),
        _ => Location::Misplaced("the file's name is not how an object's name is written"),
    }
}

/// The kind whose folder has this name.
pub(crate) fn kind_of_folder(name: &OsStr) -> Option<Kind> {
    Kind::ALL
        .into_iter()
        .find(|kind| OsStr::new(kind.plural()) == name)
}

/// A name as part of a path: letters, digits and `-_.` as they are (but no dot first), the rest as `%` and two digits.
fn encode(name: &str) -> Option<String> {
    if name.is_empty() || name.len() > LONGEST_FILE_NAME {
        return None;
    }
    let mut text = String::with_capacity(name.len());
    for (n, byte) in name.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || (byte == b'.' && n > 0);
        if plain {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    (text.len() <= LONGEST_FILE_NAME).then_some(text)
}

/// The name that was encoded so; `None` where no name is.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || rest.next().and_then(|d| char::from(d).to_digit(16));
            let (high, low) = (digit()?, digit()?);
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_readable() {
        let path = |key: &Key| of_key(key).unwrap().to_str().unwrap().to_owned();
        assert_eq!(path(&Key::global(Kind::Tier, "default")), "tiers/default.yaml");
        let policy = Key::namespaced(Kind::NetworkPolicy, "shop", "knp.default.web");
        assert_eq!(path(&policy), "networkpolicies/shop/knp.default.web.yaml");
        assert_eq!(
            path(&Key::global(Kind::Node, "fe80::1/64")),
            "nodes/fe80%3A%3A1%2F64.yaml"
        );
        assert_eq!(path(&Key::global(Kind::Node, "..")), "nodes/%2E..yaml");
    }

    #[test]
    fn what_cannot_be_a_document_is_none() {
        assert_eq!(of_key(&Key::global(Kind::Tier, "")), None);
        assert_eq!(of_key(&Key::global(Kind::NetworkPolicy, "no-namespace")), None);
        assert_eq!(of_key(&Key::namespaced(Kind::Tier, "a", "b")), None);
        assert_eq!(of_key(&Key::global(Kind::Tier, "x".repeat(251))), None);
        assert!(of_key(&Key::global(Kind::Tier, "x".repeat(250))).is_some());
        for foreign in [
            "tiers/a.yaml~",
            "tiers/.a.yaml.swp",
            "tiers/4913",
            "README.md",
            ".manx/journal",
            "tiers/.tmp-1-1",
        ] {
            assert_eq!(locate(Path::new(foreign)), Location::Foreign, "{foreign}");
        }
        for misplaced in [
            "a.yaml",
            "tiers/a.yml",
            "tiers/a.json",
            "tiers/a/b.yaml",
            "networkpolicies/a.yaml",
            "strange/a.yaml",
            "tiers/%61.yaml",
            "tiers/a b.yaml",
            "tiers/%zz.yaml",
            "tiers/%2e.yaml",
        ] {
            assert!(
                matches!(locate(Path::new(misplaced)), Location::Misplaced(_)),
                "{misplaced}"
            );
        }
        assert_eq!(locate(Path::new("tiers/../x.yaml")), Location::Foreign);
    }

    proptest! {
        #[test]
        fn every_name_comes_back_and_stays_in_its_folder(namespace in ".{1,20}", name in ".{1,40}") {
            let key = Key::namespaced(Kind::NetworkSet, namespace, name);
            if let Some(path) = of_key(&key) {
                prop_assert_eq!(path.components().count(), 3);
                prop_assert!(path.components().all(|c| matches!(c, Component::Normal(_))));
                prop_assert!(path.is_relative());
                prop_assert_eq!(locate(&path), Location::Document(key));
            }
        }
    }
}
