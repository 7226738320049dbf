//! Recovery time as a client saw it: t1, t7, and what bounds their error. Pure.

use crate::{
    measure::series::Series,
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
fn phase<'a>(attempt: &'a Attempt, name: &str) -> Option<&'a crate::record::Phase> {
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

/// A stretch in which clients were harmed: requests failed, or an objective was missed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outage {
    /// First request that was harmed: probe and sample position.
    pub first: (usize, usize),
    /// Its due time, or the start of the fault if that is later.
    pub t1: Nanos,
    /// Start of the first sustained window, if one was seen.
    pub t7: Option<Nanos>,
    /// Without t7: the earliest time that what was seen does not rule out.
    pub earliest: Nanos,
    /// Bound on the error of its length.
    pub error: Nanos,
}

impl Outage {
    /// When it was over, or the earliest time at which it may have been.
    pub fn end(&self) -> Nanos {
        self.t7.unwrap_or(self.earliest)
    }

    /// Its length, or what that exceeds.
    pub fn length(&self) -> Nanos {
        self.end().saturating_sub(self.t1)
    }
}

/// The outage of the fault, if any probe was harmed by it. A request that was under way when the fault began and then
/// failed counts too, but the outage begins no earlier than the fault.
pub fn outage(series: &[Series<'_>], frame: &Frame, margin: Nanos) -> Option<Outage> {
    let firsts = series.iter().enumerate().filter_map(|(probe, series)| {
        let (from, to) = (series.before(frame.start), series.before(frame.end));
        let failed = series.caught_at(frame.start).next().or_else(|| (from..to).find(|at| series.failed(*at)));
        let missed = series.next_miss(from).filter(|at| *at < to);
        let at = failed.into_iter().chain(missed).min()?;
        Some((series.samples[at].due.max(frame.start), (probe, at)))
    });
    let (t1, first) = firsts.min()?;
    Some(follow(series, frame, first, t1, margin))
}

/// Outages after the one of the fault, until the end of the samples, in order: stretches that begin with a slice that
/// misses an objective, also while the fault is undone and during failback.
pub fn later_outages(series: &[Series<'_>], frame: &Frame, from: Nanos, margin: Nanos) -> Vec<Outage> {
    let whole = Frame { end: samples_end(series).unwrap_or(frame.end).max(frame.end), ..*frame };
    let (mut outages, mut from) = (Vec::new(), from);
    loop {
        let firsts = series.iter().enumerate().filter_map(|(probe, series)| {
            let at = series.next_miss(series.before(from))?;
            Some((series.samples[at].due, (probe, at)))
        });
        let Some((t1, first)) = firsts.min() else { return outages };
        let outage = follow(series, &whole, first, t1, margin);
        match outage.t7 {
            // The slice missed an objective, and every one that begins with its first harmed request does not.
            Some(t7) if t7 <= t1 => from = t1.saturating_add(1),
            Some(t7) => {
                outages.push(outage);
                from = t7;
            }
            None => {
                outages.push(outage);
                return outages;
            }
        }
    }
}

fn follow(series: &[Series<'_>], frame: &Frame, first: (usize, usize), t1: Nanos, margin: Nanos) -> Outage {
    let t7 = sustained_from(series, frame, t1);
    let earliest = t7.unwrap_or_else(|| earliest_possible(series, frame, t1));
    let outage = Outage { first, t1, t7, earliest, error: 0 };
    Outage { error: error_bound(series, &outage, margin), ..outage }
}

/// Until when every probe was at work.
fn samples_end(series: &[Series<'_>]) -> Option<Nanos> {
    let end = |series: &Series<'_>| Some(series.samples.last()?.due.saturating_add(series.probe.interval));
    series.iter().filter_map(end).min()
}

/// Earliest due time at or after `from` at which a window of length W begins that lies inside the frame, is complete, and
/// holds for every probe; the last request of every probe had succeeded by then.
pub fn sustained_from(series: &[Series<'_>], frame: &Frame, from: Nanos) -> Option<Nanos> {
    candidates(series, from, frame.end).find(|time| {
        let end = time.saturating_add(frame.sustain);
        end <= frame.end
            && series.iter().all(|series| series.up_at(*time))
            && series.iter().all(|series| series.is_complete(*time, end))
            && series.iter().all(|series| series.sustains(*time, end))
    })
}

/// Earliest time from which nothing seen speaks against a sustained window, seen to its end or not.
fn earliest_possible(series: &[Series<'_>], frame: &Frame, from: Nanos) -> Nanos {
    let possible = candidates(series, from, frame.end).find(|time| {
        let end = time.saturating_add(frame.sustain).min(frame.end);
        series.iter().all(|series| series.up_at(*time) && series.sustains(*time, end))
    });
    possible.unwrap_or(frame.end)
}

/// Due times of all probes in `from..to`, in order, made one at a time.
fn candidates(series: &[Series<'_>], from: Nanos, to: Nanos) -> impl Iterator<Item = Nanos> {
    let mut next: Vec<usize> = series.iter().map(|series| series.before(from)).collect();
    std::iter::from_fn(move || {
        let due = |probe: usize, at: usize| series[probe].samples.get(at).map(|sample| sample.due);
        let time = next.iter().enumerate().filter_map(|(probe, at)| due(probe, *at)).min().filter(|time| *time < to)?;
        for (probe, at) in next.iter_mut().enumerate() {
            while due(probe, *at).is_some_and(|due| due <= time) {
                *at += 1;
            }
        }
        Some(time)
    })
}

/// Longest interval + the slowest of (first harmed request, last good answer before it, answer at t7) + `margin` (clocks
/// and lateness of the engine) + what a partial outage hides at its ends.
///
/// The outage began after the last good request was due and by the first failure's end, and ended between the last
/// failure and t7, which are at most an interval apart.
fn error_bound(series: &[Series<'_>], outage: &Outage, margin: Nanos) -> Nanos {
    let interval = series.iter().map(|series| series.probe.interval).max().unwrap_or(0);
    let (probe, at) = outage.first;
    let failed = series[probe].samples[at].latency;
    let good = at.checked_sub(1).filter(|at| series[probe].good(*at)).map_or(0, |at| series[probe].samples[at].latency);
    let back = series.iter().filter_map(|series| {
        let sample = series.samples.get(series.before(outage.t7?))?;
        (Some(sample.due) == outage.t7).then_some(sample.latency)
    });
    let slowest = back.chain([failed, good]).max().unwrap_or(0).max(0);
    let hidden = series.iter().map(|series| hidden(series, outage)).max().unwrap_or(0);
    interval.max(0).saturating_add(slowest).saturating_add(margin.max(0)).saturating_add(hidden)
}

/// Factors of the mean distance between two harmed requests, by the number of those: in 999 of 1000 outages in which each
/// request is harmed with one probability, whatever it is, both ends together hide less. The distance between the outage
/// and its first harmed request, and that after its last, over the mean distance in between, have the F distribution with
/// 4 and 2(n − 1) degrees of freedom; this is twice its 99.9 % quantile, rounded up.
const FACTORS: [(usize, i64); 14] = [
    (2, 1999),
    (3, 107),
    (4, 44),
    (5, 29),
    (6, 23),
    (7, 20),
    (8, 18),
    (9, 16),
    (10, 15),
    (12, 14),
    (15, 13),
    (18, 12),
    (26, 11),
    (55, 10),
];

/// The same in intervals where every request between the first and the last harmed one was harmed too, and the share is
/// between 5 and 60 %, by the number of requests from 1; with more, a partial outage is ruled out.
const RUN: [i64; 14] = [180, 114, 41, 16, 10, 8, 6, 6, 5, 4, 4, 3, 2, 1];

/// What both ends of the outage may hide from one probe, beyond what other probes saw.
fn hidden(series: &Series<'_>, outage: &Outage) -> Nanos {
    let (from, to) = (series.before(outage.t1), series.before(outage.end()));
    let Some(first) = (from..to).find(|at| series.harmed(*at)) else { return 0 };
    let Some(last) = (first..to).rev().find(|at| series.harmed(*at)) else { return 0 };
    let (harmed, sent) = (series.harmed_in(first, last + 1), series.sent_in(first, last + 1));
    let interval = series.probe.interval.max(0);
    let (first, last) = (series.samples[first].due, series.samples[last].due);
    let extent = if harmed == sent {
        interval.saturating_mul(RUN.get(harmed.saturating_sub(1)).copied().unwrap_or(0))
    } else {
        let factor = FACTORS.iter().rev().find(|(least, _)| harmed >= *least).map_or(0, |(_, factor)| *factor);
        let mean = last.saturating_sub(first) / i64::try_from(harmed.saturating_sub(1)).unwrap_or(i64::MAX).max(1);
        // With few failures nothing is known of their share: at least 5 % is assumed, or what was seen.
        let most = interval.saturating_mul(RUN[0]).max(mean.saturating_mul(23));
        mean.saturating_mul(factor).min(most)
    };
    let room = first.saturating_sub(outage.t1).min(outage.end().saturating_sub(last).saturating_sub(interval)).max(0);
    extent.saturating_sub(room).max(0)
}
