//! Accounts: what customers talk to. Keeps nothing itself; asks the ledger, and fx for payments.

use hyper::{Method, StatusCode, body::Bytes};
use serde_json::{Value, json};

use super::{
    SampleError, Workload,
    http::{self, Answer, Call, Caller, PATIENCE},
};

#[derive(Clone)]
struct Accounts {
    name: String,
    region: String,
    mesh: Caller,
}

/// Serves `GET /accounts/{id}`, `POST /payments` and `GET /payments?probe=…`.
///
/// # Errors
/// When it cannot listen.
pub async fn run(workload: Workload) -> Result<(), SampleError> {
    let Workload { listen, name, region, mesh, .. } = workload;
    let accounts = Accounts { name, region, mesh: Caller::new(mesh) };
    http::serve(listen, move |call| {
        let accounts = accounts.clone();
        async move { accounts.handle(call).await.unwrap_or_else(|refusal| refusal) }
    })
    .await
}

impl Accounts {
    async fn handle(&self, call: Call) -> Result<Answer, Answer> {
        match (&call.method, call.path.as_str()) {
            // Shallow on purpose: if it asked the ledger, an outage of the ledger would take the accounts out too.
            (&Method::GET, "/healthz") => Ok(http::answer(StatusCode::OK, &json!({ "workload": self.name }))),
            (&Method::POST, "/payments") => self.pay(call.body).await,
            (&Method::GET, "/payments") => self.payments(call.parameter("probe")).await,
            (&Method::GET, path) => match path.strip_prefix("/accounts/") {
                Some(id) if !id.is_empty() => self.account(id).await,
                _ => Err(http::failure(StatusCode::NOT_FOUND, "try /accounts/42 or /payments")),
            },
            _ => Err(http::failure(StatusCode::METHOD_NOT_ALLOWED, "only GET, and POST /payments")),
        }
    }

    async fn account(&self, id: &str) -> Result<Answer, Answer> {
        let balance = self.ask("ledger", &format!("/balances/{id}")).await?;
        let body = json!({
            "account": id, "balance": balance["balance"], "currency": "EUR", "workload": self.name, "region": self.region,
        });
        Ok(http::answer(StatusCode::OK, &body))
    }

    async fn pay(&self, body: Bytes) -> Result<Answer, Answer> {
        let payment: Value = serde_json::from_slice(&body)
            .map_err(|e| http::failure(StatusCode::BAD_REQUEST, format!("a payment is JSON: {e}")))?;
        let Value::Object(mut entry) = payment else {
            return Err(http::failure(StatusCode::BAD_REQUEST, "a payment is a JSON object with `id` and `sequence`"));
        };
        let rate = self.ask("fx", "/rates/EUR").await?;
        entry.insert("rate".to_owned(), rate["perUsd"].clone());
        let entry = Bytes::from(Value::Object(entry).to_string());
        let (status, body) =
            self.mesh.post("ledger", "/entries", entry, false, PATIENCE).await.map_err(|e| e.to_answer("ledger"))?;
        Ok(pass(status, &body))
    }

    async fn payments(&self, probe: Option<&str>) -> Result<Answer, Answer> {
        let path = probe.map_or_else(|| "/entries".to_owned(), |probe| format!("/entries?probe={probe}"));
        let (status, body) = self.mesh.get("ledger", &path, PATIENCE).await.map_err(|e| e.to_answer("ledger"))?;
        Ok(pass(status, &body))
    }

    /// GET of JSON; anything but 200 becomes the answer to our own caller, as it was.
    async fn ask(&self, service: &str, path: &str) -> Result<Value, Answer> {
        let (status, body) = self.mesh.get(service, path, PATIENCE).await.map_err(|e| e.to_answer(service))?;
        if status != StatusCode::OK {
            return Err(pass(status, &body));
        }
        serde_json::from_slice(&body)
            .map_err(|e| http::failure(StatusCode::BAD_GATEWAY, format!("{service} answered no JSON: {e}")))
    }
}

/// Another service's answer as our own.
fn pass(status: StatusCode, body: &Bytes) -> Answer {
    match serde_json::from_slice(body) {
        Ok(body) => http::answer(status, &body),
        Err(_) => http::failure(status, String::from_utf8_lossy(body).into_owned()),
    }
}
