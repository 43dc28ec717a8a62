//! Numbers of rows: one for each row that is treated alike, never given another meaning.

use super::{Pass, Plan, Planner, Retired, push};
use crate::layout::names::{self, ALLOW, DENY, END_OF_ROWS, FIRST_ROW};
use crate::layout::ops::Op;
use crate::layout::row::{LoweredRow, lower};
use crate::wire::{Element, Value, Verdict as Nft};
use dataplane_tables::{ClassId, GroupId, RowRef, Tables, Verdict};
use std::rc::Rc;

impl Planner {
    /// Gives every row that may be written in this pass its number.
    pub(super) fn number_rows(&mut self, pass: &Pass<'_>) {
        if self.codes.len() > 2 * self.codes_kept + 64 {
            self.codes.retain(|_, (row, _)| row.strong_count() > 0);
            self.codes_kept = self.codes.len();
        }
        let (tables, changes) = (pass.tables, pass.changes);
        let whole: Vec<GroupId> = if pass.all {
            tables.groups().map(|(id, _)| id).collect()
        } else {
            changes
                .new_groups
                .iter()
                .chain(&changes.changed_defaults)
                .copied()
                .collect()
        };
        self.number_rows_of(tables, whole);
        for row in changes
            .changed_rows
            .iter()
            .filter_map(|(group, class)| tables.row(*group, *class))
        {
            self.number_row(row);
        }
        if !changes.addresses.new_classes.is_empty() {
            for (_, view) in tables.groups() {
                let new = changes
                    .addresses
                    .new_classes
                    .iter()
                    .filter_map(|c| view.rows.get(c));
                new.for_each(|row| self.number_row(row));
            }
        }
    }

    /// Gives all rows of some groups their numbers.
    pub(super) fn number_rows_of(&mut self, tables: &Tables, groups: impl IntoIterator<Item = GroupId>) {
        for view in groups.into_iter().filter_map(|id| tables.group(id)) {
            self.number_row(view.default);
            view.rows.values().for_each(|row| self.number_row(row));
        }
    }

    fn number_row(&mut self, row: &RowRef) {
        let key = Rc::as_ptr(row);
        if self
            .codes
            .get(&key)
            .is_some_and(|(row, code)| row.strong_count() > 0 && self.is_known(*code))
        {
            return;
        }
        let code = match lower(row) {
            Err(Verdict::Allow) => ALLOW,
            Err(Verdict::Deny) => DENY,
            Ok(lowered) => match self.row_numbers.get(&lowered) {
                Some(number) => *number,
                None => {
                    let number = self.fresh_row();
                    self.row_content.insert(number, Rc::new(lowered.clone()));
                    self.row_numbers.insert(lowered, number);
                    // Should no entry need it after all, it is forgotten again.
                    self.rows_unused.push(number);
                    number
                }
            },
        };
        self.codes.insert(key, (Rc::downgrade(row), code));
    }

    fn is_known(&self, code: u32) -> bool {
        !is_row(code) || self.row_content.contains_key(&code)
    }

    fn fresh_row(&mut self) -> u32 {
        loop {
            let number = if self.next_row < END_OF_ROWS {
                self.next_row
            } else {
                FIRST_ROW
            };
            // 268 million rows later the numbers begin anew; one that is still in use is passed over.
            self.next_row = number + 1;
            if !self.row_content.contains_key(&number) && !self.state.rows.contains_key(&number) {
                return number;
            }
        }
    }

    /// The row or result of a row.
    pub(super) fn code(&self, row: &RowRef) -> u32 {
        // Every row of a live group was numbered before; what was not is denied.
        self.codes.get(&Rc::as_ptr(row)).map_or(DENY, |(_, code)| *code)
    }

    /// What a group does with a class.
    pub(super) fn code_of(&self, tables: &Tables, group: GroupId, class: ClassId) -> u32 {
        tables.row(group, class).map_or(DENY, |row| self.code(row))
    }

    /// What a group does with what nothing is said of.
    pub(super) fn default_of(&self, tables: &Tables, group: GroupId) -> u32 {
        tables.group(group).map_or(DENY, |view| self.code(view.default))
    }

