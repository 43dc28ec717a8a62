//! Connection-tracking messages as bytes (`linux/netfilter/nfnetlink_conntrack.h`).
//!
//! All numbers inside are in network order.

use std::net::IpAddr;

use crate::attributes::{self, put, put_nested};
use crate::conntrack::flow::{Flow, FlowStatus, Layer4, Tuple};
use crate::socket::{Message, Request};

/// The subsystem's number, in the upper byte of each message's type.
const SUBSYSTEM: u16 = 1 << 8;
const NEW: u16 = SUBSYSTEM;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const GET_STATISTICS: u16 = SUBSYSTEM | 5;
/// Bytes before the attributes (`struct nfgenmsg`).
const HEADER: usize = 4;

const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const STATUS: u16 = 3;
const TIMEOUT: u16 = 7;
const MARK: u16 = 8;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;

const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const V4_SOURCE: u16 = 1;
const V4_DESTINATION: u16 = 2;
const V6_SOURCE: u16 = 3;
const V6_DESTINATION: u16 = 4;
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
const ICMP_ID: u16 = 4;
const ICMP_TYPE: u16 = 5;
const ICMP_CODE: u16 = 6;
const ICMP6_ID: u16 = 7;
const ICMP6_TYPE: u16 = 8;
const ICMP6_CODE: u16 = 9;

const FILTER_ORIGINAL: u16 = 1;
const FILTER_REPLY: u16 = 2;
/// Bits that say which parts of a tuple the kernel is to compare.
const COMPARE_SOURCE: u32 = 1;
const COMPARE_DESTINATION: u32 = 2;

const STATISTICS_ENTRIES: u16 = 1;
const STATISTICS_MAXIMUM: u16 = 2;

/// The four places where a flow can have an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The sender of the original direction.
    OriginalSource,
    /// The receiver of the original direction.
    OriginalDestination,
    /// The sender of the replies.
    ReplySource,
    /// The receiver of the replies.
    ReplyDestination,
}

impl Place {
    /// All four. Without translation the last two repeat the first two, but a flow that is translated to a
    /// pod has the pod's address in its replies only.
    pub(crate) const ALL: [Self; 4] = [
        Self::OriginalSource,
        Self::OriginalDestination,
        Self::ReplySource,
        Self::ReplyDestination,
    ];
}

fn header(family: u8) -> Vec<u8> {
    vec![family, 0, 0, 0]
}

/// Asks for all flows of a family (zero is all).
pub(crate) fn list(family: u8) -> Request {
    Request {
        message_type: GET,
        flags: 0,
        body: header(family),
    }
}

/// Asks for the flows that have an address in one place; the kernel compares.
pub(crate) fn list_with(family: u8, address: IpAddr, place: Place) -> Request {
    let mut body = header(family);
    let is_source = matches!(place, Place::OriginalSource | Place::ReplySource);
    let (tuple, filter) = match place {
        Place::OriginalSource | Place::OriginalDestination => (ORIGINAL, FILTER_ORIGINAL),
        Place::ReplySource | Place::ReplyDestination => (REPLY, FILTER_REPLY),
    };
    let (kind, compare) = match (address, is_source) {
        (IpAddr::V4(_), true) => (V4_SOURCE, COMPARE_SOURCE),
        (IpAddr::V4(_), false) => (V4_DESTINATION, COMPARE_DESTINATION),
        (IpAddr::V6(_), true) => (V6_SOURCE, COMPARE_SOURCE),
        (IpAddr::V6(_), false) => (V6_DESTINATION, COMPARE_DESTINATION),
    };
    put_nested(&mut body, tuple, |tuple| {
        put_nested(tuple, TUPLE_IP, |ip| put(ip, kind, &attributes::octets(address)));
    });
    // These bits, unlike all else here, are in the machine's order.
    put_nested(&mut body, FILTER, |flags| {
        put(flags, filter, &compare.to_ne_bytes())
    });
    Request {
        message_type: GET,
        flags: 0,
        body,
    }
}

