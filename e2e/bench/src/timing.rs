//! Repeated measurements and what sums them up.

use std::time::Duration;

/// Measurements of one thing.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    all: Vec<Duration>,
}

impl Samples {
    /// Adds one.
    pub fn add(&mut self, sample: Duration) {
        self.all.push(sample);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The one that this share of all does not exceed; zero of nothing.
    pub fn quantile(&self, share: f64) -> Duration {
        let mut sorted = self.all.clone();
        sorted.sort_unstable();
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    /// The middle one.
    pub fn median(&self) -> Duration {
        self.quantile(0.5)
    }

    /// The least: what remains when nothing else disturbs.
    pub fn least(&self) -> Duration {
        self.all.iter().min().copied().unwrap_or_default()
    }

    /// The largest.
    pub fn largest(&self) -> Duration {
        self.all.iter().max().copied().unwrap_or_default()
    }
}

impl FromIterator<Duration> for Samples {
    fn from_iter<I: IntoIterator<Item = Duration>>(samples: I) -> Self {
        Samples {
            all: samples.into_iter().collect(),
        }
    }
}

/// The middle of some numbers; zero of nothing.
pub fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted.get(middle).copied().unwrap_or_default(),
        _ => sorted
            .get(middle - 1..=middle)
            .map_or(0.0, |two| two.iter().sum::<f64>() / 2.0),
    }
}

/// A number from the environment, for shorter or longer runs.
pub fn from_environment(name: &str, otherwise: usize) -> usize {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(otherwise)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_measured_values() {
        let samples: Samples = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(samples.median(), Duration::from_millis(50));
        assert_eq!(samples.quantile(0.99), Duration::from_millis(99));
        assert_eq!(
            (samples.least(), samples.largest()),
            (Duration::from_millis(1), Duration::from_millis(100))
        );
        assert_eq!(Samples::default().median(), Duration::ZERO);
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
    }
}
