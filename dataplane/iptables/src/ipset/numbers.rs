//! The protocol's numbers (`linux/netfilter/ipset/ip_set.h`, `ip_set_hash.h`).

/// `NFNL_SUBSYS_IPSET`.
pub(super) const SUBSYSTEM: u16 = 6;
/// The protocol's version: the oldest of which all that we use is, understood by every kernel.
pub(super) const PROTOCOL_VERSION: u8 = 6;

/// `IPSET_CMD_*`.
pub(super) mod command {
    pub(in super::super) const CREATE: u16 = 2;
    pub(in super::super) const DESTROY: u16 = 3;
    pub(in super::super) const SWAP: u16 = 6;
    pub(in super::super) const LIST: u16 = 7;
    pub(in super::super) const ADD: u16 = 9;
    pub(in super::super) const DELETE: u16 = 10;
    pub(in super::super) const TEST: u16 = 11;
    pub(in super::super) const TYPE: u16 = 13;
}

/// Attributes of a message (`IPSET_ATTR_*`, at command level).
pub(super) mod attribute {
    pub(in super::super) const PROTOCOL: u16 = 1;
    pub(in super::super) const SET_NAME: u16 = 2;
    pub(in super::super) const TYPE_NAME: u16 = 3;
    pub(in super::super) const SET_NAME_2: u16 = 3;
    pub(in super::super) const REVISION: u16 = 4;
    pub(in super::super) const FAMILY: u16 = 5;
    pub(in super::super) const FLAGS: u16 = 6;
    pub(in super::super) const DATA: u16 = 7;
    pub(in super::super) const MEMBERS: u16 = 8;
    pub(in super::super) const LINE: u16 = 9;
    pub(in super::super) const REVISION_MIN: u16 = 10;
}

/// Attributes of a set or a member (`IPSET_ATTR_*`, in `IPSET_ATTR_DATA`).
pub(super) mod data {
    pub(in super::super) const IP: u16 = 1;
    pub(in super::super) const PREFIX: u16 = 3;
    pub(in super::super) const PORT: u16 = 4;
    pub(in super::super) const TIMEOUT: u16 = 6;
    pub(in super::super) const PROTOCOL: u16 = 7;
    pub(in super::super) const FLAGS: u16 = 8;
    pub(in super::super) const LINE: u16 = 9;
    pub(in super::super) const BUCKETS: u16 = 18;
    pub(in super::super) const MAX_ELEMENTS: u16 = 19;
    pub(in super::super) const NETMASK: u16 = 20;
    pub(in super::super) const ELEMENTS: u16 = 24;
    pub(in super::super) const REFERENCES: u16 = 25;
    pub(in super::super) const MEMORY: u16 = 26;
    pub(in super::super) const INTERFACE: u16 = 23;
    pub(in super::super) const BIT_MASK: u16 = 12;
    /// `IPSET_ATTR_IPADDR_IPV4`, in `IPSET_ATTR_IP`.
    pub(in super::super) const IPV4: u16 = 1;
    /// `IPSET_ATTR_IPADDR_IPV6`, in `IPSET_ATTR_IP`.
    pub(in super::super) const IPV6: u16 = 2;
}

/// `NLA_F_NET_BYTEORDER`: the kernel takes numbers only with it.
pub(super) const NETWORK_ORDER: u16 = 0x4000;
/// `IPSET_FLAG_LIST_HEADER`.
pub(super) const LIST_HEADER: u32 = 4;
/// `IPSET_FLAG_NOMATCH`: the member is an exception from the set.
pub(super) const NO_MATCH: u32 = 4;
/// `IPSET_FLAG_PHYSDEV`: the interface is a port of a bridge.
pub(super) const PHYSICAL: u32 = 2;
/// `IPSET_FLAG_IFACE_WILDCARD`: the interface is the beginning of a name.
pub(super) const WILDCARD: u32 = 128;
/// The longest name, without its ending zero (`IPSET_MAXNAMELEN`).
pub(super) const NAME_LIMIT: usize = 31;

/// `ENOENT`.
pub(super) const NO_ENTRY: i32 = 2;
/// The first of the subsystem's own errors (`IPSET_ERR_PRIVATE`).
pub(super) const ERR_PRIVATE: i32 = 4096;
/// `IPSET_ERR_BUSY`.
pub(super) const ERR_BUSY: i32 = 4100;
/// `IPSET_ERR_TYPE_MISMATCH`.
pub(super) const ERR_TYPE_MISMATCH: i32 = 4102;
/// `IPSET_ERR_EXIST`.
pub(super) const ERR_EXIST: i32 = 4103;
/// `IPSET_ERR_REFERENCED`.
pub(super) const ERR_REFERENCED: i32 = 4108;

/// What a number of the subsystem's own means and, where something can be done, what.
pub(super) fn meaning(number: i32) -> Option<&'static str> {
    Some(match number {
        4097 => "the kernel does not understand the message",
        4098 => "the kernel has no such set type: load its module",
        4099 => "there are no more sets to be had: the kernel's limit (max_sets of module ip_set) is reached",
        ERR_BUSY => "a rule still names the set",
        4101 => "a set of the second name is there already",
        ERR_TYPE_MISMATCH => "the sets are of different types",
        ERR_EXIST => "the member is there already, or is not there",
        4104 => "the prefix length is not allowed",
        4105 => "the netmask is not allowed",
        4106 => "the family is not the set's",
        4107 => "the set has no timeouts",
        ERR_REFERENCED => "a rule still names the set",
        4109 => "the set wants an IPv4 address",
        4110 => "the set wants an IPv6 address",
        4352 => "the set is full: raise MaxIpsetSize",
        4353 => "the member is all zero",
        4354 => "the protocol is not allowed",
        4355 => "the protocol lacks",
        4356 | 4357 => "the range is not allowed",
        _ => return None,
    })
}
