//! Heads of messages, strictly by RFC 9112: what two parties could read in two ways is refused. Pure.

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING},
    request, response,
};

use crate::http::h1::framing::Framing;

/// Bounds on a head.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of all lines together.
    pub bytes: usize,
    /// Header lines.
    pub headers: usize,
}

/// Why a message is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not HTTP/1, or ambiguous.
    #[error("{0}")]
    Malformed(&'static str),
    /// Of another major version.
    #[error("not HTTP/1")]
    Version,
    /// Headers above the bounds.
    #[error("too many or too long headers")]
    TooLarge,
    /// The first line alone is above the bounds.
    #[error("the request's target is too long")]
    LongTarget,
}

impl Refused {
    /// What the caller is answered.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::LongTarget => StatusCode::URI_TOO_LONG,
        }
    }
}

/// A request's head.
#[derive(Debug)]
pub struct RequestHead {
    /// Method, target, version and headers.
    pub parts: request::Parts,
    /// Where its body ends.
    pub framing: Framing,
    /// Whether the connection may be used again, as far as the caller is concerned.
    pub keep_alive: bool,
}

/// A response's head.
#[derive(Debug)]
pub struct ResponseHead {
    /// Status and headers.
    pub parts: response::Parts,
    /// Where its body ends.
    pub framing: Framing,
    /// Whether the connection may be used again, as far as the endpoint is concerned.
    pub keep_alive: bool,
}

/// Looks for the end of a head, going on where it stopped when more bytes have come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scan {
    /// Bytes looked at.
    seen: usize,
    /// Where the present line begins.
    line: usize,
    /// Empty lines before the head.
    empty: usize,
}

/// More empty lines before a head are refused.
const EMPTY_LINES: usize = 8;

impl Scan {
    /// The head with the empty line that ends it, taken out of the buffer; `None` when it is not all here.
    /// Empty lines before it are left out (RFC 9112, 2.2).
    ///
    /// # Errors
    /// At the first line that does not end in CR LF, and above the bounds.
    pub fn head(&mut self, buffer: &mut BytesMut, bounds: Bounds) -> Result<Option<Bytes>, Refused> {
        while let Some(found) = memchr::memchr(b'\n', &buffer[self.seen..]) {
            let end = self.seen + found;
            if end >= bounds.bytes {
                return Err(self.too_long());
            }
            if end == self.line || buffer[end - 1] != b'\r' {
                return Err(Refused::Malformed("a line that does not end in CR LF"));
            }
            let empty = end - 1 == self.line;
            if empty && self.line == 0 {
                let _ = buffer.split_to(end + 1);
                *self = Self { empty: self.empty + 1, ..Self::default() };
                if self.empty > EMPTY_LINES {
                    return Err(Refused::Malformed("nothing but empty lines"));
                }
                continue;
            }
            (self.seen, self.line) = (end + 1, end + 1);
            if empty {
                let head = buffer.split_to(self.seen);
                *self = Self::default();
                return Ok(Some(head.freeze()));
            }
        }
        self.seen = buffer.len();
        if buffer.len() >= bounds.bytes {
            return Err(self.too_long());
        }
        Ok(None)
    }

    fn too_long(self) -> Refused {
        if self.line == 0 { Refused::LongTarget } else { Refused::TooLarge }
    }
}

/// Reads a request's head, which ends in an empty line.
///
/// # Errors
/// When it is not a request, or one that can be read in two ways.
pub fn request(head: &Bytes, bounds: Bounds) -> Result<RequestHead, Refused> {
    let (first, rest) = line(head, 0)?;
    let text = &head[first.clone()];
    let (Some(one), Some(two)) = (memchr::memchr(b' ', text), memchr::memrchr(b' ', text)) else {
        return Err(Refused::Malformed("no request line"));
    };
    if one == two {
        return Err(Refused::Malformed("no request line"));
    }
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.version = version(&text[two + 1..])?;
    parts.method = Method::from_bytes(&text[..one]).map_err(|_| Refused::Malformed("malformed method"))?;
    let target = head.slice(first.start + one + 1..first.start + two);
    parts.uri = target_of(&parts.method, target)?;
    let fields = fields(head, rest, bounds)?;
    let framing = match (fields.length, fields.chunked) {
        (Some(_), true) => return Err(Refused::Malformed("both content-length and transfer-encoding")),
        (None, true) if parts.version == Version::HTTP_10 => {
            return Err(Refused::Malformed("transfer-encoding in HTTP/1.0"));
        }
        (None, true) => Framing::Chunked,
        (length, false) => Framing::Length(length.unwrap_or(0)),
    };
    parts.headers = fields.headers;
    let keep_alive = keep_alive(parts.version, &parts.headers);
    Ok(RequestHead { parts, framing, keep_alive })
}

