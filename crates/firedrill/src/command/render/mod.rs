//! `firedrill render`: a proxy's configuration in the form that a program takes: a stock Envoy, or our own proxy alone.

mod envoy;
mod snapshot;

use std::{path::PathBuf, process::ExitCode};

use control::api::Placements;

use crate::{
    arguments::{Format, State},
    failure::Failure,
    terminal::Terminal,
};

const EXAMPLES: &str = "\
Examples:
  firedrill up -f examples/bank --without edge               in one terminal
  firedrill render --target envoy --proxy edge --out edge    in another, then what it prints
  firedrill render --target snapshot --proxy edge -f examples/bank > edge.json
  firedrill proxy --name edge --snapshot edge.json --admin 127.0.0.1:15000

--target envoy needs a running mesh. It makes a private key, has the mesh sign a certificate for it,
and writes DIR/envoy.json (Envoy's bootstrap), DIR/key.pem, DIR/certificate.pem and DIR/roots.pem.
The key is sent nowhere. Routes, endpoints and trust come from the control plane while Envoy runs;
the certificate is not renewed by itself. An Envoy carries traffic, retries and fails over. It takes
no faults and no routing controls and tells no events, so `firedrill drill run` refuses a mesh with one.

--target snapshot needs manifests and no mesh. It prints, as JSON, what one proxy would be told: the
form that `firedrill proxy --snapshot FILE` reads (`firedrill schema Snapshot`). Workloads have the
addresses, and trust the roots, of the mesh that last ran with the state folder; before the first
they have the addresses of an example subnet, and trust is empty.";

/// Arguments of `firedrill render`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// For which program: a stock Envoy, or our own proxy without a control plane
    #[arg(long, value_enum, default_value = "envoy", value_name = "envoy|snapshot", hide_possible_values = true)]
    target: Target,
    /// Which proxy it is: the name of a gateway or of a workload
    #[arg(long, value_name = "NAME")]
    proxy: String,
    #[command(flatten)]
    state: State,
    /// Manifests, with `--target snapshot`: a folder, a file, or `-`; may be repeated [default: .]
    #[arg(short = 'f', long = "file", value_name = "PATH")]
    files: Vec<PathBuf>,
    /// Folder for the files of `--target envoy`; made if missing
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How to print what `--target envoy` wrote and how to start it
    #[arg(long, value_enum, default_value = "text", value_name = "text|json", hide_possible_values = true)]
    format: Format,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Target {
    /// A stock Envoy
    Envoy,
    /// Our own proxy
    Snapshot,
}

/// Writes or prints what the program needs.
///
/// # Errors
/// When there is no such proxy, or what it needs cannot be made.
pub fn run(args: &Args, terminal: &Terminal) -> miette::Result<ExitCode> {
    match args.target {
        Target::Envoy => envoy::run(args, terminal),
        Target::Snapshot => snapshot::run(args, terminal),
    }
}

fn unknown(proxy: &str, placements: &Placements) -> Failure {
    let known: Vec<&str> = placements.proxies.iter().map(|placement| placement.proxy.as_str()).collect();
    Failure::usage(format!("there is no proxy `{proxy}`; there are {}", known.join(", ")))
        .help("proxies have the names of gateways and workloads")
}
