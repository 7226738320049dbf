//! Admission ↔ Envoy's adaptive concurrency filter. What Envoy lacks (two classes of requests) is in the listener's metadata.

use std::time::Duration;

use envoy_types::pb::envoy::extensions::filters::http::adaptive_concurrency::v3::{
    AdaptiveConcurrency, GradientControllerConfig,
    adaptive_concurrency::ConcurrencyControllerConfig::GradientControllerConfig as Gradient,
    gradient_controller_config::{ConcurrencyLimitCalculationParams, MinimumRttCalculationParams},
};

use super::wire::{
    At, Checked, duration, ensure, ensure_duration, ensure_positive, need, number, percent, read_duration, read_number,
    read_percent, wrong,
};
use crate::snapshot::Admission;

/// Envoy's lower bound on the time between measurements.
const SHORTEST: Duration = Duration::from_millis(1);

pub(super) fn validate(admission: &Admission) -> Checked<()> {
    ensure(admission.at_least > 0, "min_rtt_calc_params.min_concurrency", || "is zero".to_owned())?;
    ensure(admission.at_most >= admission.at_least, "concurrency_limit_params.max_concurrency_limit", || {
        "is below the minimum".to_owned()
    })?;
    ensure_positive(admission.window, "concurrency_limit_params.concurrency_update_interval")?;
    let interval = "min_rtt_calc_params.interval";
    ensure(admission.measure_every >= SHORTEST, interval, || "must be at least 1 ms".to_owned())?;
    ensure_duration(admission.measure_every, interval)?;
    ensure(admission.samples > 0, "min_rtt_calc_params.request_count", || "is zero".to_owned())?;
    ensure(admission.buffer <= 100, "min_rtt_calc_params.buffer", || "is above 100".to_owned())?;
    ensure((1..=100).contains(&admission.low_percent), "low_percent", || "must be 1 to 100".to_owned())
}

/// Envoy's lowest limit is, unless it is told another one, the concurrency at which it measures.
pub(super) fn write(admission: &Admission) -> AdaptiveConcurrency {
    let gradient = GradientControllerConfig {
        sample_aggregate_percentile: percent(50),
        concurrency_limit_params: Some(ConcurrencyLimitCalculationParams {
            max_concurrency_limit: number(admission.at_most),
            concurrency_update_interval: duration(admission.window),
            ..ConcurrencyLimitCalculationParams::default()
        }),
        min_rtt_calc_params: Some(MinimumRttCalculationParams {
            interval: duration(admission.measure_every),
            request_count: number(admission.samples),
            min_concurrency: number(admission.at_least),
            buffer: percent(admission.buffer),
            ..MinimumRttCalculationParams::default()
        }),
    };
    AdaptiveConcurrency { concurrency_controller_config: Some(Gradient(gradient)), ..AdaptiveConcurrency::default() }
}

/// All but what the listener's metadata holds.
pub(super) fn read(filter: &AdaptiveConcurrency) -> Checked<Admission> {
    let path = "gradient_controller_config";
    let Some(Gradient(gradient)) = &filter.concurrency_controller_config else {
        return wrong(path, "is missing");
    };
    read_gradient(gradient).at(path)
}

fn read_gradient(gradient: &GradientControllerConfig) -> Checked<Admission> {
    let limit = need(&gradient.concurrency_limit_params, "concurrency_limit_params")?;
    let rtt = need(&gradient.min_rtt_calc_params, "min_rtt_calc_params")?;
    Ok(Admission {
        at_least: read_number(&rtt.min_concurrency, "min_rtt_calc_params.min_concurrency")?,
        at_most: read_number(&limit.max_concurrency_limit, "concurrency_limit_params.max_concurrency_limit")?,
        window: read_duration(
            &limit.concurrency_update_interval,
            "concurrency_limit_params.concurrency_update_interval",
        )?,
        measure_every: read_duration(&rtt.interval, "min_rtt_calc_params.interval")?,
        samples: read_number(&rtt.request_count, "min_rtt_calc_params.request_count")?,
        buffer: read_percent(&rtt.buffer, "min_rtt_calc_params.buffer")?,
        ..Admission::default()
    })
}
