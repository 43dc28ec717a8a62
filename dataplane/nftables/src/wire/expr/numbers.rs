//! The kernel's numbers inside expressions.

numbered! {
    /// A property beside the packet (`NFT_META_*`), with its width in a register.
    MetaKey {
        /// The length of the packet, 4 bytes, host order.
        Length = 0,
        /// The Ethernet type, 2 bytes, network order.
        Protocol = 1,
        /// The priority, 4 bytes, host order. Our scratch register: no other program reads it on the way.
        Priority = 2,
        /// The mark, 4 bytes, host order. Belongs to others too (kube-proxy's masquerade bit).
        Mark = 3,
        /// The index of the interface it came in by, 4 bytes, host order.
        InInterface = 4,
        /// The index of the interface it goes out by.
        OutInterface = 5,
        /// The name of the interface it came in by, 16 bytes.
        InInterfaceName = 6,
        /// The name of the interface it goes out by.
        OutInterfaceName = 7,
        /// The hardware type of the interface it came in by, 2 bytes, host order.
        InInterfaceType = 8,
        /// The hardware type of the interface it goes out by.
        OutInterfaceType = 9,
        /// The user who owns the socket, 4 bytes, host order.
        SocketUser = 10,
        /// The group that owns the socket.
        SocketGroup = 11,
        /// Whether rule traces are sent, one byte.
        Trace = 12,
        /// The family, one byte (2 or 10).
        Family = 15,
        /// The layer 4 protocol, one byte; behind IPv6 extension headers too.
        L4Protocol = 16,
        /// Whom the packet is for (host, broadcast, multicast, other), one byte.
        PacketType = 19,
    }
}

numbered! {
    /// The header that a payload offset counts from.
    PayloadBase {
        /// Layer 2.
        Link = 0,
        /// IPv4 or IPv6.
        Network = 1,
        /// Layer 4; no match in a fragment that has none.
        Transport = 2,
        /// Behind layer 4.
        Inner = 3,
    }
}

numbered! {
    /// A property of the connection (`NFT_CT_*`).
    CtKey {
        /// The state as one bit of [`ct_state`], 4 bytes, host order.
        State = 0,
        /// The packet's direction, one byte: 0 original, 1 reply.
        Direction = 1,
        /// Bits of [`ct_status`], 4 bytes, host order.
        Status = 2,
        /// The connection's mark, 4 bytes, host order.
        Mark = 3,
        /// The layer 3 protocol, one byte.
        L3Protocol = 7,
        /// The layer 4 protocol, one byte.
        Protocol = 10,
        /// The source port of a direction, 2 bytes, network order.
        SourcePort = 11,
        /// The destination port of a direction.
        DestinationPort = 12,
        /// The zone, 2 bytes, host order.
        Zone = 17,
        /// The IPv4 source of a direction.
        SourceIpv4 = 19,
        /// The IPv4 destination of a direction.
        DestinationIpv4 = 20,
        /// The IPv6 source of a direction.
        SourceIpv6 = 21,
        /// The IPv6 destination of a direction.
        DestinationIpv6 = 22,
    }
}

numbered! {
    /// A direction of a connection.
    CtDirection {
        /// As its first packet went.
        Original = 0,
        /// The other way.
        Reply = 1,
    }
}

/// The bits of [`CtKey::State`].
pub mod ct_state {
    /// Fits no connection.
    pub const INVALID: u32 = 1;
    /// Both sides have been seen.
    pub const ESTABLISHED: u32 = 2;
    /// Belongs to another connection, such as an ICMP error.
    pub const RELATED: u32 = 4;
    /// Opens a connection.
    pub const NEW: u32 = 8;
    /// Left out of tracking.
    pub const UNTRACKED: u32 = 64;
}

/// The bits of [`CtKey::Status`].
pub mod ct_status {
    /// Seen in both directions.
    pub const SEEN_REPLY: u32 = 2;
    /// Its source is translated.
    pub const SNAT: u32 = 16;
    /// Its destination is translated.
    pub const DNAT: u32 = 32;
}

numbered! {
    /// A comparison; order is that of bytes, so numbers in network order.
    CmpOp {
        /// Equal.
        Eq = 0,
        /// Not equal.
        Neq = 1,
        /// Less.
        Lt = 2,
        /// Less or equal.
        Lte = 3,
        /// Greater.
        Gt = 4,
        /// Greater or equal.
        Gte = 5,
    }
}

numbered! {
    /// Within a range or without.
    RangeOp {
        /// Within.
        Within = 0,
        /// Without.
        Without = 1,
    }
}

numbered! {
    /// A change of byte order.
    ByteorderOp {
        /// Network to host.
        ToHost = 0,
        /// Host to network.
        ToNetwork = 1,
    }
}

numbered! {
    /// What is counted against a limit.
    LimitUnit {
        /// Packets.
        Packets = 0,
        /// Bytes.
        Bytes = 1,
    }
}

numbered! {
    /// What a routing question answers with.
    FibResult {
        /// The outgoing interface's index, 4 bytes, host order; zero if there is no route.
        Interface = 1,
        /// The outgoing interface's name.
        InterfaceName = 2,
        /// The type of the address: 1 unicast, 2 local, 3 broadcast; 4 bytes, host order.
        AddressType = 3,
    }
}

/// What a routing question asks by.
pub mod fib_flag {
    /// The packet's source.
    pub const SADDR: u32 = 1;
    /// The packet's destination.
    pub const DADDR: u32 = 2;
    /// The packet's mark too.
    pub const MARK: u32 = 4;
    /// Only routes over the interface it came in by.
    pub const IIF: u32 = 8;
    /// Only routes over the interface it goes out by.
    pub const OIF: u32 = 16;
    /// Only whether there is a route.
    pub const PRESENT: u32 = 32;
}

/// What a syslog line tells besides the ordinary.
pub mod log_flag {
    /// TCP sequence numbers.
    pub const TCP_SEQUENCE: u32 = 1;
    /// TCP options.
    pub const TCP_OPTIONS: u32 = 2;
    /// IP options.
    pub const IP_OPTIONS: u32 = 4;
    /// The user of the socket.
    pub const USER: u32 = 8;
    /// Ethernet addresses.
    pub const ETHERNET: u32 = 32;
}

numbered! {
    /// Which end of a packet is translated.
    NatKind {
        /// The source.
        Source = 0,
        /// The destination.
        Destination = 1,
    }
}

/// How an address translation chooses.
pub mod nat_flag {
    /// Addresses are given in registers; the kernel says so in dumps.
    pub const ADDRESS: u32 = 1;
    /// Ports are given in registers; the nft program sets this with them.
    pub const PORTS: u32 = 2;
    /// Ports at random.
    pub const RANDOM: u32 = 4;
    /// The same address for the same client.
    pub const PERSISTENT: u32 = 8;
    /// Ports at random, without any order.
    pub const FULLY_RANDOM: u32 = 16;
}
