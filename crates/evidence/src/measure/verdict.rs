//! Judging: objectives against measured values, and the verdict with its reasons. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    Derived, circumstances, figures,
    recovery::{Outage, time_of},
};
use crate::{
    record::{Ending, Nanos, Point, TimelinePoint, Verdict},
    results::{Measured, ObjectiveResult, Recovery},
};

/// Every objective that was asked for, judged: those of the fault, then those of failback if there was one.
pub(super) fn objectives(derived: &Derived<'_>, measured: &Measured) -> Vec<ObjectiveResult> {
    let asked = &derived.attempt.objectives;
    let mut judged = Vec::new();
    judged.extend(asked.recovery_time.map(|asked| recovery_time(derived, asked, measured)));
    judged.extend(asked.data_loss.map(|asked| data_loss(derived, asked, measured)));
    judged.push(success_rate(derived, "successRate", asked.success_rate, false));
    judged.extend(asked.latency_p99.map(|asked| latency(derived, "latencyP99", asked, false)));
    if time_of(derived.attempt, Point::T8).is_none() {
        return judged;
    }
    let back = asked.failback.clone().unwrap_or_default();
    judged.extend(back.recovery_time.or(asked.recovery_time).map(|asked| failback_time(derived, asked)));
    let by_failback = back.data_loss.or(asked.data_loss);
    judged.extend(by_failback.and_then(|asked| failback_loss(derived, asked, measured)));
    judged.push(success_rate(derived, "failback.successRate", back.success_rate.unwrap_or(asked.success_rate), true));
    let slowest = back.latency_p99.or(asked.latency_p99);
    judged.extend(slowest.map(|asked| latency(derived, "failback.latencyP99", asked, true)));
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

fn outage_time(name: &str, asked: Nanos, outage: &Outage) -> ObjectiveResult {
    let (length, error) = (figures::seconds(outage.length()), figures::seconds(outage.error));
    let mut judged = at_most(name, figures::seconds(asked), Some(length), error);
    if outage.t7.is_none() && judged.met == Some(true) {
        // More than something that is less than the objective decides nothing.
        judged.met = None;
    }
    judged
}

/// The one that governs: missed before undecided before met, and the longest of those.
fn worst(judged: impl Iterator<Item = ObjectiveResult>) -> Option<ObjectiveResult> {
    let rank = |judged: &ObjectiveResult| match judged.met {
        Some(false) => 2,
        None => 1,
        Some(true) => 0,
    };
    let measured = |judged: &ObjectiveResult| judged.measured.unwrap_or(0.0);
    judged.reduce(|a, b| {
        let order = rank(&b).cmp(&rank(&a)).then(measured(&b).total_cmp(&measured(&a)));
        if order.is_gt() { b } else { a }
    })
}

fn recovery_time(derived: &Derived<'_>, asked: Nanos, measured: &Measured) -> ObjectiveResult {
    const NAME: &str = "recoveryTime";
    let outages = derived.staged().filter(|(_, stage)| !stage.is_failback());
    let of_outages = worst(outages.map(|(outage, _)| outage_time(NAME, asked, outage)));
    let asked = figures::seconds(asked);
    // Without an outage of the fault, it may still have fallen between two requests.
    let unseen = measured.recovery.as_ref().filter(|recovery| !recovery.client_visible);
    let unseen = unseen.map(|recovery| at_most(NAME, asked, Some(recovery.seconds), recovery.error));
    worst(of_outages.into_iter().chain(unseen)).unwrap_or_else(|| at_most(NAME, asked, None, 0.0))
}

fn failback_time(derived: &Derived<'_>, asked: Nanos) -> ObjectiveResult {
    const NAME: &str = "failback.recoveryTime";
    let outages = derived.staged().filter(|(_, stage)| stage.is_failback());
    let judged = worst(outages.map(|(outage, _)| outage_time(NAME, asked, outage)));
    judged.unwrap_or_else(|| at_most(NAME, figures::seconds(asked), Some(0.0), 0.0))
}

/// Bound on the error of an age of a write: of the points that it is measured from, and of clocks.
fn age_error(derived: &Derived<'_>) -> f64 {
    let is_point = |point: &&TimelinePoint| matches!(point.point, Point::T0e | Point::T0c | Point::T8);
    let of_points = derived.attempt.timeline.iter().filter(is_point).map(|point| point.error).max();
    figures::seconds(of_points.unwrap_or(0).max(0).saturating_add(circumstances::clock_error(derived.attempt)))
}

fn data_loss(derived: &Derived<'_>, asked: Nanos, measured: &Measured) -> ObjectiveResult {
    let asked = figures::seconds(asked);
    let Some(loss) = &measured.loss else { return at_most("dataLoss", asked, None, 0.0) };
    // That nothing was lost is exact; a time is between two observers.
    let error = if loss.seconds > 0.0 { age_error(derived) } else { 0.0 };
    let mut judged = at_most("dataLoss", asked, Some(loss.seconds), error);
    if loss.unjudged > 0 && judged.met == Some(true) {
        // What nobody read back may be lost.
        judged.met = None;
    }
    if loss.lost_after_fault > derived.attempt.objectives.lost_after_fault {
        // Worse than the loss of a write from before the fault, whatever its age.
        judged.met = Some(false);
    }
    judged
}

fn failback_loss(derived: &Derived<'_>, asked: Nanos, measured: &Measured) -> Option<ObjectiveResult> {
    let (failback, _) = (measured.failback.as_ref()?, measured.loss.as_ref()?);
    let error = if failback.lost_seconds > 0.0 { age_error(derived) } else { 0.0 };
    Some(at_most("failback.dataLoss", figures::seconds(asked), Some(failback.lost_seconds), error))
}

/// Stretches of the fault and its undoing, or of failback.
fn stretches(derived: &Derived<'_>, is_failback: bool) -> impl Iterator<Item = (Nanos, Nanos)> {
    let stretches = derived.stretches().into_iter().filter(move |(stage, _, _)| stage.is_failback() == is_failback);
    stretches.map(|(_, from, to)| (from, to))
}

/// Of the worst probe, in the worst stretch.
fn success_rate(derived: &Derived<'_>, name: &str, asked: f64, is_failback: bool) -> ObjectiveResult {
    let rates = stretches(derived, is_failback).filter_map(|(from, to)| derived.rate(from, to));
    let measured = rates.min_by(f64::total_cmp);
    let met = measured.map(|measured| measured >= asked);
    ObjectiveResult { name: name.to_owned(), asked, measured, error: 0.0, met }
}

/// Of the worst probe, in the worst stretch.
fn latency(derived: &Derived<'_>, name: &str, asked: Nanos, is_failback: bool) -> ObjectiveResult {
    let slowest = stretches(derived, is_failback).filter_map(|(from, to)| derived.p99(from, to)).max();
    // A request that was sent late counts from when it was due: what the engine was late by is not the service's.
    let late = derived.attempt.engine.iter().flat_map(|engine| engine.sends.values()).map(|late| late.p99).max();
    let mut judged = at_most(name, figures::seconds(asked), slowest.map(figures::seconds), 0.0);
    if judged.met == Some(false)
        && let (Some(slowest), Some(late)) = (slowest, late)
        && slowest.saturating_sub(late) <= asked
    {
        (judged.error, judged.met) = (figures::seconds(late), None);
    }
    judged
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
    let unproven = circumstances::unproven(derived.attempt);
    if let Some(verdict) = ended {
        reasons.extend(unproven);
        return (verdict, reasons);
    }
    reasons.extend(integrity(derived, measured));
    let is_timed = |judged: &&ObjectiveResult| !judged.name.ends_with("dataLoss");
    let is_missed = |judged: &&ObjectiveResult| judged.met == Some(false);
    let words = |judged: &ObjectiveResult| missed(derived, judged, measured);
    reasons.extend(judged.iter().filter(is_missed).filter(|judged| !is_timed(judged)).map(words));
    reasons.extend(not_put_back(derived));
    reasons.extend(derived.unobserved_ramp());
    let is_failed = !reasons.is_empty();
    // What was timed by an engine that did not do its work is not the service's failure.
    let shortcomings = circumstances::shortcomings(derived.attempt);
    let before = reasons.len();
    reasons.extend(unrecovered(derived, measured, judged));
    reasons.extend(judged.iter().filter(is_missed).filter(is_timed).map(words));
    let is_late = reasons.len() > before;
    if is_failed || (is_late && shortcomings.is_empty()) {
        reasons.extend(shortcomings);
        reasons.extend(unproven);
        return (Verdict::Failed, reasons);
    }
    reasons.extend(shortcomings);
    reasons.extend(unproven);
    reasons.extend(derived.unhit());
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
    let allowed = &derived.attempt.objectives;
    for (what, found, most) in measured.loss.iter().flat_map(|loss| {
        [
            ("duplicated", loss.duplicated, allowed.integrity.duplicated),
            ("reordered", loss.reordered, allowed.integrity.reordered),
            ("resurrected", loss.resurrected, allowed.integrity.resurrected),
        ]
    }) {
        if found > most {
            let writes = figures::count(usize::try_from(found).unwrap_or(usize::MAX), "write");
            let verb = if found == 1 { "was" } else { "were" };
            reasons.push(format!("{writes} {verb} {what}, and the plan allows {most}"));
        }
    }
    let lost = derived.lost_after_recovery();
    let is_allowed = measured.loss.as_ref().is_some_and(|loss| loss.lost_after_fault <= allowed.lost_after_fault);
    if lost > 0 && !is_allowed {
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

/// An outage that missed its objective, and is not the one of the fault.
fn missed_later(derived: &Derived<'_>, judged: &ObjectiveResult) -> String {
    let seen = judged.measured.unwrap_or_default();
    let s = |value| figures::number(value, "s");
    let outage = derived.staged().find(|(outage, stage)| {
        figures::seconds(outage.length()) == seen && stage.is_failback() == judged.name.starts_with("failback")
    });
    let place = outage.map_or_else(String::new, |(outage, stage)| {
        format!(" {}, from +{} on", stage.words(), figures::text(outage.t1.saturating_sub(derived.zero())))
    });
    let more = if outage.is_some_and(|(outage, _)| outage.t7.is_none()) { "at least " } else { "" };
    format!(
        "clients were harmed for {more}{} ± {}{place}, {} more than the objective of {}",
        s(seen),
        s(judged.error),
        s(seen - judged.asked),
        s(judged.asked)
    )
}

fn missed(derived: &Derived<'_>, judged: &ObjectiveResult, measured: &Measured) -> String {
    let seen = judged.measured.unwrap_or_default();
    let s = |value| figures::number(value, "s");
    let is_first = |recovery: &Recovery| recovery.client_visible && recovery.seconds == seen;
    let lost_after = measured.loss.as_ref().map_or(0, |loss| loss.lost_after_fault);
    let allowed = derived.attempt.objectives.lost_after_fault;
    match judged.name.as_str() {
        "failback.recoveryTime" => missed_later(derived, judged),
        "recoveryTime" if !measured.recovery.as_ref().is_some_and(is_first) => missed_later(derived, judged),
        "dataLoss" if lost_after > allowed => format!(
            "{} acknowledged writes are lost; {lost_after} of them were acknowledged after the fault, and the plan allows {allowed}",
            lost(measured)
        ),
        "failback.dataLoss" => format!(
            "failback lost {}, the oldest {} before it, {} more than the objective of {}",
            figures::count(
                measured.failback.as_ref().map_or(0, |failback| usize::try_from(failback.lost).unwrap_or(usize::MAX)),
                "acknowledged write"
            ),
            s(seen),
            s(seen - judged.asked),
            s(judged.asked)
        ),
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
            "{} acknowledged writes are lost, the oldest {} before the fault, {} more than the objective of {}",
            lost(measured),
            s(seen),
            s(seen - judged.asked),
            s(judged.asked)
        ),
        "successRate" | "failback.successRate" => {
            let when = if judged.name == "successRate" { "after recovery" } else { "from failback on" };
            let asked = figures::number(judged.asked, "%");
            let less = figures::number(judged.asked - seen, "points");
            let seen = figures::number(seen, "%");
            format!("{seen} of requests succeeded {when}, {less} less than the objective of {asked}")
        }
        _ => format!(
            "the 99th percentile of latency {} was {}, {} more than the objective of {}",
            if judged.name == "latencyP99" { "after recovery" } else { "from failback on" },
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
        ("failback.recoveryTime", Some(seen)) => format!(
            "clients were harmed for {} ± {} from failback on: the objective of {asked} is undecided",
            s(seen),
            s(judged.error)
        ),
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
