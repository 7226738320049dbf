//! `firedrill proxy`: one proxy of the mesh.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use miette::IntoDiagnostic;
use model::name::WorkloadName;
use proxy::{
    AccessLogOptions, ControlSource, Credentials, Drain, FileSource, Issued, LogFilter, Source, TraceOptions, envoy,
};
use xds::{client::Transport, clock::Clock, svid};

use crate::{arguments::State, failure::Failure, logging};

/// Arguments of `firedrill proxy`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Its name: that of its workload, or of the gateway
    #[arg(long)]
    name: String,
    /// The service of its workload; none for a gateway
    #[arg(long, default_value = "")]
    service: String,
    /// The region it runs in; none for a gateway outside all
    #[arg(long, default_value = "")]
    region: String,
    /// ADS address of the control plane
    #[arg(long, value_name = "ADDRESS", required_unless_present = "snapshot")]
    control: Option<SocketAddr>,
    /// The control plane's API, where it signs certificates: its socket `unix:STATE/run/control.sock`, or its address, which is
    /// called over TLS and checked by `--roots`
    #[arg(long, value_name = "SOCKET|ADDRESS", conflicts_with_all = ["certificate", "workload_api"])]
    api: Option<Api>,
    /// Join token; better given in the environment
    #[arg(long, env = "FIREDRILL_TOKEN", hide_env_values = true, default_value = "")]
    token: String,
    /// Protocol of the control plane: `delta` tells what changed, `sotw` (state of the world) tells each kind as a whole
    #[arg(long, value_enum, value_name = "PROTOCOL", default_value_t = Protocol::Delta)]
    xds: Protocol,
    /// Where the admin interface listens
    #[arg(long, value_name = "ADDRESS")]
    admin: SocketAddr,
    /// Follow a snapshot in a file instead of a control plane: YAML or JSON (`firedrill schema Snapshot`)
    #[arg(long, value_name = "FILE", conflicts_with = "control")]
    snapshot: Option<PathBuf>,
    /// Certificate chain (PEM) that another tool issues and replaces in time, instead of the control plane
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// Roots (PEM) that the control plane's certificate chains to: `ca/root.pem` of its state folder
    #[arg(long, value_name = "FILE")]
    roots: Option<PathBuf>,
    /// Take the certificate from a SPIFFE Workload API, as `unix:///run/spire/agent.sock`; without a value from the one that
    /// SPIFFE_ENDPOINT_SOCKET names
    #[arg(long, value_name = "SOCKET", num_args = 0..=1, default_missing_value = "", conflicts_with = "certificate")]
    workload_api: Option<String>,
    /// The only SPIFFE id that is taken from there
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<String>,
    /// Run this stock Envoy as the data plane, and answer for it
    #[arg(long, value_name = "PROGRAM", conflicts_with = "snapshot")]
    envoy: Option<PathBuf>,
    /// Data workers
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    /// JSON access log, a line a request, with Envoy's field names; `-` is standard output
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
    /// Size at which the access log's file becomes FILE.1 and a new one is begun, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..), requires = "access_log")]
    access_log_size: u32,
    /// Export traces (OTLP over gRPC) to the collector at this address, http://127.0.0.1:4317 for instance
    #[arg(long, value_name = "URL", env = "FIREDRILL_OTLP")]
    otlp: Option<String>,
    /// Share of the traces beginning here that are recorded, 0 to 1; traces of others go on as their caller decided
    #[arg(long, value_name = "SHARE", env = "FIREDRILL_TRACE_SAMPLING", default_value_t = 0.01, value_parser = share)]
    trace_sampling: f64,
    /// Time between SIGTERM, when `/ready` turns 503, and taking no more connections, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=600_000))]
    drain_delay: u32,
    /// Time that requests in flight have after that, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(..=600_000))]
    drain_time: u32,
    #[command(flatten)]
    state: State,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Protocol {
    #[value(help = "what changed")]
    Delta,
    #[value(help = "each kind as a whole")]
    Sotw,
}

/// Where the control plane's API is.
#[derive(Clone, Debug)]
enum Api {
    Socket(PathBuf),
    Address(SocketAddr),
}

impl std::str::FromStr for Api {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text.strip_prefix("unix:"), text.parse()) {
            (Some(path), _) if !path.is_empty() => Ok(Self::Socket(path.trim_start_matches("//").into())),
            (None, Ok(address)) => Ok(Self::Address(address)),
            _ => Err("`unix:PATH` or an address with a port is needed".to_owned()),
        }
    }
}

impl Api {
    /// With what the control plane proves itself by.
    fn proved_by(self, roots: Option<&std::path::Path>) -> Result<proxy::Api, Failure> {
        let address = match self {
            Self::Socket(path) => return Ok(proxy::Api::Socket(path)),
            Self::Address(address) => address,
        };
        let Some(path) = roots else {
            return Err(Failure::usage("the control plane must prove itself before it is sent a join token")
                .help("name its roots with `--roots FILE` (`ca/root.pem` of its state folder), or its socket with `--api unix:STATE/run/control.sock`"));
        };
        let read = std::fs::read_to_string(path);
        let roots = read.map_err(|e| Failure::usage(format!("cannot read `{}`: {e}", path.display())))?;
        Ok(proxy::Api::Address { address, roots })
    }
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "a number from 0 to 1 is needed".to_owned())
}

