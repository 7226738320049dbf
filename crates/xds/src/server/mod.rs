//! The ADS server: one state machine per stream, and the gRPC service around it.

mod als;
mod bodies;
mod book;
mod connection;
mod delta;
#[cfg(test)]
mod delta_tests;
mod desired;
mod held;
mod leased;
mod loads;
mod protocol;
mod service;
mod shared;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use envoy_types::pb::envoy::service::{
    accesslog::v3::access_log_service_server::AccessLogServiceServer,
    discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer,
    load_stats::v3::load_reporting_service_server::LoadReportingServiceServer,
};
use futures_util::Stream;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::broadcast,
};
use tokio_stream::StreamExt;

pub use self::book::{Load, Total};
use self::{
    als::{Als, Sink},
    connection::Connection,
    loads::Lrs,
    service::Ads,
    shared::Shared,
};
use crate::{
    access::Request,
    codec::{Beside, CodecError, Layer},
    node::NodeInfo,
    overlay::Overlay,
    resource::ResourceKind,
    snapshot::Snapshot,
};

/// What a proxy presents when it opens a stream.
#[derive(Clone, Copy, Debug)]
pub struct Credentials<'a> {
    /// The token of `authorization: Bearer <token>`, if there was one.
    pub token: Option<&'a str>,
    /// Who it proved to be when it connected, as the acceptor of the connection worded it.
    pub peer: Option<&'a str>,
    /// The version that it says it has of the kind that it asks for; empty if it has none.
    pub version: &'a str,
    /// The node of the first message.
    pub node: &'a NodeInfo,
}

/// Answers which proxy a stream belongs to, or why it is refused (told to the peer: say nothing secret).
pub type Authenticator = dyn Fn(Credentials<'_>) -> Result<String, String> + Send + Sync;

/// A proxy as the server sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProxyState {
    /// Whether it has a stream now.
    pub connected: bool,
    /// As it introduced itself last; `None` if it never connected.
    pub node: Option<NodeInfo>,
    /// Version of the snapshot that is published for it.
    pub published: Option<String>,
    /// Versions it acknowledged on its present (or last) stream; all are the published one when it is settled. Behind the version of clusters stands `~kept` while
    /// clusters that go are still told, until no route leads to them.
    pub acked: BTreeMap<ResourceKind, String>,
    /// Whether it accepted the published snapshot as a whole, and nothing beside it is kept for it any more.
    pub settled: bool,
    /// The last refusal, until the same kind is acknowledged again.
    pub nack: Option<Nack>,
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nack {
    /// What was refused.
    pub kind: ResourceKind,
    /// Its version.
    pub version: String,
    /// The proxy's words.
    pub detail: String,
}

/// Something that happened on a stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// A proxy opened a stream.
    Connected {
        /// Its name.
        proxy: String,
        /// As it introduced itself.
        node: NodeInfo,
    },
    /// A proxy's stream ended.
    Disconnected {
        /// Its name.
        proxy: String,
        /// Why.
        reason: String,
    },
    /// A proxy accepted what it was sent.
    Acked {
        /// Its name.
        proxy: String,
        /// What.
        kind: ResourceKind,
        /// Its version.
        version: String,
    },
    /// A proxy refused what it was sent.
    Nacked {
        /// Its name.
        proxy: String,
        /// What, and why.
        nack: Nack,
    },
}

/// Why the server ended.
#[derive(Debug, Error)]
#[error("the ADS server stopped: {0}")]
pub struct ServeError(String);

/// The ADS server. Clones share one state.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
    sign_of_life: Option<Duration>,
    sink: Option<Arc<Sink>>,
}

/// How often a silent connection is asked for a sign of life, and how long it may take to give one.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// Streams of one connection where access logs are taken.
const LOGS: u32 = 4096;

/// How often proxies report their load.
const REPORTS: Duration = Duration::from_secs(10);

