//! The node's interfaces and the routes with our marks, kept in step with the kernel by its news.
//!
//! Pure. What the news leaves open is doubt, and then everything is read again. Silent changes that are known of: an
//! interface that goes down takes its IPv4 routes with it, and so does the last address of one; an address that goes
//! takes the routes that name it as their source; an interface with too small packets loses a whole family.

use dataplane_netlink::InterfacePrefixes;
use dataplane_netlink::addresses::{Address, Scope};
use dataplane_netlink::events::{Change, Event};
use dataplane_netlink::links::Link;
use dataplane_netlink::routes::{KnownRoutes, News, ObservedRoute, RouteOwnership};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

/// The kernel made the route itself, of an interface's address (`RTPROT_KERNEL`).
const MADE_BY_KERNEL: u8 = 2;

/// What news means for those who want something of interfaces and routes.
#[derive(Debug, Default)]
pub(super) struct Changed {
    /// Interfaces of ours that came up, went down, have gone or are others than before; not those that came and are down
    /// yet, of which nobody has a use.
    pub(super) interfaces: BTreeSet<String>,
    /// Destinations whose routes are others than before.
    pub(super) destinations: BTreeSet<IpNet>,
    /// Interfaces, by number, that are down or gone: what they were given besides routes is gone as well.
    pub(super) down: BTreeSet<u32>,
    /// Whether the kernel may have done more than it said.
    pub(super) doubt: bool,
    /// Whether something about an interface changed that is not one of ours, or about its addresses.
    pub(super) outside: bool,
}

/// The number of an interface of ours, and whether it is up.
type State = Option<(u32, bool)>;

/// The interfaces and routes.
#[derive(Debug)]
pub(super) struct Seen {
    prefixes: InterfacePrefixes,
    links: BTreeMap<u32, Link>,
    by_name: BTreeMap<String, u32>,
    routes: KnownRoutes,
}

impl Seen {
    /// Nothing was seen yet.
    pub(super) fn new(ownership: &RouteOwnership) -> Self {
        Seen {
            prefixes: ownership.prefixes.clone(),
            links: BTreeMap::new(),
            by_name: BTreeMap::new(),
            routes: KnownRoutes::new(ownership),
        }
    }

    /// Takes in one piece of news.
    pub(super) fn take(&mut self, event: Event, changed: &mut Changed) {
        match event {
            Event::Link(Change::Present, link) => self.link_came(link, changed),
            Event::Link(Change::Gone, link) => self.link_went(link.index, changed),
            Event::Route(Change::Present, route) => note(self.routes.came(route), changed),
            Event::RouteReplaced(route) => note(self.routes.replaced(route), changed),
            Event::Route(Change::Gone, route) => {
                // It went with an address, or with the last one of its interface.
                changed.doubt |= route.protocol == MADE_BY_KERNEL
                    && !route.interface().is_some_and(|l| self.is_ours_and_down(l));
                note(self.routes.went(&route), changed);
            }
            Event::Address(change, address) => {
                changed.outside |= !self.is_ours(address.link);
                changed.doubt |= change == Change::Gone && self.may_take_routes_along(&address);
            }
            Event::Neighbour(..) | Event::Forwarding(..) | Event::Resync => {}
        }
    }

    /// Takes over a list of all interfaces.
    pub(super) fn replace_links(&mut self, links: Vec<Link>, changed: &mut Changed) {
        changed.outside = true;
        let names: BTreeSet<String> = self.by_name.keys().cloned().collect();
        let before: Vec<State> = names.iter().map(|name| self.state(name)).collect();
        let down = |index: &u32| !links.iter().any(|l| l.index == *index && l.up);
        changed.down.extend(self.links.keys().copied().filter(down));
        self.by_name = links.iter().map(|l| (l.name.to_string(), l.index)).collect();
        self.links = links.into_iter().map(|l| (l.index, l)).collect();
        let new = self.by_name.keys().filter(|name| !names.contains(*name));
        let new: Vec<String> = new.cloned().collect();
        let all = names
            .into_iter()
            .zip(before)
            .chain(new.into_iter().map(|name| (name, None)));
        for (name, before) in all {
            self.note_interface(name, before, changed);
        }
    }

    /// Takes over a list of all routes with our marks.
    pub(super) fn replace_routes(&mut self, routes: Vec<ObservedRoute>) {
        self.routes.replace(routes);
    }

