//! gRPC over HTTP: status codes, deadlines, and what an answer of our own is to a gRPC client. Pure.

use std::{fmt::Write, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::CONTENT_TYPE};

/// Where a gRPC server says how a call ended.
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// Its words about it.
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// How long the client waits for the whole call.
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// `DEADLINE_EXCEEDED`.
pub const DEADLINE_EXCEEDED: u8 = 4;
/// `UNAVAILABLE`.
pub const UNAVAILABLE: u8 = 14;

/// Whether a request is a gRPC call: `application/grpc`, alone or with `+proto` and the like.
pub fn is_call(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(CONTENT_TYPE) else { return false };
    let rest = kind.as_bytes().strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+") || rest.starts_with(b";"))
}

/// The end of a response of which the caller has a part already: the status that the caller is told in trailers.
pub fn ending(status: u8, text: &str) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert(STATUS, HeaderValue::from(u16::from(status)));
    if let Ok(message) = HeaderValue::try_from(encoded(text)) {
        trailers.insert(MESSAGE, message);
    }
    trailers
}

/// The status that a head carries: of a response that is nothing but headers.
pub fn status(headers: &HeaderMap) -> Option<u8> {
    headers.get(STATUS)?.to_str().ok()?.parse().ok()
}

/// What an HTTP status means to a gRPC client (gRPC, "HTTP to gRPC Status Code Mapping").
pub fn of_http(status: StatusCode) -> u8 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// What a gRPC status is to a client of plain HTTP (google.rpc.Code, and Envoy's local replies).
pub fn to_http(status: u8) -> StatusCode {
    match status {
        0 => StatusCode::OK,
        3 | 9 | 11 => StatusCode::BAD_REQUEST,
        4 => StatusCode::GATEWAY_TIMEOUT,
        5 => StatusCode::NOT_FOUND,
        6 | 10 => StatusCode::CONFLICT,
        7 => StatusCode::FORBIDDEN,
        8 => StatusCode::TOO_MANY_REQUESTS,
        12 => StatusCode::NOT_IMPLEMENTED,
        14 => StatusCode::SERVICE_UNAVAILABLE,
        16 => StatusCode::UNAUTHORIZED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// How long the client waits for the whole call, if it says so: at most eight digits and a unit (gRPC over HTTP/2, "Timeout").
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// The headers of an answer of our own: to a gRPC client it is HTTP 200 and nothing but headers.
pub fn refuse(status: u8, text: &str, headers: &mut HeaderMap) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(STATUS, HeaderValue::from(u16::from(status)));
    if let Ok(message) = HeaderValue::try_from(encoded(text)) {
        headers.insert(MESSAGE, message);
    }
}

/// Percent-encoded as `grpc-message` is: all but printable ASCII, and the sign of percent.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            // Writing to a String cannot fail.
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn calls_are_known_by_their_content_type() {
        for (kind, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=x", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            assert_eq!(is_call(&with(CONTENT_TYPE, kind)), expected, "{kind}");
        }
        assert!(!is_call(&HeaderMap::new()));
    }

    #[test]
    fn deadlines_have_a_unit() {
        for (text, expected) in [
            ("100m", Some(Duration::from_millis(100))),
            ("1H", Some(Duration::from_secs(3600))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("2M", Some(Duration::from_secs(120))),
            ("5S", Some(Duration::from_secs(5))),
            ("7u", Some(Duration::from_micros(7))),
            ("0m", Some(Duration::ZERO)),
            ("123456789m", None),
            ("m", None),
            ("", None),
            ("5", None),
            ("-5m", None),
            ("5s", None),
        ] {
            assert_eq!(timeout(&with(TIMEOUT, text)), expected, "{text}");
        }
    }

    #[test]
    fn an_answer_of_ours_is_nothing_but_headers() {
        let mut headers = with(CONTENT_TYPE, "text/plain");
        refuse(14, "100% \u{e9}", &mut headers);
        assert_eq!(headers[CONTENT_TYPE], "application/grpc");
        assert_eq!((status(&headers), headers[MESSAGE].to_str().unwrap()), (Some(14), "100%25 %C3%A9"));
        assert_eq!((of_http(StatusCode::SERVICE_UNAVAILABLE), of_http(StatusCode::IM_A_TEAPOT)), (14, 2));
        assert_eq!(to_http(8), StatusCode::TOO_MANY_REQUESTS);
        let trailers = ending(UNAVAILABLE, "gone");
        assert_eq!((status(&trailers), trailers[MESSAGE].to_str().unwrap()), (Some(14), "gone"));
    }
}
