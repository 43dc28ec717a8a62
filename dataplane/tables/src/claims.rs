//! Which endpoint has an interface, where several say that it is theirs: the first one by name, whatever the order of arrival.

use crate::tables::{Changes, Placed, Tables};
use dataplane_api::EndpointId;
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet};

/// The interfaces of endpoints, and who claims each.
#[derive(Debug, Default)]
pub struct InterfaceClaims {
    /// The interface of each endpoint.
    interfaces: FxHashMap<EndpointId, String>,
    /// The endpoints that say that an interface is theirs.
    claims: BTreeMap<String, BTreeSet<EndpointId>>,
}

impl InterfaceClaims {
    /// Brings claims up to date with what changed, or with all endpoints where nothing was followed before; names the
    /// interfaces concerned.
    pub fn follow(&mut self, tables: &Tables, changes: Option<&Changes>) -> BTreeSet<String> {
        let mut concerned: BTreeSet<String> = BTreeSet::new();
        let ids: Vec<EndpointId> = match changes {
            None => tables.endpoints().map(|p| p.endpoint.id.clone()).collect(),
            Some(changes) => {
                let gone = changes.gone_endpoints.iter().map(|e| e.id.clone());
                changes.changed_endpoints.iter().cloned().chain(gone).collect()
            }
        };
        for id in ids {
            if let Some(before) = self.interfaces.remove(&id) {
                if let Some(claims) = self.claims.get_mut(&before) {
                    claims.remove(&id);
                    if claims.is_empty() {
                        self.claims.remove(&before);
                    }
                }
                concerned.insert(before);
            }
            if let Some(placed) = tables.endpoint(&id) {
                let interface = placed.endpoint.interface.clone();
                self.claims
                    .entry(interface.clone())
                    .or_default()
                    .insert(id.clone());
                concerned.insert(interface.clone());
                self.interfaces.insert(id, interface);
            }
        }
        concerned
    }

    /// The endpoint that has an interface.
    pub fn holder<'a>(&self, interface: &str, tables: &'a Tables) -> Option<&'a Placed> {
        tables.endpoint(self.claims.get(interface)?.first()?)
    }

    /// Whether any endpoint says that an interface is its own.
    pub fn is_claimed(&self, interface: &str) -> bool {
        self.claims.contains_key(interface)
    }
}
