//! A caller's HTTP/2 connection: its streams are answered side by side, in one task.

use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream::FuturesUnordered};
use h2::{
    RecvStream,
    server::{self, SendResponse},
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts};
use hyper::body::Body;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, watch},
    time::Instant,
};
use xds::snapshot::Limits;

use crate::{
    http::{
        alarm::Alarm,
        body::{Incoming, Switched},
        date,
        h2::{
            duplex::Duplex,
            flow::Flow,
            pulse,
            sending::{Sending, Stopped},
        },
        interim::Interim,
        message,
        relay::{DRAIN, Ended, Relay},
        server::Connection,
    },
    seldom::Seldom,
};

/// Response bodies of one stream buffered for a slow caller, in bytes.
const SEND_BUFFER: usize = 256 * 1024;
/// What a caller may send ahead on one stream, in bytes; on a connection four times as much.
const WINDOW: u32 = 256 * 1024;
/// How often a caller is asked whether it is there, and how long it may take to answer.
const PULSE: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(20);

/// Serves streams until the caller is done, or told to go and those under way are answered.
pub async fn serve<T>(connection: Arc<Connection>, io: T, limits: &Limits, mut leaving: Seldom)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = server::Builder::new()
        .max_concurrent_streams(limits.concurrent_streams)
        .max_header_list_size(limits.header_bytes)
        .max_send_buffer_size(SEND_BUFFER)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(4 * WINDOW)
        // Whether an upgrade is allowed is the route's to say.
        .enable_connect_protocol()
        .handshake::<T, Bytes>(io);
    let mut caller = match tokio::time::timeout(limits.header_timeout, handshake).await {
        Ok(Ok(caller)) => caller,
        Ok(Err(error)) => return refused(&connection, &error),
        Err(_) => return connection.shared.metrics.refused("slowHead"),
    };
    let mut lost =
        caller.ping_pong().map(|ping| Seldom::new(pulse::lost(ping, PULSE, PATIENCE, || true, mpsc::channel(1).1)));
    let ends = Ends { leaving: watch::Sender::new(false), idle: limits.idle_timeout };
    let mut streams = FuturesUnordered::new();
    let mut idle = Idle { since: None, alarm: Alarm::default() };
    let mut told = false;
    poll_fn(|cx| {
        if lost.as_mut().is_some_and(|lost| lost.poll(cx).is_ready()) {
            return Poll::Ready(());
        }
        loop {
            // First the streams, so that what they write leaves with one call when the connection is polled.
            while let Poll::Ready(Some(())) = streams.poll_next_unpin(cx) {}
            match caller.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    streams.push(Box::pin(answer(connection.clone(), request, respond, &ends)));
                }
                Poll::Ready(Some(Err(error))) => {
                    refused(&connection, &error);
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        while !told
            && (leaving.poll(cx).is_ready() || idle.poll(streams.is_empty(), limits.idle_timeout, cx).is_ready())
        {
            told = true;
            idle.since = None;
            ends.leaving.send_replace(true);
            caller.graceful_shutdown();
            if caller.poll_closed(cx).is_ready() {
                return Poll::Ready(());
            }
        }
        // A caller that does not answer the farewell would stay.
        if told { idle.poll(streams.is_empty(), limits.header_timeout, cx) } else { Poll::Pending }
    })
    .await;
}

/// Since when there is no stream.
struct Idle {
    since: Option<Instant>,
    alarm: Alarm,
}

