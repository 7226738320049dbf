//! One request over a shared connection to an endpoint. Whoever polls for the response also sends what is left of the
//! request.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{
    Reason, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::response;
use hyper::body::{Body, Frame, SizeHint};

use crate::http::{
    body::{BodyError, TryBody},
    fate::{Busy, Fate},
    h2::{
        duplex::Duplex,
        flow::Flow,
        sending::{Sending, Stopped},
    },
};

/// Both ways of one request.
pub struct Stream {
    response: ResponseFuture,
    /// The response's body, once its head is here.
    flow: Option<Flow>,
    /// What is left of the request's.
    upload: Option<Sending<TryBody>>,
    /// The way that stays open behind an extended CONNECT.
    open: Option<SendStream<Bytes>>,
    fate: Arc<Fate>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("flow", &self.flow).field("upload", &self.upload).finish_non_exhaustive()
    }
}

/// Why there is no response.
#[derive(Debug)]
pub struct Trouble {
    /// Whether the endpoint may have looked at the request.
    pub seen: bool,
    /// Whether it ended this stream only, not the connection.
    pub reset: bool,
    /// For people.
    pub cause: String,
}

impl Stream {
    /// Begins a request. `sender` must be ready.
    ///
    /// # Errors
    /// When the connection takes no more requests; nothing was sent.
    pub fn begin(
        sender: &mut SendRequest<Bytes>,
        head: http::Request<()>,
        body: TryBody,
        busy: &Busy,
    ) -> Result<Self, h2::Error> {
        let over = body.is_end_stream();
        let (response, stream) = sender.send_request(head, over)?;
        Ok(Self {
            response,
            flow: None,
            upload: (!over).then(|| Sending::new(stream, body)),
            open: None,
            fate: busy.fate().clone(),
        })
    }

    /// Begins an extended CONNECT (RFC 8441). `sender` must be ready, and its peer take them.
    ///
    /// # Errors
    /// When the connection takes no more requests; nothing was sent.
    pub fn connect(sender: &mut SendRequest<Bytes>, head: http::Request<()>, busy: &Busy) -> Result<Self, h2::Error> {
        let (response, stream) = sender.send_request(head, false)?;
        Ok(Self { response, flow: None, upload: None, open: Some(stream), fate: busy.fate().clone() })
    }

    /// Both ways, once the peer has taken up what was asked for.
    pub fn switched(&mut self) -> Option<Duplex> {
        Some(Duplex::new(self.flow.take()?, self.open.take()?))
    }

    /// Says that nothing follows, where the peer took up nothing.
    pub fn stay(&mut self) {
        if let Some(mut open) = self.open.take() {
            // An error is a stream that is over.
            let _ = open.send_data(Bytes::new(), true);
        }
    }

    /// Goes on sending the request. What breaks on the endpoint's side shows in the response.
    ///
    /// # Errors
    /// When the caller's body broke off.
    fn send(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        if let Some(upload) = &mut self.upload
            && let Poll::Ready(sent) = upload.poll(cx)
        {
            self.upload = None;
            if let Err(Stopped::Body(error)) = sent {
                return Err(error);
            }
        }
        Ok(())
    }

    /// The same while nobody asks for the response's next piece.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        // The stream is reset then, which shows in the response.
        let _ = self.send(cx);
    }

    /// The response's head.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<response::Parts, Trouble>> {
        if let Err(error) = self.send(cx) {
            return Poll::Ready(Err(Trouble { seen: true, reset: false, cause: error.to_string() }));
        }
        let response = ready!(Pin::new(&mut self.response).poll(cx)).map_err(|error| classify(&error))?;
        self.fate.heard();
        let (head, body) = response.into_parts();
        self.flow = Some(Flow::new(body, &head.headers));
        Poll::Ready(Ok(head))
    }

    /// The next piece of the response's body.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.drive(cx);
        let Some(flow) = &mut self.flow else { return Poll::Ready(None) };
        let frame = ready!(flow.poll_frame(cx));
        self.fate.heard();
        Poll::Ready(frame.map(|frame| frame.map_err(|error| BodyError::Upstream(error.to_string()))))
    }

    /// Whether the response is over.
    pub fn done(&self) -> bool {
        self.flow.as_ref().is_none_or(Flow::is_over)
    }

    /// Bytes of the response still to come.
    pub fn size(&self) -> SizeHint {
        self.flow.as_ref().map_or_else(SizeHint::new, Flow::size)
    }
}

fn classify(error: &h2::Error) -> Trouble {
    // A GOAWAY without error names streams that were not looked at, as REFUSED_STREAM does.
    let unseen = error.reason() == Some(Reason::REFUSED_STREAM)
        || error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR);
    let reset = error.is_reset() && error.is_remote();
    Trouble { seen: !unseen, reset, cause: format!("stream ended: {error}") }
}
