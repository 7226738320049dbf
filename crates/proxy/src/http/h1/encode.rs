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

/// Writes a request's head. Its headers are without those of one hop, but for an upgrade that it asks for; `framing` is `None` without a body.
pub fn request(out: &mut Vec<u8>, request: &request::Parts, authority: &Authority, framing: Option<Framing>) {
    let path = request.uri.path_and_query().map_or("/", |path| path.as_str());
    let method = request.method.as_str();
    out.reserve(method.len() + path.len() + authority.as_str().len() + 64 + 48 * request.headers.len());
    // RFC 9112, 3.2.1: an empty path is sent as `/`.
    let root = if path.starts_with('/') || path == "*" { "" } else { "/" };
    for part in [method, " ", root, path, " HTTP/1.1\r\nhost: ", authority.as_str(), "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    let known = request.headers.contains_key(CONTENT_LENGTH);
    headers(out, &request.headers, |name| *name == HOST || *name == TRANSFER_ENCODING);
    let lengths: &[u8] = match framing {
        Some(Framing::Chunked) => b"transfer-encoding: chunked\r\n",
        // RFC 9110, 8.6.
        None if !known && [Method::POST, Method::PUT, Method::PATCH].contains(&request.method) => {
            b"content-length: 0\r\n"
        }
        _ => b"",
    };
    out.extend_from_slice(lengths);
    if request.headers.contains_key(UPGRADE) {
        out.extend_from_slice(SWITCHES);
    }
    out.extend_from_slice(b"\r\n");
}

/// What a response's head says beside its headers.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    /// Where the body ends; `None` is left as the headers say (no body follows).
    pub framing: Option<Framing>,
    /// Whether the connection ends with it.
    pub close: bool,
    /// Whether the caller must be told that it does not.
    pub keep: bool,
}

/// Writes a response's head. Its headers are without those of one hop, but for the upgrade that it takes up.
pub fn response(out: &mut Vec<u8>, status: StatusCode, fields: &HeaderMap, ending: Ending, date: &[u8]) {
    out.reserve(96 + 48 * fields.len());
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    let framed = ending.framing.is_some();
    headers(out, fields, |name| *name == TRANSFER_ENCODING || framed && *name == CONTENT_LENGTH);
    match ending.framing {
        Some(Framing::Length(length)) => {
            // Writing to a vector cannot fail.
            let _ = write!(out, "content-length: {length}\r\n");
        }
        Some(Framing::Chunked) => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Some(Framing::UntilClose) | None => {}
    }
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