impl Idle {
    fn poll(&mut self, idle: bool, patience: Duration, cx: &mut Context<'_>) -> Poll<()> {
        if !idle {
            self.since = None;
            return Poll::Pending;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        match since.checked_add(patience) {
            Some(until) => self.alarm.poll(until, cx),
            None => Poll::Pending,
        }
    }
}

fn refused(connection: &Connection, error: &h2::Error) {
    if error.is_io() || error.is_remote() {
        return;
    }
    connection.shared.metrics.refused("malformed");
    tracing::debug!(caller = %connection.caller.address, %error, "refused");
}

/// What ends an upgraded stream that does not end by itself.
struct Ends {
    /// It is time to leave.
    leaving: watch::Sender<bool>,
    /// Nothing passes for this long.
    idle: Duration,
}

/// Passes the other protocol's bytes both ways until they end, or until it is time to leave.
async fn switch(mut caller: Duplex, switched: Switched, ends: &Ends) {
    let Switched { io: mut endpoint, watch, silent } = switched;
    let mut leaving = ends.leaving.subscribe();
    let drained = async {
        // An ended sender is a connection that is gone.
        drop(leaving.wait_for(|leaving| *leaving).await);
        tokio::time::sleep(DRAIN).await;
    };
    let mut relay = Relay::new(silent.unwrap_or(ends.idle), BytesMut::new());
    let ended = tokio::select! {
        ended = poll_fn(|cx| relay.poll(&mut caller, &mut *endpoint, cx)) => ended,
        () = drained => Ended::Whole,
    };
    if let Some(mut watch) = watch {
        relay.tell(ended, &mut *watch);
    }
}

/// Makes what HTTP/1.1 calls an upgrade of an extended CONNECT; a plain one stays as it is.
///
/// # Errors
/// A sentence for the caller, when HTTP/1.1 could not say the same.
fn upgraded(parts: &mut Parts) -> Result<(), &'static str> {
    let Some(protocol) = parts.extensions.remove::<h2::ext::Protocol>() else { return Ok(()) };
    // What follows is the other protocol's. A receiver that believed a length would take it for a body, and what is not
    // there from whoever comes next.
    if parts.headers.contains_key(header::CONTENT_LENGTH) {
        return Err("an extended CONNECT has no body, and no content-length");
    }
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(&byte);
    let protocol = Some(protocol.as_str()).filter(|name| !name.is_empty() && name.bytes().all(token));
    // Only HTTP/1.1 knows a change to HTTP/2.
    let protocol = protocol.filter(|name| !name.eq_ignore_ascii_case("h2c"));
    let protocol = protocol.and_then(|name| HeaderValue::from_str(name).ok()).ok_or("no protocol to change to")?;
    parts.method = Method::GET;
    message::ask_for(protocol, &mut parts.headers);
    Ok(())
}

/// An interim answer for the caller.
fn tell(interim: &Interim, respond: &mut SendResponse<Bytes>) {
    while let Some((status, headers)) = interim.take() {
        let mut told = Response::new(());
        (*told.status_mut(), *told.headers_mut()) = (status, headers);
        // An error is a caller that is gone.
        let _ = respond.send_informational(told);
    }
}

/// Answers one request.
async fn answer(
    connection: Arc<Connection>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    ends: &Ends,
) {
    let (mut parts, body) = request.into_parts();
    let head_only = parts.method == Method::HEAD;
    // What follows the head of CONNECT is no body of it.
    let (mut upgrade, mut refused) = (None, None);
    let body = if parts.method == Method::CONNECT {
        refused = upgraded(&mut parts).err();
        upgrade = Some(Flow::new(body, &HeaderMap::new()));
        Incoming::Empty
    } else if body.is_end_stream() {
        Incoming::Empty
    } else {
        Incoming::Flow(Flow::new(body, &parts.headers))
    };
    let response = if let Some(reason) = refused {
        connection.shared.metrics.refused("malformed");
        Some(connection.refuse(Some(&parts), StatusCode::BAD_REQUEST, reason))
    } else {
        let (mut alarm, interim) = (Alarm::default(), Arc::default());
        let mut request = pin!(connection.request(parts, body, &interim, &mut alarm));
        poll_fn(|cx| {
            let response = request.as_mut().poll(cx);
            tell(&interim, &mut respond);
            match response {
                Poll::Ready(response) => Poll::Ready(Some(response)),
                // Ready when the caller gave it up.
                Poll::Pending => respond.poll_reset(cx).map(|_| None),
            }
        })
        .await
    };
    let Some(response) = response else { return };
    let (mut head, body) = response.into_parts();
    head.version = Version::HTTP_2;
    let mut body = match body.switched() {
        Ok(switched) => {
            head.status = StatusCode::OK;
            head.headers.remove(header::UPGRADE);
            let to = respond.send_response(Response::from_parts(head, ()), false);
            if let (Some(from), Ok(to)) = (upgrade, to) {
                switch(Duplex::new(from, to), switched, ends).await;
            }
            return;
        }
        Err(body) => body,
    };
    let announces = head_only || head.status == StatusCode::NOT_MODIFIED;
    let bodiless = announces || head.status == StatusCode::NO_CONTENT || body.is_end_stream();
    let length = if announces { message::announced(&head.headers) } else { body.size_hint().exact() };
    message::announce(&mut head.headers, length.filter(|_| head.status != StatusCode::NO_CONTENT));
    if !head.headers.contains_key(header::DATE) {
        let date = date::with(&connection.shared.clock, HeaderValue::from_bytes);
        head.headers.extend(date.ok().map(|date| (header::DATE, date)));
    }
    if bodiless {
        body.leave_out();
    }
    // An error is a caller that is gone.
    let Ok(stream) = respond.send_response(Response::from_parts(head, ()), bodiless) else { return };
    if !bodiless {
        let mut sending = Sending::new(stream, body);
        let _ = poll_fn(|cx| {
            let sent = sending.poll(cx);
            if sent.is_pending() && sending.is_blocked() {
                return sending.body().poll_blocked(cx).map(|()| Err(Stopped::Stream));
            }
            sent
        })
        .await;
    }
}
