use super::*;

fn script(steps: &[(Nanos, Option<Nanos>)], manual: bool) -> Script {
    let steps = steps.iter().map(|(at, lasts)| StepTiming { at: *at, lasts: *lasts, breaks: true }).collect();
    Script { baseline: 10, wait: 0, hold: 100, steps, manual_failover: manual, failback_bound: 50 }
}

/// Plays inputs at times and compares the actions that come out.
fn play(life: &mut Life, inputs: &[(Nanos, Input, &[Action])]) {
    for (now, input, expected) in inputs {
        assert_eq!(&life.on(*now, input.clone()), expected, "{input:?} at {now}");
    }
}

fn until_running(life: &mut Life) {
    until_judging(life);
    play(life, &[(15, Input::BaselineJudged(vec![]), &[Action::TakeLease])]);
}

fn until_judging(life: &mut Life) {
    play(
        life,
        &[
            (0, Input::Start, &[Action::Inspect]),
            (1, Input::Inspected(vec![]), &[Action::ProveUndo]),
            (2, Input::Proved(Ok(())), &[Action::StartProbes]),
            (3, Input::ProbesStarted(Ok(())), &[]),
            (12, Input::Tick, &[]),
            (13, Input::Tick, &[Action::JudgeBaseline(3, 13)]),
        ],
    );
}

#[test]
fn whole_life() {
    let mut life = Life::new(script(&[(0, None)], false));
    until_running(&mut life);
    play(
        &mut life,
        &[
            (1000, Input::Leased(Ok(())), &[Action::Do(0)]),
            (1001, Input::Tick, &[]),
            (1002, Input::StepDone(0, Ok(())), &[]),
            (1003, Input::Detected, &[]),
            (1099, Input::Tick, &[]),
            (1100, Input::Tick, &[Action::Undo(0)]),
            (1110, Input::StepUndone(0, Ok(())), &[Action::AwaitReturn]),
            (1120, Input::Returned(Ok(())), &[Action::ReadBack("recovered")]),
            (1130, Input::ReadBack, &[Action::FailBack]),
            (1131, Input::FailbackCommanded(Ok(true)), &[]),
            (1150, Input::Tick, &[]),
            (1160, Input::FailbackDone, &[Action::AwaitSustained]),
            (1170, Input::Sustained(Ok(())), &[Action::StopProbes]),
            (1180, Input::ProbesStopped, &[Action::ReadBack("failedBack")]),
            (1190, Input::ReadBack, &[Action::Release]),
            (1191, Input::LeaseLost("released".into()), &[]),
            (1192, Input::Stop("too late".into()), &[]),
            (1193, Input::Released, &[Action::Compare]),
            (1200, Input::Compared, &[]),
        ],
    );
    assert_eq!(life.stage(), Stage::Done);
    assert_eq!(life.ending(), &Ending::Completed);
    assert!(life.problems().is_empty());
}

#[test]
fn steps_in_order_and_undone_in_reverse() {
    let mut life = Life::new(script(&[(0, None), (0, Some(20)), (50, None)], false));
    until_running(&mut life);
    play(
        &mut life,
        &[
            (0, Input::Leased(Ok(())), &[Action::Do(0)]),
            (5, Input::StepDone(0, Ok(())), &[Action::Do(1)]),
            (6, Input::StepDone(1, Ok(())), &[]),
            (26, Input::Tick, &[Action::Undo(1)]),
            (27, Input::StepUndone(1, Err("no".into())), &[]),
            (50, Input::Tick, &[Action::Do(2)]),
            // The hold is over, and the last step still has no effect: it is not cut off.
            (101, Input::Tick, &[]),
            (120, Input::StepDone(2, Ok(())), &[Action::Undo(2)]),
            (121, Input::Tick, &[]),
            (122, Input::StepUndone(2, Ok(())), &[Action::Undo(0)]),
            (123, Input::StepUndone(0, Ok(())), &[Action::AwaitReturn]),
            (124, Input::Returned(Err("ledger is down".into())), &[Action::StopProbes]),
            (125, Input::ProbesStopped, &[Action::ReadBack("failedBack")]),
        ],
    );
    assert_eq!(life.problems().len(), 2);
}

#[test]
fn refused_before_anything_is_laid() {
    let check = |inputs: &[(Nanos, Input, &[Action])], reasons: usize| {
        let mut life = Life::new(script(&[(0, None)], false));
        play(&mut life, inputs);
        assert_eq!(life.stage(), Stage::Done);
        assert!(
            matches!(life.ending(), Ending::Refused { reasons: seen } if seen.len() == reasons),
            "{:?}",
            life.ending()
        );
    };
    let two = vec!["a".to_owned(), "b".to_owned()];
    check(&[(0, Input::Start, &[Action::Inspect]), (1, Input::Inspected(two.clone()), &[])], 2);
    let started =
        [(0, Input::Start, &[Action::Inspect] as &[Action]), (1, Input::Inspected(vec![]), &[Action::ProveUndo])];
    check(&[&started[..], &[(2, Input::Proved(Err("no".into())), &[])]].concat(), 1);
    let probing = [&started[..], &[(2, Input::Proved(Ok(())), &[Action::StartProbes])]].concat();
    check(&[&probing[..], &[(3, Input::ProbesStarted(Err("no".into())), &[])]].concat(), 1);

    let mut life = Life::new(script(&[(0, None)], false));
    until_running(&mut life);
    play(
        &mut life,
        &[(16, Input::Leased(Err("taken".into())), &[Action::StopProbes]), (17, Input::ProbesStopped, &[])],
    );
    assert_eq!(life.stage(), Stage::Done);
}

