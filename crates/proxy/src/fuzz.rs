//! The parser and the encoder of HTTP/1.1 from outside, for those who try to break them.

use std::task::{Context, Waker};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method};

use crate::http::{
    h1::{
        encode,
        framing::{Decoder, Framing, Piece},
        outbox::Outbox,
        parse::{self, Bounds, Refused, RequestHead, Scan},
    },
    message,
};

/// A tenth of the defaults, so that inputs reach them.
const BOUNDS: Bounds = Bounds { bytes: 6 * 1024, headers: 10 };

/// What a connection's bytes come to, cut into pieces of this size: the messages of a caller, or of an endpoint, and what ends
/// them.
pub fn http1(input: &[u8], endpoint: bool, cut: usize) -> String {
    let mut reader =
        Reader { endpoint, buffer: BytesMut::new(), scan: Scan::default(), body: None, found: String::new(), sum: 0 };
    for piece in input.chunks(cut.max(1)) {
        reader.buffer.extend_from_slice(piece);
        if let Err(refused) = reader.read() {
            return format!("{} {} {refused}", reader.found, reader.sum);
        }
    }
    format!("{} {}", reader.found, reader.sum)
}

/// A request as we understood it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Understood {
    /// Its method.
    pub method: String,
    /// Its body.
    pub body: Vec<u8>,
}

/// The requests in a caller's bytes that are understood whole, up to the first that is refused or is not one of HTTP to its
/// end; and what an endpoint is sent for them.
pub fn forwarded(input: &[u8]) -> (Vec<Understood>, Vec<u8>) {
    let (mut buffer, mut scan) = (BytesMut::from(input), Scan::default());
    let (mut understood, mut sent) = (Vec::new(), Vec::new());
    while let Ok(Some(head)) = scan.head(&mut buffer, BOUNDS) {
        let Ok(head) = parse::request(&head, BOUNDS) else { break };
        let Some((body, trailers)) = whole(head.framing, &mut buffer) else { break };
        let method = head.parts.method.to_string();
        if !send(head, &body, trailers, &mut sent) {
            break;
        }
        understood.push(Understood { method, body: body.concat() });
    }
    (understood, sent)
}

fn whole(framing: Framing, buffer: &mut BytesMut) -> Option<(Vec<Bytes>, Option<HeaderMap>)> {
    let (mut decoder, mut pieces) = (Decoder::new(framing), Vec::new());
    loop {
        match decoder.decode(buffer).ok()? {
            Piece::Data(data) => pieces.push(data),
            Piece::Trailers(trailers) => return Some((pieces, Some(trailers))),
            Piece::End => return Some((pieces, None)),
            Piece::More => return None,
        }
    }
}

/// As a connection to an endpoint writes it; false for what goes nowhere, or is followed by another protocol.
fn send(head: RequestHead, body: &[Bytes], trailers: Option<HeaderMap>, sent: &mut Vec<u8>) -> bool {
    let RequestHead { mut parts, framing, .. } = head;
    let Ok(authority) = message::authority(&parts) else { return false };
    let other = parts.method == Method::CONNECT || message::upgrade(&parts).is_some();
    if other || message::refuse(&parts).is_some() {
        return false;
    }
    message::strip_hop_by_hop(&mut parts.headers);
    let framing = Some(framing).filter(|framing| *framing != Framing::Length(0));
    let mut out = Outbox::default();
    let mut flush = |out: &mut Outbox| out.poll_flush(sent, &mut Context::from_waker(Waker::noop())).is_ready();
    encode::request(out.head(), &parts, &authority, framing);
    let chunked = framing == Some(Framing::Chunked);
    for data in body {
        if !out.has_room() {
            flush(&mut out);
        }
        out.data(data.clone(), chunked);
    }
    flush(&mut out);
    match trailers {
        Some(mut trailers) => {
            message::clean_trailers(&mut trailers);
            encode::trailers(out.head(), &trailers);
        }
        None if chunked => out.head().extend_from_slice(encode::LAST_CHUNK),
        None => {}
    }
    flush(&mut out)
}

struct Reader {
    endpoint: bool,
    buffer: BytesMut,
    scan: Scan,
    body: Option<Decoder>,
    found: String,
    /// Of the bodies.
    sum: u64,
}

impl Reader {
    fn read(&mut self) -> Result<(), Refused> {
        loop {
            if let Some(body) = &mut self.body {
                match body.decode(&mut self.buffer)? {
                    Piece::More => return Ok(()),
                    // Numbers that every byte and its place change.
                    Piece::Data(data) => {
                        for byte in data {
                            self.sum = self.sum.wrapping_mul(31).wrapping_add(u64::from(byte) + 1);
                        }
                    }
                    Piece::Trailers(trailers) => {
                        self.found.push_str(&format!(" +{}", trailers.len()));
                        self.body = None;
                    }
                    Piece::End => self.body = None,
                }
                continue;
            }
            let Some(head) = self.scan.head(&mut self.buffer, BOUNDS)? else { return Ok(()) };
            let (framing, keep_alive, headers) = if self.endpoint {
                let head = parse::response(&head, false, BOUNDS)?;
                (head.framing, head.keep_alive, head.parts.headers.len())
            } else {
                let head = parse::request(&head, BOUNDS)?;
                (head.framing, head.keep_alive, head.parts.headers.len())
            };
            self.found.push_str(&format!("[{framing:?} {keep_alive} {headers}]"));
            self.body = Some(Decoder::new(framing));
        }
    }
}
