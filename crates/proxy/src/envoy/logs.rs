//! An Envoy's requests as lines of our access log.

use xds::access::Request;

use crate::access::Line;

/// How Envoy's RBAC filter says that it refused.
const DENIED: &str = "rbac_access_denied";

/// The same request in the form that both data planes have.
pub fn line(request: Request) -> Line {
    let denied = request.response_code_details.starts_with(DENIED);
    Line {
        start_time: request.start_time,
        listener: request.listener,
        method: request.method,
        path: request.path,
        protocol: request.protocol,
        authority: request.authority,
        response_code: request.response_code,
        response_flags: request.response_flags,
        response_code_details: request.response_code_details.into(),
        authorization: if denied { "deny" } else { "" },
        authorization_rule: String::new(),
        bytes_received: request.bytes_received,
        bytes_sent: request.bytes_sent,
        duration: request.duration.as_secs_f64() * 1e3,
        request_id: request.request_id,
        trace_id: String::new(),
        user_agent: request.user_agent,
        x_forwarded_for: request.x_forwarded_for,
        downstream_remote_address: request.downstream_remote_address,
        downstream_peer_uri_san: request.downstream_peer_uri_san,
        upstream_cluster: request.upstream_cluster,
        upstream_host: request.upstream_host,
        upstream_request_attempt_count: request.upstream_request_attempt_count,
        overlays: Vec::new(),
    }
}
