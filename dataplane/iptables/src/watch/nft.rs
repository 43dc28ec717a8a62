//! The events of nf_tables about the tables that iptables has there.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};

use dataplane_nftables::socket::{Event, Monitor};
use dataplane_nftables::wire::{self, Object};

use crate::ops::{Family, Table};
use crate::ours::is_our_chain;

use super::{Disturbed, WatchError};

/// The kernel's chains.
const KERNEL_CHAINS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// Listens to nf_tables.
#[derive(Debug)]
pub struct NftWatch {
    monitor: Monitor,
}

impl NftWatch {
    /// Listens in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel gives no socket.
    pub fn open() -> Result<Self, WatchError> {
        Ok(Self {
            monitor: Monitor::open(&[])?,
        })
    }

    /// Reads what has come, without waiting, and says which tables somebody other than these processes may have changed near
    /// us.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn disturbed(&mut self, own: &[u32]) -> Result<Disturbed, WatchError> {
        let mut tables = BTreeSet::new();
        let mut all = false;
        let mut events = Vec::new();
        while self.monitor.read(&mut events)? {
            for event in events.drain(..) {
                match event {
                    Event::Change { port, notice } if !own.contains(&port) => {
                        tables.extend(table_near_us(notice.object()));
                    }
                    Event::Change { .. } => {}
                    Event::NotUnderstood(_) | Event::Overflow => all = true,
                }
            }
        }
        Ok(if all {
            Disturbed::All
        } else {
            Disturbed::Tables(tables)
        })
    }
}

/// The table of an object that is ours or in which ours stand. What others do in chains of their own is not told: kube-proxy
/// writes thousands of rules there.
fn table_near_us(object: &Object) -> Option<(Family, Table)> {
    let (family, name) = object.table()?;
    let family = match family {
        wire::Family::Ipv4 => Family::Inet,
        wire::Family::Ipv6 => Family::Inet6,
        _ => return None,
    };
    let table = Table::ALL.into_iter().find(|table| table.name() == name)?;
    let is_near = match object {
        Object::Table(_) => true,
        Object::Chain(chain) => is_near_us(&chain.name),
        Object::Rule(rule) => is_near_us(&rule.chain),
        // Sets belong to rules, which have events of their own.
        Object::Set(_) | Object::Elements(_) | Object::Generation(_) | Object::Foreign(..) => false,
    };
    is_near.then_some((family, table))
}

/// Whether a chain is ours or one in which ours stand.
fn is_near_us(chain: &str) -> bool {
    is_our_chain(chain) || KERNEL_CHAINS.contains(&chain)
}

impl AsFd for NftWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.monitor.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use dataplane_nftables::wire::ObservedRule;

    use super::*;

    #[test]
    fn only_what_others_do_near_us_concerns_us() {
        let rule = |family, table: &str, chain: &str| {
            Object::Rule(ObservedRule {
                family,
                table: table.to_owned(),
                chain: chain.to_owned(),
                handle: 1,
                after: None,
                expressions: Vec::new(),
                comment: None,
            })
        };
        use wire::Family::{Inet, Ipv4, Ipv6};
        for (object, near) in [
            (
                rule(Ipv4, "filter", "cali-FORWARD"),
                Some((Family::Inet, Table::Filter)),
            ),
            (
                rule(Ipv6, "nat", "POSTROUTING"),
                Some((Family::Inet6, Table::Nat)),
            ),
            (rule(Ipv4, "nat", "KUBE-SERVICES"), None),
            (rule(Inet, "filter", "FORWARD"), None),
            (rule(Ipv4, "mine", "FORWARD"), None),
        ] {
            assert_eq!(table_near_us(&object), near, "{object:?}");
        }
    }
}
