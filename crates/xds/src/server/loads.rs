//! Load reports over gRPC (LRS): who may open an ADS stream may report, and is asked for all its clusters.

use std::{pin::Pin, sync::Arc, time::Instant};

use envoy_types::pb::{
    envoy::service::load_stats::v3::{
        LoadStatsRequest, LoadStatsResponse, load_reporting_service_server::LoadReportingService,
    },
    google::protobuf,
};
use futures_util::Stream;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Credentials,
    service::{Claims, INTRODUCTION},
    shared::Shared,
};
use crate::{load::ClusterLoad, node::NodeInfo};

pub(super) struct Lrs(pub Arc<Shared>);

#[tonic::async_trait]
impl LoadReportingService for Lrs {
    type StreamLoadStatsStream = Pin<Box<dyn Stream<Item = Result<LoadStatsResponse, Status>> + Send>>;

    async fn stream_load_stats(
        &self,
        request: Request<Streaming<LoadStatsRequest>>,
    ) -> Result<Response<Self::StreamLoadStatsStream>, Status> {
        let claims = Claims::of(&request);
        // One answer, and perhaps the reason of the end: there is room for both, so that a proxy that does not read holds nothing up.
        let (answers, stream) = mpsc::channel(2);
        let shared = Arc::clone(&self.0);
        tokio::spawn(async move {
            if let Err(status) = serve(&shared, &claims, request.into_inner(), &answers).await {
                // If the peer is gone nobody needs the reason.
                let _ = answers.try_send(Err(status));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

async fn serve(
    shared: &Shared,
    claims: &Claims,
    mut reports: Streaming<LoadStatsRequest>,
    answers: &mpsc::Sender<Result<LoadStatsResponse, Status>>,
) -> Result<(), Status> {
    let first = timeout(INTRODUCTION, reports.message()).await;
    let Some(first) = first.map_err(|_| Status::deadline_exceeded("no first message"))?? else { return Ok(()) };
    let node = NodeInfo::from_proto(first.node.as_ref().ok_or_else(|| Status::invalid_argument("no node"))?);
    let (token, peer) = (claims.token.as_deref(), claims.peer.as_deref());
    let credentials = Credentials { token, peer, version: "", node: &node };
    let proxy = shared.authenticate(credentials).map_err(Status::unauthenticated)?;
    let asked = LoadStatsResponse {
        send_all_clusters: true,
        load_reporting_interval: Some(protobuf::Duration {
            seconds: i64::try_from(shared.reports.as_secs()).unwrap_or(i64::MAX),
            nanos: 0,
        }),
        ..LoadStatsResponse::default()
    };
    if answers.try_send(Ok(asked)).is_err() {
        return Ok(());
    }
    let mut closing = shared.closing();
    let mut report = Some(first);
    loop {
        if let Some(report) = report.take() {
            let loads = report.cluster_stats.iter().filter_map(ClusterLoad::from_proto).collect();
            shared.loads().note(&proxy, loads, Instant::now());
        }
        tokio::select! {
            message = reports.message() => match message? {
                Some(message) => report = Some(message),
                None => return Ok(()),
            },
            _ = closing.wait_for(|closing| *closing) => return Err(Status::unavailable("the control plane stops")),
            () = answers.closed() => return Ok(()),
        }
    }
}
