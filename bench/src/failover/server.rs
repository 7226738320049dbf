//! The process of an origin: this program again, on the load's core.

use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Stdio,
    time::Duration,
};

use super::origin::{self, Behaviour};
use crate::{
    failure::Failure,
    machine::LOAD_CORE,
    probe::{self, Speaks},
    process::{self, Process},
};

/// A running origin.
#[derive(Debug)]
pub struct Server {
    process: Process,
}

impl Server {
    /// Starts one and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn start(name: &str, host: Ipv4Addr, delay: Duration, log: &Path) -> Result<Self, Failure> {
        let program = std::env::current_exe().map_err(Failure::io("this program"))?;
        let mut command = process::command(LOAD_CORE, program);
        command.args(["origin", &host.to_string(), name, &delay.as_millis().to_string()]).stdin(Stdio::piped());
        let mut process = Process::start(command, log)?;
        let address = SocketAddr::from((host, origin::HTTP));
        if probe::answers(address, Speaks::Http1, "/", || process.ended().is_none()).await {
            return Ok(Self { process });
        }
        let said = std::fs::read_to_string(log).unwrap_or_default();
        Err(Failure::Program(format!("the origin {name} does not answer: {said}")))
    }

    /// Tells it what to do.
    ///
    /// # Errors
    /// When it has ended.
    pub fn tell(&mut self, behaviour: Behaviour) -> Result<(), Failure> {
        let what = || Failure::Program("an origin ended".to_owned());
        let input = self.process.input().ok_or_else(what)?;
        input.write_all(behaviour.line().as_bytes()).map_err(|_| what())
    }

    /// Kills it at once, and waits for its end on another thread: on this one, client and requests would wait too.
    pub async fn kill(self) {
        self.process.kill();
        // What can fail is a destructor that panics.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }

    /// Stops it, as a machine that hangs.
    pub fn stop(&self) {
        self.process.stop();
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.process.go_on();
    }
}
