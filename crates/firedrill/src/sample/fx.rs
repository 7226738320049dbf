//! Exchange rates.

use hyper::{Method, StatusCode};
use serde_json::json;

use super::{
    SampleError, Workload,
    http::{self, Answer, Call},
};

/// Serves `GET /rates/{currency}`.
///
/// # Errors
/// When it cannot listen.
pub async fn run(workload: Workload) -> Result<(), SampleError> {
    let Workload { listen, name, region, version, .. } = workload;
    http::serve(listen, move |call| {
        let answer = handle(&call, &name, &region, &version);
        async move { answer }
    })
    .await
}

fn handle(call: &Call, name: &str, region: &str, version: &str) -> Answer {
    if call.method != Method::GET {
        return http::failure(StatusCode::METHOD_NOT_ALLOWED, "only GET");
    }
    match call.path.strip_prefix("/rates/") {
        None if call.path == "/healthz" => {
            http::answer(StatusCode::OK, &json!({ "workload": name, "version": version }))
        }
        None => http::failure(StatusCode::NOT_FOUND, "try /rates/EUR"),
        Some(currency) => match rate(currency) {
            Some(rate) => http::answer(
                StatusCode::OK,
                &json!({ "currency": currency, "perUsd": rate, "region": region, "workload": name, "version": version }),
            ),
            None => http::failure(StatusCode::NOT_FOUND, format!("no rate for {currency}")),
        },
    }
}

/// A fixed table: what matters here is that the call happens.
fn rate(currency: &str) -> Option<f64> {
    Some(match currency {
        "USD" => 1.0,
        "EUR" => 0.92,
        "GBP" => 0.79,
        "CHF" => 0.88,
        "JPY" => 151.4,
        _ => return None,
    })
}
