//! Frozen rules of format v1. From raw samples and timeline to measured values and verdict. Pure and total: any record gives a result, also a forged
//! one, in time bounded by its size. Only the offline verifier uses it.
//!
//! Measured recovery time = t7 − t1. t1 is when the first request that failed after the fault was due, or the fault if that
//! is later; t7 is the earliest due time from which a window of the registered length was seen whole, and held every
//! objective for every probe.

pub mod figures;
pub mod recovery;
pub mod series;
mod verdict;
mod windows;
pub mod writes;

use crate::v1::{
    record::{Attempt, Finding, GuardRecord, Nanos, Outcome, Point, RequestLog, Severity, TimelinePoint},
    results::{
        Failback, GuardResult, Loss, Measured, PhaseTimes, ProbeResult, Recovery, RequestsResult, ResidueResult,
        Results,
    },
};
use figures::seconds;
use recovery::{Frame, Outage, time_of};
use series::Series;
use writes::Tally;

/// What was derived, before it is judged and put into words.
#[derive(Debug)]
struct Derived<'a> {
    attempt: &'a Attempt,
    series: Vec<Series<'a>>,
    /// `None`: no fault.
    frame: Option<Frame>,
    outage: Option<Outage>,
    /// Start of the first sustained window, also when no client saw a failure.
    sustained: Option<Nanos>,
    /// Writes of all probes that were read back.
    tallies: Vec<Tally>,
    /// A `writes` probe was never read back.
    unread: bool,
}

/// Measured values, judged objectives and verdict of an attempt.
pub fn measure(attempt: &Attempt) -> Results {
    let derived = Derived::of(attempt);
    let measured = derived.measured();
    let objectives = verdict::objectives(&derived, &measured);
    let (verdict, reasons) = verdict::verdict(&derived, &measured, &objectives);
    let zero = derived.zero();
    Results {
        drill: attempt.drill.clone(),
        attempt: attempt.number,
        verdict,
        reasons,
        objectives,
        timeline: figures::timeline(derived.points(), &attempt.anchor, zero),
        probes: derived.series.iter().map(|series| derived.probe(series)).collect(),
        guards: attempt.guards.iter().map(|guard| guard_result(guard, zero)).collect(),
        findings: derived.findings(),
        residue: residue(attempt),
        requests: attempt.requests.as_ref().map(requests),
        measured,
    }
}

fn requests(log: &RequestLog) -> RequestsResult {
    RequestsResult { entries: log.entries.len() as u64, beyond: log.beyond, lost: log.lost, gaps: log.gaps }
}

impl<'a> Derived<'a> {
    fn of(attempt: &'a Attempt) -> Self {
        let series: Vec<_> = attempt.probes.iter().map(|probe| Series::new(probe, &attempt.objectives)).collect();
        let frame = Frame::of(attempt, &series);
        let outage = frame.as_ref().and_then(|frame| recovery::outage(&series, frame, attempt.anchor.error));
        let sustained = frame.as_ref().and_then(|frame| match &outage {
            Some(outage) => outage.t7,
            None => recovery::sustained_from(&series, frame, frame.start),
        });
        let records: Vec<_> = attempt.probes.iter().filter_map(|probe| probe.writes.as_ref()).collect();
        let failback = time_of(attempt, Point::T8);
        let tallies: Vec<_> = records.iter().filter_map(|record| writes::tally(record, failback)).collect();
        let unread = tallies.len() < records.len();
        Self { attempt, series, frame, outage, sustained, tallies, unread }
    }

    /// Zero of offsets.
    fn zero(&self) -> Nanos {
        time_of(self.attempt, Point::T0c).or_else(|| time_of(self.attempt, Point::T0e)).unwrap_or(0)
    }

    fn measured(&self) -> Measured {
        let at = |point| time_of(self.attempt, point);
        let between = |from: Option<Nanos>, to: Option<Nanos>| {
            let (from, to) = (from?, to?);
            (to >= from).then(|| seconds(to.saturating_sub(from)))
        };
        let t7 = self.outage.as_ref().and_then(|outage| outage.t7);
        let aborts = self.attempt.guards.iter().filter_map(time_to_abort);
        Measured {
            recovery: self.recovery(),
            execution: between(at(Point::T4), t7),
            phases: PhaseTimes {
                detect: between(at(Point::T0e), at(Point::T2)),
                decide: between(at(Point::T2), at(Point::T3)),
                propagate: between(at(Point::T4), at(Point::T5)),
                warm_up: between(at(Point::T5), t7),
            },
            loss: self.loss(),
            bad_seconds: self.worst(|series, frame| {
                let first = series.before(frame.start);
                let since = series.samples.len() - first - series.good_in(first, series.samples.len());
                let failed = since + series.caught_at(frame.start).count();
                Nanos::try_from(failed).unwrap_or(Nanos::MAX).saturating_mul(series.probe.interval.max(0))
            }),
            longest_gap: self.worst(|series, frame| figures::longest_gap(series, frame.start)),
            time_to_abort: aborts.max().map(seconds),
            failback: self.failback(),
        }
    }

