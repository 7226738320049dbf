//! Whole lives of attempts against a mesh of the test's own: what is sealed, and what is left behind.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::{path::Path, sync::Arc, time::Duration};

use common::{Fake, Handle, Knobs, config, drill_name};
use drill::{Options, Places, Progress, Sealed, progress::Progress as P};
use evidence::record::{Ending, Point, Severity, Verdict};
use model::config::{Config, LoseHow, ScenarioAction, ScenarioStep};
use tokio::sync::{mpsc, watch};

/// One way to misbehave.
type Knob = fn(&Knobs) -> &std::sync::atomic::AtomicBool;

struct Stage {
    fake: Arc<Fake>,
    config: Config,
    folder: tempfile::TempDir,
    abort: watch::Sender<Option<String>>,
    wait: Duration,
}

impl Stage {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (abort, wait) = (watch::channel(None).0, Duration::ZERO);
        Self { fake: Fake::start().await, config: config(), folder, abort, wait }
    }

    fn places(&self) -> Places {
        places(self.folder.path())
    }

    fn drill(&mut self) -> &mut model::config::Drill {
        self.config.drills.get_mut(&drill_name()).unwrap()
    }

    /// Runs the drill; `watch` sees every line of progress as it comes.
    async fn run(&self, mut watch: impl FnMut(&Progress, &Self)) -> (Sealed, Vec<Progress>) {
        let (sender, mut receiver) = mpsc::channel(4096);
        let target = Arc::new(Handle(self.fake.clone()));
        let (config, places, abort) = (self.config.clone(), self.places(), self.abort.subscribe());
        let options = Options { wait: self.wait, operator: "ann".into() };
        let running =
            tokio::spawn(
                async move { drill::run(target, &config, &drill_name(), &places, &options, sender, abort).await },
            );
        let mut lines = Vec::new();
        while let Some(line) = receiver.recv().await {
            watch(&line, self);
            if !matches!(line, P::Tick(_)) {
                lines.push(line);
            }
        }
        (running.await.unwrap().unwrap(), lines)
    }
}

fn places(folder: &Path) -> Places {
    Places { state: folder.join("state"), out: folder.join("out") }
}

fn verify(sealed: &Sealed) {
    let bytes = std::fs::read(&sealed.bundle).unwrap();
    let report = evidence::bundle::verify(&bytes, None);
    assert!(report.ok(), "{report:#?}");
    assert_eq!(report.verdict, Some(sealed.verdict));
}

