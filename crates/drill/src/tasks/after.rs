//! After the hold: return of what was lost, readback, failback, steady state.

use std::{sync::Arc, time::Duration};

use evidence::record::{Nanos, Point};
use model::config::Trigger;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::{PATIENCE, roles};
use crate::{
    clock::{nanos, seconds},
    context::{Context, LOOK, Message, insist},
    figures::{figures, unsteady},
    life::Input,
    normal::{displaced, misserved, strayed},
    probe::{lock, readback},
    progress::Progress,
    target::{Recovery, Target},
};

/// What was lost must be back after the fault is gone by then.
const RETURN: Duration = Duration::from_secs(60);
/// Proxies must use it again by then, after it is back.
const READMITTED: Duration = Duration::from_secs(10);
/// A readback is repeated for this long.
const READ_BACK: Duration = Duration::from_secs(10);
/// Length of the slices in which a steady state is judged.
const SLICE: Nanos = 1_000_000_000;

/// Waits until every endpoint passes its audit, every proxy is in sync, and what proxies took out is in use again.
pub async fn await_return<T: Target>(context: Arc<Context<T>>) -> Input {
    let until = Instant::now() + RETURN;
    let mut back: Option<Instant> = None;
    loop {
        let missing = match back {
            Some(_) => Vec::new(),
            None => missing(&context).await,
        };
        if missing.is_empty() {
            let since = *back.get_or_insert_with(Instant::now);
            let out = context.facts().taken_out.clone();
            if out.is_empty() || since.elapsed() > READMITTED {
                let text = if out.is_empty() {
                    "everything that was lost is back and in use".to_owned()
                } else {
                    let names: Vec<String> =
                        out.iter().map(|(source, service)| format!("{service} at {source}")).collect();
                    format!("everything that was lost is back; not yet seen in use: {}", names.join(", "))
                };
                context.observe("observation", &text, json!({})).await;
                return Input::Returned(Ok(()));
            }
        } else if Instant::now() > until {
            return Input::Returned(Err(missing.join("; ")));
        }
        sleep(LOOK * 2).await;
    }
}

async fn missing<T: Target>(context: &Context<T>) -> Vec<String> {
    let mut missing = Vec::new();
    match context.target.proxies().await {
        Err(error) => return vec![error.to_string()],
        Ok(proxies) => {
            for name in context.facts().before.keys() {
                match proxies.iter().find(|p| p.name == *name) {
                    Some(proxy) if proxy.digest.is_ok() && proxy.in_sync => {}
                    Some(_) => missing.push(format!("proxy {name} is not in sync")),
                    None => missing.push(format!("proxy {name} is gone")),
                }
            }
        }
    }
    if !missing.is_empty() {
        // An audit takes longer, and what has no proxy cannot pass it.
        return missing;
    }
    match context.target.audit(&context.plan.name).await {
        Err(error) => missing.push(error.to_string()),
        Ok(endpoints) => {
            for endpoint in endpoints {
                let failed = endpoint.checks.into_iter().filter_map(|(check, result)| Some((check, result.err()?)));
                missing.extend(failed.map(|(check, seen)| format!("{} {check}: {seen}", endpoint.workload)));
            }
        }
    }
    missing
}

/// Reads back every `writes` probe.
pub async fn read_back<T: Target>(context: Arc<Context<T>>, phase: &'static str) -> Input {
    let logs = context.facts().logs.clone();
    let settle = context.plan.objectives.settle;
    for (spec, log) in context.specs.iter().zip(&logs).filter(|(spec, _)| spec.writes.is_some()) {
        match readback::read_back(spec, log, context.clock, phase, settle, READ_BACK).await {
            Ok(seen) => {
                let text = format!("{}: {} writes read back ({phase})", spec.name, seen.found.len());
                context.observe("observation", &text, json!({"judged": seen.judged})).await;
            }
            Err(reason) => {
                let problem = format!("Writes of {} could not be read back ({phase}): {reason}", spec.name);
                context.show(Progress::Warning { text: problem.clone() });
                context.facts().problems.push(problem);
            }
        }
    }
    Input::ReadBack
}

