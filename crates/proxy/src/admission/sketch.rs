//! Latencies in ranges, each a sixteenth of an octave wide, and their median. Pure.

use std::time::Duration;

/// Ranges in a doubling: a median is exact to 4.5 %, well within any buffer.
const PER_OCTAVE: f64 = 16.0;
/// From a microsecond to more than a minute.
pub const RANGES: usize = 26 * 16 + 1;

/// In which range a latency is.
pub fn range(took: Duration) -> usize {
    let micros = took.as_secs_f64() * 1e6;
    // A saturating cast by definition; the value is not negative.
    ((micros.max(1.0).log2() * PER_OCTAVE).round() as usize).min(RANGES - 1)
}

/// Counts of latencies by range.
#[derive(Debug)]
pub struct Sketch {
    counts: [u64; RANGES],
}

impl Default for Sketch {
    fn default() -> Self {
        Self { counts: [0; RANGES] }
    }
}

impl Sketch {
    /// Of these counts, one for each range.
    pub fn of(counts: [u64; RANGES]) -> Self {
        Self { counts }
    }

    /// Counts one.
    #[cfg(test)]
    pub fn observe(&mut self, took: Duration) {
        self.counts[range(took)] += 1;
    }

    /// Counts all of another one.
    pub fn add(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The median, as the middle of its range; `None` of nothing.
    pub fn median(&self) -> Option<Duration> {
        let half = self.count().div_ceil(2);
        let mut below = 0;
        let middle = self.counts.iter().position(|count| {
            below += count;
            half > 0 && below >= half
        });
        middle.map(|range| Duration::from_secs_f64(2f64.powf(range as f64 / PER_OCTAVE) * 1e-6))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_near() {
        let mut sketch = Sketch::default();
        assert_eq!(sketch.median(), None);
        for micros in [0, 900, 5_000, 5_100, 70_000_000_000] {
            sketch.observe(Duration::from_micros(micros));
        }
        let median = sketch.median().unwrap().as_secs_f64();
        assert!((median / 5e-3 - 1.0).abs() < 0.045, "{median}");
        let mut twice = Sketch::default();
        (0..2).for_each(|_| twice.add(&sketch));
        assert_eq!((twice.count(), twice.median()), (10, sketch.median()));
    }
}
