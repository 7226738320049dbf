//! A plain HTTP client, no retries.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Method, Request, StatusCode, header};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Value of `x-firedrill-answered-by`.
    pub answered_by: Option<String>,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("not JSON ({e}): {}", String::from_utf8_lossy(&self.body)))
    }
}

/// A client with kept connections.
#[derive(Clone, Debug)]
pub struct Web(Client<HttpConnector, Full<Bytes>>);

impl Default for Web {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self(Client::builder(TokioExecutor::new()).retry_canceled_requests(false).build(connector))
    }
}

impl Web {
    /// One request.
    ///
    /// # Errors
    /// What went wrong, or that the time ran out.
    pub async fn send(&self, request: Request<Full<Bytes>>, bound: Duration) -> Result<Answer, String> {
        let exchange = async {
            let response = self.0.request(request).await.map_err(|e| format!("{e:?}"))?;
            let status = response.status();
            let answered_by =
                response.headers().get("x-firedrill-answered-by").map(|v| v.to_str().unwrap_or_default().to_owned());
            let headers = response.headers().clone();
            let body = response.into_body().collect().await.map_err(|e| format!("{e:?}"))?.to_bytes();
            Ok(Answer { status, headers, answered_by, body })
        };
        tokio::time::timeout(bound, exchange).await.unwrap_or_else(|_| Err(format!("no answer in {bound:?}")))
    }

    /// GET, asking who answered.
    ///
    /// # Errors
    /// As [`Web::send`].
    pub async fn get(&self, address: SocketAddr, path: &str) -> Result<Answer, String> {
        self.send(get(address, path), Duration::from_secs(5)).await
    }
}

/// A GET that asks who answered.
pub fn get(address: SocketAddr, path: &str) -> Request<Full<Bytes>> {
    request(Method::GET, address, path, Bytes::new())
}

/// Any request that asks who answered.
pub fn request(method: Method, address: SocketAddr, path: &str, body: Bytes) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(format!("http://{address}{path}"))
        .header("x-firedrill-probe", "e2e")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .expect("a valid request")
}
