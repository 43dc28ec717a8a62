//! The IP sets: what is wanted, what of it was not written yet, and which have to be read first.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashSet;

use crate::ipset::{Ipsets, ObservedSet, SetHeader, SetProblem, kernel_forms};
use crate::ops::{Family, Member, SetOp, SetSpec};
use crate::ours::{is_our_set, is_temporary_set};

use super::{Applied, DriverError};

/// From how many sets on one list of all is cheaper than a list of each.
const MANY: usize = 16;

/// What one set should be.
#[derive(Clone, Debug)]
struct DesiredSet {
    /// What makes it, but for its name, which an exchange changes.
    spec: SetSpec,
    /// Members as the kernel holds them.
    members: FxHashSet<Member>,
    /// Members as they were asked for that the kernel cannot hold as one; rare.
    split: FxHashSet<Member>,
}

/// All sets of ours.
#[derive(Debug)]
pub(super) struct Sets {
    desired: BTreeMap<String, DesiredSet>,
    /// What was asked for since the last write, in its order, of sets that are as they were left.
    pending: Vec<SetOp>,
    /// Sets that have to be read before they are written.
    dirty: BTreeSet<String>,
    /// Sets that go once no rule names them.
    doomed: BTreeSet<String>,
    /// Whether all of ours have to be read, also those that nobody wants.
    is_suspect: bool,
    /// Whether they were once as they should be, so that what differs later is drift.
    is_settled: bool,
}

impl Default for Sets {
    fn default() -> Self {
        Self {
            desired: BTreeMap::new(),
            pending: Vec::new(),
            dirty: BTreeSet::new(),
            doomed: BTreeSet::new(),
            is_suspect: true,
            is_settled: false,
        }
    }
}

impl Sets {
    pub(super) fn wanted(&self) -> usize {
        self.desired.len()
    }

    pub(super) fn wanted_of(&self, family: Family) -> usize {
        let is_of = |set: &&DesiredSet| set.spec.family == family;
        self.desired.values().filter(is_of).count()
    }

    pub(super) fn suspect_all(&mut self) {
        self.is_suspect = true;
    }

    pub(super) fn take(&mut self, operation: &SetOp) {
        match operation {
            SetOp::Create(spec) => {
                let name = &spec.name;
                let set = DesiredSet {
                    spec: spec.clone(),
                    members: FxHashSet::default(),
                    split: FxHashSet::default(),
                };
                let is_there = self.desired.insert(name.clone(), set).is_some() || self.doomed.remove(name);
                if is_there {
                    self.dirty.insert(name.clone());
                } else {
                    self.pend(operation);
                }
            }
            SetOp::Add(name, members) => self.change(name, members, Change::Add),
            SetOp::Remove(name, members) => self.change(name, members, Change::Remove),
            SetOp::Swap(one, other) => {
                let (first, second) = (self.desired.remove(one), self.desired.remove(other));
                self.desired.extend(second.map(|set| (one.clone(), set)));
                self.desired.extend(first.map(|set| (other.clone(), set)));
                if self.dirty.contains(one) || self.dirty.contains(other) {
                    self.dirty.extend([one.clone(), other.clone()]);
                }
                self.pend(operation);
            }
            SetOp::Destroy(name) => {
                self.desired.remove(name);
                self.dirty.remove(name);
                self.doomed.insert(name.clone());
            }
        }
    }

    fn change(&mut self, name: &str, members: &[Member], change: Change) {
        let Some(set) = self.desired.get_mut(name) else {
            tracing::error!(set = name, "members for an IP set that was not made");
            return;
        };
        let mut changed = Vec::new();
        for member in members {
            let forms = kernel_forms(member);
            if forms.iter().flatten().count() > 1 || !set.split.is_empty() {
                // Halves may be members by themselves too: the reading sorts it out.
                self.dirty.insert(name.to_owned());
            }
            let is_split = forms.iter().flatten().count() > 1;
            match change {
                Change::Add if is_split => drop(set.split.insert(member.clone())),
                Change::Remove if is_split => drop(set.split.remove(member)),
                Change::Add => changed.extend(
                    forms
                        .into_iter()
                        .flatten()
                        .filter(|form| set.members.insert(form.clone())),
                ),
                Change::Remove => changed.extend(
                    forms
                        .into_iter()
                        .flatten()
                        .filter(|form| set.members.remove(form)),
                ),
            }
        }
        if !changed.is_empty() && !self.dirty.contains(name) {
            let name = name.to_owned();
            self.pending.push(match change {
                Change::Add => SetOp::Add(name, changed),
                Change::Remove => SetOp::Remove(name, changed),
            });
        }
    }

