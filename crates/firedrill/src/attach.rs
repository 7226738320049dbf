//! The mesh that a drill runs on: the one that runs in the state folder, or one that is started for it.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use control::{
    api::{ProxyReport, RecoveryReport, Revision},
    client::{Client as Control, ClientError},
};
use model::{
    Source,
    config::{Config, Trigger},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use crate::{
    failure::{Exit, Failure},
    mesh::MeshTarget,
    render::screen::Screen,
    supervisor::{self, Options, Progress, Running, StartError, client::Client as Supervisor, plane::DataPlane},
    terminal::Tone,
};

/// Bound on a mesh becoming ready.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bound on its coming to rest after that.
const SETTLE: Duration = Duration::from_secs(10);
/// Bound on a control plane that died being up again.
const RESTART: Duration = Duration::from_secs(10);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// A mesh for the duration of a command.
pub struct Attached {
    /// As a drill sees it.
    pub target: Arc<MeshTarget>,
    running: Option<Running>,
}

impl Attached {
    /// Ends the mesh if it was started for this command.
    pub async fn end(self) {
        if let Some(running) = self.running {
            running.shutdown().await;
        }
    }
}

/// Uses the running mesh of the state folder, if there is one and it has this configuration; else starts one.
///
/// # Errors
/// When the running mesh has another configuration, or none can be started.
pub async fn attach(
    sources: Vec<Source>,
    config: Config,
    state: &Path,
    screen: &Screen<'_>,
) -> Result<Attached, Failure> {
    if let Ok(supervisor) = Supervisor::of_state(state).await {
        let (control, revision) = control_of(state).await.map_err(|e| Failure::internal(e.to_string()))?;
        same_config(&config, revision, state)?;
        settled(&config, &control, screen).await;
        let target = target(config, control, supervisor).await?;
        return Ok(Attached { target, running: None });
    }
    let running = start(sources, config.clone(), DataPlane::Firedrill, state, screen).await?;
    let control = running.control().map_err(start_failed)?;
    settled(&config, &control, screen).await;
    match target(config, control, running.client()).await {
        Ok(target) => Ok(Attached { target, running: Some(running) }),
        Err(failure) => {
            running.shutdown().await;
            Err(failure)
        }
    }
}

/// Starts a mesh and shows how it comes up.
///
/// # Errors
/// When it does not become ready.
pub async fn start(
    sources: Vec<Source>,
    config: Config,
    plane: DataPlane,
    state: &Path,
    screen: &Screen<'_>,
) -> Result<Running, Failure> {
    let (sender, mut receiver) = mpsc::channel(64);
    // What does not fit is not shown: a slow terminal must not hold up the mesh.
    let sink = Arc::new(move |progress| drop(sender.try_send(progress)));
    let (state, without) = (state.to_owned(), BTreeSet::new());
    let options = Options { sources, config, commit: None, store: None, state, patience: PATIENCE, without, plane };
    let starting = supervisor::start(options, sink);
    tokio::pin!(starting);
    loop {
        tokio::select! {
            Some(progress) = receiver.recv() => show(progress, screen),
            result = &mut starting => {
                screen.live(String::new());
                return result.map_err(start_failed);
            }
        }
    }
}

/// Waits for a mesh that has just started: every proxy in sync, every endpoint found healthy, automatic failover armed.
/// One that does not come to rest is left to the drill's preflight, which says what is wrong with it.
async fn settled(config: &Config, control: &Control, screen: &Screen<'_>) {
    screen.live("waiting for every health check to pass".to_owned());
    let at_rest = async {
        let mut look = tokio::time::interval(LOOK);
        loop {
            look.tick().await;
            let (Ok(proxies), Ok(plans)) = tokio::join!(control.proxies(), control.recovery()) else { continue };
            if proxies.iter().all(healthy) && plans.iter().all(|plan| armed(config, plan)) {
                return;
            }
        }
    };
    // Not to be at rest is no failure here.
    let _ = tokio::time::timeout(SETTLE, at_rest).await;
    screen.live(String::new());
}

fn healthy(proxy: &ProxyReport) -> bool {
    let endpoints = proxy.status.iter().flat_map(|status| &status.clusters).flat_map(|cluster| &cluster.endpoints);
    proxy.in_sync && endpoints.into_iter().all(|endpoint| endpoint.healthy && !endpoint.ejected)
}

fn armed(config: &Config, report: &RecoveryReport) -> bool {
    let plan = config.plans.values().find(|plan| plan.name.as_str() == report.plan);
    report.armed || plan.is_none_or(|plan| plan.failover.trigger == Trigger::Manual)
}

fn show(progress: Progress, screen: &Screen<'_>) {
    match progress {
        Progress::Step(name) => screen.live(format!("starting {name}")),
        Progress::Waiting(names) => screen.live(format!("waiting for {}", names.join(", "))),
        Progress::Ready => screen.live(String::new()),
        Progress::Trouble(text) => screen.line(&format!("  {} {text}", screen.paint(Tone::Warn, "!"))),
    }
}

async fn target(config: Config, control: Control, supervisor: Supervisor) -> Result<Arc<MeshTarget>, Failure> {
    match MeshTarget::new(config, control, supervisor).await {
        Ok(target) => Ok(Arc::new(target)),
        Err(error) => Err(Failure::internal(error.to_string())),
    }
}

/// The control plane of a running mesh, and what it has applied. One that has just died is being started again by the
/// supervisor: that is waited for.
async fn control_of(state: &Path) -> Result<(Control, Revision), ClientError> {
    let until = Instant::now() + RESTART;
    loop {
        let asked = async {
            let control = Control::from_state(state)?;
            let revision = control.config().await?;
            Ok::<_, ClientError>((control, revision))
        };
        match asked.await {
            Err(error) if error.is_unreachable() && Instant::now() < until => sleep(LOOK).await,
            answer => return answer,
        }
    }
}

/// A drill of one configuration on a mesh of another would prove nothing.
fn same_config(config: &Config, revision: Revision, state: &Path) -> Result<(), Failure> {
    let number = revision.number;
    let sources: Vec<Source> =
        revision.files.into_iter().map(|file| Source { path: file.path, text: file.text }).collect();
    match model::parse(&sources) {
        Ok(applied) if applied.config == *config => Ok(()),
        _ => Err(Failure::usage(format!(
            "the mesh that runs in `{}` has another configuration (its revision {number}) than these manifests",
            state.display()
        ))
        .help("restart `firedrill up` with these manifests, or name another state folder with `--state DIR`")),
    }
}

fn start_failed(error: StartError) -> Failure {
    let exit = match error {
        StartError::Busy { .. } | StartError::NoProxy { .. } => Exit::Usage,
        _ => Exit::Internal,
    };
    let help = match &error {
        StartError::Busy { state, .. } => {
            format!("stop it, or name another state folder with `--state DIR` (this one is {})", state.display())
        }
        StartError::NoProxy { .. } => "name one of these".to_owned(),
        StartError::Machine { .. } => "if an address is taken, stop what listens there, or change `listen`".to_owned(),
        StartError::NotReady { log, .. } => format!("the whole log is in {}", log.display()),
        StartError::Control(_) => "`firedrill check` tells whether the manifests are valid".to_owned(),
    };
    Failure::new(exit, error.to_string()).help(help)
}
