//! Preflight, baseline, lease.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use evidence::record::Nanos;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::{PATIENCE, loads, roles};
use crate::{
    clock::{duration, nanos},
    context::{Context, LOOK, Message, insist},
    figures::{figures, unsteady},
    life::Input,
    normal::{misserved, served},
    preflight::{Look, differing, digests, objections},
    probe::lock,
    progress::Progress,
    record::LEASE_TTL,
    target::{Target, TargetError},
};

/// Time to live of the harmless lease.
const PROOF_TTL: Duration = Duration::from_secs(1);
/// Between two looks at a mesh that is waited for.
const BETWEEN: Duration = Duration::from_millis(500);
/// Why it is waited for is told this often.
const TOLD_EVERY: Duration = Duration::from_secs(5);
/// The harmless overlay must be seen everywhere by then.
const PROOF_LAID: Duration = Duration::from_secs(5);

/// Looks at the whole mesh.
pub async fn inspect<T: Target>(context: Arc<Context<T>>) -> Input {
    let until = Instant::now() + context.wait;
    let mut told = Told::default();
    loop {
        let look = match timeout(PATIENCE * 3, look(&context)).await {
            Err(_) => return Input::Inspected(vec!["the mesh cannot be inspected: it does not answer".to_owned()]),
            Ok(Err(error)) => return Input::Inspected(vec![format!("the mesh cannot be inspected: {error}")]),
            Ok(Ok(look)) => look,
        };
        let mut found = objections(&look, &context.plan);
        let services: Vec<String> = context.plan.services.iter().map(ToString::to_string).collect();
        found.lasting.extend(context.undos.objections(&services));
        if found.is_empty() {
            found.passing.extend(roles::unproved(&context).await);
        }
        if found.is_empty() {
            remember(&context, &look).await;
            return Input::Inspected(Vec::new());
        }
        let left = until.saturating_duration_since(Instant::now());
        if !found.lasting.is_empty() || left.is_zero() {
            return Input::Inspected(found.into_reasons());
        }
        told.tell(&context, found.into_reasons(), left).await;
        sleep(BETWEEN.min(left)).await;
    }
}

/// What was last said of why the mesh is waited for.
#[derive(Default)]
struct Told(Option<Instant>);

impl Told {
    /// Shows and records why, at most every few seconds: shares change all the time.
    async fn tell<T: Target>(&mut self, context: &Arc<Context<T>>, reasons: Vec<String>, left: Duration) {
        if self.0.is_some_and(|last| last.elapsed() < TOLD_EVERY) {
            return;
        }
        self.0 = Some(Instant::now());
        waiting(context, reasons, left).await;
    }
}

async fn waiting<T: Target>(context: &Arc<Context<T>>, reasons: Vec<String>, left: Duration) {
    let text = format!("waiting up to {:.0} s for the plan's normal state", left.as_secs_f64());
    context.observe("observation", &text, json!({"reasons": reasons})).await;
    context.show(Progress::Waiting { reasons, left });
}

async fn look<T: Target>(context: &Context<T>) -> Result<Look, TargetError> {
    let until = Instant::now() + PATIENCE;
    let (target, plan) = (&context.target, &context.plan.name);
    let (endpoints, proxies, recovery) = tokio::try_join!(
        insist(until, || target.audit(plan)),
        insist(until, || target.proxies()),
        insist(until, || target.recovery(plan)),
    )?;
    Ok(Look { endpoints, proxies, recovery })
}

