//! The bytes of a key or of a datum, as they stand in a packet register.
//!
//! A scalar has its own width (a port has two bytes). In a concatenation every field is padded to four bytes, the last one too;
//! [`Value::and`] does that. Numbers that the kernel keeps in host order (priority, mark, connection states) are written in host
//! order, what comes from packets (addresses, ports) in network order.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smallvec::SmallVec;

/// The longest value that the kernel takes, in bytes.
pub const MAX_VALUE: usize = 64;
/// The width of an interface name, terminating zero included.
const IFNAMSIZ: usize = 16;

/// The bytes of a key or datum. Two values are equal if their bytes are.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(SmallVec<[u8; 16]>);

impl Value {
    /// Any bytes, as they are.
    #[must_use]
    pub fn bytes(bytes: &[u8]) -> Self {
        Self(SmallVec::from_slice(bytes))
    }

    /// One byte: an L4 protocol, an ICMP type, TCP flags, a connection's direction.
    #[must_use]
    pub fn byte(byte: u8) -> Self {
        Self::bytes(&[byte])
    }

    /// A transport port, network order.
    #[must_use]
    pub fn port(port: u16) -> Self {
        Self::bytes(&port.to_be_bytes())
    }

    /// A 32-bit number in host order: priority (a `classid`), mark, connection states, interface index.
    #[must_use]
    pub fn host32(number: u32) -> Self {
        Self::bytes(&number.to_ne_bytes())
    }

    /// An IPv4 address.
    #[must_use]
    pub fn ipv4(address: Ipv4Addr) -> Self {
        Self::bytes(&address.octets())
    }

    /// An IPv6 address.
    #[must_use]
    pub fn ipv6(address: Ipv6Addr) -> Self {
        Self::bytes(&address.octets())
    }

    /// An address of either family.
    #[must_use]
    pub fn ip(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::ipv4(address),
            IpAddr::V6(address) => Self::ipv6(address),
        }
    }

    /// A whole interface name, padded to 16 bytes. A name of 16 bytes or more cannot exist and is cut to 15.
    #[must_use]
    pub fn interface(name: &str) -> Self {
        let mut padded = [0; IFNAMSIZ];
        for (to, &from) in padded.iter_mut().zip(name.as_bytes().iter().take(IFNAMSIZ - 1)) {
            *to = from;
        }
        Self::bytes(&padded)
    }

    /// The concatenation of this and `next`, every field padded to four bytes.
    #[must_use]
    pub fn and(mut self, next: Self) -> Self {
        self.pad();
        self.0.extend_from_slice(&next.0);
        self.pad();
        self
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The value as a 32-bit number in host order, if it has that width.
    #[must_use]
    pub fn to_host32(&self) -> Option<u32> {
        self.0.as_slice().try_into().ok().map(u32::from_ne_bytes)
    }

    /// The value as an address, if it has the width of one.
    #[must_use]
    pub fn to_ip(&self) -> Option<IpAddr> {
        match *self.0.as_slice() {
            [a, b, c, d] => Some(Ipv4Addr::new(a, b, c, d).into()),
            ref bytes => <[u8; 16]>::try_from(bytes)
                .ok()
                .map(|octets| Ipv6Addr::from(octets).into()),
        }
    }

    /// The value as an interface name: what stands before the first zero.
    #[must_use]
    pub fn to_interface(&self) -> Option<&str> {
        let end = self.0.iter().position(|&byte| byte == 0).unwrap_or(self.0.len());
        std::str::from_utf8(self.0.get(..end)?).ok()
    }

    /// The next larger value of the same width, read as one number in network order; none after all ones.
    #[must_use]
    pub fn successor(&self) -> Option<Self> {
        let mut next = self.clone();
        for byte in next.0.iter_mut().rev() {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                return Some(next);
            }
        }
        None
    }

    /// The next smaller value of the same width; none before all zeros.
    #[must_use]
    pub fn predecessor(&self) -> Option<Self> {
        let mut previous = self.clone();
        for byte in previous.0.iter_mut().rev() {
            *byte = byte.wrapping_sub(1);
            if *byte != u8::MAX {
                return Some(previous);
            }
        }
        None
    }

    /// All ones, in the width of this value.
    #[must_use]
    pub fn all_ones(&self) -> Self {
        Self(SmallVec::from_elem(u8::MAX, self.0.len()))
    }

    /// All zeros, in the width of this value.
    #[must_use]
    pub fn all_zeros(&self) -> Self {
        Self(SmallVec::from_elem(0, self.0.len()))
    }

    fn pad(&mut self) {
        while !self.0.len().is_multiple_of(4) {
            self.0.push(0);
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("0x")?;
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_concatenation_are_padded() {
        let key = Value::host32(0x8000_0001)
            .and(Value::byte(6))
            .and(Value::port(8080));
        let mut expected = 0x8000_0001u32.to_ne_bytes().to_vec();
        expected.extend_from_slice(&[6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        assert_eq!(key.as_bytes(), expected);
    }

    #[test]
    fn neighbours_carry_and_end() {
        let edge = Value::bytes(&[10, 255, 255]);
        assert_eq!(edge.successor(), Some(Value::bytes(&[11, 0, 0])));
        assert_eq!(
            edge.successor().and_then(|next| next.predecessor()),
            Some(edge.clone())
        );
        assert_eq!(edge.all_ones().successor(), None);
        assert_eq!(edge.all_zeros().predecessor(), None);
    }

    #[test]
    fn interface_names_fill_sixteen_bytes() {
        let name = Value::interface("cali0123456789abcdef");
        assert_eq!(name.as_bytes().len(), 16);
        assert_eq!(name.to_interface(), Some("cali0123456789a"));
    }
}
