//! What proxies forward to when their cost is measured: nginx with fixed answers of 1 KiB.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

use crate::{
    failure::Failure,
    machine::LOAD_CORE,
    probe::{self, Speaks},
    process::{self, Process},
    settings::Variant,
};

const CONFIGURATION: &str = include_str!("origin.conf");
/// Size of an answer's body, in bytes.
const BODY: usize = 1024;
const H1: u16 = 18001;
const MTLS: u16 = 18002;
const H2C: u16 = 18003;

/// The port that speaks what a proxy of this variant speaks to it.
pub fn port(variant: Variant) -> u16 {
    match variant {
        Variant::H1 | Variant::H2h1 => H1,
        Variant::Mtls => MTLS,
        Variant::H2c => H2C,
    }
}

/// Starts one and waits until it answers.
///
/// # Errors
/// When nginx is not installed, or does not start.
pub async fn start(name: &str, host: Ipv4Addr, certificates: &Path, folder: &Path) -> Result<Process, Failure> {
    let folder = folder.join(name);
    fs::create_dir_all(&folder).map_err(Failure::io(folder.display().to_string()))?;
    let words = [
        ("@DIR@", folder.display().to_string()),
        ("@CERTIFICATES@", certificates.display().to_string()),
        ("@NAME@", name.to_owned()),
        ("@HOST@", host.to_string()),
        ("@H1@", H1.to_string()),
        ("@MTLS@", MTLS.to_string()),
        ("@H2C@", H2C.to_string()),
        ("@BODY@", "x".repeat(BODY)),
    ];
    let text = words.iter().fold(CONFIGURATION.to_owned(), |text, (word, value)| text.replace(word, value));
    let path = folder.join("nginx.conf");
    fs::write(&path, text).map_err(Failure::io(path.display().to_string()))?;
    let mut command = process::command(LOAD_CORE, "nginx");
    command.args(["-e", "stderr", "-c"]).arg(&path);
    let log = folder.join("said");
    let mut process = Process::start(command, &log)?;
    if probe::answers(SocketAddr::from((host, H1)), Speaks::Http1, "/", || process.ended().is_none()).await {
        return Ok(process);
    }
    let said = fs::read_to_string(&log).unwrap_or_default();
    Err(Failure::Program(format!("nginx as origin does not answer; `make tools` installs it. It said: {said}")))
}
