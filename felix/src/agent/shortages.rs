//! Tells people that pods of this node get no address: a metric for as long as it is so, and an event of the node when it
//! begins. (That a single pod waits, its own events say: kubelet writes there what the plugin answered.)

use super::chain;
use crate::metrics::Metrics;
use felix_cni::Shortage;
use policy_model_datastore_kube::KubeStore;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// What the event gives as its reason.
const REASON: &str = "NoAddress";
/// Pools that are exhausted, have an address and are exhausted again make no more events than one in this time.
const EVENT_PAUSE: Duration = Duration::from_secs(60);

/// Tells it, for good.
pub(super) async fn tell(
    node: String,
    store: Option<KubeStore>,
    metrics: Metrics,
    mut shortages: watch::Receiver<Vec<Shortage>>,
) {
    let mut news = News::default();
    loop {
        let now = shortages.borrow_and_update().clone();
        let labels: BTreeSet<(String, &str)> = now.iter().flat_map(labels).collect();
        metrics.set_exhausted(labels.iter().map(|(family, pool)| (family.as_str(), *pool)));
        for reason in news.of(&now, Instant::now()) {
            tracing::warn!("a pod gets no address: {reason}");
            if let Some(store) = &store
                && let Err(error) = store.warn_of_node(&node, REASON, &reason).await
            {
                tracing::warn!(error = chain(&error), "the event that says so cannot be written");
            }
        }
        if shortages.changed().await.is_err() {
            // Nobody follows them any more: the agent ends.
            return;
        }
    }
}

/// Family and pool of a shortage, one for each pool, and one without a pool where none may serve.
fn labels(shortage: &Shortage) -> Vec<(String, &str)> {
    let family = shortage.family.to_string();
    match shortage.pools.as_slice() {
        [] => vec![(family, "")],
        pools => pools.iter().map(|pool| (family.clone(), pool.as_str())).collect(),
    }
}

/// Which shortages are new.
#[derive(Default)]
struct News {
    known: BTreeSet<(String, Vec<String>)>,
    told: Option<Instant>,
}

impl News {
    /// Reasons of those that began, which may be told now.
    fn of(&mut self, now: &[Shortage], moment: Instant) -> Vec<String> {
        let name = |shortage: &Shortage| (shortage.family.to_string(), shortage.pools.clone());
        let reasons: Vec<String> = now
            .iter()
            .filter(|shortage| !self.known.contains(&name(shortage)))
            .map(|shortage| shortage.reason.clone())
            .collect();
        self.known = now.iter().map(name).collect();
        let is_soon = self
            .told
            .is_some_and(|told| moment.duration_since(told) < EVENT_PAUSE);
        if reasons.is_empty() || is_soon {
            return Vec::new();
        }
        self.told = Some(moment);
        reasons
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::MetricsOptions;

    fn shortage(pools: &[&str], reason: &str) -> Shortage {
        Shortage {
            family: felix_cni::Family::V4,
            pools: pools.iter().map(|pool| (*pool).to_owned()).collect(),
            reason: reason.to_owned(),
        }
    }

    #[test]
    fn what_begins_is_told_and_not_too_often() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut news = News::default();
        assert_eq!(news.of(&[], at(0)), Vec::<String>::new());
        assert_eq!(news.of(&[shortage(&["a"], "1 block")], at(1)), ["1 block"]);
        // The same pool with other numbers is no news.
        assert_eq!(
            news.of(&[shortage(&["a"], "2 blocks")], at(200)),
            Vec::<String>::new()
        );
        let both = [shortage(&["a"], "2 blocks"), shortage(&[], "none serves")];
        assert_eq!(news.of(&both, at(201)), ["none serves"]);
        assert_eq!(news.of(&[], at(202)), Vec::<String>::new());
        assert_eq!(
            news.of(&[shortage(&["a"], "3")], at(203)),
            Vec::<String>::new(),
            "too soon"
        );
        assert_eq!(news.of(&[], at(300)), Vec::<String>::new());
        assert_eq!(news.of(&[shortage(&["a"], "4")], at(301)), ["4"]);
    }

    #[tokio::test]
    async fn the_metric_follows() {
        let metrics = Metrics::new(&MetricsOptions {
            host: "n".into(),
            process: false,
        })
        .unwrap();
        let (say, hear) = watch::channel(vec![shortage(&["a", "b"], "x"), shortage(&["a"], "y")]);
        let telling = tokio::spawn(tell("n".into(), None, metrics.clone(), hear));
        let until = async |shown: usize| {
            let count = || metrics.render().unwrap().matches("felix_ipam_exhausted{").count();
            while count() != shown {
                tokio::task::yield_now().await;
            }
        };
        until(2).await;
        say.send(vec![shortage(&[], "z")]).unwrap();
        until(1).await;
        say.send(Vec::new()).unwrap();
        until(0).await;
        drop(say);
        telling.await.unwrap();
    }
}
