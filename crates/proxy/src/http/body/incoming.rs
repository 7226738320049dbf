//! A body as it comes in, from either side and in any protocol.

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header::CONTENT_LENGTH};
use hyper::body::{Body, Frame, SizeHint};

use super::{BodyError, lock};
use crate::{
    fault::Shape,
    http::{
        h1::{inlet::Feed, wire::Wire},
        h2::{flow::Flow, stream::Stream},
        message,
        pool::Pool,
        relay::Duplex,
        shape::{Shaped, ShapedBytes},
    },
};

/// How much of a response is waited for before any of it is passed on, where the request could be repeated.
const BEGINNING: u64 = 16 * 1024;
/// For how long, where the response says that it is no longer.
const LENGTH_KNOWN: Duration = Duration::from_millis(100);
/// For how long, where it does not: it may be a stream whose every piece is waited for.
const LENGTH_UNKNOWN: Duration = Duration::from_millis(5);

/// A body as it comes in.
pub enum Incoming {
    /// None.
    Empty,
    /// Of a caller's request, HTTP/1.1.
    Caller(Arc<Mutex<dyn Feed>>),
    /// Of an endpoint's response, HTTP/1.1. The connection goes back into the pool at its end.
    Endpoint(Box<Wire>, Arc<Pool>),
    /// Of a caller's request, HTTP/2.
    Flow(Flow),
    /// Of an endpoint's response, HTTP/2.
    Stream(Box<Stream>),
    /// An endpoint's, in the hand of a fault.
    Shaped(Box<Shaped<Self>>),
    /// No body: the endpoint took up an upgrade, and from here on these are its bytes.
    Switched(Box<dyn Duplex>),
    /// With its beginning already here.
    Begun(Beginning, Box<Incoming>),
}

/// What was read ahead of a response's body, up to an error or [`BEGINNING`].
type Beginning = VecDeque<Frame<Bytes>>;

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Caller(_) => "Caller",
            Self::Endpoint(..) => "Endpoint",
            Self::Flow(_) => "Flow",
            Self::Stream(_) => "Stream",
            Self::Shaped(_) => "Shaped",
            Self::Switched(_) => "Switched",
            Self::Begun(..) => "Begun",
        })
    }
}

impl Incoming {
    /// The body of a response over this connection.
    pub fn endpoint(wire: Box<Wire>, pool: Arc<Pool>) -> Self {
        Self::Endpoint(wire, pool).settled()
    }

    /// What a fault makes of a response's body, and of what its head says about it.
    pub fn shaped(self, shape: Shape, headers: &mut HeaderMap) -> Self {
        if let Self::Switched(io) = self {
            return Self::Switched(Box::new(ShapedBytes::new(io, shape)));
        }
        let shaped = Shaped::new(self, shape);
        if let (Some(length), true) = (shaped.size_hint().exact(), headers.contains_key(CONTENT_LENGTH)) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        Self::Shaped(Box::new(shaped))
    }

    /// Gives the connection back when the response is over.
    fn settled(self) -> Self {
        match self {
            Self::Endpoint(wire, pool) if wire.done() => {
                pool.give_back(wire);
                Self::Empty
            }
            other => other,
        }
    }

