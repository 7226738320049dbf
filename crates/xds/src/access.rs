//! Requests as an Envoy logs them over gRPC (ALS), by Envoy's own names for their parts.

use std::time::Duration;

use envoy_types::pb::{
    envoy::{
        config::core::v3::{Address, address, socket_address::PortSpecifier},
        data::accesslog::v3::{
            AccessLogCommon, HttpAccessLogEntry, ResponseFlags,
            http_access_log_entry::HttpVersion,
            tls_properties::certificate_properties::{SubjectAltName, subject_alt_name::San},
        },
    },
    google::protobuf,
};

/// One request, once it is over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Name of the log: that of the listener.
    pub listener: String,
    /// Its arrival, in nanoseconds since the Unix epoch.
    pub start_time: i64,
    /// From its arrival to its end.
    pub duration: Duration,
    /// HTTP method.
    pub method: String,
    /// Path with query, as it came.
    pub path: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub protocol: String,
    /// Host that was asked for.
    pub authority: String,
    /// HTTP status; 0 if there was none.
    pub response_code: u16,
    /// Envoy's letters, `-` for none.
    pub response_flags: String,
    /// Why, in Envoy's words.
    pub response_code_details: String,
    /// Body bytes read from the caller.
    pub bytes_received: u64,
    /// Body bytes sent to the caller.
    pub bytes_sent: u64,
    /// `x-request-id`.
    pub request_id: String,
    /// `user-agent`.
    pub user_agent: String,
    /// `x-forwarded-for`.
    pub x_forwarded_for: String,
    /// Caller's address.
    pub downstream_remote_address: String,
    /// Caller's SPIFFE id.
    pub downstream_peer_uri_san: Option<String>,
    /// Cluster name.
    pub upstream_cluster: Option<String>,
    /// Endpoint address.
    pub upstream_host: Option<String>,
    /// How often it was sent to an endpoint.
    pub upstream_request_attempt_count: u32,
}

impl Request {
    pub(crate) fn from_proto(listener: &str, entry: &HttpAccessLogEntry) -> Self {
        let nothing = AccessLogCommon::default();
        let common = entry.common_properties.as_ref().unwrap_or(&nothing);
        let request = entry.request.clone().unwrap_or_default();
        let response = entry.response.clone().unwrap_or_default();
        let peer = common.tls_properties.as_ref().and_then(|tls| tls.peer_certificate_properties.as_ref());
        let start = common.start_time.unwrap_or_default();
        let took = common.duration.or(common.time_to_last_downstream_tx_byte).unwrap_or_default();
        let path = if request.original_path.is_empty() { request.path.clone() } else { request.original_path.clone() };
        Self {
            listener: listener.to_owned(),
            start_time: start.seconds.saturating_mul(1_000_000_000).saturating_add(start.nanos.into()),
            duration: length(took),
            method: request.request_method().as_str_name().to_owned(),
            path,
            protocol: protocol(entry.protocol_version()).to_owned(),
            authority: request.authority,
            response_code: response.response_code.and_then(|code| u16::try_from(code.value).ok()).unwrap_or_default(),
            response_flags: common.response_flags.as_ref().map_or_else(|| "-".to_owned(), letters),
            response_code_details: response.response_code_details,
            bytes_received: request.request_body_bytes,
            bytes_sent: response.response_body_bytes,
            request_id: request.request_id,
            user_agent: request.user_agent,
            x_forwarded_for: request.forwarded_for,
            downstream_remote_address: common.downstream_remote_address.as_ref().and_then(place).unwrap_or_default(),
            downstream_peer_uri_san: peer.and_then(|peer| peer.subject_alt_name.iter().find_map(uri)),
            upstream_cluster: Some(common.upstream_cluster.clone()).filter(|name| !name.is_empty()),
            upstream_host: common.upstream_remote_address.as_ref().and_then(place),
            upstream_request_attempt_count: common.upstream_request_attempt_count,
        }
    }
}

/// A negative one is none.
fn length(duration: protobuf::Duration) -> Duration {
    let (seconds, nanos) = (u64::try_from(duration.seconds), u32::try_from(duration.nanos));
    seconds.ok().zip(nanos.ok()).map(|(s, n)| Duration::new(s, n.min(999_999_999))).unwrap_or_default()
}

fn protocol(version: HttpVersion) -> &'static str {
    match version {
        HttpVersion::ProtocolUnspecified => "",
        HttpVersion::Http10 => "HTTP/1.0",
        HttpVersion::Http11 => "HTTP/1.1",
        HttpVersion::Http2 => "HTTP/2.0",
        HttpVersion::Http3 => "HTTP/3.0",
    }
}

