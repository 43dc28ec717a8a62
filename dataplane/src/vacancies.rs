//! Addresses that are kept for workloads here and that nobody has, and which of them have no flow left. Pure.
//!
//! A vacancy has a number, and a new one each time when its address becomes vacant or is in doubt: what was found out for
//! an earlier one says nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// An address that is vacant, for the so many-th time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vacated {
    pub(crate) address: IpAddr,
    pub(crate) number: u64,
}

/// What is known of one vacancy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Nobody has been asked to forget its flows.
    InDoubt,
    /// Somebody has, under this number.
    Ordered(u64),
    /// No flow is left, and none can come to be.
    Clean,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Vacancies {
    known: BTreeMap<IpAddr, Standing>,
    /// How many orders there ever were.
    count: u64,
}

impl Vacancies {
    /// Takes over which addresses are vacant. The table guards these already. Returns those whose flows must be forgotten.
    pub(crate) fn replace(&mut self, vacant: &BTreeSet<IpAddr>) -> Vec<Vacated> {
        self.known.retain(|address, _| vacant.contains(address));
        let mut due = Vec::new();
        for address in vacant {
            let standing = self.known.entry(*address).or_insert(Standing::InDoubt);
            if *standing == Standing::InDoubt {
                self.count += 1;
                *standing = Standing::Ordered(self.count);
                due.push(Vacated {
                    address: *address,
                    number: self.count,
                });
            }
        }
        due
    }

    /// The table may not have guarded them for a moment.
    pub(crate) fn doubt(&mut self) {
        self.known
            .values_mut()
            .for_each(|standing| *standing = Standing::InDoubt);
    }

    /// Flows were forgotten, and none was left.
    pub(crate) fn walked(&mut self, vacated: &[Vacated]) {
        for Vacated { address, number } in vacated {
            if let Some(standing) = self.known.get_mut(address)
                && *standing == Standing::Ordered(*number)
            {
                *standing = Standing::Clean;
            }
        }
    }

    /// Whether an address is vacant and has no flow left.
    pub(crate) fn is_clean(&self, address: IpAddr) -> bool {
        self.known.get(&address) == Some(&Standing::Clean)
    }

    /// All of these.
    pub(crate) fn clean(&self) -> impl Iterator<Item = IpAddr> {
        let clean = self
            .known
            .iter()
            .filter(|(_, standing)| **standing == Standing::Clean);
        clean.map(|(address, _)| *address)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is the failure itself")]
mod tests {
    use super::*;

    fn set(addresses: &[&str]) -> BTreeSet<IpAddr> {
        addresses.iter().map(|a| a.parse().unwrap()).collect()
    }

    fn clean(vacancies: &Vacancies) -> BTreeSet<IpAddr> {
        vacancies.clean().collect()
    }

    #[test]
    fn each_vacancy_is_walked_once() {
        let mut vacancies = Vacancies::default();
        let both = set(&["10.0.0.1", "fd00::1"]);
        let due = vacancies.replace(&both);
        assert_eq!(due.iter().map(|v| v.address).collect::<BTreeSet<_>>(), both);
        assert_eq!(vacancies.replace(&both), [], "it is under way");
        assert_eq!(clean(&vacancies), set(&[]));
        vacancies.walked(&due[..1]);
        assert_eq!(clean(&vacancies), set(&["10.0.0.1"]));
        assert!(vacancies.is_clean(due[0].address) && !vacancies.is_clean(due[1].address));
    }

    #[test]
    fn what_was_found_out_before_an_address_was_had_says_nothing_after() {
        let mut vacancies = Vacancies::default();
        let one = set(&["10.0.0.1"]);
        let first = vacancies.replace(&one);
        assert_eq!(vacancies.replace(&set(&[])), []);
        let second = vacancies.replace(&one);
        assert_ne!(first, second);
        vacancies.walked(&first);
        assert_eq!(clean(&vacancies), set(&[]));
        vacancies.walked(&second);
        assert_eq!(clean(&vacancies), one);
    }

    #[test]
    fn doubt_has_everything_walked_again() {
        let mut vacancies = Vacancies::default();
        let one = set(&["10.0.0.1"]);
        let first = vacancies.replace(&one);
        vacancies.walked(&first);
        vacancies.doubt();
        assert_eq!(clean(&vacancies), set(&[]));
        let second = vacancies.replace(&one);
        vacancies.walked(&first);
        assert_eq!(clean(&vacancies), set(&[]));
        vacancies.walked(&second);
        assert_eq!(clean(&vacancies), one);
    }
}
