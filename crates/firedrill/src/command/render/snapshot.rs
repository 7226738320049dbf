//! What a proxy would be told, compiled from manifests without a mesh.

use std::{collections::BTreeMap, io, path::PathBuf, process::ExitCode};

use control::{
    bundle::Bundle,
    compile::{Roots, Switches, compile},
};
use model::config::Config;

use super::{Args, unknown};
use crate::{
    failure::{Exit, Failure},
    manifests,
    supervisor::{folder::remembered_subnet, layout::Layout},
    terminal::{Terminal, Tone},
};

/// Prints the snapshot of one proxy.
///
/// # Errors
/// When the manifests are not valid, or place no such proxy.
pub fn run(args: &Args, terminal: &Terminal) -> miette::Result<ExitCode> {
    let here = [PathBuf::from(".")];
    let files = if args.files.is_empty() { here.as_slice() } else { &args.files };
    let (_, parsed) = manifests::load(files, terminal)?;
    let subnet = remembered_subnet(&args.state.path);
    let layout = Layout::new(&parsed.config, subnet.unwrap_or_default()).map_err(|e| Failure::usage(e.to_string()))?;
    let placements = layout.placements();
    let own = roots(args)?;
    let known = own.is_some();
    let roots = Roots { own: own.unwrap_or_default(), federated: federated(&parsed.config)? };
    let mut compiled = compile(&parsed.config, &placements, &Switches::new(), &roots, &Default::default());
    let snapshot = compiled.remove(&args.proxy).ok_or_else(|| unknown(&args.proxy, &placements))?;
    let snapshot = snapshot.map_err(|e| Failure::usage(e.to_string()))?;
    if !known && !snapshot.trust.is_empty() {
        let state = args.state.path.display();
        let text = format!("no mesh ever ran with state folder `{state}`: the snapshot trusts nobody");
        terminal.note(Tone::Warn, "warning", text);
    }
    let text = serde_json::to_string_pretty(&snapshot);
    terminal.block(text.map_err(|e| Failure::internal(format!("cannot write JSON: {e}")))?);
    Ok(Exit::Success.into())
}

/// Roots of foreign trust domains, from the files of the manifests.
fn federated(config: &Config) -> Result<BTreeMap<String, String>, Failure> {
    let read = |path: &str| {
        let text = std::fs::read_to_string(path).map_err(|e| manifests::reason(&e).to_string())?;
        Ok(Bundle::parse(&text)?.pem())
    };
    // What a Workload API would hand out is not known here.
    let files = config.mesh.federation.iter().filter_map(|one| Some((&one.trust_domain, one.bundle.as_ref()?)));
    let domains = files.map(|(domain, file)| {
        let failed = |e: String| Failure::usage(format!("{file}: {e}"));
        Ok((domain.clone(), read(file).map_err(failed)?))
    });
    domains.collect()
}

/// What the mesh of the state folder trusts; `None` before its first start.
fn roots(args: &Args) -> Result<Option<String>, Failure> {
    let path = control::authority::roots_file(&args.state.path);
    match std::fs::read_to_string(&path) {
        Ok(roots) => Ok(Some(roots)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::usage(format!("{}: {}", path.display(), manifests::reason(&error)))),
    }
}