    /// The routes with our marks.
    pub(super) fn routes(&self) -> &KnownRoutes {
        &self.routes
    }

    /// An interface of ours by its name.
    pub(super) fn ours(&self, name: &str) -> Option<&Link> {
        self.named(name).filter(|_| self.prefixes.is_ours(name))
    }

    /// An interface of ours by its name, if it is up.
    pub(super) fn usable(&self, name: &str) -> Option<&Link> {
        self.ours(name).filter(|link| link.up)
    }

    /// An interface, whoever's, by its name.
    pub(super) fn named(&self, name: &str) -> Option<&Link> {
        self.by_name.get(name).and_then(|index| self.links.get(index))
    }

    fn is_ours(&self, index: u32) -> bool {
        let link = self.links.get(&index);
        link.is_some_and(|link| self.prefixes.is_ours(link.name.as_str()))
    }

    /// An interface, whoever's, by its number.
    pub(super) fn link(&self, index: u32) -> Option<&Link> {
        self.links.get(&index)
    }

    /// Whether all that a change of this interface's addresses could take along has gone already.
    fn is_ours_and_down(&self, index: u32) -> bool {
        let link = self.links.get(&index);
        link.is_some_and(|link| !link.up && self.prefixes.is_ours(link.name.as_str()))
    }

    fn link_came(&mut self, link: Link, changed: &mut Changed) {
        let (index, name) = (link.index, link.name.to_string());
        let before = self.links.get(&index).cloned();
        let old_name = before
            .as_ref()
            .map(|b| b.name.to_string())
            .filter(|old| *old != name);
        let state = self.state(&name);
        let old_state = old_name.as_ref().and_then(|old| self.state(old));
        if let Some(old) = &old_name
            && self.by_name.get(old) == Some(&index)
        {
            self.by_name.remove(old);
        }
        self.by_name.insert(name.clone(), index);
        let (is_up, mtu, master) = (link.up, link.mtu, link.master);
        if !self.prefixes.is_ours(link.name.as_str()) {
            let shape = |link: &Link| (link.name.clone(), link.up, link.mtu, link.mac, link.master);
            changed.outside |= before.as_ref().map(shape) != Some(shape(&link));
        }
        self.links.insert(index, link);
        if !is_up {
            changed.down.insert(index);
            if before.as_ref().is_some_and(|b| b.up) {
                changed.destinations.extend(self.routes.lost_link(index));
            }
        } else if let Some(before) = &before
            && before.up
            && (before.mtu, before.master, old_name.is_none()) != (mtu, master, true)
        {
            changed.doubt |= self.routes.on_link(index).next().is_some();
        }
        self.note_interface(name, state, changed);
        if let Some(old) = old_name {
            self.note_interface(old, old_state, changed);
        }
    }

    fn link_went(&mut self, index: u32, changed: &mut Changed) {
        changed.down.insert(index);
        changed.destinations.extend(self.routes.lost_link(index));
        let Some(name) = self.links.get(&index).map(|link| link.name.to_string()) else {
            return;
        };
        changed.outside |= !self.is_ours(index);
        let before = self.state(&name);
        self.links.remove(&index);
        if self.by_name.get(&name) == Some(&index) {
            self.by_name.remove(&name);
        }
        self.note_interface(name, before, changed);
    }

    fn state(&self, name: &str) -> State {
        self.ours(name).map(|link| (link.index, link.up))
    }

    fn note_interface(&self, name: String, before: State, changed: &mut Changed) {
        let now = self.state(&name);
        let is_new_and_down = before.is_none() && now.is_some_and(|(_, is_up)| !is_up);
        if before != now && !is_new_and_down {
            changed.interfaces.insert(name);
        }
    }

    /// Whether the kernel may have dropped routes with an address that has gone.
    fn may_take_routes_along(&self, address: &Address) -> bool {
        let counts = address.net.addr().is_ipv4() || address.scope == Scope::Global;
        counts && !self.is_ours_and_down(address.link)
    }
}

fn note(news: News, changed: &mut Changed) {
    match news {
        News::Nothing => {}
        News::Destination(destination) => drop(changed.destinations.insert(destination)),
        News::Doubt => changed.doubt = true,
    }
}

#[cfg(test)]
#[path = "seen_tests.rs"]
mod tests;
