//! How large a packet may be inside a tunnel: what carries it, less what is put around it.
//!
//! Pure. A packet that is larger than this does not arrive, and where somebody drops the message that would say so, a
//! connection opens and then stands still; so the figure comes from the device and is not guessed.

use std::fmt;

/// The smallest packet that every IPv4 link must carry (RFC 791), and the least that the kernel takes.
const LEAST_V4: u32 = 68;
/// The smallest packet that every IPv6 link must carry (RFC 8200, section 5).
const LEAST_V6: u32 = 1280;

/// What is put around a packet between two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Encapsulation {
    /// Nothing.
    None,
    /// An IPv4 header (RFC 2003), around IPv4.
    Ipip,
    /// Ethernet, VXLAN, UDP and IPv4 headers (RFC 7348), around IPv4.
    VxlanV4,
    /// Ethernet, VXLAN, UDP and IPv6 headers, around IPv6.
    VxlanV6,
}

impl fmt::Display for Encapsulation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::None => "no encapsulation",
            Self::Ipip => "IPIP",
            Self::VxlanV4 => "VXLAN over IPv4",
            Self::VxlanV6 => "VXLAN over IPv6",
        })
    }
}

/// The device that carries a tunnel's packets is too narrow for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{encapsulation} leaves {left} bytes of packets of {carrier} bytes, and needs at least {least}: give the device that \
     leads to the other nodes an MTU of {} or more",
    least + encapsulation.overhead()
)]
pub struct TooNarrow {
    /// What is put around.
    pub encapsulation: Encapsulation,
    /// The largest packet of the device that carries, in bytes.
    pub carrier: u32,
    /// What is left of it, in bytes.
    pub left: u32,
    /// What has to be left, in bytes.
    pub least: u32,
}

impl Encapsulation {
    /// How many bytes are put around a packet.
    pub const fn overhead(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Ipip => 20,
            // 20 (or 40) IP, 8 UDP, 8 VXLAN, 14 Ethernet.
            Self::VxlanV4 => 50,
            Self::VxlanV6 => 70,
        }
    }

    /// The least that has to be left for packets inside, in bytes.
    pub const fn least(self) -> u32 {
        match self {
            Self::None | Self::Ipip | Self::VxlanV4 => LEAST_V4,
            Self::VxlanV6 => LEAST_V6,
        }
    }

    /// Returns the largest packet inside, where the carrying device's largest is `carrier`; both in bytes.
    ///
    /// # Errors
    /// Less is left than any packet needs.
    pub const fn inside(self, carrier: u32) -> Result<u32, TooNarrow> {
        let (left, least) = (carrier.saturating_sub(self.overhead()), self.least());
        if left < least {
            return Err(TooNarrow {
                encapsulation: self,
                carrier,
                left,
                least,
            });
        }
        Ok(left)
    }
}

/// Returns the largest packet that a pod may send whose packets go each of these ways, in bytes.
///
/// A pod's interface has one figure for all its destinations, so the narrowest way decides.
///
/// # Errors
/// One of the ways leaves too little.
pub fn of_pods(carrier: u32, ways: impl IntoIterator<Item = Encapsulation>) -> Result<u32, TooNarrow> {
    let mut narrowest = carrier;
    for way in ways {
        narrowest = narrowest.min(way.inside(carrier)?);
    }
    Ok(narrowest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_manifests_expect_of_a_usual_network() {
        assert_eq!(Encapsulation::None.inside(1500), Ok(1500));
        assert_eq!(Encapsulation::Ipip.inside(1500), Ok(1480));
        assert_eq!(Encapsulation::VxlanV4.inside(1500), Ok(1450));
        assert_eq!(Encapsulation::VxlanV6.inside(1500), Ok(1430));
        // Google's network, and frames of nine thousand bytes.
        assert_eq!(Encapsulation::VxlanV4.inside(1460), Ok(1410));
        assert_eq!(Encapsulation::Ipip.inside(9001), Ok(8981));
    }

    #[test]
    fn the_narrowest_way_decides() {
        assert_eq!(of_pods(1500, []), Ok(1500));
        assert_eq!(of_pods(1500, [Encapsulation::None]), Ok(1500));
        let mixed = [Encapsulation::Ipip, Encapsulation::VxlanV4, Encapsulation::None];
        assert_eq!(of_pods(1500, mixed), Ok(1450));
    }

    #[test]
    fn a_device_that_is_too_narrow_is_named_with_what_it_would_have_to_be() {
        let error = Encapsulation::VxlanV6.inside(1280).unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("VXLAN over IPv6 leaves 1210 bytes of packets of 1280 bytes"),
            "{text}"
        );
        assert!(text.contains("an MTU of 1350 or more"), "{text}");
        assert_eq!(Encapsulation::VxlanV6.inside(1350), Ok(1280));
        assert!(of_pods(60, [Encapsulation::Ipip]).is_err());
    }

    proptest! {
        #[test]
        fn what_goes_in_fits_into_what_carries(carrier: u32, way in 0usize..4) {
            let way = [Encapsulation::None, Encapsulation::Ipip, Encapsulation::VxlanV4, Encapsulation::VxlanV6][way];
            match way.inside(carrier) {
                Ok(inside) => prop_assert_eq!(inside + way.overhead(), carrier),
                Err(error) => prop_assert!(carrier < error.least + way.overhead()),
            }
        }
    }
}
