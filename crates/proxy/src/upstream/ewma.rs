//! A moving average of latencies that follows peaks at once and forgets them slowly. Pure.
//!
//! Source: Finagle's Peak EWMA balancer.

use std::time::{Duration, Instant};

/// After this long without news, an observation counts for 1/e of what it did.
const DECAY: Duration = Duration::from_secs(10);
/// What an endpoint is taken for that has not answered yet, in nanoseconds: new ones are tried, not flooded.
const UNKNOWN: f64 = 1e6;

/// One endpoint's average.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeakEwma {
    nanos: f64,
    at: Option<Instant>,
}

impl PeakEwma {
    /// Takes note of an answer's time.
    pub fn observe(&mut self, took: Duration, now: Instant) {
        let took = took.as_nanos() as f64;
        let kept = self.kept(now);
        // A peak counts as it is; anything better only pulls the average down.
        self.nanos = took.max(self.nanos * kept + took * (1.0 - kept));
        self.at = Some(self.at.map_or(now, |at| at.max(now)));
    }

    /// The average at this time, in nanoseconds: what was slow and got no requests since is worth another try.
    pub fn nanos(&self, now: Instant) -> f64 {
        if self.at.is_none() { UNKNOWN } else { self.nanos * self.kept(now) }
    }

    fn kept(&self, now: Instant) -> f64 {
        let Some(at) = self.at else { return 0.0 };
        (-now.saturating_duration_since(at).as_secs_f64() / DECAY.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_count_at_once_and_fade() {
        let t0 = Instant::now();
        let at = |seconds| t0 + Duration::from_secs(seconds);
        let mut average = PeakEwma::default();
        assert_eq!(average.nanos(t0), UNKNOWN);
        average.observe(Duration::from_millis(2), t0);
        average.observe(Duration::from_millis(100), at(1));
        assert_eq!(average.nanos(at(1)), 1e8);
        average.observe(Duration::from_millis(2), at(1));
        assert!(average.nanos(at(1)) > 0.99e8, "one good answer does not make up for a bad one");
        for second in 2..40 {
            average.observe(Duration::from_millis(2), at(second));
        }
        assert!((2e6..6e6).contains(&average.nanos(at(39))), "{}", average.nanos(at(39)));
        assert!(average.nanos(at(100)) < 1e5);
    }
}