    /// Writes a row's own elements and chain, if the table does not have them.
    pub(super) fn need_row(&mut self, code: u32, plan: &mut Plan) {
        if !is_row(code) {
            return;
        }
        let uses = self.row_uses.entry(code).or_default();
        *uses += 1;
        if self.state.rows.contains_key(&code) {
            return;
        }
        let Some(lowered) = self.row_content.get(&code).cloned() else {
            return;
        };
        plan.prepare.extend(row_ops(code, &lowered));
        self.insert_row(code, lowered.as_ref().clone());
    }

    /// Notes a row that the table has from now on.
    pub(super) fn insert_row(&mut self, code: u32, lowered: LoweredRow) {
        let [chains, rules] = chain_size(&lowered);
        if self.state.rows.insert(code, lowered).is_none() {
            self.row_chains[0] += chains;
            self.row_chains[1] += rules;
        }
    }

    pub(super) fn release_row(&mut self, code: u32) {
        if let Some(uses) = self.row_uses.get_mut(&code) {
            *uses = uses.saturating_sub(1);
            if *uses == 0 {
                self.rows_unused.push(code);
            }
        }
    }

    /// Whether no entry leads to a row.
    pub(super) fn is_unused(&self, code: u32) -> bool {
        self.row_uses.get(&code).is_none_or(|uses| *uses == 0)
    }

    /// Lets rows go that have fallen out of use.
    pub(super) fn retire_rows(&mut self, now: u64) {
        let mut unused = std::mem::take(&mut self.rows_unused);
        unused.sort_unstable();
        unused.dedup();
        for code in unused {
            if !self.is_unused(code) {
                continue;
            }
            // Should it be used and fall out of use again before its time, its time begins anew.
            for waiting in self.retired.values_mut() {
                waiting.retain(|what| *what != Retired::Row(code));
            }
            self.retire_later(Retired::Row(code), now);
        }
    }

    /// Removes a row whose time has come.
    pub(super) fn retire_row(&mut self, code: u32, ops: &mut Vec<Op>) {
        // It may have come into use again while it waited.
        if !self.is_unused(code) {
            return;
        }
        self.row_uses.remove(&code);
        if let Some(lowered) = self.row_content.remove(&code) {
            self.row_numbers.remove(lowered.as_ref());
        }
        let Some(lowered) = self.state.rows.remove(&code) else {
            return;
        };
        for (total, of_row) in self.row_chains.iter_mut().zip(chain_size(&lowered)) {
            *total = total.saturating_sub(of_row);
        }
        let (ports, protos, chain) = row_elements(code, &lowered);
        push(ops, names::PORTS, ports, false);
        push(ops, names::PROTOS, protos, false);
        if chain {
            push(ops, names::ROWS, vec![Element::value(Value::host32(code))], false);
            ops.push(Op::RemoveChain(names::row_chain(code)));
        }
    }
}

pub(super) fn is_row(code: u32) -> bool {
    (FIRST_ROW..END_OF_ROWS).contains(&code)
}

/// How many chains and rules a row has of its own.
fn chain_size(row: &LoweredRow) -> [usize; 2] {
    if row.rules.is_empty() {
        [0, 0]
    } else {
        [1, row.rules.len()]
    }
}

/// A row's elements of `ports` and `protos`, and whether it has a chain.
pub(crate) fn row_elements(code: u32, row: &LoweredRow) -> (Vec<Element>, Vec<Element>, bool) {
    let result = |allows: bool| Value::host32(if allows { ALLOW } else { DENY });
    let key = |protocol: u8| Value::host32(code).and(Value::byte(protocol));
    let port =
        |(p, d, allows): &(u8, u16, bool)| Element::value(key(*p).and(Value::port(*d))).to(result(*allows));
    let proto = |(p, allows): &(u8, bool)| Element::value(key(*p)).to(result(*allows));
    (
        row.ports.iter().map(port).collect(),
        row.protos.iter().map(proto).collect(),
        !row.rules.is_empty(),
    )
}

fn row_ops(code: u32, row: &LoweredRow) -> Vec<Op> {
    let (ports, protos, chain) = row_elements(code, row);
    let mut ops = Vec::new();
    push(&mut ops, names::PORTS, ports, true);
    push(&mut ops, names::PROTOS, protos, true);
    if chain {
        let name = names::row_chain(code);
        ops.push(Op::AddChain(name.clone(), row.chain()));
        let element = Element::value(Value::host32(code)).verdict(Nft::Jump(name.into()));
        push(&mut ops, names::ROWS, vec![element], true);
    }
    ops
}
