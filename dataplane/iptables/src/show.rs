//! How families, tables and members read in messages.

use std::fmt;

use crate::ops::{Family, Member, Table};

impl fmt::Display for Family {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Inet => "inet",
            Self::Inet6 => "inet6",
        })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl fmt::Display for Member {
    /// As the `ipset` program takes it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(formatter, "{address}"),
            Self::Net(net) => write!(formatter, "{net}"),
            Self::IpPort {
                address,
                protocol,
                port,
            } => write!(formatter, "{address},{protocol}:{port}"),
            Self::NetPort { net, protocol, port } => write!(formatter, "{net},{protocol}:{port}"),
            Self::NetIface { net, interface } => write!(formatter, "{net},{interface}"),
        }
    }
}
