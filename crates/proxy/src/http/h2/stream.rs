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
use http::{header::CONTENT_LENGTH, response};
use hyper::body::{Body, Frame, SizeHint};

use crate::http::{
    body::{BodyError, TryBody},
    fate::{Busy, Fate},
    h2::{
        duplex::Duplex,
        flow::Flow,
        sending::{Sending, Stopped},
    },
    interim::{self, Interim},
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
    /// Interim answers to the request.
    interim: u32,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("flow", &self.flow).field("upload", &self.upload).finish_non_exhaustive()
    }
}

/// Why there is no response.
#[derive(Debug)]
pub struct Trouble {
    /// What ended.
    pub end: End,
    /// For people.
    pub cause: String,
}

/// What ended before a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The connection, by an endpoint that says that it has not looked at the request.
    Unseen,
    /// The stream, by an endpoint that says the same.
    Refused,
    /// The stream, by the endpoint.
    Reset,
    /// The connection.
    Connection,
    /// The caller's body.
    Body,
    /// What came is not a response.
    Malformed,
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
            interim: 0,
        })
    }

    /// Begins an extended CONNECT (RFC 8441). `sender` must be ready, and its peer take them.
    ///
    /// # Errors
    /// When the connection takes no more requests; nothing was sent.
    pub fn connect(sender: &mut SendRequest<Bytes>, head: http::Request<()>, busy: &Busy) -> Result<Self, h2::Error> {
        let (response, stream) = sender.send_request(head, false)?;
        Ok(Self { response, flow: None, upload: None, open: Some(stream), fate: busy.fate().clone(), interim: 0 })
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

    /// The response's head. Interim ones go to whoever waits for them.
    pub fn poll_head(
        &mut self,
        interim: Option<&Interim>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<response::Parts, Trouble>> {
        if let Err(error) = self.send(cx) {
            return Poll::Ready(Err(Trouble { end: End::Body, cause: error.to_string() }));
        }
        // What ends the stream is told by the response.
        while let Poll::Ready(Some(Ok(told))) = self.response.poll_informational(cx) {
            self.fate.heard();
            self.interim += 1;
            if self.interim > interim::MOST {
                return Poll::Ready(Err(Trouble { end: End::Malformed, cause: interim::TOO_MANY.to_owned() }));
            }
            if let Some(interim) = interim {
                let (head, ()) = told.into_parts();
                interim.put(head.status, head.headers);
            }
        }
        let response = ready!(Pin::new(&mut self.response).poll(cx)).map_err(|error| classify(&error))?;
        self.fate.heard();
        let (head, body) = response.into_parts();
        if head.headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some() {
            return Poll::Ready(Err(Trouble { end: End::Malformed, cause: "content-length twice".to_owned() }));
        }
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
    let unseen = error.reason() == Some(Reason::REFUSED_STREAM) && error.is_remote()
        || error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR);
    if unseen {
        let end = if error.is_reset() { End::Refused } else { End::Unseen };
        return Trouble { end, cause: format!("stream refused: {error}") };
    }
    if error.is_library() && error.reason() == Some(Reason::PROTOCOL_ERROR) {
        // `h2` does not tell which field it was.
        let cause = "not a valid HTTP/2 response: a field that HTTP/2 rules out (RFC 9113, 8.2), or a wrong length";
        return Trouble { end: End::Malformed, cause: cause.to_owned() };
    }
    let end = if error.is_reset() && error.is_remote() { End::Reset } else { End::Connection };
    Trouble { end, cause: format!("stream ended: {error}") }
}
