//! Headers: what must not pass, what is set on the way, and what makes a request malformed.

use std::net::SocketAddr;

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use base64::Engine;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri, Version,
    header::{
        AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING,
        UPGRADE,
    },
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};
use xds::snapshot::Direction;

/// Asks for [`ANSWERED_BY`].
pub const PROBE: HeaderName = HeaderName::from_static("x-firedrill-probe");
/// Tells which endpoint the proxy chose.
pub const ANSWERED_BY: HeaderName = HeaderName::from_static("x-firedrill-answered-by");
/// Said by the sidecar beside a workload, and by nobody else: the workload never saw the request (Envoy's name).
pub const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");
/// The user agent of checks.
pub const CHECK_AGENT: &str = "firedrill-check";
/// Identifies a request across hops.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const WEBSOCKET_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");
const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Longest request id that is taken over.
const REQUEST_ID_LENGTH: usize = 128;

/// Whom a request is for, as the caller wrote it.
///
/// # Errors
/// A sentence for the caller, when the request names nobody, several, or something that is no host.
pub fn authority(request: &Parts) -> Result<Authority, &'static str> {
    let mut hosts = request.headers.get_all(HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err("more than one host header");
    }
    let host = host.map(|host| Authority::try_from(host.as_bytes()).map_err(|_| "malformed host")).transpose()?;
    let authority = match (request.uri.authority(), host) {
        // RFC 9112, 3.2: every request has the header, also where the target outranks it.
        (_, None) if request.version == Version::HTTP_11 => return Err("no host"),
        (None, None) => return Err("no host"),
        // RFC 9113, 8.3.1: both say the same.
        (Some(authority), Some(host)) if request.version == Version::HTTP_2 && *authority != host => {
            return Err("the host is not the authority");
        }
        (Some(authority), _) => authority.clone(),
        (None, Some(host)) => host,
    };
    // RFC 9110, 4.2.4. What we take for the host must be what the endpoint takes for it.
    if authority.as_str().contains('@') {
        return Err("a user before the host");
    }
    // RFC 3986, 3.2.3; a comma is what several headers become when a proxy joins them.
    let port = authority.as_str().get(authority.host().len()..).unwrap_or_default();
    let digits = port.strip_prefix(':').unwrap_or(port);
    let valid =
        digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits.is_empty() || digits.parse::<u16>().is_ok());
    if !valid || authority.host().contains(',') {
        return Err("malformed host");
    }
    Ok(authority)
}

/// Why a request is refused whose head says another thing about its body than what comes: a receiver that believes the head
/// would take what follows for the body. `length` is how long the body is, where that is known.
pub fn misframed(headers: &HeaderMap, length: Option<u64>) -> Option<&'static str> {
    let mut said = headers.get_all(CONTENT_LENGTH).iter();
    let first = said.next()?;
    if said.next().is_some() {
        return Some("content-length twice");
    }
    let digits = std::str::from_utf8(first.as_bytes()).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let Some(said) = digits.and_then(|digits| digits.parse::<u64>().ok()) else {
        return Some("malformed content-length");
    };
    (length != Some(said)).then_some("a content-length that is not the body's")
}

/// Makes a head say this about its body's length, and nothing else. `None` is not known, or not to be said.
pub fn announce(headers: &mut HeaderMap, length: Option<u64>) {
    let announced = headers.remove(CONTENT_LENGTH).is_some();
    if let Some(length) = length.filter(|length| *length > 0 || announced) {
        headers.insert(CONTENT_LENGTH, length.into());
    }
}

/// The one length that a head announces.
pub fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Why a request is refused whatever its route.
pub fn refuse(request: &Parts) -> Option<&'static str> {
    if request.headers.contains_key(TRANSFER_ENCODING) && request.headers.contains_key(http::header::CONTENT_LENGTH) {
        return Some("both content-length and transfer-encoding");
    }
    let path = request.uri.path();
    if path == "*" && request.method != Method::OPTIONS {
        return Some("only OPTIONS is for everything");
    }
    // Most paths hold nothing that could be read in two ways.
    let suspect = path.contains(['%', '\\', ';']) || path.contains("/.");
    (suspect && ambiguous(path)).then_some("ambiguous path")
}

