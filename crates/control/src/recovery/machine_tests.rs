use model::name::{PlanName, ServiceName};

use super::*;
use crate::health::Loss;

fn plan(manifest: &str) -> RecoveryPlan {
    let mut files = crate::testing::bank_files();
    files[1].text = format!(
        "apiVersion: firedrill.dev/v1\nkind: RecoveryPlan\nmetadata: {{name: p}}\nspec:\n  services: [accounts, ledger]\n  activePassive: {{primary: east, standby: [west], tier: hot}}\n{manifest}"
    );
    crate::testing::config(&files).plans.remove(&PlanName::new("p").unwrap()).unwrap()
}

fn automatic() -> RecoveryPlan {
    plan(
        "  failover:
    trigger: {automatic: {unhealthyFor: 1s}}
    steps:
      - shift: {to: west}
      - run: {name: promote, in: west, command: [promote], undo: [demote]}
  failback: {trigger: manual, ramp: [10%, 50%, 100%], dwell: 3s}
",
    )
}

fn lost() -> Health {
    Health::Lost(Loss { service: "ledger".to_owned(), observers: vec!["edge".to_owned()], cause: "refused".to_owned() })
}

/// A machine, its clock, and what it did in words.
struct Rig {
    machine: Machine,
    start: Instant,
    now: Instant,
    told: Vec<String>,
    /// Routing controls as the actions left them.
    switches: PlanSwitches,
}

impl Rig {
    fn new(plan: RecoveryPlan) -> Self {
        let start = Instant::now();
        Self { machine: Machine::new(plan, start), start, now: start, told: Vec::new(), switches: Vec::new() }
    }

    /// Settled and seen healthy.
    fn armed(plan: RecoveryPlan) -> Self {
        let mut rig = Self::new(plan);
        rig.see(Health::Healthy);
        rig.pass(SETTLE);
        rig.told.clear();
        rig.start = rig.now;
        rig
    }

    fn tell(&mut self, actions: Vec<Action>) {
        let at = (self.now - self.start).as_millis();
        for action in actions {
            let text = match action {
                Action::Run(run, command) => format!("run {run} {}", command.argv.join(" ")),
                Action::Shift(to, switches) => {
                    self.switches = switches;
                    format!("shift to {to}")
                }
                Action::Share(share, switches) => {
                    self.switches = switches;
                    format!("share {share}")
                }
                Action::Commit(step, switches) => {
                    self.switches = switches;
                    format!("commit {step}")
                }
                Action::Clear => {
                    self.switches.clear();
                    "clear".to_owned()
                }
                other => format!("{other:?}"),
            };
            self.told.push(format!("{at} {text}"));
        }
    }

    fn see(&mut self, health: Health) {
        let actions = self.machine.observe(health, self.now);
        self.tell(actions);
    }

    fn lease(&mut self, lease: Option<&str>) {
        let actions = self.machine.lease(lease, self.now);
        self.tell(actions);
    }

    /// Lets time pass, from deadline to deadline as the controller does.
    fn pass(&mut self, by: Duration) {
        let end = self.now + by;
        while let Some(deadline) = self.machine.deadline(self.now).filter(|deadline| *deadline <= end) {
            self.now = self.now.max(deadline);
            let actions = self.machine.tick(self.now);
            let idle = actions.is_empty();
            self.tell(actions);
            if idle {
                break;
            }
        }
        self.now = end;
        let actions = self.machine.tick(self.now);
        self.tell(actions);
    }

    fn end(&mut self, run: u64, result: Result<(), &str>) {
        let actions = self.machine.ended(run, result.map_err(str::to_owned), self.now);
        self.tell(actions);
    }

    fn failback(&mut self) {
        let actions = self.machine.failback("operator", self.now).unwrap();
        self.tell(actions);
    }

