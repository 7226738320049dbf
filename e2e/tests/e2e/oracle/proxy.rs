//! The two proxies as processes: one Envoy and one of ours carry all cases.

use std::{
    collections::HashMap,
    fs,
    io::{Read as _, Seek as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Mutex,
    time::{Duration, Instant},
};

use e2e::{process, web::Web};
use serde_json::Value;
use tokio::process::{Child, Command};
use xds::snapshot::Snapshot;

use super::{PATIENCE, bootstrap, case::Seen, place::Side};

/// A running proxy. It ends when this is dropped.
pub struct Proxy {
    side: Side,
    child: Mutex<Child>,
    folder: PathBuf,
    web: Web,
    log: Mutex<Log>,
}

/// What was read of the access log.
#[derive(Default)]
struct Log {
    at: u64,
    rest: String,
    flags: HashMap<String, String>,
    decisions: HashMap<String, String>,
}

impl Proxy {
    /// Starts it with the snapshot of all cases and waits until it is ready.
    pub async fn start(side: Side, snapshot: &Snapshot, envoy: &Path, folder: &Path) -> Self {
        let folder = folder.join(format!("{side:?}"));
        fs::create_dir(&folder).expect("a new folder");
        let mut command = match side {
            Side::Envoy => envoy_command(envoy, snapshot, &folder),
            Side::Ours => our_command(snapshot, &folder),
        };
        let output = fs::File::create(folder.join("output.log")).expect("created");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output).kill_on_drop(true).spawn();
        let child = Mutex::new(child.unwrap_or_else(|error| panic!("{side:?} does not start: {error}")));
        let proxy = Self { side, child, folder, web: Web::default(), log: Mutex::default() };
        let started = Instant::now();
        loop {
            match proxy.web.get(side.admin(), "/ready").await {
                Ok(answer) if answer.status.is_success() => return proxy,
                other => proxy.wait(started, &format!("{other:?}")).await.unwrap_or_else(|error| panic!("{error}")),
            }
        }
    }

    /// What it printed.
    pub fn output(&self) -> String {
        fs::read_to_string(self.folder.join("output.log")).unwrap_or_default()
    }

    /// Response flags of a request, sorted; waits for its line in the access log.
    pub async fn flags(&self, id: &str) -> Result<String, String> {
        let started = Instant::now();
        loop {
            if let Some(flags) = self.logged(id) {
                return Ok(flags);
            }
            self.wait(started, &format!("{id} is not in the access log")).await?;
        }
    }

    /// What authorization decided of a request whose line is there.
    pub fn decision(&self, id: &str) -> String {
        self.log.lock().unwrap().decisions.get(id).cloned().unwrap_or_default()
    }

    fn logged(&self, id: &str) -> Option<String> {
        let mut log = self.log.lock().unwrap();
        if !log.flags.contains_key(id) {
            read_on(&mut log, &self.folder.join("access.log"));
        }
        log.flags.get(id).cloned()
    }

    /// Waits until it sees an endpoint so.
    pub async fn sees(&self, address: SocketAddr, seen: Seen) -> Result<(), String> {
        let started = Instant::now();
        loop {
            let is = self.look(address).await;
            if is.as_ref() == Ok(&seen) {
                return Ok(());
            }
            self.wait(started, &format!("{address} is {is:?}, not {seen:?}")).await?;
        }
    }

    /// How it sees an endpoint.
    pub async fn look(&self, address: SocketAddr) -> Result<Seen, String> {
        let clusters = self.clusters().await?;
        let found = clusters.values().find_map(|hosts| hosts.get(&address));
        found.copied().ok_or_else(|| format!("{address} is unknown"))
    }

    /// How many endpoints of a cluster it sees so.
    pub async fn count(&self, cluster: &str, seen: Seen) -> Result<usize, String> {
        let clusters = self.clusters().await?;
        let hosts = clusters.get(cluster).ok_or("no such cluster")?;
        Ok(hosts.values().filter(|is| **is == seen).count())
    }

    async fn clusters(&self) -> Result<HashMap<String, HashMap<SocketAddr, Seen>>, String> {
        let path = match self.side {
            Side::Envoy => "/clusters?format=json",
            Side::Ours => "/status",
        };
        let page = self.web.get(self.side.admin(), path).await?.json();
        let hosts = |cluster: &Value| match self.side {
            Side::Envoy => rows(&cluster["host_statuses"]).filter_map(by_envoy).collect(),
            Side::Ours => rows(&cluster["endpoints"]).filter_map(by_ours).collect(),
        };
        let clusters = rows(&page["cluster_statuses"]).chain(rows(&page["clusters"]));
        Ok(clusters.map(|cluster| (cluster["name"].as_str().unwrap_or_default().to_owned(), hosts(cluster))).collect())
    }

    /// A pause before a condition is looked at again; the reason is the failure when that lasts too long.
    async fn wait(&self, started: Instant, reason: &str) -> Result<(), String> {
        let ended = self.child.lock().unwrap().try_wait().ok().flatten();
        match ended {
            Some(status) => Err(format!("{:?} ended with {status}:\n{}", self.side, self.output())),
            None if started.elapsed() > PATIENCE => Err(format!("{:?}: after {PATIENCE:?}: {reason}", self.side)),
            None => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Ok(())
            }
        }
    }
}

