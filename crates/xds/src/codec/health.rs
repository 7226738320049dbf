//! Active and passive health of clusters.

use envoy_types::pb::envoy::{
    config::{
        cluster::v3 as cluster,
        core::v3::{
            self as core,
            health_check::{GrpcHealthCheck, HealthChecker, HttpHealthCheck, Payload, TcpHealthCheck, payload},
        },
    },
    r#type::v3::CodecClientType,
};

use super::wire::{Checked, duration, ensure, ensure_positive, number, read_duration, read_number, wrong};
use crate::{
    hex,
    snapshot::{Exchange, FailurePercentage, HealthCheck, OutlierDetection, SuccessRate, UpstreamProtocol},
};

pub(super) fn validate_check(check: &HealthCheck, protocol: UpstreamProtocol) -> Checked<()> {
    ensure_positive(check.every, "interval")?;
    check.every_without_traffic.iter().try_for_each(|every| ensure_positive(*every, "no_traffic_interval"))?;
    // Written as the same, it would be read as none.
    ensure(check.every_without_traffic != Some(check.every), "no_traffic_interval", || {
        "is the interval: leave it out".to_owned()
    })?;
    ensure_positive(check.timeout, "timeout")?;
    ensure(check.unhealthy_after > 0, "unhealthy_threshold", || "is zero".to_owned())?;
    ensure(check.healthy_after > 0, "healthy_threshold", || "is zero".to_owned())?;
    let path = check.http_path.as_deref().unwrap_or("/");
    let sendable = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
    ensure(sendable, "http_health_check.path", || format!("{path:?} is not a path"))?;
    let grpc = check.grpc_service.is_some();
    ensure(!grpc || check.http_path.is_none(), "grpc_health_check", || "stands beside an HTTP check".to_owned())?;
    ensure(!grpc || protocol == UpstreamProtocol::Http2, "grpc_health_check", || "needs HTTP/2".to_owned())?;
    let Some(Exchange { send, receive }) = &check.exchange else { return Ok(()) };
    ensure(!grpc && check.http_path.is_none(), "tcp_health_check", || "stands beside another check".to_owned())?;
    ensure(!receive.is_empty(), "tcp_health_check.receive", || "is empty".to_owned())?;
    for (bytes, path) in [(send, "tcp_health_check.send"), (receive, "tcp_health_check.receive")] {
        ensure(bytes.len() <= Exchange::LONGEST, path, || {
            format!("has {} bytes, at most {} are supported", bytes.len(), Exchange::LONGEST)
        })?;
    }
    Ok(())
}

/// Envoy checks a cluster without traffic only once a minute by default; a standby is exactly that, so the interval
/// without traffic is the same unless it is told otherwise.
pub(super) fn write_check(check: &HealthCheck, protocol: UpstreamProtocol) -> core::HealthCheck {
    let codec = match protocol {
        UpstreamProtocol::Http2 => CodecClientType::Http2,
        UpstreamProtocol::Http1 | UpstreamProtocol::Tcp => CodecClientType::Http1,
    };
    let checker = match (&check.http_path, &check.grpc_service) {
        (Some(path), _) => HealthChecker::HttpHealthCheck(HttpHealthCheck {
            path: path.clone(),
            codec_client_type: codec.into(),
            ..HttpHealthCheck::default()
        }),
        (None, Some(service)) => HealthChecker::GrpcHealthCheck(GrpcHealthCheck {
            service_name: service.clone(),
            ..GrpcHealthCheck::default()
        }),
        (None, None) => HealthChecker::TcpHealthCheck(write_exchange(check.exchange.as_ref())),
    };
    core::HealthCheck {
        timeout: duration(check.timeout),
        interval: duration(check.every),
        no_traffic_interval: duration(check.every_without_traffic.unwrap_or(check.every)),
        unhealthy_interval: duration(check.every_when_out()),
        unhealthy_threshold: number(check.unhealthy_after),
        healthy_threshold: number(check.healthy_after),
        health_checker: Some(checker),
        ..core::HealthCheck::default()
    }
}

