//! `firedrill logs`: what a process of the mesh printed.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use crate::{
    arguments::State,
    failure::{Exit, Failure},
    manifests::reason,
    terminal::Terminal,
};

const EXAMPLES: &str = "\
Examples:
  firedrill logs                        which logs there are
  firedrill logs control                of the control plane
  firedrill logs ledger-east-0          of a workload
  firedrill logs ledger-east-0.proxy    of its sidecar; a gateway's is edge.proxy
  firedrill logs -f --tail 20 control   the last lines, and what comes, until Ctrl-C";

/// How often a log is looked at while it is followed.
const LOOK: Duration = Duration::from_millis(200);
/// Most bytes that are read at once. Logs are at most twice 4 MiB.
const MOST: u64 = 16 << 20;

/// Arguments of `firedrill logs`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Which process: `control`, a workload, or its sidecar or a gateway as NAME.proxy
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Go on with what comes, until Ctrl-C
    #[arg(short, long, requires = "name")]
    follow: bool,
    /// Only this many of the last lines
    #[arg(long, value_name = "LINES", requires = "name")]
    tail: Option<usize>,
    #[command(flatten)]
    state: State,
}

/// Prints a log, or the names of all.
///
/// # Errors
/// When there is no such log.
pub fn run(args: &Args, terminal: &Terminal) -> miette::Result<ExitCode> {
    let folder = args.state.path.join("logs");
    let names = names(&folder)?;
    let Some(name) = &args.name else {
        names.iter().for_each(|name| terminal.line(name));
        return Ok(Exit::Success.into());
    };
    if !names.contains(name) {
        return Err(unknown(name, &names).into());
    }
    let path = folder.join(format!("{name}.log"));
    let cannot = |e: io::Error| Failure::internal(format!("cannot read `{}`: {}", path.display(), reason(&e)));
    // What was set aside comes before what is written now.
    let mut log = Log::open(path.clone()).map_err(cannot)?;
    let mut lines = read_whole(&path.with_extension("log.1")).unwrap_or_default();
    lines.extend(log.new_lines().map_err(cannot)?);
    let skipped = args.tail.map_or(0, |tail| lines.len().saturating_sub(tail));
    lines.iter().skip(skipped).for_each(|line| terminal.line(line));
    if args.follow {
        super::block_on(async {
            tokio::select! {
                result = follow(&mut log, terminal) => result.map_err(cannot),
                _ = tokio::signal::ctrl_c() => Ok(()),
            }
        })??;
    }
    if let Some(rest) = log.unfinished() {
        terminal.line(rest);
    }
    Ok(Exit::Success.into())
}

async fn follow(log: &mut Log, terminal: &Terminal) -> io::Result<()> {
    while !terminal.closed() {
        tokio::time::sleep(LOOK).await;
        log.new_lines()?.iter().for_each(|line| terminal.line(line));
    }
    Ok(())
}

fn names(folder: &Path) -> Result<Vec<String>, Failure> {
    let entries = fs::read_dir(folder).map_err(|e| {
        Failure::usage(format!("there are no logs in `{}`: {}", folder.display(), reason(&e)))
            .help("name the state folder of the mesh with `--state DIR`")
    })?;
    let name = |entry: fs::DirEntry| entry.file_name().to_str()?.strip_suffix(".log").map(str::to_owned);
    let mut names: Vec<_> = entries.filter_map(Result::ok).filter_map(name).collect();
    names.sort();
    Ok(names)
}

fn unknown(name: &str, names: &[String]) -> Failure {
    let failure = Failure::usage(format!("there is no log of `{name}`"));
    let sidecar = format!("{name}.proxy");
    match names.contains(&sidecar) {
        true => failure.help(format!("its proxy has one: `firedrill logs {sidecar}`")),
        false => failure.help(format!("there are logs of {}", names.join(", "))),
    }
}

fn read_whole(path: &Path) -> io::Result<Vec<String>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect())
}

/// A log that is read as it grows, also over the moment at which it is set aside.
struct Log {
    path: PathBuf,
    file: File,
    /// Bytes after the last end of line.
    rest: Vec<u8>,
}

impl Log {
    fn open(path: PathBuf) -> io::Result<Self> {
        Ok(Self { file: File::open(&path)?, path, rest: Vec::new() })
    }

    /// Whole lines since the last call.
    fn new_lines(&mut self) -> io::Result<Vec<String>> {
        (&self.file).take(MOST).read_to_end(&mut self.rest)?;
        if self.is_set_aside() {
            // Nothing more is written to this one; its end was just read.
            (&self.file).take(MOST).read_to_end(&mut self.rest)?;
            self.file = File::open(&self.path)?;
            (&self.file).take(MOST).read_to_end(&mut self.rest)?;
        }
        let end = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let whole: Vec<u8> = self.rest.drain(..end).collect();
        Ok(String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect())
    }

    /// Whether another file has its name by now.
    fn is_set_aside(&self) -> bool {
        let (Ok(open), Ok(named)) = (self.file.metadata(), self.path.metadata()) else { return false };
        (open.dev(), open.ino()) != (named.dev(), named.ino())
    }

    /// A last line without an end.
    fn unfinished(&self) -> Option<String> {
        (!self.rest.is_empty()).then(|| String::from_utf8_lossy(&self.rest).into_owned())
    }
}
