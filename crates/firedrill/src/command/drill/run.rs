//! `firedrill drill run`: one attempt, from the confirmation to the report.

use std::{
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use drill::{DrillError, Options, Places, Progress, Sealed};
use evidence::{bundle, record::Attempt, results::Results};
use model::{config::Config, name::DrillName};
use tokio::sync::{mpsc, watch};

use crate::{
    arguments::{Format, State},
    attach::{Attached, attach},
    dataplane::drill_refusals,
    failure::{Exit, Failure},
    interrupt::Stop,
    manifests::{self, Files, reason},
    mesh::{MeshTarget, operator},
    programs,
    render::{outcome, screen::Screen},
    seat::Seat,
    summary,
    terminal::{Terminal, Tone},
};

const EXAMPLES: &str = "\
Examples:
  firedrill drill run lose-east                 manifests of this folder
  firedrill drill run lose-east -f mesh --out evidence --yes
  firedrill drill run lose-east --format json > result.json     progress goes to standard error

It uses the mesh that `firedrill up` runs with the same state folder, or starts one and stops it
at the end. Ctrl-C aborts: everything is put back, the attempt is sealed as aborted (exit code 3).
A second Ctrl-C ends the program at once; every fault then lapses by itself within 3 s.";

/// Arguments of `firedrill drill run`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of the drill
    name: String,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    state: State,
    /// Where the evidence bundle and the report are written
    #[arg(long, value_name = "DIR", default_value = "out")]
    out: PathBuf,
    /// How to print the result; with json, progress goes to standard error
    #[arg(long, value_enum, default_value = "text", value_name = "text|json", hide_possible_values = true)]
    format: Format,
    /// How long to wait for the plan's normal state before the attempt is refused
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = wait)]
    wait: Duration,
    /// Do not ask before it starts; nobody is asked where there is no terminal
    #[arg(long, short)]
    yes: bool,
}

fn wait(text: &str) -> Result<Duration, String> {
    // Zero does not wait at all.
    if text == "0" { Ok(Duration::ZERO) } else { model::unit::parse_duration(text).map_err(|error| error.0.to_owned()) }
}

/// Runs one attempt. The exit code is its verdict's.
///
/// # Errors
/// When there is no attempt: no such drill, no mesh, no place for the record.
pub fn run(args: &Args, terminal: &Terminal) -> miette::Result<ExitCode> {
    let (sources, parsed) = manifests::load(&args.files.paths(), terminal)?;
    let config = parsed.config;
    let name = find(&config, &args.name)?;
    programs_are_here(&config, &name)?;
    std::fs::create_dir_all(&args.out)
        .map_err(|e| Failure::usage(format!("cannot make `{}`: {}", args.out.display(), reason(&e))))?;
    if !args.yes && !confirmed(&config, &name)? {
        return Err(Failure::new(Exit::Aborted, "not confirmed; nothing was done").into());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Failure::internal(format!("cannot start the runtime: {e}")))?;
    let exit = runtime.block_on(async {
        let mut screen = match args.format {
            Format::Text => Screen::new(terminal),
            Format::Json => Screen::aside(terminal),
        };
        let seat = take_seat(&args.state.path, &name)?;
        let mut stop = Stop::new()?;
        let places = Places { state: args.state.path.clone(), out: args.out.clone() };
        let attached = tokio::select! {
            attached = attach(sources, config.clone(), &args.state.path, &screen) => attached?,
            signal = stop.named() => {
                return Err(Failure::new(Exit::Aborted, format!("{signal} before the drill began; nothing was done")));
            }
        };
        let options = Options { wait: args.wait, operator: operator() };
        let run = attempt(&attached, config, &name, (&places, &options), &screen, &seat, &mut stop).await;
        screen.live("stopping what was started".to_owned());
        attached.end().await;
        screen.finish();
        close(args, &run?, &screen, terminal)
    })?;
    Ok(exit.into())
}

