#!/bin/bash
# nginx as a peer, one worker. It speaks no HTTP/2 to its upstream. Flavours for failover: none (its defaults), tuned.
set -eu
command -v nginx >/dev/null || exit 77
http2= scheme=http location= first= second=
case $VARIANT in
  h1) ;;
  h2h1) http2="http2 on;" ;;
  mtls)
    scheme=https
    location="proxy_ssl_protocols TLSv1.3; proxy_ssl_verify on; proxy_ssl_trusted_certificate $CERTS/ca.pem;
      proxy_ssl_server_name on; proxy_ssl_name server.rig.local;
      proxy_ssl_certificate $CERTS/client.pem; proxy_ssl_certificate_key $CERTS/client.key;"
    ;;
  failover)
    [[ ${UP_PROTOCOL:-http} == http ]] || exit 77
    second=backup
    if [[ ${FLAVOUR:-} == tuned ]]; then
      first="max_fails=1 fail_timeout=1s" second="backup max_fails=0"
      location="proxy_connect_timeout 100ms; proxy_read_timeout 250ms; proxy_next_upstream_tries 3;
      proxy_next_upstream error timeout invalid_header http_502 http_503 http_504 non_idempotent;"
    fi
    ;;
  *) exit 77 ;;
esac
# The directive came with 1.25.1; before, `listen` has a word for it.
listen="$LISTEN_HOST:$LISTEN_PORT"
if [[ $http2 ]] && printf '%s\n1.25.1\n' "$(nginx -v 2>&1 | grep -o '[0-9.]*$')" | sort -VC; then
  listen+=" http2" http2=
fi
user=; [[ $(id -u) != 0 ]] || user="user root;"
cat >"$DIR/nginx.conf" <<C
daemon off; worker_processes 1; $user pid $DIR/nginx.pid; error_log /dev/null crit;
events { worker_connections 4096; }
http {
  access_log off; keepalive_timeout 600s; keepalive_requests 1000000000; http2_max_concurrent_streams 1024;
  client_body_temp_path $DIR/body; proxy_temp_path $DIR/proxy;
  fastcgi_temp_path $DIR/fastcgi; uwsgi_temp_path $DIR/uwsgi; scgi_temp_path $DIR/scgi;
  upstream up {
    server $A_HOST:$UP_PORT $first;
    ${A2_HOST:+server $A2_HOST:$UP_PORT $first;}
    server $B_HOST:$UP_PORT $second;
    keepalive 128; keepalive_timeout 600s; keepalive_requests 1000000000;
  }
  server {
    listen $listen; $http2
    location / { proxy_pass $scheme://up; proxy_http_version 1.1; proxy_set_header Connection ""; $location }
  }
}
C
exec nginx -e stderr -c "$DIR/nginx.conf"
