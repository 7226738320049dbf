//! The samples of one probe, prepared so that any window of them is judged without reading it again.

use crate::record::{Nanos, Objectives, Outcome, ProbeRecord, Sample};

/// Length of a slice: one second.
pub const SLICE: Nanos = 1_000_000_000;

/// Units of a percentage in the comparison of counts, which is exact.
const UNITS: f64 = 1e9;

/// Share of a success rate by which a count may miss it, for the rounding of the percentage itself.
const ROUNDING: f64 = 1e-9;

/// Whether the request had the expected answer in time: within the probe's timeout, and within the recovery time objective,
/// because a caller who waits longer than that was not served.
pub fn is_good(sample: &Sample, probe: &ProbeRecord, objectives: &Objectives) -> bool {
    let in_time = |limit: Nanos| limit <= 0 || sample.latency <= limit;
    sample.outcome == Outcome::Ok && in_time(probe.timeout) && in_time(objectives.recovery_time.unwrap_or(0))
}

/// Samples in order of due time, with running counts: `x[i]` counts over the first `i` samples. Requests that the engine
/// did not send count as neither good nor failed.
#[derive(Debug)]
pub struct Series<'a> {
    /// The probe.
    pub probe: &'a ProbeRecord,
    /// In order of `due`.
    pub samples: Vec<&'a Sample>,
    sent: Vec<usize>,
    good: Vec<usize>,
    fast: Vec<usize>,
    holes: Vec<usize>,
    /// Good answers beyond those that the success rate asks for, in units of a percentage.
    surplus: Vec<i128>,
    /// For each position, the first later one with a smaller surplus.
    below: Vec<usize>,
    /// Samples at which a slice begins that misses an objective.
    misses: Vec<usize>,
    slice: Nanos,
}

impl<'a> Series<'a> {
    /// Prepares the samples of `probe` to be judged by `objectives`, in time linear in their number once they are sorted.
    pub fn new(probe: &'a ProbeRecord, objectives: &Objectives) -> Self {
        let mut samples: Vec<&Sample> = probe.samples.iter().collect();
        samples.sort_by_key(|sample| sample.due);
        let limit = objectives.latency_p99.unwrap_or(Nanos::MAX);
        let asked = (objectives.success_rate * UNITS * (1.0 - ROUNDING)) as i128;
        let length = samples.len() + 1;
        let counts = || Vec::with_capacity(length);
        let (mut sent, mut good, mut fast, mut holes) = (counts(), counts(), counts(), counts());
        let mut surplus: Vec<i128> = Vec::with_capacity(length);
        let (mut sent_now, mut good_now, mut fast_now, mut holes_now, mut surplus_now) = (0, 0, 0, 0, 0_i128);
        let mut previous: Option<Nanos> = None;
        for sample in samples.iter().map(Some).chain([None]) {
            sent.push(sent_now);
            good.push(good_now);
            fast.push(fast_now);
            holes.push(holes_now);
            surplus.push(surplus_now);
            let Some(sample) = sample else { break };
            let is_good = is_good(sample, probe, objectives);
            let is_sent = sample.outcome != Outcome::NotSent;
            sent_now += usize::from(is_sent);
            good_now += usize::from(is_good);
            fast_now += usize::from(is_good && sample.latency <= limit);
            holes_now += usize::from(previous.is_some_and(|due| exceeds(sample.due, due, probe.interval)));
            let whole = (100.0 * UNITS) as i128;
            surplus_now = surplus_now.saturating_add(if is_good { whole } else { 0 }).saturating_sub(if is_sent {
                asked
            } else {
                0
            });
            previous = Some(sample.due);
        }
        let below = next_below(&surplus);
        let slice = SLICE.min(objectives.sustain).max(1);
        let mut series = Self { probe, samples, sent, good, fast, holes, surplus, below, misses: Vec::new(), slice };
        series.misses = series.count_misses();
        series
    }

    /// Running count of the samples whose slice misses an objective.
    fn count_misses(&self) -> Vec<usize> {
        let (mut misses, mut count, mut to) = (Vec::with_capacity(self.samples.len() + 1), 0, 0);
        for from in 0..self.samples.len() {
            let end = self.samples[from].due.saturating_add(self.slice);
            to = to.max(from + 1);
            while self.samples.get(to).is_some_and(|sample| sample.due < end) {
                to += 1;
            }
            misses.push(count);
            count += usize::from(!self.reaches(from, to));
        }
        misses.push(count);
        misses
    }

    /// Number of samples due before `time`.
    pub fn before(&self, time: Nanos) -> usize {
        self.samples.partition_point(|sample| sample.due < time)
    }

