//! The supervisor's HTTP interface.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, Query, Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    api::{ErrorBody, Events, HoldReport, HoldRequest, MeshReport, UndoRequest, WorkloadReport},
    entrusted::{Entrusted, TrustError},
    holds::{HoldError, Holds},
    journal::Journal,
    view::View,
};

/// What the interface answers from.
#[derive(Clone)]
pub struct Served {
    /// The mesh.
    pub view: View,
    /// Holds.
    pub holds: Holds,
    /// Undos of drill engines.
    pub entrusted: Entrusted,
    /// Events.
    pub journal: Arc<Journal>,
    /// Bearer token.
    pub token: Arc<str>,
}

/// All routes, behind the token.
pub fn router(served: Served) -> Router {
    Router::new()
        .route("/v1/mesh", get(mesh))
        .route("/v1/workloads", get(workloads))
        .route("/v1/holds", post(take))
        .route("/v1/holds/{id}", delete(release))
        .route("/v1/holds/{id}/heartbeat", post(heartbeat))
        .route("/v1/undos", post(entrust))
        .route("/v1/undos/{lease}", delete(keep))
        .route("/v1/undos/{lease}/heartbeat", post(renew))
        .route("/v1/events", get(events))
        .layer(middleware::from_fn_with_state(served.clone(), authorize))
        .with_state(served)
}

struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(ErrorBody { error: self.1 })).into_response()
    }
}

impl From<HoldError> for Refusal {
    fn from(error: HoldError) -> Self {
        let status = match error {
            HoldError::Malformed(_) => StatusCode::BAD_REQUEST,
            HoldError::Conflict(_) => StatusCode::CONFLICT,
            HoldError::Gone(_) => StatusCode::NOT_FOUND,
        };
        Self(status, error.to_string())
    }
}

impl From<TrustError> for Refusal {
    fn from(error: TrustError) -> Self {
        let status = match error {
            TrustError::Malformed(_) => StatusCode::BAD_REQUEST,
            TrustError::Unknown(_) => StatusCode::CONFLICT,
            TrustError::Gone(_) => StatusCode::NOT_FOUND,
        };
        Self(status, error.to_string())
    }
}

async fn authorize(State(served): State<Served>, request: Request, next: Next) -> Response {
    let given =
        request.headers().get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    // In time that does not depend on where they differ.
    let same = given.is_some_and(|given| {
        let token = served.token.as_bytes();
        given.len() == token.len() && given.iter().zip(token).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
    });
    if same {
        next.run(request).await
    } else {
        Refusal(StatusCode::UNAUTHORIZED, "needs the token of run/supervisor.json".to_owned()).into_response()
    }
}

async fn mesh(State(served): State<Served>) -> Json<MeshReport> {
    Json(served.view.mesh())
}

async fn workloads(State(served): State<Served>) -> Json<Vec<WorkloadReport>> {
    Json(served.view.mesh().workloads)
}

async fn take(State(served): State<Served>, body: axum::body::Bytes) -> Result<Json<HoldReport>, Refusal> {
    let request: HoldRequest =
        serde_json::from_slice(&body).map_err(|error| Refusal(StatusCode::BAD_REQUEST, error.to_string()))?;
    Ok(Json(served.holds.take(request).await?))
}

async fn heartbeat(State(served): State<Served>, Path(id): Path<String>) -> Result<Json<Value>, Refusal> {
    served.holds.heartbeat(&id)?;
    Ok(Json(json!({})))
}

async fn release(State(served): State<Served>, Path(id): Path<String>) -> Json<Value> {
    served.holds.release(&id);
    Json(json!({}))
}

async fn entrust(State(served): State<Served>, body: axum::body::Bytes) -> Result<Json<Value>, Refusal> {
    let request: UndoRequest =
        serde_json::from_slice(&body).map_err(|error| Refusal(StatusCode::BAD_REQUEST, error.to_string()))?;
    served.entrusted.take(&request)?;
    Ok(Json(json!({})))
}

async fn renew(State(served): State<Served>, Path(lease): Path<String>) -> Result<Json<Value>, Refusal> {
    served.entrusted.heartbeat(&lease)?;
    Ok(Json(json!({})))
}

async fn keep(State(served): State<Served>, Path(lease): Path<String>) -> Json<Value> {
    served.entrusted.release(&lease);
    Json(json!({}))
}

#[derive(Deserialize)]
struct EventsQuery {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    wait_ms: u64,
}

async fn events(State(served): State<Served>, Query(query): Query<EventsQuery>) -> Json<Events> {
    Json(served.journal.after(query.after, Duration::from_millis(query.wait_ms)).await)
}
