//! Which addresses seem to be nobody's, and since when. Pure: the time is a parameter.
//!
//! An address is judged by the pod that its block names. What a node keeps ahead of need, what its tunnels use and
//! what names no pod is not judged at all, and all addresses of a handle are judged alike: if one is somebody's, all
//! are.

use crate::cluster::picture::{is_reserve, node_of};
use crate::cluster::reach::PodIdentity;
use policy_model::IpamBlockSpec;
use policy_model_ipam::block::{self, Guard, Holding};
use policy_model_ipam::engine::Target;
use policy_model_ipam::handle;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// The pods that exist, found by their names.
#[derive(Debug, Default)]
pub(crate) struct Living(HashMap<(String, String), Vec<String>>);

impl FromIterator<PodIdentity> for Living {
    fn from_iter<I: IntoIterator<Item = PodIdentity>>(pods: I) -> Self {
        let mut living: HashMap<(String, String), Vec<String>> = HashMap::new();
        for pod in pods {
            living
                .entry((pod.namespace, pod.name))
                .or_default()
                .extend(pod.uids);
        }
        Living(living)
    }
}

impl Living {
    /// Whether the pod exists; one whose identity nobody noted may be any of its name.
    fn has(&self, pod: &Pod) -> bool {
        let uids = self.0.get(&(pod.namespace.clone(), pod.name.clone()));
        uids.is_some_and(|uids| pod.is(uids))
    }
}

/// The pod that an address was given to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    uid: Option<String>,
}

impl Pod {
    /// Whether a pod of this name and these identities is the one.
    pub(crate) fn is(&self, uids: &[String]) -> bool {
        self.uid.as_ref().is_none_or(|own| uids.contains(own))
    }
}

/// An address whose pod does not exist.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Suspect {
    pub(crate) address: IpAddr,
    /// The handle and the sequence number by which it stands in its block; another allocation of the same address is
    /// another suspect.
    handle: Option<String>,
    sequence: u64,
    pub(crate) node: String,
    pub(crate) pod: Pod,
}

impl Suspect {
    /// What to release; nothing that was given again meanwhile.
    pub(crate) fn target(&self) -> Target {
        Target {
            address: self.address,
            guard: Guard {
                handle: self.handle.clone(),
                sequence: (self.sequence != 0).then_some(self.sequence),
            },
        }
    }
}

/// The addresses whose pods do not exist.
pub(crate) fn suspects<'a>(
    blocks: impl IntoIterator<Item = &'a IpamBlockSpec>,
    living: &Living,
) -> BTreeSet<Suspect> {
    let mut found = BTreeSet::new();
    let mut cleared = BTreeSet::new();
    for held in blocks.into_iter().flat_map(block::holders) {
        match suspect(&held).filter(|suspect| !living.has(&suspect.pod)) {
            Some(suspect) => {
                found.insert(suspect);
            }
            None => {
                cleared.extend(held.attribute.handle_id.clone());
            }
        }
    }
    found.retain(|suspect| {
        let handle = suspect.handle.as_ref();
        handle.is_none_or(|handle| !cleared.contains(handle))
    });
    found
}

/// What an address would be suspected of, if its pod did not exist.
fn suspect(held: &Holding<'_>) -> Option<Suspect> {
    let text = |name: &str| {
        let value = held.attribute.secondary.get(name)?;
        (!value.is_empty()).then(|| value.clone())
    };
    let node = node_of(held)?;
    let handle = held.attribute.handle_id.as_deref();
    if is_reserve(held) || handle.is_some_and(|handle| handle::is_of_node(handle, node)) {
        return None;
    }
    Some(Suspect {
        address: held.address,
        handle: handle.map(str::to_owned),
        sequence: held.sequence,
        node: node.to_owned(),
        pod: Pod {
            namespace: text(handle::ATTRIBUTE_NAMESPACE)?,
            name: text(handle::ATTRIBUTE_POD)?,
            uid: text(handle::ATTRIBUTE_UID),
        },
    })
}

/// The suspects, and since when each is one.
#[derive(Debug, Default)]
pub(crate) struct Watched(BTreeMap<Suspect, Instant>);

impl Watched {
    /// Notes who is suspected now. Whoever was not for a moment begins anew.
    pub(crate) fn note(&mut self, suspects: BTreeSet<Suspect>, now: Instant) {
        self.0.retain(|suspect, _| suspects.contains(suspect));
        for suspect in suspects {
            self.0.entry(suspect).or_insert(now);
        }
    }

    /// Those who have been suspected for as long as this.
    pub(crate) fn due(&self, grace: Duration, now: Instant) -> Vec<Suspect> {
        let old = |since: &Instant| now.saturating_duration_since(*since) >= grace;
        let due = self.0.iter().filter(|(_, since)| old(since));
        due.map(|(suspect, _)| suspect.clone()).collect()
    }