fn find(config: &Config, name: &str) -> Result<DrillName, Failure> {
    let known = config.drills.keys().find(|drill| drill.as_str() == name);
    known.cloned().ok_or_else(|| {
        let drills: Vec<_> = config.drills.keys().map(ToString::to_string).collect();
        let help = match drills.is_empty() {
            true => "the manifests hold no drill at all".to_owned(),
            false => format!("the manifests hold: {}", drills.join(", ")),
        };
        Failure::usage(format!("there is no drill `{name}`")).help(help)
    })
}

/// A command that cannot start would fail in the middle of the drill: better before anything is broken.
fn programs_are_here(config: &Config, name: &DrillName) -> Result<(), Failure> {
    let missing = config.drills.get(name).map(|drill| programs::missing_for_drill(config, drill)).unwrap_or_default();
    if missing.is_empty() {
        return Ok(());
    }
    let listed: Vec<_> = missing.iter().map(|m| format!("`{}` of {}", m.program, m.owner)).collect();
    Err(Failure::usage(format!("programs that the drill needs are not on this machine: {}", listed.join(", ")))
        .help("install them, or write their full paths; nothing was registered or broken"))
}

/// Asks a person at a terminal; where there is none, the command line was decision enough.
fn confirmed(config: &Config, name: &DrillName) -> Result<bool, Failure> {
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Ok(true);
    }
    let Some(drill) = config.drills.get(name) else { return Ok(false) };
    let steps: Vec<_> = drill.scenario.iter().map(|step| summary::of_action(&step.action)).collect();
    let mut errors = std::io::stderr();
    let asked = write!(errors, "Drill {name} breaks things for real: {}. Go on? [y/N] ", steps.join(", "));
    let mut answer = String::new();
    asked.and_then(|()| errors.flush()).and_then(|()| std::io::stdin().read_line(&mut answer)).map_err(|e| {
        Failure::internal(format!("cannot ask for confirmation: {}", reason(&e))).help("`--yes` does not ask")
    })?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

fn take_seat(state: &Path, name: &DrillName) -> Result<Seat, Failure> {
    match Seat::take(state, name.as_str()) {
        Ok(Ok(seat)) => Ok(seat),
        Ok(Err(holder)) => {
            let who = holder.map_or("another drill".to_owned(), |h| format!("drill {} (process {})", h.drill, h.pid));
            Err(Failure::usage(format!("{who} is running in `{}`", state.display()))
                .help("wait for its end, or stop it with `firedrill drill abort`"))
        }
        Err(error) => {
            Err(Failure::usage(format!("cannot use the state folder `{}`: {}", state.display(), reason(&error))))
        }
    }
}

/// Recovers what an earlier engine left open, then runs the attempt while showing it and listening for a stop.
async fn attempt(
    attached: &Attached,
    config: Config,
    name: &DrillName,
    (places, options): (&Places, &Options),
    screen: &Screen<'_>,
    seat: &Seat,
    stop: &mut Stop,
) -> Result<Sealed, Failure> {
    let left = drill::recover_crashed(Some(attached.target.clone()), places).await.map_err(|e| unrecorded(&e))?;
    for sealed in &left {
        recovered(sealed, screen)?;
    }
    let refused = drill_refusals(&config, name.as_str(), &attached.target.envoys());
    if !refused.is_empty() {
        return Err(Failure::usage(format!("drill {name} asks for what a stock Envoy cannot do:\n  {}", refused.join("\n  ")))
            .help("let these proxies be ours (`firedrill up --data-plane envoy=PROXY,PROXY` names the others), or change the scenario"));
    }
    let (progress, mut shown) = mpsc::channel(1024);
    let (abort, aborted) = watch::channel(None);
    let (places, options) = (places.clone(), options.clone());
    let engine = engine(attached.target.clone(), config, name.clone(), (places, options), progress, aborted);
    let mut engine = tokio::spawn(engine);
    let mut times = 0u32;
    let result = loop {
        tokio::select! {
            biased;
            signal = stop.named() => {
                times += 1;
                interrupted(times, signal, &abort, screen);
            }
            reason = seat.abort_asked(), if times == 0 => {
                times += 1;
                abort.send_replace(Some(reason));
            }
            Some(step) = shown.recv() => screen.show(&step),
            ended = &mut engine => break ended,
        }
    };
    while let Ok(step) = shown.try_recv() {
        screen.show(&step);
    }
    match result {
        Ok(result) => result.map_err(|e| unrecorded(&e)),
        Err(error) => Err(Failure::internal(format!("the drill engine failed: {error}"))
            .help("the next `firedrill drill run` seals the attempt as crashed; all faults have lapsed by then")),
    }
}

