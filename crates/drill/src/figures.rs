//! What probes saw over a stretch, and whether that is a steady state.

use std::collections::BTreeMap;

use evidence::record::{Nanos, Outcome};
use model::config::Objectives;

use crate::{
    clock::{duration, nanos},
    guard::percentile,
    probe::log::ProbeLog,
    progress::ProbeFigures,
};

/// More than this share of requests that were not sent is no measurement.
const UNSENT: f64 = 0.001;

/// Figures of the requests due in `[from, to)`. Requests in flight are offered, and neither ok nor failed.
pub fn figures(log: &ProbeLog, from: Nanos, to: Nanos) -> ProbeFigures {
    let mut figures = ProbeFigures { name: log.name().to_owned(), ..ProbeFigures::default() };
    let mut latencies = Vec::new();
    let mut answers = vec![0u64; log.regions().len()];
    for (_, sample) in log.between(from, to) {
        figures.offered += 1;
        let Some(sample) = sample else { continue };
        if sample.outcome == Outcome::NotSent {
            figures.unsent += 1;
            continue;
        }
        latencies.push(sample.latency);
        if sample.outcome == Outcome::Ok {
            figures.ok += 1;
        } else {
            figures.failed += 1;
        }
        if let Some(count) = sample.region.and_then(|region| answers.get_mut(usize::from(region))) {
            *count += 1;
        }
    }
    figures.p99 = percentile(&mut latencies, 99).map(duration);
    let known: u64 = answers.iter().sum();
    let share = |count: u64| count as f64 * 100.0 / known as f64;
    let named = log.regions().iter().zip(answers).filter(|(_, count)| *count > 0);
    figures.shares = named.map(|(name, count)| (name.clone(), share(count))).collect::<BTreeMap<_, _>>();
    figures
}

/// Why what was seen is no steady state; empty if it is one.
pub fn unsteady(objectives: &Objectives, seen: &[ProbeFigures]) -> Vec<String> {
    let mut reasons = Vec::new();
    for probe in seen {
        if probe.unsent as f64 > probe.offered as f64 * UNSENT {
            let (unsent, offered) = (probe.unsent, probe.offered);
            reasons.push(format!(
                "{}: the drill engine could not send {unsent} of {offered} requests: this machine cannot keep the rate, or has \
                 no descriptors or ports left",
                probe.name
            ));
        }
        let ended = probe.ok + probe.failed;
        if ended == 0 {
            reasons.push(format!("{}: not one of {} requests has ended", probe.name, probe.offered));
            continue;
        }
        let rate = probe.ok as f64 * 100.0 / ended as f64;
        if rate < objectives.success_rate.0 {
            let asked = objectives.success_rate.0;
            let name = &probe.name;
            reasons.push(format!(
                "{name}: {rate:.2} % of {ended} requests succeeded without a fault, {asked} % are asked"
            ));
        }
        if let (Some(asked), Some(p99)) = (objectives.latency_p99, probe.p99)
            && nanos(p99) > nanos(asked)
        {
            let name = &probe.name;
            reasons.push(format!("{name}: p99 is {p99:.1?} without a fault, {asked:?} is asked"));
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use model::unit::Percent;

    use super::*;
    use crate::probe::log::{AnsweredBy, Ended, tests::log};

    #[test]
    fn shares_and_counts() {
        let mut log = log(10, false);
        for (sequence, region) in
            [(0, Some("east")), (1, Some("west")), (2, Some("west")), (3, Some("west")), (4, None)]
        {
            let answered = region.map(|r| AnsweredBy { region: Some(r.to_owned()), tries: 1 });
            let outcome = if region.is_some() { Outcome::Ok } else { Outcome::Reset };
            let time = log.due(sequence) + 7;
            log.end(sequence, &Ended { time, outcome, answered, sent: None, epoch: None, store: None });
        }
        let unsent =
            Ended { time: 1_000_000, outcome: Outcome::NotSent, answered: None, sent: None, epoch: None, store: None };
        log.end(5, &unsent);
        log.begin(6);
        let seen = figures(&log, 0, 1_000);
        assert_eq!((seen.offered, seen.ok, seen.failed, seen.unsent), (7, 4, 1, 1));
        assert_eq!(seen.p99, Some(Duration::from_nanos(7)));
        assert_eq!(seen.shares, BTreeMap::from([("east".to_owned(), 25.0), ("west".to_owned(), 75.0)]));
    }

    #[test]
    fn steadiness() {
        let objectives = Objectives {
            recovery_time: None,
            data_loss: None,
            success_rate: Percent(99.0),
            latency_p99: Some(Duration::from_millis(10)),
            sustain: Duration::from_secs(5),
            lost_after_fault: 0,
            integrity: model::config::Integrity::default(),
            settle: Duration::ZERO,
            minimum_hits: 0,
            failback: model::config::FailbackObjectives::default(),
        };
        let check = |ok: u64, failed: u64, p99_ms: u64, reasons: usize| {
            let p99 = Some(Duration::from_millis(p99_ms));
            let seen = ProbeFigures { name: "p".into(), offered: ok + failed, ok, failed, p99, ..Default::default() };
            assert_eq!(unsteady(&objectives, &[seen]).len(), reasons, "{ok} {failed} {p99_ms}");
        };
        check(99, 1, 10, 0);
        check(98, 2, 10, 1);
        check(98, 2, 11, 2);
        check(0, 0, 0, 1);
        let own = |unsent: u64| {
            let seen =
                ProbeFigures { name: "p".into(), offered: 1_000, ok: 1_000 - unsent, unsent, ..Default::default() };
            unsteady(&objectives, &[seen])
        };
        assert_eq!(own(1), [""; 0]);
        assert!(own(2)[0].contains("the drill engine could not send 2 of 1000 requests"), "{:?}", own(2));
    }
}