pub(super) fn read_check(check: &core::HealthCheck) -> Checked<HealthCheck> {
    let (http_path, grpc_service, exchange) = match &check.health_checker {
        Some(HealthChecker::HttpHealthCheck(http)) => (Some(http.path.clone()), None, None),
        Some(HealthChecker::GrpcHealthCheck(grpc)) => (None, Some(grpc.service_name.clone()), None),
        Some(HealthChecker::TcpHealthCheck(tcp)) => (None, None, read_exchange(tcp)?),
        _ => return wrong("health_checker", "only HTTP, gRPC and TCP checks are supported"),
    };
    let every = read_duration(&check.interval, "interval")?;
    let without_traffic = read_duration(&check.no_traffic_interval, "no_traffic_interval")?;
    Ok(HealthCheck {
        http_path,
        grpc_service,
        exchange,
        every,
        every_without_traffic: Some(without_traffic).filter(|without_traffic| *without_traffic != every),
        timeout: read_duration(&check.timeout, "timeout")?,
        unhealthy_after: read_number(&check.unhealthy_threshold, "unhealthy_threshold")?,
        healthy_after: read_number(&check.healthy_threshold, "healthy_threshold")?,
    })
}

/// As text, which is hexadecimal.
fn write_exchange(exchange: Option<&Exchange>) -> TcpHealthCheck {
    let payload = |bytes: &Vec<u8>| Payload { payload: Some(payload::Payload::Text(hex::encode(bytes))) };
    TcpHealthCheck {
        send: exchange.map(|exchange| &exchange.send).filter(|send| !send.is_empty()).map(payload),
        receive: exchange.iter().map(|exchange| payload(&exchange.receive)).collect(),
        proxy_protocol_config: None,
    }
}

/// Envoy sends nothing where nothing is to be received.
fn read_exchange(tcp: &TcpHealthCheck) -> Checked<Option<Exchange>> {
    let Some(receive) = tcp.receive.first() else { return Ok(None) };
    let send = tcp.send.as_ref().map_or(Ok(Vec::new()), |send| read_payload(send, "tcp_health_check.send"))?;
    Ok(Some(Exchange { send, receive: read_payload(receive, "tcp_health_check.receive[0]")? }))
}

fn read_payload(payload: &Payload, path: &str) -> Checked<Vec<u8>> {
    let bytes = match &payload.payload {
        Some(payload::Payload::Text(text)) => hex::decode(text),
        Some(payload::Payload::Binary(_)) | None => None,
    };
    bytes.map_or_else(|| wrong(path, "only text in hexadecimal is supported"), Ok)
}

pub(super) fn validate_outlier(outlier: &OutlierDetection) -> Checked<()> {
    for (count, path) in
        [(outlier.consecutive_5xx, "consecutive_5xx"), (outlier.consecutive_local, "consecutive_local_origin_failure")]
    {
        ensure(count != Some(0), path, || "is zero".to_owned())?;
    }
    if let Some(rate) = &outlier.success_rate {
        ensure(rate.hosts > 0 && rate.requests > 0, "success_rate_minimum_hosts", || "is zero".to_owned())?;
    }
    if let Some(failures) = &outlier.failure_percentage {
        ensure(failures.hosts > 0 && failures.requests > 0, "failure_percentage_minimum_hosts", || {
            "is zero".to_owned()
        })?;
        ensure((1..=100).contains(&failures.threshold), "failure_percentage_threshold", || {
            "must be 1 to 100".to_owned()
        })?;
    }
    ensure_positive(outlier.interval, "interval")?;
    ensure_positive(outlier.base_ejection, "base_ejection_time")?;
    ensure_positive(outlier.max_ejection, "max_ejection_time")?;
    ensure(outlier.max_percent <= 100, "max_ejection_percent", || "is above 100".to_owned())
}