/// Keeps what the end is compared with, also for whoever finds the attempt crashed.
async fn remember<T: Target>(context: &Arc<Context<T>>, look: &Look) {
    let before = digests(&look.proxies);
    let lost = context.lost_region.as_ref();
    let inside = look.proxies.iter().filter(|p| p.region.is_some() && p.region.as_ref() == lost);
    let inside: BTreeSet<String> = inside.map(|p| p.name.clone()).collect();
    {
        let mut facts = context.facts();
        facts.before.clone_from(&before);
        facts.timeline.set_inside(inside);
        facts.problems.clear();
    }
    let text = format!("{} endpoints audited, {} proxies in sync", look.endpoints.len(), look.proxies.len());
    let endpoints: Vec<_> = look.endpoints.iter().map(|e| &e.workload).collect();
    context.observe("observation", &text, json!({"before": before, "endpoints": endpoints})).await;
}

/// Lays a harmless lease, sees it at every proxy, lets it lapse, and sees it gone.
pub async fn prove_undo<T: Target>(context: Arc<Context<T>>) -> Input {
    let lease = format!("{}-proof", context.lease);
    context.facts().leases.insert(lease.clone());
    let bound = PROOF_LAID + PROOF_TTL + LEASE_TTL + PATIENCE;
    let result = match timeout(bound, prove(&context, &lease)).await {
        Ok(result) => result,
        Err(_) => Err("the mesh does not answer".to_owned()),
    };
    match result {
        Ok(lapse) => {
            context.facts().leases.remove(&lease);
            let text = format!("undo path proved: the lease lapsed in {:.3} s", lapse.as_secs_f64());
            context.observe("observation", &text, json!({"lapseSeconds": lapse.as_secs_f64()})).await;
            let proxies = context.facts().before.len();
            let endpoints = endpoints_audited(&context);
            context.show(Progress::Preflight { endpoints, proxies, lapse });
            Input::Proved(Ok(()))
        }
        Err(reason) => Input::Proved(Err(reason)),
    }
}

fn endpoints_audited<T: Target>(context: &Context<T>) -> usize {
    let journal = context.journal();
    let audited =
        journal.iter().find_map(|entry| entry.detail.get("endpoints").and_then(|e| e.as_array()).map(Vec::len));
    audited.unwrap_or_default()
}

async fn prove<T: Target>(context: &Context<T>, lease: &str) -> Result<Duration, String> {
    let target = &context.target;
    let fail = |error: TargetError| error.to_string();
    target.take_lease(lease, PROOF_TTL, None).await.map_err(fail)?;
    let id = target.lay_harmless(lease).await.map_err(fail)?;
    let until = Instant::now() + PROOF_LAID;
    let mut alive = Instant::now();
    loop {
        let proxies = target.proxies().await.map_err(fail)?;
        let without = proxies.iter().filter(|p| !p.overlays.contains(&id)).map(|p| p.name.as_str());
        let without: Vec<&str> = without.collect();
        if without.is_empty() {
            break;
        }
        if Instant::now() > until {
            return Err(format!("the harmless overlay did not reach {}", without.join(", ")));
        }
        if alive.elapsed() > PROOF_TTL / 3 {
            target.heartbeat(lease).await.map_err(fail)?;
            alive = Instant::now();
        }
        sleep(LOOK).await;
    }
    lapse(context, &id, alive).await
}

/// From the last sign of life until no proxy has the overlay, and each is as before.
async fn lapse<T: Target>(context: &Context<T>, id: &str, alive: Instant) -> Result<Duration, String> {
    let until = alive + PROOF_TTL + LEASE_TTL;
    loop {
        let proxies = context.target.proxies().await.map_err(|error| error.to_string())?;
        let still: Vec<&str> =
            proxies.iter().filter(|p| p.overlays.iter().any(|o| o == id)).map(|p| p.name.as_str()).collect();
        let changed = differing(&context.facts().before, &digests(&proxies));
        if still.is_empty() && changed.is_empty() {
            return Ok(alive.elapsed());
        }
        if Instant::now() > until {
            return Err(if still.is_empty() {
                format!("after the lapse, these proxies are not as before: {}", changed.join(", "))
            } else {
                format!("the lease did not lapse at {}", still.join(", "))
            });
        }
        sleep(LOOK).await;
    }
}

