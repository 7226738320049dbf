//! Looks at the load of every proxy, as long as probes run.

use std::{sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::{context::Context, target::Target};

/// Between two looks: the length of a slice.
const EVERY: Duration = Duration::from_secs(1);
/// The first look comes so long after the probes' start.
const FIRST: Duration = Duration::from_millis(50);
/// A look that takes longer is given up; the next slice is longer then.
const PATIENCE: Duration = Duration::from_secs(2);

/// Looks once a second, until it is dropped.
pub async fn watch<T: Target>(context: Arc<Context<T>>) {
    sleep(FIRST).await;
    let mut ticker = interval(EVERY);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticker.tick().await;
        look(&context).await;
    }
}

/// Looks once. A mesh that does not answer is looked at the next time.
pub async fn look<T: Target>(context: &Context<T>) {
    if let Ok(Ok(proxies)) = timeout(PATIENCE, context.target.proxies()).await {
        let now = context.clock.now();
        context.facts().loads.look(now, &proxies, &context.plan);
    }
}