    fn worst(&self, of: impl Fn(&Series<'_>, &Frame) -> Nanos) -> f64 {
        let Some(frame) = &self.frame else { return 0.0 };
        seconds(self.series.iter().map(|series| of(series, frame)).max().unwrap_or(0))
    }

    fn recovery(&self) -> Option<Recovery> {
        self.frame.as_ref()?;
        let Some(outage) = &self.outage else {
            // An outage shorter than the longest interval may have fallen between two requests.
            let error = self.interval().saturating_add(self.attempt.anchor.error.max(0));
            return Some(Recovery { seconds: 0.0, error: seconds(error), censored: false, client_visible: false });
        };
        Some(Recovery {
            seconds: seconds(outage.length()),
            error: seconds(outage.error),
            censored: outage.t7.is_none(),
            client_visible: true,
        })
    }

    fn interval(&self) -> Nanos {
        self.series.iter().map(|series| series.probe.interval).max().unwrap_or(0).max(0)
    }

    fn loss(&self) -> Option<Loss> {
        if self.tallies.is_empty() || self.unread {
            return None;
        }
        let mut loss = Loss::default();
        let effective = self.frame.map(|frame| frame.effective);
        for tally in &self.tallies {
            loss.acknowledged += tally.acknowledged;
            loss.lost += (tally.lost.len() + tally.lost_by_failback.len()) as u64;
            loss.indeterminate += tally.indeterminate;
            loss.duplicated += tally.duplicated;
            loss.reordered += tally.reordered;
            loss.resurrected += tally.resurrected;
            loss.unjudged += tally.unjudged;
            loss.split_brain |= tally.split_brain;
            let Some(effective) = effective else { continue };
            let all = tally.lost.iter().chain(&tally.lost_by_failback);
            loss.lost_after_fault += all.filter(|time| **time >= effective).count() as u64;
            let oldest = tally.lost.iter().min().map_or(0, |oldest| effective.saturating_sub(*oldest));
            loss.seconds = loss.seconds.max(seconds(oldest));
        }
        Some(loss)
    }

    fn failback(&self) -> Option<Failback> {
        let begun = time_of(self.attempt, Point::T8)?;
        let sustained = time_of(self.attempt, Point::T9);
        let phase = self.attempt.phases.iter().rev().find(|phase| phase.name == "failback");
        let end = phase.and_then(|phase| phase.to).or(sustained).unwrap_or(Nanos::MAX);
        let mut failback =
            Failback { seconds: sustained.map(|end| seconds(end.saturating_sub(begun))), ..Failback::default() };
        for series in &self.series {
            let (first, last) = (series.before(begun), series.before(end).max(series.before(begun)));
            failback.offered += (last - first) as u64;
            failback.failed += (last - first - series.good_in(first, last)) as u64;
        }
        for tally in &self.tallies {
            failback.lost += tally.lost_by_failback.len() as u64;
            let oldest = tally.lost_by_failback.iter().min().map_or(0, |oldest| begun.saturating_sub(*oldest));
            failback.lost_seconds = failback.lost_seconds.max(seconds(oldest));
        }
        Some(failback)
    }

    /// Writes that were acknowledged when recovery was complete, and are lost: no fault explains them.
    fn lost_after_recovery(&self) -> usize {
        let Some(mut settled) = self.sustained else { return 0 };
        for point in [Point::T4, Point::T5] {
            settled = settled.max(time_of(self.attempt, point).unwrap_or(settled));
        }
        let settled = settled.saturating_add(self.attempt.anchor.error.max(0));
        let failback = time_of(self.attempt, Point::T8).unwrap_or(Nanos::MAX);
        let is_after = |time: &&Nanos| **time > settled && **time < failback;
        self.tallies.iter().map(|tally| tally.lost.iter().filter(is_after).count()).sum()
    }

    /// Observed points, and those that follow from the samples.
    fn points(&self) -> Vec<TimelinePoint> {
        let derived = [Point::T1, Point::T6, Point::T7];
        let observed = self.attempt.timeline.iter().filter(|point| !derived.contains(&point.point));
        let mut points: Vec<_> = observed.cloned().collect();
        let error = self.interval().saturating_add(self.attempt.anchor.error.max(0));
        if let Some(outage) = &self.outage {
            let (probe, at) = outage.first;
            let sample = self.series[probe].samples[at];
            let observer = format!("probe {}", self.attempt.probes[probe].name);
            let note = format!("first failure a client saw: {}", figures::outcome(sample.outcome));
            points.push(TimelinePoint { point: Point::T1, time: outage.t1, error, observer, note });
            if let Some(time) = outage.t7 {
                let note =
                    format!("every objective holds for {} from here", figures::text(self.attempt.objectives.sustain));
                points.push(TimelinePoint { point: Point::T7, time, error, observer: "probes".to_owned(), note });
            }
        }
        points.extend(self.first_from_recovery_region());
        points
    }

    /// t6.
    fn first_from_recovery_region(&self) -> Option<TimelinePoint> {
        let frame = self.frame.as_ref()?;
        self.attempt.lost_region.as_ref()?;
        let names: std::collections::HashSet<&String> = self.attempt.recovery_regions.iter().collect();
        let is_recovery = |series: &Series<'_>| -> Vec<bool> {
            series.probe.regions.iter().map(|region| names.contains(region)).collect()
        };
        let answers = self.series.iter().flat_map(|series| {
            let is_recovery = is_recovery(series);
            (series.before(frame.effective)..series.samples.len()).filter(|at| series.good(*at)).filter_map(move |at| {
                let sample = series.samples[at];
                let region = series.probe.regions.get(usize::from(sample.region?))?;
                let is_recovery = is_recovery.get(usize::from(sample.region?)).copied().unwrap_or(false);
                is_recovery.then(|| (sample.due.saturating_add(sample.latency), &series.probe.name, region))
            })
        });
        let (time, probe, region) = answers.min()?;
        let (error, observer) = (self.attempt.anchor.error, format!("probe {probe}"));
        let note = format!("first answer from {region} after the fault");
        Some(TimelinePoint { point: Point::T6, time, error, observer, note })
    }

