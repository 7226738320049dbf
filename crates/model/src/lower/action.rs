//! What a scenario breaks.

use std::time::Duration;

use super::{World, argv, method, not_empty, path, positive};
use crate::{
    config::{FaultAction, FaultStep, LoseHow, ScenarioAction, ScenarioStep},
    raw,
    read::{At, Cx},
    unit::{Percent, print_duration},
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
    let kinds = [written.lose.is_some(), written.fault.is_some(), written.run.is_some(), written.wait.is_some()];
    if kinds.iter().filter(|k| **k).count() != 1 {
        if written.flawed {
            return None;
        }
        cx.error("choose-one", written.head, "a scenario step is one of `lose`, `fault`, `run`, `wait`")
            .mend("write exactly one, and a list item for each");
        return None;
    }
    if let (Some(lasts), true) = (&written.r#for, written.run.is_some() || written.wait.is_some()) {
        cx.error("for-without-fault", lasts.head, "`for` only goes with `lose` and `fault`")
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
        ScenarioAction::Fault(fault(written, world, cx)?)
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

fn fault(written: &At<raw::Fault>, world: &World, cx: &mut Cx<'_>) -> Option<FaultStep> {
    let flags = [("refuse", &written.refuse), ("reset", &written.reset), ("blackhole", &written.blackhole)];
    for (name, flag) in flags {
        if let Some(flag) = flag.as_ref().filter(|f| !f.value) {
            cx.error("choose-one", flag.at, format!("`{name}: false` does nothing")).mend("delete it");
        }
    }
    if let Some(status) = written.abort.as_ref().filter(|s| !(400..=599).contains(&s.value)) {
        cx.error("out-of-range", status.at, format!("{} is not the status of a failure", status.value))
            .mend("write 400 to 599, as `abort: 503`");
    }
    let actions = [
        written.delay.as_ref().map(|d| FaultAction::Delay(positive(Some(d), Duration::ZERO, cx))),
        written.abort.as_ref().map(|s| FaultAction::Abort(s.value)),
        written.refuse.as_ref().map(|_| FaultAction::Refuse),
        written.reset.as_ref().map(|_| FaultAction::Reset),
        written.blackhole.as_ref().map(|_| FaultAction::Blackhole),
    ];
    let mut actions = actions.into_iter().flatten();
    let (Some(action), None) = (actions.next(), actions.next()) else {
        if written.flawed {
            return None;
        }
        cx.error("choose-one", written.head, "a fault is one of `delay`, `abort`, `refuse`, `reset`, `blackhole`")
            .mend("write exactly one, as `abort: 503`, and a step for each");
        return None;
    };
    if let Some(zero) = written.percent.as_ref().filter(|p| p.value.0 <= 0.0) {
        cx.error("zero", zero.at, "a fault on 0% of requests does nothing")
            .mend("write a percentage above 0, or delete it for all");
    }
    let region = match &written.region {
        None => None,
        Some(region) => Some(world.region(region, cx)?),
    };
    Some(FaultStep {
        service: world.service(&written.to, cx)?,
        region,
        path: written.path.as_ref().map(|p| path(p, cx)),
        method: written.method.as_ref().and_then(|m| method(m, m.at, cx)),
        percent: written.percent.as_ref().map_or(Percent(100.0), |p| p.value),
        action,
    })
}
