//! Kind `RecoveryPlan`.

use std::{collections::BTreeMap, time::Duration};

use super::{World, argv, no_repeats, not_empty, positive};
use crate::{
    config::{
        Failback, FailbackObjectives, Failover, Integrity, Objectives, Pattern, RecoveryPlan, RunStep, Step, Tier,
        Trigger,
    },
    name::{PlanName, RegionName},
    raw,
    read::{At, Cx},
    tree::Loc,
    unit::Percent,
};

pub(crate) fn plan(
    name: PlanName,
    spec: &At<raw::RecoveryPlan>,
    world: &World,
    cx: &mut Cx<'_>,
) -> Option<RecoveryPlan> {
    not_empty(&spec.services, "a plan needs at least one service", cx);
    no_repeats(&spec.services, "service", cx);
    let services: Vec<_> = spec.services.iter().filter_map(|s| world.service(s, cx)).collect();
    let pattern = pattern(spec, world, cx);
    let objectives = objectives(spec.objectives.as_ref(), cx);
    let mut names = BTreeMap::new();
    let steps = failover_steps(spec, world, &mut names, cx);
    let trigger = trigger(spec.failover.trigger.as_ref(), cx);
    let failback = failback(spec.failback.as_ref(), world, &mut names, cx);
    let quorum = quorum(spec, cx);
    let failover = Failover { trigger, quorum, steps };
    let plan = RecoveryPlan { name, services, pattern: pattern?, objectives, failover, failback };
    judge_steps(&plan, spec, world, cx);
    Some(plan)
}

fn pattern(spec: &At<raw::RecoveryPlan>, world: &World, cx: &mut Cx<'_>) -> Option<Pattern> {
    let Some(pattern) = &spec.active_passive else {
        if !spec.flawed {
            cx.error("missing-field", spec.head, "the plan has no pattern")
                .mend("add `activePassive: {primary: …, standby: […]}`");
        }
        return None;
    };
    not_empty(&pattern.standby, "a plan needs at least one region that stands by", cx);
    no_repeats(&pattern.standby, "region", cx);
    if let Some(same) = pattern.standby.iter().find(|s| s.value == pattern.primary.value) {
        let primary = cx.place(pattern.primary.at);
        cx.error("standby-is-primary", same.at, format!("`{}` cannot stand by for itself", same.value))
            .mend("name another region")
            .see(primary, "the primary");
    }
    let primary = world.region(&pattern.primary, cx);
    let standby: Vec<RegionName> = pattern.standby.iter().filter_map(|s| world.region(s, cx)).collect();
    let tier = match pattern.tier.as_ref().map(|t| t.value) {
        None | Some(raw::Tier::Hot) => Tier::Hot,
        Some(raw::Tier::Warm) => Tier::Warm,
        Some(raw::Tier::PilotLight) => Tier::PilotLight,
    };
    (!standby.is_empty()).then_some(Pattern::ActivePassive { primary: primary?, standby, tier })
}

fn objectives(written: Option<&At<raw::Objectives>>, cx: &mut Cx<'_>) -> Objectives {
    let get = |field: fn(&raw::Objectives) -> &Option<At<crate::scalar::Time>>| {
        written.and_then(|o| field(&o.value).as_ref())
    };
    let count = |field: fn(&raw::Objectives) -> &Option<At<u32>>| {
        written.and_then(|o| field(&o.value).as_ref()).map(|count| count.value)
    };
    let success_rate = written.and_then(|o| o.success_rate.as_ref());
    if let Some(zero) = success_rate.filter(|r| r.value.0 <= 0.0) {
        cx.error("zero", zero.at, "a success rate of 0% asks for nothing")
            .mend("write a percentage above 0, as `99.9%`");
    }
    let recovery_time = get(|o| &o.recovery_time);
    let latency = get(|o| &o.latency_p99);
    Objectives {
        recovery_time: recovery_time.map(|t| positive(Some(t), Duration::ZERO, cx)),
        // No loss at all is a sound objective: zero is allowed.
        data_loss: get(|o| &o.data_loss).map(|t| t.value.0),
        success_rate: success_rate.map_or(Percent(99.0), |r| r.value),
        latency_p99: latency.map(|t| positive(Some(t), Duration::ZERO, cx)),
        sustain: positive(get(|o| &o.sustain), Duration::from_secs(5), cx),
        lost_after_fault: count(|o| &o.lost_after_fault).unwrap_or(0),
        integrity: integrity(written.and_then(|o| o.integrity.as_ref())),
        settle: get(|o| &o.settle).map_or(Duration::ZERO, |t| t.value.0),
        minimum_hits: count(|o| &o.minimum_hits).unwrap_or(10),
        failback: failback_objectives(written.and_then(|o| o.failback.as_ref()), cx),
    }
}

