//! The laws of the graph: history leaves no trace, and what is said keeps the order of the wall.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test says by a panic that it failed.

mod history;
mod model;
mod objects;
mod random;
mod states;
mod view;
mod ways;

use dataplane_api::Update;
use felix_calc::{CalcConfig, CalcGraph};
use model::State;
use policy_model::{Key, Resource};
use std::sync::Arc;
use view::View;

/// The node that the graph calculates for.
pub(crate) const HERE: &str = "here";

/// A graph and what the hands made of its updates.
pub(crate) struct Bench {
    pub(crate) graph: CalcGraph,
    pub(crate) view: View,
    pub(crate) state: State,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let graph = CalcGraph::new(CalcConfig::for_node(HERE));
        Bench {
            graph,
            view: View::default(),
            state: State::new(),
        }
    }

    pub(crate) fn upsert(&mut self, resource: Resource) {
        self.state.insert(resource.key(), resource.clone());
        // Whether somebody else holds the object too makes no difference.
        let shared = Arc::new(resource);
        let other = self.state.len().is_multiple_of(2).then(|| shared.clone());
        // Faults are the business of other tests; a missing interface name is one that states may have.
        let _ = self.graph.on_upsert_shared(shared);
        drop(other);
    }

    pub(crate) fn delete(&mut self, key: &Key) {
        self.state.remove(key);
        self.graph.on_delete(key);
    }

    /// Flushes, and checks that the hands know what they must know and that nothing is left to say.
    pub(crate) fn flush(&mut self) -> Vec<Update> {
        let mut updates = Vec::new();
        self.graph.flush(&mut updates);
        self.view.apply(&updates);
        let mut again = Vec::new();
        self.graph.flush(&mut again);
        assert!(again.is_empty(), "said without a change: {again:?}");
        updates
    }

    /// Compares what the hands know with what a look at everything says.
    pub(crate) fn check(&self) {
        let (known, expected) = (self.view.plain(), model::plain(&self.state, HERE));
        assert_eq!(known.endpoints, expected.endpoints);
        assert_eq!(known.policies, expected.policies);
        assert_eq!(known.routes, expected.routes);
        assert_eq!(known.pools, expected.pools);
    }

    /// Brings the graph to another state: what is not in it goes, what differs comes.
    pub(crate) fn go_to(&mut self, state: &State, mut after_each: impl FnMut(&mut Bench)) {
        let gone: Vec<Key> = self
            .state
            .keys()
            .filter(|key| !state.contains_key(*key))
            .cloned()
            .collect();
        for key in gone {
            self.delete(&key);
            after_each(self);
        }
        for (key, resource) in state {
            if self.state.get(key) != Some(resource) {
                self.upsert(resource.clone());
                after_each(self);
            }
        }
    }
}
