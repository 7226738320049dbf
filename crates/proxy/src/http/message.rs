//! Headers: what must not pass, what is set on the way, and what makes a request malformed.

use std::net::SocketAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue, Uri, Version,
    header::{CONNECTION, EXPECT, HOST, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE},
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};
use xds::snapshot::{Direction, UpstreamProtocol};

/// Asks for [`ANSWERED_BY`].
pub const PROBE: HeaderName = HeaderName::from_static("x-firedrill-probe");
/// Tells which endpoint the proxy chose.
pub const ANSWERED_BY: HeaderName = HeaderName::from_static("x-firedrill-answered-by");
/// Identifies a request across hops.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Longest request id that is taken over.
const REQUEST_ID_LENGTH: usize = 128;

/// Whom a request is for, as the caller wrote it.
///
/// # Errors
/// A sentence for the caller, when the request names nobody or several.
pub fn authority(request: &Parts) -> Result<Authority, &'static str> {
    let mut hosts = request.headers.get_all(HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err("more than one host header");
    }
    if let Some(authority) = request.uri.authority() {
        // RFC 9112, 3.2.2: the absolute form outranks the header.
        return Ok(authority.clone());
    }
    let host = host.ok_or("no host")?;
    Authority::try_from(host.as_bytes()).map_err(|_| "malformed host")
}

/// Why a request is refused whatever its route.
pub fn refuse(request: &Parts) -> Option<&'static str> {
    if request.headers.contains_key(TRANSFER_ENCODING) && request.headers.contains_key(http::header::CONTENT_LENGTH) {
        return Some("both content-length and transfer-encoding");
    }
    let path = request.uri.path();
    let lower = path.to_ascii_lowercase();
    let dotted = lower.split('/').any(|segment| matches!(segment.replace("%2e", ".").as_str(), "." | ".."));
    // Such a path may mean another one to the endpoint than to the authorization that looked at it.
    if dotted || lower.contains("%2f") && lower.contains("..") || path.contains('\\') || lower.contains("%00") {
        return Some("ambiguous path");
    }
    None
}

/// Removes what is between neighbours only (RFC 9110, 7.6.1).
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
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
    let trailers = headers.get(TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    for name in [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE, EXPECT]
    {
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
) -> String {
    headers.remove(CLIENT_CERT);
    let scheme = HeaderValue::from_static(if tls { "https" } else { "http" });
    match direction {
        Direction::Gateway => {
            headers.remove(FORWARDED_HOST);
            headers.remove(ANSWERED_BY);
            if let Ok(address) = HeaderValue::try_from(address.ip().to_string()) {
                headers.insert(FORWARDED_FOR, address);
            }
            headers.insert(FORWARDED_PROTO, scheme);
            headers.remove(REQUEST_ID);
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
    let kept = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(|id| id.len() <= REQUEST_ID_LENGTH);
    if let Some(id) = kept {
        return id.to_owned();
    }
    let id = uuid4(random.u128(..));
    if let Ok(value) = HeaderValue::try_from(id.as_str()) {
        headers.insert(REQUEST_ID, value);
    }
    id
}

/// RFC 9562, version 4.
fn uuid4(random: u128) -> String {
    let bits = random & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The head of one try: the request's, in the form that the endpoint's protocol asks for.
pub fn for_upstream(
    request: &Parts,
    authority: &Authority,
    protocol: UpstreamProtocol,
    tls: bool,
) -> http::Request<()> {
    let path = request.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    let mut head = http::Request::new(());
    *head.method_mut() = request.method.clone();
    *head.headers_mut() = request.headers.clone();
    let mut uri = http::uri::Parts::default();
    uri.path_and_query = Some(path);
    if protocol == UpstreamProtocol::Http2 {
        *head.version_mut() = Version::HTTP_2;
        head.headers_mut().remove(HOST);
        uri.scheme = Some(if tls { Scheme::HTTPS } else { Scheme::HTTP });
        uri.authority = Some(authority.clone());
    } else if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
        head.headers_mut().insert(HOST, host);
    }
    // A path alone, and a path with scheme and authority, are both whole.
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
            ("/x", vec![("host", "ledger")], Ok("ledger")),
            ("/x", vec![], Err("no host")),
            ("/x", vec![("host", "a"), ("host", "a")], Err("more than one host header")),
            ("/x", vec![("host", "a b")], Err("malformed host")),
            ("/x", vec![("host", "")], Err("malformed host")),
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
            ("/a%00", true),
        ] {
            assert_eq!(refuse(&parts(path, &[])).is_some(), refused, "{path}");
        }
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
        ];
        let mut random = fastrand::Rng::with_seed(3);
        let mut headers = parts("/", &said).headers;
        let id = mark(&mut headers, Direction::Gateway, ([10, 0, 0, 1], 5).into(), false, None, &mut random);
        assert_eq!(headers[FORWARDED_FOR], "10.0.0.1");
        assert_eq!(headers[FORWARDED_PROTO], "http");
        assert!(!headers.contains_key(CLIENT_CERT));
        assert_eq!(headers[REQUEST_ID], id.as_str());
        assert!(id.len() == 36 && &id[14..15] == "4" && id != "mine");
        let mut headers = parts("/", &said).headers;
        let id =
            mark(&mut headers, Direction::Inbound, ([10, 0, 0, 1], 5).into(), true, Some("spiffe://b/s"), &mut random);
        assert_eq!((id.as_str(), headers[CLIENT_CERT].to_str().unwrap()), ("mine", "URI=spiffe://b/s"));
    }
}
