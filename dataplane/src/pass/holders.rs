//! Who has an address here: what its arrival, its departure and the time between ask of connection tracking.
//!
//! The law: no flow of a former holder of an address passes for its next one, and none that came to be while nobody had
//! it. To look through all of connection tracking takes the kernel 7 ms, however little is in it, so for addresses that
//! are kept for workloads here it is done ahead: while nobody has one, our table lets no connection begin with it, one
//! look removes what is left, and from then on there is nothing to remove when somebody comes. Whatever casts doubt on
//! that (somebody else touched the table) has the look done again, and an arrival before its end waits for a look of its
//! own.

use super::{ApplyError, Dataplane, FlowWalks, PassReport};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

impl Dataplane {
    /// Says which addresses nobody may have but endpoints here, all of them. From the next pass on no connection with one
    /// of them begins while no endpoint has it at an interface that packets reach.
    pub fn keep(&mut self, addresses: Arc<BTreeSet<IpAddr>>) {
        self.vacancies_stirred |= self.kept != addresses;
        self.kept = addresses;
    }

    /// Kept addresses that nobody has, and of which no flow is left: who gets one of them waits for nothing.
    pub fn clean_addresses(&self) -> BTreeSet<IpAddr> {
        self.vacancies.clean().collect()
    }

    /// How often connection tracking was looked through for addresses.
    pub fn flow_walks(&self) -> FlowWalks {
        self.walks
    }

    /// What was sent to an address while nobody had it was forwarded to somewhere else, and made entries whose answers
    /// the address's new holder could give, or be given, without policy being asked: they are forgotten as well, once
    /// packets reach the new holder's interface. Those of the first pass may have been here before this process was.
    pub(super) fn note_arrivals(&mut self) {
        let mut attached: BTreeMap<IpAddr, u32> = BTreeMap::new();
        for endpoint in self.endpoints.values() {
            let Some(index) = self.interfaces.index(&endpoint.interface) else {
                continue;
            };
            // Routes lead to an interface that is up. One that goes down for a while keeps what it has.
            let is_reached = self.interfaces.link(&endpoint.interface).is_some() || !self.synced_once;
            let here = endpoint.addresses.iter();
            let here = here.filter(|a| is_reached || self.attached.get(*a) == Some(&index));
            attached.extend(here.map(|address| (*address, index)));
        }
        if self.synced_once {
            let arrived = attached.iter().filter(|(a, i)| self.attached.get(*a) != Some(*i));
            let unclean = arrived.filter(|(address, _)| !self.vacancies.is_clean(**address));
            self.departed.extend(unclean.map(|(address, _)| *address));
        }
        self.attached = attached;
    }

    /// Lets no connection begin with kept addresses that nobody has, and has what is known of them forgotten.
    ///
    /// After the routes: when an address may be spoken to again, packets reach its holder.
    pub(super) fn guard_vacant(&mut self, report: &mut PassReport) -> Result<(), ApplyError> {
        let is_vacant = |address: &&IpAddr| !self.attached.contains_key(*address);
        let vacant: BTreeSet<IpAddr> = self.kept.iter().filter(is_vacant).copied().collect();
        if *self.driver.vacant() != vacant {
            // Before its guard is gone: what comes to be from then on is its holder's.
            self.walker.leave_all_but(&vacant);
            let applied = self
                .driver
                .set_vacant(&self.tables, &vacant)
                .map_err(ApplyError::Policy)?;
            report.transactions += applied.transactions;
            report.messages += applied.messages;
            report.mended += applied.mended;
        }
        // The walker's look does for a departed one as well: nobody is given it without.
        self.departed.retain(|address| !vacant.contains(address));
        self.walker.order(self.vacancies.replace(&vacant));
        report.flows_removed += std::mem::take(&mut self.removed_ahead);
        self.vacancies_stirred = false;
        Ok(())
    }

    /// What somebody changed between two passes may have left vacant addresses without their guard.
    pub(super) fn doubt_vacancies(&mut self, mended: usize) {
        if mended > 0 {
            self.vacancies.doubt();
            self.vacancies_stirred = true;
        }
    }

    /// Takes in what the walker has done.
    pub(super) fn take_walks(&mut self) {
        for walked in self.walker.ended() {
            self.walks.ahead += 1;
            self.removed_ahead += walked.removed;
            self.vacancies.walked(&walked.vacated);
            self.vacancies_stirred = true;
        }
    }

    /// Flows of addresses that no endpoint here has any more would otherwise be inherited by the next holder; those of
    /// one that moved from one endpoint to another here were the other's.
    pub(super) fn forget_departed(&mut self, report: &mut PassReport) -> Result<(), ApplyError> {
        if self.departed.is_empty() {
            return Ok(());
        }
        let departed: Vec<IpAddr> = self.departed.iter().copied().collect();
        let (removed, _clean) = self.flows.forget(&departed).map_err(ApplyError::Flows)?;
        self.walks.in_passes += 1;
        report.flows_removed += removed;
        self.departed.clear();
        Ok(())
    }
}