/// Judges what was due in the baseline, once all of it has ended.
pub async fn judge_baseline<T: Target>(context: Arc<Context<T>>, from: Nanos, to: Nanos) -> Input {
    let logs = context.facts().logs.clone();
    let longest = context.specs.iter().map(|spec| spec.timeout).max().unwrap_or_default();
    let until = context.clock.instant(to) + longest + Duration::from_millis(500);
    let pending = || logs.iter().any(|log| lock(log).between(from, to).any(|(_, sample)| sample.is_none()));
    while pending() && std::time::Instant::now() < until {
        sleep(LOOK / 5).await;
    }
    // A last look, so that there is one slice at least.
    loads::look(&context).await;
    let seen: Vec<_> = logs.iter().map(|log| figures(&lock(log), from, to)).collect();
    let mut reasons = unsteady(&context.plan.objectives, &seen);
    {
        let mut facts = context.facts();
        let slices = facts.loads.between(from, context.clock.now());
        reasons.extend(misserved(slices, &context.plan));
        facts.served = served(slices);
    }
    let left = context.wait.saturating_sub(duration(context.clock.now()));
    if !reasons.is_empty() && !left.is_zero() {
        waiting(&context, reasons.clone(), left).await;
    }
    if reasons.is_empty() {
        context.show(Progress::Baseline { took: duration(to - from), probes: seen });
    }
    Input::BaselineJudged(reasons)
}

/// Takes the lease.
pub async fn take_lease<T: Target>(context: Arc<Context<T>>) -> Input {
    if let Err(reason) = same_configuration(&context).await {
        return Input::Leased(Err(reason));
    }
    context.facts().leases.insert(context.lease.clone());
    let text = format!("lease {} for {} s", context.lease, LEASE_TTL.as_secs());
    if let Err(reason) = context.note("intent", &text, json!({"lease": context.lease})).await {
        return Input::Leased(Err(reason));
    }
    let until = Instant::now() + PATIENCE;
    let plan = Some(&context.plan.name);
    let taken = insist(until, || context.target.take_lease(&context.lease, LEASE_TTL, plan)).await;
    Input::Leased(taken.map_err(|error| error.to_string()))
}

/// From here on an apply is refused unless its author wants it; one that came before is no part of what was measured.
async fn same_configuration<T: Target>(context: &Context<T>) -> Result<(), String> {
    let until = Instant::now() + PATIENCE;
    let (now, author) = insist(until, || context.target.configuration()).await.map_err(|error| error.to_string())?;
    match &context.configuration {
        Some(before) if before.digest != now.digest => Err(format!(
            "{author} applied revision {} after the attempt was registered with revision {}; run the drill again",
            now.revision, before.revision
        )),
        _ => Ok(()),
    }
}

/// Renews the lease until it is lost; ends only then.
pub async fn heartbeats<T: Target>(context: Arc<Context<T>>) {
    let mut alive = context.clock.now();
    loop {
        let asked = context.clock.now();
        let answer = timeout(LEASE_TTL / 3, context.target.heartbeat(&context.lease)).await;
        let reason = match answer {
            Ok(Ok(())) => {
                // Renewed no later than it was asked for.
                alive = asked;
                sleep(LEASE_TTL / 3).await;
                continue;
            }
            Ok(Err(error @ TargetError::Refused { .. })) => {
                let reason = format!("the lease is lost: {error}");
                return context.tell(Message::Input(Input::LeaseLost(reason))).await;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer to a heartbeat within {} s", LEASE_TTL.as_secs_f64() / 3.0),
        };
        if context.clock.now() - alive > nanos(LEASE_TTL) {
            let reason = format!("the lease lapsed after {} s without a heartbeat: {reason}", LEASE_TTL.as_secs());
            return context.tell(Message::Input(Input::LeaseLost(reason))).await;
        }
        sleep(LEASE_TTL / 20).await;
    }
}
