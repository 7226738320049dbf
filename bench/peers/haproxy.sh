#!/bin/bash
# HAProxy as a peer, one thread. Flavours for failover: none (checks with their defaults), tuned (the best that was found).
set -eu
command -v haproxy >/dev/null || exit 77
in= out= backend= a= b=
case $VARIANT in
  h1) ;;
  h2h1) in="proto h2" ;;
  h2c) in="proto h2" out="proto h2" ;;
  mtls)
    cat "$CERTS"/client.{pem,key} >"$DIR/identity.pem"
    out="ssl crt $DIR/identity.pem ca-file $CERTS/ca.pem verify required verifyhost server.rig.local sni str(server.rig.local)"
    ;;
  failover)
    [[ ${UP_PROTOCOL:-http} == http ]] || { in="proto h2" out="proto h2"; }
    a=check b="check backup"
    backend="option httpchk GET /"
    if [[ ${FLAVOUR:-} == tuned ]]; then
      # A quarter second a try, the first bad answer takes a server out, the next try goes elsewhere.
      a="check inter 100ms fastinter 50ms downinter 100ms rise 2 fall 2 observe layer7 error-limit 1 on-error mark-down"
      b="check backup inter 100ms"
      backend+="
  http-check expect status 200
  retry-on all-retryable-errors
  retries 3
  option redispatch 1
  timeout check 100ms
  timeout connect 100ms
  timeout server 250ms"
    fi
    ;;
  *) exit 77 ;;
esac
cat >"$DIR/haproxy.cfg" <<C
global
  maxconn 4096
  nbthread 1
defaults
  mode http
  option http-keep-alive
  http-reuse always
  timeout client 60s
  timeout server 60s
  timeout connect 1s
frontend edge
  bind $LISTEN_HOST:$LISTEN_PORT $in
  default_backend up
backend up
  $backend
  balance roundrobin
  server a $A_HOST:$UP_PORT $out $a
${A2_HOST:+  server a2 $A2_HOST:$UP_PORT $out $a}
  server b $B_HOST:$UP_PORT $out $b
C
exec haproxy -db -q -f "$DIR/haproxy.cfg"
