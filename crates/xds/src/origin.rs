//! Whether a request to an interface of a process comes from a web page. Such interfaces are for programs on this machine:
//! a browser that is led there (by a form, a script, or a name that resolves to a loopback address) is refused.

use std::net::SocketAddr;

/// What a request says of its target and its origin, as bytes of header values.
#[derive(Clone, Debug, Default)]
pub struct Claim<'a> {
    /// Every `Host` header, and the authority of the target where it has one.
    pub hosts: Vec<&'a [u8]>,
    /// Every `Origin` header.
    pub origins: Vec<&'a [u8]>,
    /// Every `Sec-Fetch-Site` header.
    pub sites: Vec<&'a [u8]>,
}

/// The reason to refuse a request, for the person who made it; `None` if it may be served. `local` is the address that the
/// connection was made to.
pub fn refusal(local: SocketAddr, claim: &Claim<'_>) -> Option<&'static str> {
    if claim.hosts.is_empty() || !claim.hosts.iter().all(|host| is_local(local, host)) {
        return Some("the Host header must be the address that this interface listens on");
    }
    let own = |origin: &&[u8]| origin.strip_prefix(b"http://").is_some_and(|host| is_local(local, host));
    if !claim.origins.iter().all(own) {
        return Some("requests from web pages of another origin are refused (Origin)");
    }
    if !claim.sites.iter().all(|site| matches!(*site, b"none" | b"same-origin")) {
        return Some("requests from web pages of another site are refused (Sec-Fetch-Site)");
    }
    None
}

/// True if a host is the address itself, or `localhost` for a loopback address: no name that somebody else resolves.
fn is_local(local: SocketAddr, host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    let ip = local.ip().to_canonical();
    let port = local.port();
    if host.parse() == Ok(SocketAddr::new(ip, port)) {
        return true;
    }
    let bare = match ip {
        std::net::IpAddr::V4(ip) => ip.to_string(),
        std::net::IpAddr::V6(ip) => format!("[{ip}]"),
    };
    if port == 80 && host == bare {
        return true;
    }
    ip.is_loopback()
        && host
            .to_ascii_lowercase()
            .strip_prefix("localhost")
            .is_some_and(|rest| rest == format!(":{port}") || (port == 80 && rest.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_address_itself_is_a_host() {
        let local: SocketAddr = "127.1.2.3:15000".parse().unwrap();
        let check = |host: &[u8]| refusal(local, &Claim { hosts: vec![host], ..Claim::default() }).is_none();
        for host in ["127.1.2.3:15000", "localhost:15000", "LOCALHOST:15000"] {
            assert!(check(host.as_bytes()), "{host}");
        }
        for host in [
            "",
            "127.1.2.3",
            "127.1.2.3:1500",
            "127.1.2.3:150000",
            "127.1.2.4:15000",
            "localhost",
            "localhost:80",
            "localhost.evil.example:15000",
            "evil.example",
            "evil.example:15000",
            "127.1.2.3:15000.evil.example",
            "user@127.1.2.3:15000",
            "127.1.2.3:15000/",
            " 127.1.2.3:15000",
        ] {
            assert!(!check(host.as_bytes()), "{host}");
        }
        assert!(!check(b"\xff"));
        assert!(refusal(local, &Claim::default()).is_some(), "a host is needed");
        let two: Claim<'_> = Claim { hosts: vec![b"127.1.2.3:15000", b"evil.example"], ..Claim::default() };
        assert!(refusal(local, &two).is_some(), "each of them counts");
        let six: SocketAddr = "[::1]:80".parse().unwrap();
        for (host, taken) in [("[::1]:80", true), ("[::1]", true), ("localhost", true), ("::1", false)] {
            let claim = Claim { hosts: vec![host.as_bytes()], ..Claim::default() };
            assert_eq!(refusal(six, &claim).is_none(), taken, "{host}");
        }
        // An IPv4 address on a socket that listens on both families.
        let mapped: SocketAddr = "[::ffff:127.0.0.1]:7000".parse().unwrap();
        assert!(refusal(mapped, &Claim { hosts: vec![b"127.0.0.1:7000"], ..Claim::default() }).is_none());
    }

    #[test]
    fn pages_of_others_are_refused() {
        let local: SocketAddr = "127.1.2.3:15000".parse().unwrap();
        let host: &[u8] = b"127.1.2.3:15000";
        let origin = |origin: &'static [u8]| {
            refusal(local, &Claim { hosts: vec![host], origins: vec![origin], sites: Vec::new() }).is_none()
        };
        assert!(origin(b"http://127.1.2.3:15000"));
        for foreign in [&b"null"[..], b"http://evil.example", b"https://127.1.2.3:15000", b"http://127.1.2.3", b""] {
            assert!(!origin(foreign), "{}", String::from_utf8_lossy(foreign));
        }
        let site = |site: &'static [u8]| {
            refusal(local, &Claim { hosts: vec![host], origins: Vec::new(), sites: vec![site] }).is_none()
        };
        assert!(site(b"none") && site(b"same-origin"));
        assert!(!site(b"cross-site") && !site(b"same-site") && !site(b"") && !site(b"NONE"));
    }
}