fn place(address: &Address) -> Option<String> {
    let Some(address::Address::SocketAddress(socket)) = &address.address else { return None };
    let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else { return None };
    let ip = socket.address.parse::<std::net::IpAddr>().ok()?;
    Some(std::net::SocketAddr::new(ip, u16::try_from(port).ok()?).to_string())
}

fn uri(name: &SubjectAltName) -> Option<String> {
    match &name.san {
        Some(San::Uri(uri)) => Some(uri.clone()),
        _ => None,
    }
}

/// As `%RESPONSE_FLAGS%` writes them.
fn letters(flags: &ResponseFlags) -> String {
    let all = [
        (flags.failed_local_healthcheck, "LH"),
        (flags.no_healthy_upstream, "UH"),
        (flags.upstream_request_timeout, "UT"),
        (flags.local_reset, "LR"),
        (flags.upstream_remote_reset, "UR"),
        (flags.upstream_connection_failure, "UF"),
        (flags.upstream_connection_termination, "UC"),
        (flags.upstream_overflow, "UO"),
        (flags.no_route_found, "NR"),
        (flags.delay_injected, "DI"),
        (flags.fault_injected, "FI"),
        (flags.rate_limited, "RL"),
        (flags.unauthorized_details.is_some(), "UAEX"),
        (flags.rate_limit_service_error, "RLSE"),
        (flags.downstream_connection_termination, "DC"),
        (flags.upstream_retry_limit_exceeded, "URX"),
        (flags.stream_idle_timeout, "SI"),
        (flags.invalid_envoy_request_headers, "IH"),
        (flags.downstream_protocol_error, "DPE"),
        (flags.upstream_max_stream_duration_reached, "UMSDR"),
        (flags.response_from_cache_filter, "RFCF"),
        (flags.no_filter_config_found, "NFCF"),
        (flags.duration_timeout, "DT"),
        (flags.upstream_protocol_error, "UPE"),
        (flags.no_cluster_found, "NC"),
        (flags.overload_manager, "OM"),
        (flags.dns_resolution_failure, "DF"),
        (flags.downstream_remote_reset, "DR"),
    ];
    let set: Vec<&str> = all.into_iter().filter_map(|(set, letters)| set.then_some(letters)).collect();
    if set.is_empty() { "-".to_owned() } else { set.join(",") }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::{
        config::core::v3::SocketAddress,
        data::accesslog::v3::{HttpRequestProperties, HttpResponseProperties},
    };

    use super::*;

    #[test]
    fn a_request_is_read_by_its_parts_and_what_is_missing_is_empty() {
        assert_eq!(Request::from_proto("edge", &HttpAccessLogEntry::default()).response_flags, "-");
        let socket = |ip: &str, port| Address {
            address: Some(address::Address::SocketAddress(SocketAddress {
                address: ip.to_owned(),
                port_specifier: Some(PortSpecifier::PortValue(port)),
                ..SocketAddress::default()
            })),
        };
        let flags =
            ResponseFlags { upstream_connection_failure: true, fault_injected: true, ..ResponseFlags::default() };
        let entry = HttpAccessLogEntry {
            common_properties: Some(AccessLogCommon {
                start_time: Some(protobuf::Timestamp { seconds: 2, nanos: 5 }),
                duration: Some(protobuf::Duration { seconds: 0, nanos: 7_000_000 }),
                downstream_remote_address: Some(socket("127.0.0.1", 4711)),
                upstream_remote_address: Some(socket("::1", 15006)),
                upstream_cluster: "accounts".into(),
                response_flags: Some(flags),
                upstream_request_attempt_count: 2,
                ..AccessLogCommon::default()
            }),
            protocol_version: HttpVersion::Http2.into(),
            request: Some(HttpRequestProperties {
                request_method: 1,
                path: "/rewritten".into(),
                original_path: "/asked?a=b".into(),
                ..HttpRequestProperties::default()
            }),
            response: Some(HttpResponseProperties {
                response_code: Some(protobuf::UInt32Value { value: 503 }),
                response_body_bytes: 12,
                ..HttpResponseProperties::default()
            }),
        };
        let read = Request::from_proto("edge", &entry);
        assert_eq!(
            (read.method.as_str(), read.path.as_str(), read.protocol.as_str()),
            ("GET", "/asked?a=b", "HTTP/2.0")
        );
        assert_eq!((read.start_time, read.duration), (2_000_000_005, Duration::from_millis(7)));
        assert_eq!((read.response_code, read.response_flags.as_str(), read.bytes_sent), (503, "UF,FI", 12));
        assert_eq!(read.downstream_remote_address, "127.0.0.1:4711");
        assert_eq!((read.upstream_host.as_deref(), read.upstream_request_attempt_count), (Some("[::1]:15006"), 2));
        assert_eq!((read.upstream_cluster.as_deref(), read.downstream_peer_uri_san), (Some("accounts"), None));
    }
}
