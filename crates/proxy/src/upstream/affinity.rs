//! What of a request decides its endpoint where endpoints are chosen by hash: headers, cookies, the caller's address.

use std::net::IpAddr;

use http::{HeaderMap, header};
use xds::snapshot::HashKey;

use crate::upstream::hashing::xxh64;

/// The hash of all keys that the request has, combined as in Envoy; `None` if it has none of them.
pub fn key(keys: &[HashKey], headers: &HeaderMap, caller: IpAddr) -> Option<u64> {
    let hash = |key: &HashKey| match key {
        HashKey::Header(name) => headers.get(name).map(|value| xxh64(value.as_bytes(), 0)),
        HashKey::Cookie(name) => cookie(headers, name).map(|value| xxh64(value, 0)),
        HashKey::SourceAddress => Some(xxh64(caller.to_string().as_bytes(), 0)),
    };
    keys.iter().filter_map(hash).reduce(|all, one| all.rotate_left(1) ^ one)
}

/// The first cookie of this name, without quotes (RFC 6265, 4.2.1).
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let lines = headers.get_all(header::COOKIE).iter();
    let mut pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs.find_map(|pair| {
        let pair = pair.trim_ascii();
        let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(keys: &[HashKey], lines: &[(&'static str, &'static str)]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        key(keys, &headers, [10, 0, 0, 1].into())
    }

    #[test]
    fn keys_are_found_and_combined() {
        let (header, cookie) = (HashKey::Header("x-user".into()), HashKey::Cookie("sid".into()));
        let abc = xxh64(b"abc", 0);
        let both = [header.clone(), cookie.clone()];
        type Case<'a> = (&'a [HashKey], &'a [(&'static str, &'static str)], Option<u64>);
        let cases: &[Case<'_>] = &[
            (&both[..1], &[("x-user", "abc")], Some(abc)),
            (&both[..1], &[("x-other", "abc")], None),
            (&both[1..], &[("cookie", "a=1; sid=abc; sid=z")], Some(abc)),
            (&both[1..], &[("cookie", "a=1"), ("cookie", "sid=\"abc\"")], Some(abc)),
            (&both[1..], &[("cookie", "xsid=abc; sid2=abc; sid")], None),
            (&both, &[("x-user", "abc"), ("cookie", "sid=abc")], Some(abc.rotate_left(1) ^ abc)),
            (&both, &[("cookie", "sid=abc")], Some(abc)),
            (&[HashKey::SourceAddress], &[], Some(xxh64(b"10.0.0.1", 0))),
            (&[], &[], None),
        ];
        for (keys, lines, expected) in cases {
            assert_eq!(of(keys, lines), *expected, "{keys:?} {lines:?}");
        }
    }
}
