//! The gRPC side: one task per stream that moves messages between tonic and the state machine.

use std::{pin::Pin, sync::Arc, time::Duration};

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    aggregated_discovery_service_server::AggregatedDiscoveryService,
};
use futures_util::Stream;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Credentials,
    connection::Peer,
    shared::{Shared, Ticket},
    stream::StreamCore,
};
use crate::node::NodeInfo;

/// A proxy that does not read for this long loses its stream.
const PATIENCE: Duration = Duration::from_secs(30);

/// A peer that opens a stream says who it is within this time.
const INTRODUCTION: Duration = Duration::from_secs(10);

pub(super) struct Ads(pub Arc<Shared>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = Answers<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let token = header.and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
        let peer = request.extensions().get::<Peer>().and_then(|peer| peer.0.clone());
        let claims = Claims { token, peer };
        // One message under way: what comes after it is chosen only when the proxy has room for it.
        let (answers, stream) = mpsc::channel(1);
        let shared = Arc::clone(&self.0);
        tokio::spawn(async move {
            if let Err(status) = serve(&shared, &claims, request.into_inner(), &answers).await {
                // If the peer is gone nobody needs the reason.
                let _ = timeout(PATIENCE, answers.send(Err(status))).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn delta_aggregated_resources(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("this control plane speaks state-of-the-world ADS only"))
    }
}

/// What came with the connection and the call.
struct Claims {
    token: Option<String>,
    peer: Option<Arc<str>>,
}

async fn serve(
    shared: &Shared,
    claims: &Claims,
    mut requests: Streaming<DiscoveryRequest>,
    answers: &mpsc::Sender<Result<DiscoveryResponse, Status>>,
) -> Result<(), Status> {
    let first = timeout(INTRODUCTION, requests.message()).await;
    let Some(first) = first.map_err(|_| Status::deadline_exceeded("no first message"))?? else { return Ok(()) };
    let node = NodeInfo::from_proto(first.node.as_ref().ok_or_else(|| Status::invalid_argument("no node"))?);
    let admit = |request: &DiscoveryRequest| {
        let (token, peer) = (claims.token.as_deref(), claims.peer.as_deref());
        let credentials = Credentials { token, peer, version: &request.version_info, node: &node };
        shared.authenticate(credentials).map_err(Status::unauthenticated)
    };
    let ticket = shared.open(&admit(&first)?, node.clone());
    let end = converse(shared, &ticket, first, &mut requests, answers, &admit).await;
    let reason = match &end {
        Ok(()) => "the proxy closed it".to_owned(),
        Err(status) => status.message().to_owned(),
    };
    shared.close(&ticket, reason);
    end
}

async fn converse(
    shared: &Shared,
    ticket: &Ticket,
    first: DiscoveryRequest,
    requests: &mut Streaming<DiscoveryRequest>,
    answers: &mpsc::Sender<Result<DiscoveryResponse, Status>>,
    admit: &(impl Fn(&DiscoveryRequest) -> Result<String, Status> + Sync),
) -> Result<(), Status> {
    let mut core = StreamCore::default();
    let mut closing = shared.closing();
    let mut request = Some(first);
    loop {
        if let Some(request) = request.take() {
            // What it has of each kind is told when it asks for that kind first.
            if request.response_nonce.is_empty() {
                admit(&request)?;
            }
            let heard = core.on_request(&request).map_err(Status::invalid_argument)?;
            shared.heard(ticket, heard);
        }
        while let Some(response) = shared.next_response(ticket, &mut core)? {
            let sent = timeout(PATIENCE, answers.send(Ok(response))).await;
            match sent.map_err(|_| Status::deadline_exceeded("the proxy does not read"))? {
                Ok(()) => {}
                Err(_) => return Ok(()),
            }
        }
        tokio::select! {
            message = requests.message() => match message? {
                Some(message) => request = Some(message),
                None => return Ok(()),
            },
            () = ticket.changed() => {}
            _ = closing.wait_for(|closing| *closing) => return Err(Status::unavailable("the control plane stops")),
            () = answers.closed() => return Ok(()),
        }
    }
}