#[test]
fn stops_the_same_way_from_anywhere_under_lease() {
    let path: &[(Nanos, Input)] = &[
        (1000, Input::Leased(Ok(()))),
        (1002, Input::StepDone(0, Ok(()))),
        (1100, Input::Tick),
        (1110, Input::StepUndone(0, Ok(()))),
        (1120, Input::Returned(Ok(()))),
        (1130, Input::ReadBack),
        (1131, Input::FailbackCommanded(Ok(true))),
        (1160, Input::FailbackDone),
        (1170, Input::Sustained(Ok(()))),
        (1180, Input::ProbesStopped),
    ];
    for length in 1..=path.len() {
        for (input, aborted) in [(Input::Stop("guard".into()), true), (Input::LeaseLost("gone".into()), false)] {
            let mut life = Life::new(script(&[(0, None)], false));
            until_running(&mut life);
            for (now, input) in &path[..length] {
                life.on(*now, input.clone());
            }
            play(
                &mut life,
                &[
                    (2000, input, &[Action::Clear]),
                    (2001, Input::Stop("again".into()), &[]),
                    (2001, Input::StepDone(0, Ok(())), &[]),
                    (2002, Input::Cleared, &[Action::StopProbes]),
                    (2003, Input::ProbesStopped, &[Action::Compare]),
                    (2004, Input::Compared, &[]),
                ],
            );
            assert_eq!(matches!(life.ending(), Ending::Aborted { .. }), aborted);
            assert_eq!(matches!(life.ending(), Ending::Crashed { .. }), !aborted);
        }
    }
}

#[test]
fn the_fault_phase_ends_before_anything_is_undone() {
    assert_eq!((Stage::Running.phase(), Stage::Undoing.phase()), ("fault", "return"));
}

#[test]
fn a_failed_step_stops() {
    let mut life = Life::new(script(&[(0, None)], false));
    until_running(&mut life);
    life.on(1000, Input::Leased(Ok(())));
    assert_eq!(life.on(1001, Input::StepDone(0, Err("no such region".into()))), [Action::Clear]);
    assert_eq!(life.ending(), &Ending::Aborted { reason: "step 1 of the scenario failed: no such region".into() });
}

#[test]
fn manual_failover_on_detection_or_in_time() {
    let mut life = Life::new(script(&[(0, None)], true));
    life.script.hold = 10 * OPERATOR;
    until_running(&mut life);
    play(
        &mut life,
        &[
            (1000, Input::Leased(Ok(())), &[Action::Do(0)]),
            (1001, Input::Detected, &[]),
            (1002, Input::StepDone(0, Ok(())), &[Action::FailOver]),
            (1003, Input::Tick, &[]),
        ],
    );
    let mut life = Life::new(script(&[(0, None)], true));
    life.script.hold = 10 * OPERATOR;
    until_running(&mut life);
    play(
        &mut life,
        &[
            (1000, Input::Leased(Ok(())), &[Action::Do(0)]),
            (1002, Input::StepDone(0, Ok(())), &[]),
            (1001 + OPERATOR, Input::Tick, &[]),
            (1002 + OPERATOR, Input::Tick, &[Action::FailOver]),
        ],
    );
}

#[test]
fn failback_that_does_not_end() {
    let mut life = Life::new(script(&[(0, None)], false));
    until_running(&mut life);
    for (now, input) in [
        (1000, Input::Leased(Ok(()))),
        (1002, Input::StepDone(0, Ok(()))),
        (1100, Input::Tick),
        (1110, Input::StepUndone(0, Ok(()))),
        (1120, Input::Returned(Ok(()))),
        (1130, Input::ReadBack),
        (1131, Input::FailbackCommanded(Ok(true))),
    ] {
        life.on(now, input);
    }
    assert_eq!(life.on(1181, Input::Tick), [Action::AwaitSustained]);
    assert_eq!(life.on(1190, Input::Sustained(Err("p99".into()))), [Action::StopProbes]);
    assert_eq!(life.problems().len(), 2);
}

#[test]
fn a_baseline_that_is_not_normal_is_measured_again_for_a_while() {
    let mut life = Life::new(Script { wait: 25, ..script(&[], false) });
    let unsteady = || Input::BaselineJudged(vec!["app is served by west".to_owned()]);
    until_judging(&mut life);
    play(
        &mut life,
        &[
            (15, unsteady(), &[]),
            (24, Input::Tick, &[]),
            (25, Input::Tick, &[Action::JudgeBaseline(15, 25)]),
            (26, unsteady(), &[Action::StopProbes]),
            (27, Input::ProbesStopped, &[]),
        ],
    );
    assert_eq!(life.ending(), &Ending::Refused { reasons: vec!["app is served by west".to_owned()] });
}
