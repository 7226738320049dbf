//! Values that a record may hold: what could not be measured with is refused when it is registered, sealed or read.

use super::{Attempt, NormalState, Objectives, Registration};

/// Most entries of each list that describes what was tested or done; the ledger holds some of them in one entry.
const MOST: usize = 10_000;

impl Registration {
    /// Whether it can be registered.
    ///
    /// # Errors
    /// The first value that is out of its range, in words.
    pub fn validate(&self) -> Result<(), String> {
        objectives(&self.objectives)?;
        bounded("endpoints", self.tested.endpoints.len())?;
        normal(&self.normal)
    }
}

impl Attempt {
    /// Whether it can be sealed, or was sealed by a program that keeps to the format.
    ///
    /// # Errors
    /// The first value that is out of its range, in words.
    pub fn validate(&self) -> Result<(), String> {
        objectives(&self.objectives)?;
        normal(&self.normal)?;
        for (what, length) in [
            ("endpoints", self.tested.endpoints.len()),
            ("counts of requests served", self.served.len()),
            ("steps of the failback", self.ramp.len()),
            ("outstanding undos", self.undos.len()),
            ("changes of the configuration", self.changes.len()),
            ("unproven statements", self.unproven.len()),
        ] {
            bounded(what, length)?;
        }
        for step in &self.ramp {
            let place = || format!("a step of the failback of {} to {}", step.service, step.region);
            percent(step.commanded).map_err(|why| format!("{} {why}", place()))?;
            bounded("proxies in a step of the failback", step.proxies.len())?;
            for proxy in &step.proxies {
                percent(proxy.share).map_err(|why| format!("{} at proxy {} {why}", place(), proxy.proxy))?;
            }
        }
        if let Some(clock) = &self.clock {
            bounded("clocks", clock.observers.len())?;
            bounded("steps of the clock", clock.steps.len())?;
            for observer in &clock.observers {
                for reading in [observer.start, observer.end].iter().flatten() {
                    at_least_zero("the uncertainty of a clock", reading.uncertainty)?;
                }
            }
        }
        if let Some(engine) = &self.engine {
            for lateness in engine.sends.values().chain([&engine.main_loop]) {
                at_least_zero("the lateness of the engine", lateness.max.min(lateness.p99))?;
            }
        }
        Ok(())
    }
}

fn objectives(objectives: &Objectives) -> Result<(), String> {
    percent(objectives.success_rate).map_err(|why| format!("the success rate {why}"))?;
    at_least_zero("the settle time", objectives.settle)?;
    if let Some(rate) = objectives.failback.as_ref().and_then(|failback| failback.success_rate) {
        percent(rate).map_err(|why| format!("the success rate of failback {why}"))?;
    }
    Ok(())
}

fn normal(normal: &[NormalState]) -> Result<(), String> {
    bounded("services", normal.len())?;
    for state in normal {
        bounded("regions of a service", state.shares.len())?;
        for (region, share) in &state.shares {
            percent(*share).map_err(|why| format!("the normal share of {} in {region} {why}", state.service))?;
        }
    }
    Ok(())
}

fn percent(value: f64) -> Result<(), String> {
    if (0.0..=100.0).contains(&value) { Ok(()) } else { Err(format!("is {value}, which is not a percentage")) }
}

fn at_least_zero(what: &str, value: i64) -> Result<(), String> {
    if value >= 0 { Ok(()) } else { Err(format!("{what} is negative: {value} ns")) }
}

fn bounded(what: &str, length: usize) -> Result<(), String> {
    if length <= MOST { Ok(()) } else { Err(format!("there are {length} {what}, more than {MOST}")) }
}