/// Commands the failback if a failover is in force, and sees it end.
pub async fn fail_back<T: Target>(context: Arc<Context<T>>) -> Input {
    remember_tries(&context).await;
    let until = Instant::now() + PATIENCE;
    let plan = &context.plan.name;
    match insist(until, || context.target.recovery(plan)).await {
        Err(error) => return Input::FailbackCommanded(Err(error.to_string())),
        Ok(Recovery::AtRest) => {
            context
                .observe("observation", "no failover is in force, so there is nothing to fail back", json!({}))
                .await;
            return Input::FailbackCommanded(Ok(false));
        }
        Ok(Recovery::Active(_)) => {}
    }
    if context.plan.failback.trigger == Trigger::Manual {
        if let Err(reason) = context.note("intent", "failback", json!({"plan": plan})).await {
            return Input::FailbackCommanded(Err(reason));
        }
        context.point(Point::T8, context.clock.now(), "failback commanded").await;
        if let Err(error) = context.target.failback(plan, &format!("drill {}", context.lease)).await {
            return Input::FailbackCommanded(Err(error.to_string()));
        }
    }
    context.tell(Message::Input(Input::FailbackCommanded(Ok(true)))).await;
    // The event of its end usually comes first; when it is lost, the state tells. The life bounds the wait.
    loop {
        sleep(LOOK * 10).await;
        if let Ok(Recovery::AtRest) = context.target.recovery(plan).await {
            return Input::FailbackDone;
        }
    }
}

async fn remember_tries<T: Target>(context: &Context<T>) {
    match context.target.proxies().await {
        Ok(proxies) => context.facts().tries_end = Some(proxies),
        Err(error) => context.facts().problems.push(format!("Tries could not be compared: {error}")),
    }
}

/// Waits for a window in which every objective holds and the primary serves, in every slice; its start is t9.
pub async fn await_sustained<T: Target>(context: Arc<Context<T>>) -> Input {
    let logs = context.facts().logs.clone();
    let sustain = nanos(context.plan.objectives.sustain).max(SLICE);
    let slices = (sustain + SLICE - 1) / SLICE;
    let from = context.clock.now();
    let until = from + 3 * sustain + 15 * SLICE;
    let (mut start, mut held) = (from, 0);
    let mut last = Vec::new();
    loop {
        let slice = start + held * SLICE..start + (held + 1) * SLICE;
        let pending = || logs.iter().any(|log| lock(log).between(slice.start, slice.end).any(|(_, s)| s.is_none()));
        while context.clock.now() < slice.end || pending() {
            sleep(LOOK).await;
        }
        let seen: Vec<_> = logs.iter().map(|log| figures(&lock(log), slice.start, slice.end)).collect();
        // A probe slower than one request a slice has nothing to say about most of them.
        let seen: Vec<_> = seen.into_iter().filter(|f| f.offered > 0).collect();
        let mut reasons = unsteady(&context.plan.objectives, &seen);
        // Looks at the proxies come once a second too, but not at the same moments.
        reasons.extend(strayed(context.facts().loads.between(slice.start - SLICE, slice.end), &context.plan));
        held += 1;
        if reasons.is_empty() && held >= slices {
            // The load is looked at once a second: one whole look at least lies in the window, or it proves nothing.
            let patience = context.clock.now() + 3 * SLICE;
            while context.facts().loads.between(start, context.clock.now()).is_empty() && context.clock.now() < patience
            {
                sleep(LOOK).await;
            }
            reasons = not_normal(&context, start).await;
        }
        if !reasons.is_empty() {
            (start, held, last) = (slice.end, 0, reasons);
        }
        if held >= slices {
            let note = format!("for {:.0} s from here every objective holds and the primary serves", seconds(sustain));
            // Without a failback there is nothing that could have been sustained.
            if context.facts().timeline.get(Point::T8).is_some() {
                context.point(Point::T9, start, &note).await;
            }
            return Input::Sustained(Ok(()));
        }
        if slice.end > until {
            return Input::Sustained(Err(last.join("; ")));
        }
    }
}

/// Why the mesh is not in the plan's normal state, as it was served since a time and as it is now.
async fn not_normal<T: Target>(context: &Context<T>, since: Nanos) -> Vec<String> {
    let now = context.clock.now();
    let mut reasons = misserved(context.facts().loads.between(since - SLICE, now), &context.plan);
    if context.facts().loads.between(since, now).is_empty() {
        reasons.push("the load of the proxies was not seen".to_owned());
    }
    match timeout(PATIENCE, context.target.proxies()).await {
        Ok(Ok(proxies)) => reasons.extend(displaced(&proxies, &context.plan)),
        Ok(Err(error)) => reasons.push(error.to_string()),
        Err(_) => reasons.push("the proxies cannot be asked".to_owned()),
    }
    if reasons.is_empty() {
        reasons = roles::unproved(context).await;
    }
    reasons
}
