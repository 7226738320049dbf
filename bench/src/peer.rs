//! Proxies that are compared: each is a script in `bench/peers`, named as it is, with a flavour after a dash.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use crate::{
    failure::Failure,
    machine::PROXY_CORE,
    probe::{self, Speaks},
    process::{self, Process},
};

/// A script's way to say that it lacks what is asked.
const LACKS: i32 = 77;

/// Where a proxy listens and where it forwards to.
#[derive(Clone, Debug)]
pub struct Place {
    /// What is measured, as scripts know it.
    pub variant: &'static str,
    /// What its callers speak.
    pub speaks: Speaks,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Its admin interface, on the same address.
    pub admin_port: u16,
    /// The first origin.
    pub a: Ipv4Addr,
    /// The second; in `failover` the standby.
    pub b: Ipv4Addr,
    /// Both origins' port.
    pub up_port: u16,
    /// Folder of certificates.
    pub certificates: PathBuf,
    /// More for the script's environment.
    pub more: Vec<(&'static str, String)>,
}

/// Starts a proxy and waits until it answers. `Err` inside says why it is left out.
///
/// # Errors
/// When there is no such script, or the machine refuses.
pub async fn start(name: &str, place: &Place, folder: &Path) -> Result<Result<Process, String>, Failure> {
    let (script, flavour) = name.split_once('-').unwrap_or((name, ""));
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("peers").join(format!("{script}.sh"));
    if !path.is_file() {
        return Err(Failure::Usage(format!("PEERS: there is no `{}`", path.display())));
    }
    fs::create_dir_all(folder).map_err(Failure::io(folder.display().to_string()))?;
    let mut command = process::command(PROXY_CORE, path);
    command
        .env("VARIANT", place.variant)
        .env("FLAVOUR", flavour)
        .env("DIR", folder)
        .env("LISTEN_HOST", place.listen.ip().to_string())
        .env("LISTEN_PORT", place.listen.port().to_string())
        .env("ADMIN_PORT", place.admin_port.to_string())
        .env("A_HOST", place.a.to_string())
        .env("B_HOST", place.b.to_string())
        .env("UP_PORT", place.up_port.to_string())
        .env("CERTS", &place.certificates)
        .envs(place.more.iter().cloned());
    if env::var_os("ENVOY").is_none()
        && let Some(envoy) = envoy()
    {
        command.env("ENVOY", envoy);
    }
    // Most proxies let others listen beside them: requests would be shared with a stranger.
    if tokio::net::TcpStream::connect(place.listen).await.is_ok() {
        return Err(Failure::Program(format!("{} is taken: does another benchmark run?", place.listen)));
    }
    let log = folder.join("said");
    let mut process = Process::start(command, &log)?;
    let answers = probe::answers(place.listen, place.speaks, "/", || process.ended().is_none()).await;
    if answers {
        return Ok(Ok(process));
    }
    let said = fs::read_to_string(&log).unwrap_or_default();
    let last = said.lines().last().unwrap_or("it said nothing");
    Ok(Err(match process.ended().and_then(|status| status.code()) {
        Some(LACKS) => "is not installed, or lacks this variant".to_owned(),
        Some(code) => format!("ended with {code}: {last}"),
        None => format!("does not answer: {last}"),
    }))
}

/// The one that `make tools` installs.
fn envoy() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    let libraries = fs::read_dir(root.join(".venv/lib")).ok()?.flatten();
    libraries.map(|library| library.path().join("site-packages/envoy/_bin/envoy")).find(|path| path.is_file())
}
