//! The text of a rule: its words, and a normal form in which what we wrote and what the program prints are equal.
//!
//! The programs print a rule in an order and with forms of their own. The normal form undoes the rearrangements that all
//! versions make of every rule; rarer ones are learned from the first reading after a write of ours (see
//! [`super::compare::Learned`]).

use std::borrow::Cow;

use super::hash::HASH_LENGTH;
use super::save::our_comment;

/// Options that every version prints first, in an order of its own.
const BASICS: [&str; 6] = ["-s", "-d", "-i", "-o", "-p", "-f"];

/// Names that the programs print for protocols.
const PROTOCOLS: [(&str, &str); 17] = [
    ("icmp", "1"),
    ("igmp", "2"),
    ("ipencap", "4"),
    ("tcp", "6"),
    ("udp", "17"),
    ("dccp", "33"),
    ("ipv6", "41"),
    ("gre", "47"),
    ("esp", "50"),
    ("ah", "51"),
    ("icmpv6", "58"),
    ("ipv6-icmp", "58"),
    ("ipip", "94"),
    ("pim", "103"),
    ("vrrp", "112"),
    ("sctp", "132"),
    ("udplite", "136"),
];

/// The words of a rule, without their quotes.
pub fn words(text: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches([' ', '\t']);
        if rest.is_empty() {
            return None;
        }
        let (word, later) = split_word(rest);
        rest = later;
        Some(word)
    })
}

fn split_word(text: &str) -> (Cow<'_, str>, &str) {
    let plain = text.find([' ', '\t']).unwrap_or(text.len());
    let (first, later) = text.split_at(plain);
    if !first.contains('"') {
        return (Cow::Borrowed(first), later);
    }
    let mut word = String::new();
    let (mut quoted, mut escaped) = (false, false);
    for (at, sign) in text.char_indices() {
        match sign {
            _ if escaped => {
                word.push(sign);
                escaped = false;
            }
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ' ' | '\t' if !quoted => return (Cow::Owned(word), text.get(at..).unwrap_or_default()),
            _ => word.push(sign),
        }
    }
    (Cow::Owned(word), "")
}

/// Whether a printed rule is what was written, word for word, but for the comment with the hash. So it is with nearly all,
/// and it is told without the words being taken apart.
#[must_use]
pub fn is_verbatim(written: &str, printed: &str) -> bool {
    const BEFORE_HASH: &str = "-m comment --comment \"cali:";
    const AFTER_HASH: &str = "\" ";
    let Some((head, rest)) = printed.split_once(BEFORE_HASH) else {
        return false;
    };
    let tail = rest
        .get(HASH_LENGTH..)
        .and_then(|rest| rest.strip_prefix(AFTER_HASH));
    tail.is_some_and(|tail| written.strip_prefix(head) == Some(tail))
}

/// The normal form of a rule of ours: its words without the comment that holds the hash, the basic options first and sorted.
#[must_use]
pub fn normal(text: &str) -> Vec<Cow<'_, str>> {
    let mut words = words(text).peekable();
    let mut basics: Vec<[Cow<'_, str>; 3]> = Vec::new();
    let mut rest: Vec<Cow<'_, str>> = Vec::new();
    let mut commented = false;
    while let Some(word) = words.next() {
        let negated = word == "!" && words.peek().is_some_and(|next| is_basic(next));
        let option = if negated { words.next() } else { Some(word) };
        let Some(option) = option else { break };
        if is_basic(&option) {
            let value = words.next().unwrap_or_default();
            let value = plain_value(&option, value);
            basics.push([option, Cow::Borrowed(if negated { "!" } else { "" }), value]);
        } else if option == "--comment" && !commented {
            let comment = words.next().unwrap_or_default();
            if our_comment(&comment).is_some() && rest.ends_with(&["-m".into(), "comment".into()]) {
                rest.truncate(rest.len() - 2);
                commented = true;
            } else {
                rest.extend([option, comment]);
            }
        } else if option == "--set-mark" {
            rest.push(Cow::Borrowed("--set-xmark"));
        } else {
            rest.push(option);
        }
    }
    basics.sort_unstable();
    basics.into_iter().flatten().chain(rest).collect()
}

