//! Judging: objectives against measured values, and the verdict with its reasons. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Derived, figures, recovery::time_of};
use crate::v1::{
    record::{Ending, Nanos, Point, Verdict},
    results::{Measured, ObjectiveResult},
};

/// Every objective that was asked for, judged.
pub(super) fn objectives(derived: &Derived<'_>, measured: &Measured) -> Vec<ObjectiveResult> {
    let asked = &derived.attempt.objectives;
    let mut judged = Vec::new();
    judged.extend(asked.recovery_time.map(|asked| recovery_time(figures::seconds(asked), measured)));
    judged.extend(asked.data_loss.map(|asked| data_loss(derived, figures::seconds(asked), measured)));
    judged.push(success_rate(derived, asked.success_rate));
    judged.extend(asked.latency_p99.map(|asked| latency(derived, asked)));
    judged
}

/// Met if at most `asked`; undecided if the error bound covers `asked`.
fn at_most(name: &str, asked: f64, measured: Option<f64>, error: f64) -> ObjectiveResult {
    let met = measured.and_then(|measured| {
        let is_near = error > 0.0 && (asked - measured).abs() <= error;
        (!is_near).then_some(measured <= asked)
    });
    ObjectiveResult { name: name.to_owned(), asked, measured, error, met }
}

fn recovery_time(asked: f64, measured: &Measured) -> ObjectiveResult {
    let Some(recovery) = &measured.recovery else { return at_most("recoveryTime", asked, None, 0.0) };
    let mut judged = at_most("recoveryTime", asked, Some(recovery.seconds), recovery.error);
    if recovery.censored && judged.met == Some(true) {
        // More than something that is less than the objective decides nothing.
        judged.met = None;
    }
    judged
}

fn data_loss(derived: &Derived<'_>, asked: f64, measured: &Measured) -> ObjectiveResult {
    let Some(loss) = &measured.loss else { return at_most("dataLoss", asked, None, 0.0) };
    let by_failback = measured.failback.as_ref().map_or(0.0, |failback| failback.lost_seconds);
    let seen = loss.seconds.max(by_failback);
    // That nothing was lost is exact; a time is between two observers.
    let point =
        derived.attempt.timeline.iter().filter(|point| matches!(point.point, Point::T0e | Point::T0c | Point::T8));
    let of_points = point.map(|point| point.error).max().unwrap_or(0).max(0);
    let clock = derived.attempt.anchor.error.max(0);
    let error = if seen > 0.0 { figures::seconds(of_points.saturating_add(clock)) } else { 0.0 };
    let mut judged = at_most("dataLoss", asked, Some(seen), error);
    if loss.unjudged > 0 && judged.met == Some(true) {
        // What nobody read back may be lost.
        judged.met = None;
    }
    judged
}

/// From where success rate and latency are judged: from recovery on, or without it over the whole fault.
fn judged_from(derived: &Derived<'_>) -> Option<(Nanos, Nanos)> {
    let frame = derived.frame.as_ref()?;
    let visible = derived.outage.as_ref().map(|outage| outage.t1);
    Some((derived.sustained.or(visible).unwrap_or(frame.start), frame.end))
}

/// Of the worst probe.
fn success_rate(derived: &Derived<'_>, asked: f64) -> ObjectiveResult {
    let rates = judged_from(derived).into_iter().flat_map(|(from, to)| {
        derived.series.iter().filter_map(move |series| {
            let (first, last) = (series.before(from), series.before(to));
            (last > first).then(|| figures::percent(series.good_in(first, last), last - first))
        })
    });
    let measured = rates.min_by(f64::total_cmp);
    let met = measured.map(|measured| measured >= asked);
    ObjectiveResult { name: "successRate".to_owned(), asked, measured, error: 0.0, met }
}

/// Of the worst probe.
fn latency(derived: &Derived<'_>, asked: Nanos) -> ObjectiveResult {
    let slowest = judged_from(derived).into_iter().flat_map(|(from, to)| {
        derived.series.iter().filter_map(move |series| {
            let range = series.before(from)..series.before(to).max(series.before(from));
            let mut latencies: Vec<_> =
                range.filter(|at| series.good(*at)).map(|at| series.samples[at].latency).collect();
            latencies.sort_unstable();
            figures::quantile(&latencies, 99)
        })
    });
    at_most("latencyP99", figures::seconds(asked), slowest.max().map(figures::seconds), 0.0)
}

