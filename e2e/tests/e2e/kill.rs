//! SIGKILL at seeded random moments of a drill: of its engine, of the control plane, of both, of a sidecar; on our proxies and
//! on stock Envoys. Afterwards every proxy is as before, traffic flows, and the record has no hole.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use e2e::{
    mesh::{Mesh, Proxy, bank, rows, until},
    plane::DataPlane,
    process::{Finished, finish, naming, run, signal, wait_until},
    web::{get, request},
};
use hyper::Method;
use rustix::process::Signal;
use serde_json::Value;
use tokio::{io::AsyncReadExt, process::Child};

/// Longest lease, and what the issue grants on top.
const BOUND: Duration = Duration::from_secs(4);
/// From its registration to its end a drill takes longer than this, so that every strike hits it.
const DRILL: Duration = Duration::from_secs(9);
/// An engine without a control plane: it gives its lease up, sees it lapse, and waits for the lost region.
const GIVE_UP: Duration = Duration::from_secs(12);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Engine,
    Control,
    Both,
    Sidecar,
}

type Digests = BTreeMap<String, String>;

/// A drill short enough to be killed many times. What it judges has tests of its own: here a busy machine must not
/// have it refused or aborted before it is struck.
fn short(text: String) -> String {
    text.replace("baseline: 8s", "baseline: 1s")
        .replace("hold: 15s", "hold: 4s")
        .replace("recoveryTime: 5s", "recoveryTime: 2s")
        .replace("successRate: 99.9%, latencyP99: 250ms, sustain: 4s", "successRate: 60%, sustain: 1s")
        .replace("    - {probe: balance, successRate: \"< 50%\", over: 5s}\n", "")
        .replace("rate: 50/s", "rate: 20/s")
        .replace("rate: 200/s", "rate: 50/s")
        .replace("dwell: 3s", "dwell: 500ms")
}

async fn short_bank(plane: DataPlane, gateway: &str) -> Option<Mesh> {
    let mesh = Mesh::on(plane, bank(gateway.parse().unwrap(), short)).await?;
    flows(&mesh).await;
    Some(mesh)
}

/// How long a killed proxy may take until it serves: an Envoy starts with its agent, and learns of its endpoints anew.
fn start(plane: DataPlane) -> Duration {
    if plane == DataPlane::Firedrill { BOUND } else { Duration::from_secs(30) }
}

/// Proxies that are not as before, with the reason; only those that serve, if told so.
async fn differing(mesh: &Mesh, before: &Digests, serving: bool) -> Vec<String> {
    let mut found = Vec::new();
    for proxy in mesh.proxies().await {
        let status = mesh.web.send(get(proxy.admin, "/status"), Duration::from_millis(500)).await.map(|a| a.json());
        let same = status.as_ref().is_ok_and(|s| s["digest"].as_str() == before.get(&proxy.name).map(String::as_str));
        let serves = status.as_ref().is_ok_and(|status| status["ready"] == true);
        if !same && (serves || !serving) {
            found.push(format!("{}: {:?}", proxy.name, status.map(|status| status["digest"].to_string())));
        }
    }
    found
}

async fn digests(mesh: &Mesh) -> Result<Digests, String> {
    mesh.digests()
        .await
        .into_iter()
        .map(|(name, digest)| digest.map(|d| (name.clone(), d)).map_err(|e| format!("{name}: {e}")))
        .collect()
}