    fn pend(&mut self, operation: &SetOp) {
        if !names(operation).iter().any(|name| self.dirty.contains(*name)) {
            self.pending.push(operation.clone());
        }
    }

    /// Makes and fills what is wanted.
    pub(super) fn prepare(&mut self, ipsets: &mut Ipsets, applied: &mut Applied) -> Result<(), DriverError> {
        // What is read below is read whole, so nothing that was asked for is lost with the list.
        let pending = std::mem::take(&mut self.pending);
        if !self.is_suspect && !pending.is_empty() {
            applied.set_operations += pending.len();
            match ipsets.try_each(&pending) {
                Ok(problems) if problems.is_empty() => {}
                outcome => {
                    tracing::debug!(?outcome, "sets are not as they were left");
                    self.dirty
                        .extend(pending.iter().flat_map(names).map(str::to_owned));
                }
            }
        }
        if self.is_suspect {
            self.read_all(ipsets, applied)?;
        }
        if !self.dirty.is_empty() {
            self.mend(ipsets, applied)?;
        }
        self.is_settled = true;
        Ok(())
    }

    /// Removes what nobody wants any more. What is still in use stays, and is tried again by the next apply.
    pub(super) fn retire(&mut self, ipsets: &mut Ipsets, applied: &mut Applied) -> Result<(), DriverError> {
        if self.doomed.is_empty() {
            return Ok(());
        }
        let operations: Vec<SetOp> = self.doomed.iter().cloned().map(SetOp::Destroy).collect();
        applied.set_operations += operations.len();
        let problems = ipsets.try_each(&operations)?;
        self.doomed.clear();
        let mut refused = Vec::new();
        for problem in problems {
            if problem.is_absent() {
                continue;
            }
            self.doomed.insert(problem.set.clone());
            if problem.is_in_use() {
                applied.kept_sets.push(problem.set);
            } else {
                refused.push(problem);
            }
        }
        first_of(refused)
    }

    /// Compares numbers of members and types with what they should be; what differs is read by the next apply.
    pub(super) fn compare_headers(&mut self, ipsets: &mut Ipsets) -> Result<(), DriverError> {
        let headers = ipsets.headers()?;
        let found: BTreeMap<&str, &SetHeader> = headers
            .iter()
            .map(|header| (header.name.as_str(), header))
            .collect();
        for (name, set) in &self.desired {
            let is_right = found
                .get(name.as_str())
                .is_some_and(|header| set.fits(header) && header.elements as usize == set.wanted().count());
            if !is_right {
                self.dirty.insert(name.clone());
            }
        }
        let stale = found
            .keys()
            .filter(|name| is_our_set(name) && !self.desired.contains_key(**name));
        self.doomed.extend(stale.map(|&name| name.to_owned()));
        Ok(())
    }

    /// Finds out what of ours is there.
    fn read_all(&mut self, ipsets: &mut Ipsets, applied: &mut Applied) -> Result<(), DriverError> {
        let found = ipsets.list_all(is_our_set)?;
        let (wanted, stale): (Vec<_>, Vec<_>) = found
            .into_iter()
            .partition(|set| self.desired.contains_key(&set.header.name));
        self.doomed.extend(stale.into_iter().map(|set| set.header.name));
        self.dirty = self.desired.keys().cloned().collect();
        self.write_differences(ipsets, wanted, applied)?;
        self.is_suspect = false;
        Ok(())
    }

    /// Reads the dirty sets and writes what differs.
    fn mend(&mut self, ipsets: &mut Ipsets, applied: &mut Applied) -> Result<(), DriverError> {
        let found = if self.dirty.len() > MANY {
            ipsets.list_all(|name| self.dirty.contains(name))?
        } else {
            let mut found = Vec::new();
            for name in &self.dirty {
                found.extend(ipsets.members(name)?);
            }
            found
        };
        self.write_differences(ipsets, found, applied)
    }

    /// Writes the differences between the dirty sets and what was found of them.
    fn write_differences(
        &mut self,
        ipsets: &mut Ipsets,
        found: Vec<ObservedSet>,
        applied: &mut Applied,
    ) -> Result<(), DriverError> {
        let found: BTreeMap<String, ObservedSet> = found
            .into_iter()
            .map(|set| (set.header.name.clone(), set))
            .collect();
        let mut operations = Vec::new();
        for name in &self.dirty {
            let Some(set) = self.desired.get(name) else {
                continue;
            };
            let before = operations.len();
            match found.get(name) {
                None => set.fill(&mut operations, name),
                Some(found) if set.fits(&found.header) && found.strange == 0 => {
                    set.differences(&mut operations, name, found);
                }
                Some(found) => {
                    applied.mended += usize::from(self.is_settled);
                    self.replace(ipsets, name, set, found)?;
                }
            }
            applied.mended += usize::from(self.is_settled && operations.len() > before);
        }
        applied.set_operations += operations.len();
        first_of(ipsets.try_each(&operations)?)?;
        self.dirty.clear();
        Ok(())
    }

