//! The tables: what is wanted in each, what of it is written, and whether the kernel's have to be read first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::ops::{Family, Table, TableWrite};
use crate::ours::compare::{Learned, TablePlan, compare};
use crate::ours::desired::DesiredTable;
use crate::ours::render::{render, render_closed};
use crate::ours::save::{self, SavedTable};
use crate::ours::{is_our_chain, text};
use crate::programs::Toolset;
use crate::watch::Disturbed;

use super::{Applied, DriverError, FIRST_DELAY, LONGEST_DELAY, TRIES, persistently};

/// How often a table is written, successfully, before it is told that it does not become as it should be.
const ROUNDS: u32 = 4;

/// Up to how many tables are read one by one.
const FEW: usize = 2;

/// All tables of all families in use.
#[derive(Debug)]
pub(super) struct Tables(BTreeMap<(Family, Table), State>);

#[derive(Debug)]
struct State {
    desired: DesiredTable,
    learned: Learned,
    /// Chains that are to be written.
    written: BTreeSet<String>,
    /// Chains that are to go.
    gone: BTreeSet<String>,
    /// Chains that were written since the last reading, so that it shows how the program prints them.
    fresh: BTreeSet<String>,
    /// Whether the kernel's table has to be read before it is written.
    is_suspect: bool,
    /// Whether it was once as it should be, so that what differs later is drift.
    is_settled: bool,
    /// Whether it is known to be there, so that asking for it does not make it.
    is_there: bool,
}

impl Tables {
    pub(super) fn new(families: impl Iterator<Item = Family>) -> Self {
        let state = || State {
            desired: DesiredTable::default(),
            learned: Learned::default(),
            written: BTreeSet::new(),
            gone: BTreeSet::new(),
            fresh: BTreeSet::new(),
            is_suspect: true,
            is_settled: false,
            is_there: false,
        };
        let keys = families.flat_map(|family| Table::ALL.map(|table| (family, table)));
        Self(keys.map(|key| (key, state())).collect())
    }

    pub(super) fn take(&mut self, write: &TableWrite) {
        // A family that is switched off has no rules.
        let Some(state) = self.0.get_mut(&(write.family, write.table)) else {
            return;
        };
        let changed = state.desired.take(write);
        for name in changed.written {
            state.gone.remove(&name);
            state.written.insert(name);
        }
        for name in changed.gone {
            state.written.remove(&name);
            state.gone.insert(name);
        }
        // Ours in the kernel's chains are replaced by their texts, which only the kernel knows.
        state.is_suspect |= changed.inserts;
    }

    pub(super) fn suspect(&mut self, disturbed: &Disturbed) {
        for (key, state) in &mut self.0 {
            state.is_suspect |= match disturbed {
                Disturbed::All => true,
                Disturbed::Tables(tables) => tables.contains(key),
            };
        }
    }

    /// Has those tables read that were written since they were read last.
    pub(super) fn suspect_fresh(&mut self) {
        for state in self.0.values_mut() {
            state.is_suspect |= !state.fresh.is_empty();
        }
    }

    pub(super) fn wanted(&self) -> (usize, usize) {
        let count = |(chains, rules), (_, _, more, further)| (chains + more, rules + further);
        self.wanted_by_table().fold((0, 0), count)
    }

