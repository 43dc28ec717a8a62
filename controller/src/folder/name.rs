//! Which names in a folder are manifests.
//!
//! Editors write beside the file that they edit; what they leave there must never be taken for a manifest.

use std::ffi::OsStr;

/// What a name in the folder stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NameClass {
    /// A manifest, if it is a file.
    Manifest,
    /// Not a manifest; a folder of this name is read.
    Other,
    /// Hidden, or an editor's: neither read nor entered.
    Ignored,
    /// Begins with two dots: the link that Kubernetes turns when it replaces a whole mounted folder.
    Swap,
}

/// Says what a name stands for.
pub(super) fn classify(name: &OsStr) -> NameClass {
    let text = name.to_string_lossy();
    if text.starts_with("..") {
        return NameClass::Swap;
    }
    if text.starts_with('.') || text.starts_with('#') || text.ends_with('~') {
        return NameClass::Ignored;
    }
    match text.rsplit_once('.') {
        Some((stem, "yaml" | "yml" | "json")) if !stem.is_empty() => NameClass::Manifest,
        _ => NameClass::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_finished_manifests_are_manifests() {
        for manifest in ["a.yaml", "a.b.yml", "1.json", "a b.yaml"] {
            assert_eq!(classify(OsStr::new(manifest)), NameClass::Manifest, "{manifest}");
        }
        for other in [
            "a.txt",
            "yaml",
            "a.yaml.tmp",
            "a.yaml.bak",
            "4913",
            "sedAbC12",
            "a.YAML2",
            "dir",
        ] {
            assert_eq!(classify(OsStr::new(other)), NameClass::Other, "{other}");
        }
        for ignored in [
            ".a.yaml.swp",
            ".a.yaml",
            ".yaml",
            "a.yaml~",
            "#a.yaml#",
            ".#a.yaml",
            ".git",
        ] {
            assert_eq!(classify(OsStr::new(ignored)), NameClass::Ignored, "{ignored}");
        }
        assert_eq!(classify(OsStr::new("..data")), NameClass::Swap);
    }
}
