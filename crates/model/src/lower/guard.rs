//! What aborts a drill.

use std::time::Duration;

use super::dangling;
use crate::{
    config::{Guard, GuardCondition, Probe, ProbeKind},
    raw,
    read::{At, Cx},
    unit::{Percent, parse_duration, print_duration},
};

pub(crate) fn guards(spec: &raw::Drill, probes: &[Probe], hold: Duration, cx: &mut Cx<'_>) -> Vec<Guard> {
    let mut guards = Vec::new();
    for written in spec.guards.iter().flat_map(|g| g.iter()) {
        let condition = condition(written, hold, cx);
        let known = || spec.probes.iter().map(|p| p.name.as_str());
        if !known().any(|name| name == written.probe.as_str()) {
            if !spec.probes.flawed {
                dangling("probe", written.probe.as_str(), written.probe.at, known(), cx);
            }
            continue;
        }
        let probe = probes.iter().find(|p| p.name == written.probe.value);
        let (Some(probe), Some(condition)) = (probe, condition) else { continue };
        fits(written, probe, &condition, cx);
        guards.push(Guard { probe: written.probe.value.clone(), condition });
    }
    guards
}

/// Whether the probe can make the condition true.
fn fits(written: &At<raw::Guard>, probe: &Probe, condition: &GuardCondition, cx: &mut Cx<'_>) {
    match condition {
        GuardCondition::IndeterminateAbove { .. } if matches!(probe.kind, ProbeKind::Http(_)) => {
            let at = written.indeterminate.as_ref().map_or(written.head, |i| i.head);
            cx.error(
                "guard-does-not-fit",
                at,
                format!("`indeterminate` counts writes, and `{}` is an `http` probe", probe.name),
            )
            .mend("watch a probe with `writes`, or write `successRate: \"< 50%\"`");
        }
        GuardCondition::LatencyP99Above { latency, .. } if *latency >= probe.timeout => {
            let at = written.latency_p99.as_ref().map_or(written.head, |l| l.at);
            let timeout = print_duration(probe.timeout);
            cx.error(
                "guard-never-trips",
                at,
                format!("no answer of `{}` takes longer than its timeout of {timeout}", probe.name),
            )
            .mend("write less than the timeout, or guard `successRate`");
        }
        _ => {}
    }
}

fn condition(written: &At<raw::Guard>, hold: Duration, cx: &mut Cx<'_>) -> Option<GuardCondition> {
    let kinds = [&written.success_rate, &written.latency_p99, &written.indeterminate];
    if kinds.iter().filter(|k| k.is_some()).count() != 1 {
        if written.flawed {
            return None;
        }
        cx.error("choose-one", written.head, "a guard is one of `successRate`, `latencyP99`, `indeterminate`")
            .mend("write exactly one, and a list item for each");
        return None;
    }
    let over = super::positive(written.over.as_ref(), Duration::from_secs(5), cx);
    if let Some(text) = &written.indeterminate {
        if let Some(over) = &written.over {
            cx.error("guard-does-not-fit", over.head, "`indeterminate` counts over the whole drill")
                .mend("delete `over`");
        }
        let form = "write a comparison, as `\"> 200\"`";
        let count = bound(text, '>', form, cx)?.parse().map_err(|_| bad(text, form, cx)).ok()?;
        return Some(GuardCondition::IndeterminateAbove { count });
    }
    if over > hold && !hold.is_zero() {
        let at = written.over.as_ref().map_or(written.head, |o| o.at);
        let (over, hold) = (print_duration(over), print_duration(hold));
        cx.error(
            "guard-never-trips",
            at,
            format!("the window of {over} is longer than the hold of {hold}: it is never full of the fault"),
        )
        .mend("shorten `over`, or lengthen `hold`");
    }
    if let Some(text) = &written.success_rate {
        let form = "write a comparison, as `\"< 50%\"`";
        let percent: Percent = bound(text, '<', form, cx)?.parse().map_err(|_| bad(text, form, cx)).ok()?;
        if percent.0 <= 0.0 {
            cx.error("guard-never-trips", text.at, "no success rate is below 0%").mend("write a percentage above 0");
        }
        return Some(GuardCondition::SuccessRateBelow { percent, over });
    }
    let text = written.latency_p99.as_ref()?;
    let form = "write a comparison, as `\"> 1s\"`";
    let latency = parse_duration(bound(text, '>', form, cx)?).map_err(|_| bad(text, form, cx)).ok()?;
    Some(GuardCondition::LatencyP99Above { latency, over })
}

/// What stands after the comparison, which only makes sense in one direction.
fn bound<'t>(text: &'t At<String>, comparison: char, form: &str, cx: &mut Cx<'_>) -> Option<&'t str> {
    let rest = text.value.trim_start();
    let bound = rest.strip_prefix(comparison).map(str::trim).filter(|b| !b.starts_with('='));
    if bound.is_none() {
        let other = if comparison == '<' { '>' } else { '<' };
        if rest.starts_with(other) {
            cx.error("guard-direction", text.at, format!("a guard trips on what is bad: compare with `{comparison}`"))
                .mend(form);
        } else {
            bad(text, form, cx);
        }
    }
    bound
}

fn bad(text: &At<String>, form: &str, cx: &mut Cx<'_>) {
    cx.error("bad-comparison", text.at, format!("`{}` is not a comparison", text.value)).mend(form);
}
