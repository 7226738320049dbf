//! The oracle: the same snapshots and the same traffic go to our proxy and to a stock Envoy, and what comes of it is
//! compared: distributions, outcomes, who was tried, response flags. Where we differ by intention, both sides of the
//! difference are asserted, and `docs/decisions/envoy-differences.md` says why.

mod ask;
mod bootstrap;
mod case;
mod cases;
mod origin;
mod place;
mod proxy;
mod run;
mod spread;
mod topology;
mod wire;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use e2e::process::workspace;
use tokio::{sync::Semaphore, task::JoinSet};
use xds::snapshot::Snapshot;

use self::{
    case::{Case, Step},
    place::{Place, Side},
    proxy::Proxy,
    run::Outcome,
};

/// Bound on whatever a case waits for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Cases at once: those that time out must not wait for a processor.
const AT_ONCE: usize = 4;

fn place(side: Side, case: usize) -> Place {
    Place { side, case: u8::try_from(case).expect("at most 254 cases") }
}

/// One snapshot for each side, since two processes carry all cases. Each case's own must be whole by itself.
fn snapshot(cases: &[Arc<Case>], side: Side) -> Snapshot {
    let mut all = Snapshot::default();
    for (number, case) in cases.iter().enumerate() {
        let own = case.snapshot(place(side, number));
        xds::codec::check(&own).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        all.listeners.extend(own.listeners);
        all.routes.extend(own.routes);
        all.clusters.extend(own.clusters);
        all.endpoints.extend(own.endpoints);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_proxy_does_what_envoy_does() {
    let Some(envoy) = e2e::plane::envoy() else {
        println!("skipped: no Envoy; make tools");
        return;
    };
    let wanted = std::env::var("ORACLE").unwrap_or_default();
    let cases: Vec<Arc<Case>> =
        cases::all().into_iter().filter(|case| case.name.contains(&wanted)).map(Arc::new).collect();
    let folder = tempfile::tempdir().unwrap();
    let mut origins = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let [envoys, ours] = Side::ALL.map(|side| run::origin(case, place(side, number)));
        origins.push([Arc::new(envoys.await), Arc::new(ours.await)]);
    }
    let [envoys, ours] = Side::ALL.map(|side| {
        let snapshot = snapshot(&cases, side);
        let (envoy, folder) = (envoy.clone(), folder.path().to_owned());
        async move { Arc::new(Proxy::start(side, &snapshot, &envoy, &folder).await) }
    });
    let proxies: [Arc<Proxy>; 2] = tokio::join!(envoys, ours).into();

    let (turns, mut running) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
    for (number, (case, origins)) in cases.iter().zip(origins).enumerate() {
        let (turns, proxies, case) = (Arc::clone(&turns), proxies.clone(), Arc::clone(case));
        running.spawn(async move {
            let _turn = turns.acquire().await.expect("never closed");
            let [envoys, ours] = Side::ALL.map(|side| {
                let index = usize::from(side == Side::Ours);
                run::run(
                    Arc::clone(&case),
                    place(side, number),
                    Arc::clone(&proxies[index]),
                    Arc::clone(&origins[index]),
                )
            });
            let (envoys, ours) = tokio::join!(envoys, ours);
            (case.name, judge(&case, &envoys, &ours))
        });
    }
    let mut failed: Vec<String> = Vec::new();
    for (name, wrong) in running.join_all().await {
        failed.extend(wrong.into_iter().map(|what| format!("{name}: {what}")));
    }
    let steps: usize = cases.iter().map(|case| case.steps.len()).sum();
    println!("oracle: {} snapshots, {steps} steps on each side, {} failed", cases.len(), failed.len());
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
}

/// What both sides did wrong, and where they differ without intention.
fn judge(case: &Case, envoys: &Outcome, ours: &Outcome) -> Vec<String> {
    let mut wrong: Vec<String> = envoys.wrong.iter().map(|what| format!("Envoy: {what}")).collect();
    wrong.extend(ours.wrong.iter().map(|what| format!("ours: {what}")));
    for (index, counts) in &envoys.counts {
        let Step::Spread(_, _, expect) = &case.steps[*index] else { continue };
        if let (None, Some(other)) = (expect.why, ours.counts.get(index))
            && let Err(what) = spread::alike(counts, other)
        {
            wrong.push(format!("step {index}: {what}"));
        }
    }
    wrong
}

#[test]
fn every_difference_is_explained_and_proven() {
    let path = workspace().join("docs/decisions/envoy-differences.md");
    let page = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let explained: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let cases = cases::all();
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), cases.len(), "two cases have one name");
    assert!(cases.len() >= 40, "{} cases", cases.len());
    let proven: BTreeSet<&str> = cases.iter().flat_map(|case| &case.steps).filter_map(Step::why).collect();
    assert_eq!(explained, proven, "sections of {} and differences that cases assert", path.display());
}
