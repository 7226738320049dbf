"""A control plane that knows nothing of ours: grpcio, and the xDS types that gRPC publishes (xds-protos). Each kind has a
version of its own, counted apart from the others; both forms of ADS are served. What it serves is JSON on standard input, a
line for each state: {"endpoints": [["name", "host", port], ...], "header": "x", "unsupported": false}; a kind gets a new
version when its resources differ. What it hears is JSON on standard output, a line each."""

import argparse
import json
import queue
import sys
import threading
from concurrent import futures

import grpc
from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2
from envoy.config.common.mutation_rules.v3 import mutation_rules_pb2
from envoy.config.core.v3 import address_pb2, base_pb2, config_source_pb2, protocol_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.connection_limit.v3 import connection_limit_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from envoy.type.v3 import percent_pb2
from google.protobuf import any_pb2, duration_pb2, struct_pb2, wrappers_pb2

PREFIX = "type.googleapis.com/"
CLUSTER, ENDPOINTS, LISTENER, ROUTES = (
    PREFIX + message.DESCRIPTOR.full_name
    for message in (
        cluster_pb2.Cluster,
        endpoint_pb2.ClusterLoadAssignment,
        listener_pb2.Listener,
        route_pb2.RouteConfiguration,
    )
)
# Where each kind's count begins: no two kinds ever have the same version.
FIRST = {CLUSTER: 100, ENDPOINTS: 2000, LISTENER: 30, ROUTES: 4}


def say(**what):
    # In one write, since several threads speak: `print` writes the end of the line by itself.
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def pack(message):
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def uint32(value):
    return wrappers_pb2.UInt32Value(value=value)


def metadata(**fields):
    ours = struct_pb2.Struct()
    ours.update(fields)
    return base_pb2.Metadata(filter_metadata={"firedrill": ours})


def over_ads():
    return config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(), resource_api_version=config_source_pb2.V3
    )


def socket(host, port):
    return address_pb2.Address(socket_address=address_pb2.SocketAddress(address=host, port_value=port))


