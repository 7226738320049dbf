//! Turns actions of the life into tasks.

use std::{future::Future, sync::Arc};

use evidence::record::{Ending, Nanos};
use model::config::ScenarioAction;
use tokio::task::JoinSet;

use crate::{
    context::{Context, Message},
    life::{Action, Input},
    probe::{Prober, SharedLog, lock},
    requests::Reader,
    spool::Spooler,
    target::Target,
    tasks::{after, before, loads, out, step},
};

/// What was due within this time before the end may still have been on its way to the sender.
const UNDERWAY: Nanos = 100_000_000;

/// The tasks of one attempt. Dropped, all of them end.
pub struct Shell<T> {
    context: Arc<Context<T>>,
    work: JoinSet<()>,
    heartbeats: JoinSet<()>,
    loads: JoinSet<()>,
    prober: Option<Prober>,
    reader: Option<Reader>,
    spooler: Option<Spooler>,
}

impl<T: Target> Shell<T> {
    /// Nothing runs.
    pub fn new(context: Arc<Context<T>>) -> Self {
        Self {
            context,
            work: JoinSet::new(),
            heartbeats: JoinSet::new(),
            loads: JoinSet::new(),
            prober: None,
            reader: None,
            spooler: None,
        }
    }

    fn spawn<F>(&mut self, task: F)
    where
        F: Future<Output = Input> + Send + 'static,
    {
        // Reaps what has ended, so that the set stays as small as what runs.
        while self.work.try_join_next().is_some() {}
        let context = self.context.clone();
        self.work.spawn(async move {
            let input = task.await;
            context.tell(Message::Input(input)).await;
        });
    }

    /// Begins an action; its end comes as an input.
    pub fn act(&mut self, action: Action, ending: &Ending) {
        let context = self.context.clone();
        match action {
            Action::Inspect => self.spawn(before::inspect(context)),
            Action::ProveUndo => self.spawn(before::prove_undo(context)),
            Action::StartProbes => {
                let started = self.start_probes();
                self.spawn(async move { Input::ProbesStarted(started) })
            }
            Action::JudgeBaseline(from, to) => self.spawn(before::judge_baseline(context, from, to)),
            Action::TakeLease => self.spawn(before::take_lease(context)),
            Action::Do(index) => self.spawn(step::perform(context, index)),
            Action::Undo(index) => {
                let action = self.context.drill.scenario.get(index).map(|step| &step.action);
                if matches!(action, Some(ScenarioAction::Lose { .. })) {
                    self.context.facts().timeline.freeze();
                }
                self.spawn(step::undo(context, index))
            }
            Action::FailOver => self.spawn(fail_over(context)),
            Action::AwaitReturn => self.spawn(after::await_return(context)),
            Action::ReadBack(phase) => self.spawn(after::read_back(context, phase)),
            Action::FailBack => self.spawn(after::fail_back(context)),
            Action::AwaitSustained => self.spawn(after::await_sustained(context)),
            Action::StopProbes => {
                self.loads.abort_all();
                let (prober, reader) = (self.prober.take(), self.reader.take());
                self.spawn(stop(context, prober, reader))
            }
            Action::Release => {
                self.heartbeats.abort_all();
                self.spawn(out::release(context))
            }
            Action::Clear => {
                // Whatever is being done is dropped: commands are killed with their process groups.
                let mut dropped = std::mem::take(&mut self.work);
                self.heartbeats.abort_all();
                self.spawn(async move {
                    // A step that is just beginning must have said what it owes, or never begin.
                    dropped.shutdown().await;
                    out::clear(context).await
                })
            }
            Action::Compare => {
                let early = *ending != Ending::Completed;
                self.spawn(out::compare(context, early))
            }
        };
    }

    /// The lease is held: keeps it so.
    pub fn keep_lease(&mut self) {
        self.heartbeats.spawn(before::heartbeats(self.context.clone()));
    }

    fn start_probes(&mut self) -> Result<(), String> {
        let clock = self.context.clock;
        match Prober::start(clock, clock.now(), self.context.specs.clone()) {
            Ok(prober) => {
                let logs: Vec<SharedLog> = prober.logs().to_vec();
                self.context.facts().logs.clone_from(&logs);
                self.spool(logs);
                self.prober = Some(prober);
                self.reader = Reader::start(self.context.clone());
                self.loads.spawn(loads::watch(self.context.clone()));
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }
}

impl<T: Target> Shell<T> {
    /// Without a spool the drill goes on: what it lacks is missing only if the engine dies.
    fn spool(&mut self, logs: Vec<SharedLog>) {
        match Spooler::start(&self.context.spool, logs) {
            Ok(spooler) => self.spooler = Some(spooler),
            Err(error) => self.unspooled(&error),
        }
    }

    /// The attempt is over and in memory: what was spooled is not needed beyond its seal.
    pub async fn end_spool(&mut self) {
        let Some(spooler) = self.spooler.take() else { return };
        match tokio::task::spawn_blocking(move || spooler.stop()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.unspooled(&error),
            Err(error) => self.unspooled(&std::io::Error::other(error)),
        }
    }

    fn unspooled(&self, error: &std::io::Error) {
        let problem = format!("Samples could not be kept on disk while they came: {error}");
        self.context.facts().problems.push(problem);
    }
}

async fn stop<T: Target>(context: Arc<Context<T>>, prober: Option<Prober>, reader: Option<Reader>) -> Input {
    if let Some(prober) = prober {
        let until = context.clock.now() - UNDERWAY;
        prober.stop().await;
        let logs = context.facts().logs.clone();
        let missing = logs.iter().map(|log| {
            let log = lock(log);
            (log.name().to_owned(), log.missing(until))
        });
        context.facts().unsent = missing.filter(|(_, missing)| *missing > 0).collect();
    }
    if let Some(reader) = reader {
        reader.stop().await;
    }
    Input::ProbesStopped
}

async fn fail_over<T: Target>(context: Arc<Context<T>>) -> Input {
    let reason = format!("drill {}", context.lease);
    if let Err(reason) = context.note("intent", "failover", serde_json::json!({"plan": context.plan.name})).await {
        return Input::Stop(reason);
    }
    match context.target.failover(&context.plan.name, &reason).await {
        Ok(()) => Input::Tick,
        Err(error) => Input::RecoveryFailed(error.to_string()),
    }
}
