//! One attempt of a drill, from its registration to the sealed bundle.

use std::{sync::Arc, time::Duration};

use evidence::record::{Anchor, Tested};
use model::{
    config::{Config, Drill, HttpRequest, Pattern, Probe, ProbeHost, ProbeKind, RecoveryPlan, ScenarioAction, Trigger},
    name::DrillName,
};
use tokio::sync::mpsc;

use crate::{
    clock::{AttemptClock, nanos},
    conduct::Conductor,
    context::{Context, Message, Parts},
    life::{Life, Script, StepTiming},
    probe::{ProbeSpec, WritesSpec},
    progress::Progress,
    record::{Abort, DrillError, Options, Places, Sealed, lock, open_ledger, seal},
    register, spool,
    target::Target,
    timeline::Timeline,
    undo::Undos,
};

/// Beyond its ramp and steps, this is allowed for a failback.
const FAILBACK_SLACK: Duration = Duration::from_secs(30);
/// Messages that may wait for the main loop.
const MESSAGES: usize = 1024;

/// Runs one attempt and seals it, whatever its verdict.
///
/// Attempts that an earlier engine left open are not touched: call [`recover_crashed`] before.
///
/// # Errors
/// When it cannot be recorded: then nothing was done to the mesh, or the lease has been given back.
pub async fn run<T: Target>(
    target: Arc<T>,
    config: &Config,
    drill: &DrillName,
    places: &Places,
    options: &Options,
    progress: mpsc::Sender<Progress>,
    abort: Abort,
) -> Result<Sealed, DrillError> {
    let Some(found) = config.drills.get(drill) else { return Err(DrillError::Unknown(drill.clone())) };
    let Some(plan) = config.plans.get(&found.plan) else { return Err(DrillError::Unknown(drill.clone())) };
    let (drill, plan) = (found.clone(), plan.clone());
    let _lock = lock(&places.state)?.ok_or_else(|| DrillError::Busy(places.state.clone()))?;

    let (stamp, clock_error) = target.now();
    let clock = AttemptClock::showing(0);
    let anchor = Anchor { wall: stamp, error: nanos(clock_error) };
    let tested = target.tested(&plan.name).await.map_err(|error| DrillError::Unidentified(error.to_string()))?;
    let tested = Tested { operator: Some(options.operator.clone()), ..tested };
    let registration = register::registration(config, &drill, &plan, anchor, tested);
    let specs = specs(target.as_ref(), config, &drill)?;

    let mut ledger = open_ledger(places)?;
    let number = ledger.register_attempt(stamp, &registration).map_err(DrillError::record)?;
    let entry = ledger.size().saturating_sub(1);
    let journal = ledger.journal(&registration.drill, number).map_err(DrillError::record)?;
    let lease = format!("drill-{}-{number}", registration.drill);
    let specs = with_run(specs, &format!("{}-{number}-{:08x}", registration.drill, fastrand::u32(..)));
    let digest = registration.digest().map_err(DrillError::record)?;
    let _ = progress.try_send(Progress::Registered {
        drill: registration.drill.clone(),
        attempt: number,
        plan: registration.plan.clone(),
        digest,
        entry,
    });

    let (messages, inbox) = mpsc::channel::<Message>(MESSAGES);
    let Pattern::ActivePassive { primary, .. } = &plan.pattern;
    let lost = registration.lost_region.clone();
    let watched = lost.clone().unwrap_or_else(|| primary.to_string());
    let timeline = Timeline::new(plan.name.as_str(), &watched, registration.anchor.error);
    let life = Life::new(script(&drill, &plan, options));
    let context = Arc::new(Context::new(Parts {
        target,
        drill,
        plan,
        specs,
        clock,
        wall: stamp,
        lease,
        lost_region: lost,
        undos: Undos::of(&places.state),
        number,
        spool: spool::path(&places.state, &registration.drill, number),
        wait: options.wait,
        configuration: registration.tested.configuration.clone(),
        journal,
        messages,
        progress: progress.clone(),
        timeline,
    }));
    let mut conductor = Conductor::new(context, registration, number, life);
    conductor.conduct(inbox, abort).await;
    let (attempt, _) = conductor.finish().map_err(DrillError::record)?;
    let now = stamp.saturating_add(clock.now());
    let sealed = seal(attempt, &mut ledger, now, &places.out)?;
    if let Err(error) = spool::clear(&places.state) {
        tracing::debug!(%error, "spool");
    }
    let _ = progress.send(Progress::Sealed { verdict: sealed.verdict, bundle: sealed.bundle.clone() }).await;
    Ok(sealed)
}

