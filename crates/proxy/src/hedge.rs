//! When a second try is started beside a slow first one: after the route's observed 99th percentile, within bounds.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use xds::snapshot::HedgePolicy;

/// Buckets of the latency histogram, each 2^(1/4) times the one before, from 64 µs: up to an hour.
const BUCKETS: usize = 104;
/// Fewer observations than this say nothing about a 99th percentile.
const ENOUGH: u64 = 100;
/// Observations of which the slowest says something where they come seldom, and the least number of them.
const FEW: usize = 8;
const FEWEST: usize = 3;
/// The percentile is no more than so many medians, or this time: what is fast by nature and slow by the noise of its machine
/// is not waited for as what is slow by nature.
const MEDIANS: u32 = 10;
const NOISE: Duration = Duration::from_millis(100);
/// Length of one window; the percentile is over the present window and the one before.
const WINDOW: Duration = Duration::from_secs(10);
/// The percentile is computed anew after this many observations.
const REFRESH: u64 = 64;

/// Observed times from a try's start to its response headers. Tries that lost against a hedge are not observed, so an
/// outage cannot talk the percentile up.
#[derive(Debug)]
pub struct Latency {
    windows: Mutex<Windows>,
    /// Nanoseconds; 0 is unknown.
    p99: AtomicU64,
    /// The median, as well.
    p50: AtomicU64,
    /// The last few, in nanoseconds; 0 is none. What there is where there are never enough for a percentile.
    last: [AtomicU64; FEW],
    seen: AtomicU64,
}

#[derive(Debug)]
struct Windows {
    /// Made with the first observation: of a thousand routes most are hardly used.
    counts: Option<Box<Counts>>,
    began: Instant,
    unseen: u64,
}

#[derive(Debug)]
struct Counts {
    present: [u32; BUCKETS],
    before: [u32; BUCKETS],
}

impl Default for Counts {
    fn default() -> Self {
        Self { present: [0; BUCKETS], before: [0; BUCKETS] }
    }
}

impl Latency {
    /// Nothing observed yet.
    pub fn new(now: Instant) -> Self {
        Self {
            windows: Mutex::new(Windows { counts: None, began: now, unseen: 0 }),
            p99: AtomicU64::new(0),
            p50: AtomicU64::new(0),
            last: Default::default(),
            seen: AtomicU64::new(0),
        }
    }

    /// Takes note of a try that answered.
    pub fn observe(&self, took: Duration, now: Instant) {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let windows = &mut *windows;
        let counts = windows.counts.get_or_insert_default();
        let turned = now.saturating_duration_since(windows.began) >= WINDOW;
        if turned {
            counts.before = std::mem::replace(&mut counts.present, [0; BUCKETS]);
            windows.began = now;
        }
        counts.present[bucket(took)] += 1;
        windows.unseen += 1;
        if windows.unseen >= REFRESH || turned {
            windows.unseen = 0;
            self.p99.store(percentile(counts, 100), Ordering::Relaxed);
            self.p50.store(percentile(counts, 2), Ordering::Relaxed);
        }
    }

    /// The same of what comes seldom: the last few are remembered, however long ago they were.
    pub fn observe_seldom(&self, took: Duration, now: Instant) {
        let place = self.seen.fetch_add(1, Ordering::Relaxed) as usize % FEW;
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.last[place].store(nanos, Ordering::Relaxed);
        self.observe(took, now);
    }

    /// The usual time, or twice the slowest of the last few while too little is known of it; `None` while there are hardly any.
    pub fn usual_or_slowest(&self) -> Option<Duration> {
        self.usual().or_else(|| {
            let last = self.last.iter().map(|nanos| nanos.load(Ordering::Relaxed)).filter(|nanos| *nanos > 0);
            let (count, slowest) = last.fold((0, 0), |(count, slowest), nanos| (count + 1, slowest.max(nanos)));
            (count >= FEWEST).then(|| Duration::from_nanos(slowest).saturating_mul(2).max(NOISE))
        })
    }

    /// The observed 99th percentile; `None` while too little is known.
    pub fn usual(&self) -> Option<Duration> {
        Some(self.p99.load(Ordering::Relaxed)).filter(|nanos| *nanos > 0).map(Duration::from_nanos)
    }