/// Whether a path may mean another one to the endpoint than to the authorization that looked at it: endpoints decode
/// before they resolve dots, some take `\` for `/`, and some leave out what follows a `;`.
fn ambiguous(path: &str) -> bool {
    let decoded = decoded(path);
    let dotted = decoded.split(|byte| matches!(byte, b'/' | b'\\')).any(|segment| {
        let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        matches!(name, b"." | b"..")
    });
    dotted || path.contains('\\') || decoded.contains(&0)
}

/// RFC 3986, 2.1. What is no escape stays as it is.
fn decoded(path: &str) -> Vec<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, after @ ..] = rest {
        let escape = match rest {
            [b'%', high, low, after @ ..] => digit(high).zip(digit(low)).map(|(high, low)| (high << 4 | low, after)),
            _ => None,
        };
        let (byte, after) = escape.unwrap_or((*first, after));
        decoded.push(byte);
        rest = after;
    }
    decoded
}

/// Makes one line of a cookie that HTTP/2 sent in pieces: other protocols have one (RFC 9113, 8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let pieces: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    // What was joined of valid values is one.
    if let Ok(cookie) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
        headers.insert(COOKIE, cookie);
    }
}

/// What the caller wants to speak from here on instead of HTTP, as it wrote it (RFC 9110, 7.8). Whoever may ignore the wish
/// does: HTTP/2 has another way to be asked for, and in HTTP/1.0 it means nothing.
pub fn upgrade(request: &Parts) -> Option<HeaderValue> {
    let protocol = request.headers.get(UPGRADE)?;
    let mut options =
        request.headers.get_all(CONNECTION).iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
    let meant = match request.version {
        Version::HTTP_11 => options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade")),
        // No caller can send the header: it is what became of an extended CONNECT.
        version => version == Version::HTTP_2,
    };
    (meant && !protocol.as_bytes().eq_ignore_ascii_case(b"h2c")).then(|| protocol.clone())
}

/// Asks for an upgrade in the words of HTTP/1.1. A WebSocket over HTTP/2 has no key (RFC 8441, 5), which endpoints insist on.
pub fn ask_for(protocol: HeaderValue, headers: &mut HeaderMap) {
    if protocol.as_bytes().eq_ignore_ascii_case(b"websocket") {
        headers.entry(WEBSOCKET_KEY).or_insert_with(|| websocket_key(fastrand::u128(..)));
    }
    headers.insert(UPGRADE, protocol);
}

/// Makes of a request for an upgrade what HTTP/2 has for it: an extended CONNECT (RFC 8441, 4). Returns what it asks for.
pub fn ask_over_http2(request: &mut http::Request<()>) -> Option<HeaderValue> {
    let protocol = request.headers_mut().remove(UPGRADE)?;
    let name = protocol.to_str().ok()?.to_ascii_lowercase();
    *request.method_mut() = Method::CONNECT;
    request.extensions_mut().insert(h2::ext::Protocol::from(name.as_str()));
    Some(protocol)
}

/// Says that an upgrade is taken up in the words of HTTP/1.1. Over HTTP/2 a WebSocket's key is not answered (RFC 8441, 5),
/// on whose answer callers insist (RFC 6455, 4.2.2).
pub fn takes_up(protocol: HeaderValue, asked: &HeaderMap, answer: &mut HeaderMap) {
    if protocol.as_bytes().eq_ignore_ascii_case(b"websocket")
        && let Some(key) = asked.get(WEBSOCKET_KEY)
    {
        answer.entry(WEBSOCKET_ACCEPT).or_insert_with(|| websocket_accept(key.as_bytes()));
    }
    answer.insert(UPGRADE, protocol);
}