/// RFC 9112, 3.2: a path, a whole URI, `*`, and for CONNECT an authority; never a fragment.
fn target_of(method: &Method, target: Bytes) -> Result<Uri, Refused> {
    const WRONG: Refused = Refused::Malformed("malformed target");
    if memchr::memchr(b'#', &target).is_some() {
        return Err(WRONG);
    }
    let uri = Uri::from_maybe_shared(escaped(target)).map_err(|_| WRONG)?;
    let by_authority = uri.authority().is_some() && uri.scheme().is_none();
    if by_authority == (*method == Method::CONNECT) { Ok(uri) } else { Err(WRONG) }
}

/// Characters that belong in no URI, but that callers send in queries all the same, are sent on as escapes: what the endpoint
/// decodes is what the caller wrote.
fn escaped(target: Bytes) -> Bytes {
    let loose = |byte: &u8| matches!(byte, b'"' | b'<' | b'>');
    let query = memchr::memchr(b'?', &target).unwrap_or(target.len());
    if !target[query..].iter().any(loose) {
        return target;
    }
    let mut escaped = target[..query].to_vec();
    for byte in &target[query..] {
        match byte {
            b'"' => escaped.extend_from_slice(b"%22"),
            b'<' => escaped.extend_from_slice(b"%3C"),
            b'>' => escaped.extend_from_slice(b"%3E"),
            byte => escaped.push(*byte),
        }
    }
    escaped.into()
}

/// Reads a response's head, which ends in an empty line. `to_head` tells that the request was HEAD, so that no body follows.
///
/// # Errors
/// When it is not a response, or one that can be read in two ways.
pub fn response(head: &Bytes, to_head: bool, bounds: Bounds) -> Result<ResponseHead, Refused> {
    let (first, rest) = line(head, 0)?;
    let text = &head[first];
    let (Some(start), Some(b' ')) = (text.get(..8), text.get(8)) else {
        return Err(Refused::Malformed("no status line"));
    };
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.version = version(start)?;
    let code = text.get(9..12).filter(|_| matches!(text.get(12), None | Some(b' ')));
    parts.status = code
        .and_then(|code| StatusCode::from_bytes(code).ok())
        .filter(|status| status.as_u16() < 600)
        .ok_or(Refused::Malformed("a status that is not between 100 and 599"))?;
    if text.iter().any(|byte| matches!(byte, 0 | b'\r')) {
        return Err(Refused::Malformed("malformed reason"));
    }
    let fields = fields(head, rest, bounds)?;
    let empty = to_head || parts.status.is_informational() || matches!(parts.status.as_u16(), 204 | 304);
    let framing = match (fields.length, fields.chunked) {
        (Some(_), true) => return Err(Refused::Malformed("both content-length and transfer-encoding")),
        (None, true) if parts.version == Version::HTTP_10 => {
            return Err(Refused::Malformed("transfer-encoding in HTTP/1.0"));
        }
        _ if empty => Framing::Length(0),
        (None, true) => Framing::Chunked,
        (Some(length), false) => Framing::Length(length),
        (None, false) => Framing::UntilClose,
    };
    let keep_alive = framing != Framing::UntilClose && keep_alive(parts.version, &fields.headers);
    parts.headers = fields.headers;
    Ok(ResponseHead { parts, framing, keep_alive })
}

/// Reads header lines that end in an empty one: the trailers of a chunked body. They frame nothing.
///
/// # Errors
/// As for the headers of a head.
pub fn trailers(lines: &Bytes, bounds: Bounds) -> Result<HeaderMap, Refused> {
    let mut at = 0;
    let mut trailers = HeaderMap::new();
    while let Some((name, value)) = field(lines, &mut at)? {
        if trailers.len() >= bounds.headers {
            return Err(Refused::TooLarge);
        }
        trailers.append(name, value);
    }
    Ok(trailers)
}

