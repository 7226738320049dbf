//! The API over HTTP: authentication, routes, answers. Decisions are elsewhere.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequest, Path, Query, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    api::{
        Applied, ApplyRequest, Certificate, CertificateRequest, ErrorBody, Events, JoinToken, LeaseReport,
        LeaseRequest, LoadReport, OverlayReport, OverlayRequest, Placement, Placements, ProxyConfiguration,
        ProxyReport, RecoveryReport, RecoveryRequest, RequestsReport, Revision, RollbackRequest, SourceReport,
        TokenRequest, Trust,
    },
    mesh::{Failure, Mesh},
    metrics,
    overlays::{RECOVERY, Refusal},
    proxies, recovery, secret,
};

/// Largest body that is read: manifests of a large mesh.
const MAX_BODY: usize = 8 << 20;
/// The same where the caller need not have proved anything: a request for a certificate.
const MAX_UNPROVED_BODY: usize = 128 << 10;
/// Bound on the arrival of a body.
const BODY_LIMIT: Duration = Duration::from_secs(10);
/// Longest wait of a long poll.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// What the handlers need.
pub(crate) struct Api {
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) recovery: recovery::Handle,
    pub(crate) token: String,
    /// True while it stops: long polls end early.
    pub(crate) stopping: watch::Receiver<bool>,
}

type Shared = State<Arc<Api>>;
type Answer<T> = Result<Json<T>, Failure>;

/// The routes.
pub(crate) fn router(api: Arc<Api>) -> Router {
    let guarded = Router::new()
        .route("/v1/config", put(apply).get(config))
        .route("/v1/revisions", get(revisions))
        .route("/v1/revisions/{number}", get(revision))
        .route("/v1/revisions/{number}/rollback", post(roll_back))
        .route("/v1/source", put(note_source).get(source))
        .route("/v1/sources", get(async |State(api): Shared| Json(api.mesh.sources_of_endpoints())))
        .route("/v1/placements", put(place).get(placements))
        .route("/v1/placements/{proxy}", put(place_one).delete(displace))
        .route("/v1/tokens", post(create_token))
        .route("/v1/trust", get(trust))
        .route("/v1/proxies", get(report_proxies))
        .route("/v1/proxies/{name}/config", get(proxy_configuration))
        .route("/v1/proxies/{name}/requests", get(requests))
        .route("/v1/loads", get(loads))
        .route("/v1/leases", get(leases))
        .route("/v1/leases/{id}", put(take_lease).delete(release_lease))
        .route("/v1/leases/{id}/heartbeat", post(renew_lease))
        .route("/v1/leases/{id}/overlays/{name}", put(lay).delete(take_back))
        .route("/v1/events", get(events))
        .route("/v1/recovery", get(recoveries))
        .route("/v1/recovery/{plan}/failover", post(failover))
        .route("/v1/recovery/{plan}/failback", post(failback))
        .route_layer(middleware::from_fn_with_state(api.clone(), authenticate));
    Router::new()
        .merge(guarded)
        .route("/v1/certificates", post(certificate).layer(DefaultBodyLimit::max(MAX_UNPROVED_BODY)))
        .route("/metrics", get(async |State(api): Shared| metrics::text(&api.mesh)))
        .route("/healthz", get(async || Json(json!({"ok": true}))))
        .route("/readyz", get(async || Json(json!({"ready": true}))))
        .fallback(async || Failure::Refused(Refusal::Missing("there is nothing at this path".to_owned())))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(api)
}

async fn loads(State(api): Shared) -> Json<Vec<LoadReport>> {
    Json(api.mesh.ads.loads().into_iter().map(LoadReport::from).collect())
}

#[derive(Deserialize)]
struct After {
    after: Option<u64>,
}

