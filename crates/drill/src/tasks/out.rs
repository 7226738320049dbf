//! The way out: give everything back, see it gone, compare with before.

use std::{sync::Arc, time::Duration};

use evidence::record::{ConfigurationChange, Point};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::step;
use crate::{
    clock::duration,
    context::{Context, LOOK, insist},
    life::Input,
    normal::displaced,
    preflight::{differing, digests},
    progress::Progress,
    record::LEASE_TTL,
    target::{ProxyReport, Target},
    undo::Undo,
};

/// Beyond a lease's TTL, this is allowed for what it held to be gone.
const BEYOND: Duration = Duration::from_secs(1);
/// After an early end, killed processes are still on their way back when they are compared, and then their load.
const RESTARTED: Duration = Duration::from_secs(30);

/// Gives one lease back; when that cannot be said, it lapses by itself.
async fn give_back<T: Target>(context: &Context<T>, lease: &str) -> Result<(), String> {
    let until = Instant::now() + LEASE_TTL;
    let released = insist(until, || context.target.release_lease(lease));
    match timeout(LEASE_TTL + BEYOND, released).await {
        Ok(Ok(())) => {
            context.facts().leases.remove(lease);
            Ok(())
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}

/// Gives the lease back at the end of a complete life.
pub async fn release<T: Target>(context: Arc<Context<T>>) -> Input {
    let result = give_back(&context, &context.lease).await;
    let text = match &result {
        Ok(()) => "lease released".to_owned(),
        Err(reason) => format!("the lease could not be released, and lapses: {reason}"),
    };
    context.observe("effect", &text, json!({"lease": context.lease})).await;
    keep_undos(&context).await;
    Input::Released
}

/// Every undo has been run, or has failed: nobody needs to look after them for this engine. If that cannot be said, they
/// are looked at once more when the lease lapses, which finds nothing to do or tries once more what failed.
async fn keep_undos<T: Target>(context: &Context<T>) {
    let said = timeout(BEYOND, context.target.keep_undos(&context.lease)).await;
    if let Ok(Err(error)) = said {
        tracing::debug!(%error, "undos");
    }
}

/// Releases everything at once: leases, and what `run` steps owe; then sees every proxy clear.
pub async fn clear<T: Target>(context: Arc<Context<T>>) -> Input {
    // From the request on, not from when it is begun to be answered.
    let trip = context.facts().stopped.unwrap_or_else(|| context.clock.now());
    let leases = context.facts().leases.clone();
    let steps: Vec<usize> = context.facts().owed.keys().copied().rev().collect();
    let releasing = async {
        for lease in &leases {
            if let Err(reason) = give_back(&context, lease).await {
                context.facts().problems.push(format!("Lease {lease} could not be released, and lapses: {reason}"));
            }
        }
        see_clear(&context).await
    };
    let undoing = async {
        for index in steps {
            let result = step::pay(&context, index).await;
            context
                .observe("undo", &format!("undo of step {}", index + 1), json!({"step": index, "ok": result.is_ok()}))
                .await;
            match result {
                Ok(()) => {
                    let id = Undo::id_of(context.drill.name.as_str(), context.number, index as u64);
                    step::forget(&context, &id).await;
                }
                Err(reason) => {
                    let problem = format!("Step {} of the scenario could not be undone: {reason}", index + 1);
                    context.facts().problems.push(problem);
                }
            }
        }
        keep_undos(&context).await;
        context.clock.now()
    };
    let (cleared, undone) = tokio::join!(releasing, undoing);
    if let Some(seen) = cleared {
        let cleared = if steps_were_owed(undone, trip, &context) { seen.max(undone) } else { seen };
        context.facts().cleared = Some(cleared);
        let after = duration(cleared - trip);
        context
            .observe("effect", &format!("no fault at any proxy after {:.3} s", after.as_secs_f64()), json!({}))
            .await;
        context.show(Progress::Cleared { after });
    } else {
        let text = "Whether every proxy is clear could not be seen: their leases lapse".to_owned();
        context.show(Progress::Warning { text: text.clone() });
        context.facts().problems.push(text);
    }
    Input::Cleared
}

/// Commands that took any time to undo belong to the time to abort.
fn steps_were_owed<T: Target>(undone: i64, trip: i64, context: &Context<T>) -> bool {
    undone > trip
        && context.drill.scenario.iter().any(|s| matches!(s.action, model::config::ScenarioAction::Run { .. }))
}

/// Waits until no proxy carries an overlay; gives when that was. A proxy that does not answer carries none only if its
/// process was killed, that is, in the lost region.
async fn see_clear<T: Target>(context: &Context<T>) -> Option<i64> {
    let until = Instant::now() + LEASE_TTL + BEYOND * 2;
    let clear = |proxy: &ProxyReport| match &proxy.digest {
        Ok(_) => proxy.overlays.is_empty(),
        Err(_) => proxy.region.is_some() && proxy.region == context.lost_region,
    };
    while Instant::now() < until {
        let asked = timeout(LEASE_TTL, context.target.proxies()).await;
        if let Ok(Ok(proxies)) = asked
            && proxies.iter().all(clear)
        {
            return Some(context.clock.now());
        }
        sleep(LOOK / 2).await;
    }
    None
}

/// Takes note of a configuration that was applied during the attempt, so that what follows from it is not called residue.
async fn note_configuration<T: Target>(context: &Arc<Context<T>>) {
    let Ok(Ok(now)) = timeout(LEASE_TTL, context.target.configuration()).await else { return };
    let (to, operator) = now;
    let Some(from) = context.configuration.clone().filter(|from| from.digest != to.digest) else { return };
    let text = format!("revision {} was applied by {operator} during the attempt", to.revision);
    context.observe("observation", &text, json!({"revision": to.revision, "digest": to.digest})).await;
    let change = ConfigurationChange { time: context.clock.now(), from, to, operator: Some(operator) };
    context.facts().reconfigured = Some(change);
}

/// Compares every proxy with what it was before; after a change of the configuration, with what the control plane wants it
/// to hold without any overlay.
pub async fn compare<T: Target>(context: Arc<Context<T>>, early: bool) -> Input {
    note_configuration(&context).await;
    let mut before = context.facts().before.clone();
    let bound = if early { RESTARTED } else { LEASE_TTL + BEYOND };
    let until = Instant::now() + bound;
    let mut after = std::collections::BTreeMap::new();
    let (residue, away) = loop {
        let mut away = Vec::new();
        // Before anything was broken the load is where others have left it.
        let broke = context.facts().timeline.get(Point::T0c).is_some();
        // What could not be asked at all is asked again; if it never answers, every proxy is unknown.
        if let Ok(Ok(proxies)) = timeout(LEASE_TTL, context.target.proxies()).await {
            if context.facts().reconfigured.is_some() {
                before.extend(digests(&proxies.iter().filter(|p| settled(p)).cloned().collect::<Vec<_>>()));
            }
            after = digests(&proxies);
            away = if broke { displaced(&proxies, &context.plan) } else { Vec::new() };
        }
        let residue = differing(&before, &after);
        if residue.is_empty() && away.is_empty() {
            let at = context.clock.now();
            if !before.is_empty() {
                context.point(Point::T10, at, "no fault, no lease, every proxy as before, the primary serves").await;
            }
            break (residue, away);
        }
        if Instant::now() > until {
            break (residue, away);
        }
        sleep(LOOK * 2).await;
    };
    if !away.is_empty() && !before.is_empty() {
        let text = format!("The primary does not have its load back: {}", away.join("; "));
        context.show(Progress::Warning { text: text.clone() });
        context.facts().problems.push(text);
    }
    let text = format!("{} of {} proxies as before", before.len() - residue.len(), before.len());
    context.observe("observation", &text, json!({"differing": residue})).await;
    let owed = context.facts().owed.values().map(|owed| owed.name.clone()).collect();
    context.show(Progress::Residue {
        proxies: before.len(),
        unchanged: before.len() - residue.len(),
        differing: residue.clone(),
        owed,
    });
    let mut facts = context.facts();
    facts.after = after;
    // Without a change of the configuration these are still those of the preflight.
    facts.before = before;
    facts.residue = Some(residue);
    Input::Compared
}

/// Whether a proxy holds what the control plane wants, and nothing over it.
fn settled(proxy: &ProxyReport) -> bool {
    proxy.in_sync && proxy.overlays.is_empty()
}
