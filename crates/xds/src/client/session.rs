//! Streams to the control plane, one after another.

use std::{
    error::Error,
    fmt::Write,
    future::Future,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Streaming,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use super::{ClientConfig, Update, Verdict, connector::Connector, protocol::Protocol, reports};

const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Bound on connecting, TLS included, and on the server's acceptance of the stream.
const CONNECTING: Duration = Duration::from_secs(5);

/// How often a silent server is asked for a sign of life, and how long it may take to give one.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);

/// A response to a large mesh is large.
const LARGEST_MESSAGE: usize = 256 * 1024 * 1024;

/// Requests that wait to be written. A response is followed by a few, and the server sends one of a kind at a
/// time, so that this is never full.
const REQUESTS: usize = 64;

const UNREAD: &str = "the control plane does not read";

/// Why a stream ended.
enum End {
    /// Nobody wants updates any more.
    Unwanted,
    Lost(String),
}

/// Runs until the receiver of the updates is dropped.
pub(super) async fn run<P, C, F, IO>(
    mut core: P,
    config: ClientConfig,
    connect: Arc<C>,
    updates: mpsc::Sender<Update>,
    mut verdicts: mpsc::Receiver<Verdict>,
) where
    P: Protocol,
    C: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<IO>> + Send + 'static,
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut failures = 0_u32;
    let mut told = false;
    loop {
        let mut connected = false;
        let end = tokio::select! {
            end = session(&config, &connect, &mut core, &updates, &mut verdicts, &mut connected) => end,
            () = updates.closed() => End::Unwanted,
        };
        let End::Lost(reason) = end else { return };
        if connected {
            (failures, told) = (0, false);
        }
        if !told && updates.send(Update::Lost { reason }).await.is_err() {
            return;
        }
        told = true;
        tokio::select! {
            () = sleep(pause(failures, fastrand::f64())) => {}
            () = updates.closed() => return,
        }
        failures = failures.saturating_add(1);
    }
}

/// Full steps double from 100 ms to 2 s; each is taken at 50 to 100 %, by `chance` in 0..1, so that a mesh that lost
/// its control plane does not come back as one herd.
fn pause(failures: u32, chance: f64) -> Duration {
    let step = SHORTEST_PAUSE.saturating_mul(2_u32.saturating_pow(failures.min(16))).min(LONGEST_PAUSE);
    step.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
}

async fn session<P, C, F, IO>(
    config: &ClientConfig,
    connect: &Arc<C>,
    core: &mut P,
    updates: &mpsc::Sender<Update>,
    verdicts: &mut mpsc::Receiver<Verdict>,
    connected: &mut bool,
) -> End
where
    P: Protocol,
    C: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<IO>> + Send + 'static,
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (requests, outgoing) = mpsc::channel(REQUESTS);
    for request in core.open() {
        if requests.try_send(request).is_err() {
            return End::Lost("cannot queue the first requests".to_owned());
        }
    }
    let opening = async {
        let channel = channel(config, connect).await?;
        Ok((open::<P>(config, channel.clone(), outgoing).await?, channel))
    };
    let (mut responses, channel) = match timeout(CONNECTING, opening).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(reason)) => return End::Lost(reason),
        Err(_) => return End::Lost(format!("no stream within {CONNECTING:?}")),
    };
    let reporting = config.loads.clone().map(|loads| reports::report(channel, config.node.clone(), loads));
    // Ends with the session.
    let mut reporting = JoinSet::from_iter(reporting);
    loop {
        let message = tokio::select! {
            // The next response may change what the verdict is about.
            message = responses.message(), if !core.undecided() => message,
            Some(_) = reporting.join_next() => continue,
            verdict = verdicts.recv() => {
                let Some(verdict) = verdict else { return End::Unwanted };
                if core.on_verdict(&verdict).into_iter().any(|request| requests.try_send(request).is_err()) {
                    return End::Lost(UNREAD.to_owned());
                }
                continue;
            }
        };
        let response = match message {
            Ok(Some(response)) => response,
            Ok(None) => return End::Lost("the control plane ended the stream".to_owned()),
            Err(status) => return End::Lost(format!("{}: {}", status.code(), status.message())),
        };
        if !std::mem::replace(connected, true) && updates.send(Update::Connected).await.is_err() {
            return End::Unwanted;
        }
        let reaction = core.on_response(&response, Instant::now());
        for request in reaction.requests {
            if requests.try_send(request).is_err() {
                return End::Lost(UNREAD.to_owned());
            }
        }
        for update in reaction.updates {
            if updates.send(update).await.is_err() {
                return End::Unwanted;
            }
        }
    }
}

async fn channel<C, F, IO>(config: &ClientConfig, connect: &Arc<C>) -> Result<Channel, String>
where
    C: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<IO>> + Send + 'static,
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let endpoint = Endpoint::from_shared(format!("http://{}", config.authority)).map_err(|error| chain(&error))?;
    endpoint
        .http2_keep_alive_interval(SIGN_OF_LIFE)
        .keep_alive_timeout(SIGN_OF_LIFE)
        .keep_alive_while_idle(true)
        .connect_with_connector(Connector::<C, IO>::new(Arc::clone(connect)))
        .await
        .map_err(|error| chain(&error))
}

async fn open<P: Protocol>(
    config: &ClientConfig,
    channel: Channel,
    outgoing: mpsc::Receiver<P::Request>,
) -> Result<Streaming<P::Response>, String> {
    let client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(LARGEST_MESSAGE);
    let mut request = Request::new(ReceiverStream::new(outgoing));
    if !config.token.is_empty() {
        let token: Result<MetadataValue<Ascii>, _> = format!("Bearer {}", config.token).parse();
        let mut token = token.map_err(|_| "the token is not printable".to_owned())?;
        token.set_sensitive(true);
        request.metadata_mut().insert("authorization", token);
    }
    P::stream(client, request).await.map_err(|status| format!("{}: {}", status.code(), status.message()))
}

/// An error with its causes: tonic's own text is only "transport error".
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a String cannot fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_from_a_tenth_of_a_second_to_two() {
        let millis = |failures, chance| pause(failures, chance).as_millis();
        assert_eq!((millis(0, 0.0), millis(0, 1.0)), (50, 100));
        assert_eq!((millis(1, 1.0), millis(3, 1.0), millis(4, 1.0)), (200, 800, 1600));
        assert_eq!((millis(5, 0.0), millis(5, 1.0), millis(u32::MAX, 1.0)), (1000, 2000, 2000));
    }
}
