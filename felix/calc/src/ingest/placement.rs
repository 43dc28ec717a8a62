//! Items entered, changed and taken out, with all that depends on their addresses: members, routes, pods.

use super::locals::local_id;
use crate::address_book::BlockChange;
use crate::graph::CalcGraph;
use crate::items::{Item, ItemKey, ItemKind, NO_POD, NamedPort};
use crate::nets::Nets;
use crate::shared_lists::ListId;
use ipnet::IpNet;
use policy_model::Key;
use policy_model_selector::index::{ItemId, ParentId, Symbol};

/// What an item is to become; its labels are in the graph's buffer.
pub(super) struct NewItem<'a> {
    pub(super) kind: ItemKind,
    pub(super) namespace: Symbol,
    pub(super) name: &'a str,
    pub(super) node: Symbol,
    pub(super) nets: Nets,
    pub(super) ports: Vec<NamedPort>,
    pub(super) profiles: &'a [u32],
    /// Name of the pod whose addresses it has, where the resource says none.
    pub(super) pod: Option<&'a str>,
    pub(super) own: bool,
}

impl CalcGraph {
    /// Enters an item, or makes what is known of it what it is to be. Returns whether it was [`Item::own`] before.
    pub(super) fn put_item(&mut self, new: NewItem<'_>) -> bool {
        let NewItem {
            kind,
            namespace,
            name,
            node,
            nets,
            ports,
            profiles,
            pod,
            own,
        } = new;
        // In the order of the index, which need not sort a copy then.
        self.labels.sort_unstable();
        let (ports, _) = self.items.ports.acquire(&ports);
        let profile_list = self.acquire_profiles(profiles);
        self.parents.clear();
        self.parents
            .extend(profiles.iter().map(|number| ParentId(*number)));

        let known = self.items.find(&ItemKey {
            kind,
            namespace,
            name,
        });
        let Some(id) = known else {
            let id = self.items.insert(Item {
                name: name.into(),
                nets,
                namespace,
                node,
                ports,
                profiles: profile_list,
                pod: NO_POD,
                kind,
                own,
            });
            self.counts[kind as usize] += 1;
            self.bind_pod(id, pod);
            self.touch_routes(id);
            self.atoms
                .set_labels(&self.interner, &self.items, id, &self.labels, &self.parents);
            return false;
        };
        let was_own = self.items.get(id).is_some_and(|item| item.own);
        let same_place = self.items.get(id).is_some_and(|item| item.node == node);
        let same_nets = self.items.get(id).is_some_and(|item| item.nets == nets);
        if same_nets && self.items.get(id).is_some_and(|item| item.ports == ports) && was_own == own {
            self.atoms
                .set_labels(&self.interner, &self.items, id, &self.labels, &self.parents);
            if !same_place {
                self.touch_routes(id);
            }
            self.replace_lists(id, ports, profile_list);
        } else {
            self.touch_routes(id);
            self.atoms.withdraw(&self.interner, &self.items, id);
            self.replace_lists(id, ports, profile_list);
            if let Some(item) = self.items.get_mut(id) {
                item.own = own;
            }
            if !same_nets {
                self.items.set_nets(id, nets);
            }
            self.atoms
                .set_labels_quietly(&self.interner, id, &self.labels, &self.parents);
            self.atoms.contribute(&self.interner, &self.items, id);
        }
        if let Some(item) = self.items.get_mut(id) {
            item.node = node;
        }
        if !(same_nets && same_place) {
            self.touch_routes(id);
        }
        self.bind_pod(id, pod);
        was_own
    }

    /// Gives an item other addresses, those that the blocks say.
    fn set_nets(&mut self, id: ItemId, nets: Nets) {
        if self.items.get(id).is_none_or(|item| item.nets == nets) {
            return;
        }
        self.touch_routes(id);
        self.atoms.withdraw(&self.interner, &self.items, id);
        self.items.set_nets(id, nets);
        self.atoms.contribute(&self.interner, &self.items, id);
        self.touch_routes(id);
        let Some(item) = self
            .items
            .get(id)
            .filter(|item| item.own && item.kind == ItemKind::Workload)
        else {
            return;
        };
        let id = local_id(self.interner.resolve(item.namespace), &item.name);
        let addresses = item.nets.addresses().collect();
        if let Some(number) = self.locals.find(&id) {
            self.locals.set_addresses(number, addresses);
        }
    }

    /// Takes an item out.
    pub(crate) fn remove_item(&mut self, kind: ItemKind, key: &Key) {
        let Some(id) = self.find_item(kind, key) else {
            return;
        };
        self.touch_routes(id);
        self.atoms.remove_item(&self.interner, &self.items, id);
        self.bind_pod(id, None);
        let Some(item) = self.items.remove(id) else { return };
        self.counts[kind as usize] -= 1;
        self.items.ports.release(item.ports);
        self.release_profiles(item.profiles);
        if kind == ItemKind::Workload && item.own {
            self.remove_local(&key.namespace, &key.name);
        }
    }

    pub(crate) fn find_item(&self, kind: ItemKind, key: &Key) -> Option<ItemId> {
        let namespace = self.interner.find(&key.namespace)?;
        self.items.find(&ItemKey {
            kind,
            namespace,
            name: &key.name,
        })
    }

    /// Looks at an endpoint's routes, as it is now, at the next flush.
    fn touch_routes(&mut self, id: ItemId) {
        if let Some(item) = self.items.get(id).filter(|item| item.kind == ItemKind::Workload) {
            self.routes.touch_endpoint(item.node, item.nets.iter());
        }
    }

    fn bind_pod(&mut self, id: ItemId, pod: Option<&str>) {
        let Some(item) = self.items.get(id) else { return };
        let (namespace, before) = (item.namespace, item.pod);
        if before == NO_POD && pod.is_none() {
            return;
        }
        let now = pod.map_or(NO_POD, |pod| self.book.bind(namespace, pod, id));
        if before != NO_POD && before != now {
            self.book.unbind(before, id);
        }
        if let Some(item) = self.items.get_mut(id) {
            item.pod = now;
        }
    }

    /// Follows a change of a block to endpoints and routes.
    pub(crate) fn follow_block(&mut self, change: BlockChange) {
        for id in change.items {
            let Some(item) = self.items.get(id) else { continue };
            let nets = Nets::of(self.book.addresses(item.pod).iter().copied().map(IpNet::from));
            self.set_nets(id, nets);
        }
        for range in change.ranges {
            self.routes.touch_block(range, &self.items);
        }
        for node in change.nodes {
            self.routes.touch_node(node);
        }
    }

    fn replace_lists(&mut self, id: ItemId, ports: ListId, profiles: ListId) {
        let Some(item) = self.items.get_mut(id) else {
            return;
        };
        let old_ports = std::mem::replace(&mut item.ports, ports);
        let old_profiles = std::mem::replace(&mut item.profiles, profiles);
        self.items.ports.release(old_ports);
        self.release_profiles(old_profiles);
    }

    fn acquire_profiles(&mut self, profiles: &[u32]) -> ListId {
        let (id, is_new) = self.profile_lists.acquire(profiles);
        if is_new {
            profiles
                .iter()
                .for_each(|number| self.profiles.list(*number, true));
        }
        id
    }

    fn release_profiles(&mut self, id: ListId) {
        if let Some(list) = self.profile_lists.release(id) {
            list.iter().for_each(|number| self.profiles.list(*number, false));
        }
    }
}