fn position(lines: &[Progress], what: impl Fn(&Progress) -> bool) -> usize {
    lines.iter().position(what).unwrap_or_else(|| panic!("not shown: {lines:#?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes() {
    let mut stage = Stage::new().await;
    stage.drill().scenario[0].action =
        ScenarioAction::Lose { region: model::name::RegionName::new("east").unwrap(), how: LoseHow::Kill };
    stage.fake.set(|k: &Knobs| &k.hidden);
    stage.fake.drop_last(3);
    let (sealed, lines) = stage.run(|_, _| ()).await;
    assert_eq!(sealed.verdict, Verdict::Passed, "{:?} {lines:#?}", sealed.results.reasons);
    assert_eq!(sealed.attempt.ending, Ending::Completed);
    let points: Vec<Point> = sealed.results.timeline.iter().map(|p| p.point).collect();
    for point in [
        Point::T0c,
        Point::T0e,
        Point::T1,
        Point::T2,
        Point::T3,
        Point::T4,
        Point::T5,
        Point::T6,
        Point::T7,
        Point::T8,
        Point::T9,
        Point::T10,
    ] {
        assert!(points.contains(&point), "{point:?} is missing in {points:?}");
    }
    let loss = sealed.results.measured.loss.as_ref().unwrap();
    assert_eq!((loss.lost, loss.split_brain), (3, false));
    let titles: Vec<&str> = sealed.results.findings.iter().map(|f| f.title.as_str()).collect();
    assert!(titles.contains(&"app in west calls fx in east"), "{titles:?}");
    assert!(titles.contains(&"step promote of plan plan has no undo"), "{titles:?}");
    assert_eq!((sealed.results.residue.proxies, sealed.results.residue.unchanged), (3, 3));
    let tested = &sealed.attempt.tested;
    assert_eq!((tested.mesh.as_deref(), tested.operator.as_deref()), (Some("b5f1"), Some("ann")));
    assert_eq!((tested.configuration.as_ref().unwrap().revision, tested.endpoints.len()), (7, 1));
    assert_eq!(sealed.attempt.normal[0].shares, std::collections::BTreeMap::from([("east".to_owned(), 100.0)]));
    let served = &sealed.attempt.served;
    assert!(served.iter().all(|s| s.service == "app" && (s.region == "east") == (s.requests > 0)), "{served:?}");
    let commanded: Vec<f64> = sealed.attempt.ramp.iter().map(|step| step.commanded).collect();
    assert_eq!(commanded, [50.0, 100.0]);
    let kept = sealed.attempt.requests.as_ref().unwrap();
    assert_eq!((kept.entries.len(), kept.lost, kept.gaps), (4, 0, 0));
    assert!(
        kept.beyond > 2 && kept.entries[3].gateway == "edge" && kept.entries[3].request["bytes_sent"] == 3,
        "{kept:?}"
    );
    let counted = sealed.results.requests.as_ref().unwrap();
    assert_eq!((counted.entries, counted.beyond), (4, kept.beyond));
    let engine = sealed.attempt.engine.as_ref().unwrap();
    assert!(engine.main_loop.max > 0 && engine.main_loop.p99 <= engine.main_loop.max, "{engine:?}");
    assert_eq!(engine.sends.keys().collect::<Vec<_>>(), ["balance", "payments"]);
    assert_eq!(engine.descriptor_limit, None);
    let order = [
        position(&lines, |l| matches!(l, P::Registered { attempt: 1, .. })),
        position(&lines, |l| matches!(l, P::Preflight { endpoints: 2, proxies: 3, .. })),
        position(&lines, |l| matches!(l, P::Baseline { .. })),
        position(&lines, |l| matches!(l, P::Step { result: Ok(_), .. })),
        position(&lines, |l| matches!(l, P::Point { point: Point::T4, .. })),
        position(&lines, |l| matches!(l, P::Recovered { client_visible: true, .. })),
        position(&lines, |l| matches!(l, P::Undone { result: Ok(()), .. })),
        position(&lines, |l| matches!(l, P::Loss { phase: "recovered", lost: 3, .. })),
        position(&lines, |l| matches!(l, P::Ramp { percent: 50.0 })),
        position(&lines, |l| matches!(l, P::FailedBack { problem: None, .. })),
        position(&lines, |l| matches!(l, P::Residue { proxies: 3, unchanged: 3, .. })),
        position(&lines, |l| matches!(l, P::Sealed { verdict: Verdict::Passed, .. })),
    ];
    assert!(order.is_sorted(), "{order:?}");
    assert_eq!(stage.fake.leases(), 0);
    verify(&sealed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fails_when_it_does_not_recover() {
    let mut stage = Stage::new().await;
    stage.fake.set(|k| &k.no_recovery);
    stage.drill().guards.clear();
    // Undone after the loss, and for longer than a sustain window: what works then works without the fault.
    let mut slow = touch(&stage.folder.path().join("laid"), &stage.folder.path().join("undone"));
    let ScenarioAction::Run { undo, .. } = &mut slow.action else { panic!() };
    *undo = ["sleep".to_owned(), "2.5".to_owned()].to_vec();
    stage.drill().scenario.insert(0, slow);
    let (sealed, lines) = stage.run(|_, _| ()).await;
    assert_eq!(sealed.verdict, Verdict::Failed, "{:?}", sealed.results.reasons);
    let recovery = sealed.results.measured.recovery.as_ref().unwrap();
    assert!(recovery.censored && recovery.seconds > 2.0, "{recovery:?}");
    position(&lines, |l| matches!(l, P::NotRecovered { .. }));
    assert_eq!(stage.fake.leases(), 0);
    verify(&sealed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refuses_before_any_fault() {
    let cases: [(Knob, &str); 7] = [
        (|k| &k.misplaced, "app at edge: 0 % of the load goes to east"),
        (|k| &k.deceiving, "app was not served by east: in one slice 0 % of"),
        (|k| &k.standby_down, "standby app-west-0 in west: reachable failed"),
        (|k| &k.strangers_allowed, "an unknown identity got 200"),
        (|k| &k.flaky, "requests succeeded without a fault"),
        (|k| &k.stuck, "the lease did not lapse at"),
        (|k| &k.control_dead, "control plane does not answer"),
    ];
    let mut running = Vec::new();
    for (knob, part) in cases {
        running.push(tokio::spawn(async move {
            let stage = Stage::new().await;
            stage.fake.set(knob);
            let (sealed, lines) = stage.run(|_, stage| assert!(!stage.fake.is_lost())).await;
            assert_eq!(sealed.verdict, Verdict::Refused);
            let Ending::Refused { reasons } = &sealed.attempt.ending else { panic!("{:?}", sealed.attempt.ending) };
            assert!(reasons.iter().any(|reason| reason.contains(part)), "{part}: {reasons:?}");
            position(&lines, |l| matches!(l, P::Refused { .. }));
            assert!(sealed.attempt.timeline.iter().all(|p| p.point != Point::T0c));
            verify(&sealed);
        }));
    }
    for case in running {
        case.await.unwrap();
    }
}

/// The mesh comes to its normal state while it is waited for, and only then is anything broken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_normal_state_is_waited_for() {
    let knobs: [Knob; 2] = [|k| &k.misplaced, |k| &k.deceiving];
    for knob in knobs {
        let mut stage = Stage::new().await;
        stage.wait = Duration::from_secs(30);
        stage.fake.set(knob);
        let clear = |line: &Progress, stage: &Stage| {
            if let P::Waiting { reasons, left } = line {
                assert!(reasons[0].contains("east") && *left <= Duration::from_secs(30), "{line:?}");
                knob(&stage.fake.knobs).store(false, std::sync::atomic::Ordering::SeqCst);
            }
        };
        let (sealed, lines) = stage.run(clear).await;
        assert_eq!(sealed.verdict, Verdict::Passed, "{:?} {lines:#?}", sealed.results.reasons);
        let waited = position(&lines, |l| matches!(l, P::Waiting { .. }));
        assert!(waited < position(&lines, |l| matches!(l, P::Baseline { .. })));
        let baseline = sealed.attempt.phases.iter().rev().find(|phase| phase.name == "baseline").unwrap();
        let probe = &sealed.attempt.probes[0];
        let within = probe.samples.iter().filter(|s| s.due >= baseline.from && s.due < baseline.to.unwrap());
        let regions: Vec<&str> = within.filter_map(|s| Some(probe.regions[usize::from(s.region?)].as_str())).collect();
        let east = regions.iter().filter(|region| **region == "east").count();
        assert!(regions.len() > 50 && east * 100 >= regions.len() * 95, "{regions:?}");
        verify(&sealed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_in_the_wrong_role_is_refused() {
    let cases =
        [(["false"], ["false"], "check of failback step hand back does not pass"), (["true"], ["true"], "promote")];
    for (failback, failover, part) in cases {
        let mut stage = Stage::new().await;
        let plan = stage.config.plans.values_mut().next().unwrap();
        let argv = |words: [&str; 1]| Some(words.map(str::to_owned).to_vec());
        let model::config::Step::Run(promote) = &mut plan.failover.steps[1] else { panic!() };
        promote.check = argv(failover);
        let back = model::config::RunStep { name: "hand back".into(), check: argv(failback), ..promote.clone() };
        plan.failback.steps.push(back);
        let (sealed, _) = stage.run(|_, _| ()).await;
        let Ending::Refused { reasons } = &sealed.attempt.ending else { panic!("{:?}", sealed.attempt.ending) };
        assert!(reasons.len() == 1 && reasons[0].contains(part), "{reasons:?}");
        verify(&sealed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failback_that_stops_halfway_is_not_all_clear() {
    let stage = Stage::new().await;
    stage.fake.set(|k| &k.halfway);
    let (sealed, _) = stage.run(|_, _| ()).await;
    assert_ne!(sealed.verdict, Verdict::Passed, "{:?}", sealed.results.reasons);
    let has = |point| sealed.attempt.timeline.iter().any(|p| p.point == point);
    assert!(has(Point::T8) && !has(Point::T9) && !has(Point::T10), "{:?}", sealed.attempt.timeline);
    verify(&sealed);
}

/// One that comes during the baseline is refused; one during the fault is named, and is no residue. What else differs is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_configuration_is_named_and_is_no_residue() {
    let applied_at = async |stage: &Stage, when: fn(&Progress) -> bool| {
        stage
            .run(|line, stage| {
                if when(line) {
                    stage.fake.apply();
                }
            })
            .await
            .0
    };
    let sealed = applied_at(&Stage::new().await, |l| matches!(l, P::Preflight { .. })).await;
    let Ending::Refused { reasons } = &sealed.attempt.ending else { panic!("{:?}", sealed.attempt.ending) };
    assert!(reasons[0].contains("ann applied revision 8") && reasons[0].contains("revision 7"), "{reasons:?}");

    for residue in [false, true] {
        let stage = Stage::new().await;
        if residue {
            stage.fake.set(|k| &k.residue);
        }
        let sealed = applied_at(&stage, |l| matches!(l, P::Step { .. })).await;
        let found = sealed.results.findings.iter().map(|f| format!("{} {}", f.title, f.detail)).collect::<Vec<_>>();
        assert!(found.iter().any(|text| text.contains("ann applied revision 8")), "{found:?}");
        assert_eq!(sealed.results.residue.unchanged, if residue { 2 } else { 3 }, "{:?}", sealed.attempt.residue);
        let change = &sealed.attempt.changes[0];
        assert_eq!((change.from.revision, change.to.revision, change.operator.as_deref()), (7, 8, Some("ann")));
        verify(&sealed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_stops_it() {
    let stage = Stage::new().await;
    stage.fake.set(|k| &k.no_recovery);
    let (sealed, lines) = stage.run(|_, _| ()).await;
    assert_eq!(sealed.verdict, Verdict::Aborted);
    let guard = &sealed.attempt.guards[0];
    assert!(guard.tripped.is_some() && guard.cleared >= guard.tripped, "{guard:?}");
    let time_to_abort = sealed.results.measured.time_to_abort.unwrap();
    assert!(time_to_abort <= 1.0, "{time_to_abort}");
    position(&lines, |l| matches!(l, P::Cleared { .. }));
    assert!(sealed.attempt.probes[0].samples.len() > 100, "partial samples are kept");
    assert_eq!(stage.fake.leases(), 0);
    assert!(!stage.fake.is_lost());
    verify(&sealed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_stops_it_at_any_time() {
    let cases: [fn(&Progress) -> bool; 5] = [
        |l| matches!(l, P::Registered { .. }),
        |l| matches!(l, P::Preflight { .. }),
        |l| matches!(l, P::Step { .. }),
        |l| matches!(l, P::Ramp { .. }),
        |l| matches!(l, P::Phase { name: "failback", .. }),
    ];
    let mut running = Vec::new();
    for when in cases {
        running.push(tokio::spawn(async move {
            let mut stage = Stage::new().await;
            let marks = tempfile::tempdir().unwrap();
            let (laid, undone) = (marks.path().join("laid"), marks.path().join("undone"));
            stage.drill().scenario.insert(0, touch(&laid, &undone));
            let (sealed, _) = stage
                .run(|line, stage| {
                    if when(line) {
                        stage.abort.send_replace(Some("Ctrl-C".into()));
                    }
                })
                .await;
            assert_eq!(sealed.verdict, Verdict::Aborted);
            assert_eq!(sealed.attempt.ending, Ending::Aborted { reason: "Ctrl-C".into() });
            assert_eq!(laid.exists(), undone.exists(), "what a step has done is taken back");
            assert_eq!(stage.fake.leases(), 0);
            assert!(!stage.fake.is_lost());
            verify(&sealed);
        }));
    }
    for case in running {
        case.await.unwrap();
    }
}

fn touch(laid: &Path, undone: &Path) -> ScenarioStep {
    let argv = |path: &Path| vec!["touch".to_owned(), path.to_string_lossy().into_owned()];
    ScenarioStep {
        at: Duration::ZERO,
        lasts: None,
        action: ScenarioAction::Run {
            name: "touch".into(),
            command: argv(laid),
            undo: argv(undone),
            timeout: Duration::from_secs(10),
        },
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_control_plane_is_a_crash() {
    let cases: [Knob; 2] = [|k| &k.control_dead, |k| &k.lease_forgotten];
    let mut running = Vec::new();
    for knob in cases {
        running.push(tokio::spawn(async move {
            let mut stage = Stage::new().await;
            stage.drill().hold = Duration::from_secs(20);
            let (sealed, lines) = stage
                .run(|line, stage| {
                    if matches!(line, P::Step { .. }) {
                        stage.fake.set(knob);
                    }
                })
                .await;
            assert_eq!(sealed.verdict, Verdict::Crashed);
            position(&lines, |l| matches!(l, P::Crashed { .. }));
            verify(&sealed);
        }));
    }
    for case in running {
        case.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn residue_is_found() {
    let stage = Stage::new().await;
    stage.fake.set(|k| &k.residue);
    let (sealed, lines) = stage.run(|_, _| ()).await;
    assert_eq!(sealed.verdict, Verdict::Failed, "{:?}", sealed.results.reasons);
    assert_eq!((sealed.results.residue.proxies, sealed.results.residue.unchanged), (3, 2));
    position(&lines, |l| matches!(l, P::Residue { differing, .. } if differing == &["edge"]));
    assert!(sealed.attempt.timeline.iter().all(|p| p.point != Point::T10));
    verify(&sealed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_engine_is_found_and_its_undo_paid() {
    let mut stage = Stage::new().await;
    let marks = tempfile::tempdir().unwrap();
    let (laid, undone) = (marks.path().join("laid"), marks.path().join("undone"));
    stage.drill().scenario.insert(0, touch(&laid, &undone));
    let target = Arc::new(Handle(stage.fake.clone()));
    let (sender, mut receiver) = mpsc::channel(4096);
    let (config, places, abort) = (stage.config.clone(), stage.places(), stage.abort.subscribe());
    let engine = {
        let (target, places) = (target.clone(), places.clone());
        let options = Options { wait: Duration::ZERO, operator: "ann".into() };
        tokio::spawn(async move { drill::run(target, &config, &drill_name(), &places, &options, sender, abort).await })
    };
    while let Some(line) = receiver.recv().await {
        if matches!(&line, P::Step { title, .. } if title == "east is lost") {
            break;
        }
    }
    assert!(drill::recover_crashed(Some(target.clone()), &places).await.unwrap().is_empty(), "it is still alive");
    engine.abort();
    assert!(engine.await.unwrap_err().is_cancelled());
    assert!(laid.exists() && !undone.exists());

    let found = drill::recover_crashed(Some(target.clone()), &places).await.unwrap();
    assert_eq!(found.len(), 1);
    let sealed = &found[0];
    assert_eq!((sealed.verdict, sealed.attempt.number), (Verdict::Crashed, 1));
    assert!(undone.exists());
    let probes = &sealed.attempt.probes;
    assert!(probes.len() == 2 && probes.iter().all(|probe| probe.samples.len() > 30), "what clients saw is kept");
    assert!(probes[1].writes.as_ref().is_some_and(|writes| writes.writes.iter().any(|w| w.acknowledged.is_some())));
    assert!(!places.state.join("spool").exists(), "sealed, it is not needed any more");
    assert!(sealed.attempt.timeline.iter().any(|p| p.point == Point::T0c));
    assert_eq!((sealed.results.residue.proxies, sealed.results.residue.unchanged), (3, 3));
    assert_eq!(stage.fake.leases(), 0);
    verify(sealed);
    assert!(drill::recover_crashed(Some(target), &places).await.unwrap().is_empty());
    evidence::ledger::verify_ledger(&places.state.join("ledger"), None).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_that_fails_is_kept_and_blocks_the_next_drill() {
    let mut stage = Stage::new().await;
    let marks = tempfile::tempdir().unwrap();
    let (laid, mended) = (marks.path().join("laid"), marks.path().join("mended"));
    let mut step = touch(&laid, &mended);
    let ScenarioAction::Run { undo, .. } = &mut step.action else { panic!() };
    *undo = ["test".to_owned(), "-e".to_owned(), mended.to_string_lossy().into_owned()].to_vec();
    stage.drill().scenario.insert(0, step);
    stage.drill().hold = Duration::from_millis(1500);
    let (failed, _) = stage.run(|_, _| ()).await;
    assert_eq!(failed.verdict, Verdict::Failed, "{:?}", failed.results.reasons);
    let finding = &failed.results.findings[0];
    assert_eq!((finding.severity, finding.title.as_str()), (Severity::High, "the undo of touch is outstanding"));
    assert!(finding.fix.contains("firedrill undo confirm lose-east-1-1 --by"), "{}", finding.fix);
    verify(&failed);

    let (refused, _) = stage.run(|_, _| ()).await;
    let Ending::Refused { reasons } = &refused.attempt.ending else { panic!("{:?}", refused.attempt.ending) };
    assert!(
        reasons[0].contains("the undo of touch (drill lose-east, attempt 1) is outstanding: it failed"),
        "{reasons:?}"
    );
    verify(&refused);

    // Each start tries again, and once it is done drills may run.
    let (target, places) = (Arc::new(Handle(stage.fake.clone())), stage.places());
    let undos = drill::undo::Undos::of(&places.state);
    assert!(drill::recover_crashed(Some(target.clone()), &places).await.unwrap().is_empty());
    assert_eq!(undos.owed().unwrap()[0].failed.as_ref().unwrap().tries, 2);
    std::fs::write(&mended, "").unwrap();
    drill::recover_crashed(Some(target), &places).await.unwrap();
    assert_eq!(undos.all().unwrap(), []);
    let (next, _) = stage.run(|_, _| ()).await;
    assert!(!matches!(next.attempt.ending, Ending::Refused { .. }), "{:?}", next.attempt.ending);
    assert_eq!(undos.all().unwrap(), [], "its own undo was done and is not kept");
    evidence::ledger::verify_ledger(&places.state.join("ledger"), None).unwrap();
}
