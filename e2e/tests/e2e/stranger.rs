//! Another user of the machine: connects to everything thousands of times, asks for what it must not do, and waits for a free
//! address. Nothing of the mesh may die, fail over, or tell it a secret.

use std::{
    net::SocketAddr,
    process::Stdio,
    time::{Duration, Instant},
};

use e2e::{
    mesh::{Mesh, address, bank, json_file, rows},
    process::command,
};
use serde_json::Value;
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, Command},
};

/// Who it is; on every Linux system.
const NOBODY: &str = "65534";
/// Connections at most; what the limits of the machine allow of them is said.
const CONNECTIONS: usize = 20_000;
/// The supervisor would give up a silent process after 25 s.
const SIEGE: Duration = Duration::from_secs(32);

/// Opens connections to the addresses in turn and holds them; says something to some of them; opens new ones for those that are
/// ended. Then tries to drain every proxy, and to listen where the mesh does. Prints what it got.
const SCRIPT: &str = r#"
import json, resource, socket, sys, threading, time
addresses = [(h, int(p)) for h, p in (a.rsplit(":", 1) for a in sys.argv[2].split(","))]
most, seconds = int(sys.argv[1]), float(sys.argv[3])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
most = min(most, hard - 64)
words = [b"", b"GET /healthz HTTP/1.1\r\nhost", b"\x16\x03\x01", b"POST /v1/certificates HTTP/1.1\r\nhost: x\r\ncontent-length: 9000000\r\n\r\n{"]
held, heard, bound, opened, number = [], b"", [], 0, 0
def attack(address):
    global heard
    for line in (b"POST /drain", b"PUT /logging", b"GET /requests", b"GET /v1/mesh", b"DELETE /v1/placements/edge"):
        try:
            with socket.create_connection(address, 0.3) as s:
                s.settimeout(0.3)
                s.sendall(line + b" HTTP/1.1\r\nhost: %s:%d\r\nconnection: close\r\ncontent-length: 0\r\n\r\n" % (address[0].encode(), address[1]))
                while True:
                    got = s.recv(65536)
                    if not got: break
                    heard += got
        except OSError: pass
def squat(address):
    for option in (None, socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        s = socket.socket()
        try:
            if option: s.setsockopt(socket.SOL_SOCKET, option, 1)
            s.bind(address); s.listen()
            bound.append("%s:%d" % address)
        except OSError: s.close()
def again():
    while True:
        for address in addresses: attack(address); squat(address)
for address in addresses: attack(address); squat(address)
threading.Thread(target=again, daemon=True).start()
end = time.monotonic() + seconds
while time.monotonic() < end:
    while len(held) < most and time.monotonic() < end:
        address = addresses[number % len(addresses)]
        number += 1
        s = socket.socket(); s.setblocking(False)
        try:
            s.connect_ex(address)
            held.append((s, number))
            opened += 1
        except OSError: s.close(); break
        if number % 500 == 0: time.sleep(0.01)
    alive = []
    for s, n in held:
        try:
            if n >= 0:
                s.send(words[n % len(words)])
            if s.recv(65536) == b"": raise OSError
        except (BlockingIOError, InterruptedError): pass
        except OSError:
            s.close(); continue
        alive.append((s, -1))
    held = alive
print(json.dumps({"opened": opened, "held": len(held), "bound": bound, "heard": heard.decode("latin-1")}))
"#;

fn besiege(addresses: &[SocketAddr]) -> Option<Child> {
    let list = addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",");
    let mut attacker = Command::new("setpriv");
    attacker.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "/usr/bin/python3", "-c", SCRIPT]);
    attacker.args([&CONNECTIONS.to_string(), &list, &SIEGE.as_secs().to_string()]);
    attacker.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
    match attacker.spawn() {
        Ok(child) => Some(child),
        Err(error) => {
            eprintln!("skipped: setpriv and python3 are needed: {error}");
            None
        }
    }
}

