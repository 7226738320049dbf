//! What a stock Envoy needs to be a proxy of the running mesh: bootstrap, key and certificate in a folder.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use control::{
    api::{Certificate, CertificateRequest, Placement, Role, RunFile, TokenRequest},
    client::{Client as Control, read_run_file},
};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use serde::Serialize;
use xds::{bootstrap::Bootstrap, node::NodeInfo};

use super::{Args, unknown};
use crate::{
    arguments::Format,
    failure::{Exit, Failure},
    manifests::reason,
    supervisor::{
        api::{MeshReport, ProcessReport, ProcessState},
        client::Client as Supervisor,
    },
    terminal::{Terminal, Tone},
};

/// What was written, and how it is used.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Rendered {
    proxy: String,
    spiffe_id: String,
    bootstrap: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    roots: PathBuf,
    /// RFC 3339.
    valid_until: String,
    /// Program and arguments.
    command: Vec<String>,
}

/// Writes the files and prints how Envoy is started with them.
///
/// # Errors
/// When no mesh runs, it knows no such proxy, it signs no certificate, or a file cannot be written.
pub fn run(args: &Args, terminal: &Terminal) -> miette::Result<ExitCode> {
    let Some(out) = &args.out else {
        return Err(Failure::usage("an Envoy needs a folder for its files").help("name one with `--out DIR`").into());
    };
    let rendered = crate::command::block_on(async {
        let door = read_run_file(&args.state.path).map_err(|e| no_mesh(args, &e.to_string()))?;
        let control = Control::from_state(&args.state.path).map_err(|e| no_mesh(args, &e.to_string()))?;
        let placement = placement(args, &control).await?;
        if let Ok(supervisor) = Supervisor::of_state(&args.state.path).await
            && let Ok(mesh) = supervisor.mesh().await
            && process(&mesh, &args.proxy).is_some_and(|process| process.state != ProcessState::External)
        {
            terminal.note(Tone::Warn, "warning", taken(&args.proxy));
        }
        render(out, &door, &control, &placement).await
    })??;
    match args.format {
        Format::Json => terminal
            .line(serde_json::to_string(&rendered).map_err(|e| Failure::internal(format!("cannot write JSON: {e}")))?),
        Format::Text => terminal.write(shown(&rendered, terminal)),
    }
    Ok(Exit::Success.into())
}

fn no_mesh(args: &Args, why: &str) -> Failure {
    Failure::usage(format!("no mesh runs with state folder `{}`: {why}", args.state.path.display()))
        .help("start one with `firedrill up --without NAME`, or name its state folder with `--state DIR`")
}

async fn placement(args: &Args, control: &Control) -> Result<Placement, Failure> {
    let placements = control.placements().await.map_err(|e| no_mesh(args, &e.to_string()))?;
    let found = placements.proxies.iter().find(|placement| placement.proxy == args.proxy);
    found.cloned().ok_or_else(|| unknown(&args.proxy, &placements))
}

fn process<'a>(mesh: &'a MeshReport, proxy: &str) -> Option<&'a ProcessReport> {
    let gateways = mesh.gateways.iter().map(|gateway| &gateway.proxy.process);
    let sidecars = mesh.workloads.iter().map(|workload| &workload.proxy.process);
    gateways.chain(sidecars).find(|process| process.name == proxy)
}

fn taken(proxy: &str) -> String {
    format!(
        "`firedrill up` runs proxy {proxy} itself, and Envoy would want the same addresses: start the mesh with \
         `firedrill up --without {proxy}`"
    )
}

