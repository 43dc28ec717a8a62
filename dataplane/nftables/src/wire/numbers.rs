//! Kernel numbers with names: a macro for open enumerations, and the address families.
//!
//! Every enumeration has an `Other` arm, since a newer kernel may speak numbers that this file has not heard of, and a dump that
//! holds one must still decode.

/// Declares an enumeration of kernel numbers that keeps unknown numbers.
macro_rules! numbered {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $number:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
            /// A number without a name here.
            Other(u32),
        }

        impl $name {
            /// The kernel's number.
            #[must_use]
            pub const fn number(self) -> u32 {
                match self {
                    $(Self::$variant => $number,)+
                    Self::Other(number) => number,
                }
            }

            /// The name of a kernel number, or [`Self::Other`].
            #[must_use]
            pub const fn from_number(number: u32) -> Self {
                match number {
                    $($number => Self::$variant,)+
                    other => Self::Other(other),
                }
            }
        }
    };
}

numbered! {
    /// The protocol family of a table (`NFPROTO_*`).
    Family {
        /// Any family; only in requests.
        Unspecified = 0,
        /// IPv4 and IPv6 in one table.
        Inet = 1,
        /// IPv4.
        Ipv4 = 2,
        /// ARP.
        Arp = 3,
        /// A device's ingress and egress.
        Netdev = 5,
        /// Ethernet bridges.
        Bridge = 7,
        /// IPv6.
        Ipv6 = 10,
    }
}
