//! The recovery controller: feeds a [`machine::Machine`] per plan with what is seen and commanded, and does what it
//! answers. Where a plan stands is stored before anything is done about it.

mod command;
mod handle;
mod machine;
mod words;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use model::{
    config::Config,
    name::{PlanName, RegionName},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::AbortHandle,
};
use xds::overlay::Switch;

use crate::{
    api::{
        ControlEvent, Fence, FencedCaller, OverlayEffect, OverlayRequest, RecoveryReport, RecoveryState, Role,
        ServiceSight, StepReport, Targets,
    },
    health::{Health, Loss, judge},
    mesh::{Failure, Mesh, PlanSwitches},
    overlays::{self, RECOVERY, Refusal},
    standing::Saved,
    store::StoreError,
};
use handle::{Answer, Errand};
use machine::{Action, Command, Machine};

pub(crate) use handle::Handle;
pub(crate) use machine::switches_of;

/// Pause before a store that does not answer is read again.
const RETRY: Duration = Duration::from_millis(500);
/// Where commands that run are noted, in the state folder: a process that is killed leaves them there.
const COMMANDS: &str = "run/commands";
/// Steps that a report remembers.
const STEPS: usize = 64;

/// A command ended.
struct End {
    plan: PlanName,
    run: u64,
    name: String,
    result: Result<String, String>,
    took: Duration,
}

/// The controller.
pub(crate) struct Controller {
    mesh: Arc<Mesh>,
    state_dir: PathBuf,
    plans: BTreeMap<PlanName, Plan>,
    /// Where plans stood before the start, until there are manifests that say what they are.
    stored: Vec<(String, Saved)>,
    asks: mpsc::Receiver<(Errand, oneshot::Sender<Answer>)>,
    leading: watch::Receiver<Option<u64>>,
    /// The epoch in which this one leads; `None`: it does not, and there are no plans.
    epoch: Option<u64>,
    ends: (mpsc::Sender<End>, mpsc::Receiver<End>),
}

/// A command that runs: when this is dropped, it is killed with all that it started.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Plan {
    machine: Machine,
    steps: Vec<StepReport>,
    /// What is said of its primary.
    sights: Vec<ServiceSight>,
    running: Option<(String, Task)>,
    saved: Option<Saved>,
}

impl Plan {
    fn new(machine: Machine, saved: Option<Saved>) -> Self {
        Self { machine, steps: Vec::new(), sights: Vec::new(), running: None, saved }
    }
}

impl Controller {
    /// Takes up what a former process left: its durable switches are in force before anything is published. `leading`
    /// holds an epoch while this instance leads.
    pub(crate) async fn restore(
        mesh: Arc<Mesh>,
        state_dir: PathBuf,
        leading: watch::Receiver<Option<u64>>,
    ) -> Result<(Self, Handle), Failure> {
        let (asks, receiver) = mpsc::channel(64);
        let handle = Handle { asks, leading: leading.clone(), mesh: mesh.clone() };
        command::kill_leftovers(&state_dir.join(COMMANDS));
        let (plans, ends, epoch) = (BTreeMap::new(), mpsc::channel(64), *leading.borrow());
        let mut controller = Self { mesh, state_dir, plans, stored: Vec::new(), asks: receiver, leading, epoch, ends };
        if epoch.is_some() {
            controller.stored = controller.mesh.store.recovery().await?;
            controller.take_up(false).await?;
        } else {
            controller.mesh.follow_recovery(switches_of).await?;
        }
        Ok((controller, handle))
    }

