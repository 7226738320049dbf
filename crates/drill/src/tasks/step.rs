//! Steps of the scenario: the intent with its undo is durable before the effect.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evidence::record::Point;
use model::{
    config::{Delay, Fault, FaultAction, FaultStep, LoseHow, PartitionStep, ScenarioAction, TlsFault, Way},
    name::RegionName,
    unit::print_duration,
};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::PATIENCE;
use crate::{
    clock::duration,
    command,
    context::Context,
    life::Input,
    progress::Progress,
    target::{Lost, Target},
    undo::Undo,
};

/// The id of a step towards the mesh.
fn id(index: usize) -> String {
    format!("step-{}", index + 1)
}

/// What a step is called on a terminal.
pub fn title(action: &ScenarioAction) -> String {
    match action {
        ScenarioAction::Lose { region, .. } => format!("{region} is lost"),
        ScenarioAction::Fault(fault) => fault_title(fault),
        ScenarioAction::Run { name, .. } => name.clone(),
        ScenarioAction::Wait { duration } => format!("wait {}", print_duration(*duration)),
    }
}

fn fault_title(fault: &Fault) -> String {
    match fault {
        Fault::Requests(FaultStep { service, region: Some(region), .. }) => format!("fault on {service} in {region}"),
        Fault::Requests(FaultStep { service, region: None, .. }) => format!("fault on {service}"),
        Fault::Partition(step) => format!("{} is cut off", join(&step.regions)),
        Fault::NoControl { region: Some(region) } => format!("no control plane in {region}"),
        Fault::NoControl { region: None } => "no control plane".to_owned(),
    }
}

fn join(regions: &[RegionName]) -> String {
    regions.iter().map(RegionName::as_str).collect::<Vec<_>>().join(", ")
}

/// What is taken back when a step is undone.
fn undone(action: &ScenarioAction) -> String {
    match action {
        ScenarioAction::Lose { region, .. } => format!("loss of {region}"),
        other => title(other),
    }
}

/// What the proxies do.
fn harm(fault: &Fault) -> String {
    match fault {
        Fault::Requests(step) => harm_to_requests(step),
        Fault::Partition(PartitionStep { regions, from, way }) => {
            let regions = join(regions);
            let others = if from.is_empty() { "all else".to_owned() } else { join(from) };
            match way {
                Way::Both => format!("no bytes pass between {regions} and {others}"),
                Way::To => format!("no bytes pass from {others} to {regions}"),
                Way::From => format!("no bytes pass from {regions} to {others}"),
            }
        }
        Fault::NoControl { .. } => "proxies do not hear the control plane".to_owned(),
    }
}

fn harm_to_requests(fault: &FaultStep) -> String {
    let effect = match &fault.action {
        FaultAction::Delay(Delay::Fixed(delay)) => format!("{} later", print_duration(*delay)),
        FaultAction::Delay(Delay::Normal { mean, deviation }) => {
            format!("{} ± {} later", print_duration(*mean), print_duration(*deviation))
        }
        FaultAction::Delay(Delay::Spike { base, spike, percent }) => {
            format!("{} later, {percent} {}", print_duration(*base), print_duration(*spike))
        }
        FaultAction::Abort(status) => format!("status {status}"),
        FaultAction::AbortGrpc(status) => format!("gRPC status {status}"),
        FaultAction::Refuse => "connection refused".to_owned(),
        FaultAction::Reset => "connection reset".to_owned(),
        FaultAction::ResetAfter(bytes) => format!("connection reset after {bytes} bytes"),
        FaultAction::Blackhole => "no answer".to_owned(),
        FaultAction::DropConnect => "no connection".to_owned(),
        FaultAction::Bandwidth(bytes) => format!("at most {bytes} bytes a second"),
        FaultAction::Truncate(bytes) => format!("answers end after {bytes} bytes"),
        FaultAction::Dns => "name not resolved".to_owned(),
        FaultAction::Tls(TlsFault::Expired) => "certificate expired".to_owned(),
        FaultAction::Tls(TlsFault::Untrusted) => "certificate not trusted".to_owned(),
        FaultAction::Tls(TlsFault::WrongIdentity) => "certificate of another service".to_owned(),
    };
    let method = fault.method.as_ref().map_or_else(|| "requests".to_owned(), |method| format!("{method} requests"));
    let path = fault.path.as_ref().map_or_else(String::new, |path| format!(" under {path}"));
    format!("{effect} for {} of {method}{path}", fault.percent)
}

