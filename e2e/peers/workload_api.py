"""A SPIFFE Workload API (FetchX509SVID) on gRPC's own Python, for tests: hands out what files say, anew when told to.

Reads JSON lines: {"svids": [{"id", "certificate", "key", "bundle"}], "federated": {"trust domain": "file"}} replaces what is handed
out; {"end": true} ends every stream. Writes JSON lines: {"listening"}, {"fetching": the caller's metadata}, {"refused"}.
The messages are made from the field numbers of the specification, not from any code of Firedrill's.
"""

import argparse
import base64
import json
import queue
import re
import sys
import threading
from concurrent import futures

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

FIELD = descriptor_pb2.FieldDescriptorProto


def messages():
    """X509SVIDRequest and X509SVIDResponse of workload.proto."""
    file = descriptor_pb2.FileDescriptorProto(name="workload.proto", syntax="proto3")
    file.message_type.add(name="X509SVIDRequest")
    svid = file.message_type.add(name="X509SVID")
    for number, (name, kind) in enumerate(
        [
            ("spiffe_id", FIELD.TYPE_STRING),
            ("x509_svid", FIELD.TYPE_BYTES),
            ("x509_svid_key", FIELD.TYPE_BYTES),
            ("bundle", FIELD.TYPE_BYTES),
            ("hint", FIELD.TYPE_STRING),
        ],
        start=1,
    ):
        svid.field.add(name=name, number=number, type=kind, label=FIELD.LABEL_OPTIONAL)
    response = file.message_type.add(name="X509SVIDResponse")
    repeated = FIELD.LABEL_REPEATED
    response.field.add(name="svids", number=1, type=FIELD.TYPE_MESSAGE, type_name=".X509SVID", label=repeated)
    response.field.add(name="crl", number=2, type=FIELD.TYPE_BYTES, label=repeated)
    entry = response.nested_type.add(name="FederatedBundlesEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=FIELD.TYPE_STRING, label=FIELD.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type=FIELD.TYPE_BYTES, label=FIELD.LABEL_OPTIONAL)
    bundles = ".X509SVIDResponse.FederatedBundlesEntry"
    response.field.add(
        name="federated_bundles", number=3, type=FIELD.TYPE_MESSAGE, type_name=bundles, label=repeated
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    made = [pool.FindMessageTypeByName(name) for name in ("X509SVIDRequest", "X509SVIDResponse")]
    return [message_factory.GetMessageClass(one) for one in made]


Request, Response = messages()


def der(path):
    """Every block of a PEM file, one after the other."""
    text = open(path, encoding="ascii").read()
    blocks = re.findall(r"-----BEGIN [A-Z ]+-----(.*?)-----END", text, re.S)
    return b"".join(base64.b64decode(block) for block in blocks)


SAYING = threading.Lock()


def say(**what):
    # Every stream has a thread, and print() writes a line and its end apart.
    with SAYING:
        print(json.dumps(what), flush=True)


class Workloads(grpc.GenericRpcHandler):
    """Hands out the same to everybody."""

    def __init__(self):
        self.lock = threading.Lock()
        self.current = None
        self.streams = []

    def replace(self, told):
        response = Response()
        for one in told["svids"]:
            response.svids.add(
                spiffe_id=one["id"],
                x509_svid=der(one["certificate"]),
                x509_svid_key=der(one["key"]),
                bundle=der(one["bundle"]),
            )
        for domain, path in told.get("federated", {}).items():
            response.federated_bundles[domain] = der(path)
        with self.lock:
            self.current = response
            for stream in self.streams:
                stream.put(response)

    def end(self):
        with self.lock:
            for stream in self.streams:
                stream.put(None)

    def service(self, details):
        if details.method != "/SpiffeWorkloadAPI/FetchX509SVID":
            return None
        return grpc.unary_stream_rpc_method_handler(
            self.fetch, request_deserializer=Request.FromString, response_serializer=Response.SerializeToString
        )

    def fetch(self, _request, context):
        metadata = dict(context.invocation_metadata())
        if metadata.get("workload.spiffe.io") != "true":
            say(refused="no security header")
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing")
        stream = queue.Queue()
        with self.lock:
            self.streams.append(stream)
            if self.current is not None:
                stream.put(self.current)
        say(fetching={key: value for key, value in metadata.items() if isinstance(value, str)})
        context.add_callback(lambda: stream.put(None))
        try:
            while (response := stream.get()) is not None:
                yield response
        finally:
            with self.lock:
                self.streams.remove(stream)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", required=True)
    arguments = parser.parse_args()
    workloads = Workloads()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=32))
    server.add_generic_rpc_handlers((workloads,))
    server.add_insecure_port(f"unix:{arguments.socket}")
    server.start()
    say(listening=arguments.socket)
    for line in sys.stdin:
        told = json.loads(line)
        if told.get("end"):
            workloads.end()
        else:
            workloads.replace(told)
    server.stop(None)


if __name__ == "__main__":
    main()
