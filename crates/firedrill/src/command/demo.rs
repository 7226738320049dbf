//! `firedrill demo`: a live fire drill on a sample bank, with nothing but this binary.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus, Stdio},
};

use model::{Source, config::Config};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::{
    attach,
    dataplane::Plane,
    failure::{Exit, Failure},
    interrupt::Stop,
    manifests::{self, count, reason},
    render::screen::Screen,
    supervisor::{Running, plane::DataPlane},
    terminal::{Terminal, Tone},
};

const MESH: &str = include_str!("../../../../examples/bank/mesh.yaml");
const DRILLS: &str = include_str!("../../../../examples/bank/drills.yaml");
/// The drill of the bank.
const DRILL: &str = "lose-east";
/// Where the bank's gateway listens, as its manifest says.
const LISTEN: &str = "127.0.0.1:8080";

const EXAMPLES: &str = "\
Examples:
  firedrill demo
  firedrill demo --keep               leaves the bank running afterwards, to play with
  firedrill demo --data-plane envoy   the same with stock Envoys
  firedrill demo --out /tmp/bank      another folder for all that it writes

Three services in two regions as real processes, each with a sidecar proxy, mTLS between them.
Then region east is killed while customers look at their accounts and pay.
Nothing is written outside the folder, and no process is left behind.";

/// Arguments of `firedrill demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Where everything is written: manifests, state, evidence, report
    #[arg(long, value_name = "DIR", default_value = "out")]
    out: PathBuf,
    /// Leave the mesh running after the drill, until Ctrl-C
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    plane: Plane,
}

/// Starts the bank, runs the drill, ends the bank. The exit code is the drill's.
///
/// # Errors
/// When the bank cannot be started.
pub fn run(args: &Args, terminal: &Terminal) -> miette::Result<ExitCode> {
    let listen = free_listen()?;
    let folder = args.out.join("mesh");
    let sources = write_manifests(&folder, listen)?;
    let config =
        model::parse(&sources).map_err(|_| Failure::internal("the bank's own manifests are not valid"))?.config;
    let plane = args.plane.of(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Failure::internal(format!("cannot start the runtime: {e}")))?;
    // On this very thread, which outlives the runtime: the engine is killed when the thread that started it ends.
    let exit = runtime.block_on(demo(args, sources, config, plane, listen, terminal))?;
    Ok(exit)
}

async fn demo(
    args: &Args,
    sources: Vec<Source>,
    config: Config,
    plane: DataPlane,
    listen: SocketAddr,
    terminal: &Terminal,
) -> Result<ExitCode, Failure> {
    let mut stop = Stop::new()?;
    if listen.to_string() != LISTEN {
        terminal.line(format_args!(
            "{} {LISTEN} is taken, the bank's gateway listens on {listen}",
            terminal.paint(Tone::Warn, "note:")
        ));
    }
    let mut screen = Screen::new(terminal);
    let state = args.out.join("state");
    let running = tokio::select! {
        running = attach::start(sources, config.clone(), plane, &state, &screen) => running?,
        () = stop.asked() => return Ok(Exit::Aborted.into()),
    };
    screen.finish();
    terminal.line(first_line(&config, &running, listen));
    let exit = match engine(args, terminal) {
        Ok(child) => watch(child, &mut stop, terminal).await,
        Err(failure) => Err(failure),
    };
    if args.keep && exit.is_ok() {
        keep(args, listen, terminal);
        stop.asked().await;
    }
    running.shutdown().await;
    exit
}

/// The manifest's address, or the next free port after it.
fn free_listen() -> Result<SocketAddr, Failure> {
    let wanted: SocketAddr = LISTEN.parse().map_err(|_| Failure::internal("the bank's address is none"))?;
    let ports = wanted.port()..wanted.port().saturating_add(100);
    let free = ports.map(|port| SocketAddr::new(wanted.ip(), port)).find(|address| TcpListener::bind(address).is_ok());
    free.ok_or_else(|| {
        Failure::internal(format!("{LISTEN} and the hundred ports after it are taken"))
            .help("stop something that listens on this machine")
    })
}