    /// How long a first try is waited for.
    pub fn hedge_after(&self, policy: &HedgePolicy) -> Duration {
        let median = Duration::from_nanos(self.p50.load(Ordering::Relaxed));
        let noise = NOISE.max(median.saturating_mul(MEDIANS));
        let usual = self.usual().map_or(policy.at_most, |usual| usual.min(noise));
        usual.min(policy.at_most).max(policy.at_least)
    }
}

fn bucket(took: Duration) -> usize {
    let micros = took.as_secs_f64() * 1e6;
    let index = ((micros / 64.0).max(1.0).log2() * 4.0).ceil();
    // A saturating cast by definition; the value is not negative.
    (index as usize).min(BUCKETS - 1)
}

fn upper_bound(bucket: usize) -> u64 {
    (64_000.0 * 2f64.powf(bucket as f64 / 4.0)) as u64
}

/// The time that one in `parts` takes longer than; 0 while there are too few.
fn percentile(Counts { present, before }: &Counts, parts: u64) -> u64 {
    let both = || present.iter().zip(before).map(|(present, before)| u64::from(*present) + u64::from(*before));
    let total: u64 = both().sum();
    if total < ENOUGH {
        return 0;
    }
    let mut above = total / parts;
    for (bucket, here) in both().enumerate().rev() {
        if here > above {
            return upper_bound(bucket);
        }
        above -= here;
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> HedgePolicy {
        HedgePolicy { at_least: Duration::from_millis(2), at_most: Duration::from_millis(300) }
    }

    #[test]
    fn unknown_is_the_upper_bound() {
        assert_eq!(Latency::new(Instant::now()).hedge_after(&policy()), Duration::from_millis(300));
    }

    #[test]
    fn follows_the_99th_percentile_within_bounds() {
        let t0 = Instant::now();
        for (slow, expected) in [(0u64, 4.0..4.9), (5, 4.0..4.9), (30, 100.0..120.0)] {
            let latency = Latency::new(t0);
            for n in 0..1000 {
                let took = if n % 1000 < slow { 100 } else { 4 };
                latency.observe(Duration::from_millis(took), t0);
            }
            // The last refresh was at observation 960; the slow ones came first.
            let after = latency.hedge_after(&policy()).as_secs_f64() * 1e3;
            assert!(expected.contains(&after), "{slow} slow of 1000: {after} ms");
        }
    }

    #[test]
    fn noise_is_not_waited_for_as_what_is_slow_by_nature() {
        let t0 = Instant::now();
        for (usual, noise, expected) in [(1, 1000, 100), (30, 1000, 300), (200, 250, 250), (1, 50, 50)] {
            let latency = Latency::new(t0);
            for n in 0..1000 {
                latency.observe(Duration::from_millis(if n % 20 == 0 { noise } else { usual }), t0);
            }
            let policy = HedgePolicy { at_least: Duration::ZERO, at_most: Duration::from_secs(5) };
            let after = latency.hedge_after(&policy).as_millis();
            // Buckets are as fine as a fifth.
            assert!((expected..=expected * 6 / 5).contains(&after), "{usual} {noise}: {after} ms");
        }
    }

    #[test]
    fn of_what_comes_seldom_the_slowest_of_a_few_counts() {
        let t0 = Instant::now();
        let latency = Latency::new(t0);
        let minutes = |minutes: u64| t0 + Duration::from_secs(60 * minutes);
        for (minute, millis, expected) in [(0, 10, None), (1, 80, None), (2, 20, Some(160)), (3, 1, Some(160))] {
            latency.observe_seldom(Duration::from_millis(millis), minutes(minute));
            assert_eq!(latency.usual_or_slowest(), expected.map(Duration::from_millis));
            assert_eq!(latency.usual(), None);
        }
        (0..8).for_each(|_| latency.observe_seldom(Duration::from_millis(1), minutes(4)));
        assert_eq!(latency.usual_or_slowest(), Some(NOISE), "no less than the noise of a machine");
    }

    #[test]
    fn old_windows_are_forgotten() {
        let t0 = Instant::now();
        let latency = Latency::new(t0);
        (0..200).for_each(|_| latency.observe(Duration::from_millis(200), t0));
        for seconds in [11, 22] {
            (0..200).for_each(|_| latency.observe(Duration::from_millis(4), t0 + Duration::from_secs(seconds)));
        }
        assert!(latency.hedge_after(&policy()) < Duration::from_millis(5));
    }

    #[test]
    fn every_duration_has_a_bucket() {
        for took in [Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(86_400), Duration::MAX] {
            assert!(bucket(took) < BUCKETS);
        }
    }
}