fn version(text: &[u8]) -> Result<Version, Refused> {
    match text {
        b"HTTP/1.1" => Ok(Version::HTTP_11),
        b"HTTP/1.0" => Ok(Version::HTTP_10),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            // RFC 9112, 2.3: a higher minor version is read as the highest one that is known.
            if *major == b'1' { Ok(Version::HTTP_11) } else { Err(Refused::Version) }
        }
        _ => Err(Refused::Malformed("malformed version")),
    }
}

/// RFC 9112, 9.3.
fn keep_alive(version: Version, headers: &HeaderMap) -> bool {
    let mut keep = version == Version::HTTP_11;
    for value in headers.get_all(CONNECTION) {
        for option in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if option.eq_ignore_ascii_case(b"close") {
                return false;
            }
            keep |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }
    keep
}

/// The line that begins here without its end, and where the next one begins.
fn line(head: &Bytes, at: usize) -> Result<(std::ops::Range<usize>, usize), Refused> {
    match memchr::memchr(b'\n', &head[at..]) {
        Some(length) if length > 0 && head[at + length - 1] == b'\r' => Ok((at..at + length - 1, at + length + 1)),
        _ => Err(Refused::Malformed("a line that does not end in CR LF")),
    }
}

struct Fields {
    headers: HeaderMap,
    length: Option<u64>,
    chunked: bool,
}

fn fields(head: &Bytes, mut at: usize, bounds: Bounds) -> Result<Fields, Refused> {
    let mut found = Fields { headers: HeaderMap::with_capacity(12), length: None, chunked: false };
    while let Some((name, value)) = field(head, &mut at)? {
        if !found.frames(&name, &value)? {
            continue;
        }
        if found.headers.len() >= bounds.headers {
            return Err(Refused::TooLarge);
        }
        found.headers.append(name, value);
    }
    Ok(found)
}

/// The header line that begins here; `None` at the empty one.
fn field(head: &Bytes, at: &mut usize) -> Result<Option<(HeaderName, HeaderValue)>, Refused> {
    let (text, next) = line(head, *at)?;
    if text.is_empty() {
        return Ok(None);
    }
    *at = next;
    let field = &head[text.clone()];
    let colon = memchr::memchr(b':', field).ok_or(Refused::Malformed("a header without a colon"))?;
    // A name with white space in it or before it is none: this refuses obs-fold too.
    let name = HeaderName::from_bytes(&field[..colon]).map_err(|_| Refused::Malformed("malformed header name"))?;
    // White space around a value is of two kinds only (RFC 9110, 5.6.3).
    let is_value = |byte: &u8| !matches!(byte, b' ' | b'\t');
    let value = &field[colon + 1..];
    let start = value.iter().position(is_value).unwrap_or(value.len());
    let end = value.iter().rposition(is_value).map_or(start, |last| last + 1);
    let value = head.slice(text.start + colon + 1 + start..text.start + colon + 1 + end);
    let value = HeaderValue::from_maybe_shared(value).map_err(|_| Refused::Malformed("malformed header value"))?;
    Ok(Some((name, value)))
}

