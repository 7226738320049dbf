//! What limits the meaning of an attempt beside its samples: what was left standing, what the engine did not do, what the
//! clocks allow. Pure.

use std::collections::BTreeMap;

use super::{
    Derived,
    figures::{self, seconds},
};
use crate::{
    entry::rfc3339,
    record::{Attempt, Nanos, Outcome, ProbeRecord, RampStep, Standing},
    results::{ChangeResult, ClockResult, ClockStepResult, EngineResult, ProxyShareResult, RampResult, UndoResult},
};

/// Percent of a probe's requests that the engine may have failed to send.
const UNSENT_PERCENT: f64 = 0.1;

/// Bound on the difference between any two clocks of the attempt.
pub fn clock_error(attempt: &Attempt) -> Nanos {
    let measured = attempt.clock.as_ref().map_or(0, |clock| clock.uncertainty());
    attempt.anchor.error.max(measured).max(0)
}

/// What clocks and the lateness of the engine add to every bound of a time.
pub fn margin(attempt: &Attempt) -> Nanos {
    let late = attempt.engine.iter().flat_map(|engine| engine.sends.values()).map(|late| late.max.max(0)).max();
    clock_error(attempt).saturating_add(late.unwrap_or(0))
}

/// Requests of a probe that the engine did not send.
pub fn unsent(attempt: &Attempt, probe: &ProbeRecord) -> u64 {
    let without_sample = attempt.engine.as_ref().and_then(|engine| engine.unsent.get(&probe.name)).copied();
    let not_sent = probe.samples.iter().filter(|sample| sample.outcome == Outcome::NotSent).count() as u64;
    not_sent.saturating_add(without_sample.unwrap_or(0))
}

/// What the engine did not do, as reasons why nothing follows; empty if it did its work.
pub fn shortcomings(attempt: &Attempt) -> Vec<String> {
    let mut reasons = Vec::new();
    for probe in &attempt.probes {
        let unsent = unsent(attempt, probe);
        let due = (probe.samples.len() as u64).saturating_add(unsent);
        if unsent as f64 * 100.0 > UNSENT_PERCENT * due as f64 {
            let percent = figures::number(unsent as f64 * 100.0 / due as f64, "%");
            reasons.push(format!(
                "the drill engine did not send {percent} of the requests of probe {}: what would have become of them is unknown",
                probe.name
            ));
        }
        let late = attempt.engine.as_ref().and_then(|engine| engine.sends.get(&probe.name));
        if let Some(late) = late.filter(|late| probe.timeout > 0 && late.max >= probe.timeout) {
            reasons.push(format!(
                "the drill engine sent a request of probe {} {} late, which is longer than its timeout",
                probe.name,
                figures::text(late.max)
            ));
        }
    }
    if attempt.engine.as_ref().is_some_and(|engine| engine.descriptor_limit.is_some()) {
        reasons
            .push("the drill engine reached its limit of open files, so requests may have failed for that".to_owned());
    }
    reasons
}

/// Why an attempt with these circumstances proves less than its numbers say.
pub fn unproven(attempt: &Attempt) -> Vec<String> {
    let mut reasons: Vec<_> = attempt.standing.iter().map(standing).collect();
    for undo in &attempt.undos {
        let error = undo.error.as_ref().map_or_else(|| "it was not tried yet".to_owned(), |error| error.clone());
        reasons.push(format!("the undo of {} is outstanding since {}: {error}", undo.name, to_seconds(undo.since)));
    }
    reasons.extend(attempt.unproven.iter().cloned());
    reasons
}

fn standing(standing: &Standing) -> String {
    let steps = match standing.steps.as_slice() {
        [] => "what was done".to_owned(),
        steps => steps.join(", "),
    };
    let mut sentence = format!("{steps} cannot be undone and stands");
    if let Some(region) = &standing.serving {
        sentence.push_str(&format!("; {region} serves"));
    }
    if !standing.fenced.is_empty() {
        sentence.push_str(&format!("; {} is fenced off", standing.fenced.join(", ")));
    }
    if let Some(command) = &standing.command {
        sentence.push_str(&format!("; to fail back, run `{command}`"));
    }
    sentence
}

/// A wall clock time to the second, for people.
fn to_seconds(wall: i64) -> String {
    rfc3339(wall.div_euclid(1_000_000_000).saturating_mul(1_000_000_000))
}

