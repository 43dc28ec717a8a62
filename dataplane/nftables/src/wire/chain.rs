//! Chains: base chains at a hook, and regular chains that others jump to.

use super::attribute::{self, Attributes, Malformed, malformed, read_be32, read_be64, read_text};
use super::numbers::Family;
use super::table::encode_comment;
use super::userdata;

const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_HANDLE: u16 = 2;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_USE: u16 = 6;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_CHAIN_USERDATA: u16 = 12;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;

/// The priorities that the nft program has names for, smaller is earlier.
pub mod priority {
    /// Before connection tracking.
    pub const RAW: i32 = -300;
    /// After connection tracking, before address translation.
    pub const MANGLE: i32 = -150;
    /// Destination address translation.
    pub const DSTNAT: i32 = -100;
    /// Filtering.
    pub const FILTER: i32 = 0;
    /// Source address translation.
    pub const SRCNAT: i32 = 100;
}

numbered! {
    /// Where in a packet's way a base chain stands, in the families inet, IPv4 and IPv6.
    Hook {
        /// All packets that come in.
        Prerouting = 0,
        /// Packets for this host.
        Input = 1,
        /// Packets that this host forwards.
        Forward = 2,
        /// Packets that this host makes.
        Output = 3,
        /// All packets that go out.
        Postrouting = 4,
        /// Packets straight from a device.
        Ingress = 5,
    }
}

numbered! {
    /// What happens to a packet that no rule of a base chain decides.
    Policy {
        /// It is dropped.
        Drop = 0,
        /// It goes on.
        Accept = 1,
    }
}

/// What kind of work a base chain does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChainType {
    /// Filtering.
    Filter,
    /// Address translation: sees the first packet of each connection only.
    Nat,
    /// Like filtering, but routes a packet of this host again if it was changed.
    Route,
    /// A type without a name here.
    Other(String),
}

impl ChainType {
    fn name(&self) -> &str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
            Self::Other(name) => name,
        }
    }

    fn from_name(name: String) -> Self {
        match name.as_str() {
            "filter" => Self::Filter,
            "nat" => Self::Nat,
            "route" => Self::Route,
            _ => Self::Other(name),
        }
    }
}

/// What makes a chain a base chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseChain {
    /// The kind of work.
    pub chain_type: ChainType,
    /// The hook.
    pub hook: Hook,
    /// The place among the chains of one hook, smaller is earlier (see [`priority`]).
    pub priority: i32,
    /// What happens to undecided packets.
    pub policy: Policy,
}

/// A chain to be made; a base chain that exists gets this policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain<'a> {
    /// The table.
    pub table: &'a str,
    /// The name, at most 255 bytes.
    pub name: &'a str,
    /// The hook, if packets shall enter here.
    pub base: Option<BaseChain>,
    /// A remark for people, at most 127 bytes.
    pub comment: Option<&'a str>,
}

impl<'a> Chain<'a> {
    /// A chain that others jump to.
    #[must_use]
    pub const fn regular(table: &'a str, name: &'a str) -> Self {
        Self {
            table,
            name,
            base: None,
            comment: None,
        }
    }

    /// A filter chain at a hook, with policy accept.
    #[must_use]
    pub const fn filter(table: &'a str, name: &'a str, hook: Hook, priority: i32) -> Self {
        let base = BaseChain {
            chain_type: ChainType::Filter,
            hook,
            priority,
            policy: Policy::Accept,
        };
        Self {
            table,
            name,
            base: Some(base),
            comment: None,
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        encode_names(out, self.table, self.name);
        if let Some(base) = &self.base {
            attribute::text(out, NFTA_CHAIN_TYPE, base.chain_type.name());
            attribute::be32(out, NFTA_CHAIN_POLICY, base.policy.number());
            attribute::nest(out, NFTA_CHAIN_HOOK, |out| {
                attribute::be32(out, NFTA_HOOK_HOOKNUM, base.hook.number());
                attribute::be32(out, NFTA_HOOK_PRIORITY, base.priority.cast_unsigned());
            });
        }
        encode_comment(out, NFTA_CHAIN_USERDATA, self.comment);
    }
}

/// Appends table and name of a chain, as requests and removals name it.
pub(crate) fn encode_names(out: &mut Vec<u8>, table: &str, chain: &str) {
    attribute::text(out, NFTA_CHAIN_TABLE, table);
    attribute::text(out, NFTA_CHAIN_NAME, chain);
}

/// A chain as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedChain {
    /// The family of its table.
    pub family: Family,
    /// The table.
    pub table: String,
    /// The name.
    pub name: String,
    /// The kernel's number, never used again in the table.
    pub handle: u64,
    /// The rules in it and the jumps to it.
    pub uses: u32,
    /// The hook, if it is a base chain.
    pub base: Option<BaseChain>,
    /// The comment.
    pub comment: Option<String>,
}

impl ObservedChain {
    pub(crate) fn decode(family: Family, payload: &[u8]) -> Result<Self, Malformed> {
        let mut chain = Self {
            family,
            table: String::new(),
            name: String::new(),
            handle: 0,
            uses: 0,
            base: None,
            comment: None,
        };
        let (mut chain_type, mut policy, mut hook) = (ChainType::Filter, Policy::Accept, None);
        for (kind, payload) in Attributes::new(payload) {
            match kind {
                NFTA_CHAIN_TABLE => chain.table = read_text(payload),
                NFTA_CHAIN_NAME => chain.name = read_text(payload),
                NFTA_CHAIN_HANDLE => chain.handle = read_be64(payload, "chain handle")?,
                NFTA_CHAIN_USE => chain.uses = read_be32(payload, "chain use")?,
                NFTA_CHAIN_TYPE => chain_type = ChainType::from_name(read_text(payload)),
                NFTA_CHAIN_POLICY => policy = Policy::from_number(read_be32(payload, "chain policy")?),
                NFTA_CHAIN_USERDATA => chain.comment = userdata::find_comment(payload, userdata::COMMENT),
                NFTA_CHAIN_HOOK => {
                    let attributes = Attributes::new(payload);
                    let number = attributes
                        .find(NFTA_HOOK_HOOKNUM)
                        .ok_or(malformed("hook without number"))?;
                    let priority = attributes
                        .find(NFTA_HOOK_PRIORITY)
                        .ok_or(malformed("hook without priority"))?;
                    hook = Some((
                        Hook::from_number(read_be32(number, "hook number")?),
                        read_be32(priority, "hook priority")?.cast_signed(),
                    ));
                }
                _ => {}
            }
        }
        chain.base = hook.map(|(hook, priority)| BaseChain {
            chain_type,
            hook,
            priority,
            policy,
        });
        let named = !chain.table.is_empty() && !chain.name.is_empty();
        if named {
            Ok(chain)
        } else {
            Err(malformed("chain without name"))
        }
    }
}