    #[track_caller]
    fn check(&mut self, state: RecoveryState, told: &[&str]) {
        assert_eq!(self.told, told);
        assert_eq!(self.machine.state(), state);
        // What is in force is always what the machine says it is.
        let mut own = self.machine.switches();
        own.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        let mut switches = self.switches.clone();
        switches.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        assert_eq!(own, switches);
        self.told.clear();
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

#[test]
fn a_lost_primary_is_failed_over_and_back() {
    let mut rig = Rig::armed(automatic());
    rig.see(lost());
    rig.pass(seconds(0.9));
    rig.check(RecoveryState::Normal, &["0 Detected"]);
    rig.pass(seconds(0.2));
    rig.check(RecoveryState::FailingOver, &["1000 Decided(\"automatic\")", "1000 shift to west", "1000 run 1 promote"]);
    let off = |service: &str| (ServiceName::new(service).unwrap(), RegionName::new("east").unwrap(), SwitchState::Off);
    assert_eq!(rig.machine.switches(), [off("accounts"), off("ledger")]);
    rig.end(1, Ok(()));
    rig.check(RecoveryState::FailedOver, &[]);
    rig.pass(seconds(60.0));
    rig.check(RecoveryState::FailedOver, &[]);
    // Failback waits for a primary that has been healthy for a second.
    rig.start = rig.now;
    rig.failback();
    rig.pass(seconds(2.0));
    rig.see(Health::Healthy);
    rig.pass(seconds(10.0));
    rig.check(
        RecoveryState::Normal,
        &[
            "0 FailbackCommanded(\"operator\")",
            "3000 share 10",
            "6000 share 50",
            "9000 share 100",
            "12000 clear",
            "12000 FailbackDone",
        ],
    );
    assert_eq!(rig.machine.saved(), None);
}

#[test]
fn a_short_loss_decides_nothing() {
    let mut rig = Rig::armed(automatic());
    for _ in 0..20 {
        rig.see(lost());
        rig.pass(seconds(0.9));
        rig.see(Health::Healthy);
        rig.pass(seconds(0.1));
    }
    assert!(rig.told.iter().all(|told| told.ends_with("Detected")), "{:?}", rig.told);
    assert_eq!(rig.machine.state(), RecoveryState::Normal);
}

#[test]
fn what_was_never_healthy_is_given_time() {
    let mut rig = Rig::new(automatic());
    rig.see(lost());
    rig.pass(GIVE_UP - seconds(0.1));
    rig.check(RecoveryState::Normal, &[]);
    rig.pass(seconds(0.2));
    assert_eq!(rig.machine.state(), RecoveryState::FailingOver);
    // Healthy at once, then lost: settled first.
    let mut rig = Rig::new(automatic());
    rig.see(Health::Healthy);
    rig.see(lost());
    rig.pass(SETTLE - seconds(0.1));
    rig.check(RecoveryState::Normal, &["0 Detected"]);
    rig.pass(seconds(0.2));
    assert_eq!(rig.machine.state(), RecoveryState::FailingOver);
    // A lease holder vouches for the mesh.
    let mut rig = Rig::new(automatic());
    rig.see(Health::Healthy);
    rig.lease(Some("d-1"));
    rig.see(lost());
    rig.pass(seconds(1.1));
    assert_eq!(rig.machine.state(), RecoveryState::FailingOver);
    assert_eq!(rig.machine.under(), Some("d-1"));
}

#[test]
fn the_end_of_a_lease_takes_everything_back() {
    for promoted in [false, true] {
        let mut rig = Rig::armed(automatic());
        rig.lease(Some("d-1"));
        rig.see(lost());
        rig.pass(seconds(1.1));
        rig.told.clear();
        if promoted {
            rig.end(1, Ok(()));
        }
        rig.start = rig.now;
        rig.lease(None);
        let reset = "0 Reset(\"lease d-1 ended\")";
        let killed: &[&str] = &["0 Kill", "0 clear", reset, "0 run 2 demote"];
        rig.check(RecoveryState::FailingBack, if promoted { &killed[1..] } else { killed });
        rig.end(2, Err("not there"));
        rig.check(RecoveryState::Normal, &["0 Failed(\"step promote is not undone: not there\")"]);
        // The primary is still away, as the drill left it: that is no disaster until the mesh has had time to settle.
        rig.pass(GIVE_UP - seconds(0.1));
        rig.check(RecoveryState::Normal, &[]);
    }
}

#[test]
fn a_lease_that_ends_before_anything_was_decided_leaves_nothing() {
    let mut rig = Rig::armed(automatic());
    rig.lease(Some("d-1"));
    rig.see(lost());
    rig.pass(seconds(0.5));
    rig.lease(None);
    rig.pass(seconds(5.0));
    rig.check(RecoveryState::Normal, &["0 Detected"]);
}

#[test]
fn losing_the_primary_again_fails_over_again_and_lengthens() {
    let mut rig = Rig::armed(automatic());
    rig.see(lost());
    rig.pass(seconds(1.1));
    rig.end(1, Ok(()));
    rig.see(Health::Healthy);
    rig.pass(seconds(2.0));
    rig.failback();
    rig.told.clear();
    rig.start = rig.now;
    rig.pass(seconds(4.0));
    rig.check(RecoveryState::FailingBack, &["3000 share 50"]);
    // Unhealthy for a moment: nothing. For longer: over again.
    rig.see(lost());
    rig.pass(seconds(0.5));
    rig.see(Health::Healthy);
    rig.pass(seconds(0.1));
    rig.see(lost());
    rig.pass(seconds(1.0));
    let again = "5600 Decided(\"the primary was lost again during failback\")";
    rig.check(RecoveryState::FailingOver, &["5600 Detected", again, "5600 shift to west", "5600 run 2 promote"]);
    rig.end(2, Ok(()));
    rig.see(Health::Healthy);
    rig.pass(seconds(5.0));
    rig.failback();
    rig.told.clear();
    rig.start = rig.now;
    rig.pass(seconds(20.0));
    // Twice the dwell.
    rig.check(RecoveryState::Normal, &["6000 share 50", "12000 share 100", "18000 clear", "18000 FailbackDone"]);
}

#[test]
fn a_failed_step_after_the_shift_leaves_traffic_where_it_is() {
    let mut rig = Rig::armed(automatic());
    rig.see(lost());
    rig.pass(seconds(1.1));
    rig.told.clear();
    rig.end(1, Err("step promote failed"));
    rig.check(RecoveryState::FailedOver, &["1100 Failed(\"step promote failed\")"]);
    assert_eq!(rig.machine.failure(), Some("step promote failed"));
}

#[test]
fn a_failed_step_before_the_shift_is_undone() {
    let mut rig = Rig::armed(plan(
        "  failover:
    trigger: manual
    steps:
      - run: {name: one, command: [one], undo: [un-one]}
      - run: {name: two, command: [two], undo: [un-two]}
      - shift: {to: west}
",
    ));
    assert!(rig.machine.failback("why", rig.now).is_err());
    let actions = rig.machine.failover("flood", rig.now).unwrap();
    rig.tell(actions);
    rig.end(1, Ok(()));
    rig.end(2, Err("no"));
    rig.end(3, Ok(()));
    rig.end(4, Ok(()));
    let told =
        ["0 Decided(\"flood\")", "0 run 1 one", "0 run 2 two", "0 Failed(\"no\")", "0 run 3 un-two", "0 run 4 un-one"];
    rig.check(RecoveryState::Normal, &told);
    // Ends of commands that nobody waits for change nothing.
    rig.end(2, Ok(()));
    rig.check(RecoveryState::Normal, &[]);
}

/// Any order of events, with a restart of the control plane at any point: the machine never gets stuck in a state that
/// the right events do not lead out of, and never leaves routing controls behind.
#[test]
fn it_always_comes_to_rest() {
    for seed in 0..2_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut rig = Rig::new(automatic());
        for _ in 0..60 {
            match random.u32(0..10) {
                0 | 1 => rig.see(lost()),
                2 | 3 => rig.see(Health::Healthy),
                4 => rig.see(Health::Unknown),
                5 => rig.lease(random.bool().then_some("d-1")),
                6 => drop(rig.machine.failover("seed", rig.now).map(|actions| rig.tell(actions))),
                7 => drop(rig.machine.failback("seed", rig.now).map(|actions| rig.tell(actions))),
                8 => {
                    let run = rig.machine.runs;
                    rig.end(run, if random.bool() { Ok(()) } else { Err("seed") });
                }
                _ => restart(&mut rig),
            }
            rig.pass(Duration::from_millis(random.u64(0..5_000)));
            let (state, told) = (rig.machine.state(), rig.told.clone());
            let told: Vec<&str> = told.iter().map(String::as_str).collect();
            rig.check(state, &told);
            // Nothing that was done under a lease stays without it.
            assert!(rig.machine.under().is_none() || rig.machine.lease.is_some(), "seed {seed}");
        }
        rig.lease(None);
        rig.see(Health::Healthy);
        for _ in 0..200 {
            if rig.machine.state() == RecoveryState::Normal {
                break;
            }
            let run = rig.machine.runs;
            rig.end(run, Ok(()));
            drop(rig.machine.failback("seed", rig.now).map(|actions| rig.tell(actions)));
            rig.pass(seconds(60.0));
        }
        assert_eq!(rig.machine.state(), RecoveryState::Normal, "seed {seed}: {:?}", rig.machine);
        assert!(rig.switches.is_empty() && rig.machine.switches().is_empty(), "seed {seed}");
    }
}

fn irreversible() -> RecoveryPlan {
    plan(
        "  failover:
    trigger: {automatic: {unhealthyFor: 1s}}
    steps:
      - shift: {to: west}
      - run: {name: prepare, command: [prepare], undo: [unprepare]}
      - run: {name: promote, in: west, command: [promote], irreversible: true}
  failback:
    steps:
      - run: {name: rejoin, in: east, command: [rejoin], undo: [unjoin]}
      - run: {name: hand back, in: east, command: [hand, back], irreversible: true}
    ramp: [50%, 100%]
    dwell: 3s
",
    )
}

#[test]
fn once_an_irreversible_step_began_the_end_of_the_lease_takes_nothing_back() {
    // Before it began, all is taken back.
    let mut rig = Rig::armed(irreversible());
    rig.lease(Some("d-1"));
    rig.see(lost());
    rig.pass(seconds(1.1));
    rig.told.clear();
    rig.start = rig.now;
    rig.lease(None);
    rig.check(RecoveryState::FailingBack, &["0 Kill", "0 clear", "0 Reset(\"lease d-1 ended\")", "0 run 2 unprepare"]);
    for promoted in [false, true] {
        let mut rig = Rig::armed(irreversible());
        rig.lease(Some("d-1"));
        rig.see(lost());
        rig.pass(seconds(1.1));
        assert_eq!(rig.machine.under(), Some("d-1"));
        rig.told.clear();
        rig.start = rig.now;
        rig.end(1, Ok(()));
        // It is the plan's own before the step begins.
        rig.check(RecoveryState::FailingOver, &["0 commit promote", "0 run 2 promote"]);
        assert_eq!(rig.machine.under(), None);
        if promoted {
            rig.end(2, Ok(()));
        }
        rig.see(Health::Healthy);
        rig.lease(None);
        rig.check(
            if promoted { RecoveryState::FailedOver } else { RecoveryState::FailingOver },
            &["0 Kept(\"lease d-1 ended\")"],
        );
        // The command goes on: nobody knows how far a killed one came.
        rig.end(2, Ok(()));
        rig.pass(seconds(120.0));
        rig.check(RecoveryState::FailedOver, &[]);
        assert!(!rig.switches.is_empty());
        assert_eq!(rig.machine.irreversible().collect::<Vec<_>>(), ["promote"]);
    }
}

#[test]
fn an_irreversible_step_outlives_a_killed_control_plane() {
    let mut rig = Rig::armed(irreversible());
    rig.lease(Some("d-1"));
    rig.see(lost());
    rig.pass(seconds(1.1));
    rig.end(1, Ok(()));
    rig.told.clear();
    rig.start = rig.now;
    restart(&mut rig);
    // The step that was running runs again, and the shift is in force from the beginning.
    rig.check(RecoveryState::FailingOver, &["0 run 1 promote"]);
    assert!(!rig.switches.is_empty());
    rig.end(1, Ok(()));
    restart(&mut rig);
    rig.check(RecoveryState::FailedOver, &[]);
}

#[test]
fn a_failback_that_a_drill_leaves_behind_is_called_off_before_the_point_of_no_return_and_finished_after_it() {
    let failed_over = || {
        let mut rig = Rig::armed(irreversible());
        rig.lease(Some("d-1"));
        rig.see(lost());
        rig.pass(seconds(1.1));
        rig.end(1, Ok(()));
        rig.end(2, Ok(()));
        rig.see(Health::Healthy);
        rig.pass(seconds(5.0));
        rig.failback();
        rig.told.clear();
        rig.start = rig.now;
        rig
    };
    let mut rig = failed_over();
    rig.lease(None);
    let kept = "0 Kept(\"lease d-1 ended\")";
    rig.check(RecoveryState::FailingBack, &["0 Kill", "0 run 4 unjoin", kept]);
    rig.end(4, Ok(()));
    rig.check(RecoveryState::FailedOver, &[]);
    let mut rig = failed_over();
    rig.end(3, Ok(()));
    rig.lease(None);
    rig.end(4, Ok(()));
    rig.pass(seconds(60.0));
    let told = ["0 run 4 hand back", kept, "1000 share 50", "4000 share 100", "7000 clear", "7000 FailbackDone"];
    rig.check(RecoveryState::Normal, &told);
}

#[test]
fn what_the_failback_does_to_the_primary_is_no_loss_of_it() {
    let mut rig = Rig::armed(irreversible());
    rig.see(lost());
    rig.pass(seconds(1.1));
    rig.end(1, Ok(()));
    rig.end(2, Ok(()));
    rig.see(Health::Healthy);
    rig.pass(seconds(5.0));
    rig.failback();
    rig.told.clear();
    rig.start = rig.now;
    // The command restarts the primary, and takes its time.
    rig.see(lost());
    rig.pass(seconds(30.0));
    rig.check(RecoveryState::FailingBack, &[]);
    rig.end(3, Ok(()));
    rig.end(4, Ok(()));
    rig.told.clear();
    rig.start = rig.now;
    // It takes no traffic before it is healthy again.
    rig.pass(seconds(30.0));
    rig.check(RecoveryState::FailingBack, &[]);
    rig.see(Health::Healthy);
    rig.pass(seconds(1.0));
    rig.check(RecoveryState::FailingBack, &["31000 share 50"]);
    // From then on a loss is one.
    rig.see(lost());
    rig.pass(seconds(1.0));
    rig.check(
        RecoveryState::FailingOver,
        &[
            "32000 Detected",
            "32000 Decided(\"the primary was lost again during failback\")",
            "32000 shift to west",
            "32000 run 5 prepare",
        ],
    );
}

#[test]
fn a_failed_step_of_the_failback_is_undone_and_the_standby_goes_on() {
    let mut rig = Rig::armed(irreversible());
    rig.see(lost());
    rig.pass(seconds(1.1));
    rig.end(1, Ok(()));
    rig.end(2, Ok(()));
    rig.see(Health::Healthy);
    rig.pass(seconds(5.0));
    rig.failback();
    rig.told.clear();
    rig.start = rig.now;
    rig.end(3, Err("no"));
    rig.check(RecoveryState::FailingBack, &["0 Failed(\"no\")", "0 run 4 unjoin"]);
    rig.end(4, Ok(()));
    rig.check(RecoveryState::FailedOver, &[]);
    assert_eq!(rig.machine.failure(), Some("no"));
}

fn three(steps: &str) -> RecoveryPlan {
    plan(&format!("  failover:\n    trigger: manual\n    steps:\n{steps}      - shift: {{to: west}}\n"))
}

#[test]
fn an_edited_plan_undoes_what_ran() {
    let one = "      - run: {name: one, command: [one], undo: [un-one]}\n";
    let two = "      - run: {name: two, command: [two], undo: [un-two]}\n";
    for restarted in [false, true] {
        let mut rig = Rig::armed(three(&format!("{one}{two}")));
        let actions = rig.machine.failover("flood", rig.now).unwrap();
        rig.tell(actions);
        rig.end(1, Ok(()));
        rig.told.clear();
        rig.start = rig.now;
        // Another step took the place of the first, and the second's undo is another one.
        let other = "      - run: {name: other, command: [other], undo: [wipe]}\n";
        let edited = three(&format!("{other}{}", two.replace("un-two", "wipe")));
        rig.machine.set_plan(edited.clone());
        if restarted {
            let saved = serde_json::to_string(&rig.machine.saved().unwrap()).unwrap();
            let (machine, actions) = Machine::restore(edited, serde_json::from_str(&saved).unwrap(), None, rig.now);
            rig.machine = machine;
            rig.tell(actions);
            rig.told.clear();
        }
        let run = rig.machine.runs;
        rig.end(run, Err("no"));
        rig.end(run + 1, Ok(()));
        rig.end(run + 2, Ok(()));
        let undo = if restarted { "wipe" } else { "un-two" };
        let told =
            ["0 Failed(\"no\")".to_owned(), format!("0 run {} {undo}", run + 1), format!("0 run {} un-one", run + 2)];
        rig.check(RecoveryState::Normal, &told.each_ref().map(String::as_str));
    }
}

#[test]
fn what_already_ran_cannot_be_edited_and_the_rest_can() {
    let (one, two) = (
        "      - run: {name: one, command: [one], undo: [un-one]}\n",
        "      - run: {name: two, command: [two], undo: [un-two]}\n",
    );
    let old = three(&format!("{one}{two}"));
    let mut rig = Rig::armed(old.clone());
    let edited = |text: &str| three(text);
    let saved = |rig: &Rig| rig.machine.saved().unwrap();
    rig.machine.failover("flood", rig.now).unwrap();
    // `one` runs; `two` is still to come.
    assert_eq!(objection(&saved(&rig), &old, &edited(&format!("{one}{}", two.replace("two", "zwei")))), None);
    for wrong in [format!("{two}{one}"), format!("{two}{one}{two}").replacen("two", "zwei", 3), two.to_owned()] {
        let reason = objection(&saved(&rig), &old, &edited(&wrong)).unwrap();
        assert!(reason.contains("not at rest") && reason.contains("`one`"), "{reason}");
    }
    let mut elsewhere = old.clone();
    elsewhere.services.pop();
    assert!(objection(&saved(&rig), &old, &elsewhere).is_some_and(|reason| reason.contains("`services`")));
    rig.end(1, Ok(()));
    rig.end(2, Ok(()));
    assert_eq!(rig.machine.state(), RecoveryState::FailedOver);
    assert!(objection(&saved(&rig), &old, &edited(&format!("{one}{}", two.replace("two", "zwei")))).is_some());
    let mut ramped = old.clone();
    ramped.failback.dwell = seconds(9.0);
    assert_eq!(objection(&saved(&rig), &old, &ramped), None);
}

#[test]
fn rows_of_former_versions_are_taken_up() {
    use serde_json::json;

    let restored = |phase: serde_json::Value, ran: &[usize]| {
        let row = serde_json::json!({"phase": phase, "lease": null, "shifted": "west", "ran": ran, "flaps": 1});
        let start = Instant::now();
        let (machine, actions) = Machine::restore(irreversible(), serde_json::from_value(row).unwrap(), None, start);
        let mut rig = Rig { machine, start, now: start, told: Vec::new(), switches: Vec::new() };
        rig.tell(actions);
        (rig.machine.state(), rig.told)
    };
    let cases = [
        (json!("failedOver"), &[1, 2][..], RecoveryState::FailedOver, &[][..]),
        (json!({"failingOver": 2}), &[1, 2], RecoveryState::FailingOver, &["0 run 1 promote"]),
        (json!({"failbackStep": 1}), &[1, 2], RecoveryState::FailingBack, &["0 run 1 hand back"]),
        (json!({"ramp": 0}), &[1, 2], RecoveryState::FailingBack, &["0 share 50"]),
        (json!("awaitPrimary"), &[1, 2], RecoveryState::FailingBack, &[]),
        (json!({"undo": [1]}), &[], RecoveryState::FailingBack, &["0 run 1 unprepare"]),
        (json!({"undo": []}), &[], RecoveryState::Normal, &[]),
    ];
    for (phase, ran, state, told) in cases {
        let seen = restored(phase.clone(), ran);
        assert_eq!((seen.0, seen.1.iter().map(String::as_str).collect::<Vec<_>>()), (state, told.to_vec()), "{phase}");
    }
}

/// Whatever happens: from the moment that an irreversible command of the failover begins until failback is commanded, no
/// caller is sent to the old primary.
#[test]
fn nobody_is_sent_to_a_primary_that_is_none_any_more() {
    for seed in 0..2_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut rig = Rig::new(irreversible());
        let mut promoted = false;
        for _ in 0..60 {
            match random.u32(0..9) {
                0..3 => rig.see(lost()),
                3 => rig.see(Health::Healthy),
                4 => rig.lease(random.bool().then_some("d-1")),
                5 => drop(rig.machine.failover("seed", rig.now).map(|actions| rig.tell(actions))),
                6 => restart(&mut rig),
                _ => {
                    let run = rig.machine.runs;
                    rig.end(run, if random.u32(0..4) > 0 { Ok(()) } else { Err("seed") });
                }
            }
            rig.pass(Duration::from_millis(random.u64(0..5_000)));
            promoted |= rig.told.iter().any(|told| told.ends_with(" promote") && told.contains("run"));
            let (state, told) = (rig.machine.state(), std::mem::take(&mut rig.told));
            if promoted {
                assert!(
                    matches!(state, RecoveryState::FailingOver | RecoveryState::FailedOver),
                    "seed {seed}: {told:?}"
                );
                assert!(
                    rig.switches.iter().any(|(_, region, to)| region.as_str() == "east" && *to == SwitchState::Off)
                );
                assert_eq!(rig.machine.under(), None, "seed {seed}");
            }
        }
    }
}

/// The control plane is killed and starts again: leases are gone, what was durable goes on.
fn restart(rig: &mut Rig) {
    let saved = rig.machine.saved();
    let text = serde_json::to_string(&saved).unwrap();
    let plan = rig.machine.plan().clone();
    let saved: Option<Saved> = serde_json::from_str(&text).unwrap();
    match saved {
        Some(saved) => {
            let (machine, actions) = Machine::restore(plan, saved, None, rig.now);
            // As the controller does: durable routing controls first.
            rig.switches = machine.switches();
            rig.machine = machine;
            rig.tell(actions);
        }
        None => {
            rig.machine = Machine::new(plan, rig.now);
            rig.switches.clear();
        }
    }
}
