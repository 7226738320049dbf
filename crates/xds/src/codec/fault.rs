//! Faults: their domains, and those of a route ↔ Envoy's fault filter.

use envoy_types::pb::envoy::extensions::filters::{
    common::fault::v3::{FaultDelay, fault_delay::FaultDelaySecifier},
    http::fault::v3::{FaultAbort, HttpFault, fault_abort::ErrorType},
};

use super::wire::{Checked, duration, ensure, ensure_duration, fraction};
use crate::{
    overlay::{Delay, FaultAction},
    snapshot::RouteFault,
};

/// Largest whole number that survives as a `double`, which is what a `google.protobuf.Struct` holds.
const LARGEST: u64 = 1 << 53;

pub(super) fn validate(action: &FaultAction) -> Checked<()> {
    let fits = |path: &str, bytes: u64| ensure(bytes <= LARGEST, path, || format!("{bytes} is not supported"));
    match action {
        FaultAction::Delay(delay) => validate_delay(delay),
        FaultAction::Abort { status } => {
            ensure((200..600).contains(status), "abort.status", || format!("{status} is not supported"))
        }
        FaultAction::AbortGrpc { status } => {
            ensure((1..=16).contains(status), "abortGrpc.status", || format!("{status} is no gRPC status of a failure"))
        }
        FaultAction::ResetAfter { bytes } => fits("resetAfter.bytes", *bytes),
        FaultAction::Truncate { bytes } => fits("truncate.bytes", *bytes),
        FaultAction::Bandwidth { bytes_per_second } => {
            ensure(*bytes_per_second > 0, "bandwidth.bytesPerSecond", || "is zero".to_owned())?;
            fits("bandwidth.bytesPerSecond", *bytes_per_second)
        }
        FaultAction::Refuse
        | FaultAction::Reset
        | FaultAction::Blackhole
        | FaultAction::DropConnect
        | FaultAction::Dns
        | FaultAction::Tls(_) => Ok(()),
    }
}

fn validate_delay(delay: &Delay) -> Checked<()> {
    match delay {
        Delay::Fixed(fixed) => ensure_duration(*fixed, "delay.fixed"),
        Delay::Normal { mean, deviation } => {
            ensure_duration(*mean, "delay.normal.mean")?;
            ensure_duration(*deviation, "delay.normal.deviation")
        }
        Delay::Spike { base, spike, percent } => {
            ensure_duration(*base, "delay.spike.base")?;
            ensure_duration(*spike, "delay.spike.spike")?;
            ensure_percent(*percent, "delay.spike.percent")
        }
    }
}

pub(super) fn ensure_percent(percent: f64, path: &str) -> Checked<()> {
    ensure((0.0..=100.0).contains(&percent), path, || format!("{percent} is not a percentage"))?;
    // A sign on zero would not survive, and means nothing.
    ensure(percent.to_bits() != (-0.0_f64).to_bits(), path, || "is negative".to_owned())
}

/// What Envoy's filter can do of them: the first fixed delay and the first abort. `None` if it can do none.
pub(super) fn write(faults: &[RouteFault]) -> Option<HttpFault> {
    let delay = faults.iter().find_map(|fault| match &fault.action {
        FaultAction::Delay(Delay::Fixed(fixed)) => Some(FaultDelay {
            percentage: Some(fraction(fault.percent)),
            fault_delay_secifier: duration(*fixed).map(FaultDelaySecifier::FixedDelay),
        }),
        _ => None,
    });
    let abort = faults.iter().find_map(|fault| {
        let error = match &fault.action {
            FaultAction::Abort { status } => ErrorType::HttpStatus((*status).into()),
            FaultAction::AbortGrpc { status } => ErrorType::GrpcStatus((*status).into()),
            _ => return None,
        };
        let percentage = Some(fraction(fault.percent));
        Some(FaultAbort { percentage, error_type: Some(error), ..FaultAbort::default() })
    });
    (delay.is_some() || abort.is_some()).then(|| HttpFault { delay, abort, ..HttpFault::default() })
}