/// Time until every proxy is as before. One that serves and is not, after the bound, is a failure, and so is one that takes
/// longer than it may to start.
async fn restored(mesh: &Mesh, before: &Digests, since: Instant, plane: DataPlane) -> Duration {
    loop {
        let late = since.elapsed() >= BOUND;
        let others = differing(mesh, before, false).await;
        if others.is_empty() {
            let took = since.elapsed();
            assert!(took <= start(plane), "as before only after {took:?}");
            return took;
        }
        let serving = if late { differing(mesh, before, true).await } else { Vec::new() };
        assert!(serving.is_empty(), "{:?} after the kill: {serving:?}\n{}", since.elapsed(), mesh.said());
        assert!(since.elapsed() < start(plane), "{:?} after the kill: {others:?}\n{}", since.elapsed(), mesh.said());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Reads and writes go through, within a bound for what is still starting.
async fn flows(mesh: &Mesh) {
    let gateway = mesh.gateway("edge");
    until(Duration::from_secs(10), async || {
        let read = mesh.web.get(gateway, "/accounts/42").await?;
        let body = r#"{"id":"e2e","sequence":0,"amount":1}"#;
        let write = request(Method::POST, gateway, "/payments", body.into());
        let written = mesh.web.send(write, Duration::from_secs(3)).await?;
        let good = read.status.is_success() && written.status.is_success();
        if good { Ok(()) } else { Err(format!("{read:?}\n{written:?}")) }
    })
    .await;
}

/// Verdicts of all attempts by number; `None` while one is open.
async fn attempts(mesh: &Mesh) -> Vec<(u64, Option<String>)> {
    let state = mesh.state();
    let show = ["drill", "show", "lose-east", "--state", state.to_str().expect("UTF-8"), "--format", "json"];
    let shown = run(&show, Duration::from_secs(10)).await;
    // A usage error: there is none yet.
    if shown.code == Some(2) {
        return Vec::new();
    }
    let shown: Value = serde_json::from_str(&shown.out).unwrap_or_else(|e| panic!("{e}: {shown:?}"));
    rows(&shown).map(|a| (a["attempt"].as_u64().expect("a number"), a["verdict"].as_str().map(str::to_owned))).collect()
}

/// Starts a drill and waits until its attempt, which is to have this number, is in the ledger.
async fn registered(mesh: &Mesh, number: usize) -> Child {
    let mut engine = mesh.drill("lose-east", &[]).spawn().expect("starts");
    let started = Instant::now();
    loop {
        let known = attempts(mesh).await;
        if known.len() == number {
            return engine;
        }
        if engine.try_wait().expect("a child").is_some() {
            panic!("attempt {number} was never registered: {:?}", finish(engine, BOUND).await);
        }
        assert!(started.elapsed() < Duration::from_secs(30), "attempt {number} is not registered: {known:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// One SIGKILL.
#[derive(Debug)]
struct Strike {
    at: Instant,
    /// The drill's lease was held.
    leased: bool,
    /// The killed sidecar or gateway.
    proxy: Option<Proxy>,
}

async fn strike(mesh: &Mesh, victim: Victim, engine: &Child, random: &mut fastrand::Rng) -> Strike {
    let engine = engine.id().expect("the drill was over before the strike");
    let control = u32::try_from(mesh.now().await["controlProcess"]["pid"].as_u64().expect("a pid")).expect("a pid");
    let proxies = mesh.proxies().await;
    let leases = mesh.control("/v1/leases").await;
    let leased = rows(&leases).any(|lease| lease["plan"].is_string());
    let proxy = (victim == Victim::Sidecar).then(|| proxies[random.usize(..proxies.len())].clone());
    let at = Instant::now();
    match victim {
        Victim::Engine => signal(engine, Signal::KILL),
        Victim::Control => signal(control, Signal::KILL),
        Victim::Both => {
            signal(control, Signal::KILL);
            signal(engine, Signal::KILL);
        }
        Victim::Sidecar => signal(proxy.as_ref().expect("chosen").pid, Signal::KILL),
    }
    Strike { at, leased, proxy }
}

/// Time until the killed proxy runs again with a configuration; its region may be held down by the drill meanwhile.
async fn back(mesh: &Mesh, killed: &Proxy, plane: DataPlane) -> Duration {
    let mut since = Instant::now();
    loop {
        let proxy = mesh.proxies().await.into_iter().find(|proxy| proxy.name == killed.name);
        match proxy {
            Some(proxy) if proxy.pid != killed.pid => {
                let status = mesh.web.send(get(proxy.admin, "/status"), Duration::from_millis(500)).await;
                if status.is_ok_and(|status| status.json()["ready"] == true) {
                    return since.elapsed();
                }
            }
            _ if held(mesh, &killed.name).await => since = Instant::now(),
            _ => {}
        }
        assert!(since.elapsed() < start(plane), "{} is not back after {:?}", killed.name, since.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn held(mesh: &Mesh, name: &str) -> bool {
    let now = mesh.now().await;
    rows(&now["workloads"]).any(|workload| workload["proxy"]["name"] == name && workload["proxy"]["state"] == "killed")
}

/// What an engine that was not killed says of its end, by the strike that it lived through.
fn judge(victim: Victim, strike: &Strike, ended: &Finished) {
    match victim {
        Victim::Engine | Victim::Both => assert_eq!(ended.code, None, "{ended:?}"),
        // Its lease went with the control plane's memory. Before it held one it may be refused, or not even notice.
        Victim::Control if strike.leased => assert_eq!(ended.code, Some(5), "{ended:?}"),
        Victim::Control => assert!(matches!(ended.code, Some(0 | 1 | 4 | 5 | 6)), "{ended:?}"),
        Victim::Sidecar => assert!(matches!(ended.code, Some(0 | 1 | 3 | 4 | 6)), "{ended:?}"),
    }
}

/// Strikes once in each equal part of a drill, in shuffled order, at a random moment of that part.
fn moments(count: usize, random: &mut fastrand::Rng) -> Vec<Duration> {
    let mut parts: Vec<usize> = (0..count).collect();
    random.shuffle(&mut parts);
    parts.into_iter().map(|part| DRILL.mul_f64((part as f64 + random.f64()) / count as f64)).collect()
}

async fn strikes(plane: DataPlane, gateway: &str, seed: u64, victims: &[Victim]) {
    let mut random = fastrand::Rng::with_seed(seed);
    let Some(mesh) = short_bank(plane, gateway).await else { return };
    let before = digests(&mesh).await.expect("every proxy answers");
    let moments = moments(victims.len(), &mut random);
    let mut times = Vec::new();
    for (n, (victim, moment)) in victims.iter().zip(moments).enumerate() {
        let engine = registered(&mesh, n + 1).await;
        tokio::time::sleep(moment).await;
        let strike = strike(&mesh, *victim, &engine, &mut random).await;
        let (took, ended) = match &strike.proxy {
            // The drill goes on, or gives up by itself; only after its end must nothing of it be left.
            Some(killed) => {
                let took = back(&mesh, killed, plane).await;
                let ended = finish(engine, Duration::from_secs(60)).await;
                restored(&mesh, &before, Instant::now(), plane).await;
                (took, ended)
            }
            None => {
                let ending = async {
                    let ended = finish(engine, Duration::from_secs(60)).await;
                    (ended, strike.at.elapsed())
                };
                let (took, (ended, lived)) = tokio::join!(restored(&mesh, &before, strike.at, plane), ending);
                assert!(
                    !strike.leased || lived < GIVE_UP + start(plane),
                    "the engine ended {lived:?} after the kill: {ended:?}"
                );
                (took, ended)
            }
        };
        let name = strike.proxy.as_ref().map(|proxy| proxy.name.as_str()).unwrap_or_default();
        println!(
            "{n}: {victim:?} {name} after {moment:?}, lease {}, back in {took:?}, engine {:?} after {:?}",
            strike.leased,
            ended.code,
            strike.at.elapsed()
        );
        judge(*victim, &strike, &ended);
        flows(&mesh).await;
        times.push(took);
    }
    times.sort();
    println!(
        "as before after {:?} / {:?} / {:?} (min/median/max)",
        times[0],
        times[times.len() / 2],
        times[times.len() - 1]
    );
    sealed(&mesh, victims).await;
    mesh.down().await;
}

/// The next start seals what was killed; it is a drill like any other; the ledger verifies; no number is missing.
async fn sealed(mesh: &Mesh, victims: &[Victim]) {
    let last = finish(registered(mesh, victims.len() + 1).await, Duration::from_secs(90)).await;
    assert!(matches!(last.code, Some(0 | 1)), "the drill after all strikes: {last:?}");
    let attempts = attempts(mesh).await;
    println!("{attempts:?}");
    let numbers: Vec<u64> = attempts.iter().map(|a| a.0).collect();
    assert_eq!(numbers, (1..=victims.len() as u64 + 1).collect::<Vec<_>>(), "gapless");
    for (victim, (number, verdict)) in victims.iter().zip(&attempts) {
        let verdict = verdict.as_deref();
        match victim {
            Victim::Engine | Victim::Both => assert_eq!(verdict, Some("crashed"), "attempt {number}, {victim:?}"),
            _ => assert!(verdict.is_some(), "attempt {number} is open"),
        }
        verifies(&mesh.path().join(format!("out/lose-east-{number}.drill")), &mesh.state()).await;
    }
    verifies(&mesh.state().join("ledger"), &mesh.state()).await;
}

async fn verifies(path: &Path, state: &Path) {
    let key = state.join("ledger/key.pub");
    let args = ["evidence", "verify", path.to_str().expect("UTF-8"), "--key", key.to_str().expect("UTF-8")];
    let verified = run(&args, Duration::from_secs(30)).await;
    assert_eq!(verified.code, Some(0), "{verified:?}");
}

#[tokio::test]
async fn nothing_is_left_when_the_engine_or_the_control_plane_is_killed() {
    use Victim::{Both, Control, Engine};
    let victims = [Engine, Control, Both, Engine, Control, Both, Engine, Control, Both, Engine];
    strikes(DataPlane::Firedrill, "127.203.1.1:8080", 1, &victims).await;
}

#[tokio::test]
async fn nothing_is_left_when_a_sidecar_is_killed_too() {
    use Victim::{Both, Control, Engine, Sidecar};
    let victims = [Sidecar, Engine, Sidecar, Both, Sidecar, Control, Sidecar, Engine, Control, Sidecar];
    strikes(DataPlane::Firedrill, "127.203.2.1:8080", 2, &victims).await;
}

#[tokio::test]
async fn nothing_is_left_on_stock_envoys_either() {
    use Victim::{Both, Control, Engine, Sidecar};
    strikes(DataPlane::Envoy, "127.203.5.1:8080", 5, &[Engine, Control, Sidecar, Both]).await;
}

/// A drill whose first step is a command of its own, before east is lost; `undo` and `command` are shell scripts.
fn with_command(text: String, command: &str, undo: &str) -> String {
    let lose = "- {at: 0s, lose: {region: east, how: kill}}";
    let argv = |script: &str| format!("[sh, -c, {}]", Value::from(script));
    let step = format!("- {{at: 0s, run: {{name: mark, command: {}, undo: {}}}}}", argv(command), argv(undo));
    // Whoever is to be struck must get as far as the step, however busy the machine is.
    let calm = short(text).replace("rate: 50/s", "rate: 10/s").replace("successRate: 60%", "successRate: 1%");
    calm.replace("timeout: 1s}", "timeout: 3s}")
        .replace("perTry: 500ms", "perTry: 2s")
        .replace(lose, &format!("{step}\n    {lose}"))
}

#[tokio::test]
async fn an_undo_that_a_killed_engine_owes_is_run_when_its_lease_lapses() {
    let command = "touch $FIREDRILL_STATE/mark";
    let change = |text: String| with_command(text, command, "rm $FIREDRILL_STATE/mark");
    let mesh = Mesh::up(bank("127.203.3.1:8080".parse().unwrap(), change), &[]).await;
    flows(&mesh).await;
    let before = digests(&mesh).await.expect("every proxy answers");
    let mark = mesh.state().join("mark");
    let mut random = fastrand::Rng::with_seed(3);
    let rounds = 3;
    for round in 1..=rounds {
        let mut engine = registered(&mesh, round).await;
        lost(&mesh, &mut engine).await;
        tokio::time::sleep(Duration::from_secs(3).mul_f64(random.f64())).await;
        let killed = Instant::now();
        signal(engine.id().expect("running"), Signal::KILL);
        assert!(mark.exists(), "the step has taken effect");
        wait_until(BOUND, || if mark.exists() { Err("nobody has run the undo".to_owned()) } else { Ok(()) }).await;
        println!("{round}: undone {:?} after the kill", killed.elapsed());
        restored(&mesh, &before, killed, DataPlane::Firedrill).await;
        flows(&mesh).await;
    }
    // Its own step comes seconds after the registration, behind preflight and baseline.
    let next = registered(&mesh, rounds + 1).await;
    assert!(!mark.exists(), "the undo was not run");
    signal(next.id().expect("running"), Signal::INT);
    let ended = finish(next, Duration::from_secs(30)).await;
    assert_eq!(ended.code, Some(3), "{ended:?}");
    let verdicts: Vec<_> = attempts(&mesh).await.into_iter().map(|(_, verdict)| verdict.unwrap_or_default()).collect();
    assert_eq!(verdicts, ["crashed", "crashed", "crashed", "aborted"]);
    let bundle = mesh.path().join("out/lose-east-1.drill");
    verifies(&bundle, &mesh.state()).await;
    let shown = run(&["evidence", "show", bundle.to_str().expect("UTF-8"), "--format", "json"], BOUND).await;
    let shown: Value = serde_json::from_str(&shown.out).unwrap_or_else(|e| panic!("{e}: {shown:?}"));
    assert!(rows(&shown["probes"]).count() > 0, "what clients saw until then is sealed: {shown}");
    assert!(!mesh.state().join("undo/lose-east-1-1.json").exists(), "what is done and sealed is not kept");
    mesh.down().await;
}

#[tokio::test]
async fn a_command_dies_with_its_engine_and_so_do_its_children() {
    let command = "sleep 600 & echo $! > $FIREDRILL_STATE/child; wait";
    let change = |text: String| with_command(text, command, "true");
    let mesh = Mesh::up(bank("127.203.7.1:8080".parse().unwrap(), change), &[]).await;
    flows(&mesh).await;
    let engine = registered(&mesh, 1).await;
    let file = mesh.state().join("child");
    let child = until(Duration::from_secs(30), async || {
        let text = std::fs::read_to_string(&file).map_err(|e| e.to_string())?;
        text.trim().parse::<u32>().map_err(|e| e.to_string())
    })
    .await;
    signal(engine.id().expect("running"), Signal::KILL);
    wait_until(Duration::from_secs(2), || {
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        let gone = stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with(['Z', 'X']));
        if gone { Ok(()) } else { Err(format!("it lives: {stat}")) }
    })
    .await;
    mesh.down().await;
}

#[tokio::test]
async fn an_undo_that_fails_is_kept_and_blocks_drills_until_somebody_confirms_it() {
    let undo = "echo again >> $FIREDRILL_STATE/tries; test -e $FIREDRILL_STATE/mended";
    let change = |text: String| with_command(text, "touch $FIREDRILL_STATE/mark", undo);
    let mesh = Mesh::up(bank("127.203.8.1:8080".parse().unwrap(), change), &[]).await;
    flows(&mesh).await;
    let path = mesh.state();
    let tries = || std::fs::read_to_string(path.join("tries")).unwrap_or_default().lines().count();
    let mut engine = registered(&mesh, 1).await;
    lost(&mesh, &mut engine).await;
    signal(engine.id().expect("running"), Signal::KILL);
    wait_until(BOUND, || if tries() > 0 { Ok(()) } else { Err("nobody has run the undo".to_owned()) }).await;
    flows(&mesh).await;

    let state = path.to_str().expect("UTF-8").to_owned();
    let status = async || {
        let shown = run(&["status", "--state", &state, "--format", "json"], Duration::from_secs(10)).await;
        serde_json::from_str::<Value>(&shown.out).unwrap_or_else(|e| panic!("{e}: {shown:?}"))
    };
    let shown = until(Duration::from_secs(5), async || {
        let shown = status().await;
        let failed = shown["outstandingUndos"][0]["tries"].as_u64() == Some(1);
        if failed { Ok(shown) } else { Err(shown.to_string()) }
    })
    .await;
    assert_eq!(shown["outstandingUndos"][0]["undo"], "lose-east-1-1");
    assert_eq!(shown["openAttempts"][0]["attempt"], 1);

    // The next engine tries once more, seals the crash with a finding, and is refused.
    let refused = finish(registered(&mesh, 2).await, Duration::from_secs(60)).await;
    assert_eq!(refused.code, Some(4), "{refused:?}");
    let results: Value = serde_json::from_str(&refused.out).unwrap_or_else(|e| panic!("{e}: {refused:?}"));
    assert!(results["reasons"].to_string().contains("the undo of mark (drill lose-east, attempt 1)"), "{results}");
    assert_eq!(tries(), 2);
    let crashed = mesh.path().join("out/lose-east-1.drill");
    verifies(&crashed, &path).await;
    let shown = run(&["evidence", "show", crashed.to_str().expect("UTF-8"), "--format", "json"], BOUND).await;
    assert!(shown.out.contains("the undo of mark is outstanding"), "{shown:?}");

    // So does `up`.
    let mesh = mesh.again().await;
    assert_eq!(tries(), 3);
    assert!(mesh.said().contains("the undo of mark (lose-east-1-1) failed"), "{}", mesh.said());
    flows(&mesh).await;
    let undo = async |words: &[&str]| {
        let words: Vec<&str> = ["undo"].iter().chain(words).chain(&["--state", &state]).copied().collect();
        run(&words, Duration::from_secs(20)).await
    };
    assert_eq!(undo(&["run", "lose-east-1-1"]).await.code, Some(1));
    assert_eq!(undo(&["confirm", "lose-east-1-9", "--by", "ann"]).await.code, Some(2));
    let confirmed = undo(&["confirm", "lose-east-1-1", "--by", "ann"]).await;
    assert_eq!(confirmed.code, Some(0), "{confirmed:?}");
    assert_eq!(status().await["outstandingUndos"], Value::Array(Vec::new()));
    let log = std::fs::read_to_string(path.join("ledger/entries.log")).expect("a ledger");
    assert!(log.contains("undoConfirmed") && log.contains(r#""by":"ann""#), "{log}");
    verifies(&path.join("ledger"), &path).await;

    let next = finish(registered(&mesh, 3).await, Duration::from_secs(90)).await;
    assert_eq!(next.code, Some(1), "its own undo fails, so it does: {next:?}");
    let results: Value = serde_json::from_str(&next.out).unwrap_or_else(|e| panic!("{e}: {next:?}"));
    assert!(results["findings"].to_string().contains("the undo of mark is outstanding"), "{results}");
    assert_eq!(status().await["outstandingUndos"][0]["undo"], "lose-east-3-1");
    std::fs::write(path.join("mended"), "").expect("written");
    assert_eq!(undo(&["run"]).await.code, Some(0));
    assert_eq!(status().await["outstandingUndos"], Value::Array(Vec::new()));
    mesh.down().await;
}

#[tokio::test]
async fn a_sidecar_killed_outside_the_lost_region_leaves_a_verdict_and_no_residue() {
    one_in_west_is_killed(DataPlane::Firedrill, "127.203.4.1:8080").await;
}

#[tokio::test]
async fn an_envoy_killed_outside_the_lost_region_leaves_a_verdict_and_no_residue() {
    one_in_west_is_killed(DataPlane::Mixed("accounts-west-0,ledger-east-0,fx-west-0"), "127.203.6.1:8080").await;
}

async fn one_in_west_is_killed(plane: DataPlane, gateway: &str) {
    let Some(mesh) = short_bank(plane, gateway).await else { return };
    let before = digests(&mesh).await.expect("every proxy answers");
    let mut engine = registered(&mesh, 1).await;
    lost(&mesh, &mut engine).await;
    let killed = mesh.proxies().await.into_iter().find(|proxy| proxy.name == "accounts-west-0").expect("runs");
    // Of an Envoy only the Envoy itself: its agent lives to see it.
    let envoy = naming(&mesh.state().join("proxies/accounts-west-0/envoy/envoy.json"));
    let pid = envoy.first().map_or(killed.pid, |(pid, _)| *pid);
    assert_eq!(pid == killed.pid, plane == DataPlane::Firedrill, "{envoy:?}");
    signal(pid, Signal::KILL);
    let took = back(&mesh, &killed, plane).await;
    let ended = finish(engine, Duration::from_secs(60)).await;
    println!("back in {took:?}, the drill ended with {:?}", ended.code);
    assert!(matches!(ended.code, Some(0 | 1 | 3 | 6)), "{ended:?}");
    let results: Value = serde_json::from_str(&ended.out).unwrap_or_else(|e| panic!("{e}: {ended:?}"));
    assert_eq!(results["residue"]["proxies"], before.len());
    assert_eq!(results["residue"]["unchanged"], before.len());
    restored(&mesh, &before, Instant::now(), plane).await;
    verifies(&mesh.path().join("out/lose-east-1.drill"), &mesh.state()).await;
    mesh.down().await;
}

/// Waits until a drill keeps east down.
async fn lost(mesh: &Mesh, engine: &mut Child) {
    let started = Instant::now();
    while !held(mesh, "ledger-east-0").await {
        if engine.try_wait().expect("a child").is_some() {
            let mut said = String::new();
            engine.stderr.take().expect("piped").read_to_string(&mut said).await.expect("read");
            panic!("the drill was over before east was lost:\n{said}");
        }
        assert!(started.elapsed() < Duration::from_secs(30), "east is not lost");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
