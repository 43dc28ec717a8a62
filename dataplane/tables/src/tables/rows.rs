//! What each group does with each class of peers, kept up to date.

use super::{Changes, GroupId, RowRef, Tables};
use crate::address::ClassId;
use crate::row::Row;
use policy_model_rules::IpVersion;
use rustc_hash::FxHashSet;
use std::rc::Rc;

impl Tables {
    /// Computes the rows of new classes, and all rows of groups that are new or have other rules.
    pub(super) fn update_rows(&mut self, rebuilt: FxHashSet<GroupId>, changes: &mut Changes) {
        let new_groups: FxHashSet<GroupId> = changes.new_groups.iter().copied().collect();
        let new_classes = &changes.addresses.new_classes;
        let gone_classes = &changes.addresses.gone_classes;
        let mut whole: Vec<GroupId> = rebuilt.into_iter().chain(new_groups.iter().copied()).collect();
        whole.sort_unstable();
        whole.dedup();
        if !gone_classes.is_empty() {
            for group in self.groups.values_mut() {
                for class in gone_classes {
                    group.rows.remove(class);
                }
            }
        }
        for id in &whole {
            let Some(group) = self.groups.get_mut(id) else {
                continue;
            };
            let before = group.world[0].clone();
            for (n, version) in [IpVersion::V4, IpVersion::V6].into_iter().enumerate() {
                let rows = &mut self.rows;
                group.world[n] = group
                    .rules
                    .row(&mut self.chains, version, &[], |row| intern(rows, row));
            }
            let rows_before = std::mem::take(&mut group.rows);
            // What no rule asks about has the row of the world, of which there is no entry as long as both families'
            // worlds are alike.
            let classes = if Rc::ptr_eq(&group.world[0], &group.world[1]) {
                self.peers.classes_with(group.rules.asked(&self.chains))
            } else {
                self.peers.classes().collect()
            };
            for class in classes {
                let (version, content) = (self.peers.version(class), self.peers.class(class));
                let rows = &mut self.rows;
                let row = group
                    .rules
                    .row(&mut self.chains, version, &content, |row| intern(rows, row));
                if !Rc::ptr_eq(&row, &group.world[0]) {
                    group.rows.insert(class, row);
                }
            }
            if new_groups.contains(id) {
                continue;
            }
            if !Rc::ptr_eq(&before, &group.world[0]) {
                changes.changed_defaults.push(*id);
                continue;
            }
            let fresh = |class: &ClassId| new_classes.binary_search(class).is_ok();
            let mut changed: Vec<ClassId> = Vec::new();
            for (class, row) in &group.rows {
                if !fresh(class) && rows_before.get(class).is_none_or(|b| !Rc::ptr_eq(b, row)) {
                    changed.push(*class);
                }
            }
            changed.extend(rows_before.keys().filter(|c| !group.rows.contains_key(c)));
            changed.sort_unstable();
            changes.changed_rows.extend(changed.into_iter().map(|c| (*id, c)));
        }
        if new_classes.is_empty() {
            return;
        }
        let described = |class: &ClassId| (*class, self.peers.version(*class), self.peers.class(*class));
        let new_classes: Vec<_> = new_classes.iter().map(described).collect();
        for (id, group) in &mut self.groups {
            if whole.binary_search(id).is_ok() {
                continue;
            }
            let worlds_are_alike = Rc::ptr_eq(&group.world[0], &group.world[1]);
            for (class, version, content) in &new_classes {
                if worlds_are_alike && !group.rules.asks_any(&self.chains, content) {
                    continue;
                }
                let rows = &mut self.rows;
                let row = group
                    .rules
                    .row(&mut self.chains, *version, content, |row| intern(rows, row));
                if !Rc::ptr_eq(&row, &group.world[0]) {
                    group.rows.insert(*class, row);
                }
            }
        }
    }

    /// Rows that only this table holds go, once they have become as many as those that are in use.
    pub(super) fn drop_unused_rows(&mut self) {
        if self.rows.len() > 2 * self.rows_kept + 64 {
            // The groups' own caches hold rows too; they go with the group or with its next rebuild.
            self.rows.retain(|r| Rc::strong_count(r) > 1);
            self.rows_kept = self.rows.len();
        }
    }
}

fn intern(rows: &mut FxHashSet<RowRef>, row: Row) -> RowRef {
    match rows.get(&row) {
        Some(same) => same.clone(),
        None => {
            let row = Rc::new(row);
            rows.insert(row.clone());
            row
        }
    }
}
