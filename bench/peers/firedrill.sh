#!/bin/bash
# One proxy of ours as a peer of a proxy benchmark: reads VARIANT, DIR, LISTEN_HOST, LISTEN_PORT, ADMIN_PORT, A_HOST,
# B_HOST, UP_PORT and CERTS from the environment (docs/benchmarks.md says what they are) and becomes the proxy.
#
# What it runs is what a user gets: a manifest that sets no policy, rendered. Metrics, outlier detection, active checks,
# retries, hedging, priorities (a standby that nobody uses) and routing controls are on by default; authorization of
# callers, which a plaintext listener has none of, is added, and for `mtls` the benchmark's own certificates.
set -eu
beside=$(dirname "$(readlink -f "$0")")/../../target/release/firedrill
for binary in "${FIREDRILL_BIN:-}" "${PEERS:-}/firedrill" "$beside" "$(command -v firedrill || true)"; do
  [[ -n $binary && -x $binary ]] && break
  binary=
done
[[ -n $binary ]] || exit 77

protocol=http tls= east="\"$A_HOST:$UP_PORT\", \"$B_HOST:$UP_PORT\"" west="127.0.1.9:$UP_PORT" identity=()
case $VARIANT in
  h1 | h2h1) ;;
  h2c) protocol=http2 ;;
  mtls) tls=1 identity=(--certificate "$CERTS/client.pem" --key "$CERTS/client.key") ;;
  failover)
    east="\"$A_HOST:$UP_PORT\"${A2_HOST:+, \"$A2_HOST:$UP_PORT\"}" west=$B_HOST:$UP_PORT
    [[ ${UP_PROTOCOL:-} != http2 ]] || protocol=http2
    ;;
  *) exit 77 ;;
esac
cat >"$DIR/mesh.yaml" <<C
apiVersion: firedrill.dev/v1
kind: Mesh
metadata: {name: bench}
spec:
  trustDomain: rig.local
  regions: [east, west]
  gateways: [{name: edge, listen: "$LISTEN_HOST:$LISTEN_PORT", routes: [{service: up}]}]
---
apiVersion: firedrill.dev/v1
kind: Service
metadata: {name: up}
spec:
  protocol: $protocol
  endpoints: [{region: east, addresses: [$east]}, {region: west, address: "$west"}]
C
"$binary" render --target snapshot --proxy edge -f "$DIR/mesh.yaml" --state "$DIR/state" >"$DIR/rendered.json"
TLS=$tls CERTS=${CERTS:-} TCP=$([[ ${UP_PROTOCOL:-} != tcp ]] || echo 1) python3 - "$DIR" <<'P'
import json, os, sys
from pathlib import Path

folder = Path(sys.argv[1])
snapshot = json.loads((folder / "rendered.json").read_text())
for listener in snapshot["listeners"]:
    if os.environ["TCP"]:
        listener["protocol"] = {"tcp": {"cluster": "up"}}
        snapshot["clusters"][0]["protocol"] = "tcp"
        # Connections that wait for a request are for HTTP.
        snapshot["clusters"][0].pop("standbyConnections", None)
        snapshot["routes"] = []
        if os.environ.get("FLAVOUR") == "asked":
            # The service declares what a check asks (`activeCheck: {tcp: {send: ..., receive: ...}}`).
            exchange = {"send": b"ask\n".hex(), "receive": b"\n".hex()}
            snapshot["clusters"][0]["healthCheck"]["exchange"] = exchange
        continue
    listener["protocol"]["http"]["authorization"] = {"allow": [{"principals": ["*"], "paths": ["/"]}]}
if os.environ["TLS"]:
    roots = Path(os.environ["CERTS"], "ca.pem").read_text()
    snapshot["trust"] = [{"name": "rig", "roots": roots}]
    for cluster in snapshot["clusters"]:
        cluster["tls"] = {"trust": "rig", "serverIds": ["spiffe://rig.local/server"]}
(folder / "snapshot.json").write_text(json.dumps(snapshot))
P
exec "$binary" proxy --name edge --snapshot "$DIR/snapshot.json" --admin "$LISTEN_HOST:$ADMIN_PORT" --state "$DIR/state" "${identity[@]}"
