//! Netlink attributes: written straight into one buffer, read without copying.
//!
//! An attribute is a 16-bit length (header included), a 16-bit kind, the payload, and padding to four bytes. Lengths and kinds are
//! in host order, integers of nf_tables in network order.

use thiserror::Error;

/// Set in the kind of an attribute whose payload is attributes.
const NESTED: u16 = 0x8000;
/// The bits of a kind that number it; the two above are flags.
const KIND_MASK: u16 = 0x3fff;
const HEADER: usize = 4;

/// Bytes from the kernel that are not what the specification says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("malformed netlink message: {what}")]
pub struct Malformed {
    /// Which part was missing or had a wrong size.
    pub what: &'static str,
}

/// Short for the error of a missing or broken part.
pub(crate) fn malformed(what: &'static str) -> Malformed {
    Malformed { what }
}

/// Appends one attribute with the given payload.
#[inline]
pub(crate) fn bytes(out: &mut Vec<u8>, kind: u16, payload: &[u8]) {
    head(out, HEADER + payload.len(), kind);
    out.extend_from_slice(payload);
    pad(out);
}

/// Appends a string with its terminating zero.
pub(crate) fn text(out: &mut Vec<u8>, kind: u16, text: &str) {
    head(out, HEADER + text.len() + 1, kind);
    out.extend_from_slice(text.as_bytes());
    out.push(0);
    pad(out);
}

/// Appends the head of an attribute. Whoever owns the message checks its whole length (see `Batch`), so a length that does not fit
/// 16 bits never reaches the kernel.
#[inline]
fn head(out: &mut Vec<u8>, length: usize, kind: u16) {
    let ([l0, l1], [k0, k1]) = ((length as u16).to_ne_bytes(), kind.to_ne_bytes());
    out.extend_from_slice(&[l0, l1, k0, k1]);
}

/// Appends a 16-bit number in network order.
pub(crate) fn be16(out: &mut Vec<u8>, kind: u16, number: u16) {
    bytes(out, kind, &number.to_be_bytes());
}

/// Appends a 32-bit number in network order.
pub(crate) fn be32(out: &mut Vec<u8>, kind: u16, number: u32) {
    bytes(out, kind, &number.to_be_bytes());
}

/// Appends a 64-bit number in network order.
pub(crate) fn be64(out: &mut Vec<u8>, kind: u16, number: u64) {
    bytes(out, kind, &number.to_be_bytes());
}

/// Opens an attribute that holds attributes; [`close`] fills in its length.
#[inline]
pub(crate) fn open(out: &mut Vec<u8>, kind: u16) -> usize {
    let start = out.len();
    head(out, 0, kind | NESTED);
    start
}

/// Closes what [`open`] opened at `start`.
#[inline]
pub(crate) fn close(out: &mut Vec<u8>, start: usize) {
    let length = (out.len() - start) as u16;
    // Only foreign bytes, copied as they were, can end off the grid.
    pad(out);
    if let Some(field) = out.get_mut(start..start + 2) {
        field.copy_from_slice(&length.to_ne_bytes());
    }
}

/// Appends an attribute that holds what `fill` writes.
pub(crate) fn nest(out: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = open(out, kind);
    fill(out);
    close(out, start);
}

#[inline]
fn pad(out: &mut Vec<u8>) {
    // Messages are multiples of four and start at one, so the buffer's length tells the padding.
    match out.len() % 4 {
        0 => {}
        1 => out.extend_from_slice(&[0; 3]),
        2 => out.extend_from_slice(&[0; 2]),
        _ => out.push(0),
    }
}

/// The attributes of a payload, in their order: kind without flags, and payload.
///
/// Stops at the first attribute whose length does not fit.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// Reads `payload` as a list of attributes.
    #[must_use]
    pub fn new(payload: &'a [u8]) -> Self {
        Self(payload)
    }

    /// The payload of the first attribute of this kind.
    #[must_use]
    pub fn find(self, kind: u16) -> Option<&'a [u8]> {
        self.into_iter()
            .find_map(|(found, payload)| (found == kind).then_some(payload))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (header, _) = self.0.split_first_chunk::<HEADER>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & KIND_MASK;
        let payload = self.0.get(HEADER..length)?;
        // The last attribute may come without its padding.
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    }
}

/// Reads a 16-bit number in network order.
pub(crate) fn read_be16(payload: &[u8], what: &'static str) -> Result<u16, Malformed> {
    payload
        .try_into()
        .map(u16::from_be_bytes)
        .map_err(|_| malformed(what))
}

/// Reads a 32-bit number in network order.
pub(crate) fn read_be32(payload: &[u8], what: &'static str) -> Result<u32, Malformed> {
    payload
        .try_into()
        .map(u32::from_be_bytes)
        .map_err(|_| malformed(what))
}

/// Reads a 64-bit number in network order.
pub(crate) fn read_be64(payload: &[u8], what: &'static str) -> Result<u64, Malformed> {
    payload
        .try_into()
        .map(u64::from_be_bytes)
        .map_err(|_| malformed(what))
}

/// Reads a string up to its terminating zero; a byte that is no UTF-8 is shown as a replacement character.
pub(crate) fn read_text(payload: &[u8]) -> String {
    let end = payload
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(payload.len());
    String::from_utf8_lossy(payload.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_found_again() {
        let mut out = Vec::new();
        nest(&mut out, 4, |out| {
            text(out, 1, "manx");
            be32(out, 2, 7);
        });
        assert_eq!(
            out,
            [
                20, 0, 4, 0x80, 9, 0, 1, 0, b'm', b'a', b'n', b'x', 0, 0, 0, 0, 8, 0, 2, 0, 0, 0, 0, 7
            ][..]
                .iter()
                .enumerate()
                .map(|(at, &byte)| if at == 0 { 24 } else { byte })
                .collect::<Vec<u8>>()
        );
        let inner = Attributes::new(Attributes::new(&out).find(4).unwrap());
        assert_eq!(read_text(inner.find(1).unwrap()), "manx");
        assert_eq!(read_be32(inner.find(2).unwrap(), "two"), Ok(7));
        assert_eq!(inner.find(3), None);
    }

    #[test]
    fn a_length_beyond_the_end_ends_the_list() {
        let out = [8, 0, 1, 0, 1, 2, 3, 4, 200, 0, 2, 0, 1];
        assert_eq!(Attributes::new(&out).count(), 1);
        assert_eq!(Attributes::new(&[3, 0, 1, 0]).count(), 0);
    }

    #[test]
    fn the_last_attribute_needs_no_padding() {
        assert_eq!(
            Attributes::new(&[5, 0, 1, 0, 9]).collect::<Vec<_>>(),
            [(1, &[9u8][..])]
        );
    }
}