fn is_basic(word: &str) -> bool {
    BASICS.contains(&word)
}

/// One form for values that have several: a single address is a net, a protocol a number. Which protocols the programs know
/// by name depends on a file of the system's.
fn plain_value<'a>(option: &str, value: Cow<'a, str>) -> Cow<'a, str> {
    match option {
        "-s" | "-d" if !value.contains('/') => {
            let bits = if value.contains(':') { 128 } else { 32 };
            Cow::Owned(format!("{value}/{bits}"))
        }
        "-p" => match PROTOCOLS
            .iter()
            .find(|(name, _)| value.eq_ignore_ascii_case(name))
        {
            Some((_, number)) => Cow::Borrowed(*number),
            None => value,
        },
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_lose_their_quotes() {
        let found: Vec<_> = words(r#"-m comment --comment "a \"b\" \\ c" --x y"z w" -j  Q"#).collect();
        let expected = [
            "-m",
            "comment",
            "--comment",
            r#"a "b" \ c"#,
            "--x",
            "yz w",
            "-j",
            "Q",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_written_and_what_is_printed_have_one_form() {
        for (written, printed) in [
            (
                r#"-m comment --comment "cali:0123456789abcdef" -p tcp -m tcp --dport 80 -j ACCEPT"#,
                r#"-p tcp -m comment --comment "cali:0123456789abcdef" -m tcp --dport 80 -j ACCEPT"#,
            ),
            (
                r#"-i eth0 -s 10.0.0.1 ! -d fd00::1 -m comment --comment "cali:0123456789abcdef" -m comment --comment hi -j MARK --set-mark 0x1/0x1"#,
                r#"-s 10.0.0.1/32 ! -d fd00::1/128 -i eth0 -m comment --comment "cali:0123456789abcdef" -m comment --comment "hi" -j MARK --set-xmark 0x1/0x1"#,
            ),
            ("-p 47 -j DROP", "-p gre -j DROP"),
        ] {
            assert_eq!(normal(written), normal(printed));
        }
    }

    #[test]
    fn most_rules_are_printed_word_for_word() {
        let written = "-p tcp -m tcp --dport 80 -j ACCEPT";
        let printed = r#"-p tcp -m comment --comment "cali:0123456789abcdef" -m tcp --dport 80 -j ACCEPT"#;
        assert!(is_verbatim(written, printed));
        assert!(is_verbatim(
            "-j DROP",
            r#"-m comment --comment "cali:0123456789abcdef" -j DROP"#
        ));
        for other in [
            printed.replace("80", "81"),
            printed.replace("ACCEPT", "ACCEPT "),
            printed.replace("-p tcp ", ""),
            printed.replace("0123", "01234"),
            "-j ACCEPT".to_owned(),
        ] {
            assert!(!is_verbatim(written, &other), "{other}");
        }
    }

    #[test]
    fn a_changed_rule_has_another_form() {
        let ours = r#"-s 10.0.0.0/8 -m comment --comment "cali:0123456789abcdef" -j DROP"#;
        for changed in [
            r#"-s 10.0.0.0/8 -m comment --comment "cali:0123456789abcdef" -j ACCEPT"#,
            r#"! -s 10.0.0.0/8 -m comment --comment "cali:0123456789abcdef" -j DROP"#,
            r#"-s 10.0.0.0/8 -m comment --comment "cali:0123456789abcdef" -m comment --comment "cali:0123456789abcdef" -j DROP"#,
            r#"-s 10.0.0.0/8 -i eth0 -m comment --comment "cali:0123456789abcdef" -j DROP"#,
        ] {
            assert_ne!(normal(ours), normal(changed), "{changed}");
        }
    }
}