/// Undo that was not done.
pub fn undos(attempt: &Attempt) -> Vec<UndoResult> {
    let undo = |undo: &crate::record::OutstandingUndo| UndoResult {
        name: undo.name.clone(),
        command: undo.command.clone(),
        error: undo.error.clone(),
        since: to_seconds(undo.since),
    };
    attempt.undos.iter().map(undo).collect()
}

/// Changes of the configuration.
pub fn changes(attempt: &Attempt, zero: Nanos) -> Vec<ChangeResult> {
    let change = |change: &crate::record::ConfigurationChange| ChangeResult {
        offset: seconds(change.time.saturating_sub(zero)),
        from: change.from.clone(),
        to: change.to.clone(),
        operator: change.operator.clone(),
    };
    attempt.changes.iter().map(change).collect()
}

/// The engine's own shortcomings; `None` if it did not record them.
pub fn engine(attempt: &Attempt) -> Option<EngineResult> {
    let engine = attempt.engine.as_ref()?;
    let unsent: BTreeMap<_, _> = attempt
        .probes
        .iter()
        .map(|probe| (probe.name.clone(), unsent(attempt, probe)))
        .filter(|(_, count)| *count > 0)
        .collect();
    let sends = engine.sends.values();
    Some(EngineResult {
        loop_late: seconds(engine.main_loop.max),
        loop_late_p99: seconds(engine.main_loop.p99),
        send_late: seconds(sends.clone().map(|late| late.max).max().unwrap_or(0)),
        send_late_p99: seconds(sends.map(|late| late.p99).max().unwrap_or(0)),
        unsent,
        descriptor_limit: engine.descriptor_limit.is_some(),
    })
}

/// What is known of the clocks; `None` if only the anchor's bound is.
pub fn clock(attempt: &Attempt, zero: Nanos) -> Option<ClockResult> {
    let clock = attempt.clock.as_ref()?;
    let step = |step: &crate::record::ClockStep| ClockStepResult {
        offset: seconds(step.time.saturating_sub(zero)),
        by: seconds(step.by),
    };
    Some(ClockResult { error: seconds(clock_error(attempt)), steps: clock.steps.iter().map(step).collect() })
}

impl Derived<'_> {
    /// Steps of the failback: commanded beside observed.
    pub(super) fn ramp(&self) -> Vec<RampResult> {
        let attempt = self.attempt;
        let zero = self.zero();
        let results = attempt.ramp.iter().map(|step| RampResult {
            service: step.service.clone(),
            region: step.region.clone(),
            commanded: step.commanded,
            offset: seconds(step.time.saturating_sub(zero)),
            clients: self.share_at_clients(step),
            proxies: step
                .proxies
                .iter()
                .map(|proxy| ProxyShareResult {
                    proxy: proxy.proxy.clone(),
                    share: proxy.share,
                    offset: seconds(proxy.time.saturating_sub(zero)),
                })
                .collect(),
            observed: step.observed.map(|time| seconds(time.saturating_sub(zero))),
        });
        results.collect()
    }

    /// Percent of good answers from the region of the step, over the probes that reach its service, from when the share
    /// was seen (or else commanded) to the next step of the service, or the end of the failback.
    fn share_at_clients(&self, step: &RampStep) -> Option<f64> {
        let from = step.observed.unwrap_or(step.time);
        let later = self.attempt.ramp.iter().filter(|other| other.service == step.service && other.time > step.time);
        let to = later.map(|next| next.time).min().or_else(|| self.failback_end());
        let mut counts = (0_usize, 0_usize);
        let reaches = |probe: &ProbeRecord| probe.service.as_ref().is_none_or(|service| *service == step.service);
        for series in self.series.iter().filter(|series| reaches(series.probe)) {
            let first = series.before(from);
            let last = to.map_or(series.samples.len(), |to| series.before(to)).max(first);
            for sample in (first..last).filter(|at| series.good(*at)).map(|at| series.samples[at]) {
                let region = sample.region.and_then(|region| series.probe.regions.get(usize::from(region)));
                if let Some(region) = region {
                    counts.0 += usize::from(*region == step.region);
                    counts.1 += 1;
                }
            }
        }
        (counts.1 > 0).then(|| (counts.0 as f64 * 1e4 / counts.1 as f64).round() / 1e2)
    }

    /// When the failback was over; `None` if it has no end that is known.
    pub(super) fn failback_end(&self) -> Option<Nanos> {
        let phase = self.attempt.phases.iter().rev().find(|phase| phase.name == "failback");
        phase.and_then(|phase| phase.to).or(super::time_of(self.attempt, crate::record::Point::T9))
    }
}