fn intent<T: Target>(context: &Context<T>, index: usize, action: &ScenarioAction) -> (Value, Option<Undo>) {
    let step = id(index);
    match action {
        ScenarioAction::Run { name, undo, timeout, .. } => {
            let environment = context.target.environment(None);
            let owed = owed(context, index, name, undo, environment.clone(), *timeout);
            let undo = json!({"command": undo, "environment": environment, "timeoutSeconds": timeout.as_secs_f64()});
            (json!({"step": index, "name": name, "undo": undo}), Some(owed))
        }
        _ => (json!({"step": index, "id": step, "lease": context.lease}), None),
    }
}

fn owed<T: Target>(
    context: &Context<T>,
    index: usize,
    name: &str,
    command: &[String],
    environment: BTreeMap<String, String>,
    timeout: Duration,
) -> Undo {
    let (drill, step) = (context.drill.name.to_string(), index as u64);
    Undo {
        id: Undo::id_of(&drill, context.number, step),
        name: name.to_owned(),
        drill,
        attempt: context.number,
        step,
        plan: context.plan.name.to_string(),
        services: context.plan.services.iter().map(ToString::to_string).collect(),
        lease: context.lease.clone(),
        command: command.to_vec(),
        environment,
        timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
        registered: context.stamp(),
        failed: None,
        settled: None,
    }
}

/// Has an undo on disk and with somebody who outlives the engine. Nothing is begun without.
async fn entrust<T: Target>(context: &Arc<Context<T>>, index: usize, owed: Undo) -> Result<(), String> {
    let (undos, kept) = (context.undos.clone(), owed.clone());
    let keep = tokio::task::spawn_blocking(move || undos.keep(&kept)).await.map_err(|error| error.to_string())?;
    keep.map_err(|error| format!("its undo cannot be kept: {error}"))?;
    let entrusted = timeout(PATIENCE, context.target.entrust_undo(&context.lease, &owed.id)).await;
    let entrusted = entrusted.map_err(|_| "no answer".to_owned()).and_then(|done| done.map_err(|e| e.to_string()));
    if let Err(reason) = entrusted {
        // The command was never started.
        let text = format!("{} was not begun: there is nothing to undo", owed.name);
        context.observe("undo", &text, json!({"step": index, "ok": true})).await;
        forget(context, &owed.id).await;
        return Err(format!("nobody could be entrusted with its undo: {reason}"));
    }
    context.facts().owed.insert(index, owed);
    Ok(())
}

/// An undo that is journalled as done need not be kept.
pub async fn forget<T: Target>(context: &Arc<Context<T>>, id: &str) {
    let (undos, name) = (context.undos.clone(), id.to_owned());
    let forgotten = tokio::task::spawn_blocking(move || undos.forget(&name)).await;
    if let Ok(Err(error)) = forgotten {
        // It is marked as done, so it is not run again.
        context.facts().problems.push(format!("The record of undo {id} could not be removed: {error}"));
    }
}

/// Does a step.
pub async fn perform<T: Target>(context: Arc<Context<T>>, index: usize) -> Input {
    let Some(step) = context.drill.scenario.get(index).cloned() else {
        return Input::StepDone(index, Err("there is no such step".to_owned()));
    };
    let title = title(&step.action);
    let (detail, owed) = intent(&context, index, &step.action);
    if let Err(reason) = context.note("intent", &title, detail).await {
        return Input::StepDone(index, Err(reason));
    }
    let entrusted = match owed {
        Some(owed) => entrust(&context, index, owed).await,
        None => Ok(()),
    };
    let result = match entrusted {
        Ok(()) => effect(&context, index, &step.action, &title).await,
        Err(reason) => Err(reason),
    };
    let text = match &result {
        Ok(seen) => format!("{title}: {seen}"),
        Err(reason) => format!("{title} failed: {reason}"),
    };
    let point = context.facts().timeline.get(Point::T0c).cloned();
    context.observe("effect", &text, json!({"step": index, "ok": result.is_ok(), "point": point})).await;
    if !matches!(step.action, ScenarioAction::Wait { .. }) {
        context.show(Progress::Step { title, result: result.clone(), offset: context.offset() });
    }
    remember_tries(&context).await;
    Input::StepDone(index, result.map(|_| ()))
}

/// What proxies had sent when the fault took effect; what they send from here on is sent without the lost region.
async fn remember_tries<T: Target>(context: &Context<T>) {
    let wanted = {
        let facts = context.facts();
        facts.tries_start.is_none() && facts.timeline.get(Point::T0c).is_some()
    };
    if wanted && let Ok(Ok(proxies)) = timeout(Duration::from_secs(2), context.target.proxies()).await {
        context.facts().tries_start = Some(proxies);
    }
}

