//! The samples of one probe, prepared so that any window of them is judged without reading it again.

use crate::v1::record::{Nanos, Objectives, Outcome, ProbeRecord, Sample};

/// Length of a slice: one second.
pub const SLICE: Nanos = 1_000_000_000;

/// Relative slack when a count is compared with a percentage, for the rounding of the percentage itself.
const ROUNDING: f64 = 1e-9;

/// Whether the request had a good answer in time. An answer after the probe's timeout is none.
pub fn is_good(sample: &Sample, probe: &ProbeRecord) -> bool {
    sample.outcome == Outcome::Ok && (probe.timeout <= 0 || sample.latency <= probe.timeout)
}

/// Samples in order of due time, with running counts: `x[i]` counts over the first `i` samples.
#[derive(Debug)]
pub struct Series<'a> {
    /// The probe.
    pub probe: &'a ProbeRecord,
    /// In order of `due`.
    pub samples: Vec<&'a Sample>,
    good: Vec<u32>,
    fast: Vec<u32>,
    holes: Vec<u32>,
    rate: f64,
}

impl<'a> Series<'a> {
    /// Prepares the samples of `probe` to be judged by `objectives`.
    pub fn new(probe: &'a ProbeRecord, objectives: &Objectives) -> Self {
        let mut samples: Vec<&Sample> = probe.samples.iter().collect();
        samples.sort_by_key(|sample| sample.due);
        let limit = objectives.latency_p99.unwrap_or(Nanos::MAX);
        let (mut good, mut fast, mut holes) = (vec![0], vec![0], vec![0]);
        let mut previous: Option<Nanos> = None;
        for sample in &samples {
            let is_good = is_good(sample, probe);
            let is_hole = previous.is_some_and(|due| exceeds(sample.due, due, probe.interval));
            good.push(good[good.len() - 1] + u32::from(is_good));
            fast.push(fast[fast.len() - 1] + u32::from(is_good && sample.latency <= limit));
            holes.push(holes[holes.len() - 1] + u32::from(is_hole));
            previous = Some(sample.due);
        }
        Self { probe, samples, good, fast, holes, rate: objectives.success_rate }
    }

    /// Number of samples due before `time`.
    pub fn before(&self, time: Nanos) -> usize {
        self.samples.partition_point(|sample| sample.due < time)
    }

    /// Failed requests that were under way at `time`: due before it, and failed after it.
    pub fn caught_at(&self, time: Nanos) -> impl Iterator<Item = usize> {
        let first = self.before(time.saturating_sub(self.probe.timeout.max(0)));
        let is_caught = move |at: &usize| {
            !self.good(*at) && self.samples[*at].due.saturating_add(self.samples[*at].latency) >= time
        };
        (first..self.before(time)).filter(is_caught)
    }

    /// Whether sample `at` had a good answer in time.
    pub fn good(&self, at: usize) -> bool {
        self.good[at + 1] > self.good[at]
    }

    /// Good answers among the samples `from..to` (positions).
    pub fn good_in(&self, from: usize, to: usize) -> usize {
        (self.good[to] - self.good[from]) as usize
    }

    /// Whether the last request due at or before `time` succeeded; true if there is none.
    pub fn up_at(&self, time: Nanos) -> bool {
        let seen = self.samples.partition_point(|sample| sample.due <= time);
        seen == 0 || self.good(seen - 1)
    }

    /// Whether every request that was to be due in `from..to` is there.
    pub fn is_complete(&self, from: Nanos, to: Nanos) -> bool {
        let (first, last) = (self.before(from), self.before(to));
        first < last
            && self.holes[last] == self.holes[first + 1]
            && !exceeds(self.samples[first].due, from, self.probe.interval)
            && !exceeds(to, self.samples[last - 1].due, self.probe.interval)
    }

    /// Whether every slice of `from..to` that has samples reaches the objectives, and no beginning of the first slice is
    /// below the success rate: with a low rate, a lucky answer inside an outage would otherwise start a window.
    pub fn sustains(&self, from: Nanos, to: Nanos) -> bool {
        let (first, last) = (self.before(from), self.before(to));
        let mut at = first;
        while at < last {
            // Slices without samples are skipped, so that the work is bounded by the samples.
            let slice = self.samples[at].due.saturating_sub(from) / SLICE;
            let end = from.saturating_add((slice + 1).saturating_mul(SLICE)).min(to);
            let next = self.before(end).clamp(at + 1, last);
            if !self.reaches(at, next) {
                return false;
            }
            at = next;
        }
        let first_slice = self.before(from.saturating_add(SLICE).min(to));
        (first..first_slice).all(|at| self.is_rate_reached(first, at + 1))
    }

    /// Whether the samples `from..to` (positions) reach the objectives.
    pub fn reaches(&self, from: usize, to: usize) -> bool {
        let good = self.good_in(from, to);
        // The p99 (nearest rank) is within the limit if at least 99 % of the good answers are.
        let needed = (good * 99).div_ceil(100);
        self.is_rate_reached(from, to) && (self.fast[to] - self.fast[from]) as usize >= needed
    }

    /// For each position, the first one behind it such that the samples from the one up to the other miss the success rate;
    /// `u32::MAX` if there is none.
    ///
    /// They miss it if 100 × good answers < rate × samples: if a sum over the samples has fallen. So this is the next smaller
    /// value of that sum, which is kept in fixed point: exact where the comparison in floating point is in doubt.
    pub fn shortfalls(&self) -> Vec<u32> {
        const POINT: f64 = (1_u64 << 60) as f64;
        let rate = (self.rate.clamp(0.0, 1e6) * (1.0 - ROUNDING) * POINT) as i128;
        let sum = |at: usize| ((100_i128 * self.good[at] as i128) << 60) - rate * at as i128;
        let mut shortfalls = vec![u32::MAX; self.good.len()];
        let mut open: Vec<u32> = Vec::new();
        for at in (0..self.good.len()).rev() {
            while open.pop_if(|behind| sum(*behind as usize) >= sum(at)).is_some() {}
            if let Some(behind) = open.last() {
                shortfalls[at] = *behind;
            }
            open.push(at as u32);
        }
        shortfalls
    }

    fn is_rate_reached(&self, from: usize, to: usize) -> bool {
        let count = (to - from) as f64;
        self.good_in(from, to) as f64 * 100.0 >= self.rate * count * (1.0 - ROUNDING)
    }
}

/// Whether `later` is so far behind `earlier` that a request is missing in between.
fn exceeds(later: Nanos, earlier: Nanos, interval: Nanos) -> bool {
    later.saturating_sub(earlier) > interval.saturating_add(interval / 2)
}
