#!/bin/bash
# A stock Envoy as a peer, one worker. Flavours: none (its defaults), sidecar and istio (what Istio tells a sidecar, less
# its own filters), tuned (the best for failover that was found).
set -eu
[[ -n ${ENVOY:-} && -x $ENVOY ]] || exit 77
case $VARIANT in h1 | mtls | h2c | h2h1 | failover) ;; *) exit 77 ;; esac
python3 - >"$DIR/envoy.json" <<'P'
import json
import os
import sys

env = os.environ
variant, flavour = env["VARIANT"], env.get("FLAVOUR", "")
failover = variant == "failover"
upstream_h2 = variant == "h2c" or (failover and env.get("UP_PROTOCOL") == "http2")
UNLIMITED = 2**32 - 1


def typed(kind, **fields):
    return {"@type": f"type.googleapis.com/envoy.{kind}", **fields}


def named(name, kind, **fields):
    return {"name": f"envoy.{name}", "typed_config": typed(kind, **fields)}


def http_filter(name, kind, **fields):
    return named(f"filters.http.{name}", f"extensions.filters.http.{kind}", **fields)


def at(host, port):
    return {"socket_address": {"address": host, "port_value": int(port)}}


def locality(priority, hosts):
    return {"priority": priority, "lb_endpoints": [{"endpoint": {"address": at(h, env["UP_PORT"])}} for h in hosts]}


other_hosts = named("retry_host_predicates.previous_hosts", "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate")
manager, route, filters = {}, {"timeout": "0s"}, []
cluster = {"lb_policy": "ROUND_ROBIN", "connect_timeout": "1s"}
if flavour in ("sidecar", "istio"):
    manager = {
        "normalize_path": True,
        "stream_idle_timeout": "0s",
        "forward_client_cert_details": "SANITIZE",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
    }
    filters = [
        http_filter("fault", "fault.v3.HTTPFault"),
        http_filter("cors", "cors.v3.Cors"),
        http_filter("grpc_stats", "grpc_stats.v3.FilterConfig", emit_filter_state=True, stats_for_all_methods=False),
    ]
    route["retry_policy"] = {
        "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
        "retriable_status_codes": [503],
        "num_retries": 2,
        "retry_host_predicate": [other_hosts],
        "host_selection_retry_max_attempts": 5,
    }
    cluster = {
        "lb_policy": "LEAST_REQUEST",
        "connect_timeout": "10s",
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "outlier_detection": {
            "consecutive_5xx": 5,
            "enforcing_consecutive_5xx": 100,
            "enforcing_success_rate": 0,
            "interval": "10s",
            "base_ejection_time": "30s",
            "max_ejection_percent": 100,
        },
    }
elif flavour == "tuned":
    # Checks ten times a second, ejection at the first failure and at once, a quarter second a try, the next priority for the next.
    route = {
        "timeout": "3s",
        "retry_policy": {
            "retry_on": "5xx,reset,connect-failure,refused-stream",
            "num_retries": 3,
            "per_try_timeout": "0.25s",
            "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.01s"},
            "retry_host_predicate": [other_hosts],
            "host_selection_retry_max_attempts": 3,
            "retry_priority": named(
                "retry_priorities.previous_priorities",
                "extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
                update_frequency=1,
            ),
        },
    }
    cluster |= {
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}, "update_merge_window": "0s"},
        "health_checks": [{
            "http_health_check": {"path": "/"},
            "timeout": "0.1s", "interval": "0.1s", "unhealthy_interval": "0.1s", "no_traffic_interval": "0.1s",
            "unhealthy_threshold": 2, "healthy_threshold": 2,
        }],
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_5xx": 1,
            "consecutive_gateway_failure": 1,
            "enforcing_consecutive_gateway_failure": 100,
            "consecutive_local_origin_failure": 1,
            "enforcing_success_rate": 0,
            "interval": "0.1s",
            "base_ejection_time": "1s",
            "max_ejection_time": "2s",
            "max_ejection_percent": 100,
        },
    }
elif flavour:
    sys.exit(77)
if flavour:
    most = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests", "max_retries"), UNLIMITED)
    cluster["circuit_breakers"] = {"thresholds": [most]}
if failover:
    tiers = [[env["A_HOST"]] + [h for h in [env.get("A2_HOST")] if h], [env["B_HOST"]]]
else:
    # A sidecar of a mesh has somewhere to go when its own region is lost.
    tiers = [[env["A_HOST"], env["B_HOST"]]] + ([["127.0.1.9"]] if flavour == "sidecar" else [])
if upstream_h2:
    kind = "extensions.upstreams.http.v3.HttpProtocolOptions"
    options = typed(kind, explicit_http_config={"http2_protocol_options": {}})
    cluster["typed_extension_protocol_options"] = {f"envoy.{kind}": options}
if variant == "mtls":
    file = lambda name: {"filename": f"{env['CERTS']}/{name}"}
    name = {"san_type": "DNS", "matcher": {"exact": "server.rig.local"}}
    cluster["transport_socket"] = named(
        "transport_sockets.tls",
        "extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        sni="server.rig.local",
        common_tls_context={
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": [{"certificate_chain": file("client.pem"), "private_key": file("client.key")}],
            "validation_context": {"trusted_ca": file("ca.pem"), "match_typed_subject_alt_names": [name]},
        },
    )
connection_manager = named(
    "filters.network.http_connection_manager",
    "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    stat_prefix="in",
    http_filters=[*filters, http_filter("router", "router.v3.Router")],
    route_config={
        "name": "all",
        "virtual_hosts": [{
            "name": "all", "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up", **route}}],
        }],
    },
    **manager,
)
listener = {
    "name": "in",
    "address": at(env["LISTEN_HOST"], env["LISTEN_PORT"]),
    "filter_chains": [{"filters": [connection_manager]}],
}
endpoints = {"cluster_name": "up", "endpoints": [locality(n, hosts) for n, hosts in enumerate(tiers)]}
json.dump({
    "admin": {"address": at(env["LISTEN_HOST"], env["ADMIN_PORT"])},
    "static_resources": {
        "listeners": [listener],
        "clusters": [{"name": "up", "type": "STATIC", "load_assignment": endpoints, **cluster}],
    },
}, sys.stdout)
P
exec "$ENVOY" --config-path "$DIR/envoy.json" --concurrency 1 --disable-hot-restart --log-level error
