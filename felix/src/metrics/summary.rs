//! Quantiles of recent observations, as Calico's graphs expect them.
//!
//! The library has histograms and no summaries. Kept are the latest observations of the last minutes, in a buffer
//! of fixed size: exact for them, and bounded in memory whatever happens.

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Metric, MetricFamily, MetricType, Quantile, Summary as SummaryValue};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The quantiles that are shown.
const QUANTILES: [f64; 3] = [0.5, 0.9, 0.99];
/// How many observations are kept for them.
const KEPT: usize = 1024;
/// How long an observation counts as recent.
const RECENT: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
struct Observations {
    count: u64,
    sum: f64,
    recent: VecDeque<(Instant, f64)>,
}

impl Observations {
    fn observe(&mut self, value: f64, now: Instant) {
        self.count += 1;
        self.sum += value;
        if self.recent.len() == KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back((now, value));
    }

    /// The value below or at which this share of recent observations is; not a number when there are none.
    fn quantiles(&self, now: Instant) -> Vec<(f64, f64)> {
        let mut values: Vec<f64> = self
            .recent
            .iter()
            .filter(|(moment, _)| now.saturating_duration_since(*moment) <= RECENT)
            .map(|(_, value)| *value)
            .collect();
        values.sort_by(f64::total_cmp);
        QUANTILES
            .iter()
            .map(|share| (*share, nearest_rank(&values, *share)))
            .collect()
    }
}

fn nearest_rank(sorted: &[f64], share: f64) -> f64 {
    // At most `KEPT` values, so that both conversions are exact.
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// A summary without labels. Cheap to clone; every clone is the same summary.
#[derive(Clone, Debug)]
pub struct Summary {
    description: Desc,
    observations: Arc<Mutex<Observations>>,
}

impl Summary {
    /// A summary without observations.
    ///
    /// # Errors
    /// When the name is not one of a metric.
    pub fn new(name: &str, help: &str) -> Result<Self, prometheus::Error> {
        let description = Desc::new(name.to_owned(), help.to_owned(), Vec::new(), HashMap::new())?;
        Ok(Summary {
            description,
            observations: Arc::default(),
        })
    }

    /// Adds an observation.
    pub fn observe(&self, value: f64) {
        self.observe_at(value, Instant::now());
    }

    fn observe_at(&self, value: f64, now: Instant) {
        self.observations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .observe(value, now);
    }

    fn collect_at(&self, now: Instant) -> Vec<MetricFamily> {
        let observations = self.observations.lock().unwrap_or_else(PoisonError::into_inner);
        let quantiles = observations.quantiles(now).into_iter().map(|(share, value)| {
            let mut quantile = Quantile::default();
            quantile.set_quantile(share);
            quantile.set_value(value);
            quantile
        });
        let mut summary = SummaryValue::default();
        summary.set_sample_count(observations.count);
        summary.set_sample_sum(observations.sum);
        summary.set_quantile(quantiles.collect());
        let mut metric = Metric::default();
        metric.set_summary(summary);
        let mut family = MetricFamily::default();
        family.set_name(self.description.fq_name.clone());
        family.set_help(self.description.help.clone());
        family.set_field_type(MetricType::SUMMARY);
        family.set_metric(vec![metric]);
        vec![family]
    }
}

impl Collector for Summary {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.description]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.collect_at(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(summary: &Summary, now: Instant) -> (u64, f64, Vec<f64>) {
        let families = summary.collect_at(now);
        let value = families[0].get_metric()[0].get_summary();
        (
            value.sample_count(),
            value.sample_sum(),
            value.get_quantile().iter().map(Quantile::value).collect(),
        )
    }

    #[test]
    fn quantiles_are_those_of_the_observations() {
        let summary = Summary::new("a", "b").unwrap();
        let now = Instant::now();
        for value in (1..=100).rev() {
            summary.observe_at(f64::from(value), now);
        }
        assert_eq!(shown(&summary, now), (100, 5050.0, vec![50.0, 90.0, 99.0]));
    }

    #[test]
    fn old_observations_count_and_are_not_recent() {
        let summary = Summary::new("a", "b").unwrap();
        let begin = Instant::now();
        summary.observe_at(1000.0, begin);
        let later = begin + RECENT + Duration::from_secs(1);
        summary.observe_at(1.0, later);
        assert_eq!(shown(&summary, later), (2, 1001.0, vec![1.0, 1.0, 1.0]));
    }

    #[test]
    fn without_observations_there_is_no_quantile() {
        let summary = Summary::new("a", "b").unwrap();
        let (count, sum, quantiles) = shown(&summary, Instant::now());
        assert_eq!((count, sum), (0, 0.0));
        assert!(quantiles.iter().all(|value| value.is_nan()));
    }

    #[test]
    fn memory_is_bounded() {
        let summary = Summary::new("a", "b").unwrap();
        let now = Instant::now();
        for _ in 0..10 * KEPT {
            summary.observe_at(1.0, now);
        }
        assert_eq!(summary.observations.lock().unwrap().recent.len(), KEPT);
        assert_eq!(shown(&summary, now).0, 10 * KEPT as u64);
    }
}