impl Server {
    /// A server that knows no proxy yet. The authenticator is called with each stream's first message, and with the first
    /// for each kind after that.
    pub fn new(authenticator: impl Fn(Credentials<'_>) -> Result<String, String> + Send + Sync + 'static) -> Self {
        Self::reported_to(authenticator, REPORTS)
    }

    /// The same with another time between load reports, of which seconds count.
    pub fn reported_to(
        authenticator: impl Fn(Credentials<'_>) -> Result<String, String> + Send + Sync + 'static,
        every: Duration,
    ) -> Self {
        Self {
            shared: Arc::new(Shared::new(Box::new(authenticator), every)),
            sign_of_life: Some(SIGN_OF_LIFE),
            sink: None,
        }
    }

    /// The same without asking for signs of life: for a peer on this machine, whose end the kernel tells, and which may be
    /// busy for longer than a sign of life takes (an Envoy that starts).
    #[must_use]
    pub fn beside_its_peer(mut self) -> Self {
        self.sign_of_life = None;
        self
    }

    /// The same, and takes access logs (ALS): each request goes to the sink, which must not wait.
    #[must_use]
    pub fn logged_to(mut self, sink: impl Fn(Request) + Send + Sync + 'static) -> Self {
        self.sink = Some(Arc::new(sink));
        self
    }

    /// Serves connections (for instance TLS streams whose handshake is done) until `shutdown`, which ends every stream
    /// of this server, for good. `incoming` should yield only connections that are ready; an `Err` item is one lost
    /// connection and no more.
    ///
    /// # Errors
    /// If the transport failed.
    pub async fn serve<IO, E>(
        &self,
        incoming: impl Stream<Item = Result<IO, E>>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.serve_known(incoming.map(|connection| connection.map(|stream| (stream, None))), shutdown).await
    }

    /// As [`Server::serve`], of connections whose peers proved who they are: with what each proved.
    ///
    /// # Errors
    /// If the transport failed.
    pub async fn serve_known<IO, E>(
        &self,
        incoming: impl Stream<Item = Result<(IO, Option<Arc<str>>), E>>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let incoming = incoming.map(|connection| connection.map(|(stream, peer)| Connection(stream, peer)));
        let shared = Arc::clone(&self.shared);
        let ending = async move {
            shutdown.await;
            shared.close_all();
        };
        let logs = self.sink.clone().map(|sink| Als { shared: Arc::clone(&self.shared), sink });
        let logs = logs.map(AccessLogServiceServer::new);
        tonic::transport::Server::builder()
            .http2_keepalive_interval(self.sign_of_life)
            .http2_keepalive_timeout(self.sign_of_life)
            // Each listener's log is a stream of each worker's.
            .max_concurrent_streams(if logs.is_some() { LOGS } else { 8 })
            .add_service(AggregatedDiscoveryServiceServer::new(Ads(Arc::clone(&self.shared))))
            .add_service(LoadReportingServiceServer::new(Lrs(Arc::clone(&self.shared))))
            .add_optional_service(logs)
            .serve_with_incoming_shutdown(incoming, ending)
            .await
            .map_err(|error| ServeError(error.to_string()))
    }

    /// Makes `snapshot` what the proxy is told, now or when it connects. Answers the version on the wire: `version`, or
    /// `version+n` if other content had that version before. Content equal to what is published changes nothing.
    ///
    /// # Errors
    /// If it cannot be encoded, or [`codec::check`](crate::codec::check) refuses it; then nothing changes.
    pub fn publish(&self, proxy: &str, version: &str, snapshot: Arc<Snapshot>) -> Result<String, CodecError> {
        self.publish_beside(proxy, version, snapshot, Beside::default())
    }

    /// As [`Server::publish`], with what no snapshot has.
    ///
    /// # Errors
    /// As there.
    pub fn publish_beside(
        &self,
        proxy: &str,
        version: &str,
        snapshot: Arc<Snapshot>,
        beside: Beside,
    ) -> Result<String, CodecError> {
        self.shared.publish(proxy, version, snapshot, beside)
    }

    /// What each resource that is published for the proxy is called on an incremental stream: by its content.
    pub fn versions(&self, proxy: &str) -> BTreeMap<ResourceKind, BTreeMap<String, String>> {
        self.shared.versions(proxy)
    }

    /// Makes these the overlays that the proxy is told, each for its time to live from now. Those left out are taken
    /// back at once. An overlay whose time passes without a heartbeat is not sent to a proxy that connects later.
    ///
    /// # Errors
    /// If one cannot be encoded; then nothing changes.
    pub fn set_overlays(&self, proxy: &str, overlays: Vec<(Overlay, Duration)>) -> Result<(), CodecError> {
        // Who has none and gets none is not woken.
        if overlays.is_empty() && !self.shared.has_overlays(proxy) {
            return Ok(());
        }
        self.shared.change(proxy, |desired| desired.set_overlays(overlays, Instant::now()))
    }

    /// Makes this the layer of its runtime ([`LAYER`](crate::codec::LAYER)) that an Envoy is told, for its time to live from now, after which
    /// Envoy drops it by itself unless it was renewed. An empty one is taken back at once.
    pub fn set_layer(&self, proxy: &str, layer: Layer, ttl: Duration) {
        if layer.is_empty() && !self.shared.has_overlays(proxy) {
            return;
        }
        self.shared.change(proxy, |desired| desired.set_layer(layer, ttl, Instant::now()));
    }

    /// Renews overlays (by id) for their new times to live from now. Ids that the proxy has not got are passed over. A
    /// layer is renewed by its name.
    pub fn heartbeat(&self, proxy: &str, overlays: &[(String, Duration)]) {
        self.shared.change(proxy, |desired| desired.heartbeat(overlays, Instant::now()));
    }

    /// Forgets a proxy and ends its stream.
    pub fn remove(&self, proxy: &str) {
        self.shared.remove(proxy);
    }

    /// A proxy's state; `None` if it was never published to nor connected.
    pub fn proxy(&self, proxy: &str) -> Option<ProxyState> {
        self.shared.proxy(proxy)
    }

    /// Every proxy's state, by name.
    pub fn proxies(&self) -> BTreeMap<String, ProxyState> {
        self.shared.proxies()
    }

    /// What proxies reported of their load in the last minute, by proxy, cluster, tier and locality.
    pub fn loads(&self) -> Vec<Load> {
        self.shared.loads().view(Instant::now())
    }

    /// What they reported ever, by cluster and region; and how many localities [`Server::loads`] left out for their number.
    pub fn load_totals(&self) -> (BTreeMap<(String, String), Total>, u64) {
        let loads = self.shared.loads();
        (loads.totals(), loads.left_out())
    }

    /// Notices from now on. A receiver that falls more than 1024 behind is told how many it missed.
    pub fn notices(&self) -> broadcast::Receiver<Notice> {
        self.shared.subscribe()
    }
}
