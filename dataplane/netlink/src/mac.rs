//! Ethernet addresses, and the two facts about them that the workload conventions rest on.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// An Ethernet address of six bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress([u8; 6]);

/// A text that is not six pairs of hexadecimal digits separated by colons or dashes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an Ethernet address such as 02:00:5e:10:00:01")]
pub struct InvalidMacAddress {
    /// The text.
    pub text: String,
}

impl MacAddress {
    /// The address of the host side of every workload interface.
    ///
    /// One address for all lets a pod's neighbour entry for its gateway be written before its host side is
    /// up, and stay true when the interface is made again.
    pub const HOST_SIDE: Self = Self([0xee; 6]);

    /// Makes an address of its bytes.
    pub const fn new(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes.
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }

    /// Whether the address may stand on an interface: neither a group address nor all zeroes.
    pub const fn is_usable(self) -> bool {
        let [first, second, third, fourth, fifth, sixth] = self.0;
        first & 1 == 0 && (first | second | third | fourth | fifth | sixth) != 0
    }

    /// Returns the link-local IPv6 address that follows from this address (RFC 4291, appendix A).
    pub fn link_local(self) -> Ipv6Addr {
        let [first, second, third, fourth, fifth, sixth] = self.0;
        Ipv6Addr::from([
            0xfe,
            0x80,
            0,
            0,
            0,
            0,
            0,
            0,
            first ^ 2,
            second,
            third,
            0xff,
            0xfe,
            fourth,
            fifth,
            sixth,
        ])
    }
}

impl TryFrom<&[u8]> for MacAddress {
    type Error = std::array::TryFromSliceError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        <[u8; 6]>::try_from(bytes).map(Self)
    }
}

impl FromStr for MacAddress {
    type Err = InvalidMacAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidMacAddress {
            text: text.to_owned(),
        };
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut bytes = [0; 6];
        let mut pairs = text.split(separator);
        for byte in &mut bytes {
            let pair = pairs.next().ok_or_else(invalid)?;
            // from_str_radix takes a sign, which an address must not have.
            if pair.len() != 2 || !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(invalid());
            }
            *byte = u8::from_str_radix(pair, 16).map_err(|_| invalid())?;
        }
        if pairs.next().is_some() {
            Err(invalid())
        } else {
            Ok(Self(bytes))
        }
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second, third, fourth, fifth, sixth] = self.0;
        write!(
            formatter,
            "{first:02x}:{second:02x}:{third:02x}:{fourth:02x}:{fifth:02x}:{sixth:02x}"
        )
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_sides_link_local_address_is_the_pods_gateway() {
        assert_eq!(
            MacAddress::HOST_SIDE.link_local().to_string(),
            "fe80::ecee:eeff:feee:eeee"
        );
    }

    #[test]
    fn text_goes_both_ways() {
        let address: MacAddress = "02:00:5e:10:00:0a".parse().unwrap();
        assert_eq!(address.to_string(), "02:00:5e:10:00:0a");
        assert_eq!("02-00-5E-10-00-0A".parse::<MacAddress>().unwrap(), address);
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "02:00:5e:10:00",
            "02:00:5e:10:00:0a:0b",
            "02:00:5e:10:00:0g",
            "2:0:5e:10:0:a",
            "+2:00:5e:10:00:0a",
        ] {
            assert!(text.parse::<MacAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn group_and_zero_addresses_are_not_usable() {
        assert!(!"01:00:5e:00:00:01".parse::<MacAddress>().unwrap().is_usable());
        assert!(!MacAddress::new([0; 6]).is_usable());
        assert!(MacAddress::HOST_SIDE.is_usable());
    }
}
