//! How a life begins: a table is made, taken over from an earlier life, or made anew in one moment.

use super::{Applied, Driver, DriverError, SWEEP_AFTER};
use crate::adopt::adopt;
use crate::contents::contents;
use crate::layout::names::{TABLE, TABLE_COMMENT};
use crate::layout::skeleton::{BASE_CHAINS, FIXED_SETS, base_rules, regular_chains, write_base_chains};
use crate::layout::{Op, Planner, SetSpec};
use crate::observe::{Observed, observe};
use crate::socket::TransactError;
use crate::wire::{Batch, Chain, Family, Rule, Table, TableFlags};
use dataplane_tables::Tables;

impl Driver {
    pub(super) fn start(&mut self, tables: &Tables, now: u64) -> Result<Applied, DriverError> {
        let mut applied = Applied::default();
        // While a quarter of a million elements are loaded, nobody should be told of each.
        self.monitor.pause().map_err(DriverError::Monitor)?;
        let result = self.start_quietly(tables, now, &mut applied);
        self.monitor.resume().map_err(DriverError::Monitor)?;
        result.map(|()| applied)
    }

    fn start_quietly(&mut self, tables: &Tables, now: u64, applied: &mut Applied) -> Result<(), DriverError> {
        let tunnels = self.planner.wanted_tunnels();
        let confined = self.planner.wanted_confined().clone();
        self.planner = Planner::new(self.settings.layout.clone());
        self.planner.want_tunnels(tunnels);
        self.planner.want_confined(confined);
        self.planner.size_for(tables);
        self.planner.begin_ways(tables);
        if let Some(table) = self.find_table()? {
            self.claim(&table.0, table.1)?;
            // A table cannot become owned that was not made so: the setting was off, or the kernel older, in that life.
            let to_own = self.settings.owned && !self.owned && self.owned_tables_exist();
            self.owned |= to_own;
            if !to_own
                && let Some(observed) = observe(&mut self.link).map_err(DriverError::Read)?
                && takes_over(&observed)
            {
                return self.take_over(&observed, tables, now, applied);
            }
            // Not ours to understand, or torn: made anew in one transaction, so that the old one holds until then.
            let plan = self.planner.plan_first(tables, now);
            drop(plan);
            return self.rebuild(tables, true, applied);
        }
        self.create(tables, now, applied)
    }

    pub(super) fn find_table(&mut self) -> Result<Option<(TableFlags, Option<u32>)>, DriverError> {
        let tables = self.link.tables(Family::Inet).map_err(DriverError::Read)?;
        Ok(tables
            .into_iter()
            .find(|t| t.name == TABLE)
            .map(|t| (t.flags, t.owner)))
    }

    /// Whether the kernel has tables that are owned and persist; asked with a table that is gone at once.
    fn owned_tables_exist(&mut self) -> bool {
        const TRIAL: &str = "manx-trial";
        let mut batch = Batch::new(Family::Inet);
        batch.table(&Table {
            name: TRIAL,
            flags: TableFlags::OWNER.and(TableFlags::PERSIST),
            comment: None,
        });
        batch.remove_table(TRIAL);
        self.link.transact(&mut batch).is_ok()
    }

    /// Becomes the owner of a table that an earlier life left behind.
    ///
    /// With its owner's socket a table loses the owner and keeps that it persists, and then anybody may claim it. One
    /// that still has an owner belongs to a life that has not ended.
    pub(super) fn claim(&mut self, flags: &TableFlags, owner: Option<u32>) -> Result<(), DriverError> {
        let orphan = flags.has(TableFlags::PERSIST) && self.settings.owned;
        if !flags.has(TableFlags::OWNER) && !orphan {
            return Ok(());
        }
        let mut batch = Batch::new(Family::Inet);
        batch.table(&table_of(TableFlags::OWNER.and(TableFlags::PERSIST)));
        match self.link.transact(&mut batch) {
            Ok(_) => {
                self.owned = true;
                Ok(())
            }
            Err(TransactError::Refused { .. }) => Err(DriverError::OwnedByAnother { port: owner }),
            Err(source) => Err(DriverError::Write {
                phase: "claim",
                object: TABLE.to_string(),
                source,
            }),
        }
    }

    fn take_over(
        &mut self,
        observed: &Observed,
        tables: &Tables,
        now: u64,
        applied: &mut Applied,
    ) -> Result<(), DriverError> {
        let moves = adopt(&mut self.planner, observed, tables, now);
        let plan = self.planner.plan_adopted(tables, moves, now);
        // From here on the comparison with what the planner believes is exact but for leftovers, which a resync after
        // the grace time removes.
        self.suspect = true;
        self.commit("prepare", &plan.prepare, applied)?;
        self.commit("switch", &plan.switch, applied)?;
        self.settle_chains(observed, applied)?;
        self.sweep_at = Some(now + SWEEP_AFTER);
        self.suspect = false;
        Ok(())
    }

