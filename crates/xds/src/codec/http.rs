//! The HTTP side of a listener ↔ `HttpConnectionManager`.

use envoy_types::pb::{
    envoy::{
        config::{
            common::mutation_rules::v3::{HeaderMutation as Mutation, header_mutation::Action},
            core::v3::{
                HeaderValue, HeaderValueOption, Http2ProtocolOptions, HttpProtocolOptions,
                header_value_option::HeaderAppendAction,
            },
        },
        extensions::filters::{
            http::{
                adaptive_concurrency::v3::AdaptiveConcurrency,
                fault::v3::HttpFault,
                header_mutation::v3::{HeaderMutation, Mutations},
                rbac::v3::Rbac,
                router::v3::Router,
            },
            network::http_connection_manager::v3::{
                HttpConnectionManager, HttpFilter, Rds,
                http_connection_manager::{RouteSpecifier, ServerHeaderTransformation},
                http_filter::ConfigType,
            },
        },
    },
    google::protobuf::{self, Any},
};
use prost::Name;

use super::{
    admission, authorization,
    wire::{
        At, Checked, ads, duration, ensure, ensure_duration, ensure_name, need, number, pack, read_duration,
        read_number, same, unpack, wrong, yes,
    },
};
use crate::snapshot::{Admission, Authorization, Direction, HttpListener, Limits};

const RBAC: &str = "envoy.filters.http.rbac";
const ADMISSION: &str = "envoy.filters.http.adaptive_concurrency";

/// Envoy's bound on the size of request headers, in KiB.
const MOST_HEADER_KIB: u32 = 8192;

pub(super) fn validate(http: &HttpListener, direction: Direction) -> Checked<()> {
    ensure_name(&http.routes, "rds.route_config_name")?;
    let limits = &http.limits;
    let bytes = 1..=MOST_HEADER_KIB * 1024;
    ensure(bytes.contains(&limits.header_bytes), "max_request_headers_kb", || "must be in 1 B to 8 MiB".to_owned())?;
    ensure(limits.headers > 0, "max_headers_count", || "is zero".to_owned())?;
    ensure(limits.connections > 0, "max_connections", || "is zero".to_owned())?;
    let streams = 1..=i32::MAX.unsigned_abs();
    ensure(streams.contains(&limits.concurrent_streams), "max_concurrent_streams", || {
        format!("{} is not supported", limits.concurrent_streams)
    })?;
    ensure_duration(limits.header_timeout, "request_headers_timeout")?;
    ensure_duration(limits.idle_timeout, "idle_timeout")?;
    ensure_duration(limits.body_timeout, "body_timeout")?;
    if let Some(limit) = &http.admission {
        ensure(direction == Direction::Inbound, ADMISSION, || "is only for inbound traffic".to_owned())?;
        admission::validate(limit).at(ADMISSION)?;
    }
    http.authorization.iter().try_for_each(|rules| authorization::validate(rules).at(RBAC))
}

pub(super) fn write(http: &HttpListener, name: &str, direction: Direction) -> HttpConnectionManager {
    let limits = &http.limits;
    HttpConnectionManager {
        stat_prefix: name.to_owned(),
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: ads(),
            route_config_name: http.routes.clone(),
        })),
        http_filters: write_filters(http, direction),
        common_http_protocol_options: Some(HttpProtocolOptions {
            idle_timeout: duration(limits.idle_timeout),
            max_headers_count: number(limits.headers),
            ..HttpProtocolOptions::default()
        }),
        http2_protocol_options: Some(Http2ProtocolOptions {
            max_concurrent_streams: number(limits.concurrent_streams),
            // Whether an upgrade is allowed is the route's to say, however the caller asks (RFC 8441).
            allow_connect: true,
            ..Http2ProtocolOptions::default()
        }),
        max_request_headers_kb: number(limits.header_bytes.div_ceil(1024)),
        request_headers_timeout: duration(limits.header_timeout),
        server_header_transformation: ServerHeaderTransformation::PassThrough.into(),
        // What comes from outside may not steer us by `x-envoy-*` headers, nor slip past a path rule by dots.
        use_remote_address: Some(protobuf::BoolValue { value: direction == Direction::Gateway }),
        normalize_path: yes(),
        ..HttpConnectionManager::default()
    }
}

/// Authorization first, then the limit; faults next to the router. The fault filter is there, without a fault, for overlays.
fn write_filters(http: &HttpListener, direction: Direction) -> Vec<HttpFilter> {
    let mut filters = Vec::new();
    if let Some(rules) = &http.authorization {
        filters.push(packed(RBAC, authorization::pack(rules)));
    }
    if let Some(limit) = &http.admission {
        filters.push(filter(ADMISSION, &admission::write(limit)));
    }
    filters.push(filter("envoy.filters.http.header_mutation", &mutations(direction)));
    filters.push(filter("envoy.filters.http.fault", &HttpFault::default()));
    filters.push(filter("envoy.filters.http.router", &Router::default()));
    filters
}

