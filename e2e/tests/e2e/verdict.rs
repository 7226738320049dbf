//! Every way an attempt can end, with its exit code and its record; every step a scenario can take, seen from outside.

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use e2e::{
    mesh::{Mesh, bank, rows, until},
    plane::DataPlane,
    process::{Finished, finish, gone, run, signal},
};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Child,
};

/// Bound on a whole drill of this file.
const PATIENCE: Duration = Duration::from_secs(90);
const LOSE: &str = "- {at: 0s, lose: {region: east, how: kill}}";
/// Leaves `marked` in the state folder while it is in force, and a line for each time it was done and undone.
const RUN_STEP: &str = "- {at: 0s, run: {name: mark, \
     command: [sh, -c, 'touch $FIREDRILL_STATE/marked; echo done >> $FIREDRILL_STATE/run.log'], \
     undo: [sh, -c, 'rm $FIREDRILL_STATE/marked; echo undone >> $FIREDRILL_STATE/run.log']}}";

fn short(text: &str) -> String {
    text.replace("baseline: 8s", "baseline: 2s")
        .replace("hold: 15s", "hold: 7s")
        .replace("sustain: 4s", "sustain: 2s")
        .replace("dwell: 3s", "dwell: 500ms")
        // A busy machine is not what is tested here, and would refuse the drill.
        .replace("latencyP99: 250ms", "latencyP99: 1s")
}

fn shortened(gateway: &str, change: impl Fn(String) -> String) -> TempDir {
    bank(gateway.parse().unwrap(), |text| change(short(&text)))
}

/// The result object, which `drill run --format json` prints at its end.
fn results(finished: &Finished) -> Value {
    serde_json::from_str(&finished.out).unwrap_or_else(|e| panic!("{e}: {finished:?}"))
}

async fn attempt(mesh: &Mesh) -> Finished {
    finish(mesh.drill("lose-east", &[]).spawn().expect("starts"), PATIENCE).await
}

async fn drilled(gateway: &str, change: impl Fn(String) -> String) -> (Mesh, Finished) {
    let mesh = Mesh::up(shortened(gateway, change), &[]).await;
    let finished = attempt(&mesh).await;
    (mesh, finished)
}

async fn verifies(folder: &Path, attempt: u64) {
    verifies_of(folder, "lose-east", attempt).await;
}

async fn verifies_of(folder: &Path, drill: &str, attempt: u64) {
    let bundle = folder.join(format!("out/{drill}-{attempt}.drill"));
    let args = ["evidence", "verify", bundle.to_str().expect("UTF-8"), "--allow-unknown-key"];
    let verified = run(&args, Duration::from_secs(30)).await;
    assert_eq!(verified.code, Some(0), "{}{}", verified.out, verified.err);
}

fn no_residue(results: &Value) {
    let residue = &results["residue"];
    assert!(residue["proxies"].as_u64().expect("a number") > 0, "{residue}");
    assert_eq!(residue["proxies"], residue["unchanged"]);
}

/// Proxies' events of one type about an overlay whose id ends so: proxy and time in seconds.
fn overlay_events(log: &Value, kind: &str, suffix: &str) -> Vec<(String, f64)> {
    let of_proxies = rows(&log["events"]).filter(|e| e["what"]["proxy"]["event"]["kind"]["type"] == kind);
    of_proxies
        .filter(|e| e["what"]["proxy"]["event"]["kind"]["id"].as_str().is_some_and(|id| id.ends_with(suffix)))
        .map(|e| {
            let name = e["what"]["proxy"]["proxy"].as_str().expect("a name").to_owned();
            (name, e["time"].as_f64().expect("nanoseconds") / 1e9)
        })
        .collect()
}

/// No proxy carries anything that was laid over its configuration.
async fn nothing_laid(mesh: &Mesh) {
    for proxy in mesh.proxies().await {
        let status = mesh.web.get(proxy.admin, "/status").await.expect("answers").json();
        assert!(rows(&status["overlays"]).next().is_none(), "{}: {}", proxy.name, status["overlays"]);
    }
}

