//! The bits of packet marks that are ours.
//!
//! One bit is enough: it says that a direction allowed the packet. It is cleared before each direction is asked and after
//! the last, so that nobody else ever sees it, and no other bit is touched: kube-proxy keeps its own there while a packet
//! is on its way.

/// Bits that kube-proxy uses: to drop, and to give a packet the node's address.
const KUBE_PROXY: u32 = 0x8000 | 0x4000;

/// The bits that we use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// Set: the packet is allowed.
    pub accept: u32,
}

/// A mask that leaves us no bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "IptablesMarkMask {mask:#010x} has no bit that is free: one is needed beside 0x4000 and 0x8000, which kube-proxy uses; \
     give a mask with another bit, such as 0xffff0000"
)]
pub struct NoMarkBit {
    /// The mask.
    pub mask: u32,
}

impl Marks {
    /// Takes what is needed out of the bits that an operator leaves to us: the lowest.
    ///
    /// # Errors
    /// The mask has no bit but kube-proxy's.
    pub fn from_mask(mask: u32) -> Result<Self, NoMarkBit> {
        let free = mask & !KUBE_PROXY;
        if free == 0 {
            return Err(NoMarkBit { mask });
        }
        Ok(Marks {
            accept: 1 << free.trailing_zeros(),
        })
    }
}

impl Default for Marks {
    /// Those of the mask 0xffff0000.
    fn default() -> Self {
        Marks { accept: 0x1_0000 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_bit_is_taken() {
        assert_eq!(Marks::from_mask(0xffff_0000), Ok(Marks::default()));
        assert_eq!(Marks::from_mask(0x8000_c000), Ok(Marks { accept: 0x8000_0000 }));
        assert_eq!(Marks::from_mask(0xc000), Err(NoMarkBit { mask: 0xc000 }));
        let text = Marks::from_mask(0).unwrap_err().to_string();
        assert!(text.contains("IptablesMarkMask 0x00000000"), "{text}");
    }
}
