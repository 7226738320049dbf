//! The roles of stores, as the `check` commands of the plan's steps prove them.

use model::config::{RunStep, Step};

use crate::{command, context::Context, target::Target};

/// Why the plan's steps do not prove that stores are in their normal roles; empty if they do, or have no `check`.
///
/// A `check` exits with 0 while the effect of its step is in place. In the normal state those of failback steps do, and
/// those of failover steps do not.
pub async fn unproved<T: Target>(context: &Context<T>) -> Vec<String> {
    let mut reasons = Vec::new();
    for step in &context.plan.failback.steps {
        if let Some(Err(reason)) = check(context, step).await {
            reasons.push(format!("the check of failback step {} does not pass: {reason}", step.name));
        }
    }
    for step in &context.plan.failover.steps {
        let Step::Run(step) = step else { continue };
        if let Some(Ok(())) = check(context, step).await {
            reasons.push(format!("the check of failover step {} passes: what it does is in place already", step.name));
        }
    }
    reasons
}

async fn check<T: Target>(context: &Context<T>, step: &RunStep) -> Option<Result<(), String>> {
    let argv = step.check.as_ref()?;
    let environment = context.target.environment(step.region.as_ref());
    Some(command::run(argv, &environment, step.timeout).await.map(drop))
}