    /// Failed requests that were under way at `time`: due before it, and failed after it.
    pub fn caught_at(&self, time: Nanos) -> impl Iterator<Item = usize> {
        let first = self.before(time.saturating_sub(self.probe.timeout.max(0)));
        let is_caught = move |at: &usize| {
            self.failed(*at) && self.samples[*at].due.saturating_add(self.samples[*at].latency) >= time
        };
        (first..self.before(time)).filter(is_caught)
    }

    /// Whether sample `at` had a good answer in time.
    pub fn good(&self, at: usize) -> bool {
        self.good[at + 1] > self.good[at]
    }

    /// Whether sample `at` was sent, and had no good answer in time.
    pub fn failed(&self, at: usize) -> bool {
        self.sent[at + 1] > self.sent[at] && !self.good(at)
    }

    /// Whether sample `at` failed, or was slower than the latency objective.
    pub fn harmed(&self, at: usize) -> bool {
        self.harmed_in(at, at + 1) > 0
    }

    /// Good answers among the samples `from..to` (positions).
    pub fn good_in(&self, from: usize, to: usize) -> usize {
        self.good[to] - self.good[from]
    }

    /// Requests that were sent among the samples `from..to`.
    pub fn sent_in(&self, from: usize, to: usize) -> usize {
        self.sent[to] - self.sent[from]
    }

    /// Failures among the samples `from..to`.
    pub fn failed_in(&self, from: usize, to: usize) -> usize {
        self.sent_in(from, to) - self.good_in(from, to)
    }

    /// Failures and slow answers among the samples `from..to`.
    pub fn harmed_in(&self, from: usize, to: usize) -> usize {
        self.sent_in(from, to) - (self.fast[to] - self.fast[from])
    }

    /// Whether the last request due at or before `time` succeeded; true if there is none.
    pub fn up_at(&self, time: Nanos) -> bool {
        let seen = self.samples.partition_point(|sample| sample.due <= time);
        seen == 0 || !self.failed(seen - 1)
    }

    /// Whether every request that was to be due in `from..to` is there.
    pub fn is_complete(&self, from: Nanos, to: Nanos) -> bool {
        let (first, last) = (self.before(from), self.before(to));
        first < last
            && self.holes[last] == self.holes[first + 1]
            && !exceeds(self.samples[first].due, from, self.probe.interval)
            && !exceeds(to, self.samples[last - 1].due, self.probe.interval)
    }

    /// Whether every slice inside `from..to` reaches the objectives, wherever it begins, and no beginning of the first
    /// slice is below the success rate: with a low rate, a lucky answer inside an outage would otherwise start a window.
    /// The work does not depend on the number of samples inside.
    pub fn sustains(&self, from: Nanos, to: Nanos) -> bool {
        let (first, last) = (self.before(from), self.before(to));
        if first >= last {
            return true;
        }
        let slice_end = self.before(from.saturating_add(self.slice).min(to));
        // Slices that begin at a sample and end inside.
        let whole = self.before(to.saturating_sub(self.slice).saturating_add(1)).clamp(first, last);
        let slices_reach = self.reaches(first, slice_end) && self.misses[whole] == self.misses[first];
        let first_slice = self.before(from.saturating_add(SLICE).min(to));
        slices_reach && self.below[first] > first_slice
    }

    /// First sample at or after position `from` that did harm, in or behind the first slice that misses an objective.
    pub fn next_miss(&self, from: usize) -> Option<usize> {
        let begins = self.misses.partition_point(|count| *count <= self.misses[from.min(self.samples.len())]);
        let begins = begins.checked_sub(1).filter(|at| *at < self.samples.len())?;
        (begins..self.samples.len()).find(|at| self.harmed(*at))
    }

    fn reaches(&self, from: usize, to: usize) -> bool {
        let good = self.good_in(from, to);
        // The p99 (nearest rank) is within the limit if at least 99 % of the good answers are.
        let needed = (good * 99).div_ceil(100);
        self.surplus[to] >= self.surplus[from] && self.fast[to] - self.fast[from] >= needed
    }
}

/// For each position, the first later one with a smaller value; one behind the end if there is none.
fn next_below(values: &[i128]) -> Vec<usize> {
    let mut below = vec![values.len(); values.len()];
    let mut open: Vec<usize> = Vec::new();
    for at in 0..values.len() {
        while let Some(higher) = open.pop_if(|higher| values[at] < values[*higher]) {
            below[higher] = at;
        }
        open.push(at);
    }
    below
}

/// Whether `later` is so far behind `earlier` that a request is missing in between.
fn exceeds(later: Nanos, earlier: Nanos, interval: Nanos) -> bool {
    later.saturating_sub(earlier) > interval.saturating_add(interval / 2)
}