/// Payments need the promotion, which takes longer than this.
fn in_a_hurry(text: &str) -> String {
    text.replace("recoveryTime: 5s", "recoveryTime: 200ms")
}

fn too_late(finished: &Finished) {
    assert_eq!(finished.code, Some(1), "{finished:?}");
    let results = results(finished);
    assert_eq!(results["verdict"], "failed");
    let objective = rows(&results["objectives"]).find(|o| o["name"] == "recoveryTime").expect("judged");
    assert_eq!(objective["met"], false);
    let over = objective["measured"].as_f64().expect("measured") - 0.2;
    let over = format!("{over:.3}");
    let over = format!("{} s more than the objective of 0.2 s", over.trim_end_matches('0'));
    let reasons = results["reasons"].to_string();
    println!("{reasons}");
    assert!(reasons.contains("recovery took") && reasons.contains(&over), "{over}: {reasons}");
}

/// All requests fail, which the guard sees soon.
fn guarded(text: &str) -> String {
    text.replace(LOSE, "- {at: 0s, fault: {to: accounts, abort: 500}}")
        .replace("successRate: \"< 50%\", over: 5s", "successRate: \"< 50%\", over: 1s")
}

#[tokio::test]
async fn a_tripped_guard_takes_the_fault_away_within_a_second() {
    let mesh = Mesh::up(shortened("127.204.2.1:8080", |text| guarded(&text)), &[]).await;
    guard_trips(&mesh, "lose-east").await;
    mesh.down().await;
}

