//! What both protocols have in common: a state machine of one stream that takes responses in and says what to send.

use std::{future::Future, time::Instant};

use envoy_types::pb::{
    envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient, google::rpc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming, transport::Channel};

use super::{Update, Verdict};

/// gRPC's INVALID_ARGUMENT.
const INVALID: i32 = 3;

/// One stream after another, without I/O and without a clock of its own.
pub(super) trait Protocol: Send {
    /// What is sent.
    type Request: Send + 'static;
    /// What the control plane sends.
    type Response: Send + 'static;

    /// Begins a stream. The first message says who we are.
    fn open(&mut self) -> Vec<Self::Request>;

    /// Takes in a response.
    fn on_response(&mut self, response: &Self::Response, now: Instant) -> Reaction<Self::Request>;

    /// Whether a snapshot was handed out that nothing was heard of yet.
    fn undecided(&self) -> bool;

    /// Tells the control plane what became of the snapshot that was handed out last.
    fn on_verdict(&mut self, verdict: &Verdict) -> Vec<Self::Request>;

    /// Opens the stream of this protocol.
    fn stream(
        client: AggregatedDiscoveryServiceClient<Channel>,
        requests: Request<ReceiverStream<Self::Request>>,
    ) -> impl Future<Output = Result<Streaming<Self::Response>, Status>> + Send;
}

/// What to send and what to tell after a response.
#[derive(Debug)]
pub(super) struct Reaction<R> {
    pub requests: Vec<R>,
    pub updates: Vec<Update>,
}

impl<R> Default for Reaction<R> {
    fn default() -> Self {
        Self { requests: Vec::new(), updates: Vec::new() }
    }
}

/// Why a response is refused, as the control plane is told.
pub(super) fn refusal(reason: &str) -> rpc::Status {
    rpc::Status { code: INVALID, message: reason.to_owned(), details: Vec::new() }
}
