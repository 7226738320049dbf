//! Recovery time as a client saw it: t1, t7, and what bounds their error. Pure.

use crate::v1::{
    measure::{series::Series, windows},
    record::{Attempt, Nanos, Point},
};

/// Times of the observed points, and the stretch in which recovery is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Fault commanded or effective, whichever is earlier: a failure after it may be of the fault.
    pub start: Nanos,
    /// Fault effective (commanded, if that was not seen).
    pub effective: Nanos,
    /// Failback commanded, or end of the fault, or of the samples.
    pub end: Nanos,
    /// W.
    pub sustain: Nanos,
}

/// First observation of a point.
pub fn time_of(attempt: &Attempt, point: Point) -> Option<Nanos> {
    attempt.timeline.iter().filter(|seen| seen.point == point).map(|seen| seen.time).min()
}

/// Time at which the last phase of this name began.
fn phase<'a>(attempt: &'a Attempt, name: &str) -> Option<&'a crate::v1::record::Phase> {
    attempt.phases.iter().rev().find(|phase| phase.name == name)
}

impl Frame {
    /// Of an attempt; `None` if there was no fault, or no samples after it.
    pub fn of(attempt: &Attempt, series: &[Series<'_>]) -> Option<Self> {
        let (commanded, effective) = (time_of(attempt, Point::T0c), time_of(attempt, Point::T0e));
        let start = commanded.into_iter().chain(effective).min()?;
        let observed = [
            time_of(attempt, Point::T8),
            phase(attempt, "failback").map(|phase| phase.from),
            phase(attempt, "fault").and_then(|phase| phase.to),
        ];
        let sampled = || {
            let ends = series.iter().map(|series| {
                series.samples.last().map_or(Nanos::MIN, |last| last.due.saturating_add(series.probe.interval))
            });
            ends.min()
        };
        let end = observed.into_iter().flatten().filter(|time| *time > start).min().or_else(sampled)?;
        let any = series.iter().any(|series| series.before(end) > series.before(start));
        any.then(|| Self {
            start,
            effective: effective.or(commanded).unwrap_or(start),
            end,
            sustain: attempt.objectives.sustain.max(1),
        })
    }
}

/// How the client's outage went.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outage {
    /// First failure: probe and sample position.
    pub first: (usize, usize),
    /// t1: its due time, or the start of the fault if that is later.
    pub t1: Nanos,
    /// Start of the first sustained window, if one was seen.
    pub t7: Option<Nanos>,
    /// Without t7: the earliest time that what was seen does not rule out.
    pub earliest: Nanos,
    /// Bound on the error of t7 − t1.
    pub error: Nanos,
}

impl Outage {
    /// t7 − t1, or what it exceeds.
    pub fn length(&self) -> Nanos {
        self.t7.unwrap_or(self.earliest).saturating_sub(self.t1)
    }
}

/// The outage, if any probe saw a failure. A request that was under way when the fault began and then failed counts too,
/// but the outage begins no earlier than the fault.
pub fn outage(series: &[Series<'_>], frame: &Frame, clock: Nanos) -> Option<Outage> {
    let firsts = series.iter().enumerate().filter_map(|(probe, series)| {
        let mut failed = (series.before(frame.start)..series.before(frame.end)).filter(|at| !series.good(*at));
        let at = series.caught_at(frame.start).next().or_else(|| failed.next())?;
        Some((series.samples[at].due.max(frame.start), (probe, at)))
    });
    let (t1, first) = firsts.min()?;
    let t7 = sustained_from(series, frame, t1);
    let earliest = t7.unwrap_or_else(|| earliest_possible(series, frame, t1));
    let error = error_bound(series, first, t7, clock);
    Some(Outage { first, t1, t7, earliest, error })
}

/// Earliest due time at or after `from` at which a window of length W begins that lies inside the frame, is complete, and
/// holds for every probe; the last request of every probe had succeeded by then.
pub fn sustained_from(series: &[Series<'_>], frame: &Frame, from: Nanos) -> Option<Nanos> {
    windows::first(series, frame, candidates(series, from, frame.end), true)
}

/// Earliest time from which nothing seen speaks against a sustained window, seen to its end or not.
fn earliest_possible(series: &[Series<'_>], frame: &Frame, from: Nanos) -> Nanos {
    windows::first(series, frame, candidates(series, from, frame.end), false).unwrap_or(frame.end)
}

/// Due times of all probes, in order.
fn candidates(series: &[Series<'_>], from: Nanos, to: Nanos) -> Vec<Nanos> {
    let range = |series: &Series<'_>| series.before(from)..series.before(to).max(series.before(from));
    let mut times: Vec<Nanos> =
        series.iter().flat_map(|series| series.samples[range(series)].iter().map(|sample| sample.due)).collect();
    times.sort_unstable();
    times.dedup();
    times
}

/// Longest interval + the slowest of (first failure, last good answer before it, answer at t7) + clock error.
///
/// The outage began after the last good request was due and by the first failure's end, and ended between the last
/// failure and t7, which are at most an interval apart.
fn error_bound(series: &[Series<'_>], first: (usize, usize), t7: Option<Nanos>, clock: Nanos) -> Nanos {
    let interval = series.iter().map(|series| series.probe.interval).max().unwrap_or(0);
    let (probe, at) = first;
    let failed = series[probe].samples[at].latency;
    let good = at.checked_sub(1).filter(|at| series[probe].good(*at)).map_or(0, |at| series[probe].samples[at].latency);
    let back = series.iter().filter_map(|series| {
        let sample = series.samples.get(series.before(t7?))?;
        (Some(sample.due) == t7).then_some(sample.latency)
    });
    let slowest = back.chain([failed, good]).max().unwrap_or(0).max(0);
    interval.max(0).saturating_add(slowest).saturating_add(clock.max(0))
}