/// Apart from the task that shows it: a slow terminal does not hold up a drill.
async fn engine(
    target: Arc<MeshTarget>,
    config: Config,
    name: DrillName,
    (places, options): (Places, Options),
    progress: mpsc::Sender<Progress>,
    abort: watch::Receiver<Option<String>>,
) -> Result<Sealed, DrillError> {
    drill::run(target, &config, &name, &places, &options, progress, abort).await
}

fn interrupted(times: u32, signal: &str, abort: &watch::Sender<Option<String>>, screen: &Screen<'_>) {
    if times == 1 {
        abort.send_replace(Some(format!("stopped by {signal}")));
        screen.line("  stopping: everything is being put back (once more ends at once)");
    } else {
        screen.line("  ended at once: faults lapse within 3 s, the next start seals this attempt as crashed");
        std::process::exit(i32::from(Exit::Internal as u8));
    }
}

/// An attempt whose engine died earlier.
fn recovered(sealed: &Sealed, screen: &Screen<'_>) -> Result<(), Failure> {
    let attempt = &sealed.attempt;
    screen.line(&format!(
        "{} attempt {} of {} was left open by an engine that died; it is sealed as crashed in {}",
        screen.paint(Tone::Warn, "note:"),
        attempt.number,
        attempt.drill,
        sealed.bundle.display()
    ));
    let (attempt, results) = read(&sealed.bundle)?;
    write_report(&sealed.bundle, &attempt, &results).map(drop)
}

fn close(args: &Args, sealed: &Sealed, screen: &Screen<'_>, terminal: &Terminal) -> Result<Exit, Failure> {
    let (attempt, results) = read(&sealed.bundle)?;
    let report = write_report(&sealed.bundle, &attempt, &results)?;
    match args.format {
        Format::Text => {
            let key = args.state.path.join("ledger/key.pub");
            for line in outcome::closing(&results, &sealed.bundle, &key, Some(&report), terminal) {
                terminal.line(line);
            }
        }
        Format::Json => {
            screen.line(&format!("  evidence  {}", sealed.bundle.display()));
            screen.line(&format!("  report    {}", report.display()));
            terminal.line(
                serde_json::to_string(&results).map_err(|e| Failure::internal(format!("cannot write JSON: {e}")))?,
            );
        }
    }
    Ok(Exit::of(sealed.verdict))
}

/// What is printed comes from the bundle that was written, not from memory: it is what others will read.
fn read(path: &Path) -> Result<(Attempt, Results), Failure> {
    let unread = |why: String| Failure::internal(format!("cannot read the bundle `{}`: {why}", path.display()));
    let bytes = std::fs::read(path).map_err(|e| unread(reason(&e)))?;
    bundle::read(&bytes).map_err(|e| unread(e.to_string()))
}

fn write_report(bundle: &Path, attempt: &Attempt, results: &Results) -> Result<PathBuf, Failure> {
    let path = bundle.with_extension("html");
    let name = bundle.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    std::fs::write(&path, console::report(attempt, results, &name))
        .map_err(|e| Failure::internal(format!("cannot write the report `{}`: {}", path.display(), reason(&e))))?;
    Ok(path)
}

fn unrecorded(error: &DrillError) -> Failure {
    let exit = match error {
        DrillError::Unknown(_) | DrillError::NoGateway { .. } | DrillError::Unidentified(_) | DrillError::Busy(_) => {
            Exit::Usage
        }
        DrillError::Record(_) => Exit::Internal,
    };
    Failure::new(exit, error.to_string())
}
