//! Connection tracking: which flows the kernel remembers, and making it forget some.
//!
//! The kernel lets packets of remembered flows pass before policy is asked. So entries of a departed
//! workload's addresses have to be gone before an address is given again, or the next workload inherits its
//! predecessor's open flows; and where a changed policy is to hold for established flows too, the entries of
//! the flows that it denies have to go.

mod flow;
mod wire;

use std::net::IpAddr;

use nix::errno::Errno;
use rustc_hash::FxHashSet;

pub use flow::{Family, Flow, FlowFilter, FlowStatus, Layer4, Tuple};

use crate::error::{NetlinkError, refusal_is_absent};
use crate::namespace::NetworkNamespace;
use crate::rtnetlink::OpenInError;
use crate::socket::{Connection, Patience, Protocol, Request};

/// From how many addresses on one list of everything is cheaper than four filtered lists for each.
const MANY_ADDRESSES: usize = 8;
/// Up to how many entries one list of everything is cheaper than four filtered lists for each address. Most of what a
/// list of so few costs is the kernel's way through all its buckets (7 ms for 262,144), which a filter does not shorten.
const FEW_ENTRIES: u32 = 20_000;
/// How often entries are looked for again after some were found. Entries that were being made while the list
/// was read are found in the second round; more means that the addresses are still in use.
const ROUNDS: u32 = 8;

/// How full the table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableUse {
    /// The entries now.
    pub entries: u32,
    /// The most that there can be; beyond, new flows are dropped.
    pub maximum: Option<u32>,
}

/// A socket for connection tracking of the namespace in which it was opened.
#[derive(Debug)]
pub struct Conntrack {
    connection: Connection,
}

/// What became of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgotten {
    /// How many entries were removed.
    pub entries: usize,
    /// Whether the last look found none left. If not, packets with these addresses still arrive.
    pub outcome: Outcome,
}

/// Whether anything is left after a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was found at the last look.
    Clean,
    /// New entries were found each time.
    StillInUse,
}

impl Conntrack {
    /// Opens a socket in the calling thread's namespace.
    ///
    /// # Errors
    /// The process may not open netlink sockets, or the kernel lacks nfnetlink.
    pub fn open() -> Result<Self, NetlinkError> {
        Self::open_with(Patience::default())
    }

    /// Opens a socket in the calling thread's namespace on which the kernel may take so long to answer.
    ///
    /// # Errors
    /// The process may not open netlink sockets, or the kernel lacks nfnetlink.
    pub fn open_with(patience: Patience) -> Result<Self, NetlinkError> {
        Ok(Self {
            connection: Connection::open(Protocol::Netfilter, patience)?,
        })
    }

    /// Opens a socket in another namespace; it is used from here afterwards.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the socket cannot be opened there.
    pub fn open_in(namespace: &NetworkNamespace) -> Result<Self, OpenInError> {
        Ok(namespace.run(Self::open)??)
    }

    /// Returns how full the table is.
    ///
    /// # Errors
    /// The kernel lacks connection tracking or refuses.
    pub fn table_use(&mut self) -> Result<TableUse, NetlinkError> {
        let operation = "count connection-tracking entries";
        let mut found = None;
        self.connection
            .fetch(&wire::statistics(), &operation, |message| {
                found = found.or_else(|| wire::read_statistics(message));
            })?;
        let (entries, maximum) = found.ok_or_else(|| NetlinkError::Malformed {
            operation: operation.to_owned(),
            problem: "no number of entries".to_owned(),
        })?;
        Ok(TableUse { entries, maximum })
    }

    /// Returns the flows that a filter means.
    ///
    /// # Errors
    /// The list could not be read.
    pub fn list(&mut self, filter: &FlowFilter) -> Result<Vec<Flow>, NetlinkError> {
        let meant = |flow: &Flow| filter.matches(flow);
        match filter.address {
            Some(address) => self.list_with(&[address], &meant),
            None => self.list_all(filter.family, &meant),
        }
    }

    /// Removes all entries that have one of these addresses anywhere: sender or receiver, before or after
    /// translation.
    ///
    /// Call it when packets with these addresses can no more arrive (the interface and its routes are gone)
    /// and before an address is given again.
    ///
    /// # Errors
    /// A list could not be read, or the kernel refused a removal. Entries that vanish by themselves meanwhile
    /// are no error.
    pub fn forget_addresses(&mut self, addresses: &[IpAddr]) -> Result<Forgotten, NetlinkError> {
        self.forget_addresses_while(addresses, &|_| true)
    }

