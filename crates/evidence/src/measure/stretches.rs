//! Every stretch of the drill, not only the outage of the fault: later outages, success rates by name, and the steps of
//! the failback. Pure.

use super::{
    Derived,
    figures::{self, seconds},
    recovery::{Outage, time_of},
};
use crate::{
    record::{Finding, Nanos, Outcome, Point, Severity},
    results::{OutageResult, Stage, SuccessRates},
};

/// Percentage points by which the share at clients may differ from the commanded one.
const SHARE_TOLERANCE: f64 = 15.0;

impl Derived<'_> {
    /// All outages in order, with the stage of the drill in which each began.
    pub(super) fn staged(&self) -> impl Iterator<Item = (&Outage, Stage)> {
        self.outage.iter().chain(&self.later).map(|outage| (outage, self.stage(outage.t1)))
    }

    /// The stage of the drill at a time after the fault.
    fn stage(&self, time: Nanos) -> Stage {
        let end = self.frame.map_or(Nanos::MAX, |frame| frame.end);
        match time_of(self.attempt, Point::T8) {
            _ if time < end => Stage::Fault,
            Some(failback) if time >= failback => match self.failback_end() {
                Some(over) if time >= over => Stage::Verify,
                _ => Stage::Failback,
            },
            _ => Stage::Undo,
        }
    }

    pub(super) fn outages(&self) -> Vec<OutageResult> {
        let zero = self.zero();
        let result = |(outage, stage): (&Outage, Stage)| {
            let (mut failed, mut slow) = (0, 0);
            for series in &self.series {
                let from = series.before(outage.t1);
                let to = series.before(outage.end()).max(from);
                failed += series.failed_in(from, to) as u64;
                slow += (series.harmed_in(from, to) - series.failed_in(from, to)) as u64;
            }
            OutageResult {
                stage,
                offset: seconds(outage.t1.saturating_sub(zero)),
                seconds: seconds(outage.length()),
                error: seconds(outage.error),
                censored: outage.t7.is_none(),
                failed,
                slow,
            }
        };
        self.staged().map(result).collect()
    }

    /// Stretches that the success rate and the latency are judged over, with their stages: from recovery on, or without it
    /// over the whole fault.
    pub(super) fn stretches(&self) -> Vec<(Stage, Nanos, Nanos)> {
        let Some(frame) = self.frame.as_ref() else { return Vec::new() };
        let visible = self.outage.as_ref().map(|outage| outage.t1);
        let mut stretches = vec![(Stage::Fault, self.sustained.or(visible).unwrap_or(frame.start), frame.end)];
        let failback = time_of(self.attempt, Point::T8);
        stretches.push((Stage::Undo, frame.end, failback.unwrap_or(Nanos::MAX)));
        if let Some(failback) = failback {
            let over = self.failback_end().unwrap_or(Nanos::MAX);
            stretches.extend([(Stage::Failback, failback, over), (Stage::Verify, over, Nanos::MAX)]);
        }
        stretches.retain(|(_, from, to)| from < to);
        stretches
    }

    /// Success rate of the worst probe in `from..to`; `None` without requests.
    pub(super) fn rate(&self, from: Nanos, to: Nanos) -> Option<f64> {
        let rates = self.series.iter().filter_map(|series| {
            let first = series.before(from);
            let last = series.before(to).max(first);
            let sent = series.sent_in(first, last);
            (sent > 0).then(|| figures::percent(series.good_in(first, last), sent))
        });
        rates.min_by(f64::total_cmp)
    }

    /// Slowest 99th percentile of the probes in `from..to`.
    pub(super) fn p99(&self, from: Nanos, to: Nanos) -> Option<Nanos> {
        let slowest = self.series.iter().filter_map(|series| {
            let first = series.before(from);
            let range = first..series.before(to).max(first);
            let mut latencies: Vec<_> =
                range.filter(|at| series.good(*at)).map(|at| series.samples[at].latency).collect();
            latencies.sort_unstable();
            figures::quantile(&latencies, 99)
        });
        slowest.max()
    }

    pub(super) fn success(&self) -> Option<SuccessRates> {
        let frame = self.frame.as_ref()?;
        let stretches = self.stretches();
        let of = |stage: Stage| {
            let (_, from, to) = stretches.iter().find(|(found, _, _)| *found == stage)?;
            self.rate(*from, *to)
        };
        Some(SuccessRates {
            whole_drill: self.rate(frame.start, Nanos::MAX)?,
            after_recovery: self.sustained.and_then(|_| of(Stage::Fault)),
            during_failback: of(Stage::Failback),
        })
    }

    /// Requests that the lost region served before the fault: as the probes saw it, or as the proxies counted.
    pub(super) fn lost_region_hits(&self) -> Option<u64> {
        let (lost, frame) = (self.attempt.lost_region.as_ref()?, self.frame.as_ref()?);
        let mut seen = 0_u64;
        for series in &self.series {
            let Some(region) = series.probe.regions.iter().position(|region| region == lost) else { continue };
            let before = &series.samples[..series.before(frame.start)];
            let is_hit = |sample: &&&crate::record::Sample| {
                sample.outcome == Outcome::Ok && sample.region.map(usize::from) == Some(region)
            };
            seen = seen.saturating_add(before.iter().filter(is_hit).count() as u64);
        }
        let counted = self.attempt.served.iter().filter(|served| served.region == *lost);
        Some(seen.max(counted.fold(0, |sum: u64, served| sum.saturating_add(served.requests))))
    }

    /// Later outages, as findings.
    pub(super) fn later_findings(&self) -> Vec<Finding> {
        let zero = self.zero();
        let finding = |outage: &Outage| {
            let stage = self.stage(outage.t1);
            let more = if outage.t7.is_none() { "at least " } else { "" };
            Finding {
                severity: Severity::Medium,
                title: format!("clients were harmed again {}", stage.words()),
                detail: format!(
                    "For {more}{} from +{} on.",
                    figures::text(outage.length()),
                    figures::text(outage.t1.saturating_sub(zero))
                ),
                fix: "Look at the events of the proxies at this time.".to_owned(),
            }
        };
        self.later.iter().map(finding).collect()
    }

    /// Steps of the failback that were commanded and not observed.
    pub(super) fn unobserved_ramp(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        for step in self.ramp() {
            let percent = figures::number(step.commanded, "%");
            let name = format!("failback of {} to {} at {percent}", step.service, step.region);
            match (step.observed, step.clients) {
                (None, _) => reasons.push(format!("the {name} was commanded and never observed")),
                (Some(_), Some(clients)) if (clients - step.commanded).abs() > SHARE_TOLERANCE => {
                    reasons.push(format!(
                        "the {name} was commanded, and clients got {} of their answers from there",
                        figures::number(clients, "%")
                    ))
                }
                _ => {}
            }
        }
        reasons
    }

    /// Why the fault proved nothing: the lost region did not serve before it.
    pub(super) fn unhit(&self) -> Option<String> {
        let (least, hits) = (self.attempt.objectives.minimum_hits?, self.lost_region_hits()?);
        let region = self.attempt.lost_region.as_ref()?;
        let requests = figures::count(usize::try_from(hits).unwrap_or(usize::MAX), "request");
        (hits < least).then(|| {
            format!("{region} served {requests} before the fault, and at least {least} are asked for: its loss proved nothing")
        })
    }
}