    /// How many chains and rules of ours should be in each table.
    pub(super) fn wanted_by_table(&self) -> impl Iterator<Item = (Family, Table, usize, usize)> + '_ {
        self.0.iter().map(|(&(family, table), state)| {
            let desired = &state.desired;
            (family, table, desired.chains().len(), desired.rules())
        })
    }

    /// Writes what differs. A table that fails does not keep the others from being written.
    pub(super) fn apply(
        &mut self,
        tools: &Toolset,
        own: &mut Vec<u32>,
        applied: &mut Applied,
        failures: &mut Vec<DriverError>,
    ) {
        for (&(family, table), state) in &mut self.0 {
            if state.is_suspect || (state.written.is_empty() && state.gone.is_empty()) {
                continue;
            }
            // What is wanted and believed suffices. Where it does not, the table is read below.
            let plan = TablePlan {
                rewrite: state.written.clone(),
                delete: state.gone.clone(),
                ..TablePlan::default()
            };
            if let Err(error) = state.write(tools, family, table, &plan, own, applied) {
                state.is_suspect = true;
                if !error.is_passing() {
                    // The lock or the programs: they are the same for all tables, and each try may take its whole time.
                    return failures.push(error);
                }
            }
        }
        for family in tools.families() {
            if let Err(error) = self.settle(tools, family, own, applied, failures) {
                let is_over = !error.is_passing();
                failures.push(error);
                if is_over {
                    return;
                }
            }
        }
    }

    /// Reads the suspect tables of a family and writes what differs, until nothing does. Each table is read again after a
    /// write, whether it succeeded or not: somebody else may have been faster, and what a program prints has to be learned.
    ///
    /// # Errors
    /// What is the same for all tables: a program that lacks or hangs, or the lock. `failures` gets what concerns one.
    fn settle(
        &mut self,
        tools: &Toolset,
        family: Family,
        own: &mut Vec<u32>,
        applied: &mut Applied,
        failures: &mut Vec<DriverError>,
    ) -> Result<(), DriverError> {
        let mut failed: BTreeMap<Table, DriverError> = BTreeMap::new();
        let mut delay = FIRST_DELAY;
        for round in 0..TRIES {
            let suspects: Vec<Table> = self.suspects(family).collect();
            // A table that was written as often and is never found so is somebody else's too: no use in going on at once.
            if suspects.is_empty() || (round >= ROUNDS && failed.is_empty()) {
                break;
            }
            if suspects.iter().any(|table| failed.contains_key(table)) {
                std::thread::sleep(delay);
                delay = (delay * 2).min(LONGEST_DELAY);
            }
            let by_name = self.by_name(family, &suspects);
            let saved = persistently(|| read(tools, family, by_name, applied))?;
            for table in suspects {
                let Some(state) = self.0.get_mut(&(family, table)) else {
                    continue;
                };
                let found = saved.iter().find(|found| found.name == table.name());
                let plan = state.compare(found, round == 0, applied);
                failed.remove(&table);
                if let Err(error) = state.write(tools, family, table, &plan, own, applied) {
                    if !error.is_passing() {
                        return Err(error);
                    }
                    tracing::debug!(%error, "a table was not written");
                    failed.insert(table, error);
                }
            }
        }
        for table in self.suspects(family).collect::<Vec<_>>() {
            failures.push(failed.remove(&table).unwrap_or(DriverError::Unsettled {
                family,
                table,
                rounds: ROUNDS,
            }));
        }
        Ok(())
    }

    /// Has no chain of ours name this set: such chains drop everything (of the table nat: do nothing) until the next
    /// [`Tables::apply`], which writes them as they should be. For a set of a wrong type, which goes only while no rule
    /// names it; that rules of ours name one happens after a change of version at most, so closing for a moment is no loss.
    pub(super) fn close(
        &mut self,
        tools: &Toolset,
        set: &str,
        own: &mut Vec<u32>,
        applied: &mut Applied,
    ) -> Result<(), DriverError> {
        let speaks_of = |rule: &save::SavedRule| text::words(&rule.text).any(|word| word == set);
        for family in tools.families() {
            for found in persistently(|| read(tools, family, &[], applied))? {
                let Some(table) = Table::ALL.into_iter().find(|table| table.name() == found.name) else {
                    continue;
                };
                let ours = found.chains.iter().filter(|chain| is_our_chain(&chain.name));
                let speaking: Vec<&str> = ours
                    .filter(|chain| chain.rules.iter().any(speaks_of))
                    .map(|chain| chain.name.as_str())
                    .collect();
                let Some(state) = self.0.get_mut(&(family, table)) else {
                    continue;
                };
                if speaking.is_empty() {
                    continue;
                }
                state.is_suspect = true;
                let lines = render_closed(table, &speaking);
                applied.restores += 1;
                own.push(tools.restore(family, table, &lines)?);
            }
        }
        Ok(())
    }

    /// Which tables to ask for by name: others may have many more rules in the rest, but only those that are there.
    fn by_name<'a>(&self, family: Family, suspects: &'a [Table]) -> &'a [Table] {
        let is_there = |table: &Table| self.0.get(&(family, *table)).is_some_and(|state| state.is_there);
        if suspects.len() <= FEW && suspects.iter().all(is_there) {
            suspects
        } else {
            &[]
        }
    }

    fn suspects(&self, family: Family) -> impl Iterator<Item = Table> + '_ {
        let of_family = self.0.iter().filter(move |((of, _), _)| *of == family);
        of_family
            .filter(|(_, state)| state.is_suspect)
            .map(|((_, table), _)| *table)
    }
}

impl State {
    /// Compares with what was read. What has to be written stays suspect, until a reading shows it.
    fn compare(&mut self, found: Option<&SavedTable>, first_round: bool, applied: &mut Applied) -> TablePlan {
        let none = SavedTable::default();
        self.is_there = found.is_some();
        let found = found.unwrap_or(&none);
        self.learned.learn(&self.desired, found, &self.fresh);
        self.learned.retain(&self.desired);
        self.fresh.clear();
        let plan = compare(&self.desired, found, &self.learned);
        if plan.is_empty() {
            self.written.clear();
            self.gone.clear();
            self.is_suspect = false;
            self.is_settled = true;
        } else if self.is_settled && first_round {
            let asked = |name: &&String| self.written.contains(*name) || self.gone.contains(*name);
            let named = plan.rewrite.iter().chain(&plan.delete).chain(&plan.empty);
            applied.mended += plan.differences() - named.filter(asked).count();
            applied.tampered += plan.tampered;
        }
        plan
    }

    fn write(
        &mut self,
        tools: &Toolset,
        family: Family,
        table: Table,
        plan: &TablePlan,
        own: &mut Vec<u32>,
        applied: &mut Applied,
    ) -> Result<(), DriverError> {
        let Some(lines) = render(table, plan, &self.desired) else {
            return Ok(());
        };
        applied.restores += 1;
        applied.lines += lines.lines().count();
        let begun = Instant::now();
        let written = tools.restore(family, table, &lines);
        applied.restore_time += begun.elapsed();
        applied.restore_errors += usize::from(written.is_err());
        own.push(written?);
        self.fresh
            .extend(plan.rewrite.iter().chain(&plan.insert).cloned());
        self.written.clear();
        self.gone.clear();
        Ok(())
    }
}

/// Reads these tables, which are there; or all that are, where none is named: naming one that is not would make it.
pub(super) fn read(
    tools: &Toolset,
    family: Family,
    tables: &[Table],
    applied: &mut Applied,
) -> Result<Vec<SavedTable>, DriverError> {
    let mut all = Vec::new();
    let mut read = |table: Option<Table>| {
        applied.saves += 1;
        let output = tools
            .save(family, table)
            .inspect_err(|_| applied.save_errors += 1)?;
        all.extend(save::parse(&output).map_err(|source| DriverError::Save { family, source })?);
        Ok::<(), DriverError>(())
    };
    if tables.is_empty() {
        read(None)?;
    }
    for &table in tables {
        read(Some(table))?;
    }
    Ok(all)
}
