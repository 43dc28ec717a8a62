//! Ports of the node: which elements come and go.
//!
//! One lookup decides, so that nothing has to be prepared and nothing waits to be retired.

use super::{Pass, Plan, Planner, push};
use crate::layout::nat::host_port_element;
use crate::wire::{Element, ElementData};
use dataplane_api::HostPort;
use std::collections::{BTreeMap, BTreeSet};

impl Planner {
    /// Writes where ports of the node lead.
    pub(super) fn write_host_ports(&mut self, pass: &Pass<'_>, plan: &mut Plan) {
        let wanted = pass.tables.host_ports();
        let concerned: BTreeSet<HostPort> = if pass.all {
            wanted
                .keys()
                .chain(self.state.host_ports.keys())
                .copied()
                .collect()
        } else {
            pass.changes.host_ports.iter().copied().collect()
        };
        let mut removed: BTreeMap<&'static str, Vec<Element>> = BTreeMap::new();
        let mut added: BTreeMap<&'static str, Vec<Element>> = BTreeMap::new();
        for port in concerned {
            let before = self.state.host_ports.get(&port).copied();
            let after = wanted.get(&port).copied();
            if before == after {
                continue;
            }
            if let Some((map, element)) = before.and_then(|target| host_port_element(&port, &target)) {
                let data = ElementData::None;
                removed.entry(map).or_default().push(Element { data, ..element });
                self.state.host_ports.remove(&port);
            }
            if let Some(target) = after
                && let Some((map, element)) = host_port_element(&port, &target)
            {
                added.entry(map).or_default().push(element);
                self.state.host_ports.insert(port, target);
            }
        }
        for (map, elements) in removed {
            push(&mut plan.switch, map, elements, false);
        }
        for (map, elements) in added {
            push(&mut plan.switch, map, elements, true);
        }
    }
}