    /// Goes on sending the request to which this is the response, while nobody asks for the response's next piece.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::Endpoint(wire, _) => wire.drive(cx),
            Self::Stream(stream) => stream.drive(cx),
            Self::Shaped(shaped) => shaped.inner().drive(cx),
            Self::Begun(_, rest) => rest.drive(cx),
            Self::Empty | Self::Caller(_) | Self::Flow(_) | Self::Switched(_) => {}
        }
    }

    /// Whether it is short, or may be, and not all here.
    pub fn may_break_off(&self) -> bool {
        let here = match self {
            Self::Endpoint(wire, _) => wire.is_whole(),
            other => other.is_end_stream(),
        };
        !here && self.size_hint().exact().is_none_or(|length| length <= BEGINNING)
    }

    /// Its trailers, where they are here already and there is nothing before them.
    pub fn only_trailers(&self) -> Option<&HeaderMap> {
        match self {
            Self::Begun(beginning, _) => {
                let told = |frame: &&Frame<Bytes>| frame.data_ref().is_none_or(|data| !data.is_empty());
                beginning.iter().find(told).and_then(Frame::trailers_ref)
            }
            _ => None,
        }
    }

    /// Waits a moment for a short response's end, so that one that breaks off can still be asked for elsewhere: as long
    /// as nothing of it went to the caller, nobody saw it.
    ///
    /// # Errors
    /// When it breaks off.
    pub async fn begun(mut self) -> Result<Self, BodyError> {
        let wait = if self.size_hint().exact().is_some() { LENGTH_KNOWN } else { LENGTH_UNKNOWN };
        let mut beginning = Beginning::new();
        let result = {
            let mut reading = pin!(async {
                let mut read = 0;
                while read < BEGINNING && !self.is_end_stream() {
                    let Some(frame) = poll_fn(|cx| Pin::new(&mut self).poll_frame(cx)).await else { break };
                    let frame = frame?;
                    read += frame.data_ref().map_or(0, |data| data.len() as u64);
                    beginning.push_back(frame);
                }
                Ok(())
            });
            // Nearly always it is all here, and no timer is needed.
            let at_once = poll_fn(|cx| Poll::Ready(reading.as_mut().poll(cx))).await;
            match at_once {
                Poll::Ready(result) => result,
                // What takes longer is passed on as it comes.
                Poll::Pending => tokio::time::timeout(wait, reading.as_mut()).await.unwrap_or(Ok(())),
            }
        };
        result?;
        Ok(if beginning.is_empty() { self } else { Self::Begun(beginning, Box::new(self)) })
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut frame = std::task::ready!(match &mut *self {
            Self::Empty | Self::Switched(_) => Poll::Ready(None),
            Self::Caller(feed) => lock(feed).poll_frame(cx),
            Self::Endpoint(wire, _) => {
                let frame = std::task::ready!(wire.poll_frame(cx));
                if wire.done() {
                    *self = std::mem::replace(&mut *self, Self::Empty).settled();
                }
                Poll::Ready(frame)
            }
            Self::Flow(flow) => flow
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(|error| BodyError::Caller(error.to_string())))),
            Self::Stream(stream) => stream.poll_frame(cx),
            Self::Shaped(shaped) => Pin::new(&mut **shaped).poll_frame(cx),
            Self::Begun(beginning, rest) => match beginning.pop_front() {
                Some(frame) => Poll::Ready(Some(Ok(frame))),
                None => Pin::new(&mut **rest).poll_frame(cx),
            },
        });
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            message::clean_trailers(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Switched(_) => false,
            Self::Caller(feed) => lock(feed).done(),
            Self::Endpoint(wire, _) => wire.done(),
            Self::Flow(flow) => flow.is_over(),
            Self::Stream(stream) => stream.done(),
            Self::Shaped(shaped) => shaped.is_end_stream(),
            Self::Begun(beginning, rest) => beginning.is_empty() && rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Caller(feed) => lock(feed).size(),
            Self::Endpoint(wire, _) => wire.size(),
            Self::Flow(flow) => flow.size(),
            Self::Stream(stream) => stream.size(),
            Self::Switched(_) => SizeHint::new(),
            Self::Shaped(shaped) => shaped.size_hint(),
            Self::Begun(beginning, rest) => {
                let here = beginning.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum::<u64>();
                let (left, mut all) = (rest.size_hint(), SizeHint::new());
                all.set_lower(here + left.lower());
                // A body of known length is written without trailers, where HTTP/1.1 is spoken.
                let trailed = beginning.iter().any(Frame::is_trailers);
                if let Some(upper) = left.upper().filter(|_| !trailed) {
                    all.set_upper(here + upper);
                }
                all
            }
        }
    }
}