/// What `consecutive_errors` counts is what Envoy calls gateway failures (502, 503, 504, and local failures, which it maps
/// to them). A detector is enforced always or never.
pub(super) fn write_outlier(outlier: &OutlierDetection) -> cluster::OutlierDetection {
    let enforced = |on: bool| number(if on { 100 } else { 0 });
    let split = outlier.consecutive_local.is_some();
    let mut message = cluster::OutlierDetection {
        consecutive_gateway_failure: Some(outlier.consecutive_errors).filter(|count| *count > 0).and_then(number),
        enforcing_consecutive_gateway_failure: enforced(outlier.consecutive_errors > 0),
        consecutive_5xx: outlier.consecutive_5xx.and_then(number),
        enforcing_consecutive_5xx: enforced(outlier.consecutive_5xx.is_some()),
        split_external_local_origin_errors: split,
        consecutive_local_origin_failure: outlier.consecutive_local.and_then(number),
        enforcing_success_rate: enforced(outlier.success_rate.is_some()),
        interval: duration(outlier.interval),
        base_ejection_time: duration(outlier.base_ejection),
        max_ejection_time: duration(outlier.max_ejection),
        max_ejection_percent: number(u32::from(outlier.max_percent)),
        ..cluster::OutlierDetection::default()
    };
    if split {
        message.enforcing_consecutive_local_origin_failure = enforced(true);
        message.enforcing_local_origin_success_rate = enforced(false);
    }
    if let Some(SuccessRate { hosts, requests, factor }) = &outlier.success_rate {
        message.success_rate_minimum_hosts = number(*hosts);
        message.success_rate_request_volume = number(*requests);
        message.success_rate_stdev_factor = number(*factor);
    }
    if let Some(FailurePercentage { threshold, hosts, requests }) = &outlier.failure_percentage {
        message.enforcing_failure_percentage = enforced(true);
        message.failure_percentage_threshold = number(u32::from(*threshold));
        message.failure_percentage_minimum_hosts = number(*hosts);
        message.failure_percentage_request_volume = number(*requests);
    }
    message
}

pub(super) fn read_outlier(outlier: &cluster::OutlierDetection) -> Checked<OutlierDetection> {
    let percent = read_number(&outlier.max_ejection_percent, "max_ejection_percent")?;
    let Ok(max_percent) = u8::try_from(percent) else {
        return wrong("max_ejection_percent", format!("{percent} is not supported"));
    };
    let success_rate = match &outlier.success_rate_minimum_hosts {
        None => None,
        Some(hosts) => Some(SuccessRate {
            hosts: hosts.value,
            requests: read_number(&outlier.success_rate_request_volume, "success_rate_request_volume")?,
            factor: read_number(&outlier.success_rate_stdev_factor, "success_rate_stdev_factor")?,
        }),
    };
    let failure_percentage = match &outlier.failure_percentage_minimum_hosts {
        None => None,
        Some(hosts) => Some(FailurePercentage {
            threshold: read_number(&outlier.failure_percentage_threshold, "failure_percentage_threshold")?
                .try_into()
                .or_else(|_| wrong("failure_percentage_threshold", "is above 100"))?,
            hosts: hosts.value,
            requests: read_number(&outlier.failure_percentage_request_volume, "failure_percentage_request_volume")?,
        }),
    };
    Ok(OutlierDetection {
        consecutive_errors: outlier.consecutive_gateway_failure.map_or(0, |count| count.value),
        consecutive_5xx: outlier.consecutive_5xx.map(|count| count.value),
        consecutive_local: outlier.consecutive_local_origin_failure.map(|count| count.value),
        success_rate,
        failure_percentage,
        interval: read_duration(&outlier.interval, "interval")?,
        base_ejection: read_duration(&outlier.base_ejection_time, "base_ejection_time")?,
        max_ejection: read_duration(&outlier.max_ejection_time, "max_ejection_time")?,
        max_percent,
    })
}