/// Runs until SIGTERM or SIGINT, then lets requests in flight finish.
///
/// # Errors
/// When it cannot be started.
pub fn run(args: Args) -> miette::Result<ExitCode> {
    logging::to_stderr();
    let (issued, without_roots) = (issued(&args)?, args.certificate.is_some() && args.roots.is_none());
    let source = match (args.snapshot, args.control) {
        (Some(snapshot), _) => Source::File(FileSource { snapshot, identity: issued }),
        (None, Some(ads)) => {
            let credentials = match (issued, args.api) {
                (Some(_), _) if without_roots => {
                    return Err(
                        Failure::usage("name the roots of the control plane's certificate: `--roots FILE`").into()
                    );
                }
                (Some(issued), _) => Credentials::Issued(issued),
                (None, Some(api)) => {
                    Credentials::Signed { api: api.proved_by(args.roots.as_deref())?, token: args.token }
                }
                (None, None) => {
                    let text = "say where its certificate comes from: `--api SOCKET|ADDRESS`, `--certificate FILE` or `--workload-api SOCKET`";
                    return Err(Failure::usage(text).into());
                }
            };
            let transport = match args.xds {
                Protocol::Delta => Transport::Delta,
                Protocol::Sotw => Transport::StateOfTheWorld,
            };
            Source::Control(ControlSource { ads, credentials, region: args.region, transport })
        }
        (None, None) => return Err(Failure::usage("name a control plane, or a snapshot").into()),
    };
    // The name becomes a folder's.
    let name = WorkloadName::new(args.name).map_err(|error| Failure::usage(error.to_string()))?.to_string();
    let state = args.state.path.join("proxies").join(&name);
    let drain = Drain {
        delay: Duration::from_millis(args.drain_delay.into()),
        at_most: Duration::from_millis(args.drain_time.into()),
    };
    let access =
        args.access_log.map(|path| AccessLogOptions { path, bytes: u64::from(args.access_log_size) * 1024 * 1024 });
    let log = Some(LogFilter { get: logging::filter, set: logging::set_filter });
    if let Some(path) = args.envoy {
        let Source::Control(source) = source else {
            return Err(Failure::usage("an Envoy needs a control plane").into());
        };
        if args.otlp.is_some() {
            tracing::warn!("no traces are exported: a stock Envoy's are not configured by Firedrill");
        }
        let program = envoy::Program { path, through: own_shim(), workers: usize::from(args.workers) };
        let (service, admin, clock) = (args.service, args.admin, Clock::anchored());
        let options = envoy::Options { name, service, admin, state, source, program, drain, access, log, clock };
        return here(async |stop| envoy::run(options, stop).await.map_err(|error| error.to_string()));
    }
    crate::allocator::starting();
    let options = proxy::Options {
        state,
        name,
        service: args.service,
        admin: args.admin,
        workers: usize::from(args.workers),
        source,
        access_log: access,
        trace: args.otlp.map(|collector| TraceOptions { collector, ratio: args.trace_sampling }),
        drain,
        log,
        clock: Clock::anchored(),
        started: crate::allocator::started,
        give_back: crate::allocator::give_back,
    };
    here(async |stop| proxy::run(options, stop).await.map_err(|error| error.to_string()))
}

/// The certificate that is not the control plane's to sign, if there is one.
fn issued(args: &Args) -> Result<Option<Issued>, Failure> {
    let files = args.certificate.clone().zip(args.key.clone());
    let source = match (files, &args.workload_api) {
        (Some((certificate, key)), _) => {
            svid::Source::Files(svid::Files { certificate, key, bundle: args.roots.clone() })
        }
        (None, Some(text)) => {
            let named = || std::env::var("SPIFFE_ENDPOINT_SOCKET").map_err(|e| format!("SPIFFE_ENDPOINT_SOCKET: {e}"));
            let text = if text.is_empty() { named().map_err(Failure::usage)? } else { text.clone() };
            svid::Source::WorkloadApi(svid::socket(&text).map_err(Failure::usage)?)
        }
        (None, None) => return Ok(None),
    };
    Ok(Some(Issued { source, id: args.spiffe_id.clone() }))
}

/// Admin, control and health checks: one thread is enough for them. Data workers have threads of their own.
fn here<F>(run: F) -> miette::Result<ExitCode>
where
    F: AsyncFnOnce(std::pin::Pin<Box<dyn Future<Output = ()>>>) -> Result<(), String>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.into_diagnostic()?.block_on(async {
        let mut stop = super::Stop::new()?;
        run(Box::pin(async move { stop.asked().await })).await.map_err(Failure::internal)?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Starts a command so that it does not outlive this process.
fn own_shim() -> Vec<OsString> {
    let parent = std::process::id().to_string();
    ["exec", "--parent", &parent, "--"].iter().fold(vec![model::program("firedrill").into()], |mut words, word| {
        words.push(word.into());
        words
    })
}
