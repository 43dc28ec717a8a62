//! Arithmetic on addresses and ranges of both families, in numbers of 128 bits.
//!
//! An IPv6 pool may hold 2^64 blocks and more, so nothing here walks over a range: free blocks are found between
//! the spans that are taken.

use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The two kinds of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// 32 bits.
    V4,
    /// 128 bits.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of_address(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// The family of a range.
    pub fn of_net(net: &IpNet) -> Family {
        match net {
            IpNet::V4(_) => Family::V4,
            IpNet::V6(_) => Family::V6,
        }
    }

    /// Number of bits of an address.
    pub fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// All numbers from `first` to `last`, both included: addresses, or indexes of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// The least.
    pub first: u128,
    /// The greatest.
    pub last: u128,
}

impl Span {
    /// The addresses of a range; host bits of `net` do not count.
    pub fn of_net(net: &IpNet) -> Span {
        let first = to_bits(net.network());
        Span {
            first,
            last: first | host_mask(net.max_prefix_len() - net.prefix_len()),
        }
    }
}

/// Sorts spans and joins those that overlap or touch.
pub fn join(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable();
    let mut joined: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match joined.last_mut() {
            Some(before) if span.first <= before.last.saturating_add(1) => {
                before.last = before.last.max(span.last)
            }
            _ => joined.push(span),
        }
    }
    joined
}

/// The address as a number.
pub fn to_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    }
}

/// The address of a number, which must fit into the family.
pub fn from_bits(family: Family, bits: u128) -> Option<IpAddr> {
    match family {
        Family::V4 => u32::try_from(bits)
            .ok()
            .map(|b| IpAddr::V4(Ipv4Addr::from_bits(b))),
        Family::V6 => Some(IpAddr::V6(Ipv6Addr::from_bits(bits))),
    }
}

/// The position of an address in a range; nothing where it lies outside or further in than a block can be long.
pub fn ordinal(block: &IpNet, address: IpAddr) -> Option<u32> {
    if !block.contains(&address) {
        return None;
    }
    u32::try_from(to_bits(address) - to_bits(block.network())).ok()
}

/// The address at a position of a range; nothing where the range is shorter.
pub fn address_at(block: &IpNet, ordinal: u32) -> Option<IpAddr> {
    let span = Span::of_net(block);
    let bits = span.first.checked_add(u128::from(ordinal))?;
    if bits > span.last {
        None
    } else {
        from_bits(Family::of_net(block), bits)
    }
}

/// The block of a given prefix length in which an address lies; nothing where the pool does not hold both.
pub fn block_of(pool: &IpNet, block_prefix: u8, address: IpAddr) -> Option<IpNet> {
    if !pool.contains(&address) || block_prefix < pool.prefix_len() {
        return None;
    }
    IpNet::new(address, block_prefix).ok().map(|net| net.trunc())
}

/// Whether two ranges share an address.
pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// The first block of a pool that shares no address with `taken` and is not wholly inside `reserved`.
///
/// The search starts at the block numbered `start` (modulo their number) and goes round once. Its cost depends on the
/// number of spans only, never on the size of the pool. Spans of the other family must not be passed.
pub fn free_block(
    pool: &IpNet,
    block_prefix: u8,
    start: u64,
    taken: &[Span],
    reserved: &[Span],
) -> Option<IpNet> {
    let family = Family::of_net(pool);
    if block_prefix < pool.prefix_len() || block_prefix > family.bits() {
        return None;
    }
    let shift = u32::from(family.bits() - block_prefix);
    let whole = Span::of_net(pool);
    // The index of the last block; their number itself may not fit into 128 bits.
    let last_index = (whole.last - whole.first).checked_shr(shift).unwrap_or(0);
    let mut closed = Vec::with_capacity(taken.len() + reserved.len());
    for span in taken.iter().filter_map(|span| clip(span, &whole)) {
        closed.push(Span {
            first: index(span.first - whole.first, shift),
            last: index(span.last - whole.first, shift),
        });
    }
    for span in join(reserved.to_vec())
        .iter()
        .filter_map(|span| clip(span, &whole))
    {
        closed.extend(blocks_inside(
            span.first - whole.first,
            span.last - whole.first,
            shift,
        ));
    }
    let closed = join(closed);
    let start = if last_index == u128::MAX {
        u128::from(start)
    } else {
        u128::from(start) % (last_index + 1)
    };
    let free = first_open(&closed, start, last_index).or_else(|| first_open(&closed, 0, last_index))?;
    let base = whole.first.checked_add(free.checked_shl(shift).unwrap_or(0))?;
    IpNet::new(from_bits(family, base)?, block_prefix).ok()
}

fn index(offset: u128, shift: u32) -> u128 {
    offset.checked_shr(shift).unwrap_or(0)
}

fn clip(span: &Span, whole: &Span) -> Option<Span> {
    let clipped = Span {
        first: span.first.max(whole.first),
        last: span.last.min(whole.last),
    };
    (clipped.first <= clipped.last).then_some(clipped)
}

