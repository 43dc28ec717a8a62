//! The events of nf_tables about the tables that iptables has there.

use std::os::fd::{AsFd, BorrowedFd};

use dataplane_nftables::socket::{Event, Monitor};
use dataplane_nftables::wire::{Family, Object};

use crate::ops::Table;
use crate::ours::is_our_chain;

use super::WatchError;

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

    /// Reads what has come, without waiting, and says whether somebody other than these processes changed a table of
    /// iptables, or may have.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn is_disturbed(&mut self, own: &[u32]) -> Result<bool, WatchError> {
        let mut disturbed = false;
        let mut events = Vec::new();
        while self.monitor.read(&mut events)? {
            disturbed |= events.drain(..).any(|event| concerns_us(&event, own));
        }
        Ok(disturbed)
    }
}

/// Whether an event is of others and may be about something of ours. What others do in chains of their own is not: kube-proxy
/// writes thousands of rules there.
fn concerns_us(event: &Event, own: &[u32]) -> bool {
    let (port, object) = match event {
        Event::Change { port, notice } => (port, notice.object()),
        Event::NotUnderstood(_) | Event::Overflow => return true,
    };
    let is_iptables = object.table().is_some_and(|(family, table)| {
        matches!(family, Family::Ipv4 | Family::Ipv6) && Table::ALL.iter().any(|ours| ours.name() == table)
    });
    let is_near = match object {
        Object::Table(_) => true,
        Object::Chain(chain) => is_near_us(&chain.name),
        Object::Rule(rule) => is_near_us(&rule.chain),
        // Sets belong to rules, which have events of their own.
        Object::Set(_) | Object::Elements(_) | Object::Generation(_) | Object::Foreign(..) => false,
    };
    is_iptables && is_near && !own.contains(port)
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
    use dataplane_nftables::wire::{Notice, ObservedRule};

    use super::*;

    #[test]
    fn only_what_others_do_near_us_concerns_us() {
        let rule = |family, table: &str, chain: &str| Event::Change {
            port: 7,
            notice: Notice::Gone(Object::Rule(ObservedRule {
                family,
                table: table.to_owned(),
                chain: chain.to_owned(),
                handle: 1,
                after: None,
                expressions: Vec::new(),
                comment: None,
            })),
        };
        for (family, table, chain, own, concerns) in [
            (Family::Ipv4, "filter", "cali-FORWARD", &[][..], true),
            (Family::Ipv6, "nat", "POSTROUTING", &[1, 2], true),
            (Family::Ipv4, "filter", "cali-FORWARD", &[1, 7], false),
            (Family::Ipv4, "nat", "KUBE-SERVICES", &[], false),
            (Family::Inet, "filter", "FORWARD", &[], false),
            (Family::Ipv4, "mine", "FORWARD", &[], false),
        ] {
            let event = rule(family, table, chain);
            assert_eq!(concerns_us(&event, own), concerns, "{event:?}");
        }
        assert!(concerns_us(&Event::Overflow, &[]));
    }
}
