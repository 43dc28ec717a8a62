//! Lists that many things have in common, each kept once.
//!
//! Thousands of pods of a namespace name the same two profiles and declare the same ports: four bytes each.

use crate::table::Table;
use hashbrown::HashMap;
use std::hash::Hash;
use std::sync::Arc;

/// Number of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ListId(u32);

impl ListId {
    /// The list of nothing, which is always there.
    pub(crate) const EMPTY: ListId = ListId(u32::MAX);
}

struct Shared<T> {
    list: Arc<[T]>,
    holders: usize,
}

/// Lists by number, counted by their holders.
pub(crate) struct SharedLists<T> {
    lists: Table<Shared<T>>,
    numbers: HashMap<Arc<[T]>, u32>,
}

impl<T> Default for SharedLists<T> {
    fn default() -> Self {
        SharedLists {
            lists: Table::default(),
            numbers: HashMap::new(),
        }
    }
}

impl<T: Eq + Hash + Clone> SharedLists<T> {
    /// The number of a list, and whether nobody held it before. Each call makes one more holder.
    pub(crate) fn acquire(&mut self, list: &[T]) -> (ListId, bool) {
        if list.is_empty() {
            return (ListId::EMPTY, false);
        }
        if let Some(number) = self.numbers.get(list) {
            if let Some(shared) = self.lists.get_mut(*number) {
                shared.holders += 1;
            }
            return (ListId(*number), false);
        }
        let list: Arc<[T]> = list.into();
        let number = self.lists.insert(Shared {
            list: list.clone(),
            holders: 1,
        });
        self.numbers.insert(list, number);
        (ListId(number), true)
    }

    /// One holder less; the list itself where that was the last one.
    pub(crate) fn release(&mut self, id: ListId) -> Option<Arc<[T]>> {
        let shared = self.lists.get_mut(id.0)?;
        shared.holders -= 1;
        if shared.holders > 0 {
            return None;
        }
        let shared = self.lists.remove(id.0)?;
        self.numbers.remove(&shared.list);
        Some(shared.list)
    }

    pub(crate) fn get(&self, id: ListId) -> &[T] {
        self.lists
            .get(id.0)
            .map(|shared| &*shared.list)
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_lives_as_long_as_its_last_holder() {
        let mut lists = SharedLists::default();
        let (a, new) = lists.acquire(&[1, 2]);
        assert!(new);
        assert_eq!(lists.acquire(&[1, 2]), (a, false));
        assert_eq!(lists.acquire(&[]), (ListId::EMPTY, false));
        assert_eq!(lists.get(a), [1, 2]);
        assert_eq!(lists.release(a), None);
        assert_eq!(lists.release(a).as_deref(), Some([1, 2].as_slice()));
        assert_eq!(lists.release(ListId::EMPTY), None);
        assert!(lists.get(a).is_empty());
        assert!(lists.acquire(&[1, 2]).1);
    }
}