/// Asks for the removal of exactly this entry.
///
/// The entry's own number goes along, so that a new flow with the same addresses and ports that took its
/// place meanwhile is hardly ever removed in its stead. (The number is made from the entry's place in memory
/// and from the flow: an entry that got the very same place has the very same number.)
pub(crate) fn delete(flow: &Flow) -> Request {
    let mut body = header(match flow.original.source {
        IpAddr::V4(_) => 2,
        IpAddr::V6(_) => 10,
    });
    put(&mut body, ORIGINAL | 0x8000, &flow.raw_original);
    if flow.zone != 0 {
        put(&mut body, ZONE, &flow.zone.to_be_bytes());
    }
    if let Some(id) = flow.id {
        put(&mut body, ID, &id.to_be_bytes());
    }
    Request {
        message_type: DELETE,
        flags: 0,
        body,
    }
}

/// Asks how many entries there are and may be.
pub(crate) fn statistics() -> Request {
    Request {
        message_type: GET_STATISTICS,
        flags: 0,
        body: header(0),
    }
}

/// Reads how many entries there are and may be.
pub(crate) fn read_statistics(message: Message<'_>) -> Option<(u32, Option<u32>)> {
    let body = message.body.get(HEADER..)?;
    let entries = attributes::find(body, STATISTICS_ENTRIES).and_then(attributes::network32)?;
    Some((
        entries,
        attributes::find(body, STATISTICS_MAXIMUM).and_then(attributes::network32),
    ))
}

/// Reads a flow.
pub(crate) fn read_flow(message: Message<'_>) -> Option<Flow> {
    if message.message_type != NEW {
        return None;
    }
    read_flow_body(message.body)
}

fn read_flow_body(body: &[u8]) -> Option<Flow> {
    let (mut original, mut reply, mut raw_original) = (None, None, None);
    let (mut status, mut zone, mut mark, mut timeout, mut id) = (0, 0, 0, None, None);
    for (kind, value) in attributes::walk(body.get(HEADER..)?) {
        match kind {
            ORIGINAL => {
                original = read_tuple(value);
                raw_original = Some(value);
            }
            REPLY => reply = read_tuple(value),
            STATUS => status = attributes::network32(value)?,
            ZONE => zone = attributes::network16(value)?,
            MARK => mark = attributes::network32(value)?,
            TIMEOUT => timeout = attributes::network32(value),
            ID => id = attributes::network32(value),
            _ => {}
        }
    }
    Some(Flow {
        original: original?,
        reply: reply?,
        status: FlowStatus(status),
        zone,
        mark,
        timeout,
        id,
        raw_original: raw_original?.into(),
    })
}