fn websocket_accept(key: &[u8]) -> HeaderValue {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let mut hash = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(GUID);
    let text = base64::engine::general_purpose::STANDARD.encode(hash.finish());
    // Of nothing but digits and the sign of equality.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

/// Sixteen bytes in base64 (RFC 6455, 4.1).
fn websocket_key(random: u128) -> HeaderValue {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = [b'='; 24];
    for (place, digit) in text[..22].iter_mut().enumerate() {
        // Of 132 bits, of which the last four are zero.
        let bits = if place < 21 { random >> (122 - 6 * place) } else { random << 4 };
        *digit = DIGITS[(bits & 0x3f) as usize];
    }
    // Of nothing but digits and the sign of equality.
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""))
}

/// Whether a response says that it is a stream of events, which ends when one of both sides likes.
pub fn is_stream(headers: &HeaderMap) -> bool {
    const EVENTS: &[u8] = b"text/event-stream";
    let kind = headers.get(http::header::CONTENT_TYPE).and_then(|kind| kind.as_bytes().get(..EVENTS.len()));
    kind.is_some_and(|kind| kind.eq_ignore_ascii_case(EVENTS))
}

/// Removes what is between neighbours only (RFC 9110, 7.6.1).
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    const BETWEEN: [HeaderName; 8] =
        [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE, EXPECT];
    if !headers.keys().any(|name| BETWEEN.contains(name)) {
        return;
    }
    let trailers = headers.get(TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in BETWEEN {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Sets what tells the endpoint about the caller, and returns the request id. At a gateway the caller is a stranger:
/// what it says about itself is replaced.
pub fn mark(
    headers: &mut HeaderMap,
    direction: Direction,
    address: SocketAddr,
    tls: bool,
    id: Option<&str>,
    random: &mut fastrand::Rng,
) -> HeaderValue {
    remove_where(headers, |name| same(name, CLIENT_CERT.as_str()));
    let scheme = HeaderValue::from_static(if tls { "https" } else { "http" });
    match direction {
        Direction::Gateway => {
            remove_where(headers, tells_about_caller);
            headers.remove(ANSWERED_BY);
            if let Ok(address) = HeaderValue::try_from(address.ip().to_string()) {
                headers.insert(FORWARDED_FOR, address);
            }
            headers.insert(FORWARDED_PROTO, scheme);
        }
        Direction::Inbound => {
            if let Some(Ok(id)) = id.map(|id| HeaderValue::try_from(format!("URI={id}"))) {
                headers.insert(CLIENT_CERT, id);
            }
        }
        Direction::Outbound => {
            headers.entry(FORWARDED_PROTO).or_insert(scheme);
        }
    }
    if let Some(kept) = headers.get(REQUEST_ID).filter(|id| id.len() <= REQUEST_ID_LENGTH && id.to_str().is_ok()) {
        return kept.clone();
    }
    let id = uuid4(random.u128(..));
    headers.insert(REQUEST_ID, id.clone());
    id
}

/// Removes from trailers what belongs before a body only (RFC 9110, 6.5.1), and what only proxies may say.
pub fn clean_trailers(trailers: &mut HeaderMap) {
    strip_hop_by_hop(trailers);
    for name in [HOST, CONTENT_LENGTH, AUTHORIZATION, COOKIE] {
        trailers.remove(name);
    }
    remove_where(trailers, |name| same(name, CLIENT_CERT.as_str()) || tells_about_caller(name));
}

/// What proxies of one's own say about a caller, and what they tell each other to do with its request.
fn tells_about_caller(name: &str) -> bool {
    const NAMES: [&str; 5] = ["x-request-id", "forwarded", "x-real-ip", "client-cert", "client-cert-chain"];
    const FAMILIES: [&str; 2] = ["x-forwarded-", "x-envoy-"];
    NAMES.iter().any(|known| same(name, known))
        || FAMILIES.iter().any(|family| name.get(..family.len()).is_some_and(|start| same(start, family)))
}

/// Whether a header is meant that is known by this name. An underscore counts as a hyphen, since to CGI, WSGI and their
/// like it is one.
fn same(name: &str, known: &str) -> bool {
    name.len() == known.len()
        && name.bytes().zip(known.bytes()).all(|(byte, known)| byte == known || byte == b'_' && known == b'-')
}

fn remove_where(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    if !headers.keys().any(|name| unwanted(name.as_str())) {
        return;
    }
    let found: Vec<HeaderName> = headers.keys().filter(|name| unwanted(name.as_str())).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

/// RFC 9562, version 4.
fn uuid4(random: u128) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let bits = random & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let mut text = [b'-'; 36];
    let places = (0..36).filter(|place| ![8, 13, 18, 23].contains(place));
    for (digit, place) in places.enumerate() {
        text[place] = DIGITS[(bits >> (124 - 4 * digit)) as usize & 0xf];
    }
    // Of nothing but digits and hyphens.
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""))
}

