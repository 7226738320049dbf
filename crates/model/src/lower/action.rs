//! What a scenario breaks.

use std::time::Duration;

use super::{World, argv, fault, not_empty, positive};
use crate::{
    config::{LoseHow, ScenarioAction, ScenarioStep},
    raw,
    read::{At, Cx},
    unit::print_duration,
};

pub(crate) fn scenario(spec: &raw::Drill, hold: Duration, world: &World, cx: &mut Cx<'_>) -> Vec<ScenarioStep> {
    not_empty(&spec.scenario, "a drill needs something to break", cx);
    let mut steps: Vec<ScenarioStep> = spec.scenario.iter().filter_map(|s| step(s, hold, world, cx)).collect();
    let written = spec.scenario.iter();
    if !spec.scenario.is_empty() && written.clone().all(|s| s.wait.is_some()) {
        cx.error("empty-scenario", spec.scenario.head, "the scenario only waits: nothing is broken")
            .mend("add `- lose: {region: …}`");
    }
    steps.sort_by_key(|s| s.at); // stable: steps at one time keep their order
    steps
}

fn step(written: &At<raw::ScenarioStep>, hold: Duration, world: &World, cx: &mut Cx<'_>) -> Option<ScenarioStep> {
    let at = written.value.at.as_ref().map_or(Duration::ZERO, |t| t.value.0);
    let lasts = written.r#for.as_ref().map(|t| positive(Some(t), Duration::ZERO, cx));
    if at >= hold && !hold.is_zero() {
        let blame = written.value.at.as_ref().map_or(written.head, |t| t.at);
        cx.error(
            "step-after-hold",
            blame,
            format!(
                "the step begins at {}, but the fault is held for {} only",
                print_duration(at),
                print_duration(hold)
            ),
        )
        .mend("write an earlier `at`, or a longer `hold`");
    } else if let Some(end) = written.r#for.as_ref().filter(|t| at.saturating_add(t.value.0) > hold) {
        let ends = print_duration(at.saturating_add(end.value.0));
        cx.error(
            "step-after-hold",
            end.at,
            format!("the step would end at {ends}, but the fault is held for {} only", print_duration(hold)),
        )
        .mend("shorten `for`, leave it out to last until the end, or write a longer `hold`");
    }
    let kinds = [
        written.lose.is_some(),
        written.fault.is_some(),
        written.partition.is_some(),
        written.no_control.is_some(),
        written.run.is_some(),
        written.wait.is_some(),
    ];
    if kinds.iter().filter(|k| **k).count() != 1 {
        if written.flawed {
            return None;
        }
        cx.error(
            "choose-one",
            written.head,
            "a scenario step is one of `lose`, `fault`, `partition`, `noControl`, `run`, `wait`",
        )
        .mend("write exactly one, and a list item for each");
        return None;
    }
    if let (Some(lasts), true) = (&written.r#for, written.run.is_some() || written.wait.is_some()) {
        cx.error("for-without-fault", lasts.head, "`for` does not go with `run` and `wait`")
            .mend("delete it; a command is undone at the end of the hold");
    }
    let action = if let Some(lose) = &written.lose {
        let how = match lose.how.as_ref().map(|h| h.value) {
            None | Some(raw::LoseHow::Kill) => LoseHow::Kill,
            Some(raw::LoseHow::Pause) => LoseHow::Pause,
            Some(raw::LoseHow::Partition) => LoseHow::Partition,
        };
        ScenarioAction::Lose { region: world.region(&lose.region, cx)?, how }
    } else if let Some(written) = &written.fault {
        ScenarioAction::Fault(fault::requests(written, world, cx)?)
    } else if let Some(written) = &written.partition {
        ScenarioAction::Fault(fault::partition(written, world, cx)?)
    } else if let Some(written) = &written.no_control {
        ScenarioAction::Fault(fault::no_control(written, world, cx)?)
    } else if let Some(run) = &written.run {
        ScenarioAction::Run {
            name: run.name.value.clone(),
            command: argv(&run.command, cx),
            undo: argv(&run.undo, cx),
            timeout: positive(run.timeout.as_ref(), Duration::from_secs(30), cx),
        }
    } else {
        let duration = positive(written.wait.as_ref(), Duration::ZERO, cx);
        ScenarioAction::Wait { duration }
    };
    Some(ScenarioStep { at, lasts, action })
}
