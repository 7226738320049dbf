//! Other meshes that this one is federated with.

use crate::spiffe::SpiffeId;

/// A foreign trust domain: its roots vouch for its own ids here, and for no others.
#[derive(Clone, Debug, PartialEq)]
pub struct Federated {
    /// Its name.
    pub trust_domain: String,
    /// Absolute path of its bundle; with an endpoint, of the first one. `None`: the Workload API hands it out.
    pub bundle: Option<String>,
    /// Where newer ones are fetched from.
    pub endpoint: Option<BundleEndpoint>,
}

/// Where a trust domain serves its bundle (SPIFFE Federation, profile `https_spiffe`).
#[derive(Clone, Debug, PartialEq)]
pub struct BundleEndpoint {
    /// `https`.
    pub url: HttpsUrl,
    /// Who serves there; of the same trust domain. Default `spiffe://TRUST-DOMAIN/control`.
    pub id: SpiffeId,
}

/// An `https` URL in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpsUrl {
    /// A name or an IP address, that of IPv6 without brackets.
    pub host: String,
    /// Default 443.
    pub port: u16,
    /// Path and query; begins with a slash.
    pub path: String,
}

impl HttpsUrl {
    /// Reads `https://host:port/path`; `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let rest =
            text.strip_prefix("https://").filter(|rest| rest.bytes().all(|b| b.is_ascii_graphic() && b != b'#'))?;
        let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                host.parse::<std::net::Ipv6Addr>().ok()?;
                (host, port)
            }
            None => authority.find(':').map_or((authority, ""), |at| authority.split_at(at)),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().ok().filter(|port| *port != 0)?,
            None if port.is_empty() => 443,
            None => return None,
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:".contains(&b);
        let fits = !host.is_empty() && host.bytes().all(plain);
        fits.then(|| Self { host: host.to_owned(), port, path: path.to_owned() })
    }

    /// Host and port, as a request names them.
    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl std::fmt::Display for HttpsUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "https://{}{}", self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_as_it_is_written() {
        for (text, written) in [
            ("https://10.0.0.1:8443/bundle", "https://10.0.0.1:8443/bundle"),
            ("https://partner.example", "https://partner.example:443/"),
            ("https://[::1]:7003/", "https://[::1]:7003/"),
            ("https://a/b?c=d", "https://a:443/b?c=d"),
        ] {
            let url = HttpsUrl::parse(text).unwrap();
            assert_eq!(url.to_string(), written);
            assert_eq!(HttpsUrl::parse(written), Some(url));
        }
        for text in [
            "",
            "http://a/",
            "https://",
            "https:///x",
            "https://a:0/",
            "https://a:x/",
            "https://u@a/",
            "https://[a]/",
            "https://[::1",
            "https://[::1]x/",
            "https://a b/",
            "https://a/#x",
        ] {
            assert_eq!(HttpsUrl::parse(text), None, "{text}");
        }
    }
}