fn integrity(written: Option<&At<raw::Integrity>>) -> Integrity {
    let get = |field: fn(&raw::Integrity) -> &Option<At<u32>>| {
        written.and_then(|i| field(&i.value).as_ref()).map_or(0, |count| count.value)
    };
    Integrity {
        duplicated: get(|i| &i.duplicated),
        reordered: get(|i| &i.reordered),
        resurrected: get(|i| &i.resurrected),
    }
}

fn failback_objectives(written: Option<&At<raw::FailbackObjectives>>, cx: &mut Cx<'_>) -> FailbackObjectives {
    let Some(written) = written else { return FailbackObjectives::default() };
    let success_rate = written.success_rate.as_ref();
    if let Some(zero) = success_rate.filter(|r| r.value.0 <= 0.0) {
        cx.error("zero", zero.at, "a success rate of 0% asks for nothing")
            .mend("write a percentage above 0, as `99.9%`");
    }
    FailbackObjectives {
        recovery_time: written.recovery_time.as_ref().map(|t| positive(Some(t), Duration::ZERO, cx)),
        data_loss: written.data_loss.as_ref().map(|t| t.value.0),
        success_rate: success_rate.map(|r| r.value),
        latency_p99: written.latency_p99.as_ref().map(|t| positive(Some(t), Duration::ZERO, cx)),
    }
}

fn trigger(written: Option<&At<raw::Trigger>>, cx: &mut Cx<'_>) -> Trigger {
    match written.map(|t| &t.value) {
        None | Some(raw::Trigger::Manual(_)) => Trigger::Manual,
        Some(raw::Trigger::When(when)) => {
            Trigger::Automatic { unhealthy_for: positive(Some(&when.automatic.unhealthy_for), Duration::ZERO, cx) }
        }
    }
}

fn quorum(spec: &raw::RecoveryPlan, cx: &mut Cx<'_>) -> Option<u32> {
    let written = spec.failover.quorum.as_ref()?;
    if written.value == 0 {
        cx.error("zero", written.at, "a quorum of 0 would fail over without a report")
            .mend("write 1 or more, or delete it: the default is a majority");
    }
    Some(written.value)
}

fn run(step: &At<raw::RunStep>, world: &World, names: &mut BTreeMap<String, Loc>, cx: &mut Cx<'_>) -> RunStep {
    if let Some(first) = names.get(&step.name.value).copied() {
        let first = cx.place(first);
        cx.error("duplicate-name", step.name.at, format!("two steps of this plan are named `{}`", step.name.value))
            .mend("rename one: the timeline tells steps apart by their names")
            .see(first, "first named here");
    }
    names.insert(step.name.value.clone(), step.name.at);
    way_back(step, cx);
    RunStep {
        name: step.name.value.clone(),
        region: step.r#in.as_ref().and_then(|r| world.region(r, cx)),
        command: argv(&step.command, cx),
        check: step.check.as_ref().map(|check| argv(check, cx)),
        timeout: positive(step.timeout.as_ref(), Duration::from_secs(30), cx),
        undo: step.undo.as_ref().map(|u| argv(u, cx)),
    }
}

/// A step says how it is taken back, or that it cannot be.
fn way_back(step: &At<raw::RunStep>, cx: &mut Cx<'_>) {
    let irreversible = step.irreversible.as_ref().filter(|irreversible| irreversible.value);
    match (&step.undo, irreversible) {
        (None, None) if !step.flawed => {
            cx.error("no-way-back", step.head, format!("step `{}` does not say how it is taken back", step.name.value))
                .mend("write `undo: [command, …]`, or `irreversible: true` if nothing can take it back");
        }
        (Some(undo), Some(irreversible)) => {
            let undo = cx.place(undo.at);
            cx.error("undo-of-irreversible", irreversible.at, "a step with `undo` is not irreversible")
                .mend("delete one of the two")
                .see(undo, "its inverse");
        }
        _ => {}
    }
}

fn failover_steps(
    spec: &raw::RecoveryPlan,
    world: &World,
    names: &mut BTreeMap<String, Loc>,
    cx: &mut Cx<'_>,
) -> Vec<Step> {
    let written = &spec.failover.steps;
    not_empty(written, "a failover needs at least one step", cx);
    let mut steps = Vec::new();
    for step in written.iter() {
        match (&step.shift, &step.run) {
            (Some(shift), None) => steps.extend(world.region(&shift.to, cx).map(|to| Step::Shift { to })),
            (None, Some(command)) => steps.push(Step::Run(run(command, world, names, cx))),
            _ if step.flawed => {}
            _ => {
                cx.error("choose-one", step.head, "a step is either `shift` or `run`")
                    .mend("write one of them, and a list item for each");
            }
        }
    }
    steps
}