impl Fields {
    /// Takes note of what decides where the body ends; false for a repetition that says nothing new.
    fn frames(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<bool, Refused> {
        if *name == CONTENT_LENGTH {
            let digits = value.as_bytes();
            let number = std::str::from_utf8(digits).ok().filter(|_| digits.iter().all(u8::is_ascii_digit));
            let number = number.and_then(|number| number.parse().ok());
            let number: u64 = number.ok_or(Refused::Malformed("malformed content-length"))?;
            return match self.length.replace(number) {
                None => Ok(true),
                Some(before) if before == number => Ok(false),
                Some(_) => Err(Refused::Malformed("two content-lengths")),
            };
        }
        if *name == TRANSFER_ENCODING {
            if std::mem::replace(&mut self.chunked, true) {
                return Err(Refused::Malformed("transfer-encoding twice"));
            }
            let known = value.as_bytes().eq_ignore_ascii_case(b"chunked");
            return if known { Ok(true) } else { Err(Refused::Malformed("a transfer-encoding other than chunked")) };
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::h1::framing::{Decoder, Piece};

    const BOUNDS: Bounds = Bounds { bytes: 1024, headers: 8 };

    /// What all requests in these bytes come to: method, target and body of each, or why one is refused.
    fn read(bytes: &[u8], cuts: &[usize]) -> Result<Vec<String>, Refused> {
        let (mut buffer, mut scan, mut body) = (BytesMut::new(), Scan::default(), None::<Decoder>);
        let mut found: Vec<String> = Vec::new();
        let mut rest = bytes;
        let mut cuts = cuts.iter().copied();
        loop {
            loop {
                if let Some(decoder) = &mut body {
                    match decoder.decode(&mut buffer)? {
                        Piece::More => break,
                        Piece::Data(data) => found.last_mut().unwrap().push_str(std::str::from_utf8(&data).unwrap()),
                        Piece::Trailers(trailers) => {
                            found.last_mut().unwrap().push_str(&format!("+{}", trailers.len()));
                            body = None;
                        }
                        Piece::End => body = None,
                    }
                } else {
                    let Some(head) = scan.head(&mut buffer, BOUNDS)? else { break };
                    let head = request(&head, BOUNDS)?;
                    found.push(format!("{} {} {} ", head.parts.method, head.parts.uri, head.keep_alive));
                    body = Some(Decoder::new(head.framing));
                }
            }
            if rest.is_empty() {
                return Ok(found);
            }
            let (piece, after) = rest.split_at(cuts.next().unwrap_or(rest.len()).clamp(1, rest.len()));
            buffer.extend_from_slice(piece);
            rest = after;
        }
    }

    #[test]
    fn requests_are_read_one_after_the_other() {
        let text = "\r\nPOST /a HTTP/1.1\r\ncontent-length: 4\r\n\r\na\n\n\rGET /b?c HTTP/1.0\r\nconnection: Keep-Alive\r\n\r\n\
                    PUT /d HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: x, close\r\n\r\n3;x=\"y z\"\r\na\nb\r\n0a \r\n0123456789\r\n0\r\nt: 1\r\n\r\n\
                    GET /e HTTP/1.0\r\n\r\n";
        let expected = ["POST /a true a\n\n\r", "GET /b?c true ", "PUT /d false a\nb0123456789+1", "GET /e false "];
        assert_eq!(read(text.as_bytes(), &[]).unwrap(), expected);
        for at in 1..text.len() {
            assert_eq!(read(text.as_bytes(), &[at]).unwrap(), expected, "cut at {at}");
        }
        assert_eq!(read(text.as_bytes(), &vec![1; text.len()]).unwrap(), expected);
    }

    #[test]
    fn what_smugglers_send_is_refused() {
        for text in [
            "GET / HTTP/1.1\nhost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\n\n",
            "GET / HTTP/1.1\r\nhost: a\rb\r\n\r\n",
            "GET / HTTP/1.1\rx\r\nhost: a\r\n\r\n",
            "\n\r\nGET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\n x: a\r\n\r\n",
            "GET / HTTP/1.1\r\nx: a\r\n b\r\n\r\n",
            "GET / HTTP/1.1\r\nx: a\r\n\tb: c\r\n\r\n",
            "GET / HTTP/1.1\r\nx : a\r\n\r\n",
            "GET / HTTP/1.1\r\nx\r\n\r\n",
            "GET / HTTP/1.1\r\n: a\r\n\r\n",
            "GET / HTTP/1.1\r\nx: a\0b\r\n\r\n",
            "GET / HTTP/1.1\r\nx: a\x7fb\r\n\r\n",
            "GET / HTTP/1.1\r\nx(: a\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET /  HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1 \r\n\r\n",
            " GET / HTTP/1.1\r\n\r\n",
            "GET\t/ HTTP/1.1\r\n\r\n",
            "GET /a b HTTP/1.1\r\n\r\n",
            "GET /\0 HTTP/1.1\r\n\r\n",
            "GET HTTP/1.1\r\n\r\n",
            "GET /\r\n\r\n",
            "G@T / HTTP/1.1\r\n\r\n",
            "GET / http/1.1\r\n\r\n",
            "GET / HTTP/1.\r\n\r\n",
            "GET / HTTP/1.10\r\n\r\n",
            "\0\x01\x02\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: +4\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 4, 4\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 0x4\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length:\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: xchunked\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: identity\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: \x0bchunked\r\n\r\n",
            "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0x3\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n 3\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n-3\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3 x\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3;a\rb\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n11111111111111111\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\x0c\r\n\r\n",
            "GET / HTTP/1.1\r\nx: a\r\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\r\n\r\n",
            "\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: a\n\r\n",
        ] {
            assert!(matches!(read(text.as_bytes(), &[]), Err(Refused::Malformed(_))), "{text:?}");
            assert!(matches!(read(text.as_bytes(), &vec![1; text.len()]), Err(Refused::Malformed(_))), "{text:?}");
        }
    }

    #[test]
    fn bounds_hold_before_the_end_of_a_head() {
        let long = "a".repeat(2000);
        let many = "x: 1\r\n".repeat(9);
        for (text, refused) in [
            (format!("GET /{long}"), Refused::LongTarget),
            (format!("GET / HTTP/1.1\r\nx: {long}"), Refused::TooLarge),
            (format!("GET / HTTP/1.1\r\n{many}\r\n"), Refused::TooLarge),
            (format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", &long[..1020]), Refused::TooLarge),
            ("GET / HTTP/2.0\r\n\r\n".to_owned(), Refused::Version),
        ] {
            assert_eq!(read(text.as_bytes(), &[]), Err(refused), "{text}");
        }
    }

    #[test]
    fn responses_end_where_they_say() {
        let close = Framing::UntilClose;
        for (text, to_head, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n", false, Some((Framing::Length(3), true))),
            ("HTTP/1.1 200\r\ncontent-length: 3\r\n\r\n", true, Some((Framing::Length(0), true))),
            ("HTTP/1.1 200 \r\n\r\n", false, Some((close, false))),
            ("HTTP/1.1 304 X\r\ncontent-length: 3\r\n\r\n", false, Some((Framing::Length(0), true))),
            ("HTTP/1.1 204 X\r\n\r\n", false, Some((Framing::Length(0), true))),
            ("HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n", false, Some((Framing::Chunked, true))),
            ("HTTP/1.1 200 X\r\ntransfer-encoding: gzip\r\n\r\n", false, None),
            ("HTTP/1.0 200 X\r\ncontent-length: 3\r\n\r\n", false, Some((Framing::Length(3), false))),
            (
                "HTTP/1.1 200 X\r\ncontent-length: 3\r\nconnection: close\r\n\r\n",
                false,
                Some((Framing::Length(3), false)),
            ),
            ("HTTP/1.1 200 X\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n", false, None),
            ("HTTP/1.1 2000 X\r\n\r\n", false, None),
            ("HTTP/1.1 99 X\r\n\r\n", false, None),
            ("HTTP/1.1 600 X\r\n\r\n", false, None),
            ("HTTP/1.1  200 X\r\n\r\n", false, None),
            ("HTTP/2.0 200 X\r\n\r\n", false, None),
            ("HTTP/1.1 200 X\0\r\n\r\n", false, None),
        ] {
            let found = response(&Bytes::from_static(text.as_bytes()), to_head, BOUNDS);
            assert_eq!(found.ok().map(|head| (head.framing, head.keep_alive)), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "GET / HTTP/1.1\r\n", "POST /x HTTP/1.1\r\n", "content-length: 3\r\n", "transfer-encoding: chunked\r\n", "\r\n", "abc",
                "3\r\nabc\r\n", "0\r\n\r\n", "\n", "\r", " ", "x: y\r\n", "0\r\nt: u\r\n\r\n", "expect: 100-continue\r\n", "\0",
            ]), 0..12),
            cuts in prop::collection::vec(1usize..9, 0..60),
        ) {
            let text = pieces.concat();
            prop_assert_eq!(read(text.as_bytes(), &cuts), read(text.as_bytes(), &[]));
        }

        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..400), to_head: bool) {
            let _ = read(&bytes, &[3, 5, 7]);
            let head = Bytes::from([&b"HTTP/1.1 "[..], &bytes, b"\r\n\r\n"].concat());
            let _ = response(&head, to_head, BOUNDS);
        }
    }
}
