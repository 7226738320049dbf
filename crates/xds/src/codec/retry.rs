//! Retry policies.

use std::{collections::BTreeSet, time::Duration};

use envoy_types::pb::envoy::{
    config::route::v3::{
        self as pb,
        retry_policy::{RetryBackOff, RetryHostPredicate, RetryPriority, retry_host_predicate, retry_priority},
    },
    extensions::retry::{
        host::previous_hosts::v3::PreviousHostsPredicate, priority::previous_priorities::v3::PreviousPrioritiesConfig,
    },
};

use super::{
    matching::write_methods,
    wire::{Checked, duration, number, pack, read_duration, read_number, wrong},
};
use crate::snapshot::{RetryOn, RetryPolicy};

/// Methods that may be repeated after bytes were sent (RFC 9110, 9.2.2).
const IDEMPOTENT: [&str; 6] = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"];

const NAMES: [(RetryOn, &str); 9] = [
    (RetryOn::ConnectFailure, "connect-failure"),
    (RetryOn::RefusedStream, "refused-stream"),
    (RetryOn::Reset, "reset"),
    (RetryOn::GatewayError, "gateway-error"),
    (RetryOn::GrpcCancelled, "cancelled"),
    (RetryOn::GrpcDeadlineExceeded, "deadline-exceeded"),
    (RetryOn::GrpcResourceExhausted, "resource-exhausted"),
    (RetryOn::GrpcInternal, "internal"),
    (RetryOn::GrpcUnavailable, "unavailable"),
];

/// A repeat avoids hosts and tiers already tried. Envoy's policy knows methods for all failures or none: where other
/// methods must not be repeated after bytes were sent, it does not repeat them after a connect failure either, which
/// is the safe side.
pub(super) fn write(retry: &RetryPolicy) -> pb::RetryPolicy {
    let names = NAMES.iter().filter(|(on, _)| retry.on.contains(on)).map(|(_, name)| *name);
    let after_sending = retry.on.contains(&RetryOn::Reset) || retry.on.contains(&RetryOn::GatewayError);
    let idempotent = IDEMPOTENT.map(str::to_owned);
    let methods = if after_sending && !retry.non_idempotent { write_methods(&idempotent) } else { None };
    pb::RetryPolicy {
        retry_on: names.collect::<Vec<_>>().join(","),
        num_retries: number(retry.attempts),
        per_try_timeout: retry.per_try.and_then(duration),
        retry_priority: Some(RetryPriority {
            name: "envoy.retry_priorities.previous_priorities".to_owned(),
            config_type: Some(retry_priority::ConfigType::TypedConfig(pack(&PreviousPrioritiesConfig {
                update_frequency: 2,
            }))),
        }),
        retry_host_predicate: vec![RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
            config_type: Some(retry_host_predicate::ConfigType::TypedConfig(pack(&PreviousHostsPredicate {}))),
        }],
        host_selection_retry_max_attempts: 5,
        retry_back_off: Some(RetryBackOff {
            base_interval: duration(Duration::from_millis(25)),
            max_interval: duration(Duration::from_millis(250)),
        }),
        retriable_request_headers: methods.into_iter().collect(),
        ..pb::RetryPolicy::default()
    }
}

pub(super) fn read(retry: &pb::RetryPolicy, non_idempotent: bool) -> Checked<RetryPolicy> {
    let mut on = BTreeSet::new();
    for name in retry.retry_on.split(',').filter(|name| !name.is_empty()) {
        let Some((failure, _)) = NAMES.iter().find(|(_, known)| *known == name) else {
            return wrong("retry_on", format!("{name} is not supported"));
        };
        on.insert(*failure);
    }
    let per_try = match &retry.per_try_timeout {
        Some(_) => Some(read_duration(&retry.per_try_timeout, "per_try_timeout")?),
        None => None,
    };
    Ok(RetryPolicy { attempts: read_number(&retry.num_retries, "num_retries")?, per_try, on, non_idempotent })
}