    /// Puts a set in the place of one that does not fit: filled under another name and exchanged, so that rules that name
    /// it miss nothing. The kernel exchanges only sets of one type; one of another can go only while no rule names it.
    fn replace(
        &self,
        ipsets: &mut Ipsets,
        name: &str,
        set: &DesiredSet,
        found: &ObservedSet,
    ) -> Result<(), DriverError> {
        let temporary = temporary_name(set.spec.family);
        let mut operations = vec![SetOp::Destroy(temporary.clone())];
        set.fill(&mut operations, &temporary);
        let mut problems = ipsets.try_each(&operations)?;
        problems.retain(|problem| !(problem.is_absent() && problem.set == temporary));
        first_of(problems)?;
        let swap = [SetOp::Swap(temporary.clone(), name.to_owned())];
        let problems = ipsets.try_each(&swap)?;
        let removal = [SetOp::Destroy(temporary)];
        if problems.iter().any(SetProblem::is_of_another_type) {
            first_of(ipsets.try_each(&removal)?)?;
            if found.header.references > 0 {
                return Err(DriverError::SetInTheWay {
                    name: name.to_owned(),
                    references: found.header.references,
                });
            }
            let mut operations = vec![SetOp::Destroy(name.to_owned())];
            set.fill(&mut operations, name);
            return first_of(ipsets.try_each(&operations)?);
        }
        first_of(problems)?;
        first_of(ipsets.try_each(&removal)?)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Add,
    Remove,
}

impl DesiredSet {
    /// What the kernel should hold.
    fn wanted(&self) -> impl Iterator<Item = Member> + '_ {
        let halves = self.split.iter().flat_map(kernel_forms).flatten();
        let extra = halves.filter(|half| !self.members.contains(half));
        self.members.iter().cloned().chain(extra)
    }

    fn fits(&self, header: &SetHeader) -> bool {
        let SetSpec {
            name: _,
            family,
            kind,
            max_elements,
            with_timeout,
        } = &self.spec;
        header.kind == Some(*kind)
            && header.family == Some(*family)
            && header.max_elements == *max_elements
            && header.with_timeout == *with_timeout
            && header.is_plain
    }

    /// Makes it from nothing.
    fn fill(&self, operations: &mut Vec<SetOp>, name: &str) {
        operations.push(SetOp::Create(SetSpec {
            name: name.to_owned(),
            ..self.spec.clone()
        }));
        let members: Vec<Member> = self.wanted().collect();
        if !members.is_empty() {
            operations.push(SetOp::Add(name.to_owned(), members));
        }
    }

    /// Brings what was found to it. What is too much goes first: there may be no room before.
    fn differences(&self, operations: &mut Vec<SetOp>, name: &str, found: &ObservedSet) {
        let wanted: FxHashSet<Member> = self.wanted().collect();
        let present: FxHashSet<Member> = found.members.iter().cloned().collect();
        let extra: Vec<Member> = present.difference(&wanted).cloned().collect();
        let lacking: Vec<Member> = wanted.difference(&present).cloned().collect();
        if !extra.is_empty() {
            operations.push(SetOp::Remove(name.to_owned(), extra));
        }
        if !lacking.is_empty() {
            operations.push(SetOp::Add(name.to_owned(), lacking));
        }
    }
}

/// The sets that an operation names.
fn names(operation: &SetOp) -> Vec<&str> {
    match operation {
        SetOp::Swap(one, other) => vec![one, other],
        _ => vec![operation.set()],
    }
}

/// The name under which a set is filled to be exchanged.
fn temporary_name(family: Family) -> String {
    let name = match family {
        Family::Inet => "cali4t-mend",
        Family::Inet6 => "cali6t-mend",
    };
    debug_assert!(is_temporary_set(name), "it must be found after a crash");
    name.to_owned()
}

fn first_of(problems: Vec<SetProblem>) -> Result<(), DriverError> {
    let mut problems = problems.into_iter();
    match problems.next() {
        None => Ok(()),
        Some(first) => Err(DriverError::Sets(crate::ipset::IpsetError::Refused {
            first: Box::new(first),
            more: problems.count(),
        })),
    }
}