/// The verdict, and why it is not `passed`.
pub(super) fn verdict(
    derived: &Derived<'_>,
    measured: &Measured,
    judged: &[ObjectiveResult],
) -> (Verdict, Vec<String>) {
    let (ended, mut reasons) = match &derived.attempt.ending {
        Ending::Completed => (None, Vec::new()),
        Ending::Refused { reasons } => (Some(Verdict::Refused), reasons.clone()),
        Ending::Aborted { reason } => (Some(Verdict::Aborted), vec![reason.clone()]),
        Ending::Crashed { reason } => (Some(Verdict::Crashed), vec![reason.clone()]),
    };
    reasons.extend(residue(derived));
    if let Some(verdict) = ended {
        return (verdict, reasons);
    }
    reasons.extend(integrity(derived, measured));
    reasons.extend(unrecovered(derived, measured, judged));
    reasons.extend(not_put_back(derived));
    reasons.extend(judged.iter().filter(|judged| judged.met == Some(false)).map(|judged| missed(judged, measured)));
    if !reasons.is_empty() {
        return (Verdict::Failed, reasons);
    }
    reasons.extend(judged.iter().filter(|judged| judged.met.is_none()).map(|judged| undecided(judged, measured)));
    reasons.extend(unseen(derived));
    if measured.recovery.is_none() {
        reasons.push("no recovery time could be measured: no probe saw the fault".to_owned());
    }
    (if reasons.is_empty() { Verdict::Passed } else { Verdict::Inconclusive }, reasons)
}

/// Proxies that are not as before. An attempt that was refused never touched one, and may not have asked.
fn residue(derived: &Derived<'_>) -> Vec<String> {
    let residue = &derived.attempt.residue;
    let is_refused = matches!(derived.attempt.ending, Ending::Refused { .. });
    let not_as_before = residue.before.iter().filter_map(|(proxy, digest)| match residue.after.get(proxy) {
        Some(after) if after == digest => None,
        Some(_) => Some(format!("proxy {proxy} has another configuration than before")),
        None if is_refused => None,
        None => Some(format!("whether proxy {proxy} is as before could not be seen")),
    });
    not_as_before.collect()
}

fn integrity(derived: &Derived<'_>, measured: &Measured) -> Vec<String> {
    let mut reasons = Vec::new();
    if measured.loss.as_ref().is_some_and(|loss| loss.split_brain)
        || derived.tallies.iter().any(|tally| tally.split_brain)
    {
        reasons.push("two regions acknowledged writes within one exclusive epoch: split brain".to_owned());
    }
    let lost = derived.lost_after_recovery();
    if lost > 0 {
        let writes = figures::count(lost, "write");
        reasons.push(format!("{writes} acknowledged after recovery {} lost", if lost == 1 { "is" } else { "are" }));
    }
    if let Some(loss) = &measured.loss
        && loss.lost > 0
        && time_of(derived.attempt, Point::T0c).is_none()
        && time_of(derived.attempt, Point::T0e).is_none()
    {
        reasons.push(format!("{} of {} acknowledged writes are lost, without a fault", loss.lost, loss.acknowledged));
    }
    reasons
}

/// A client that never recovered, where no recovery time objective says so already.
fn unrecovered(derived: &Derived<'_>, measured: &Measured, judged: &[ObjectiveResult]) -> Option<String> {
    let recovery = measured.recovery.as_ref()?;
    let is_said = judged.iter().any(|judged| judged.name == "recoveryTime");
    let is_down = derived.outage.as_ref().is_some_and(|outage| outage.t7.is_none());
    (is_down && !is_said)
        .then(|| format!("recovery was not seen: it took more than {}", figures::number(recovery.seconds, "s")))
}

/// Probes of which a request is missing between fault and failback: a request that was not made would have failed, for
/// all that is known.
fn unseen(derived: &Derived<'_>) -> Vec<String> {
    let Some(frame) = &derived.frame else { return Vec::new() };
    let partial = derived.series.iter().filter(|series| !series.is_complete(frame.start, frame.end));
    let reason = |name: &str| format!("requests of probe {name} are missing between fault and failback");
    partial.map(|series| reason(&series.probe.name)).collect()
}

