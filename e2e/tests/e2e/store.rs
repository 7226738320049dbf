//! The control plane is killed at twenty moments of changes, on both stores: what is there after that is one of the two
//! revisions, whole, and what was answered.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use e2e::{
    mesh::{address, json_file, rows, until},
    postgres::Postgres,
    process::command,
    web::{Answer, Web, get, request},
};
use hyper::{Method, header::AUTHORIZATION};
use serde_json::{Value, json};
use tokio::process::Child;

/// Bound on what takes milliseconds.
const BOUND: Duration = Duration::from_secs(20);
/// Moments of each run.
const MOMENTS: u64 = 20;

/// Large enough that storing it takes a while.
fn manifests(number: u64) -> Value {
    let padding = format!("# {}\n", "x".repeat(200)).repeat(500);
    let mesh = format!(
        "apiVersion: firedrill.dev/v1\nkind: Mesh\nmetadata: {{name: shop}}\nspec:\n  trustDomain: shop{number}.example\n  regions: [east, west]\n"
    );
    let file = |name: &str| json!({"path": format!("{name}.yaml"), "text": padding});
    json!([{"path": "mesh.yaml", "text": mesh}, file("one"), file("two"), file("three")])
}

fn apply(number: u64) -> Value {
    json!({"files": manifests(number), "author": "e2e", "message": format!("{number}")})
}

/// A control plane, killed when it is dropped.
struct Control {
    child: Child,
    state: PathBuf,
    web: Web,
}

impl Control {
    async fn start(state: &Path, store: Option<&str>) -> Self {
        let _ = std::fs::remove_file(state.join("run/control.json"));
        let folder = state.to_str().expect("UTF-8");
        let mut command = command(&["control", "--api", "127.0.0.1:0", "--ads", "127.0.0.1:0", "--state", folder]);
        if let Some(store) = store {
            command.env("FIREDRILL_STORE", store);
        }
        std::fs::create_dir_all(state).expect("created");
        let log = std::fs::File::options().create(true).append(true).open(state.join("log")).expect("opened");
        let child = command.stderr(log).spawn().expect("starts");
        let control = Self { child, state: state.to_owned(), web: Web::default() };
        until(BOUND, async || {
            if !state.join("run/control.json").is_file() {
                return Err(std::fs::read_to_string(state.join("log")).unwrap_or_default());
            }
            control.ask(Method::GET, "/readyz", &Value::Null).await.map(|_| ())
        })
        .await;
        control
    }

    async fn ask(&self, method: Method, path: &str, body: &Value) -> Result<Answer, String> {
        ask(&self.web, &self.state, method, path, body).await
    }

    async fn tell(&self, method: Method, path: &str, body: &Value) -> Value {
        let answer = self.ask(method, path, body).await.unwrap_or_else(|e| panic!("{path}: {e}"));
        assert!(answer.status.is_success(), "{path}: {} {}", answer.status, String::from_utf8_lossy(&answer.body));
        answer.json()
    }

    /// Kills it `after` a request was sent. Answers whether the request was answered with a success before.
    async fn killed_during(mut self, method: Method, path: &str, body: &Value, after: Duration) -> bool {
        let asked = ask(&self.web, &self.state, method, path, body);
        tokio::pin!(asked);
        let done = tokio::time::timeout(after, &mut asked).await;
        self.child.kill().await.expect("killed");
        let answer = match done {
            Ok(answer) => answer,
            Err(_) => asked.await,
        };
        answer.is_ok_and(|answer| answer.status.is_success())
    }
}

async fn ask(web: &Web, state: &Path, method: Method, path: &str, body: &Value) -> Result<Answer, String> {
    let door = json_file(&state.join("run/control.json"));
    let api = address(&door["api"]);
    let mut asked = match method {
        Method::GET => get(api, path),
        method => request(method, api, path, body.to_string().into()),
    };
    let token = format!("Bearer {}", door["token"].as_str().expect("a token"));
    asked.headers_mut().insert(AUTHORIZATION, token.parse().expect("a header value"));
    web.send(asked, BOUND).await
}

