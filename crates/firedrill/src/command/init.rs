//! `firedrill init`: a commented first manifest for services that already run.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use model::name::{RegionName, ServiceName};

use crate::{
    failure::{Exit, Failure},
    manifests::reason,
    starter::{Site, Starter},
    terminal::{Terminal, Tone},
};

const EXAMPLES: &str = "\
Examples:
  firedrill init                        mesh.yaml in this folder, for you to edit
  firedrill init drills --service shop --primary east=10.0.1.5:80 --standby west=10.0.2.5:80
  firedrill init --primary a=127.0.0.1:8081 --standby b=127.0.0.1:8082 --listen 127.0.0.1:8080

Nothing about the services changes: a gateway of the mesh listens at --listen, and sends what it
gets to the primary, and to the standby when the primary is gone.";

/// Arguments of `firedrill init`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Folder to write mesh.yaml into; made if it is not there
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// Name of the service
    #[arg(long, value_name = "NAME", default_value = "web", value_parser = service)]
    service: ServiceName,
    /// Region that serves, and where the service listens there
    #[arg(long, value_name = "REGION=ADDRESS", default_value = "east=127.0.0.1:8081", value_parser = site)]
    primary: Site,
    /// Region that stands by, and where the service listens there
    #[arg(long, value_name = "REGION=ADDRESS", default_value = "west=127.0.0.1:8082", value_parser = site)]
    standby: Site,
    /// Where the gateway of the mesh shall listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Overwrite a mesh.yaml that is there
    #[arg(long)]
    force: bool,
}

/// Writes the starter and says what comes next.
///
/// # Errors
/// When the arguments contradict each other, or the file is there or cannot be written.
pub fn run(args: &Args, terminal: &Terminal) -> miette::Result<ExitCode> {
    let starter = Starter {
        service: args.service.clone(),
        primary: args.primary.clone(),
        standby: args.standby.clone(),
        listen: args.listen,
    };
    let text = starter.text()?;
    let path = args.folder.join("mesh.yaml");
    write(&args.folder, &path, &text, args.force)?;
    next_steps(args, &starter.drill(), &path, terminal);
    Ok(Exit::Success.into())
}

fn service(text: &str) -> Result<ServiceName, String> {
    ServiceName::new(text).map_err(|e| e.to_string())
}

fn site(text: &str) -> Result<Site, String> {
    let (region, address) =
        text.split_once('=').ok_or("write it as REGION=ADDRESS, for example east=127.0.0.1:8081")?;
    let address = address
        .parse()
        .map_err(|_| format!("`{address}` is not an address: write an IP address and a port, as 127.0.0.1:8081"))?;
    Ok(Site { region: RegionName::new(region).map_err(|e| e.to_string())?, address })
}

fn write(folder: &Path, path: &Path, text: &str, force: bool) -> Result<(), Failure> {
    let cannot = |e: &io::Error| Failure::usage(format!("cannot write `{}`: {}", path.display(), reason(e)));
    fs::create_dir_all(folder).map_err(|e| cannot(&e))?;
    let mut options = fs::OpenOptions::new();
    options.write(true);
    if force {
        options.create(true).truncate(true)
    } else {
        options.create_new(true)
    };
    let mut file = options.open(path).map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => Failure::usage(format!("`{}` is there already", path.display()))
            .help("`--force` overwrites it; or name another folder: `firedrill init DIR`"),
        _ => cannot(&e),
    })?;
    io::Write::write_all(&mut file, text.as_bytes()).map_err(|e| cannot(&e))
}

fn next_steps(args: &Args, drill: &str, path: &Path, terminal: &Terminal) {
    let option = if args.folder == Path::new(".") { String::new() } else { format!(" -f {}", args.folder.display()) };
    terminal.line(format_args!("{} {}", terminal.paint(Tone::Good, "wrote"), path.display()));
    terminal.line(format_args!("\n{}", terminal.paint(Tone::Strong, "Next")));
    let step = |command: String, what: &str| {
        terminal.line(format_args!("  {command:<44} {}", terminal.paint(Tone::Dim, what)))
    };
    step(format!("firedrill check{option}"), "is it valid");
    step(format!("firedrill up{option}"), "start the mesh, and leave it running");
    step(format!("curl http://{}/", args.listen), "your service, through the mesh");
    step(format!("firedrill drill run {drill}{option}"), "the drill; starts a mesh by itself if none runs");
}