async fn guard_trips(mesh: &Mesh, drill_name: &str) {
    let mut drill = mesh.drill(drill_name, &[]).spawn().expect("starts");
    let mut lines = BufReader::new(drill.stderr.take().expect("piped")).lines();
    let trip = loop {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("in time").expect("text");
        if line.expect("not the end").contains("guard `balance") {
            break Instant::now();
        }
    };
    let gateway = mesh.gateway("edge");
    until(Duration::from_secs(1), async || match mesh.web.get(gateway, "/accounts/42").await {
        Ok(answer) if answer.status.is_success() => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    println!("a client was served again {:?} after the trip was told", trip.elapsed());
    let rest = tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    let finished = finish(drill, PATIENCE).await;
    rest.await.expect("read");

    assert_eq!(finished.code, Some(3), "{finished:?}");
    let results = results(&finished);
    assert_eq!(results["verdict"], "aborted");
    let abort = results["measured"]["timeToAbort"].as_f64().expect("measured");
    println!("time to abort {abort} s");
    // The bar of the issue.
    assert!(abort > 0.0 && abort <= 1.0, "{abort}");
    no_residue(&results);
    nothing_laid(mesh).await;
    let log = mesh.control("/v1/events?after=0&wait_ms=0").await;
    let names = |kind| overlay_events(&log, kind, "/step-1").into_iter().map(|(name, _)| name).collect::<BTreeSet<_>>();
    assert!(names("overlayApplied").contains("edge"), "{log}");
    assert_eq!(names("overlayApplied"), names("overlayEnded"));
    verifies_of(mesh.path(), drill_name, 1).await;
}

#[tokio::test]
async fn an_unreachable_standby_is_refused_before_any_fault_and_the_next_attempt_is_the_second() {
    let mesh = Mesh::up(shortened("127.204.3.1:8080", |text| text.replace(LOSE, RUN_STEP)), &[]).await;
    // The standby hangs: its process is there, and answers nobody.
    let standby = u32::try_from(mesh.workload("ledger-west-0")["pid"].as_u64().expect("a pid")).expect("a pid");
    signal(standby, Signal::STOP);
    let impatient = mesh.drill("lose-east", &["--wait", "1s"]).spawn().expect("starts");
    let finished = finish(impatient, PATIENCE).await;
    assert_eq!(finished.code, Some(4), "{finished:?}");
    let refused = results(&finished);
    assert_eq!((&refused["verdict"], &refused["attempt"]), (&"refused".into(), &1.into()));
    println!("{}", refused["reasons"]);
    assert!(refused["reasons"].to_string().contains("standby ledger-west-0"), "{}", refused["reasons"]);
    assert!(rows(&refused["timeline"]).next().is_none(), "{}", refused["timeline"]);
    let log = mesh.control("/v1/events?after=0&wait_ms=0").await;
    assert!(overlay_events(&log, "overlayApplied", "").is_empty(), "{log}");
    assert!(!mesh.state().join("run.log").exists());
    verifies(mesh.path(), 1).await;

    signal(standby, Signal::CONT);
    let state = mesh.state();
    let state = state.to_str().expect("UTF-8");
    let drill = mesh.drill("lose-east", &[]).spawn().expect("starts");
    until(Duration::from_secs(40), async || {
        mesh.state().join("marked").exists().then_some(()).ok_or("the step was not done".to_owned())
    })
    .await;
    let args = ["drill", "abort", "--state", state, "--reason", "customers complain"];
    let abort = run(&args, Duration::from_secs(10)).await;
    assert_eq!(abort.code, Some(0), "{abort:?}");
    assert!(abort.out.contains("drill lose-east"), "{abort:?}");
    let finished = finish(drill, PATIENCE).await;
    assert_eq!(finished.code, Some(3), "{finished:?}");
    let aborted = results(&finished);
    assert_eq!((&aborted["verdict"], &aborted["attempt"]), (&"aborted".into(), &2.into()));
    assert!(aborted["reasons"].to_string().contains("customers complain"), "{}", aborted["reasons"]);
    // What the step had done is taken back, once.
    assert_eq!(std::fs::read_to_string(mesh.state().join("run.log")).expect("written"), "done\nundone\n");
    assert!(!mesh.state().join("marked").exists());
    no_residue(&aborted);
    verifies(mesh.path(), 2).await;
    let again = run(&args, Duration::from_secs(10)).await;
    assert_eq!(again.code, Some(2), "nothing runs any more: {again:?}");
    mesh.down().await;
}

/// A missed objective fails, and says by how much; and what an attempt before it left behind is no part of it: each begins
/// with the primary serving, whatever became of the one before.
#[tokio::test]
async fn attempts_after_an_abort_and_a_crash_begin_and_end_with_the_primary_serving() {
    let mesh = Mesh::up(shortened("127.204.4.1:8080", |text| in_a_hurry(&text)), &[]).await;
    interrupted(&mesh, 1).await;
    crashed(&mesh).await;
    let late = attempt(&mesh).await;
    too_late(&late);
    served_by_the_primary(&mesh, &late).await;
    // The second was sealed as crashed by the third.
    verifies(mesh.path(), 2).await;
    verifies(mesh.path(), 3).await;
    mesh.down().await;
}

/// In the baseline as clients saw it, and at the end at every proxy.
async fn served_by_the_primary(mesh: &Mesh, finished: &Finished) {
    let results = results(finished);
    for probe in rows(&results["probes"]) {
        assert_eq!(probe["baseline"]["regions"], serde_json::json!({"east": 100.0}), "{}", finished.err);
    }
    for proxy in rows(&mesh.control("/v1/proxies").await) {
        for cluster in rows(&proxy["status"]["clusters"]) {
            let planned = ["accounts", "ledger"].map(Value::from).contains(&cluster["name"]);
            assert!(!planned || cluster["tierLoad"][0] == 100, "{}: {cluster}", proxy["name"]);
        }
    }
}

/// A drill that has failed over.
async fn failed_over(mesh: &Mesh) -> Child {
    let mut drill = mesh.drill("lose-east", &[]).spawn().expect("starts");
    let started = Instant::now();
    while rows(&mesh.control("/v1/recovery").await).all(|plan| plan["state"] != "failedOver") {
        if drill.try_wait().expect("is waited for").is_some() || started.elapsed() > PATIENCE {
            signal(drill.id().expect("running"), Signal::INT);
            panic!("no failover: {:?}", finish(drill, Duration::from_secs(60)).await);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drill
}

/// The engine is killed in the middle of the fault.
async fn crashed(mesh: &Mesh) {
    let drill = failed_over(mesh).await;
    signal(drill.id().expect("running"), Signal::KILL);
    assert_eq!(finish(drill, Duration::from_secs(30)).await.code, None);
}

async fn interrupted(mesh: &Mesh, number: u64) {
    let drill = failed_over(mesh).await;
    signal(drill.id().expect("running"), Signal::INT);
    let finished = finish(drill, Duration::from_secs(60)).await;
    assert_eq!(finished.code, Some(3), "{finished:?}");
    let results = results(&finished);
    assert_eq!(results["verdict"], "aborted");
    no_residue(&results);
    verifies(mesh.path(), number).await;
}

/// East is lost in this way: reads do not fail, and nothing is left.
async fn reads_survive(how: &str, gateway: &str) {
    let lost = LOSE.replace("kill", how);
    let (mesh, finished) = drilled(gateway, |text| text.replace(LOSE, &lost)).await;
    println!("{how}:\n{}", finished.err);
    let results = results(&finished);
    assert!(matches!(finished.code, Some(0 | 1)), "{finished:?}");
    let points: Vec<_> = rows(&results["timeline"]).map(|p| p["point"].as_str().expect("a name")).collect();
    for point in ["t0c", "t0e", "t1", "t2", "t3", "t4", "t5", "t6", "t7", "t8", "t9", "t10"] {
        assert!(points.contains(&point), "{how}: {point} is missing in {points:?}");
    }
    let balance = rows(&results["probes"]).find(|p| p["name"] == "balance").expect("the probe");
    assert!(balance["fault"]["regions"]["west"].as_f64().is_some_and(|share| share > 50.0), "{how}: {balance}");
    assert_eq!(balance["failed"], 0, "{how}: {balance}");
    no_residue(&results);
    nothing_laid(&mesh).await;
    verifies(mesh.path(), 1).await;
    mesh.down().await;
}

#[tokio::test]
async fn a_region_that_hangs_costs_no_read() {
    reads_survive("pause", "127.204.5.1:8080").await;
}

#[tokio::test]
async fn a_region_that_is_cut_off_costs_no_read() {
    reads_survive("partition", "127.204.6.1:8080").await;
}

#[tokio::test]
async fn a_plan_with_a_manual_trigger_is_commanded_by_the_engine() {
    let (mesh, finished) = drilled("127.204.7.1:8080", |text| {
        text.replacen("trigger: {automatic: {unhealthyFor: 1s}}", "trigger: manual", 1)
    })
    .await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let results = results(&finished);
    let offset = |point: &str| {
        let found = rows(&results["timeline"]).find(|p| p["point"] == point);
        found.and_then(|p| p["offset"].as_f64()).unwrap_or_else(|| panic!("{point}: {}", results["timeline"]))
    };
    println!("manual: detected +{} s, shift +{} s, again +{} s", offset("t2"), offset("t4"), offset("t7"));
    // Whether clients are served again before the shift or after it is a race: reads cross over by themselves.
    assert!(offset("t2") <= offset("t4"));
    verifies(mesh.path(), 1).await;
    mesh.down().await;
}

/// Each on paths of its own, so that the probes do not feel them.
const FAULTS: &str = "\
    - {at: 0s, for: 2s, fault: {to: accounts, path: /accounts/delay, delay: 700ms}}\n    \
    - {at: 0s, fault: {to: accounts, path: /accounts/abort, abort: 418, percent: 50%}}\n    \
    - {at: 0s, fault: {to: accounts, path: /accounts/refuse, refuse: true}}\n    \
    - {at: 0s, fault: {to: accounts, path: /accounts/reset, reset: true}}\n    \
    - {at: 0s, fault: {to: accounts, path: /accounts/hole, method: GET, blackhole: true}}\n    ";

/// What a client sees of one path: status (0 without an answer) and how long it took.
async fn seen(mesh: &Mesh, path: &str) -> (u16, Duration) {
    let started = Instant::now();
    let answer = mesh.web.get(mesh.gateway("edge"), path).await;
    (answer.map_or(0, |a| a.status.as_u16()), started.elapsed())
}

async fn becomes(mesh: &Mesh, path: &str, what: impl Fn(u16, Duration) -> bool) {
    until(Duration::from_secs(30), async || {
        let (status, took) = seen(mesh, path).await;
        what(status, took).then_some(()).ok_or_else(|| format!("{path}: {status} after {took:?}"))
    })
    .await;
}

/// A drill that asks for the requests at its gateway.
fn kept(text: &str) -> String {
    text.replace("  hold: 7s", "  evidence: {accessLog: {}}\n  hold: 7s")
}

/// They are in the bundle and in the report, and say what hurt them, in the same words whichever program the gateway is.
async fn requests_are_kept(mesh: &Mesh, drill: &str, results: &Value) {
    let counts = &results["requests"];
    println!("{counts}");
    let offered: u64 = rows(&results["probes"]).filter_map(|probe| probe["sent"].as_u64()).sum();
    assert!(counts["entries"].as_u64().expect("a number") > offered * 9 / 10, "{offered} sent, {counts}");
    assert_eq!((&counts["beyond"], &counts["lost"], &counts["gaps"]), (&0.into(), &0.into(), &0.into()));
    let bundle = mesh.path().join(format!("out/{drill}-1.drill"));
    let names: Vec<_> = parts(&std::fs::read(&bundle).expect("written")).into_iter().map(|(name, ..)| name).collect();
    assert!(names.iter().any(|name| name == "requests.json.gz"), "{names:?}");
    let report = std::fs::read_to_string(bundle.with_extension("html")).expect("the report");
    for expected in ["Requests at gateways", "<td>418</td>", "<td>FI</td>", "GET /accounts/"] {
        assert!(report.contains(expected), "{expected}");
    }
}

#[tokio::test]
async fn faults_and_commands_take_effect_and_go() {
    let scenario = format!("{FAULTS}{RUN_STEP}");
    let mesh = Mesh::up(shortened("127.204.8.1:8080", |text| kept(&text.replace(LOSE, &scenario))), &[]).await;
    let drill = mesh.drill("lose-east", &[]).spawn().expect("starts");
    tokio::join!(
        becomes(&mesh, "/accounts/delay", |status, took| status == 200 && took >= Duration::from_millis(700)),
        becomes(&mesh, "/accounts/abort", |status, _| status == 418),
        becomes(&mesh, "/accounts/refuse", |status, _| status == 503),
        becomes(&mesh, "/accounts/reset", |status, _| matches!(status, 502 | 503)),
        becomes(&mesh, "/accounts/hole", |status, took| status == 504 && took >= Duration::from_millis(450)),
    );
    // Half of them, and no other path.
    let mut aborted = 0;
    for _ in 0..100 {
        aborted += u32::from(seen(&mesh, "/accounts/abort").await.0 == 418);
        assert_eq!(seen(&mesh, "/accounts/42").await.0, 200);
    }
    println!("{aborted} of 100 aborted");
    assert!((25..=75).contains(&aborted), "{aborted}");
    assert!(mesh.state().join("marked").exists());
    let finished = finish(drill, PATIENCE).await;
    println!("{}", finished.err);
    assert_eq!(finished.code, Some(0), "{finished:?}");

    // Taken back at the normal end, once.
    assert_eq!(std::fs::read_to_string(mesh.state().join("run.log")).expect("written"), "done\nundone\n");
    assert!(!mesh.state().join("marked").exists());
    let log = mesh.control("/v1/events?after=0&wait_ms=0").await;
    for step in 1..=5 {
        let suffix = format!("/step-{step}");
        let of_edge = |kind| overlay_events(&log, kind, &suffix).into_iter().find(|(name, _)| name == "edge");
        let (applied, ended) = (of_edge("overlayApplied"), of_edge("overlayEnded"));
        let lasted = ended.expect("ended").1 - applied.expect("applied").1;
        println!("step {step} was in force at edge for {lasted:.3} s");
        let expected = if step == 1 { 1.9..3.0 } else { 6.5..9.0 };
        assert!(expected.contains(&lasted), "step {step}: {lasted} s");
    }
    for path in ["/accounts/delay", "/accounts/abort", "/accounts/refuse", "/accounts/reset", "/accounts/hole"] {
        let (status, took) = seen(&mesh, path).await;
        assert!(status == 200 && took < Duration::from_millis(500), "{path}: {status} after {took:?}");
    }
    no_residue(&results(&finished));
    nothing_laid(&mesh).await;
    verifies(mesh.path(), 1).await;
    requests_are_kept(&mesh, "lose-east", &results(&finished)).await;
    mesh.down().await;
}

/// What Envoy's filter has, on the routes to a whole service.
const FAULTS_OF_ENVOY: &str = "\
    - {at: 0s, for: 2s, fault: {to: accounts, delay: 700ms, percent: 30%}}\n    \
    - {at: 0s, fault: {to: accounts, abort: 418, percent: 30%}}\n    ";

/// The drill with others beside it, that differ in what they do. Their probes are slow enough for many programs on a machine.
fn with_others(text: &str) -> String {
    let text = in_a_hurry(text).replace("rate: 50/s", "rate: 20/s").replace("rate: 200/s", "rate: 50/s");
    let Some((others, drill)) = text.rsplit_once("---\n").filter(|(_, last)| last.contains("kind: Drill")) else {
        return text;
    };
    let named = |name: &str, text: &str| text.replace("lose-east", name);
    let faults = kept(&drill.replace(LOSE, &format!("{FAULTS_OF_ENVOY}{RUN_STEP}")));
    [others, drill, &named("guarded", &guarded(drill)), &named("faults", &faults)].join("---\n")
}

#[tokio::test]
async fn a_mesh_with_envoys_is_judged_as_one_without() {
    let folder = shortened("127.204.10.1:8080", |text| with_others(&text));
    let plane = DataPlane::Mixed("edge,accounts-east-0,ledger-east-0,ledger-west-0,fx-west-0");
    let Some(mesh) = Mesh::on(plane, folder).await else { return };
    guard_trips(&mesh, "guarded").await;

    let drill = mesh.drill("faults", &[]).spawn().expect("starts");
    tokio::join!(
        becomes(&mesh, "/accounts/1", |status, took| status == 200 && took >= Duration::from_millis(700)),
        becomes(&mesh, "/accounts/2", |status, _| status == 418),
    );
    let mut aborted = 0;
    for _ in 0..200 {
        aborted += u32::from(seen(&mesh, "/accounts/3").await.0 == 418);
    }
    println!("{aborted} of 200 aborted");
    assert!((25..=95).contains(&aborted), "{aborted}");
    assert!(mesh.state().join("marked").exists());
    let finished = finish(drill, PATIENCE).await;
    // A third of all that is asked fails for as long as the drill goes.
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(!mesh.state().join("marked").exists());
    no_residue(&results(&finished));
    nothing_laid(&mesh).await;
    verifies_of(mesh.path(), "faults", 1).await;

    requests_are_kept(&mesh, "faults", &results(&finished)).await;

    interrupted(&mesh, 1).await;
    crashed(&mesh).await;
    let late = attempt(&mesh).await;
    println!("{}", results(&late)["probes"]);
    too_late(&late);
    served_by_the_primary(&mesh, &late).await;
    verifies(mesh.path(), 3).await;
    mesh.down().await;
}

/// Name, begin and size of every part: a bundle is a tar archive.
fn parts(bundle: &[u8]) -> Vec<(String, usize, usize)> {
    let mut parts = Vec::new();
    let mut at = 0;
    while bundle.get(at).is_some_and(|first| *first != 0) {
        let text = |from: usize, to: usize| {
            String::from_utf8_lossy(&bundle[at + from..at + to]).trim_matches(['\0', ' ']).to_owned()
        };
        let size = usize::from_str_radix(&text(124, 136), 8).expect("an octal size");
        parts.push((text(0, 100), at + 512, size));
        at += 512 + size.div_ceil(512) * 512;
    }
    parts
}

/// One flipped bit in each part in turn: found, and the part is named.
async fn flips_are_found(bundle: &Path) {
    let bytes = std::fs::read(bundle).expect("written");
    let parts = parts(&bytes);
    assert!(parts.len() > 10, "{parts:?}");
    let broken = bundle.with_extension("broken");
    for (name, begin, size) in parts.iter().filter(|(_, _, size)| *size > 0) {
        let mut bytes = bytes.clone();
        bytes[begin + size / 2] ^= 1;
        std::fs::write(&broken, bytes).expect("written");
        let verified = run(&["evidence", "verify", broken.to_str().expect("UTF-8")], Duration::from_secs(30)).await;
        assert_eq!(verified.code, Some(1), "{name}: {}{}", verified.out, verified.err);
        let wrong: Vec<_> = verified.out.lines().filter(|line| line.contains('✗')).collect();
        assert!(wrong.iter().any(|line| line.contains(name.as_str())), "{name} is not named: {wrong:#?}");
        assert!(verified.out.contains("NOT TO BE TRUSTED") && !verified.err.contains("panicked"), "{verified:?}");
    }
    println!("a flipped bit was found and named in each of {} parts", parts.len());
}

#[tokio::test]
async fn a_drill_without_a_mesh_starts_one_and_leaves_only_evidence() {
    let folder =
        shortened("127.204.9.1:8080", |text| text.replace(LOSE, "- {at: 0s, lose: {region: east, how: partition}}"));
    let path = folder.path().to_str().expect("UTF-8");
    let (state, out) = (format!("{path}/state"), format!("{path}/out"));
    let drill = async |name: &str, from: &str| {
        run(&["drill", "run", name, "-f", from, "--state", &state, "--out", &out], PATIENCE).await
    };
    let unknown = drill("lose-north", path).await;
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
    for expected in ["there is no drill `lose-north`", "help: the manifests hold: lose-east"] {
        assert!(unknown.err.contains(expected), "{}", unknown.err);
    }
    let broken = folder.path().join("broken");
    std::fs::create_dir(&broken).expect("made");
    let text = std::fs::read_to_string(folder.path().join("mesh.yaml")).expect("text").replace("regions:", "region:");
    std::fs::write(broken.join("mesh.yaml"), text).expect("written");
    let invalid = drill("lose-east", broken.to_str().expect("UTF-8")).await;
    assert_eq!(invalid.code, Some(2), "{invalid:?}");
    assert!(invalid.err.contains("broken/mesh.yaml:") && invalid.err.contains("help:"), "{}", invalid.err);
    // Neither was an attempt.
    assert!(!folder.path().join("state/ledger").exists());
    std::fs::remove_dir_all(&broken).expect("removed");

    let finished = drill("lose-east", path).await;
    println!("{}", finished.out);
    gone(folder.path(), Duration::from_secs(5)).await;
    assert!(matches!(finished.code, Some(0 | 1)), "{finished:?}");
    verifies(folder.path(), 1).await;

    let bundle = folder.path().join("out/lose-east-1.drill");
    let show = async |format: &str| {
        let shown =
            run(&["evidence", "show", bundle.to_str().expect("UTF-8"), "--format", format], Duration::from_secs(30))
                .await;
        assert_eq!(shown.code, Some(0), "{shown:?}");
        shown.out
    };
    let json: Value = serde_json::from_str(&show("json").await).expect("JSON");
    assert_eq!((&json["drill"], &json["attempt"]), (&"lose-east".into(), &1.into()));
    let verdict = json["verdict"].as_str().expect("a verdict").to_uppercase();
    let text = show("text").await;
    println!("{text}");
    for expected in ["Drill lose-east, attempt 1", "recoveryTime", "t0c", "balance", &verdict] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let html = show("html").await;
    assert!(html.starts_with("<!DOCTYPE html>") || html.starts_with("<!doctype html>"));
    assert_eq!(html, std::fs::read_to_string(bundle.with_extension("html")).expect("the report"));
    flips_are_found(&bundle).await;
}