async fn requests(
    State(api): Shared,
    Path(name): Path<String>,
    Query(After { after }): Query<After>,
) -> Answer<RequestsReport> {
    Ok(Json(proxies::requests(&api.mesh, &name, after).await?))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

async fn authenticate(State(api): Shared, request: Request, next: Next) -> Response {
    match bearer(request.headers()) {
        Some(token) if secret::equal(token, &api.token) => next.run(request).await,
        Some(_) => Failure::Unauthorized("the bearer token is wrong".to_owned()).into_response(),
        None => Failure::Unauthorized("a bearer token is missing".to_owned()).into_response(),
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, error, problems) = match self {
            Self::Refused(Refusal::Invalid(error)) => (StatusCode::BAD_REQUEST, error, Vec::new()),
            Self::Refused(Refusal::Missing(error)) => (StatusCode::NOT_FOUND, error, Vec::new()),
            Self::Refused(Refusal::Conflict(error)) => (StatusCode::CONFLICT, error, Vec::new()),
            Self::Stale(error) => (StatusCode::PRECONDITION_FAILED, error, Vec::new()),
            Self::Unauthorized(error) => (StatusCode::UNAUTHORIZED, error, Vec::new()),
            Self::Manifests(problems) => {
                let error = format!("the manifests have {} problem(s)", problems.len());
                (StatusCode::UNPROCESSABLE_ENTITY, error, problems)
            }
            Self::Internal(error) => {
                tracing::error!(error, "a call failed");
                (StatusCode::INTERNAL_SERVER_ERROR, error, Vec::new())
            }
        };
        (status, Json(ErrorBody { error, problems })).into_response()
    }
}

/// A JSON body whose refusal is an [`ErrorBody`].
struct Body<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let arrives = Bytes::from_request(request, state);
        let arrived = tokio::time::timeout(BODY_LIMIT, arrives).await.map_err(|_| {
            let body = ErrorBody { error: "the body did not arrive in time".to_owned(), problems: Vec::new() };
            (StatusCode::REQUEST_TIMEOUT, Json(body)).into_response()
        })?;
        let bytes = arrived.map_err(|rejection| {
            let body = ErrorBody { error: rejection.body_text(), problems: Vec::new() };
            (rejection.status(), Json(body)).into_response()
        })?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            Failure::Refused(Refusal::Invalid(format!("the body is not what is asked for: {error}"))).into_response()
        })
    }
}

fn missing(what: &str) -> Failure {
    Failure::Refused(Refusal::Missing(what.to_owned()))
}

/// The revision that `if-match` names, as `GET /v1/config` tells it in `etag`.
fn expected(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.trim().trim_matches('"').parse().ok());
    number.map(Some).ok_or_else(|| Refusal::Invalid("`if-match` is not the number of a revision in quotes".to_owned()))
}

async fn apply(State(api): Shared, headers: HeaderMap, Body(mut request): Body<ApplyRequest>) -> Answer<Applied> {
    request.expect = request.expect.or(expected(&headers)?);
    api.mesh.apply(request).await.map(Json)
}

async fn roll_back(
    State(api): Shared,
    Path(number): Path<String>,
    headers: HeaderMap,
    Body(mut request): Body<RollbackRequest>,
) -> Answer<Applied> {
    let number = number.parse().map_err(|_| missing(&format!("there is no revision {number}")))?;
    request.expect = request.expect.or(expected(&headers)?);
    api.mesh.roll_back(number, request).await.map(Json)
}

async fn config(State(api): Shared) -> Result<Response, Failure> {
    let revision = api.mesh.store.latest().await?.ok_or_else(|| missing("no manifests were applied yet"))?;
    let tag = format!("\"{}\"", revision.number);
    Ok(([(header::ETAG, tag)], Json(revision)).into_response())
}

async fn note_source(State(api): Shared, Body(report): Body<SourceReport>) -> Json<Value> {
    api.mesh.note_source(report);
    Json(json!({}))
}

async fn source(State(api): Shared) -> Answer<SourceReport> {
    api.mesh.state().source.clone().map(Json).ok_or_else(|| missing("nobody watches manifests"))
}

async fn revisions(State(api): Shared) -> Answer<Vec<Revision>> {
    Ok(Json(api.mesh.store.revisions().await?))
}

async fn revision(State(api): Shared, Path(number): Path<String>) -> Answer<Revision> {
    let none = || missing(&format!("there is no revision {number}"));
    let parsed = number.parse().map_err(|_| none())?;
    api.mesh.store.revision(parsed).await?.map(Json).ok_or_else(none)
}

async fn place(State(api): Shared, Body(placements): Body<Placements>) -> Answer<Value> {
    api.mesh.place(placements).await.map(|()| Json(json!({})))
}

async fn place_one(State(api): Shared, Path(proxy): Path<String>, Body(placement): Body<Placement>) -> Answer<Value> {
    if placement.proxy != proxy {
        let name = &placement.proxy;
        return Err(Refusal::Invalid(format!("the path says proxy {proxy}, and the body {name}")).into());
    }
    api.mesh.place_one(placement).await.map(|()| Json(json!({})))
}

async fn displace(State(api): Shared, Path(proxy): Path<String>) -> Answer<Value> {
    api.mesh.displace(&proxy).await.map(|()| Json(json!({})))
}