fn filter(name: &str, config: &impl Name) -> HttpFilter {
    packed(name, pack(config))
}

fn packed(name: &str, config: Any) -> HttpFilter {
    HttpFilter { name: name.to_owned(), config_type: Some(ConfigType::TypedConfig(config)), ..HttpFilter::default() }
}

/// What is done to every answer. Who may say that a request never reached the workload are our sidecars alone: to their
/// callers an Envoy passes on neither a workload's word nor, beyond the mesh, theirs.
fn mutations(direction: Direction) -> HeaderMutation {
    let overloaded = Mutation { action: Some(Action::Remove("x-envoy-overloaded".to_owned())) };
    let told = (direction != Direction::Inbound).then(answered_by);
    HeaderMutation {
        mutations: Some(Mutations {
            response_mutations: told.into_iter().chain([overloaded]).collect(),
            ..Mutations::default()
        }),
        ..HeaderMutation::default()
    }
}

/// Sets `x-firedrill-answered-by: <region>;<workload>;<version>;tries=<n>` where endpoints are chosen for the client.
fn answered_by() -> Mutation {
    let ours = |key: &str| format!("%UPSTREAM_METADATA(firedrill:{key})%");
    let tries = "tries=%UPSTREAM_REQUEST_ATTEMPT_COUNT%";
    let header = HeaderValueOption {
        header: Some(HeaderValue {
            key: "x-firedrill-answered-by".to_owned(),
            value: format!("{};{};{};{tries}", ours("region"), ours("name"), ours("version")),
            ..HeaderValue::default()
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    };
    Mutation { action: Some(Action::Append(header)) }
}

/// Reads what the manager holds; the number of connections, the exact number of header bytes, the share of low requests and
/// the bounds on slow callers are the listener's.
pub(super) fn read(manager: &HttpConnectionManager) -> Checked<HttpListener> {
    let Some(RouteSpecifier::Rds(rds)) = &manager.route_specifier else {
        return wrong("route_specifier", "only rds is supported");
    };
    let common = need(&manager.common_http_protocol_options, "common_http_protocol_options")?;
    let http2 = need(&manager.http2_protocol_options, "http2_protocol_options")?;
    let limits = Limits {
        headers: read_number(&common.max_headers_count, "common_http_protocol_options.max_headers_count")?,
        header_timeout: read_duration(&manager.request_headers_timeout, "request_headers_timeout")?,
        idle_timeout: read_duration(&common.idle_timeout, "common_http_protocol_options.idle_timeout")?,
        concurrent_streams: read_number(
            &http2.max_concurrent_streams,
            "http2_protocol_options.max_concurrent_streams",
        )?,
        ..Limits::default()
    };
    let (authorization, admission) = read_filters(manager)?;
    Ok(HttpListener { routes: rds.route_config_name.clone(), authorization, limits, admission })
}

fn read_filters(manager: &HttpConnectionManager) -> Checked<(Option<Authorization>, Option<Admission>)> {
    let filters = &manager.http_filters;
    let first = filters.first().filter(|filter| filter.name == RBAC);
    let rules = first.map(|filter| read_authorization(filter).at("http_filters[0]")).transpose()?;
    let next = usize::from(rules.is_some());
    let limit = filters.get(next).filter(|filter| filter.name == ADMISSION);
    let limit = limit.map(|filter| read_admission(filter).at(format!("http_filters[{next}]"))).transpose()?;
    // The rest is the same on every listener of a direction; a stranger is named rather than shown as bytes.
    let known = ["envoy.filters.http.header_mutation", "envoy.filters.http.fault", "envoy.filters.http.router"];
    for (index, filter) in filters.iter().enumerate().skip(next + usize::from(limit.is_some())) {
        ensure(known.contains(&filter.name.as_str()), &format!("http_filters[{index}]"), || {
            format!("{} is not supported", filter.name)
        })?;
    }
    Ok((rules, limit))
}

fn read_config<T: Name + Default>(filter: &HttpFilter) -> Checked<T> {
    let Some(ConfigType::TypedConfig(any)) = &filter.config_type else {
        return wrong("typed_config", "is missing");
    };
    unpack(any).at("typed_config")
}

fn read_admission(filter: &HttpFilter) -> Checked<Admission> {
    let config: AdaptiveConcurrency = read_config(filter)?;
    let limit = admission::read(&config).at("typed_config")?;
    same(&config, &admission::write(&limit)).at("typed_config")?;
    Ok(limit)
}

fn read_authorization(filter: &HttpFilter) -> Checked<Authorization> {
    let rbac: Rbac = read_config(filter)?;
    authorization::read(&rbac).at("typed_config")
}