/// The first fault is commanded now. The intent is already durable, so the time can be taken last.
fn commanded<T: Target>(context: &Context<T>, title: &str) {
    let now = context.clock.now();
    context.facts().timeline.set(Point::T0c, now, 0, "engine", title);
}

async fn effect<T: Target>(
    context: &Arc<Context<T>>,
    index: usize,
    action: &ScenarioAction,
    title: &str,
) -> Result<String, String> {
    let step = id(index);
    match action {
        ScenarioAction::Wait { duration } => {
            sleep(*duration).await;
            Ok("over".to_owned())
        }
        ScenarioAction::Lose { region, how } => {
            commanded(context, title);
            let lost = context.target.lose(&context.lease, &step, region, *how);
            let lost = timeout(PATIENCE, lost).await.map_err(|_| "no answer".to_owned())?;
            let lost = lost.map_err(|error| error.to_string())?;
            Ok(lose_seen(context, &lost, *how, title))
        }
        ScenarioAction::Fault(fault) => {
            commanded(context, title);
            let laid = context.target.fault(&context.lease, &step, fault);
            let laid = timeout(PATIENCE, laid).await.map_err(|_| "no answer".to_owned())?;
            let overlays = laid.map_err(|error| error.to_string())?;
            context.facts().timeline.faults(&overlays);
            Ok(harm(fault))
        }
        ScenarioAction::Run { command: argv, timeout, .. } => {
            commanded(context, title);
            let from = context.clock.now();
            let output = command::run(argv, &context.target.environment(None), *timeout).await?;
            // Somewhere between its start and its end it took effect: the middle, with half of it as the error.
            let half = (context.clock.now() - from) / 2;
            context.facts().timeline.effective(from + half, half, "engine", title);
            let took = duration(half * 2).as_secs_f64();
            Ok(if output.is_empty() { format!("done in {took:.3} s") } else { output })
        }
    }
}

fn lose_seen<T: Target>(context: &Context<T>, lost: &Lost, how: LoseHow, title: &str) -> String {
    let mut facts = context.facts();
    facts.timeline.faults(&lost.overlays);
    if let Some(stamp) = lost.effective {
        let time = context.on_clock(stamp);
        facts.timeline.effective(time, 0, "supervisor", title);
    }
    let count = |n: usize, noun: &str, plural: &str| format!("{n} {}", if n == 1 { noun } else { plural });
    let workloads = count(lost.workloads, "workload", "workloads");
    let proxies = count(lost.proxies, "proxy", "proxies");
    match how {
        LoseHow::Kill => format!("SIGKILL to {workloads}, {proxies}"),
        LoseHow::Pause => format!("SIGSTOP to {workloads}, {proxies}"),
        LoseHow::Partition => format!("cut off by {proxies}"),
    }
}

/// Takes a step back.
pub async fn undo<T: Target>(context: Arc<Context<T>>, index: usize) -> Input {
    let Some(step) = context.drill.scenario.get(index).cloned() else {
        return Input::StepUndone(index, Err("there is no such step".to_owned()));
    };
    let title = undone(&step.action);
    let result = match &step.action {
        ScenarioAction::Wait { .. } => Ok(()),
        ScenarioAction::Lose { .. } | ScenarioAction::Fault(_) => {
            let step = id(index);
            let undone = context.target.undo(&context.lease, &step);
            match timeout(PATIENCE, undone).await {
                Ok(result) => result.map_err(|error| error.to_string()),
                Err(_) => Err("no answer".to_owned()),
            }
        }
        ScenarioAction::Run { .. } => pay(&context, index).await,
    };
    let text = match &result {
        Ok(()) => format!("{title}: undone"),
        Err(reason) => format!("{title}: could not be undone: {reason}"),
    };
    context.observe("undo", &text, json!({"step": index, "ok": result.is_ok()})).await;
    if result.is_ok() && matches!(step.action, ScenarioAction::Run { .. }) {
        forget(&context, &Undo::id_of(context.drill.name.as_str(), context.number, index as u64)).await;
    }
    if !matches!(step.action, ScenarioAction::Wait { .. }) {
        context.show(Progress::Undone { title, result: result.clone(), offset: context.offset() });
    }
    Input::StepUndone(index, result)
}

/// Runs the undo command that a step owes, if it still does. What fails stays on disk.
///
/// # Errors
/// Why it failed.
pub async fn pay<T: Target>(context: &Context<T>, index: usize) -> Result<(), String> {
    let Some(owed) = context.facts().owed.get(&index).cloned() else { return Ok(()) };
    context.undos.run(&owed, "the drill engine", true, || context.stamp()).await?;
    context.facts().owed.remove(&index);
    Ok(())
}
