//! Why a pod got no address, until there is one again: for whoever asks whether the node can connect pods, and for
//! metrics and events, by which people hear of a pool that is exhausted.

use crate::allocator::locked;
use policy_model_ipam::pool::PoolRef;
use policy_model_ipam::{Family, IpamError};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Pods that ask for certain pools are asked about no more when they are gone, so what they lacked is forgotten when
/// nobody has asked again for so long.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// A family of which a pod of this node was refused an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// The family.
    pub family: Family,
    /// Names of the pools that had none; empty where no pool may serve the node's pods.
    pub pools: Vec<String>,
    /// The whole reason, with what to do about it.
    pub reason: String,
}

/// What was asked for: a family, and the pools of which it should be; none means any.
type Asked = (Family, Vec<PoolRef>);

/// What was refused, and has not been given since.
#[derive(Debug, Default)]
pub(crate) struct Shortages {
    known: Mutex<BTreeMap<Asked, (Shortage, Instant)>>,
    told: watch::Sender<Vec<Shortage>>,
}

impl Shortages {
    /// Follows them.
    pub(crate) fn follow(&self) -> watch::Receiver<Vec<Shortage>> {
        self.told.subscribe()
    }

    /// Notes a refusal, if it is one for want of addresses of the family.
    pub(crate) fn refused(&self, family: Family, asked: &[PoolRef], error: &IpamError) {
        let Some(pools) = pools_without(error, family) else {
            return;
        };
        let reason = explained(error);
        let shortage = Shortage {
            family,
            pools,
            reason,
        };
        let asked = (family, asked.to_vec());
        locked(&self.known).insert(asked, (shortage, Instant::now()));
        self.tell();
    }

    /// Notes that there was an address.
    pub(crate) fn served(&self, family: Family, asked: &[PoolRef]) {
        let asked = (family, asked.to_vec());
        if locked(&self.known).remove(&asked).is_some() {
            self.tell();
        }
    }

    /// Forgets what nobody asks for any more.
    pub(crate) fn forget_old(&self, now: Instant) {
        locked(&self.known)
            .retain(|(_, asked), (_, last)| asked.is_empty() || now.duration_since(*last) < FORGOTTEN);
        self.tell();
    }

    /// Whether a pod that asks for no certain pool was refused.
    pub(crate) fn has(&self, family: Family) -> bool {
        locked(&self.known).contains_key(&(family, Vec::new()))
    }

    /// Why a pod that asks for no certain pool gets no address. (One that asks for a pool in vain says nothing about the
    /// node.)
    pub(crate) fn of_any_pool(&self) -> Option<String> {
        let known = locked(&self.known);
        let reasons: Vec<&str> = known
            .iter()
            .filter(|((_, asked), _)| asked.is_empty())
            .map(|(_, (shortage, _))| shortage.reason.as_str())
            .collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    fn tell(&self) {
        self.told.send_if_modified(|told| {
            // Under the lock of what is told, so that an older picture never takes the place of a newer one.
            let now: Vec<Shortage> = locked(&self.known)
                .values()
                .map(|(shortage, _)| shortage.clone())
                .collect();
            let is_news = *told != now;
            *told = now;
            is_news
        });
    }
}

/// The pools that had no address of a family, if a refusal says that.
fn pools_without(error: &IpamError, wanted: Family) -> Option<Vec<String>> {
    let (family, pools) = match error {
        IpamError::NoUsablePool { family, .. } => (family, [].as_slice()),
        IpamError::Exhausted { family, pools, .. }
        | IpamError::MaxBlocks { family, pools, .. }
        | IpamError::ClaimsDisabled { family, pools, .. } => (family, pools.as_slice()),
        _ => return None,
    };
    (*family == wanted).then(|| pools.iter().map(|shortage| shortage.pool.clone()).collect())
}

/// What address management says, and what a person can do about it. The plugin's caller shows it: kubelet in an event of
/// the pod.
pub(crate) fn explained(error: &IpamError) -> String {
    let remedy = match error {
        IpamError::NoPools { .. } => "make an IPPool of this family",
        IpamError::NoUsablePool { .. } => "make an IPPool that may serve this node, or change one of these",
        IpamError::Exhausted { strict: true, .. } => {
            "make another IPPool, or switch strictAffinity off (IPAMConfig default); `manx ipam show --blocks` says which \
             node has which addresses"
        }
        IpamError::Exhausted { .. } => {
            "make another IPPool, or delete pods that are not needed; `manx ipam show` says how full each pool is"
        }
        IpamError::MaxBlocks { .. } => {
            "raise maxBlocksPerHost (IPAMConfig default), or have fewer pods on this node"
        }
        IpamError::ClaimsDisabled { .. } => {
            "switch autoAllocateBlocks on (IPAMConfig default), or have fewer pods on this node"
        }
        _ => return error.to_string(),
    };
    format!("{error}. To do: {remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exhausted(pool: &str) -> IpamError {
        let shortage = policy_model_ipam::PoolShortage {
            pool: pool.into(),
            cidr: "10.0.0.0/30".parse().unwrap(),
            blocks: 1,
            own: 1,
            has_room: false,
            free_elsewhere: 0,
        };
        IpamError::Exhausted {
            family: Family::V4,
            node: "n".into(),
            pools: vec![shortage],
            refused: Vec::new(),
            strict: false,
        }
    }

    #[tokio::test]
    async fn a_shortage_lasts_until_there_is_an_address_of_what_was_asked_for() {
        let all = Shortages::default();
        let mut follow = all.follow();
        let asked = [PoolRef::Name("p".into())];
        // Of another family, or no want of addresses.
        all.refused(Family::V6, &[], &exhausted("p"));
        all.refused(Family::V4, &[], &IpamError::NoHandle);
        assert!(!follow.has_changed().unwrap());

        all.refused(Family::V4, &asked, &exhausted("p"));
        assert_eq!((all.of_any_pool(), all.has(Family::V4)), (None, false));
        all.refused(Family::V4, &[], &exhausted("p"));
        let reason = all.of_any_pool().unwrap();
        for words in [
            "no IPv4 address for node n",
            "pool p (10.0.0.0/30)",
            "make another IPPool",
        ] {
            assert!(reason.contains(words), "{reason}");
        }
        let told = follow.borrow_and_update().clone();
        assert_eq!(told.len(), 2);
        assert!(
            told.iter()
                .all(|shortage| shortage.pools == ["p"] && shortage.reason == reason)
        );
        // Said again it is no news.
        all.refused(Family::V4, &[], &exhausted("p"));
        assert!(!follow.has_changed().unwrap());

        all.served(Family::V4, &[]);
        assert_eq!(all.of_any_pool(), None);
        assert_eq!(follow.borrow_and_update().len(), 1);
        let later = |seconds| Instant::now() + Duration::from_secs(seconds);
        all.forget_old(later(300));
        assert_eq!(follow.borrow().len(), 1);
        all.refused(Family::V4, &[], &exhausted("p"));
        all.forget_old(later(700));
        assert_eq!(follow.borrow().len(), 1, "what any pod would meet is kept");
        assert!(all.has(Family::V4));
    }
}