/// Name, process id and number of restarts of everything that the supervisor looks after.
fn processes(report: &Value) -> Vec<(String, String, String)> {
    let gateways = rows(&report["gateways"]).map(|gateway| &gateway["proxy"]);
    let workloads = rows(&report["workloads"]).flat_map(|workload| [workload, &workload["proxy"]]);
    let all = std::iter::once(&report["controlProcess"]).chain(gateways).chain(workloads);
    all.map(|process| (process["name"].to_string(), process["pid"].to_string(), process["restarts"].to_string()))
        .collect()
}

/// Where anything of the mesh listens, workloads apart.
fn listeners(mesh: &Mesh) -> Vec<SocketAddr> {
    let door = json_file(&mesh.state().join("run/control.json"));
    let mut all = vec![address(&door["api"]), address(&door["ads"]), address(&door["bundle"])];
    all.push(address(&mesh.report()["supervisor"]));
    for gateway in rows(&mesh.report()["gateways"]) {
        all.push(address(&gateway["proxy"]["admin"]));
    }
    for workload in rows(&mesh.report()["workloads"]) {
        all.extend(["inbound", "outbound"].map(|name| address(&workload[name])));
        all.push(address(&workload["proxy"]["admin"]));
    }
    all
}

/// What a short command of the operator prints, and how long it took.
async fn asked(mesh: &Mesh, what: &str) -> (Value, Duration) {
    let began = Instant::now();
    let state = mesh.state();
    let mut get = command(&["get", what, "--state", state.to_str().expect("UTF-8"), "--format", "json"]);
    let output = tokio::time::timeout(Duration::from_secs(30), get.output()).await.expect("ends").expect("runs");
    assert!(output.status.success(), "get {what}: {}", String::from_utf8_lossy(&output.stderr));
    (serde_json::from_slice(&output.stdout).expect("JSON"), began.elapsed())
}

#[tokio::test]
async fn another_user_ends_nothing_and_learns_nothing() {
    let gateway: SocketAddr = ([127, 231, 7, 1], 8080).into();
    let folder = bank(gateway, |text| text);
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can act as another user");
        return;
    }
    let mesh = Mesh::up(folder, &[]).await;
    let before = processes(&mesh.now().await);
    let Some(mut attacker) = besiege(&listeners(&mesh)) else { return mesh.down().await };
    let (mut slowest, mut asked_times) = (Duration::ZERO, 0);
    let mut output = String::new();
    let mut stdout = attacker.stdout.take().expect("piped");
    let said = stdout.read_to_string(&mut output);
    tokio::pin!(said);
    loop {
        tokio::select! {
            done = &mut said => {
                done.expect("read");
                break;
            }
            () = tokio::time::sleep(Duration::from_secs(2)) => {}
        }
        let (_, took) = asked(&mesh, "proxies").await;
        (slowest, asked_times) = (slowest.max(took), asked_times + 1);
    }
    let result: Value = serde_json::from_str(&output).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    eprintln!(
        "{} connections were opened, {} were held at the end; `get proxies` was asked {asked_times} times, at most {slowest:?}",
        result["opened"], result["held"]
    );
    assert_eq!(processes(&mesh.now().await), before, "no process has died: {}", mesh.said());
    assert_eq!(rows(&result["bound"]).count(), 0, "it listens at an address of the mesh: {}", result["bound"]);
    let heard = result["heard"].as_str().expect("text");
    for door in ["control", "supervisor"] {
        let token =
            json_file(&mesh.state().join(format!("run/{door}.json")))["token"].as_str().expect("a token").to_owned();
        assert!(!heard.contains(&token), "it has heard the token of the {door}");
    }
    assert!(!heard.contains("202 Accepted"), "it has drained or changed a proxy");
    let refused = heard.matches("403 Forbidden").count();
    assert!(refused > 20, "each admin address refused it: {refused}");
    let (plans, _) = asked(&mesh, "recovery").await;
    assert!(rows(&plans).all(|plan| plan["state"] == "normal"), "{plans}");
    mesh.down().await;
}
