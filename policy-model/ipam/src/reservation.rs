//! Addresses of pools that are never given by themselves (IPReservation).
//!
//! An address that somebody asks for by name may be given although it is reserved: that is what people reserve
//! addresses for.

use crate::address::{Family, Span, join, to_bits};
use ipnet::IpNet;
use std::net::IpAddr;

/// All reservations together, in a form that answers quickly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reservations {
    v4: Vec<Span>,
    v6: Vec<Span>,
}

impl Reservations {
    /// Joins ranges of both families.
    pub fn new<'a>(ranges: impl IntoIterator<Item = &'a IpNet>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for range in ranges {
            match Family::of_net(range) {
                Family::V4 => v4.push(Span::of_net(range)),
                Family::V6 => v6.push(Span::of_net(range)),
            }
        }
        Reservations {
            v4: join(v4),
            v6: join(v6),
        }
    }

    /// The reserved spans of a family, sorted and apart from each other.
    pub fn spans(&self, family: Family) -> &[Span] {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// Whether an address is reserved.
    pub fn contains(&self, address: IpAddr) -> bool {
        let spans = self.spans(Family::of_address(address));
        let bits = to_bits(address);
        let at = spans.partition_point(|span| span.last < bits);
        spans.get(at).is_some_and(|span| span.first <= bits)
    }
}