    /// One is somebody's after all, or is given back.
    pub(crate) fn forget(&mut self, suspect: &Suspect) {
        self.0.remove(suspect);
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Suspect> {
        self.0.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::picture::tests::block_with;
    use proptest::prelude::*;

    const GRACE: Duration = Duration::from_secs(900);

    fn living(pods: &[(&str, &str, &str)]) -> Living {
        pods.iter()
            .map(|(namespace, name, uid)| PodIdentity {
                namespace: (*namespace).to_owned(),
                name: (*name).to_owned(),
                uids: vec![(*uid).to_owned()],
            })
            .collect()
    }

    fn of_pod(name: &'static str, uid: &'static str) -> [(&'static str, &'static str); 4] {
        [("namespace", "shop"), ("pod", name), ("uid", uid), ("node", "a")]
    }

    fn handles(found: &BTreeSet<Suspect>) -> Vec<String> {
        found
            .iter()
            .filter_map(|suspect| suspect.handle.clone())
            .collect()
    }

    #[test]
    fn only_addresses_of_pods_that_do_not_exist_are_suspected() {
        let block = block_with(
            "10.0.0.0/26",
            Some("a"),
            &[
                ("n.live", &of_pod("live", "1")),
                ("n.gone", &of_pod("gone", "2")),
                ("n.again", &of_pod("again", "3")),
                (
                    "n.nameless",
                    &[("namespace", "shop"), ("pod", "live"), ("node", "a")],
                ),
                ("n.noone", &[("node", "a")]),
                ("n.nowhere", &[("namespace", "shop"), ("pod", "gone")]),
                ("manx-reserve-a", &[("node", "a")]),
                ("manx-reserve-a", &of_pod("gone", "2")),
                (
                    "vxlan-tunnel-addr-a",
                    &[("node", "a"), ("type", "vxlanTunnelAddress")],
                ),
                ("n.both", &of_pod("gone", "2")),
                ("n.both", &of_pod("live", "1")),
            ],
        );
        let living = living(&[("shop", "live", "1"), ("shop", "again", "33")]);
        let found = suspects([&block], &living);
        assert_eq!(handles(&found), ["n.gone", "n.again"]);
        let target = found.iter().next().unwrap().target();
        assert_eq!(target.guard.handle.as_deref(), Some("n.gone"));
        assert!(target.guard.sequence.is_some());
    }

    #[test]
    fn an_address_is_due_after_the_grace_and_begins_anew_when_it_was_somebodys() {
        let block = block_with("10.0.0.0/26", Some("a"), &[("n.gone", &of_pod("gone", "2"))]);
        let found = suspects([&block], &Living::default());
        let start = Instant::now();
        let mut watched = Watched::default();
        watched.note(found.clone(), start);
        assert!(watched.due(GRACE, start + GRACE / 2).is_empty());
        watched.note(found.clone(), start + GRACE / 2);
        assert_eq!(watched.due(GRACE, start + GRACE).len(), 1);
        watched.note(BTreeSet::new(), start + GRACE);
        watched.note(found.clone(), start + GRACE);
        assert!(watched.due(GRACE, start + GRACE).is_empty());
        // The same address, given again: another suspect.
        let again = block_with("10.0.0.0/26", Some("a"), &[("n.gone2", &of_pod("gone", "4"))]);
        let other = suspects([&again], &Living::default());
        watched.note(other, start + 2 * GRACE);
        assert!(watched.due(GRACE, start + 2 * GRACE).is_empty());
    }

    proptest! {
        /// Whatever lives and whatever is allocated: nothing of a living pod is ever suspected.
        #[test]
        fn a_living_pods_address_is_never_suspected(
            held in prop::collection::vec((0usize..6, 0usize..4, any::<bool>()), 0..20),
            alive in prop::collection::btree_set((0usize..6, 0usize..4), 0..10),
        ) {
            let names = ["p0", "p1", "p2", "p3", "p4", "p5"];
            let uids = ["u0", "u1", "u2", "u3"];
            let attributes: Vec<Vec<(&str, &str)>> = held
                .iter()
                .map(|(name, uid, has_uid)| {
                    let mut all = vec![("namespace", "x"), ("pod", names[*name]), ("node", "a")];
                    if *has_uid {
                        all.push(("uid", uids[*uid]));
                    }
                    all
                })
                .collect();
            let handles: Vec<String> = (0..held.len()).map(|n| format!("n.{n}")).collect();
            let given: Vec<(&str, &[(&str, &str)])> =
                handles.iter().zip(&attributes).map(|(h, a)| (h.as_str(), a.as_slice())).collect();
            let block = block_with("10.0.0.0/26", Some("a"), &given);
            let pods: Vec<(&str, &str, &str)> = alive.iter().map(|(n, u)| ("x", names[*n], uids[*u])).collect();
            let living = living(&pods);
            let found = suspects([&block], &living);
            for (n, (name, uid, has_uid)) in held.iter().enumerate() {
                let lives = alive.iter().any(|(a, u)| a == name && (!has_uid || u == uid));
                let is_suspected = found.iter().any(|s| s.handle.as_deref() == Some(handles[n].as_str()));
                prop_assert_eq!(is_suspected, !lives);
            }
        }
    }
}