/// What is stored must be whole: every revision without gaps, each with its digest. Answers the one in force.
async fn whole(control: &Control) -> Value {
    let list = control.tell(Method::GET, "/v1/revisions", &Value::Null).await;
    let numbers: Vec<u64> = rows(&list).map(|revision| revision["number"].as_u64().expect("a number")).collect();
    let last = numbers.len() as u64;
    assert_eq!(numbers, (1..=last).rev().collect::<Vec<_>>());
    for number in last.saturating_sub(2).max(1)..=last {
        // It checks the digest over all files as it reads.
        control.tell(Method::GET, &format!("/v1/revisions/{number}"), &Value::Null).await;
    }
    control.tell(Method::GET, "/v1/config", &Value::Null).await
}

async fn survives_kills(store: Option<&str>, seed: u64) {
    let folder = tempfile::Builder::new().prefix("firedrill-e2e-").tempdir().expect("a temporary folder");
    let state = folder.path().join("state");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut control = Control::start(&state, store).await;
    let mut long = Duration::ZERO;
    for number in 1..=3 {
        let began = Instant::now();
        control.tell(Method::PUT, "/v1/config", &apply(number)).await;
        long = long.max(began.elapsed());
    }
    let (mut old, mut new) = (0, 0);
    for moment in 0..MOMENTS {
        let before = whole(&control).await;
        let number = before["number"].as_u64().expect("a number");
        let after = Duration::from_nanos(random.u64(0..u64::try_from(long.as_nanos()).expect("short") * 3 / 2));
        let (answered, wanted) = match moment % 4 {
            // A change of what is under a lease changes no revision.
            3 => {
                let lease = json!({"ttlMs": 500, "reason": "e2e", "holder": "e2e"});
                control.tell(Method::PUT, "/v1/leases/e2e", &lease).await;
                let overlay = json!({"effect": {"harmless": {}}});
                control.killed_during(Method::PUT, "/v1/leases/e2e/overlays/one", &overlay, after).await;
                (false, before["files"].clone())
            }
            2 => {
                let to = random.u64(1..number);
                let files =
                    control.tell(Method::GET, &format!("/v1/revisions/{to}"), &Value::Null).await["files"].clone();
                let request = json!({"author": "e2e", "message": "back"});
                let path = format!("/v1/revisions/{to}/rollback");
                (control.killed_during(Method::POST, &path, &request, after).await, files)
            }
            _ => {
                let request = apply(100 + moment);
                let files = request["files"].clone();
                (control.killed_during(Method::PUT, "/v1/config", &request, after).await, files)
            }
        };
        control = Control::start(&state, store).await;
        let now = whole(&control).await;
        if now["number"] == before["number"] {
            old += 1;
            assert_eq!(now, before, "moment {moment}: the same number is the same revision");
            assert!(!answered || wanted == before["files"], "moment {moment}: what was answered is lost");
        } else {
            new += 1;
            assert_eq!(now["number"], number + 1, "moment {moment}");
            assert_eq!(now["files"], wanted, "moment {moment}: the new revision is what was asked for");
        }
        until(BOUND, async || {
            let leases = control.tell(Method::GET, "/v1/leases", &Value::Null).await;
            if rows(&leases).next().is_none() { Ok(()) } else { Err(leases.to_string()) }
        })
        .await;
    }
    eprintln!("killed at {MOMENTS} moments of {long:?}: {old} times the old revision, {new} times the new one");
    assert_eq!(old + new, MOMENTS);
}

#[tokio::test]
async fn sqlite_holds_one_of_two_revisions_whenever_the_control_plane_is_killed() {
    survives_kills(None, 41).await;
}

#[tokio::test]
async fn postgresql_holds_one_of_two_revisions_whenever_the_control_plane_is_killed() {
    let Some(postgres) = Postgres::start() else { return };
    survives_kills(Some(&postgres.database("mesh")), 42).await;
}