    /// Goes on where plans stood. The stored manifests may not be accepted by a newer program: then this waits for mended
    /// ones, since a failover that is forgotten sends traffic back to what is lost.
    async fn take_up(&mut self, publish: bool) -> Result<(), StoreError> {
        let Some(config) = self.mesh.state().config.clone() else { return Ok(()) };
        let now = Instant::now();
        for (name, saved) in std::mem::take(&mut self.stored) {
            let Some((name, plan)) = config.plans.iter().find(|(plan, _)| plan.as_str() == name) else {
                tracing::warn!(plan = name, "recovery of a plan that is not in the manifests any more is forgotten");
                self.store_recovery(&name, None).await?;
                continue;
            };
            let held = self.mesh.state().table.of_plan(name.as_str()).map(str::to_owned);
            let (machine, actions) = Machine::restore(plan.clone(), saved.clone(), held.as_deref(), now);
            if machine.under().is_none() {
                self.mesh.switch(name, machine.switches(), publish);
            }
            self.plans.insert(name.clone(), Plan::new(machine, Some(saved)));
            self.perform(name, actions).await;
        }
        Ok(())
    }

    async fn store_recovery(&self, plan: &str, saved: Option<&Saved>) -> Result<(), StoreError> {
        self.mesh.store.set_recovery(plan, saved, self.epoch.unwrap_or_default()).await
    }

