//! A classic histogram: a count for each range of sizes, and their sum.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::metrics::text::{Labels, Text};

/// What a histogram's ranges are. Observations are whole numbers, so that counting them is one addition.
#[derive(Debug, PartialEq)]
pub struct Scale {
    /// Upper bounds, inclusive, rising; a last range without bound follows.
    pub bounds: &'static [u64],
    /// How many of the observed unit make one of the printed.
    pub unit: f64,
}

/// A histogram.
#[derive(Debug)]
pub struct Histogram {
    scale: &'static Scale,
    ranges: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    /// Nothing observed yet.
    pub fn new(scale: &'static Scale) -> Self {
        Self { scale, ranges: (0..=scale.bounds.len()).map(|_| AtomicU64::new(0)).collect(), sum: AtomicU64::new(0) }
    }

    /// Counts one.
    pub fn observe(&self, value: u64) {
        let range = self.scale.bounds.partition_point(|bound| *bound < value);
        self.ranges[range].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// How many were observed.
    pub fn count(&self) -> u64 {
        self.ranges.iter().map(|range| range.load(Ordering::Relaxed)).sum()
    }

    /// Its samples: one for each range with those below, then sum and count.
    pub fn render(&self, text: &mut Text, name: &str, labels: &Labels) {
        let bucket = format!("{name}_bucket");
        let mut below = 0;
        #[allow(clippy::cast_precision_loss, reason = "bounds and sums are printed as floats anyway")]
        let printed = |value: u64| value as f64 / self.scale.unit;
        for (bound, range) in self.scale.bounds.iter().zip(&self.ranges) {
            below += range.load(Ordering::Relaxed);
            text.sample(&bucket, &labels.clone().and("le", printed(*bound)), below);
        }
        below += self.ranges.last().map_or(0, |range| range.load(Ordering::Relaxed));
        text.sample(&bucket, &labels.clone().and("le", "+Inf"), below);
        text.sample(&format!("{name}_sum"), labels, printed(self.sum.load(Ordering::Relaxed)));
        text.sample(&format!("{name}_count"), labels, below);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bound_counts_all_below_it() {
        static SCALE: Scale = Scale { bounds: &[500, 1000, 2500], unit: 1000.0 };
        let histogram = Histogram::new(&SCALE);
        for value in [0, 500, 501, 2500, 2501] {
            histogram.observe(value);
        }
        let mut text = Text::default();
        histogram.render(&mut text, "d", &Labels::default().and("a", 1));
        let expected = "d_bucket{a=\"1\",le=\"0.5\"} 2\nd_bucket{a=\"1\",le=\"1\"} 3\nd_bucket{a=\"1\",le=\"2.5\"} 4\n\
                        d_bucket{a=\"1\",le=\"+Inf\"} 5\nd_sum{a=\"1\"} 6.002\nd_count{a=\"1\"} 5\n";
        assert_eq!(text.finish(), expected);
        assert_eq!(histogram.count(), 5);
    }
}
