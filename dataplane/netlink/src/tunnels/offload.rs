//! Who computes the checksums of packets that leave through a tunnel: the hardware below it, or this node.
//!
//! Some combinations of kernel, driver and hypervisor send packets of a tunnel with checksums that nobody accepts:
//! pings pass and connections do not. Then the tunnel device must compute them itself, at the price of throughput. When
//! that is so, is for the caller to find out and to say.
//!
//! By generic netlink (`linux/ethtool_netlink.h`), since the older way is a system call that takes raw pointers.

use std::fmt;

use crate::attributes::{self, put, put_nested};
use crate::error::NetlinkError;
use crate::links::Link;
use crate::socket::{Connection, Patience, Protocol, Request};

/// The family of generic netlink that knows the others (`GENL_ID_CTRL`), its request and its attributes.
const CONTROLLER: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// The family of device settings, its requests and its attributes.
const ETHTOOL: &str = "ethtool";
const GET_FEATURES: u8 = 11;
const SET_FEATURES: u8 = 12;
const DEVICE: u16 = 1;
const DEVICE_INDEX: u16 = 1;
const CHANGEABLE: u16 = 2;
const WANTED: u16 = 3;
const ACTIVE: u16 = 4;
/// The attributes of a set of bits, and of one bit.
const BITS_NO_MASK: u16 = 1;
const BITS: u16 = 3;
const BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;
/// Bytes before the attributes (`struct genlmsghdr`).
const HEADER: usize = 4;
const VERSION: u8 = 1;
/// What the usual switch "transmit checksums" stands for, by the kernel's names.
const CHECKSUMS: [&str; 5] = [
    "tx-checksum-ipv4",
    "tx-checksum-ip-generic",
    "tx-checksum-ipv6",
    "tx-checksum-fcoe-crc",
    "tx-checksum-sctp",
];

/// Who computes the checksums of packets that leave through a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecksumOffload {
    /// Whatever carries the packets afterwards.
    On,
    /// The device itself.
    Off,
}

impl fmt::Display for ChecksumOffload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

/// A socket for the settings of the devices of the namespace in which it was opened.
#[derive(Debug)]
pub struct DeviceSettings {
    connection: Connection,
    family: u16,
}

/// The checksum settings of a device.
#[derive(Debug, Default)]
struct Checksums {
    /// Those that can be switched, by name.
    changeable: Vec<&'static str>,
    /// Those that are on.
    active: Vec<&'static str>,
}

impl DeviceSettings {
    /// Opens a socket in the calling thread's namespace.
    ///
    /// # Errors
    /// The process may not open netlink sockets, or the kernel has no such settings (`CONFIG_ETHTOOL_NETLINK`).
    pub fn open() -> Result<Self, NetlinkError> {
        let mut connection = Connection::open(Protocol::Generic, Patience::default())?;
        let mut body = header(GET_FAMILY);
        let mut name = ETHTOOL.as_bytes().to_vec();
        name.push(0);
        put(&mut body, FAMILY_NAME, &name);
        let request = Request {
            message_type: CONTROLLER,
            flags: 0,
            body,
        };
        let operation =
            "find the kernel's device settings (generic netlink family ethtool, CONFIG_ETHTOOL_NETLINK)";
        let mut family = None;
        connection.fetch(&request, &operation, |answer| {
            let attributes = answer.body.get(HEADER..).unwrap_or_default();
            family = family.or(attributes::find(attributes, FAMILY_ID).and_then(attributes::native16));
        })?;
        match family {
            Some(family) => Ok(Self { connection, family }),
            None => Err(NetlinkError::Malformed {
                operation: operation.to_owned(),
                problem: "the family has no number".to_owned(),
            }),
        }
    }

    /// Returns who computes the checksums of packets that leave through a device: `On` if any sort of them is left to
    /// what comes after it.
    ///
    /// # Errors
    /// The kernel's refusal; also if the device does not exist.
    pub fn checksum_offload(&mut self, link: &Link) -> Result<ChecksumOffload, NetlinkError> {
        Ok(state(&self.checksums(link)?))
    }