    fn probe(&self, series: &Series<'_>) -> ProbeResult {
        let samples = &series.probe.samples;
        let count = |is: fn(Outcome) -> bool| samples.iter().filter(|sample| is(sample.outcome)).count() as u64;
        let failures = figures::failures(series.probe);
        let baseline = self.attempt.phases.iter().rev().find(|phase| phase.name == "baseline");
        let baseline_end = |to: Option<Nanos>| to.or(self.frame.map(|frame| frame.start)).unwrap_or(Nanos::MAX);
        ProbeResult {
            name: series.probe.name.clone(),
            offered: samples.len() as u64,
            sent: count(|outcome| outcome != Outcome::NotSent),
            answered: count(|outcome| matches!(outcome, Outcome::Ok | Outcome::Status(_))),
            failed: failures.values().sum(),
            failures,
            baseline: baseline.and_then(|phase| figures::stretch(series, phase.from, baseline_end(phase.to))),
            fault: self.frame.and_then(|frame| figures::stretch(series, frame.start, frame.end)),
        }
    }

    /// Findings of the engine, and those that follow from the samples.
    fn findings(&self) -> Vec<Finding> {
        let mut findings = self.attempt.findings.clone();
        findings.extend(self.later_outage());
        let lost = self.lost_after_recovery();
        if lost > 0 {
            findings.push(Finding {
                severity: Severity::High,
                title: match lost {
                    1 => "1 write acknowledged after recovery was lost".to_owned(),
                    _ => format!("{lost} writes acknowledged after recovery were lost"),
                },
                detail: "The service acknowledged them when it had recovered, and does not have them now.".to_owned(),
                fix: "Acknowledge a write only when the store that is kept has it.".to_owned(),
            });
        }
        findings
    }

    /// Requests that failed between recovery and failback.
    fn later_outage(&self) -> Option<Finding> {
        let (from, end) = (self.sustained?, self.frame.as_ref()?.end);
        let mut failed = Vec::new();
        for series in &self.series {
            let (first, last) = (series.before(from), series.before(end));
            failed.extend((first..last).filter(|at| !series.good(*at)).map(|at| series.samples[at].due));
        }
        let (first, last) = (*failed.iter().min()?, *failed.iter().max()?);
        let offset = |time: Nanos| figures::text(time.saturating_sub(self.zero()));
        Some(Finding {
            severity: Severity::Medium,
            title: format!("{} failed after recovery, before failback", figures::count(failed.len(), "request")),
            detail: format!("Between +{} and +{}.", offset(first), offset(last)),
            fix: "Look at the events of the proxies at these times.".to_owned(),
        })
    }
}

fn time_to_abort(guard: &GuardRecord) -> Option<Nanos> {
    Some(guard.cleared?.saturating_sub(guard.tripped?).max(0))
}

fn guard_result(guard: &GuardRecord, zero: Nanos) -> GuardResult {
    GuardResult {
        guard: guard.guard.clone(),
        tripped: guard.tripped.map(|time| seconds(time.saturating_sub(zero))),
        seen: guard.seen.clone(),
        time_to_abort: time_to_abort(guard).map(seconds),
    }
}

fn residue(attempt: &Attempt) -> ResidueResult {
    let unchanged =
        attempt.residue.before.iter().filter(|(proxy, digest)| attempt.residue.after.get(*proxy) == Some(digest));
    ResidueResult { proxies: attempt.residue.before.len() as u64, unchanged: unchanged.count() as u64 }
}
