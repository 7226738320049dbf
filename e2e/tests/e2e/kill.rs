//! SIGKILL at seeded random moments of a drill: of its engine, of the control plane, of both, of a sidecar. Afterwards
//! every proxy is as before, traffic flows, and the record has no hole.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use e2e::{
    mesh::{Mesh, bank, rows},
    process::{finish, run, signal},
    web::request,
};
use hyper::Method;
use rustix::process::Signal;
use serde_json::Value;

/// Longest lease, and what the issue grants on top.
const BOUND: Duration = Duration::from_secs(4);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Engine,
    Control,
    Both,
    Sidecar,
}

type Digests = BTreeMap<String, String>;

/// A drill short enough to be killed many times: all its phases fit into some ten seconds.
fn short(text: String) -> String {
    text.replace("baseline: 8s", "baseline: 1s")
        .replace("hold: 15s", "hold: 4s")
        .replace("sustain: 3s", "sustain: 1s")
        .replace("dwell: 3s", "dwell: 500ms")
}

async fn digests(mesh: &Mesh) -> Result<Digests, String> {
    mesh.digests()
        .await
        .into_iter()
        .map(|(name, digest)| digest.map(|d| (name.clone(), d)).map_err(|e| format!("{name}: {e}")))
        .collect()
}

/// Time until every proxy is as before.
async fn restored(mesh: &Mesh, before: &Digests, since: Instant) -> Duration {
    loop {
        let after = digests(mesh).await;
        if after.as_ref() == Ok(before) {
            return since.elapsed();
        }
        let differing = match &after {
            Ok(after) => {
                format!("{:?}", before.iter().filter(|(name, d)| after.get(*name) != Some(d)).collect::<Vec<_>>())
            }
            Err(reason) => reason.clone(),
        };
        assert!(since.elapsed() < BOUND, "{:?} after the kill: {differing}", since.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Reads and writes go through, within a bound for what is still starting.
async fn flows(mesh: &Mesh) {
    let gateway = mesh.gateway("edge");
    let started = Instant::now();
    loop {
        let read = mesh.web.get(gateway, "/accounts/42").await;
        let body = r#"{"id":"e2e","sequence":0,"amount":1}"#;
        let write = request(Method::POST, gateway, "/payments", body.into());
        let written = mesh.web.send(write, Duration::from_secs(3)).await;
        match (read, written) {
            (Ok(r), Ok(w)) if r.status.is_success() && w.status.is_success() => return,
            (read, written) => assert!(started.elapsed() < Duration::from_secs(10), "{read:?}\n{written:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn strike(mesh: &Mesh, victim: Victim, engine: u32, random: &mut fastrand::Rng) -> Instant {
    let control =
        async || u32::try_from(mesh.now().await["controlProcess"]["pid"].as_u64().expect("a pid")).expect("a pid");
    match victim {
        Victim::Engine => signal(engine, Signal::KILL),
        Victim::Control => signal(control().await, Signal::KILL),
        Victim::Both => {
            signal(control().await, Signal::KILL);
            signal(engine, Signal::KILL);
        }
        Victim::Sidecar => {
            let proxies = mesh.proxies().await;
            signal(proxies[random.usize(..proxies.len())].pid, Signal::KILL);
        }
    }
    Instant::now()
}

async fn strikes(gateway: &str, seed: u64, victims: &[Victim]) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mesh = Mesh::up(bank(gateway.parse().unwrap(), short), &[]).await;
    flows(&mesh).await;
    let before = digests(&mesh).await.expect("every proxy answers");
    for (n, victim) in victims.iter().enumerate() {
        let engine = mesh.drill("lose-east", &[]).spawn().expect("starts");
        let moment = Duration::from_millis(random.u64(300..9_000));
        tokio::time::sleep(moment).await;
        let struck = strike(&mesh, *victim, engine.id().unwrap_or(0), &mut random).await;
        if *victim == Victim::Sidecar {
            // The drill goes on (or gives up by itself); only then must nothing of it be left.
            let ended = finish(engine, Duration::from_secs(60)).await;
            println!("strike {n}: {victim:?} after {moment:?}, drill ended with {:?}", ended.code);
            restored(&mesh, &before, Instant::now()).await;
        } else {
            let took = restored(&mesh, &before, struck).await;
            let ended = finish(engine, Duration::from_secs(60)).await;
            println!("strike {n}: {victim:?} after {moment:?}, as before in {took:?}, engine {:?}", ended.code);
            if *victim == Victim::Control && ended.code.is_some() {
                // It may have been struck after the last effect; otherwise the engine says so itself.
                assert!(matches!(ended.code, Some(0 | 1 | 3 | 4 | 5)), "{ended:?}");
            }
        }
        flows(&mesh).await;
        restored(&mesh, &before, Instant::now()).await;
    }
    sealed(&mesh, victims).await;
    mesh.down().await;
}

/// The next start seals what was killed; the ledger verifies; no number is missing.
async fn sealed(mesh: &Mesh, victims: &[Victim]) {
    let last = finish(mesh.drill("lose-east", &[]).spawn().expect("starts"), Duration::from_secs(90)).await;
    assert!(matches!(last.code, Some(0 | 1)), "the drill after all strikes: {last:?}");
    let state = mesh.state();
    let state = state.to_str().expect("UTF-8");
    let list = run(&["drill", "list", "--state", state, "--format", "json"], Duration::from_secs(10)).await;
    let list: Value = serde_json::from_str(&list.out).unwrap_or_else(|e| panic!("{e}: {list:?}"));
    let attempts: Vec<(u64, String)> = rows(&list)
        .map(|a| (a["attempt"].as_u64().expect("a number"), a["verdict"].as_str().unwrap_or("open").to_owned()))
        .collect();
    println!("{attempts:?}");
    let numbers: Vec<u64> = attempts.iter().map(|a| a.0).collect();
    assert_eq!(numbers, (1..=victims.len() as u64 + 1).collect::<Vec<_>>(), "gapless");
    for (victim, (number, verdict)) in victims.iter().zip(&attempts) {
        match victim {
            // An engine that was killed before it had registered would leave a gap in this pairing, and fail above.
            Victim::Engine | Victim::Both => assert_eq!(verdict, "crashed", "attempt {number}, {victim:?}"),
            _ => assert_ne!(verdict, "open", "attempt {number}"),
        }
    }
    let ledger = format!("{state}/ledger");
    let verified = run(&["evidence", "verify", &ledger], Duration::from_secs(30)).await;
    assert_eq!(verified.code, Some(0), "{verified:?}");
}

#[tokio::test]
async fn nothing_is_left_when_the_engine_or_the_control_plane_is_killed() {
    use Victim::{Both, Control, Engine};
    let victims = [Engine, Control, Both, Engine, Control, Both, Engine, Control, Both, Engine];
    strikes("127.203.1.1:8080", 1, &victims).await;
}

#[tokio::test]
async fn nothing_is_left_when_a_sidecar_is_killed_too() {
    use Victim::{Both, Control, Engine, Sidecar};
    let victims = [Sidecar, Engine, Sidecar, Both, Sidecar, Control, Sidecar, Engine, Control, Sidecar];
    strikes("127.203.2.1:8080", 2, &victims).await;
}