async fn render(out: &Path, door: &RunFile, control: &Control, placement: &Placement) -> Result<Rendered, Failure> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |reason: String| Failure::internal(format!("{what}: {reason}"))
    };
    let (service, gateway) = match &placement.role {
        Role::Sidecar { service, .. } => (Some(service.clone()), None),
        Role::Gateway { gateway, .. } => (None, Some(gateway.clone())),
    };
    let wanted = TokenRequest { service, gateway, proxy: Some(placement.proxy.clone()), ttl_ms: 60_000 };
    let token = control.create_token(&wanted).await;
    let token = token.map_err(|e| Failure::internal(e.to_string()))?.token;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256);
    let key = key.map_err(|e| failed("cannot make a key")(e.to_string()))?;
    let request = CertificateParams::default().serialize_request(&key).and_then(|request| request.pem());
    let csr = request.map_err(|e| failed("cannot make a certificate request")(e.to_string()))?;
    let signed = control
        .with_token(token.as_str())
        .certificate(&CertificateRequest { proxy: placement.proxy.clone(), csr, renews: None })
        .await
        .map_err(|e| Failure::internal(e.to_string()))?;
    let out = folder(out).map_err(|e| failed(&out.display().to_string())(reason(&e)))?;
    let path = |name: &str| out.join(name);
    let bootstrap = Bootstrap {
        node: node(placement),
        control: door.ads,
        control_id: control_id(&signed)?,
        roots: path("roots.pem"),
        certificate: path("certificate.pem"),
        key: path("key.pem"),
    };
    let files = [
        (&bootstrap.roots, signed.roots, 0o644),
        (&bootstrap.certificate, signed.certificate, 0o644),
        (&bootstrap.key, key.serialize_pem(), 0o600),
        (&path("envoy.json"), bootstrap.to_json(), 0o600),
    ];
    for (path, text, mode) in files {
        replace(path, &text, mode).map_err(|e| failed(&path.display().to_string())(reason(&e)))?;
    }
    let start = path("envoy.json");
    Ok(Rendered {
        proxy: placement.proxy.clone(),
        spiffe_id: signed.spiffe_id,
        command: ["envoy", "--use-dynamic-base-id", "-c", &start.display().to_string()].map(str::to_owned).to_vec(),
        bootstrap: start,
        certificate: bootstrap.certificate,
        key: bootstrap.key,
        roots: bootstrap.roots,
        valid_until: evidence::entry::rfc3339(signed.not_after.0),
    })
}

fn node(placement: &Placement) -> NodeInfo {
    let (service, region) = match &placement.role {
        Role::Sidecar { service, region, .. } => (service.clone(), region.clone()),
        Role::Gateway { .. } => Default::default(),
    };
    let id = placement.proxy.clone();
    NodeInfo { id, service, region, admin: Some(placement.admin), ..NodeInfo::default() }
}

/// The control plane's identity, in the trust domain of ours.
fn control_id(signed: &Certificate) -> Result<String, Failure> {
    let domain = signed.spiffe_id.strip_prefix("spiffe://").and_then(|rest| rest.split('/').next());
    match domain.filter(|domain| !domain.is_empty()) {
        Some(domain) => Ok(format!("spiffe://{domain}/control")),
        None => Err(Failure::internal(format!("`{}` is no SPIFFE id of a mesh", signed.spiffe_id))),
    }
}

/// Envoy reads the paths as they stand, wherever it is started: they are absolute.
fn folder(path: &Path) -> io::Result<PathBuf> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    path.canonicalize()
}

/// Replaces a file as a whole: nobody sees half of it, and an older one's mode does not stay.
fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let whole = path.with_extension("new");
    match fs::remove_file(&whole) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&whole)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&whole, path)
}

fn shown(rendered: &Rendered, terminal: &Terminal) -> String {
    let Rendered { proxy, spiffe_id, bootstrap, certificate, key, roots, valid_until, command } = rendered;
    let command = terminal.paint(Tone::Strong, command.join(" "));
    format!(
        "An Envoy can be proxy {proxy} ({spiffe_id}):\n\
         \x20 bootstrap    {}\n\
         \x20 key          {}    made here, sent nowhere\n\
         \x20 certificate  {}    valid until {valid_until}\n\
         \x20 roots        {}\n\n\
         Start it:\n  {command}\n\n\
         The certificate is not renewed by itself: before {valid_until}, run this again and restart Envoy.\n",
        bootstrap.display(),
        key.display(),
        certificate.display(),
        roots.display(),
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use xds::clock::Stamp;

    use super::*;

    #[test]
    fn a_secret_file_is_the_owners_whatever_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        replace(&path, "new", 0o600).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_control_plane_is_in_the_trust_domain_of_the_certificate() {
        let id = |spiffe_id: &str| {
            control_id(&Certificate {
                certificate: String::new(),
                roots: String::new(),
                spiffe_id: spiffe_id.to_owned(),
                not_before: Stamp(0),
                not_after: Stamp(0),
            })
        };
        assert_eq!(id("spiffe://bank.example/gateway/edge").unwrap(), "spiffe://bank.example/control");
        assert!(id("edge").is_err());
    }
}