/// Steps against the pattern.
fn judge_steps(plan: &RecoveryPlan, spec: &raw::RecoveryPlan, world: &World, cx: &mut Cx<'_>) {
    let Pattern::ActivePassive { primary, standby, tier } = &plan.pattern;
    let shifts: Vec<_> = spec.failover.steps.iter().filter_map(|s| s.shift.as_ref()).collect();
    let stands_by: Vec<&str> = standby.iter().map(RegionName::as_str).collect();
    for shift in &shifts {
        if shift.to.value == *primary {
            cx.error(
                "shift-to-primary",
                shift.to.at,
                format!("`{primary}` is the primary, which is lost when this step runs"),
            )
            .mend(format!("shift to {}", crate::near::list(stands_by.iter().copied())));
        } else if world.regions.as_ref().is_some_and(|known| known.contains(&shift.to.value))
            && !standby.contains(&shift.to.value)
            && standby.len() == spec.active_passive.as_ref().map_or(0, |p| p.standby.len())
        {
            cx.error("shift-to-stranger", shift.to.at, format!("`{}` does not stand by in this plan", shift.to.value))
                .mend(format!("shift to {}, or add it to `standby`", crate::near::list(stands_by.iter().copied())));
        }
    }
    if let [first, second, ..] = shifts[..] {
        let first = cx.place(first.head);
        cx.error("second-shift", second.head, "a failover shifts once")
            .mend("delete one of the `shift` steps")
            .see(first, "the first is here");
    }
    if shifts.is_empty() && !spec.failover.steps.is_empty() {
        cx.warning(
            "no-shift",
            spec.failover.steps.head,
            "no step shifts traffic: only the proxies' own failover moves it",
        )
        .mend(format!("add `- shift: {{to: {}}}`", stands_by.first().unwrap_or(&"…")));
    }
    let runs = plan.failover.steps.iter().any(|s| matches!(s, Step::Run(_)));
    if let (Tier::PilotLight, false, Some(pattern)) = (tier, runs, &spec.active_passive) {
        let at = pattern.tier.as_ref().map_or(pattern.head, |t| t.at);
        cx.error("pilot-light-unlit", at, "a pilot light must be started, and no step of the failover runs anything")
            .mend("add a `run` step that starts the standby, or write `tier: warm`");
    }
}

fn failback(
    written: Option<&At<raw::Failback>>,
    world: &World,
    names: &mut BTreeMap<String, Loc>,
    cx: &mut Cx<'_>,
) -> Failback {
    let whole =
        Failback { trigger: Trigger::Manual, steps: vec![], ramp: vec![Percent(100.0)], dwell: Duration::from_secs(3) };
    let Some(written) = written else { return whole };
    if let Some(trigger) = written.trigger.as_ref().filter(|t| matches!(t.value, raw::Trigger::When(_))) {
        cx.error("not-supported", trigger.at, "failback by itself is not supported yet")
            .mend("write `trigger: manual`");
    }
    let steps = written.steps.iter().flat_map(|s| s.iter()).map(|s| run(&s.run, world, names, cx)).collect();
    let ramp = written.ramp.as_ref().map_or(whole.ramp, |r| ramp(r, cx));
    Failback { trigger: Trigger::Manual, steps, ramp, dwell: positive(written.dwell.as_ref(), whole.dwell, cx) }
}

pub(super) fn ramp(written: &At<Vec<At<Percent>>>, cx: &mut Cx<'_>) -> Vec<Percent> {
    not_empty(written, "the ramp has no share", cx);
    if let Some(zero) = written.iter().find(|p| p.value.0 <= 0.0) {
        cx.error("zero", zero.at, "a share of 0% moves nothing").mend("begin with a share above 0%");
    }
    for pair in written.windows(2) {
        if let [before, after] = pair
            && after.value <= before.value
        {
            cx.error(
                "ramp-not-rising",
                after.at,
                format!("the ramp does not rise from {} to {}", before.value, after.value),
            )
            .mend("write rising shares, as `[10%, 50%, 100%]`");
        }
    }
    if let Some(last) = written.last().filter(|p| p.value.0 < 100.0) {
        cx.error(
            "ramp-incomplete",
            last.at,
            format!("the ramp ends at {}: the rest would stay in the standby", last.value),
        )
        .mend("end with `100%`");
    }
    written.iter().map(|p| p.value).collect()
}
