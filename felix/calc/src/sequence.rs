//! The order of updates within one flush, which the hands rely on.
//!
//! Rooms add their updates in whatever order they find them; each kind has its list here, and the lists are handed
//! out in the order of the laws. What would break if a line moved: a rule in the kernel that refers to a set that is
//! not there yet, or to one that is there no more.

use dataplane_api::Update;

/// The updates of one flush, by their place in the order.
#[derive(Default)]
pub(crate) struct Sequence {
    pub(crate) atoms: Vec<Update>,
    pub(crate) policies: Vec<Update>,
    pub(crate) endpoints: Vec<Update>,
    pub(crate) routes: Vec<Update>,
    pub(crate) gone_routes: Vec<Update>,
    pub(crate) gone_endpoints: Vec<Update>,
    pub(crate) gone_policies: Vec<Update>,
    pub(crate) gone_atoms: Vec<Update>,
}

impl Sequence {
    /// Appends everything to `updates`, and `InSync` as the last where it is due. Returns how many these were.
    pub(crate) fn write_to(self, updates: &mut Vec<Update>, in_sync: bool) -> usize {
        let Sequence {
            atoms,
            policies,
            endpoints,
            routes,
            gone_routes,
            gone_endpoints,
            gone_policies,
            gone_atoms,
        } = self;
        let before = updates.len();
        let lists = [
            atoms,
            policies,
            endpoints,
            routes,
            gone_routes,
            gone_endpoints,
            gone_policies,
            gone_atoms,
        ];
        updates.reserve(lists.iter().map(Vec::len).sum::<usize>() + usize::from(in_sync));
        lists.into_iter().for_each(|list| updates.extend(list));
        if in_sync {
            updates.push(Update::InSync);
        }
        updates.len() - before
    }
}
