//! The forms that Kubernetes' names, label keys, label values and port names have, with what to say to others.
//!
//! Specifications: RFC 1123 (names), RFC 6335 section 5.1 (port names), the Kubernetes documentation (labels).

/// A name of one label, such as a namespace's: RFC 1123 in lower case.
///
/// # Errors
/// What the text should be.
pub(crate) fn dns_label(text: &str) -> Result<(), String> {
    let good = text.len() <= 63 && is_label(text);
    check(
        good,
        text,
        "no DNS label: lower-case letters, digits and '-', a letter or digit at both ends, at most 63",
    )
}

/// A name of labels with dots between, such as a pod's.
///
/// # Errors
/// What the text should be.
pub(crate) fn dns_subdomain(text: &str) -> Result<(), String> {
    let good = text.len() <= 253 && text.split('.').all(is_label);
    check(
        good,
        text,
        "no DNS subdomain: lower-case letters, digits, '-' and '.', a letter or digit at both ends, at most 253",
    )
}

/// A label's key: a name of at most 63 characters, which a DNS subdomain and a slash may precede.
///
/// # Errors
/// What the text should be.
pub(crate) fn label_key(text: &str) -> Result<(), String> {
    let good = match text.split_once('/') {
        Some((prefix, name)) => dns_subdomain(prefix).is_ok() && is_qualified(name),
        None => is_qualified(text),
    };
    check(
        good,
        text,
        "no label key: letters, digits, '-', '_' and '.', at most 63, behind an optional DNS subdomain and '/'",
    )
}

/// A label's value: empty, or as the name in a label's key.
///
/// # Errors
/// What the text should be.
pub(crate) fn label_value(text: &str) -> Result<(), String> {
    let good = text.is_empty() || is_qualified(text);
    check(
        good,
        text,
        "no label value: letters, digits, '-', '_' and '.', a letter or digit at both ends, at most 63",
    )
}

/// A port's name.
///
/// # Errors
/// What the text should be.
pub(crate) fn port_name(text: &str) -> Result<(), String> {
    let good = (1..=15).contains(&text.len())
        && is_label(text)
        && !text.contains("--")
        && text.bytes().any(|b| b.is_ascii_lowercase());
    check(
        good,
        text,
        "no port name: lower-case letters, digits and single '-', at least one letter, at most 15",
    )
}

fn check(good: bool, text: &str, what: &str) -> Result<(), String> {
    if good {
        Ok(())
    } else {
        Err(format!("'{text}' is {what}"))
    }
}

fn is_label(text: &str) -> bool {
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.iter().all(|b| plain(b) || *b == b'-')
        && bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
}

fn is_qualified(text: &str) -> bool {
    let plain = u8::is_ascii_alphanumeric;
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.iter().all(|b| plain(b) || matches!(b, b'-' | b'_' | b'.'))
        && bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_accepts_its_edges_and_refuses_what_lies_beyond() {
        let long = |n: usize| "a".repeat(n);
        for good in ["a", "0", "a-b", &long(63)] {
            assert_eq!(dns_label(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ä", &long(64)] {
            assert!(dns_label(bad).is_err(), "{bad}");
        }
        for good in ["a.b", "a--b.c", &long(253)] {
            assert_eq!(dns_subdomain(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "a.", "a..b", "a.-b", &long(254)] {
            assert!(dns_subdomain(bad).is_err(), "{bad}");
        }
        for good in [
            "a",
            "A_b.c-d",
            "example.com/app",
            "1",
            &format!("{}/{}", long(253), long(63)),
        ] {
            assert_eq!(label_key(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "/a",
            "a/",
            "a/b/c",
            "Example.com/a",
            "_a",
            "a b",
            "a'",
            &long(64),
        ] {
            assert!(label_key(bad).is_err(), "{bad}");
        }
        for good in ["", "a", "A.b_c-d", "1"] {
            assert_eq!(label_value(good), Ok(()), "{good}");
        }
        for bad in ["-", "a/b", "a b", "a'b", &long(64)] {
            assert!(label_value(bad).is_err(), "{bad}");
        }
        for good in ["http", "8a", "a-b", "abcdefghijklmno"] {
            assert_eq!(port_name(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "80",
            "a--b",
            "-a",
            "a-",
            "Http",
            "abcdefghijklmnop",
            "a.b",
            "a_b",
        ] {
            assert!(port_name(bad).is_err(), "{bad}");
        }
    }
}
