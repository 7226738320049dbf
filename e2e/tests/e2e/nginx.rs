//! Services that already run, unchanged: two nginx servers, `firedrill init`, one drill.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use e2e::{
    process::{Finished, gone, run, signal, wait_until},
    web::Web,
};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// A real nginx of its own: one process, its configuration and its pid file in the test's folder.
struct Nginx {
    binary: &'static str,
    config: PathBuf,
    pid: PathBuf,
    address: &'static str,
}

impl Nginx {
    /// Configured, not started; `None` if this machine has no nginx.
    fn new(folder: &Path, name: &str, address: &'static str) -> Option<Self> {
        let binary = ["/usr/sbin/nginx", "/usr/bin/nginx"].into_iter().find(|p| Path::new(p).is_file())?;
        let text = format!(
            "master_process off; pid {0}/{name}.pid; error_log {0}/{name}.log;\nevents {{}}\nhttp {{ access_log off; \
             client_body_temp_path {0}/{name}.b; proxy_temp_path {0}/{name}.p; fastcgi_temp_path {0}/{name}.f; \
             uwsgi_temp_path {0}/{name}.u; scgi_temp_path {0}/{name}.s; \
             server {{ listen {address}; location / {{ return 200 \"{name}\\n\"; }} }} }}\n",
            folder.display()
        );
        let config = folder.join(format!("{name}.conf"));
        std::fs::write(&config, text).expect("written");
        Some(Self { binary, config, pid: folder.join(format!("{name}.pid")), address })
    }

    async fn start(&self) {
        let mut command = Command::new(self.binary);
        command.arg("-c").arg(&self.config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(command.status().expect("nginx starts").success());
        wait_until(Duration::from_secs(10), || {
            std::net::TcpStream::connect(self.address).map(drop).map_err(|e| format!("{}: {e}", self.address))
        })
        .await;
    }

    fn pid(&self) -> Option<u32> {
        std::fs::read_to_string(&self.pid).ok()?.trim().parse().ok()
    }

    async fn answers(&self, body: &str) {
        let answer = Web::default().get(self.address.parse().unwrap(), "/").await.expect("nginx answers");
        assert_eq!(&answer.body[..], body.as_bytes());
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // It removes its pid file when it ends; one that was killed is not there any more either.
        if let Some(pid) = self.pid() {
            signal(pid, Signal::TERM);
        }
    }
}

/// A folder with two servers and the manifest that `firedrill init` writes for them.
async fn site(net: [&'static str; 3]) -> Option<(TempDir, Nginx, Nginx)> {
    let folder = tempfile::Builder::new().prefix("firedrill-e2e-").tempdir().expect("a temporary folder");
    let [east, west, edge] = net;
    let servers = Nginx::new(folder.path(), "east", east).zip(Nginx::new(folder.path(), "west", west));
    let Some((first, second)) = servers else {
        println!("skipped: no nginx; `make tools` installs it");
        return None;
    };
    let mesh = folder.path().join("mesh");
    let (primary, standby) = (format!("east={east}"), format!("west={west}"));
    let mesh = mesh.to_str().expect("UTF-8");
    let args = ["init", mesh, "--service", "web", "--primary", &primary, "--standby", &standby, "--listen", edge];
    let init = run(&args, Duration::from_secs(10)).await;
    assert_eq!(init.code, Some(0), "{init:?}");
    let check = run(&["check", "-f", mesh], Duration::from_secs(10)).await;
    assert_eq!(check.code, Some(0), "{check:?}");
    Some((folder, first, second))
}

async fn drill(folder: &Path) -> (Finished, Value) {
    let at = |name: &str| folder.join(name).to_str().expect("UTF-8").to_owned();
    let (mesh, state, out) = (at("mesh"), at("state"), at("out"));
    let args = ["drill", "run", "lose-east", "-f", &mesh, "--state", &state, "--out", &out, "--format", "json"];
    let drill = run(&args, Duration::from_secs(120)).await;
    println!("{}", drill.err);
    let results = serde_json::from_str(&drill.out).unwrap_or_else(|e| panic!("{e}: {drill:?}"));
    (drill, results)
}

async fn verifies(folder: &Path, attempt: u64) {
    let bundle = folder.join(format!("out/lose-east-{attempt}.drill"));
    let key = folder.join("state/ledger/key.pub");
    let args = ["evidence", "verify", bundle.to_str().expect("UTF-8"), "--key", key.to_str().expect("UTF-8")];
    let verified = run(&args, Duration::from_secs(30)).await;
    assert_eq!(verified.code, Some(0), "{}{}", verified.out, verified.err);
}

/// West served while east was away, and no client noticed.
fn served_by_west(results: &Value) {
    assert_eq!(results["verdict"], "passed");
    let probe = &results["probes"][0];
    let (offered, failed) = (&probe["offered"], probe["failed"].as_u64().expect("counted"));
    println!("{failed} of {offered} requests failed; recovery {}", results["measured"]["recovery"]);
    assert_eq!(failed, 0, "{probe}");
    assert!(probe["fault"]["regions"]["west"].as_f64().expect("west answered") > 50.0, "{probe}");
    assert_eq!(results["residue"]["proxies"], results["residue"]["unchanged"]);
}

#[tokio::test]
async fn two_nginx_servers_are_drilled_without_a_change_to_them() {
    let Some((folder, east, west)) = site(["127.206.1.1:8081", "127.206.1.2:8082", "127.206.1.3:8080"]).await else {
        return;
    };
    east.start().await;
    west.start().await;
    let pids = (east.pid(), west.pid());
    east.answers("east\n").await;

    let (finished, results) = drill(folder.path()).await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    served_by_west(&results);
    verifies(folder.path(), 1).await;
    // The servers are those that were there before.
    assert_eq!((east.pid(), west.pid()), pids);
    east.answers("east\n").await;
    drop((east, west));
    gone(folder.path(), Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_real_nginx_is_killed_and_started_again_by_the_users_commands() {
    let Some((folder, east, west)) = site(["127.206.2.1:8081", "127.206.2.2:8082", "127.206.2.3:8080"]).await else {
        return;
    };
    let file = folder.path().join("mesh/mesh.yaml");
    let text = std::fs::read_to_string(&file).expect("text");
    let line = text.lines().find(|line| line.contains("lose: {region: east")).expect("the scenario");
    let step = format!(
        "    - {{at: 0s, run: {{name: kill nginx, command: [sh, -c, 'kill -9 $(cat {})'], undo: [{}, -c, {}]}}}}",
        east.pid.display(),
        east.binary,
        east.config.display()
    );
    std::fs::write(&file, text.replace(line, &step)).expect("written");
    east.start().await;
    let before = east.pid().expect("running");

    // The standby does not run: refused, and the primary is left alone.
    let (finished, results) = drill(folder.path()).await;
    assert_eq!(finished.code, Some(4), "{finished:?}");
    assert!(results["reasons"].to_string().contains("standby web-west-0 in west"), "{}", results["reasons"]);
    assert_eq!(east.pid(), Some(before));
    east.answers("east\n").await;
    verifies(folder.path(), 1).await;

    west.start().await;
    let (finished, results) = drill(folder.path()).await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert_eq!(results["attempt"], 2);
    served_by_west(&results);
    verifies(folder.path(), 2).await;
    // Another process serves now: the old one was killed, the undo started this one.
    assert_ne!(east.pid(), Some(before));
    east.answers("east\n").await;
    drop((east, west));
    gone(folder.path(), Duration::from_secs(5)).await;
}
