//! How late something was: the largest delay and the 99th percentile, in a bounded space.

use evidence::record::{Lateness, Nanos};

/// Four for each power of two.
const BUCKETS: usize = 256;

/// A distribution of delays.
#[derive(Clone, Debug)]
pub struct Late {
    max: Nanos,
    counts: Vec<u64>,
}

impl Default for Late {
    fn default() -> Self {
        Self { max: 0, counts: vec![0; BUCKETS] }
    }
}

impl Late {
    /// One delay; early is not late.
    pub fn note(&mut self, by: Nanos) {
        let by = by.max(0);
        self.max = self.max.max(by);
        if let Some(count) = self.counts.get_mut(bucket(by)) {
            *count += 1;
        }
    }

    /// What was noted. The percentile is at most a quarter above the true one.
    pub fn summary(&self) -> Lateness {
        let total: u64 = self.counts.iter().sum();
        let rank = (total.saturating_mul(99)).div_ceil(100);
        let mut seen = 0;
        let at = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        Lateness { max: self.max, p99: at.map_or(0, end).min(self.max) }
    }
}

fn bucket(by: Nanos) -> usize {
    let by = by.unsigned_abs();
    if by < 4 {
        return by as usize;
    }
    let power = 63 - by.leading_zeros();
    (power as usize) * 4 + ((by >> (power - 2)) & 3) as usize
}

/// The largest delay of a bucket.
fn end(bucket: usize) -> Nanos {
    if bucket < 8 {
        return bucket as Nanos;
    }
    let (power, quarter) = (bucket / 4, (bucket % 4) as u128);
    let next = (5 + quarter) << (power - 2);
    Nanos::try_from(next - 1).unwrap_or(Nanos::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_near_and_never_below() {
        let check = |delays: &mut dyn Iterator<Item = Nanos>, max: Nanos, p99: Nanos| {
            let mut late = Late::default();
            delays.for_each(|by| late.note(by));
            let seen = late.summary();
            assert_eq!(seen.max, max);
            assert!(seen.p99 >= p99 && seen.p99 <= p99.saturating_add(p99 / 4), "{seen:?}, {p99} is true");
        };
        check(&mut std::iter::empty(), 0, 0);
        check(&mut [-5, 0].into_iter(), 0, 0);
        check(&mut [7].into_iter(), 7, 7);
        check(&mut (1..=100_000), 100_000, 99_000);
        check(&mut (1..=1_000).map(|n| if n <= 990 { 1_000 } else { 5_000_000_000 }), 5_000_000_000, 1_000);
        check(&mut [Nanos::MAX, Nanos::MIN].into_iter(), Nanos::MAX, Nanos::MAX);
        for by in [0, 1, 3, 4, 5, 7, 8, 1_000_003, Nanos::MAX] {
            assert!(end(bucket(by)) >= by, "{by}");
        }
    }
}
