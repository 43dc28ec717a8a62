//! Netlink attributes as bytes: written for the protocols that have no types of their own here, and read
//! leniently everywhere.
//!
//! Lists are read with this walker and not with the typed parsers, because a list holds everybody's objects:
//! one exotic tunnel option of somebody else's route must not make all of ours unreadable.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Marks an attribute that holds attributes (`NLA_F_NESTED`).
const NESTED: u16 = 0x8000;
/// What remains of an attribute's type without its flags.
const TYPE_MASK: u16 = 0x3fff;
/// Bytes before an attribute's value.
const HEADER: usize = 4;

/// Rounds a length up to netlink's alignment of four bytes.
pub const fn align(length: usize) -> usize {
    (length + 3) & !3
}

/// Appends one attribute.
pub fn put(buffer: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // Every value that is written here is a number, an address or a copy of what the kernel sent.
    let length = u16::try_from(HEADER + value.len()).unwrap_or(u16::MAX);
    buffer.extend_from_slice(&length.to_ne_bytes());
    buffer.extend_from_slice(&kind.to_ne_bytes());
    buffer.extend_from_slice(value);
    buffer.resize(align(buffer.len()), 0);
}

/// Appends an attribute that holds the attributes that `fill` writes.
pub fn put_nested(buffer: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inside = Vec::new();
    fill(&mut inside);
    put(buffer, kind | NESTED, &inside);
}

/// Walks the attributes in a buffer; ends at the first that does not fit.
pub fn walk(buffer: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = buffer;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes([*rest.first()?, *rest.get(1)?]));
        let kind = u16::from_ne_bytes([*rest.get(2)?, *rest.get(3)?]) & TYPE_MASK;
        let value = rest.get(HEADER..length)?;
        rest = rest.get(align(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Returns the value of the first attribute of one type.
pub fn find(buffer: &[u8], kind: u16) -> Option<&[u8]> {
    walk(buffer)
        .find(|(found, _)| *found == kind)
        .map(|(_, value)| value)
}

/// Reads one byte.
pub fn number8(value: &[u8]) -> Option<u8> {
    value.first().copied()
}

/// Reads a number of two bytes in network order.
pub fn network16(value: &[u8]) -> Option<u16> {
    value.get(..2)?.try_into().ok().map(u16::from_be_bytes)
}

/// Reads a number of four bytes in network order.
pub fn network32(value: &[u8]) -> Option<u32> {
    value.get(..4)?.try_into().ok().map(u32::from_be_bytes)
}

/// Reads a number of four bytes in the machine's order.
pub fn native32(value: &[u8]) -> Option<u32> {
    value.get(..4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// Reads a number of two bytes in the machine's order.
pub fn native16(value: &[u8]) -> Option<u16> {
    value.get(..2)?.try_into().ok().map(u16::from_ne_bytes)
}

/// Reads a text that ends with a zero or with the value.
pub fn text(value: &[u8]) -> &[u8] {
    value.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Reads an address of four or sixteen bytes.
pub fn address(value: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(value) {
        Some(IpAddr::V4(Ipv4Addr::from(bytes)))
    } else {
        <[u8; 16]>::try_from(value)
            .ok()
            .map(|bytes| IpAddr::V6(Ipv6Addr::from(bytes)))
    }
}

/// Returns an address as the bytes that go on the wire.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_put_is_found() {
        let mut buffer = Vec::new();
        put(&mut buffer, 1, &[1, 2, 3]);
        put_nested(&mut buffer, 2, |inside| put(inside, 7, &80_u16.to_be_bytes()));
        assert_eq!(buffer.len() % 4, 0);
        assert_eq!(find(&buffer, 1), Some(&[1, 2, 3][..]));
        let inside = find(&buffer, 2).unwrap();
        assert_eq!(find(inside, 7).and_then(network16), Some(80));
        assert_eq!(find(&buffer, 3), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic_or_loop(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(walk(&bytes).count() <= bytes.len() / 4 + 1);
        }

        #[test]
        fn walking_returns_what_was_put(
            values in proptest::collection::vec((0u16..0x3fff, proptest::collection::vec(any::<u8>(), 0..20)), 0..10)
        ) {
            let mut buffer = Vec::new();
            for (kind, value) in &values {
                put(&mut buffer, *kind, value);
            }
            let read: Vec<(u16, Vec<u8>)> = walk(&buffer).map(|(kind, value)| (kind, value.to_vec())).collect();
            prop_assert_eq!(read, values);
        }
    }
}
