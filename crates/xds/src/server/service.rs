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
    delta::DeltaCore,
    protocol::Protocol,
    shared::{Shared, Ticket},
    stream::StreamCore,
};
use crate::node::NodeInfo;

/// A proxy that does not read for this long loses its stream.
const PATIENCE: Duration = Duration::from_secs(30);

/// A peer that opens a stream says who it is within this time.
pub(super) const INTRODUCTION: Duration = Duration::from_secs(10);

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
        Ok(Response::new(start::<StreamCore>(&self.0, request)))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Ok(Response::new(start::<DeltaCore>(&self.0, request)))
    }
}

/// What came with the connection and the call.
pub(super) struct Claims {
    pub token: Option<String>,
    pub peer: Option<Arc<str>>,
}

impl Claims {
    pub fn of<T>(request: &Request<T>) -> Self {
        let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let token = header.and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
        let peer = request.extensions().get::<Peer>().and_then(|peer| peer.0.clone());
        Self { token, peer }
    }
}

fn start<P: Protocol + 'static>(shared: &Arc<Shared>, request: Request<Streaming<P::Request>>) -> Answers<P::Response> {
    let claims = Claims::of(&request);
    // One message under way: what comes after it is chosen only when the proxy has room for it.
    let (answers, stream) = mpsc::channel(1);
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        if let Err(status) = serve::<P>(&shared, &claims, request.into_inner(), &answers).await {
            // If the peer is gone nobody needs the reason.
            let _ = timeout(PATIENCE, answers.send(Err(status))).await;
        }
    });
    Box::pin(ReceiverStream::new(stream))
}

async fn serve<P: Protocol>(
    shared: &Shared,
    claims: &Claims,
    mut requests: Streaming<P::Request>,
    answers: &mpsc::Sender<Result<P::Response, Status>>,
) -> Result<(), Status> {
    let first = timeout(INTRODUCTION, requests.message()).await;
    let Some(first) = first.map_err(|_| Status::deadline_exceeded("no first message"))?? else { return Ok(()) };
    let node = NodeInfo::from_proto(P::node(&first).ok_or_else(|| Status::invalid_argument("no node"))?);
    let admit = |version: &str| {
        let (token, peer) = (claims.token.as_deref(), claims.peer.as_deref());
        let credentials = Credentials { token, peer, version, node: &node };
        shared.authenticate(credentials).map_err(Status::unauthenticated)
    };
    let ticket = shared.open(&admit(&P::version(&first).unwrap_or_default())?, node.clone());
    let end = converse::<P>(shared, &ticket, first, &mut requests, answers, &admit).await;
    let reason = match &end {
        Ok(()) => "the proxy closed it".to_owned(),
        Err(status) => status.message().to_owned(),
    };
    shared.close(&ticket, reason);
    end
}

async fn converse<P: Protocol>(
    shared: &Shared,
    ticket: &Ticket,
    first: P::Request,
    requests: &mut Streaming<P::Request>,
    answers: &mpsc::Sender<Result<P::Response, Status>>,
    admit: &(impl Fn(&str) -> Result<String, Status> + Sync),
) -> Result<(), Status> {
    let mut core = P::default();
    let mut closing = shared.closing();
    let mut request = Some(first);
    loop {
        if let Some(request) = request.take() {
            if let Some(version) = P::version(&request) {
                admit(&version)?;
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
