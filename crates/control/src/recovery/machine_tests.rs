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
        rig.check(RecoveryState::Normal, &[]);
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