    /// The same for addresses that somebody may be given meanwhile: `is_still_meant` is asked of an address of each
    /// entry after the entry was read, and what it answers no to is left alone.
    ///
    /// So an entry that came to be after an answer of no is never removed, and none that was there before has to stay
    /// for fear of it. Addresses it answers no to count as clean here; who gave them has to see to them.
    ///
    /// # Errors
    /// As those of [`Conntrack::forget_addresses`].
    pub fn forget_addresses_while(
        &mut self,
        addresses: &[IpAddr],
        is_still_meant: &dyn Fn(&IpAddr) -> bool,
    ) -> Result<Forgotten, NetlinkError> {
        let wanted: FxHashSet<IpAddr> = addresses.iter().copied().collect();
        let ends = |flow: &Flow| {
            [
                flow.original.source,
                flow.original.destination,
                flow.reply.source,
                flow.reply.destination,
            ]
        };
        let meant = |flow: &Flow| ends(flow).iter().any(|address| wanted.contains(address));
        let still_meant = |flow: &Flow| {
            let mut ends = ends(flow).into_iter();
            ends.any(|address| wanted.contains(&address) && is_still_meant(&address))
        };
        let mut entries = 0;
        for _ in 0..ROUNDS {
            let mut flows = match self.table_use()?.entries {
                0 => Vec::new(),
                all if all > FEW_ENTRIES && wanted.len() < MANY_ADDRESSES => {
                    self.list_with(addresses, &meant)?
                }
                _ => self.list_all(family_of_all(addresses), &meant)?,
            };
            flows.retain(still_meant);
            if flows.is_empty() {
                return Ok(Forgotten {
                    entries,
                    outcome: Outcome::Clean,
                });
            }
            entries += self.forget(&flows)?;
        }
        Ok(Forgotten {
            entries,
            outcome: Outcome::StillInUse,
        })
    }

    /// Removes the entries that a filter and `is_meant` both mean, in one pass, and says how many.
    ///
    /// # Errors
    /// The list could not be read, or the kernel refused a removal.
    pub fn forget_where(
        &mut self,
        filter: &FlowFilter,
        mut is_meant: impl FnMut(&Flow) -> bool,
    ) -> Result<usize, NetlinkError> {
        let mut flows = self.list(filter)?;
        flows.retain(|flow| is_meant(flow));
        self.forget(&flows)
    }

    /// Removes these entries and says how many were still there.
    ///
    /// # Errors
    /// The kernel refused a removal for another reason than that the entry has gone; the others are tried
    /// all the same.
    pub fn forget(&mut self, flows: &[Flow]) -> Result<usize, NetlinkError> {
        let requests: Vec<Request> = flows.iter().map(wire::delete).collect();
        let operation = format_args!("remove {} connection-tracking entries", flows.len());
        let outcomes = self.connection.batch(&requests, &operation)?;
        let mut removed = 0;
        let mut failure = None;
        for (flow, outcome) in flows.iter().zip(outcomes) {
            match outcome {
                Ok(()) => removed += 1,
                Err(refusal) if refusal_is_absent(&refusal) => {}
                Err(refusal) => {
                    failure.get_or_insert_with(|| NetlinkError::Refused {
                        operation: format!("remove connection-tracking entry {}", flow.original),
                        refusal,
                    });
                }
            }
        }
        failure.map_or(Ok(removed), Err)
    }

    fn list_all(&mut self, family: Family, meant: &dyn Fn(&Flow) -> bool) -> Result<Vec<Flow>, NetlinkError> {
        self.dump(&wire::list(family.number()), meant)
    }

    /// Lists the flows that have one of a few addresses; the kernel filters.
    fn list_with(
        &mut self,
        addresses: &[IpAddr],
        meant: &dyn Fn(&Flow) -> bool,
    ) -> Result<Vec<Flow>, NetlinkError> {
        let mut flows: Vec<Flow> = Vec::new();
        let mut seen = FxHashSet::default();
        for address in addresses {
            for place in wire::Place::ALL {
                let request = wire::list_with(Family::of(*address).number(), *address, place);
                for flow in self.dump(&request, meant)? {
                    // Most flows are found twice, as senders of one direction receive the other.
                    if seen.insert((flow.id, flow.zone, flow.original)) {
                        flows.push(flow);
                    }
                }
            }
        }
        Ok(flows)
    }

    fn dump(&mut self, request: &Request, meant: &dyn Fn(&Flow) -> bool) -> Result<Vec<Flow>, NetlinkError> {
        // The filter is applied here again: a kernel that did not know it would list everything.
        let listed = self
            .connection
            .dump(request, &"list connection-tracking entries", |message| {
                wire::read_flow(message).filter(|flow| meant(flow))
            });
        match listed {
            // Nothing has asked this namespace to track a family yet.
            Err(error) if matches!(error.errno(), Some(Errno::ENOENT)) => Ok(Vec::new()),
            other => other,
        }
    }
}

/// Returns the one family of some addresses, or both.
fn family_of_all(addresses: &[IpAddr]) -> Family {
    let mut families = addresses.iter().map(|address| Family::of(*address));
    let Some(first) = families.next() else {
        return Family::Both;
    };
    if families.all(|family| family == first) {
        first
    } else {
        Family::Both
    }
}
