//! Heads and chunks as bytes. Pure.

use std::io::Write;

use http::{
    HeaderMap, HeaderName, Method, StatusCode,
    header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE},
    request,
    uri::Authority,
};

use crate::http::h1::framing::Framing;

/// Ends the last chunk, without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Tells the neighbour that `upgrade` is meant for it (RFC 9110, 7.8).
const SWITCHES: &[u8] = b"connection: upgrade\r\n";

/// Writes a request's head. Its headers are without those of one hop, but for an upgrade that it asks for.
///
/// Only `framing`, which is how the body will be written, decides what the head says about the body: whatever the headers
/// say of it is left out. `None` is a request without a body.
pub fn request(out: &mut Vec<u8>, request: &request::Parts, authority: &Authority, framing: Option<Framing>) {
    let path = request.uri.path_and_query().map_or("/", |path| path.as_str());
    let method = request.method.as_str();
    out.reserve(method.len() + path.len() + authority.as_str().len() + 64 + 48 * request.headers.len());
    // RFC 9112, 3.2.1: an empty path is sent as `/`.
    let root = if path.starts_with('/') || path == "*" { "" } else { "/" };
    for part in [method, " ", root, path, " HTTP/1.1\r\nhost: ", authority.as_str(), "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    headers(out, &request.headers, |name| *name == HOST || frames(name));
    // RFC 9110, 8.6.
    let says_empty = [Method::POST, Method::PUT, Method::PATCH].contains(&request.method)
        || request.headers.contains_key(CONTENT_LENGTH);
    body_ends(out, framing.or(says_empty.then_some(Framing::Length(0))));
    if request.headers.contains_key(UPGRADE) {
        out.extend_from_slice(SWITCHES);
    }
    out.extend_from_slice(b"\r\n");
}

/// Headers that tell where a body ends: written from how it is framed, never copied.
fn frames(name: &HeaderName) -> bool {
    *name == TRANSFER_ENCODING || *name == CONTENT_LENGTH
}

fn body_ends(out: &mut Vec<u8>, framing: Option<Framing>) {
    match framing {
        Some(Framing::Length(length)) => {
            // Writing to a vector cannot fail.
            let _ = write!(out, "content-length: {length}\r\n");
        }
        Some(Framing::Chunked) => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Some(Framing::UntilClose) | None => {}
    }
}

/// What a response's head says beside its headers.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    /// How the body is written; `None` where none follows.
    pub framing: Option<Framing>,
    /// The length that a body would have had, where the status or the method rules one out (RFC 9110, 8.6).
    pub announced: Option<u64>,
    /// Whether the connection ends with it.
    pub close: bool,
    /// Whether the caller must be told that it does not.
    pub keep: bool,
}

/// Writes a response's head. Its headers are without those of one hop, but for the upgrade that it takes up.
pub fn response(out: &mut Vec<u8>, status: StatusCode, fields: &HeaderMap, ending: Ending, date: &[u8]) {
    out.reserve(96 + 48 * fields.len());
    status_line(out, status);
    headers(out, fields, frames);
    body_ends(out, ending.framing.or(ending.announced.map(Framing::Length)));
    if !fields.contains_key(http::header::DATE) {
        out.extend_from_slice(b"date: ");
        out.extend_from_slice(date);
        out.extend_from_slice(b"\r\n");
    }
    if status == StatusCode::SWITCHING_PROTOCOLS {
        out.extend_from_slice(SWITCHES);
    } else if ending.close {
        out.extend_from_slice(b"connection: close\r\n");
    } else if ending.keep {
        out.extend_from_slice(b"connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the head of an interim response (1xx), which has no body.
pub fn interim(out: &mut Vec<u8>, status: StatusCode, fields: &HeaderMap) {
    status_line(out, status);
    headers(out, fields, frames);
    out.extend_from_slice(b"\r\n");
}

fn status_line(out: &mut Vec<u8>, status: StatusCode) {
    for part in ["HTTP/1.1 ", status.as_str(), " ", status.canonical_reason().unwrap_or_default(), "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// Writes the line before a chunk.
pub fn chunk(out: &mut Vec<u8>, length: usize) {
    // Writing to a vector cannot fail.
    let _ = write!(out, "{length:x}\r\n");
}

/// Writes the last chunk with trailers, which frame nothing.
pub fn trailers(out: &mut Vec<u8>, trailers: &HeaderMap) {
    out.extend_from_slice(b"0\r\n");
    headers(out, trailers, |_| false);
    out.extend_from_slice(b"\r\n");
}

fn headers(out: &mut Vec<u8>, headers: &HeaderMap, but: impl Fn(&HeaderName) -> bool) {
    for (name, value) in headers {
        if but(name) {
            continue;
        }
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}
