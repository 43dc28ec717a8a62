//! What is to be written to the kernel: whole chains as text, and changes of IP sets as typed members.
//!
//! The layout says it, the hands carry it out and decide nothing. Order matters and is the layout's: a set is filled
//! before a rule asks it, and goes after the last rule that does.

use ipnet::IpNet;
use policy_model::Protocol;
use std::net::IpAddr;

/// A family of addresses, each of which has programs and sets of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    Inet,
    /// IPv6.
    Inet6,
}

impl Family {
    /// Both.
    pub const BOTH: [Family; 2] = [Family::Inet, Family::Inet6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Family::Inet
        } else {
            Family::Inet6
        }
    }

    /// 4 or 6.
    pub fn number(self) -> u8 {
        match self {
            Family::Inet => 4,
            Family::Inet6 => 6,
        }
    }

    /// Bits of an address.
    pub fn width(self) -> u8 {
        match self {
            Family::Inet => 32,
            Family::Inet6 => 128,
        }
    }
}

/// A table of iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// In front of connection tracking.
    Raw,
    /// Changes of packets.
    Mangle,
    /// What passes.
    Filter,
    /// Address translation.
    Nat,
}

impl Table {
    /// All, in the order in which an incoming packet meets them.
    pub const ALL: [Table; 4] = [Table::Raw, Table::Mangle, Table::Nat, Table::Filter];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Table::Raw => "raw",
            Table::Mangle => "mangle",
            Table::Filter => "filter",
            Table::Nat => "nat",
        }
    }
}

/// What one call of the restoring program writes: all of it, or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableWrite {
    /// Family.
    pub family: Family,
    /// Table.
    pub table: Table,
    /// Chains of ours by name, each with its whole new content: rules in the syntax of the saving program, without
    /// `-A CHAIN`. `None`: emptied and deleted. All chains that are named are to be declared before the first rule.
    pub chains: Vec<(String, Option<Vec<String>>)>,
    /// Rules that must stand in the kernel's own chains of the table, whether they stand there already or not.
    pub inserts: Vec<Insert>,
}

/// A rule of ours in a chain that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Insert {
    /// A chain of the kernel's, such as `FORWARD`.
    pub chain: &'static str,
    /// The rule, without `-A CHAIN`.
    pub rule: String,
    /// Where.
    pub place: Place,
}

/// Where in a chain of others a rule of ours stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// In front of all others.
    #[default]
    First,
    /// Behind all others.
    Last,
}

/// What the members of a set are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SetKind {
    /// `hash:ip`: single addresses.
    HashIp,
    /// `hash:net`: networks.
    HashNet,
    /// `hash:ip,port`: single addresses, each with a protocol and port.
    HashIpPort,
    /// `hash:net,port`: networks, each with a protocol and port.
    HashNetPort,
    /// `hash:net,iface`: networks, each with an interface.
    HashNetIface,
}

impl SetKind {
    /// Its name in the kernel.
    pub fn name(self) -> &'static str {
        match self {
            SetKind::HashIp => "hash:ip",
            SetKind::HashNet => "hash:net",
            SetKind::HashIpPort => "hash:ip,port",
            SetKind::HashNetPort => "hash:net,port",
            SetKind::HashNetIface => "hash:net,iface",
        }
    }
}

/// A member of a set. Networks have no host bits and are never of length zero: the kernel takes none such.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Member {
    /// Of [`SetKind::HashIp`].
    Ip(IpAddr),
    /// Of [`SetKind::HashNet`].
    Net(IpNet),
    /// Of [`SetKind::HashIpPort`].
    IpPort {
        /// Address.
        address: IpAddr,
        /// Protocol.
        protocol: Protocol,
        /// Port.
        port: u16,
    },
    /// Of [`SetKind::HashNetPort`].
    NetPort {
        /// Network.
        net: IpNet,
        /// Protocol.
        protocol: Protocol,
        /// Port.
        port: u16,
    },
    /// Of [`SetKind::HashNetIface`]. The kernel takes the same network with at most 64 interfaces.
    NetIface {
        /// Network.
        net: IpNet,
        /// Name of the interface.
        interface: String,
    },
}

/// What makes a set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetSpec {
    /// Name, at most 31 characters.
    pub name: String,
    /// Family of its members.
    pub family: Family,
    /// What its members are.
    pub kind: SetKind,
    /// Most members that it takes. Room is made as members come.
    pub max_elements: u32,
    /// Whether members may be given a time to live. None of ours are.
    pub with_timeout: bool,
}

/// A change of IP sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetOp {
    /// Makes an empty set that was not there.
    Create(SetSpec),
    /// New members of a set: none of them was in it.
    Add(String, Vec<Member>),
    /// Members that leave a set: all of them were in it.
    Remove(String, Vec<Member>),
    /// Exchanges the names of two sets of one kind, and so what rules find in them.
    Swap(String, String),
    /// Removes a set that no rule asks any more.
    Destroy(String),
}

impl SetOp {
    /// The set that it is about; the first of two.
    pub fn set(&self) -> &str {
        match self {
            SetOp::Create(spec) => &spec.name,
            SetOp::Add(name, _) | SetOp::Remove(name, _) | SetOp::Swap(name, _) | SetOp::Destroy(name) => {
                name
            }
        }
    }
}