/// The indexes of the blocks that lie wholly between two offsets.
fn blocks_inside(first: u128, last: u128, shift: u32) -> Option<Span> {
    let low = host_mask(u8::try_from(shift).unwrap_or(u8::MAX));
    let from = index(first, shift).checked_add(u128::from(first & low != 0))?;
    let to = if last & low == low {
        index(last, shift)
    } else {
        index(last, shift).checked_sub(1)?
    };
    (from <= to).then_some(Span {
        first: from,
        last: to,
    })
}

/// The first number from `start` to `last` that no span holds; the spans are joined.
fn first_open(closed: &[Span], start: u128, last: u128) -> Option<u128> {
    let at = closed.partition_point(|span| span.last < start);
    let candidate = match closed.get(at) {
        Some(span) if span.first <= start => span.last.checked_add(1)?,
        _ => start,
    };
    (candidate <= last).then_some(candidate)
}

fn host_mask(bits: u8) -> u128 {
    1u128.checked_shl(u32::from(bits)).map_or(u128::MAX, |b| b - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn a_pool_of_two_to_the_64_blocks_is_searched_at_once() {
        let pool = net("fd00::/58");
        let start = 5;
        let first = free_block(&pool, 122, start, &[], &[]).unwrap();
        assert_eq!(first, net("fd00::140/122"));
        let taken = [Span::of_net(&first)];
        assert_eq!(
            free_block(&pool, 122, start, &taken, &[]),
            Some(net("fd00::180/122"))
        );
        let reserved = [Span::of_net(&net("fd00::/59"))];
        assert_eq!(
            free_block(&pool, 122, start, &[], &reserved),
            Some(net("fd00:0:0:20::/122"))
        );
    }

    #[test]
    fn the_largest_and_the_smallest_pools_work() {
        assert_eq!(free_block(&net("::/0"), 128, 7, &[], &[]), Some(net("::7/128")));
        let all = [Span::of_net(&net("::/0"))];
        assert_eq!(free_block(&net("::/0"), 128, 7, &all, &[]), None);
        assert_eq!(
            free_block(&net("10.0.0.1/32"), 32, 9, &[], &[]),
            Some(net("10.0.0.1/32"))
        );
        assert_eq!(free_block(&net("10.0.0.0/28"), 26, 0, &[], &[]), None);
        assert_eq!(
            free_block(&net("255.255.255.0/24"), 26, 3, &[], &[]),
            Some(net("255.255.255.192/26"))
        );
    }

    #[test]
    fn a_block_reserved_in_pieces_is_closed_and_a_partly_reserved_one_open() {
        let pool = net("10.0.0.0/25");
        let pieces: Vec<_> = ["10.0.0.0/27", "10.0.0.32/27"]
            .iter()
            .map(|t| Span::of_net(&net(t)))
            .collect();
        assert_eq!(free_block(&pool, 26, 0, &[], &pieces), Some(net("10.0.0.64/26")));
        assert_eq!(
            free_block(&pool, 26, 0, &[], &pieces[..1]),
            Some(net("10.0.0.0/26"))
        );
    }

    proptest! {
        /// The search by spans agrees with a walk over every block.
        #[test]
        fn free_block_agrees_with_a_walk(
            start in 0u64..40,
            taken in proptest::collection::vec((0u8..=255, 24u8..=32), 0..12),
            reserved in proptest::collection::vec((0u8..=255, 24u8..=32), 0..12),
        ) {
            let pool = net("10.1.0.0/24");
            let make = |list: &[(u8, u8)]| -> Vec<IpNet> {
                list.iter().map(|(host, len)| net(&format!("10.1.0.{host}/{len}")).trunc()).collect()
            };
            let (taken, reserved) = (make(&taken), make(&reserved));
            let open = |block: &IpNet| {
                !taken.iter().any(|t| overlap(t, block))
                    && block.hosts().count() > 0
                    && (0..16).any(|o| {
                        let address = address_at(block, o).unwrap();
                        !reserved.iter().any(|r| r.contains(&address))
                    })
            };
            let walk = (0..16u64).map(|n| (start + n) % 16).map(|i| net(&format!("10.1.0.{}/28", i * 16))).find(open);
            let spans = |list: &[IpNet]| list.iter().map(Span::of_net).collect::<Vec<_>>();
            prop_assert_eq!(free_block(&pool, 28, start, &spans(&taken), &spans(&reserved)), walk);
        }

        #[test]
        fn ordinals_and_addresses_are_inverse(bits in any::<u128>(), len in 112u8..=128, ordinal_in in any::<u16>()) {
            let block = IpNet::new(from_bits(Family::V6, bits).unwrap(), len).unwrap().trunc();
            match address_at(&block, u32::from(ordinal_in)) {
                Some(address) => prop_assert_eq!(ordinal(&block, address), Some(u32::from(ordinal_in))),
                None => prop_assert!(u32::from(ordinal_in) >> (128 - len) > 0),
            }
        }
    }
}