/// The head of one try over HTTP/2.
pub fn for_http2(request: &Parts, authority: &Authority, tls: bool) -> http::Request<()> {
    let mut head = http::Request::new(());
    *head.method_mut() = request.method.clone();
    *head.version_mut() = Version::HTTP_2;
    *head.headers_mut() = request.headers.clone();
    head.headers_mut().remove(HOST);
    let mut uri = http::uri::Parts::default();
    let path = request.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    // RFC 9113, 8.3.1: an empty path is sent as `/`.
    let rooted = path.as_str().starts_with('?').then(|| PathAndQuery::try_from(format!("/{path}")).ok()).flatten();
    uri.path_and_query = Some(rooted.unwrap_or(path));
    uri.scheme = Some(if tls { Scheme::HTTPS } else { Scheme::HTTP });
    uri.authority = Some(authority.clone());
    // Scheme, authority and path are whole.
    if let Ok(uri) = Uri::from_parts(uri) {
        *head.uri_mut() = uri;
    }
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let request = headers.iter().fold(http::Request::get(uri), |r, (k, v)| r.header(*k, *v));
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn authority_is_the_uris_then_the_hosts() {
        let cases = [
            ("http://ledger:80/x", vec![("host", "other")], Ok("ledger:80")),
            ("http://ledger/x", vec![], Err("no host")),
            ("http://ledger/x", vec![("host", "a b")], Err("malformed host")),
            ("/x", vec![("host", "ledger:")], Ok("ledger:")),
            ("/x", vec![("host", "[::1]:80")], Ok("[::1]:80")),
            ("/x", vec![("host", "ledger:http")], Err("malformed host")),
            ("/x", vec![("host", "ledger:65536")], Err("malformed host")),
            ("/x", vec![("host", "a, b")], Err("malformed host")),
            ("/x", vec![("host", "a,b")], Err("malformed host")),
            ("/x", vec![("host", "ledger")], Ok("ledger")),
            ("/x", vec![], Err("no host")),
            ("/x", vec![("host", "a"), ("host", "a")], Err("more than one host header")),
            ("/x", vec![("host", "a b")], Err("malformed host")),
            ("/x", vec![("host", "")], Err("malformed host")),
            ("/x", vec![("host", "other@ledger")], Err("a user before the host")),
            ("http://other@ledger/x", vec![("host", "ledger")], Err("a user before the host")),
        ];
        for (uri, headers, expected) in cases {
            let found = authority(&parts(uri, &headers));
            assert_eq!(found.as_ref().map(Authority::as_str), expected.as_ref().map(|a| *a), "{uri} {headers:?}");
        }
    }

    #[test]
    fn ambiguous_paths_are_refused() {
        for (path, refused) in [
            ("/a/b.c", false),
            ("/a/..b", false),
            ("/a/%20b", false),
            ("/a/../b", true),
            ("/a/%2e%2E/b", true),
            ("/a/./b", true),
            ("/a/..%2fb", true),
            ("/a%2fb", false),
            ("/a/%2e%2e%2fb", true),
            ("/a%2F%2e%2e", true),
            ("/a/..;x=1/b", true),
            ("/a/b;x=..", false),
            ("/a/..%5cb", true),
            ("/a%5c%2e./b", true),
            ("/a/%2", false),
            ("/a%00", true),
        ] {
            assert_eq!(refuse(&parts(path, &[])).is_some(), refused, "{path}");
        }
    }

    #[test]
    fn a_cookie_in_pieces_becomes_one() {
        let mut headers = parts("/", &[("cookie", "a=b"), ("x", "y"), ("cookie", "c=d; e=f")]).headers;
        join_cookies(&mut headers);
        assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=b; c=d; e=f"]);
    }

    #[test]
    fn a_websockets_key_is_sixteen_bytes() {
        let all: u128 = 0x00_01_02_03_04_05_06_07_08_09_0a_0b_0c_0d_0e_0f;
        assert_eq!(websocket_key(all), "AAECAwQFBgcICQoLDA0ODw==");
        assert_eq!(websocket_key(u128::MAX), "/////////////////////w==");
        // RFC 6455, 1.3.
        assert_eq!(websocket_accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn neighbours_headers_do_not_pass() {
        let mut headers = parts(
            "/",
            &[
                ("connection", "close, x-secret"),
                ("x-secret", "1"),
                ("keep-alive", "5"),
                ("te", "trailers"),
                ("upgrade", "x"),
                ("x-kept", "1"),
            ],
        )
        .headers;
        strip_hop_by_hop(&mut headers);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["te", "x-kept"]);
    }

    #[test]
    fn a_gateway_believes_nothing_about_the_caller() {
        let said = [
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-client-cert", "URI=spiffe://bank/admin"),
            ("x-request-id", "mine"),
            ("x-forwarded-port", "1"),
            ("x-forwarded-user", "admin"),
            ("x_forwarded_for", "6.6.6.6"),
            ("x-real-ip", "6.6.6.6"),
            ("forwarded", "for=6.6.6.6"),
            ("client-cert", ":AAAA:"),
            ("x-envoy-upstream-rq-timeout-ms", "1"),
        ];
        let mut random = fastrand::Rng::with_seed(3);
        let mut headers = parts("/", &said).headers;
        let id = mark(&mut headers, Direction::Gateway, ([10, 0, 0, 1], 5).into(), false, None, &mut random);
        assert_eq!(headers[FORWARDED_FOR], "10.0.0.1");
        assert_eq!(headers[FORWARDED_PROTO], "http");
        assert_eq!(headers[REQUEST_ID], id);
        let id = id.to_str().unwrap();
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["x-forwarded-for", "x-forwarded-proto", "x-request-id"]);
        assert!(id.len() == 36 && &id[14..15] == "4" && id != "mine");
        let mut headers = parts("/", &said).headers;
        let id =
            mark(&mut headers, Direction::Inbound, ([10, 0, 0, 1], 5).into(), true, Some("spiffe://b/s"), &mut random);
        assert_eq!((id.to_str().unwrap(), headers[CLIENT_CERT].to_str().unwrap()), ("mine", "URI=spiffe://b/s"));
    }

    #[test]
    fn who_the_caller_is_cannot_be_said_under_another_spelling() {
        let mut headers = parts("/", &[("x_forwarded_client_cert", "URI=spiffe://bank/admin")]).headers;
        let mut random = fastrand::Rng::with_seed(3);
        mark(&mut headers, Direction::Inbound, ([10, 0, 0, 1], 5).into(), true, Some("spiffe://b/s"), &mut random);
        assert!(!headers.contains_key("x_forwarded_client_cert"));
        assert_eq!(headers[CLIENT_CERT], "URI=spiffe://b/s");
    }
}