fn envoy_command(envoy: &Path, snapshot: &Snapshot, folder: &Path) -> Command {
    let start = folder.join("bootstrap.pb");
    fs::write(&start, bootstrap::encode(snapshot, Side::Envoy.admin(), &folder.join("access.log"))).expect("written");
    let mut command = Command::new(envoy);
    // One worker: what is counted per worker is counted once, as at ours.
    command.args(["--use-dynamic-base-id", "--concurrency", "1", "-l", "warning"]);
    command.args(["--file-flush-interval-msec", "20", "-c"]).arg(start);
    command
}

fn our_command(snapshot: &Snapshot, folder: &Path) -> Command {
    let start = folder.join("snapshot.json");
    fs::write(&start, serde_json::to_vec(snapshot).expect("plain data")).expect("written");
    let mut command = process::command(&["proxy", "--name", "oracle", "--service", "oracle"]);
    command.arg("--snapshot").arg(start).arg("--state").arg(folder.join("state"));
    command.arg("--access-log").arg(folder.join("access.log")).args(["--admin", &Side::Ours.admin().to_string()]);
    command
}

fn read_on(log: &mut Log, path: &Path) {
    let Ok(mut file) = fs::File::open(path) else { return };
    let mut more = Vec::new();
    file.seek(std::io::SeekFrom::Start(log.at)).expect("a file");
    file.read_to_end(&mut more).expect("a file");
    log.at += more.len() as u64;
    log.rest += std::str::from_utf8(&more).expect("both write ASCII here");
    let text = std::mem::take(&mut log.rest);
    let (lines, rest) = text.rsplit_once('\n').unwrap_or(("", &text));
    rest.clone_into(&mut log.rest);
    for line in lines.lines().filter(|line| !line.is_empty()) {
        let entry: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let mut flags: Vec<&str> = entry["response_flags"].as_str().unwrap_or("-").split(',').collect();
        flags.sort_unstable();
        if let Some(id) = entry["request_id"].as_str() {
            log.flags.insert(id.to_owned(), flags.join(","));
            log.decisions.insert(id.to_owned(), decision(&entry));
        }
    }
}

/// `deny none rbac_…`: what was decided, by which permission, and the reason of a refusal.
fn decision(entry: &Value) -> String {
    let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let details = text("response_code_details");
    let details = if details.starts_with("rbac") { format!(" {details}") } else { String::new() };
    let named = |policy: &str| if policy.is_empty() { "none".to_owned() } else { policy.to_owned() };
    let said = match (text("enforced").as_str(), text("shadow").as_str(), text("authorization").as_str()) {
        ("allowed", ..) => format!("allow {}", named(&text("enforced_policy"))),
        ("denied", ..) => format!("deny {}", named(&text("enforced_policy"))),
        (_, "allowed", _) => format!("allow {}", named(&text("shadow_policy"))),
        (_, "denied", _) => format!("shadow_deny {}", named(&text("shadow_policy"))),
        (_, _, ours) => format!("{ours} {}", text("authorization_rule")),
    };
    said + &details
}

fn rows(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn by_envoy(host: &Value) -> Option<(SocketAddr, Seen)> {
    let at = &host["address"]["socket_address"];
    let address = format!("{}:{}", at["address"].as_str()?, at["port_value"]).parse().ok()?;
    let health = &host["health_status"];
    Some((address, seen(health["failed_active_health_check"] == true, health["failed_outlier_check"] == true)))
}

fn by_ours(host: &Value) -> Option<(SocketAddr, Seen)> {
    let address = host["address"].as_str()?.parse().ok()?;
    Some((address, seen(host["healthy"] == false, host["ejected"] == true)))
}

fn seen(unhealthy: bool, ejected: bool) -> Seen {
    match (unhealthy, ejected) {
        (true, _) => Seen::Unhealthy,
        (false, true) => Seen::Ejected,
        (false, false) => Seen::Fine,
    }
}
