//! `firedrill sample promote ledger`: the step of a recovery plan that makes a standby the primary.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use hyper::{StatusCode, body::Bytes};
use serde_json::Value;

use super::{SampleError, http::Caller};

/// Bound on a promotion, catching up included.
const PATIENCE: Duration = Duration::from_secs(8);
/// Pause before instances that did not answer are asked again.
const AGAIN: Duration = Duration::from_millis(200);

/// Promotes the first instance that answers of those in `FIREDRILL_ENDPOINTS_<SERVICE>`, or of those in one region:
/// `FIREDRILL_ENDPOINTS_<SERVICE>_IN_<REGION>`. Instances that do not answer yet are asked again for a while: an undo runs
/// as its region is being started. Returns a line for people.
///
/// # Errors
/// When the environment names none, or none became primary.
pub async fn run(service: &str, region: Option<&str>) -> Result<String, SampleError> {
    let upper = |name: &str| name.to_uppercase().replace('-', "_");
    let suffix = region.map(|region| format!("_IN_{}", upper(region))).unwrap_or_default();
    let variable = format!("FIREDRILL_ENDPOINTS_{}{suffix}", upper(service));
    let endpoints = std::env::var(&variable)
        .map_err(|_| SampleError::Promotion(format!("{variable} is not set: which {service} shall be promoted?")))?;
    let until = Instant::now() + PATIENCE;
    loop {
        match promote(service, &endpoints).await {
            Ok(line) => return Ok(line),
            Err(seen) if seen.is_empty() => {
                return Err(SampleError::Promotion(format!("{service} was not promoted: {variable} is empty")));
            }
            Err(seen) if Instant::now() >= until => {
                return Err(SampleError::Promotion(format!("{service} was not promoted: {}", seen.join("; "))));
            }
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

async fn promote(service: &str, endpoints: &str) -> Result<String, Vec<String>> {
    let mut seen = Vec::new();
    for endpoint in endpoints.split(',').map(str::trim).filter(|e| !e.is_empty()) {
        let Ok(address) = endpoint.parse::<SocketAddr>() else {
            seen.push(format!("`{endpoint}` is no address"));
            continue;
        };
        match Caller::new(address).post(service, "/promote", Bytes::new(), false, PATIENCE).await {
            Ok((StatusCode::OK, body)) => return Ok(line(service, &body)),
            Ok((status, body)) => seen.push(format!("{endpoint}: status {status}: {}", String::from_utf8_lossy(&body))),
            Err(error) => seen.push(format!("{endpoint}: {error}")),
        }
    }
    Err(seen)
}

fn line(service: &str, body: &[u8]) -> String {
    let report: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |field: &str| report[field].as_str().unwrap_or("?").to_owned();
    let silent: Vec<&str> = report["silent"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let how = match report["how"].as_str() {
        Some("already") => "it was already".to_owned(),
        Some("handedOver") => "handed over by the former primary".to_owned(),
        _ if silent.is_empty() => "by force: there was no primary".to_owned(),
        _ => format!("by force: no answer from {}", silent.join(", ")),
    };
    format!(
        "{service} in {} is primary in epoch {}, {} entries ({how})",
        text("region"),
        report["epoch"],
        report["entries"]
    )
}
