//! Which objects of the datastore are followed: those that policy always needs, and others once a policy needs them.
//!
//! What few policies need costs every node a watch, and every rollout changes the addresses of Services. So those are
//! followed from the first policy on that names a Service, and network sets from the first policy on that is Calico's and
//! selects its peers. What is needed later is waited for before it is used: a policy that came first would deny, or allow,
//! less than it says for as long as the rest is unknown. So it is held back until all that it needs is known; everything
//! else goes on, and what was in force under its name stays in force.

use policy_model::{EntityRule, KUBERNETES_POLICY_PREFIX, Key, Kind, PolicyRule, Resource};
use policy_model_datastore::{
    Datastore, DatastoreError, Selection, SyncEvent, SyncStatus, Syncer, Versioned,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The objects that are followed.
pub(super) struct Watched {
    store: Arc<dyn Datastore>,
    always: Syncer,
    late: [Late; 2],
    /// Policies that wait for what they need, as they are to be.
    held: BTreeMap<Key, Versioned>,
    /// Whether everything else was told, and only what policies wait for is missing.
    in_sync_is_due: bool,
}

/// Kinds that are followed once a policy needs them.
struct Late {
    kinds: &'static [Kind],
    /// What they are, for people.
    what: &'static str,
    is_needed_by: fn(&Resource) -> bool,
    state: State,
}

enum State {
    /// No policy needed them yet.
    Unneeded,
    /// They are being read.
    Awaited(Syncer),
    /// They are known, and changes come.
    Known(Syncer),
}

/// What one of the syncers told: the one that always is, or that of [`Watched::late`] at a place.
enum Told {
    Always(Vec<SyncEvent>),
    Late(usize, Vec<SyncEvent>),
}

impl Late {
    fn all() -> [Late; 2] {
        let late = |kinds, what, is_needed_by| Late {
            kinds,
            what,
            is_needed_by,
            state: State::Unneeded,
        };
        [
            late(
                &[Kind::ServiceEndpoints],
                "the addresses of Services",
                names_a_service,
            ),
            late(
                &[Kind::NetworkSet, Kind::GlobalNetworkSet],
                "network sets",
                may_select_sets,
            ),
        ]
    }

    fn syncer(&self) -> Option<&Syncer> {
        match &self.state {
            State::Unneeded => None,
            State::Awaited(syncer) | State::Known(syncer) => Some(syncer),
        }
    }

    fn is_known(&self) -> bool {
        matches!(self.state, State::Known(_))
    }

    fn is_awaited(&self) -> bool {
        matches!(self.state, State::Awaited(_))
    }

    /// As [`Syncer::next_batch`]; never while nobody needs them.
    async fn next_batch(&mut self, max: usize) -> Vec<SyncEvent> {
        match &mut self.state {
            State::Unneeded => std::future::pending().await,
            State::Awaited(syncer) | State::Known(syncer) => syncer.next_batch(max).await,
        }
    }
}

impl Watched {
    /// Follows objects of these kinds; those that only some policies need once one does, and whatever `kinds` says.
    pub(super) fn new(store: Arc<dyn Datastore>, kinds: impl IntoIterator<Item = Kind>) -> Self {
        let late = Late::all();
        let is_late = |kind: &Kind| late.iter().any(|late| late.kinds.contains(kind));
        let kinds = kinds.into_iter().filter(|kind| !is_late(kind));
        Watched {
            always: Syncer::with_usual_pauses(store.clone(), Selection::kinds(kinds)),
            store,
            late,
            held: BTreeMap::new(),
            in_sync_is_due: false,
        }
    }

    /// Waits for events, as [`Syncer::next_batch`] does. Dropping the future loses nothing.
    pub(super) async fn next_batch(&mut self, max: usize) -> Vec<SyncEvent> {
        loop {
            let [services, sets] = &mut self.late;
            let told = tokio::select! {
                events = services.next_batch(max) => Told::Late(0, events),
                events = sets.next_batch(max) => Told::Late(1, events),
                events = self.always.next_batch(max) => Told::Always(events),
            };
            let events = match told {
                Told::Always(events) => self.take(events),
                Told::Late(place, events) => self.take_late(place, events),
            };
            if !events.is_empty() {
                return events;
            }
        }
    }

    /// How the store stands, and why it was last lost.
    pub(super) fn trouble(&self) -> Option<&DatastoreError> {
        let is_away = |syncer: &&Syncer| syncer.status() == Some(SyncStatus::WaitForDatastore);
        let mut all = std::iter::once(&self.always).chain(self.late.iter().filter_map(Late::syncer));
        all.find(is_away).and_then(Syncer::last_error)
    }

    /// What of the events can be passed on now.
    fn take(&mut self, events: Vec<SyncEvent>) -> Vec<SyncEvent> {
        let mut passed = Vec::with_capacity(events.len());
        for event in events {
            match event {
                SyncEvent::Upsert(versioned) if self.has_to_wait(&versioned.resource) => {
                    self.follow_for(&versioned);
                    self.held.insert(versioned.key(), versioned);
                }
                SyncEvent::Upsert(versioned) => {
                    // Its newest form needs nothing that is not known.
                    if !self.held.is_empty() {
                        self.held.remove(&versioned.key());
                    }
                    passed.push(SyncEvent::Upsert(versioned));
                }
                SyncEvent::Delete(key) => {
                    self.held.remove(&key);
                    passed.push(SyncEvent::Delete(key));
                }
                SyncEvent::InSync if self.late.iter().any(Late::is_awaited) => {
                    self.in_sync_is_due = true;
                }
                SyncEvent::InSync | SyncEvent::Status(_) => passed.push(event),
            }
        }
        passed
    }

    fn has_to_wait(&self, resource: &Resource) -> bool {
        let mut missing = self.late.iter().filter(|late| !late.is_known());
        missing.any(|late| (late.is_needed_by)(resource))
    }

    /// Follows from now on what a policy is the first to need.
    fn follow_for(&mut self, policy: &Versioned) {
        for late in &mut self.late {
            if !matches!(late.state, State::Unneeded) || !(late.is_needed_by)(&policy.resource) {
                continue;
            }
            tracing::info!(policy = %policy.key(), "is the first to need {}: they are followed from now on", late.what);
            let selection = Selection::kinds(late.kinds.iter().copied());
            late.state = State::Awaited(Syncer::with_usual_pauses(self.store.clone(), selection));
        }
    }

    /// What is passed on when one of the late syncers tells something.
    fn take_late(&mut self, place: usize, events: Vec<SyncEvent>) -> Vec<SyncEvent> {
        let mut passed = Vec::with_capacity(events.len());
        for event in events {
            match event {
                SyncEvent::Upsert(_) | SyncEvent::Delete(_) => passed.push(event),
                SyncEvent::InSync => {
                    if let Some(late) = self.late.get_mut(place) {
                        late.state = match std::mem::replace(&mut late.state, State::Unneeded) {
                            State::Awaited(syncer) | State::Known(syncer) => State::Known(syncer),
                            State::Unneeded => State::Unneeded,
                        };
                    }
                    let held = std::mem::take(&mut self.held);
                    let (waiting, ready) = held
                        .into_iter()
                        .partition(|(_, versioned)| self.has_to_wait(&versioned.resource));
                    self.held = waiting;
                    passed.extend(ready.into_values().map(SyncEvent::Upsert));
                    if !self.late.iter().any(Late::is_awaited) && std::mem::take(&mut self.in_sync_is_due) {
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
    any_side(resource, |side| side.services.is_some())
}

/// Whether a rule of a policy or profile selects by labels that network sets may have. Those that are made from
/// Kubernetes' policies select pods, which network sets never are.
fn may_select_sets(resource: &Resource) -> bool {
    let is_kubernetes = matches!(resource, Resource::NetworkPolicy(policy)
        if policy.metadata.name.starts_with(KUBERNETES_POLICY_PREFIX));
    let selects = |side: &EntityRule| {
        [&side.selector, &side.not_selector, &side.namespace_selector]
            .iter()
            .any(|text| !text.is_empty())
            || side.service_accounts.is_some()
    };
    !is_kubernetes && any_side(resource, selects)
}

/// Whether something holds for a side of any rule.
fn any_side(resource: &Resource, holds: impl Fn(&EntityRule) -> bool) -> bool {
    let (ingress, egress) = match resource {
        Resource::NetworkPolicy(policy) => (&policy.spec.ingress, &policy.spec.egress),
        Resource::GlobalNetworkPolicy(policy) => (&policy.spec.ingress, &policy.spec.egress),
        Resource::Profile(profile) => (&profile.spec.ingress, &profile.spec.egress),
        _ => return false,
    };
    let rule_holds = |rule: &PolicyRule| holds(&rule.source) || holds(&rule.destination);
    ingress.iter().chain(egress).any(rule_holds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy_model::{
        Action, GlobalNetworkPolicySpec, GlobalSet, NetworkPolicySpec, Object, ServiceEndpointsSpec,
        ServiceMatch, TierSpec,
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

    fn set(name: &str) -> Resource {
        Object::named(name, GlobalSet::default()).into()
    }

    /// A policy of somebody's, whose rule selects its peers; with a Service beside it where one is named.
    fn selecting(name: &str, service: Option<&str>) -> Resource {
        let mut policy = policy(name, service);
        if let Resource::GlobalNetworkPolicy(policy) = &mut policy {
            policy
                .spec
                .egress
                .iter_mut()
                .for_each(|rule| rule.source.selector = "all()".into());
        }
        policy
    }

    fn watched(store: &MemoryStore) -> Watched {
        let kinds = [
            Kind::Tier,
            Kind::NetworkPolicy,
            Kind::GlobalNetworkPolicy,
            Kind::ServiceEndpoints,
            Kind::GlobalNetworkSet,
        ];
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
        assert!(watched.late.iter().all(|late| late.syncer().is_none()));

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
    async fn network_sets_are_followed_once_a_policy_may_select_them() {
        let store = MemoryStore::new();
        store.create(set("lan")).await.unwrap();
        let from = EntityRule {
            selector: "projectcalico.org/orchestrator == 'k8s'".into(),
            ..EntityRule::default()
        };
        let rule = PolicyRule {
            source: from,
            ..PolicyRule::default()
        };
        let spec = NetworkPolicySpec {
            ingress: vec![rule],
            ..NetworkPolicySpec::default()
        };
        let of_kubernetes = Object::namespaced("shop", "knp.default.web", spec.clone());
        store.create(of_kubernetes.into()).await.unwrap();
        let mut watched = watched(&store);
        assert_eq!(until(&mut watched, "*").await, ["knp.default.web", "*"]);
        assert!(watched.late.iter().all(|late| late.syncer().is_none()));

        let of_people = Object::namespaced("shop", "web", spec);
        store.create(of_people.into()).await.unwrap();
        assert_eq!(until(&mut watched, "web").await, ["lan", "web"]);
        store.create(set("wan")).await.unwrap();
        assert_eq!(until(&mut watched, "wan").await, ["wan"]);
    }

    #[tokio::test]
    async fn a_policy_waits_for_all_that_it_needs() {
        let store = MemoryStore::new();
        for object in [
            slice(),
            set("lan"),
            selecting("both", Some("web")),
            selecting("one", None),
        ] {
            store.create(object).await.unwrap();
        }
        let told = until(&mut watched(&store), "*").await;
        let at = |name: &str| told.iter().position(|told| told == name);
        assert_eq!(told.len(), 5, "{told:?}");
        assert!(
            at("web-x") < at("both") && at("lan") < at("both") && at("lan") < at("one"),
            "{told:?}"
        );
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