fn script(drill: &Drill, plan: &RecoveryPlan, options: &Options) -> Script {
    let timing = |step: &model::config::ScenarioStep| StepTiming {
        at: nanos(step.at),
        lasts: step.lasts.map(nanos),
        breaks: !matches!(step.action, ScenarioAction::Wait { .. }),
    };
    let ramp = plan.failback.dwell * u32::try_from(plan.failback.ramp.len()).unwrap_or(u32::MAX);
    let steps: Duration = plan.failback.steps.iter().map(|step| step.timeout).sum();
    Script {
        baseline: nanos(drill.baseline),
        wait: nanos(options.wait),
        hold: nanos(drill.hold),
        steps: drill.scenario.iter().map(timing).collect(),
        manual_failover: plan.failover.trigger == Trigger::Manual,
        failback_bound: nanos(ramp + steps + FAILBACK_SLACK),
    }
}

fn specs<T: Target>(target: &T, config: &Config, drill: &Drill) -> Result<Vec<ProbeSpec>, DrillError> {
    drill.probes.iter().map(|probe| spec(target, config, probe)).collect()
}

/// The service that a gateway sends a request to.
fn service(config: &Config, request: &HttpRequest) -> Option<String> {
    let ProbeHost::Gateway(name) = &request.host else { return None };
    let gateway = config.mesh.gateways.iter().find(|gateway| gateway.name == *name)?;
    let path = request.path.split('?').next().unwrap_or_default();
    let under = |prefix: &str| {
        let rest = path.strip_prefix(prefix.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    gateway.routes.iter().find(|route| under(&route.prefix)).map(|route| route.service.to_string())
}

fn spec<T: Target>(target: &T, config: &Config, probe: &Probe) -> Result<ProbeSpec, DrillError> {
    let (request, get) = match &probe.kind {
        ProbeKind::Http(request) => (request, None),
        ProbeKind::Writes { put, get } => (put, Some(get.clone())),
    };
    let (address, host) = match &request.host {
        ProbeHost::Address(address) => (*address, address.to_string()),
        ProbeHost::Gateway(gateway) => {
            let address = target.gateway(gateway.as_str());
            let missing = || DrillError::NoGateway { probe: probe.name.to_string(), gateway: gateway.to_string() };
            (address.ok_or_else(missing)?, gateway.to_string())
        }
    };
    // A rate is above 0; one so low that its interval is no duration means "never", which is a year.
    let interval = Duration::try_from_secs_f64(1.0 / probe.rate.0).unwrap_or(Duration::from_secs(31_536_000));
    Ok(ProbeSpec {
        name: probe.name.to_string(),
        address,
        host,
        request: request.clone(),
        writes: get.map(|get| WritesSpec { get, run: String::new() }),
        interval,
        timeout: probe.timeout,
        expect: probe.expect.clone(),
        service: service(config, request),
    })
}

/// Gives every `writes` probe the id that tells its writes from all others.
fn with_run(mut specs: Vec<ProbeSpec>, run: &str) -> Vec<ProbeSpec> {
    for spec in &mut specs {
        if let Some(writes) = &mut spec.writes {
            writes.run = format!("{run}-{}", spec.name);
        }
    }
    specs
}
