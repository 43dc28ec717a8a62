//! Which objects of the datastore are followed: those that policy always needs, and the addresses of Services once a
//! policy names a Service.
//!
//! Few clusters have such a policy, and in all of them every rollout changes the addresses of Services. What is needed
//! later is waited for before it is used: a policy that names a Service and came first would deny, for as long as the
//! Service's addresses are unknown, less than it says. So it is held back until they are known; everything else goes on,
//! and what was in force under its name stays in force.

use policy_model::{EntityRule, Key, Kind, PolicyRule, Resource};
use policy_model_datastore::{
    Datastore, DatastoreError, Selection, SyncEvent, SyncStatus, Syncer, Versioned,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The objects that are followed.
pub(super) struct Watched {
    store: Arc<dyn Datastore>,
    always: Syncer,
    services: Services,
    /// Policies that wait for the addresses of Services, as they are to be.
    held: BTreeMap<Key, Versioned>,
    /// Whether everything else was told, and only those are missing.
    in_sync_is_due: bool,
}

/// How the addresses of Services are followed.
enum Services {
    /// No policy needed them yet.
    Unneeded,
    /// They are being read.
    Awaited(Syncer),
    /// They are known, and changes come.
    Known(Syncer),
}

/// What one of the two syncers told.
enum Told {
    Always(Vec<SyncEvent>),
    OfServices(Vec<SyncEvent>),
}

impl Watched {
    /// Follows objects of these kinds; those of Services only once a policy names one, and whatever `kinds` says.
    pub(super) fn new(store: Arc<dyn Datastore>, kinds: impl IntoIterator<Item = Kind>) -> Self {
        let kinds = kinds.into_iter().filter(|kind| *kind != Kind::ServiceEndpoints);
        Watched {
            always: Syncer::with_usual_pauses(store.clone(), Selection::kinds(kinds)),
            store,
            services: Services::Unneeded,
            held: BTreeMap::new(),
            in_sync_is_due: false,
        }
    }

    /// Waits for events, as [`Syncer::next_batch`] does. Dropping the future loses nothing.
    pub(super) async fn next_batch(&mut self, max: usize) -> Vec<SyncEvent> {
        loop {
            let told = match &mut self.services {
                Services::Unneeded => Told::Always(self.always.next_batch(max).await),
                Services::Awaited(services) | Services::Known(services) => tokio::select! {
                    events = services.next_batch(max) => Told::OfServices(events),
                    events = self.always.next_batch(max) => Told::Always(events),
                },
            };
            let events = match told {
                Told::Always(events) => self.take(events),
                Told::OfServices(events) => self.take_services(events),
            };
            if !events.is_empty() {
                return events;
            }
        }
    }

    /// How the store stands, and why it was last lost.
    pub(super) fn trouble(&self) -> Option<&DatastoreError> {
        let of = |syncer: &'_ Syncer| syncer.status() == Some(SyncStatus::WaitForDatastore);
        let services = match &self.services {
            Services::Unneeded => None,
            Services::Awaited(services) | Services::Known(services) => Some(services),
        };
        let away = [Some(&self.always), services]
            .into_iter()
            .flatten()
            .find(|syncer| of(syncer));
        away.and_then(Syncer::last_error)
    }

    /// What of the events can be passed on now.
    fn take(&mut self, events: Vec<SyncEvent>) -> Vec<SyncEvent> {
        let mut passed = Vec::with_capacity(events.len());
        for event in events {
            match event {
                SyncEvent::Upsert(versioned) if self.has_to_wait(&versioned.resource) => {
                    if matches!(self.services, Services::Unneeded) {
                        tracing::info!(
                            policy = %versioned.key(),
                            "names a Service: the addresses of Services are followed from now on"
                        );
                        let selection = Selection::kinds([Kind::ServiceEndpoints]);
                        let syncer = Syncer::with_usual_pauses(self.store.clone(), selection);
                        self.services = Services::Awaited(syncer);
                    }
                    self.held.insert(versioned.key(), versioned);
                }
                SyncEvent::Upsert(versioned) => {
                    // Its newest form needs no Service.
                    if !self.held.is_empty() {
                        self.held.remove(&versioned.key());
                    }
                    passed.push(SyncEvent::Upsert(versioned));
                }
                SyncEvent::Delete(key) => {
                    self.held.remove(&key);
                    passed.push(SyncEvent::Delete(key));
                }
                SyncEvent::InSync if matches!(self.services, Services::Awaited(_)) => {
                    self.in_sync_is_due = true;
                }
                SyncEvent::InSync | SyncEvent::Status(_) => passed.push(event),
            }
        }
        passed
    }

    fn has_to_wait(&self, resource: &Resource) -> bool {
        !matches!(self.services, Services::Known(_)) && names_a_service(resource)
    }

    /// What is passed on when Services' addresses are told.
    fn take_services(&mut self, events: Vec<SyncEvent>) -> Vec<SyncEvent> {
        let mut passed = Vec::with_capacity(events.len());
        for event in events {
            match event {
                SyncEvent::Upsert(_) | SyncEvent::Delete(_) => passed.push(event),
                SyncEvent::InSync => {
                    self.services = match std::mem::replace(&mut self.services, Services::Unneeded) {
                        Services::Awaited(syncer) | Services::Known(syncer) => Services::Known(syncer),
                        Services::Unneeded => Services::Unneeded,
                    };
                    let held = std::mem::take(&mut self.held);
                    passed.extend(held.into_values().map(SyncEvent::Upsert));
                    if std::mem::take(&mut self.in_sync_is_due) {
                        passed.push(SyncEvent::InSync);
                    }
                }
                // The standing of the store is told by those that are always followed.
                SyncEvent::Status(_) => {}
            }
        }
        passed
    }
}

/// Whether a rule of a policy or profile means the addresses behind a Service.
fn names_a_service(resource: &Resource) -> bool {
    let (ingress, egress) = match resource {
        Resource::NetworkPolicy(policy) => (&policy.spec.ingress, &policy.spec.egress),
        Resource::GlobalNetworkPolicy(policy) => (&policy.spec.ingress, &policy.spec.egress),
        Resource::Profile(profile) => (&profile.spec.ingress, &profile.spec.egress),
        _ => return false,
    };
    let names = |side: &EntityRule| side.services.is_some();
    let rule_names = |rule: &PolicyRule| names(&rule.source) || names(&rule.destination);
    ingress.iter().chain(egress).any(rule_names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy_model::{
        Action, GlobalNetworkPolicySpec, Object, ServiceEndpointsSpec, ServiceMatch, TierSpec,
    };
    use policy_model_datastore::MemoryStore;

    fn policy(name: &str, service: Option<&str>) -> Resource {
        let services = service.map(|name| ServiceMatch {
            name: name.into(),
            namespace: "shop".into(),
        });
        let destination = EntityRule {
            services,
            ..EntityRule::default()
        };
        let rule = PolicyRule {
            action: Action::Deny,
            destination,
            ..PolicyRule::default()
        };
        let spec = GlobalNetworkPolicySpec {
            egress: vec![rule],
            ..GlobalNetworkPolicySpec::default()
        };
        Object::named(name, spec).into()
    }

    fn slice() -> Resource {
        let spec = ServiceEndpointsSpec {
            service: "web".into(),
            addresses: vec!["10.0.0.1".parse().unwrap()],
            ports: Vec::new(),
        };
        Object::namespaced("shop", "web-x", spec).into()
    }

    fn tier(name: &str) -> Resource {
        Object::named(name, TierSpec::default()).into()
    }

    fn watched(store: &MemoryStore) -> Watched {
        let kinds = [Kind::Tier, Kind::GlobalNetworkPolicy, Kind::ServiceEndpoints];
        Watched::new(Arc::new(store.clone()), kinds)
    }

    /// The names of what is told, up to and with this one; `*` is the moment from which everything is known.
    async fn until(watched: &mut Watched, last: &str) -> Vec<String> {
        let mut told = Vec::new();
        while told.last().is_none_or(|name| name != last) {
            for event in watched.next_batch(1).await {
                match event {
                    SyncEvent::Upsert(versioned) => told.push(versioned.key().name),
                    SyncEvent::Delete(key) => told.push(format!("-{}", key.name)),
                    SyncEvent::InSync => told.push("*".into()),
                    SyncEvent::Status(_) => {}
                }
            }
        }
        told
    }

    #[tokio::test]
    async fn services_are_followed_once_a_policy_names_one_and_known_before_it_is_told() {
        let store = MemoryStore::new();
        store.create(slice()).await.unwrap();
        store.create(policy("plain", None)).await.unwrap();
        let mut watched = watched(&store);
        assert_eq!(until(&mut watched, "*").await, ["plain", "*"]);
        assert!(matches!(watched.services, Services::Unneeded));

        store.create(policy("naming", Some("web"))).await.unwrap();
        assert_eq!(until(&mut watched, "naming").await, ["web-x", "naming"]);
        let second = store.create(policy("second", Some("web"))).await.unwrap();
        assert_eq!(until(&mut watched, "second").await, ["second"]);
        store.delete(&slice().key(), None).await.unwrap();
        assert_eq!(until(&mut watched, "-web-x").await, ["-web-x"]);
        store.delete(&second.key(), None).await.unwrap();
        assert_eq!(until(&mut watched, "-second").await, ["-second"]);
    }

    #[tokio::test]
    async fn a_start_with_such_a_policy_is_in_sync_only_with_the_addresses() {
        let store = MemoryStore::new();
        for object in [slice(), policy("naming", Some("web")), policy("plain", None)] {
            store.create(object).await.unwrap();
        }
        let told = until(&mut watched(&store), "*").await;
        let at = |name: &str| told.iter().position(|told| told == name);
        assert_eq!(told.len(), 4, "{told:?}");
        assert!(at("web-x") < at("naming"), "{told:?}");
    }

    #[tokio::test]
    async fn while_addresses_are_awaited_all_else_goes_on() {
        let store = MemoryStore::new();
        let mut watched = watched(&store);
        assert_eq!(until(&mut watched, "*").await, ["*"]);
        let versioned = |resource: Resource| {
            let store = store.clone();
            async move { store.create(resource).await.unwrap() }
        };
        let (first, second) = (
            versioned(policy("first", Some("web"))).await,
            versioned(policy("second", Some("web"))).await,
        );
        let tier = versioned(tier("t")).await;
        let events = [first.clone(), second.clone(), tier.clone()].map(SyncEvent::Upsert);
        assert_eq!(watched.take(events.into()), [SyncEvent::Upsert(tier)]);
        assert_eq!(watched.held.len(), 2);

        // One that goes, and one that no longer names a Service, wait for nothing.
        let gone = SyncEvent::Delete(first.key());
        assert_eq!(watched.take(vec![gone.clone()]), [gone]);
        let changed = store
            .update(policy("second", None), &second.version)
            .await
            .unwrap();
        let changed = SyncEvent::Upsert(changed);
        assert_eq!(watched.take(vec![changed.clone()]), [changed]);
        assert!(watched.held.is_empty());
    }
}