/// Ways in which the original state was not reached again, beside residue at proxies.
fn not_put_back(derived: &Derived<'_>) -> Vec<String> {
    let attempt = derived.attempt;
    let mut undone = BTreeMap::new();
    for entry in attempt.journal.iter().filter(|entry| entry.kind == "undo") {
        let (step, ok) = (entry.detail.get("step").and_then(Value::as_u64), entry.detail.get("ok"));
        if let (Some(step), Some(ok)) = (step, ok.and_then(Value::as_bool)) {
            undone.insert(step, ok);
        }
    }
    let left = undone.into_iter().filter(|(_, ok)| !ok);
    let mut reasons: Vec<_> =
        left.map(|(step, _)| format!("step {} of the scenario was not undone", step.saturating_add(1))).collect();
    let has = |name: &str| attempt.phases.iter().any(|phase| phase.name == name);
    if has("return") && !has("failback") {
        reasons.push("what was lost did not come back, so there was no failback".to_owned());
    }
    if time_of(attempt, Point::T8).is_some() && time_of(attempt, Point::T9).is_none() {
        reasons.push("no steady state was seen after failback".to_owned());
    }
    reasons
}

fn missed(judged: &ObjectiveResult, measured: &Measured) -> String {
    let seen = judged.measured.unwrap_or_default();
    let s = |value| figures::number(value, "s");
    match judged.name.as_str() {
        "recoveryTime" if measured.recovery.as_ref().is_some_and(|recovery| recovery.censored) => {
            format!("recovery was not seen: it took more than {}, the objective is {}", s(seen), s(judged.asked))
        }
        "recoveryTime" => format!(
            "recovery took {} ± {}, {} more than the objective of {}",
            s(seen),
            s(judged.error),
            s(seen - judged.asked),
            s(judged.asked)
        ),
        "dataLoss" => format!(
            "{} acknowledged writes are lost, the oldest {} before the fault or failback, {} more than the objective of {}",
            lost(measured),
            s(seen),
            s(seen - judged.asked),
            s(judged.asked)
        ),
        "successRate" => {
            let asked = figures::number(judged.asked, "%");
            let less = figures::number(judged.asked - seen, "points");
            let seen = figures::number(seen, "%");
            format!("{seen} of requests succeeded after recovery, {less} less than the objective of {asked}")
        }
        _ => format!(
            "the 99th percentile of latency after recovery was {}, {} more than the objective of {}",
            s(seen),
            s(seen - judged.asked),
            s(judged.asked)
        ),
    }
}

fn lost(measured: &Measured) -> String {
    measured.loss.as_ref().map_or_else(String::new, |loss| format!("{} of {}", loss.lost, loss.acknowledged))
}

fn undecided(judged: &ObjectiveResult, measured: &Measured) -> String {
    let s = |value| figures::number(value, "s");
    let asked = s(judged.asked);
    match (judged.name.as_str(), judged.measured) {
        ("recoveryTime", Some(seen)) if measured.recovery.as_ref().is_some_and(|recovery| recovery.censored) => {
            format!(
                "recovery took more than {}, but the fault ended before a whole sustain window was seen: the objective of \
             {asked} is undecided",
                s(seen)
            )
        }
        ("recoveryTime", Some(seen)) => format!(
            "recovery took {} ± {}, which is too close to the objective of {asked} to decide",
            s(seen),
            s(judged.error)
        ),
        ("dataLoss", Some(_)) if measured.loss.as_ref().is_some_and(|loss| loss.unjudged > 0) => format!(
            "{} acknowledged writes were not read back: the objective of {asked} of data loss is undecided",
            measured.loss.as_ref().map_or(0, |loss| loss.unjudged)
        ),
        ("dataLoss", Some(seen)) => format!(
            "the oldest lost write is {} ± {} before the fault, which is too close to the objective of {asked} to decide",
            s(seen),
            s(judged.error)
        ),
        ("dataLoss", None) => format!("no writes were read back: the objective of {asked} of data loss is undecided"),
        (name, _) => format!("{name} could not be measured: no requests were due after the fault"),
    }
}