async fn placements(State(api): Shared) -> Json<Placements> {
    Json(Placements::clone(&api.mesh.state().placements))
}

async fn certificate(
    State(api): Shared,
    headers: HeaderMap,
    Body(request): Body<CertificateRequest>,
) -> Answer<Certificate> {
    api.mesh.certificate(bearer(&headers), &request).await.map(Json)
}

async fn create_token(State(api): Shared, Body(request): Body<TokenRequest>) -> Answer<JoinToken> {
    api.mesh.create_token(&request).await.map(Json)
}

async fn trust(State(api): Shared) -> Answer<Trust> {
    api.mesh.report_trust().map(Json).ok_or_else(|| missing("no manifests were applied yet"))
}

async fn report_proxies(State(api): Shared) -> Json<Vec<ProxyReport>> {
    Json(proxies::report(&api.mesh).await)
}

async fn proxy_configuration(State(api): Shared, Path(name): Path<String>) -> Answer<ProxyConfiguration> {
    let none = || missing(&format!("nothing is published for a proxy `{name}`"));
    proxies::configuration(&api.mesh, &name).map(Json).ok_or_else(none)
}

async fn take_lease(
    State(api): Shared,
    Path(id): Path<String>,
    Body(request): Body<LeaseRequest>,
) -> Answer<LeaseReport> {
    // A lease that lapsed this moment ends for everybody before one of the same name begins.
    api.mesh.expire_leases();
    api.recovery.settle().await;
    let report = api.mesh.take_lease(&id, request).await?;
    // The recovery controller must know the lease before its holder breaks anything.
    api.recovery.settle().await;
    Ok(Json(report))
}

async fn renew_lease(State(api): Shared, Path(id): Path<String>) -> Answer<LeaseReport> {
    api.mesh.renew_lease(&id).await.map(Json)
}

async fn release_lease(State(api): Shared, Path(id): Path<String>) -> Answer<Value> {
    api.mesh.release_lease(&id).await?;
    // What is asked after this shows recovery as the release left it.
    api.recovery.settle().await;
    Ok(Json(json!({})))
}

async fn leases(State(api): Shared) -> Json<Vec<LeaseReport>> {
    let state = api.mesh.state();
    let Some(config) = &state.config else { return Json(Vec::new()) };
    let now = Instant::now();
    let ids = state.table.ids();
    Json(ids.iter().filter_map(|id| state.table.report(id, config, &state.placements, now)).collect())
}

async fn lay(
    State(api): Shared,
    Path((id, name)): Path<(String, String)>,
    Body(request): Body<OverlayRequest>,
) -> Answer<OverlayReport> {
    if name.starts_with(RECOVERY) {
        return Err(
            Refusal::Invalid(format!("names that begin with `{RECOVERY}` are the recovery controller's")).into()
        );
    }
    let mut reports = api.mesh.lay(&id, vec![(name, request)]).await?;
    reports.pop().map(Json).ok_or_else(|| Failure::Internal("the overlay was not laid".to_owned()))
}

async fn take_back(State(api): Shared, Path((id, name)): Path<(String, String)>) -> Answer<Value> {
    let own = |lease: &str, other: &str| lease == id && other == name && !other.starts_with(RECOVERY);
    if api.mesh.take_back(own).await?.is_empty() {
        return Err(missing(&format!("there is no overlay {name} under lease {id}")));
    }
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
struct Range {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    wait_ms: u64,
}

async fn events(State(api): Shared, Query(range): Query<Range>) -> Json<Events> {
    let wait = Duration::from_millis(range.wait_ms).min(MAX_WAIT);
    let mut stopping = api.stopping.clone();
    let stopped = async { stopping.wait_for(|stopping| *stopping).await.is_ok() };
    let wait = tokio::select! {
        events = api.mesh.log.after(range.after, wait) => return Json(events),
        _ = stopped => Duration::ZERO,
    };
    Json(api.mesh.log.after(range.after, wait).await)
}

async fn recoveries(State(api): Shared) -> Answer<Vec<RecoveryReport>> {
    api.recovery.reports().await.map(Json)
}

async fn failover(
    State(api): Shared,
    Path(plan): Path<String>,
    Body(request): Body<RecoveryRequest>,
) -> Answer<RecoveryReport> {
    api.recovery.failover(plan, request.reason).await.map(Json)
}

async fn failback(
    State(api): Shared,
    Path(plan): Path<String>,
    Body(request): Body<RecoveryRequest>,
) -> Answer<RecoveryReport> {
    api.recovery.failback(plan, request.reason).await.map(Json)
}