fn read_tuple(buffer: &[u8]) -> Option<Tuple> {
    let (mut source, mut destination) = (None, None);
    for (kind, value) in attributes::walk(attributes::find(buffer, TUPLE_IP)?) {
        match kind {
            V4_SOURCE | V6_SOURCE => source = attributes::address(value),
            V4_DESTINATION | V6_DESTINATION => destination = attributes::address(value),
            _ => {}
        }
    }
    let (mut protocol, mut from, mut to) = (None, None, None);
    let (mut identifier, mut icmp_type, mut code) = (None, None, None);
    for (kind, value) in attributes::walk(attributes::find(buffer, TUPLE_PROTOCOL)?) {
        match kind {
            PROTOCOL_NUMBER => protocol = attributes::number8(value),
            SOURCE_PORT => from = attributes::network16(value),
            DESTINATION_PORT => to = attributes::network16(value),
            ICMP_ID | ICMP6_ID => identifier = attributes::network16(value),
            ICMP_TYPE | ICMP6_TYPE => icmp_type = attributes::number8(value),
            ICMP_CODE | ICMP6_CODE => code = attributes::number8(value),
            _ => {}
        }
    }
    let layer4 = match (from, to, icmp_type, code, identifier) {
        (Some(source), Some(destination), ..) => Layer4::Ports { source, destination },
        (_, _, Some(icmp_type), Some(code), Some(identifier)) => Layer4::Icmp {
            icmp_type,
            code,
            identifier,
        },
        _ => Layer4::Other,
    };
    Some(Tuple {
        source: source?,
        destination: destination?,
        protocol: protocol?,
        layer4,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put_tuple(buffer: &mut Vec<u8>, kind: u16, tuple: &Tuple) {
        put_nested(buffer, kind, |inside| {
            put_nested(inside, TUPLE_IP, |ip| {
                let (source, destination) = match tuple.source {
                    IpAddr::V4(_) => (V4_SOURCE, V4_DESTINATION),
                    IpAddr::V6(_) => (V6_SOURCE, V6_DESTINATION),
                };
                put(ip, source, &attributes::octets(tuple.source));
                put(ip, destination, &attributes::octets(tuple.destination));
            });
            put_nested(inside, TUPLE_PROTOCOL, |protocol| {
                put(protocol, PROTOCOL_NUMBER, &[tuple.protocol]);
                match tuple.layer4 {
                    Layer4::Ports { source, destination } => {
                        put(protocol, SOURCE_PORT, &source.to_be_bytes());
                        put(protocol, DESTINATION_PORT, &destination.to_be_bytes());
                    }
                    Layer4::Icmp {
                        icmp_type,
                        code,
                        identifier,
                    } => {
                        put(protocol, ICMP_ID, &identifier.to_be_bytes());
                        put(protocol, ICMP_TYPE, &[icmp_type]);
                        put(protocol, ICMP_CODE, &[code]);
                    }
                    Layer4::Other => {}
                }
            });
        });
    }

    fn tuple() -> impl Strategy<Value = Tuple> {
        let addresses = prop_oneof![
            any::<([u8; 4], [u8; 4])>().prop_map(|(one, other)| (IpAddr::from(one), IpAddr::from(other))),
            any::<([u8; 16], [u8; 16])>().prop_map(|(one, other)| (IpAddr::from(one), IpAddr::from(other))),
        ];
        let layer4 = prop_oneof![
            any::<(u16, u16)>().prop_map(|(source, destination)| Layer4::Ports { source, destination }),
            any::<(u8, u8, u16)>().prop_map(|(icmp_type, code, identifier)| Layer4::Icmp {
                icmp_type,
                code,
                identifier
            }),
            Just(Layer4::Other),
        ];
        (addresses, any::<u8>(), layer4).prop_map(|((source, destination), protocol, layer4)| Tuple {
            source,
            destination,
            protocol,
            layer4,
        })
    }

    proptest! {
        #[test]
        fn a_flow_is_read_as_the_kernel_writes_it(
            original in tuple(), reply in tuple(), status: u32, zone: u16, mark: u32, id: u32,
        ) {
            let mut body = header(0);
            put_tuple(&mut body, ORIGINAL, &original);
            put_tuple(&mut body, REPLY, &reply);
            put(&mut body, STATUS, &status.to_be_bytes());
            put(&mut body, ZONE, &zone.to_be_bytes());
            put(&mut body, MARK, &mark.to_be_bytes());
            put(&mut body, ID, &id.to_be_bytes());
            let flow = read_flow_body(&body).unwrap();
            prop_assert_eq!(flow.original, original);
            prop_assert_eq!(flow.reply, reply);
            prop_assert_eq!((flow.status.0, flow.zone, flow.mark, flow.id), (status, zone, mark, Some(id)));
            let request = delete(&flow);
            let named = attributes::find(request.body.get(HEADER..).unwrap(), ORIGINAL).unwrap();
            prop_assert_eq!(read_tuple(named), Some(original));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_flow_body(&bytes);
            let _ = read_tuple(&bytes);
        }
    }

    #[test]
    fn a_filtered_request_has_the_kernels_shape() {
        let request = list_with(2, "10.0.0.5".parse().unwrap(), Place::ReplySource);
        let mut expected = vec![2, 0, 0, 0];
        // CTA_TUPLE_REPLY { CTA_TUPLE_IP { CTA_IP_V4_SRC 10.0.0.5 } }, CTA_FILTER { CTA_FILTER_REPLY_FLAGS 1 }
        expected.extend([16, 0, 2, 0x80, 12, 0, 1, 0x80, 8, 0, 1, 0, 10, 0, 0, 5]);
        expected.extend([12, 0, 25, 0x80, 8, 0, 2, 0]);
        expected.extend(1_u32.to_ne_bytes());
        assert_eq!(request.body, expected);
    }
}
