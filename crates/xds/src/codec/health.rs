//! Active and passive health of clusters.

use std::time::Duration;

use envoy_types::pb::envoy::{
    config::{
        cluster::v3 as cluster,
        core::v3::{
            self as core,
            health_check::{HealthChecker, HttpHealthCheck, TcpHealthCheck},
        },
    },
    r#type::v3::CodecClientType,
};

use super::wire::{Checked, duration, ensure, ensure_positive, number, read_duration, read_number, wrong};
use crate::snapshot::{HealthCheck, OutlierDetection, UpstreamProtocol};

pub(super) fn validate_check(check: &HealthCheck) -> Checked<()> {
    ensure_positive(check.every, "interval")?;
    ensure_positive(check.timeout, "timeout")?;
    ensure(check.unhealthy_after > 0, "unhealthy_threshold", || "is zero".to_owned())?;
    ensure(check.healthy_after > 0, "healthy_threshold", || "is zero".to_owned())?;
    let path = check.http_path.as_deref().unwrap_or("/");
    let sendable = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
    ensure(sendable, "http_health_check.path", || format!("{path:?} is not a path"))
}

/// Envoy checks a cluster without traffic only once a minute by default; a standby is exactly that, so the interval
/// without traffic is the same.
pub(super) fn write_check(check: &HealthCheck, protocol: UpstreamProtocol) -> core::HealthCheck {
    let codec = match protocol {
        UpstreamProtocol::Http2 => CodecClientType::Http2,
        UpstreamProtocol::Http1 | UpstreamProtocol::Tcp => CodecClientType::Http1,
    };
    let checker = match &check.http_path {
        Some(path) => HealthChecker::HttpHealthCheck(HttpHealthCheck {
            path: path.clone(),
            codec_client_type: codec.into(),
            ..HttpHealthCheck::default()
        }),
        None => HealthChecker::TcpHealthCheck(TcpHealthCheck::default()),
    };
    core::HealthCheck {
        timeout: duration(check.timeout),
        interval: duration(check.every),
        no_traffic_interval: duration(check.every),
        unhealthy_threshold: number(check.unhealthy_after),
        healthy_threshold: number(check.healthy_after),
        health_checker: Some(checker),
        ..core::HealthCheck::default()
    }
}

pub(super) fn read_check(check: &core::HealthCheck) -> Checked<HealthCheck> {
    let http_path = match &check.health_checker {
        Some(HealthChecker::HttpHealthCheck(http)) => Some(http.path.clone()),
        Some(HealthChecker::TcpHealthCheck(_)) => None,
        _ => return wrong("health_checker", "only HTTP and TCP checks are supported"),
    };
    Ok(HealthCheck {
        http_path,
        every: read_duration(&check.interval, "interval")?,
        timeout: read_duration(&check.timeout, "timeout")?,
        unhealthy_after: read_number(&check.unhealthy_threshold, "unhealthy_threshold")?,
        healthy_after: read_number(&check.healthy_threshold, "healthy_threshold")?,
    })
}

pub(super) fn validate_outlier(outlier: &OutlierDetection) -> Checked<()> {
    ensure(outlier.consecutive_errors > 0, "consecutive_gateway_failure", || "is zero".to_owned())?;
    ensure_positive(outlier.base_ejection, "base_ejection_time")?;
    ensure_positive(outlier.max_ejection, "max_ejection_time")?;
    ensure(outlier.max_percent <= 100, "max_ejection_percent", || "is above 100".to_owned())
}

/// What we count is what Envoy calls gateway failures (502, 503, 504, and local failures, which it maps to them); its
/// other detectors are switched off. It looks for ended ejections once a second.
pub(super) fn write_outlier(outlier: &OutlierDetection) -> cluster::OutlierDetection {
    cluster::OutlierDetection {
        consecutive_gateway_failure: number(outlier.consecutive_errors),
        enforcing_consecutive_gateway_failure: number(100),
        enforcing_consecutive_5xx: number(0),
        enforcing_success_rate: number(0),
        interval: duration(Duration::from_secs(1)),
        base_ejection_time: duration(outlier.base_ejection),
        max_ejection_time: duration(outlier.max_ejection),
        max_ejection_percent: number(u32::from(outlier.max_percent)),
        ..cluster::OutlierDetection::default()
    }
}

pub(super) fn read_outlier(outlier: &cluster::OutlierDetection) -> Checked<OutlierDetection> {
    let percent = read_number(&outlier.max_ejection_percent, "max_ejection_percent")?;
    let Ok(max_percent) = u8::try_from(percent) else {
        return wrong("max_ejection_percent", format!("{percent} is not supported"));
    };
    Ok(OutlierDetection {
        consecutive_errors: read_number(&outlier.consecutive_gateway_failure, "consecutive_gateway_failure")?,
        base_ejection: read_duration(&outlier.base_ejection_time, "base_ejection_time")?,
        max_ejection: read_duration(&outlier.max_ejection_time, "max_ejection_time")?,
        max_percent,
    })
}