def listener(host, port):
    def http(name, config):
        return hcm_pb2.HttpFilter(name="envoy.filters.http." + name, typed_config=pack(config))

    def network(name, config):
        return listener_components_pb2.Filter(name="envoy.filters.network." + name, typed_config=pack(config))

    answered = base_pb2.HeaderValueOption(
        header=base_pb2.HeaderValue(
            key="x-firedrill-answered-by",
            value="%UPSTREAM_METADATA(firedrill:region)%;%UPSTREAM_METADATA(firedrill:name)%;"
            "%UPSTREAM_METADATA(firedrill:version)%;tries=%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        ),
        append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )
    mutation = mutation_rules_pb2.HeaderMutation
    mutations = header_mutation_pb2.Mutations(
        response_mutations=[mutation(append=answered), mutation(remove="x-envoy-overloaded")]
    )
    manager = hcm_pb2.HttpConnectionManager(
        stat_prefix="gateway",
        rds=hcm_pb2.Rds(config_source=over_ads(), route_config_name="gateway"),
        http_filters=[
            http("header_mutation", header_mutation_pb2.HeaderMutation(mutations=mutations)),
            http("fault", fault_pb2.HTTPFault()),
            http("router", router_pb2.Router()),
        ],
        common_http_protocol_options=protocol_pb2.HttpProtocolOptions(
            idle_timeout=duration_pb2.Duration(seconds=60), max_headers_count=uint32(100)
        ),
        http2_protocol_options=protocol_pb2.Http2ProtocolOptions(
            max_concurrent_streams=uint32(100), allow_connect=True
        ),
        max_request_headers_kb=uint32(60),
        request_headers_timeout=duration_pb2.Duration(seconds=10),
        server_header_transformation=hcm_pb2.HttpConnectionManager.PASS_THROUGH,
        use_remote_address=wrappers_pb2.BoolValue(value=True),
        normalize_path=wrappers_pb2.BoolValue(value=True),
    )
    limit = connection_limit_pb2.ConnectionLimit(
        stat_prefix="gateway", max_connections=wrappers_pb2.UInt64Value(value=1000)
    )
    filters = [network("connection_limit", limit), network("http_connection_manager", manager)]
    return listener_pb2.Listener(
        name="gateway",
        address=socket(host, port),
        filter_chains=[listener_components_pb2.FilterChain(filters=filters)],
        metadata=metadata(headerBytes=60 * 1024),
    )


def routes(header, unsupported):
    action = route_components_pb2.RouteAction(
        weighted_clusters=route_components_pb2.WeightedCluster(
            clusters=[route_components_pb2.WeightedCluster.ClusterWeight(name="rates", weight=uint32(1))]
        ),
        timeout=duration_pb2.Duration(seconds=2),
    )
    told = base_pb2.HeaderValueOption(
        header=base_pb2.HeaderValue(key="x-told", value=header),
        append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )
    route = route_components_pb2.Route(
        match=route_components_pb2.RouteMatch(prefix="/"), route=action, response_headers_to_add=[told]
    )
    host = route_components_pb2.VirtualHost(name="all", domains=["*"], routes=[route])
    if unsupported:
        host.require_tls = route_components_pb2.VirtualHost.ALL
    return route_pb2.RouteConfiguration(
        name="gateway", virtual_hosts=[host], ignore_port_in_host_matching=True
    )


def cluster():
    options = http_protocol_options_pb2.HttpProtocolOptions()
    options.explicit_http_config.http_protocol_options.SetInParent()
    thresholds = circuit_breaker_pb2.CircuitBreakers.Thresholds(
        max_connections=uint32(100), max_pending_requests=uint32(100), max_requests=uint32(100)
    )
    thresholds.retry_budget.budget_percent.value = 20
    thresholds.retry_budget.min_retry_concurrency.value = 100
    common = cluster_pb2.Cluster.CommonLbConfig(
        healthy_panic_threshold=percent_pb2.Percent(value=0), update_merge_window=duration_pb2.Duration()
    )
    common.locality_weighted_lb_config.SetInParent()
    return cluster_pb2.Cluster(
        name="rates",
        type=cluster_pb2.Cluster.EDS,
        eds_cluster_config=cluster_pb2.Cluster.EdsClusterConfig(eds_config=over_ads()),
        connect_timeout=duration_pb2.Duration(seconds=1),
        lb_policy=cluster_pb2.Cluster.ROUND_ROBIN,
        circuit_breakers=circuit_breaker_pb2.CircuitBreakers(thresholds=[thresholds]),
        typed_extension_protocol_options={options.DESCRIPTOR.full_name: pack(options)},
        common_lb_config=common,
        metadata=metadata(service="rates", retriesPerSecond=10),
        ignore_health_on_host_removal=True,
    )


def endpoints(places):
    def endpoint(name, host, port):
        return endpoint_components_pb2.LbEndpoint(
            endpoint=endpoint_components_pb2.Endpoint(address=socket(host, port)),
            metadata=metadata(name=name, region="east", version="v1"),
            load_balancing_weight=uint32(1),
        )

    locality = endpoint_components_pb2.LocalityLbEndpoints(
        locality=base_pb2.Locality(region="east"),
        load_balancing_weight=uint32(1),
        lb_endpoints=[endpoint(*place) for place in places],
    )
    return endpoint_pb2.ClusterLoadAssignment(cluster_name="rates", endpoints=[locality])


class State:
    """What is served: by kind a version, and the resources by name, each with its own version for the incremental form."""

    def __init__(self, listen):
        self.listen = listen
        self.kinds = {kind: (first, {}) for kind, first in FIRST.items()}
        self.changed = threading.Condition()
        self.count = 0

    def serve(self, wanted):
        new = {
            CLUSTER: {"rates": cluster()},
            ENDPOINTS: {"rates": endpoints(wanted["endpoints"])},
            LISTENER: {"gateway": listener(*self.listen)},
            ROUTES: {"gateway": routes(wanted["header"], wanted.get("unsupported", False))},
        }
        with self.changed:
            for kind, resources in new.items():
                version, known = self.kinds[kind]
                if known != resources:
                    self.kinds[kind] = (version + 1, resources)
            self.count += 1
            self.changed.notify_all()


class Stream:
    """One stream: requests come in on a thread of their own, and what is due is told when something changed."""

    def __init__(self, state, requests, context, form):
        self.state, self.form = state, form
        self.asked, self.sent, self.nonces = {}, {}, 0
        self.inbox = queue.Queue()
        say(stream=form)
        threading.Thread(target=self.read, args=(requests, context), daemon=True).start()
        threading.Thread(target=self.watch, args=(context,), daemon=True).start()

    def read(self, requests, context):
        try:
            for request in requests:
                self.inbox.put(request)
        except grpc.RpcError:
            pass
        self.inbox.put(None)

    def watch(self, context):
        seen = 0
        while context.is_active():
            with self.state.changed:
                self.state.changed.wait_for(lambda: self.state.count > seen, timeout=1)
                if self.state.count == seen:
                    continue
                seen = self.state.count
            self.inbox.put("changed")

    def heard(self, request):
        kind = request.type_url.rsplit(".", 1)[-1]
        if request.HasField("error_detail"):
            say(nack=kind, nonce=request.response_nonce, detail=request.error_detail.message)
        elif request.response_nonce:
            say(ack=kind, nonce=request.response_nonce)

    def nonce(self, kind, version):
        self.nonces += 1
        return f"{kind.rsplit('.', 1)[-1]} {version} #{self.nonces}"

    def __iter__(self):
        while (event := self.inbox.get()) is not None:
            if event != "changed":
                self.heard(event)
                self.ask(event)
            for kind in (CLUSTER, ENDPOINTS, LISTENER, ROUTES):
                if kind in self.asked:
                    with self.state.changed:
                        version, resources = self.state.kinds[kind]
                    response = self.due(kind, version, resources) if resources else None
                    if response is not None:
                        yield response


class Whole(Stream):
    def ask(self, request):
        kind = request.type_url
        if not request.response_nonce:
            say(first=kind.rsplit(".", 1)[-1], version=request.version_info)
        names = set(request.resource_names)
        if kind not in self.asked or names != self.asked[kind]:
            self.asked[kind] = names
            self.sent.pop(kind, None)

    def due(self, kind, version, resources):
        chosen = {name: body for name, body in resources.items() if not self.asked[kind] or name in self.asked[kind]}
        if self.sent.get(kind) == version or not chosen:
            return None
        self.sent[kind] = version
        return discovery_pb2.DiscoveryResponse(
            version_info=str(version),
            resources=[pack(body) for body in chosen.values()],
            type_url=kind,
            nonce=self.nonce(kind, version),
        )


class Delta(Stream):
    def ask(self, request):
        kind = request.type_url
        if kind not in self.asked:
            self.asked[kind] = set()
            self.sent[kind] = dict(request.initial_resource_versions)
            say(first=kind.rsplit(".", 1)[-1], has=sorted(request.initial_resource_versions))
            if not request.resource_names_subscribe and kind in (CLUSTER, LISTENER):
                self.asked[kind].add("*")
        self.asked[kind] |= set(request.resource_names_subscribe)
        self.asked[kind] -= set(request.resource_names_unsubscribe)

    def due(self, kind, version, resources):
        asked, sent = self.asked[kind], self.sent[kind]
        wanted = {name: body for name, body in resources.items() if "*" in asked or name in asked}
        new = {name: body for name, body in wanted.items() if sent.get(name) != str(version)}
        if not new:
            return None
        sent.update({name: str(version) for name in new})
        return discovery_pb2.DeltaDiscoveryResponse(
            resources=[
                discovery_pb2.Resource(name=name, version=str(version), resource=pack(body))
                for name, body in new.items()
            ],
            type_url=kind,
            nonce=self.nonce(kind, version),
        )


class Ads(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    def __init__(self, state):
        self.state = state

    def StreamAggregatedResources(self, request_iterator, context):
        yield from Whole(self.state, request_iterator, context, "whole")

    def DeltaAggregatedResources(self, request_iterator, context):
        yield from Delta(self.state, request_iterator, context, "delta")


def read(path):
    with open(path, "rb") as file:
        return file.read()


def main():
    parser = argparse.ArgumentParser()
    for name in ("ads", "gateway", "certificate", "key", "roots"):
        parser.add_argument("--" + name, required=True)
    arguments = parser.parse_args()
    host, port = arguments.gateway.rsplit(":", 1)
    state = State((host, int(port)))
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(Ads(state), server)
    pair = (read(arguments.key), read(arguments.certificate))
    credentials = grpc.ssl_server_credentials([pair], read(arguments.roots), require_client_auth=True)
    server.add_secure_port(arguments.ads, credentials)
    server.start()
    say(listening=arguments.ads)
    for line in sys.stdin:
        state.serve(json.loads(line))
    server.stop(0)


if __name__ == "__main__":
    main()
