//! Local endpoints entered and taken out, with the profiles that they name.

use crate::graph::CalcGraph;
use crate::locals::Interface;
use dataplane_api::EndpointId;
use policy_model_selector::index::ParentId;

impl CalcGraph {
    /// Enters a local endpoint, whose labels and parents are in the buffers.
    pub(super) fn put_local(&mut self, id: EndpointId, interface: Interface) {
        let profiles = interface.profiles.clone();
        let known = self.locals.find(&id);
        if let Some(known) = known.and_then(|number| self.locals.interface(number))
            && *known == interface
        {
            // Labels may differ all the same.
        } else {
            let before = known.and_then(|number| self.locals.interface(number));
            let before = before
                .map(|interface| interface.profiles.clone())
                .unwrap_or_default();
            profiles.iter().for_each(|number| self.employ(*number, true));
            before.iter().for_each(|number| self.employ(*number, false));
            self.locals.put(id.clone(), interface);
        }
        let Some(number) = self.locals.find(&id) else {
            return;
        };
        let labels = (self.labels.as_slice(), self.parents.as_slice());
        self.selection.set_local(
            &self.interner,
            number,
            labels,
            &mut self.policies,
            &mut self.locals,
        );
    }

    pub(super) fn remove_local(&mut self, namespace: &str, name: &str) {
        let Some(number) = self.locals.find(&local_id(namespace, name)) else {
            return;
        };
        let profiles = self
            .locals
            .interface(number)
            .map(|interface| interface.profiles.clone())
            .unwrap_or_default();
        self.selection
            .remove_local(&self.interner, number, &mut self.policies, &mut self.locals);
        profiles.iter().for_each(|number| self.employ(*number, false));
    }

    /// Says that a local endpoint names a profile, or no more. Only such profiles' labels are in the index of local
    /// endpoints.
    fn employ(&mut self, profile: u32, used: bool) {
        if self.profiles.employ(profile, used) {
            let parent = ParentId(profile);
            let labels = if used {
                self.atoms.index.parent_labels(parent)
            } else {
                &[]
            };
            self.selection.set_parent_labels(
                &self.interner,
                parent,
                labels,
                &mut self.policies,
                &mut self.locals,
            );
        }
    }
}

/// The name of a local endpoint.
pub(super) fn local_id(namespace: &str, name: &str) -> EndpointId {
    EndpointId {
        namespace: namespace.into(),
        name: name.into(),
    }
}