fn write_manifests(folder: &Path, listen: SocketAddr) -> Result<Vec<Source>, Failure> {
    let cannot = |e: io::Error| {
        Failure::usage(format!("cannot write into `{}`: {}", folder.display(), reason(&e)))
            .help("name another folder with `--out DIR`")
    };
    fs::create_dir_all(folder).map_err(cannot)?;
    let mesh = MESH.replace(LISTEN, &listen.to_string());
    for (name, text) in [("mesh.yaml", mesh.as_str()), ("drills.yaml", DRILLS)] {
        fs::write(folder.join(name), text).map_err(cannot)?;
    }
    manifests::read(&[folder.join("mesh.yaml"), folder.join("drills.yaml")])
}

fn first_line(config: &Config, running: &Running, listen: SocketAddr) -> String {
    let mesh = running.mesh();
    format!(
        "Bank on a mesh: {}, {}, {}, mTLS on (trust domain {})   gateway http://{listen}",
        count(config.mesh.regions.len(), "region"),
        count(config.services.len(), "service"),
        manifests::proxies(mesh.workloads.len() + mesh.gateways.len()),
        config.mesh.trust_domain,
    )
}

/// The drill engine is a process of its own, as it is in real life: it can die without the mesh.
fn engine(args: &Args, terminal: &Terminal) -> Result<Child, Failure> {
    let cannot = |e: io::Error| Failure::internal(format!("cannot start the drill engine: {}", reason(&e)));
    let own = "firedrill";
    let mut command = Command::new(model::program(own));
    // Dies with this process, and gets Ctrl-C only from it: a terminal would send it to both.
    command.arg0(own).arg("exec").arg("--parent").arg(std::process::id().to_string()).arg("--").arg(own);
    command.args(["--color", if terminal.color() { "always" } else { "never" }]);
    command.args(["drill", "run", DRILL, "--yes"]);
    command.arg("-f").arg(args.out.join("mesh")).arg("--state").arg(args.out.join("state")).arg("--out").arg(&args.out);
    command.stdin(Stdio::null()).process_group(0).spawn().map_err(cannot)
}

/// Waits for the engine's end and hands signals on to it.
async fn watch(mut child: Child, stop: &mut Stop, terminal: &Terminal) -> Result<ExitCode, Failure> {
    loop {
        tokio::select! {
            status = child.wait() => {
                let status = status.map_err(|e| Failure::internal(format!("lost the drill engine: {}", reason(&e))))?;
                return Ok(ended(status, terminal));
            }
            () = stop.asked() => {
                let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
                if let Some(pid) = pid {
                    // Fails only if it has ended by now, which the next round sees.
                    let _ = kill_process(pid, Signal::INT);
                }
            }
        }
    }
}

fn ended(status: ExitStatus, terminal: &Terminal) -> ExitCode {
    match status.code() {
        Some(code) => ExitCode::from(u8::try_from(code).unwrap_or(Exit::Internal as u8)),
        None => {
            let signal = status.signal().map_or_else(String::new, |signal| format!(" by signal {signal}"));
            terminal.note(
                Tone::Bad,
                "error",
                format_args!("the drill engine was killed{signal}: its faults lapse within 3 s, the next run seals the attempt as crashed"),
            );
            Exit::Internal.into()
        }
    }
}

fn keep(args: &Args, listen: SocketAddr, terminal: &Terminal) {
    let out = args.out.display();
    terminal.line(format_args!("\n{}", terminal.paint(Tone::Strong, "The bank keeps running until Ctrl-C")));
    terminal.line(format_args!("  curl http://{listen}/accounts/42"));
    terminal.line(format_args!(
        "  curl -i -H 'x-firedrill-probe: me' http://{listen}/accounts/42     and which region answered"
    ));
    terminal.line(format_args!("  firedrill get services --state {out}/state"));
    terminal.line(format_args!("  firedrill events --follow --state {out}/state"));
    terminal.line(format_args!("  firedrill drill run {DRILL} -f {out}/mesh --state {out}/state --out {out}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bank_is_valid_wherever_it_listens() {
        let folder = tempfile::tempdir().unwrap();
        let listen: SocketAddr = "127.0.0.1:8099".parse().unwrap();
        let sources = write_manifests(folder.path(), listen).unwrap();
        let config = model::parse(&sources).unwrap().config;
        assert_eq!(config.mesh.gateways[0].listen, listen);
        assert!(config.drills.keys().any(|name| name.as_str() == DRILL));
    }
}
