//! The nft program's own notes on objects, which the kernel stores unread: comments, and how to print the elements of a set.
//!
//! A note is one byte of kind, one byte of length, then its bytes. The kernel takes 256 bytes for one object.

use super::datatype::ByteOrder;

/// The comment of tables, chains, rules and set elements.
pub(crate) const COMMENT: u8 = 0;
/// The comment of a set; the kinds below it are taken.
pub(crate) const SET_COMMENT: u8 = 7;

const SET_KEY_BYTE_ORDER: u8 = 0;
const SET_DATA_BYTE_ORDER: u8 = 1;
const SET_DATA_INTERVAL: u8 = 6;
const ELEMENT_FLAGS: u8 = 1;
/// An interval that goes up to the last value and so has no end element.
const ELEMENT_INTERVAL_OPEN: u32 = 1;

/// The longest comment that the nft program reads back, in bytes, without the terminating zero.
const COMMENT_MAX: usize = 127;

/// Appends a comment note. What is too long for the nft program to load again is cut at a character.
pub(crate) fn comment(out: &mut Vec<u8>, kind: u8, text: &str) {
    let text = text
        .get(..text.floor_char_boundary(COMMENT_MAX))
        .unwrap_or_default();
    out.push(kind);
    out.push((text.len() + 1) as u8);
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

fn number(out: &mut Vec<u8>, kind: u8, number: u32) {
    out.push(kind);
    out.push(4);
    out.extend_from_slice(&number.to_ne_bytes());
}

/// Appends the notes by which the nft program prints keys and data of a set.
pub(crate) fn set_layout(out: &mut Vec<u8>, key: ByteOrder, data: Option<ByteOrder>) {
    number(out, SET_KEY_BYTE_ORDER, key as u32);
    if let Some(data) = data {
        number(out, SET_DATA_BYTE_ORDER, data as u32);
    }
}

/// Appends the note that the data of a map are no intervals.
pub(crate) fn set_plain_data(out: &mut Vec<u8>) {
    number(out, SET_DATA_INTERVAL, 0);
}

/// The note on an element that its interval is open.
pub(crate) fn element_open() -> [u8; 6] {
    let [a, b, c, d] = ELEMENT_INTERVAL_OPEN.to_ne_bytes();
    [ELEMENT_FLAGS, 4, a, b, c, d]
}

/// Finds a comment note.
pub(crate) fn find_comment(mut notes: &[u8], wanted: u8) -> Option<String> {
    while let [kind, length, rest @ ..] = notes {
        let text = rest.get(..usize::from(*length))?;
        if *kind == wanted {
            return Some(super::attribute::read_text(text));
        }
        notes = rest.get(usize::from(*length)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_found_behind_other_notes() {
        let mut notes = Vec::new();
        set_layout(&mut notes, ByteOrder::Network, Some(ByteOrder::Host));
        comment(&mut notes, SET_COMMENT, "six");
        assert_eq!(find_comment(&notes, SET_COMMENT).as_deref(), Some("six"));
        assert_eq!(find_comment(&notes, 5), None);
        assert_eq!(find_comment(&[7, 9, 1], 7), None);
    }

    #[test]
    fn long_comments_are_cut_at_a_character() {
        let mut notes = Vec::new();
        comment(&mut notes, COMMENT, &"ä".repeat(100));
        assert_eq!(find_comment(&notes, COMMENT), Some("ä".repeat(63)));
        assert_eq!(notes.len(), 2 + 127);
    }
}