    /// Sets who computes the checksums, and returns who does now: a device may be unable to change.
    ///
    /// # Errors
    /// The kernel's refusal; also if the device does not exist.
    pub fn set_checksum_offload(
        &mut self,
        link: &Link,
        wanted: ChecksumOffload,
    ) -> Result<ChecksumOffload, NetlinkError> {
        let before = self.checksums(link)?;
        let is_to_change = |name: &&&str| before.active.contains(*name) != (wanted == ChecksumOffload::On);
        let names: Vec<&str> = before.changeable.iter().filter(is_to_change).copied().collect();
        if names.is_empty() {
            return Ok(state(&before));
        }
        let mut body = header(SET_FEATURES);
        put_device(&mut body, link);
        put_nested(&mut body, WANTED, |set| {
            put_nested(set, BITS, |bits| {
                for name in &names {
                    put_nested(bits, BIT, |bit| {
                        let mut text = name.as_bytes().to_vec();
                        text.push(0);
                        put(bit, BIT_NAME, &text);
                        if wanted == ChecksumOffload::On {
                            put(bit, BIT_VALUE, &[]);
                        }
                    });
                }
            });
        });
        let request = Request {
            message_type: self.family,
            flags: 0,
            body,
        };
        let operation = format_args!("set transmit checksum offload {wanted} of {}", link.name);
        self.connection.execute(&request, &operation)?;
        self.checksum_offload(link)
    }

    fn checksums(&mut self, link: &Link) -> Result<Checksums, NetlinkError> {
        let mut body = header(GET_FEATURES);
        put_device(&mut body, link);
        let request = Request {
            message_type: self.family,
            flags: 0,
            body,
        };
        let operation = format_args!("read the features of {}", link.name);
        let mut read = None;
        self.connection.fetch(&request, &operation, |answer| {
            let attributes = answer.body.get(HEADER..).unwrap_or_default();
            let names = |kind| {
                attributes::find(attributes, kind)
                    .map(names_in)
                    .unwrap_or_default()
            };
            read.get_or_insert_with(|| Checksums {
                changeable: names(CHANGEABLE),
                active: names(ACTIVE),
            });
        })?;
        read.ok_or_else(|| NetlinkError::Malformed {
            operation: operation.to_string(),
            problem: "there is no answer".to_owned(),
        })
    }
}

fn state(checksums: &Checksums) -> ChecksumOffload {
    if checksums.active.is_empty() {
        ChecksumOffload::Off
    } else {
        ChecksumOffload::On
    }
}

fn header(command: u8) -> Vec<u8> {
    vec![command, VERSION, 0, 0]
}

fn put_device(body: &mut Vec<u8>, link: &Link) {
    put_nested(body, DEVICE, |device| {
        put(device, DEVICE_INDEX, &link.index.to_ne_bytes());
    });
}

/// Returns which of the checksum settings are set in a set of bits.
fn names_in(set: &[u8]) -> Vec<&'static str> {
    let only_set = attributes::find(set, BITS_NO_MASK).is_some();
    let bits = attributes::find(set, BITS).unwrap_or_default();
    attributes::walk(bits)
        .filter(|(kind, bit)| *kind == BIT && (only_set || attributes::find(bit, BIT_VALUE).is_some()))
        .filter_map(|(_, bit)| attributes::find(bit, BIT_NAME))
        .filter_map(|name| {
            let name = attributes::text(name);
            CHECKSUMS.into_iter().find(|known| known.as_bytes() == name)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(no_mask: bool, bits: &[(&str, bool)]) -> Vec<u8> {
        let mut set = Vec::new();
        if no_mask {
            put(&mut set, BITS_NO_MASK, &[]);
        }
        put_nested(&mut set, BITS, |list| {
            for (name, value) in bits {
                put_nested(list, BIT, |bit| {
                    put(bit, BIT_NAME, name.as_bytes());
                    if *value {
                        put(bit, BIT_VALUE, &[]);
                    }
                });
            }
        });
        set
    }

    #[test]
    fn a_set_with_a_mask_says_which_are_set_and_one_without_holds_no_others() {
        let bits = [
            ("tx-checksum-ipv4", false),
            ("tx-checksum-sctp", true),
            ("rx-gro", true),
        ];
        assert_eq!(names_in(&set(false, &bits)), ["tx-checksum-sctp"]);
        assert_eq!(
            names_in(&set(true, &bits)),
            ["tx-checksum-ipv4", "tx-checksum-sctp"]
        );
        assert_eq!(names_in(&[]), Vec::<&str>::new());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = names_in(&bytes);
        }
    }
}