    /// Settings may have changed since the chains were written.
    fn settle_chains(&mut self, observed: &Observed, applied: &mut Applied) -> Result<(), DriverError> {
        let mut batch = Batch::new(Family::Inet);
        let none: Vec<Vec<crate::wire::Expr>> = Vec::new();
        let (state, settings) = (self.planner.state(), self.planner.settings());
        let base = BASE_CHAINS.map(|(n, _, _)| (n, base_rules(n, state, settings)));
        let regular = regular_chains(state, settings);
        // Regular ones first: an earlier version may lack one that base chains jump to.
        for (name, rules) in regular.into_iter().chain(base) {
            // The base chains are there: without them there was nothing to take over.
            let lacks = !observed.chains.contains_key(name);
            if lacks || observed.rules.get(name).unwrap_or(&none) != &rules {
                if lacks {
                    batch.chain(&Chain::regular(TABLE, name));
                }
                batch.flush_chain(TABLE, name);
                for rule in &rules {
                    batch.rule(&Rule::new(TABLE, name, rule));
                }
            }
        }
        self.send("settings", batch, |_| None, applied)
    }

    fn create(&mut self, tables: &Tables, now: u64, applied: &mut Applied) -> Result<(), DriverError> {
        self.create_table()?;
        // No hook yet: what is built sees no packet until it is whole.
        let mut batch = Batch::new(Family::Inet);
        self.write_skeleton(&mut batch);
        self.send("create", batch, |_| None, applied)?;
        let plan = self.planner.plan_first(tables, now);
        self.commit("prepare", &plan.prepare, applied)?;
        self.commit("switch", &plan.switch, applied)?;
        let mut batch = Batch::new(Family::Inet);
        write_base_chains(&mut batch, self.planner.state(), self.planner.settings());
        self.send("hook", batch, |_| None, applied)
    }

    /// Makes the table, owned where that is wanted and the kernel has it.
    fn create_table(&mut self) -> Result<(), DriverError> {
        if self.settings.owned {
            let mut batch = Batch::new(Family::Inet);
            batch.table(&table_of(TableFlags::OWNER.and(TableFlags::PERSIST)));
            if self.link.transact(&mut batch).is_ok() {
                self.owned = true;
                return Ok(());
            }
            // Before Linux 6.9 the kernel refuses the flags; the table is then open to others, and watched.
        }
        let mut batch = Batch::new(Family::Inet);
        batch.table(&table_of(TableFlags::NONE));
        self.owned = false;
        self.send("create", batch, |_| None, &mut Applied::default())
    }

    fn write_skeleton(&self, batch: &mut Batch) {
        for (name, size) in FIXED_SETS {
            Op::AddSet(SetSpec {
                name: name.to_string(),
                size,
            })
            .write(batch);
        }
        for spec in self.planner.address_sets() {
            Op::AddSet(spec).write(batch);
        }
        for (name, rules) in regular_chains(self.planner.state(), self.planner.settings()) {
            Op::AddChain(name.to_string(), rules).write(batch);
        }
    }

    /// Makes the whole table anew in one transaction: packets meet either the old or the new one.
    pub(super) fn rebuild(
        &mut self,
        tables: &Tables,
        exists: bool,
        applied: &mut Applied,
    ) -> Result<(), DriverError> {
        let wanted = contents(&self.planner, tables);
        let mut batch = Batch::new(Family::Inet);
        if exists {
            batch.remove_table(TABLE);
        }
        let flags = if self.owned {
            TableFlags::OWNER.and(TableFlags::PERSIST)
        } else {
            TableFlags::NONE
        };
        batch.table(&table_of(flags));
        let sets = wanted.sets.values();
        let mut ops: Vec<Op> = sets.clone().map(|(spec, _)| Op::AddSet(spec.clone())).collect();
        // Rows and groups before the chains that only look their sets up; jumps come with the elements, last.
        ops.extend(
            wanted
                .chains
                .iter()
                .map(|(name, rules)| Op::AddChain(name.clone(), rules.clone())),
        );
        ops.extend(
            sets.filter(|(_, e)| !e.is_empty())
                .map(|(s, e)| Op::AddElements(s.name.clone(), e.clone())),
        );
        let labels: Vec<String> = ops.iter().map(|op| op.object().to_string()).collect();
        for (n, op) in ops.iter().enumerate() {
            op.write(batch.at(n));
        }
        write_base_chains(&mut batch, self.planner.state(), self.planner.settings());
        self.send("rebuild", batch, |n| labels.get(n).cloned(), applied)
    }
}

fn table_of(flags: TableFlags) -> Table<'static> {
    Table {
        name: TABLE,
        flags,
        comment: Some(TABLE_COMMENT),
    }
}

/// Whether a table is one of this layout, whole enough to be taken over.
fn takes_over(observed: &Observed) -> bool {
    let layout = observed.table.comment.as_deref() == Some(TABLE_COMMENT);
    let sets = FIXED_SETS
        .iter()
        .all(|(name, _)| observed.sets.contains_key(*name));
    let chains = crate::layout::skeleton::BASE_CHAINS
        .iter()
        .all(|(name, hook, _)| {
            observed
                .chains
                .get(*name)
                .and_then(|c| c.base.as_ref())
                .is_some_and(|b| b.hook == *hook)
        });
    let shapes = observed.sets.iter().all(|(name, (set, _))| {
        crate::layout::names::shape(name).is_some_and(|(key, data, intervals)| {
            set.key.as_ref() == Some(&key) && set.data.as_ref() == Some(&data) && set.intervals == intervals
        })
    });
    layout && sets && chains && shapes && !observed.table.flags.has(TableFlags::DORMANT)
}