    /// Begins to lead, with what is stored, or ceases to: what runs for the former leader is killed, nothing is undone.
    async fn turn(&mut self, epoch: Option<u64>) {
        self.plans.clear();
        self.stored.clear();
        self.epoch = None;
        if epoch.is_none() {
            return;
        }
        let read = async {
            self.mesh.follow_configuration().await?;
            self.mesh.follow_leases().await?;
            Ok::<_, Failure>(self.mesh.store.recovery().await?)
        };
        match read.await {
            Ok(stored) => (self.stored, self.epoch) = (stored, epoch),
            Err(error) => {
                tracing::error!(?error, "where recovery stands cannot be read; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Runs for ever.
    pub(crate) async fn run(mut self) {
        let mut changes = self.mesh.changes();
        loop {
            let leads = *self.leading.borrow_and_update();
            if leads != self.epoch {
                self.turn(leads).await;
            }
            self.refresh().await;
            let now = Instant::now();
            let deadline = self.plans.values().filter_map(|plan| plan.machine.deadline(now)).min();
            // Without a deadline any time will do.
            let wake = deadline.unwrap_or(now + Duration::from_secs(60));
            tokio::select! {
                () = tokio::time::sleep_until(wake.into()), if leads == self.epoch => {}
                () = std::future::ready(()), if leads != self.epoch => {}
                changed = self.leading.changed() => if changed.is_err() { return },
                changed = changes.changed() => if changed.is_err() { return },
                Some(end) = self.ends.1.recv() => self.ended(end).await,
                ask = self.asks.recv() => match ask {
                    Some((errand, reply)) => {
                        let answer = self.answer(errand).await;
                        // Who asked may have gone away; then nobody needs the answer.
                        let _ = reply.send(answer);
                    }
                    None => return,
                }
            }
        }
    }

    /// Shows every machine the present.
    async fn refresh(&mut self) {
        if self.epoch.is_none() {
            return;
        }
        if let Err(error) = self.take_up(true).await {
            tracing::error!(%error, "where recovery stood could not be taken up");
        }
        let now = Instant::now();
        let mut due = Vec::new();
        {
            let state = self.mesh.state();
            let Some(config) = state.config.clone() else { return };
            for (name, plan) in &config.plans {
                let own =
                    self.plans.entry(name.clone()).or_insert_with(|| Plan::new(Machine::new(plan.clone(), now), None));
                if own.machine.plan() != plan {
                    own.machine.set_plan(plan.clone());
                }
                let mut actions = own.machine.lease(state.table.of_plan(name.as_str()), now);
                own.sights = state.views.sights(&config, &state.placements, plan);
                actions.extend(own.machine.observe(judge(&own.sights), now));
                due.push((name.clone(), actions));
            }
        }
        for (name, actions) in due {
            self.perform(&name, actions).await;
        }
        self.forget_removed().await;
    }

    /// Plans that are not in the manifests any more: what they did is taken back, then they are forgotten. A plan that is
    /// failed over cannot be removed; this is one whose recovery began while it was.
    async fn forget_removed(&mut self) {
        let Some(config) = self.mesh.state().config.clone() else { return };
        let gone: Vec<PlanName> = self.plans.keys().filter(|name| !config.plans.contains_key(*name)).cloned().collect();
        for name in gone {
            let Some(own) = self.plans.get_mut(&name) else { continue };
            let actions = own.machine.removed(Instant::now());
            let at_rest = own.machine.state() == RecoveryState::Normal;
            self.perform(&name, actions).await;
            if !at_rest {
                continue;
            }
            self.plans.remove(&name);
            self.clear(&name).await;
            if let Err(error) = self.store_recovery(name.as_str(), None).await {
                tracing::error!(plan = %name, %error, "the end of a plan could not be stored");
            }
        }
    }

    async fn answer(&mut self, errand: Errand) -> Answer {
        if self.epoch.is_none() {
            return Err(Refusal::Conflict("another control plane leads by now; try again".to_owned()));
        }
        match errand {
            Errand::Failover(plan, reason) => {
                self.command(&plan, |machine, now| machine.failover(&reason, now)).await.map(|report| vec![report])
            }
            Errand::Failback(plan, reason) => {
                self.command(&plan, |machine, now| machine.failback(&reason, now)).await.map(|report| vec![report])
            }
            Errand::Reports => {
                self.refresh().await;
                Ok(self.plans.iter().map(|(name, plan)| self.report(name, plan)).collect())
            }
            Errand::Settle => {
                self.refresh().await;
                Ok(Vec::new())
            }
        }
    }

    async fn command(
        &mut self,
        plan: &str,
        act: impl FnOnce(&mut Machine, Instant) -> Result<Vec<Action>, String>,
    ) -> Result<RecoveryReport, Refusal> {
        self.refresh().await;
        let missing = || Refusal::Missing(format!("there is no recovery plan `{plan}`"));
        let name = self.plans.keys().find(|name| name.as_str() == plan).cloned().ok_or_else(missing)?;
        let own = self.plans.get_mut(&name).ok_or_else(missing)?;
        let actions = act(&mut own.machine, Instant::now()).map_err(Refusal::Conflict)?;
        self.perform(&name, actions).await;
        self.plans.get(&name).map(|own| self.report(&name, own)).ok_or_else(missing)
    }

    async fn ended(&mut self, end: End) {
        let Some(own) = self.plans.get_mut(&end.plan) else { return };
        own.running = None;
        let ok = end.result.is_ok();
        own.finish_step(&end.name, ok, self.mesh.clock.now());
        let (output, outcome) = match end.result {
            Ok(output) => (output, Ok(())),
            Err(reason) => (reason.clone(), Err(format!("step {} failed: {reason}", end.name))),
        };
        self.mesh.tell(ControlEvent::StepFinished {
            plan: end.plan.to_string(),
            step: end.name,
            ok,
            took_ms: u64::try_from(end.took.as_millis()).unwrap_or(u64::MAX),
            output,
        });
        let actions = own.machine.ended(end.run, outcome, Instant::now());
        self.perform(&end.plan, actions).await;
    }

    /// Stores where the plan stands, then does what its machine wants.
    async fn perform(&mut self, name: &PlanName, actions: Vec<Action>) {
        let Some(own) = self.plans.get_mut(name) else { return };
        let saved = own.machine.saved();
        if saved != own.saved {
            let epoch = self.epoch.unwrap_or_default();
            match self.mesh.store.set_recovery(name.as_str(), saved.as_ref(), epoch).await {
                Ok(()) => own.saved = saved,
                // What is to be done now is the other one's to say.
                Err(StoreError::Superseded) => {
                    return tracing::warn!(plan = %name, "another control plane leads by now");
                }
                // Moving traffic away from what is lost matters more than remembering it; the next change stores again.
                Err(error) => tracing::error!(plan = %name, %error, "where recovery stands could not be stored"),
            }
        }
        for action in actions {
            self.act(name, action).await;
        }
    }

    async fn act(&mut self, name: &PlanName, action: Action) {
        let plan = name.to_string();
        match action {
            Action::Detected => self.say_detected(name),
            Action::Decided(reason) => {
                if let Some(own) = self.plans.get_mut(name) {
                    own.steps.clear();
                }
                self.mesh.tell(ControlEvent::Decided { plan, reason });
            }
            Action::Shift(to, switches) => {
                let to = to.to_string();
                self.switch(name, switches, |overlays| ControlEvent::ShiftCommanded { plan, to, overlays }).await;
            }
            Action::Share(percent, switches) => {
                self.switch(name, switches, |overlays| ControlEvent::RampStep { plan, percent, overlays }).await;
            }
            Action::Commit(step, switches) => {
                self.mesh.tell(ControlEvent::RecoveryCommitted { plan, step });
                self.mesh.switch(name, switches, true);
            }
            Action::Clear => self.clear(name).await,
            Action::Run(run, command) => self.start(name, run, command),
            Action::Kill => self.kill(name),
            Action::FailbackCommanded(reason) => self.mesh.tell(ControlEvent::FailbackCommanded { plan, reason }),
            Action::FailbackDone => self.mesh.tell(ControlEvent::FailbackDone { plan }),
            Action::Failed(reason) => self.mesh.tell(ControlEvent::RecoveryFailed { plan, reason }),
            Action::Reset(reason) => self.mesh.tell(ControlEvent::RecoveryReset { plan, reason }),
            Action::Kept(reason) => {
                let Some(own) = self.plans.get(name) else { return };
                let words = words::explain(&own.machine, &own.sights, Instant::now());
                let stands = words.stands.unwrap_or_else(|| "the failover stays in force".to_owned());
                self.mesh.tell(ControlEvent::RecoveryKept { plan, reason, stands });
            }
        }
    }

    fn say_detected(&self, name: &PlanName) {
        let Some(own) = self.plans.get(name) else { return };
        let Health::Lost(Loss { service, observers, cause }) = own.machine.health().clone() else { return };
        let observer = observers.first().cloned().unwrap_or_default();
        let model::config::Pattern::ActivePassive { primary, .. } = &own.machine.plan().pattern;
        let (plan, region) = (name.to_string(), primary.to_string());
        self.mesh.tell(ControlEvent::Detected { plan, region, service, observer, observers, cause });
    }

    /// Under a lease, routing controls are overlays of it; else they are compiled into snapshots. The event comes first:
    /// what follows from it must not be told before it.
    async fn switch(&self, name: &PlanName, switches: PlanSwitches, event: impl FnOnce(Vec<String>) -> ControlEvent) {
        let Some(own) = self.plans.get(name) else { return };
        let Some(lease) = own.machine.under() else {
            self.mesh.tell(event(Vec::new()));
            self.mesh.switch(name, switches, true);
            // What was laid under a lease before it became the plan's own has the last word no more.
            return self.take_overlays_back(name).await;
        };
        let batch: Vec<(String, OverlayRequest)> = switches
            .into_iter()
            .map(|(service, region, state)| {
                let overlay = format!("{RECOVERY}{name}.{service}.{region}");
                let switch = Switch { service: service.to_string(), region: region.to_string(), state };
                (overlay, OverlayRequest { targets: Targets::Concerned, effect: OverlayEffect::Switch(switch) })
            })
            .collect();
        self.mesh.tell(event(batch.iter().map(|(overlay, _)| overlays::overlay_id(lease, overlay)).collect()));
        if let Err(refusal) = self.mesh.lay(lease, batch).await {
            // The lease is ending: the machine hears of it next and takes everything back.
            tracing::warn!(plan = %name, lease, ?refusal, "routing controls could not be laid");
        }
    }

    async fn clear(&self, name: &PlanName) {
        self.take_overlays_back(name).await;
        self.mesh.switch(name, Vec::new(), true);
    }

    async fn take_overlays_back(&self, name: &PlanName) {
        let own = format!("{RECOVERY}{name}.");
        if let Err(error) = self.mesh.take_back(|_, overlay| overlay.starts_with(&own)).await {
            tracing::warn!(plan = %name, ?error, "routing controls under a lease were not taken back; they lapse with it");
        }
    }

    fn start(&mut self, name: &PlanName, run: u64, command: Command) {
        let environment = self.environment(command.region.as_ref());
        let Some(own) = self.plans.get_mut(name) else { return };
        own.begin_step(&command.name, self.mesh.clock.now());
        self.mesh.tell(ControlEvent::StepStarted { plan: name.to_string(), step: command.name.clone() });
        let (ends, plan, step) = (self.ends.0.clone(), name.clone(), command.name.clone());
        let running = self.state_dir.join(COMMANDS);
        let task = tokio::spawn(async move {
            let began = Instant::now();
            let result = command::run(&command.argv, &environment, command.timeout, &running).await;
            let end = End { plan, run, name: command.name, result, took: began.elapsed() };
            // Without a controller nobody needs to know.
            let _ = ends.send(end).await;
        });
        own.running = Some((step, Task(task.abort_handle())));
    }

    fn kill(&mut self, name: &PlanName) {
        let Some(own) = self.plans.get_mut(name) else { return };
        let Some((step, running)) = own.running.take() else { return };
        drop(running);
        own.finish_step(&step, false, self.mesh.clock.now());
        let (plan, output) = (name.to_string(), "killed".to_owned());
        self.mesh.tell(ControlEvent::StepFinished { plan, step, ok: false, took_ms: 0, output });
    }

    /// What commands of `run` steps are told.
    fn environment(&self, region: Option<&RegionName>) -> BTreeMap<String, String> {
        let state = self.mesh.state();
        let mut environment = BTreeMap::new();
        environment.insert("FIREDRILL_STATE".to_owned(), self.state_dir.display().to_string());
        if let Some(region) = region {
            environment.insert("FIREDRILL_REGION".to_owned(), region.to_string());
        }
        let Some(config) = &state.config else { return environment };
        let upper = |name: &str| name.to_uppercase().replace('-', "_");
        let found = state.found();
        for one in &config.mesh.regions {
            for (service, endpoints) in endpoints(config, &state.placements, &found, Some(one)) {
                let name = format!("FIREDRILL_ENDPOINTS_{}_IN_{}", upper(&service), upper(one.as_str()));
                environment.insert(name, endpoints.join(","));
            }
        }
        for (service, endpoints) in endpoints(config, &state.placements, &found, region) {
            environment.insert(format!("FIREDRILL_ENDPOINTS_{}", upper(&service)), endpoints.join(","));
        }
        environment
    }

    /// The old primary, and whether each caller holds the routing control that keeps it from there.
    fn fence(&self, own: &Plan) -> Option<Fence> {
        if own.machine.share().is_some() || own.machine.under().is_some() {
            return None;
        }
        own.machine.shifted()?;
        let plan = own.machine.plan();
        let state = self.mesh.state();
        let config = state.config.clone()?;
        let placements = state.placements.clone();
        drop(state);
        let known = self.mesh.ads.proxies();
        let calls = |placement: &&crate::api::Placement| {
            let called = crate::compile::called_by(&config, placement);
            called.iter().any(|service| plan.services.contains(&service.name))
        };
        let caller = |placement: &crate::api::Placement| {
            let holds = known.get(&placement.proxy).is_some_and(|p| p.connected && p.settled && p.nack.is_none());
            FencedCaller { proxy: placement.proxy.clone(), acknowledged: holds }
        };
        let callers = placements.proxies.iter().filter(calls).map(caller).collect();
        Some(Fence { region: plan.primary().to_string(), callers })
    }

    fn report(&self, name: &PlanName, own: &Plan) -> RecoveryReport {
        let now = Instant::now();
        let words = words::explain(&own.machine, &own.sights, now);
        RecoveryReport {
            plan: name.to_string(),
            state: own.machine.state(),
            since: self.mesh.clock.at(own.machine.since()),
            lease: own.machine.under().map(str::to_owned),
            armed: own.machine.armed(now),
            primary_healthy: match own.machine.health() {
                Health::Unknown => None,
                Health::Healthy => Some(true),
                Health::Lost(_) => Some(false),
            },
            sights: own.sights.clone(),
            share: own.machine.share(),
            failure: own.machine.failure().map(str::to_owned),
            reason: own.machine.reason().map(str::to_owned),
            waits_for: words.waits_for,
            command: words.command,
            stands: words.stands,
            not_undone: match own.machine.state() {
                RecoveryState::Normal => Vec::new(),
                _ => own.machine.irreversible().map(str::to_owned).collect(),
            },
            fence: self.fence(own),
            steps: own.steps.clone(),
        }
    }
}

impl Plan {
    fn begin_step(&mut self, name: &str, now: xds::clock::Stamp) {
        if self.steps.len() >= STEPS {
            self.steps.remove(0);
        }
        self.steps.push(StepReport { name: name.to_owned(), started: now, finished: None, ok: None });
    }

    fn finish_step(&mut self, name: &str, ok: bool, now: xds::clock::Stamp) {
        if let Some(step) = self.steps.iter_mut().rev().find(|step| step.name == name && step.finished.is_none()) {
            step.finished = Some(now);
            step.ok = Some(ok);
        }
    }
}

/// Where the workloads of each service are (behind their sidecars), in one region or in all.
fn endpoints(
    config: &Config,
    placements: &crate::api::Placements,
    found: &crate::sources::Addresses,
    region: Option<&RegionName>,
) -> BTreeMap<String, Vec<String>> {
    let app = |workload: &str| {
        placements.proxies.iter().find(|p| p.proxy == workload).and_then(|p| match &p.role {
            Role::Sidecar { app, .. } => Some(*app),
            Role::Gateway { .. } => None,
        })
    };
    let mut all = BTreeMap::new();
    for service in config.services.values() {
        let wanted = service.endpoints.iter().filter(|e| region.is_none_or(|region| e.region == *region));
        let addresses = wanted.flat_map(|endpoint| match &endpoint.place {
            model::config::Place::Address(address) => vec![*address],
            model::config::Place::Run(_) => app(endpoint.workload.as_str()).into_iter().collect(),
            model::config::Place::Dns(_) | model::config::Place::File(_) => {
                found.get(endpoint.workload.as_str()).into_iter().flatten().map(|found| found.address).collect()
            }
        });
        all.insert(service.name.to_string(), addresses.map(|address| address.to_string()).collect());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{ApplyRequest, ManifestFile, Stamp},
        store::{NewRevision, Store, StoreAddress},
        testing::bank_files,
    };

    #[tokio::test]
    async fn a_failover_outlives_manifests_that_are_not_accepted_any_more() {
        let folder = tempfile::tempdir().unwrap();
        let address = StoreAddress::of_state(folder.path());
        let store = Store::open(&address).await.unwrap();
        let files = &[ManifestFile { path: "mesh.yaml".to_owned(), text: "kind: Unknown".to_owned() }];
        let refused = NewRevision { files, author: "a", message: "m", commit: None, restores: None, time: Stamp(0) };
        store.apply(refused, true, |_| Ok::<_, StoreError>(())).await.unwrap();
        let saved = serde_json::json!({"phase": "failedOver", "lease": null, "shifted": "west", "ran": [], "flaps": 0});
        store.set_recovery("bank-west", Some(&saved), 0).await.unwrap();
        store.close().await;

        let clock = xds::clock::Clock::anchored();
        let Ok(mesh) = Mesh::open(folder.path(), &address, clock).await else { panic!() };
        let (_lead, leading) = watch::channel(Some(0));
        let (mut controller, _handle) =
            Controller::restore(mesh.clone(), folder.path().to_owned(), leading).await.unwrap();
        controller.refresh().await;
        assert_eq!(mesh.store.recovery::<Saved>().await.unwrap().len(), 1, "it is not forgotten");
        let mended = ApplyRequest { files: bank_files(), author: "a".to_owned(), ..ApplyRequest::default() };
        assert!(mesh.apply(mended).await.is_ok());
        controller.refresh().await;
        let states: Vec<_> = controller.plans.values().map(|plan| plan.machine.state()).collect();
        assert_eq!(states, [RecoveryState::FailedOver]);
        assert!(controller.plans.values().all(|plan| !plan.machine.switches().is_empty()));
    }
}
