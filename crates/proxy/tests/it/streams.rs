//! Streams and uploads: which clock ends them, and who is to blame.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderValue, Request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use xds::snapshot::{Direction, Endpoint, Forward, ListenerProtocol, RouteAction, Snapshot, UpstreamProtocol};

use crate::support::{Proxy, cluster, hosts, ip, plain, retry};

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const GRPC_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n";

/// Several times as long as the route's timeout in these tests.
const LONG: Duration = Duration::from_millis(400);

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// An endpoint each of whose connections is served by this.
async fn endpoint<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Endpoint
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((ip(), 8080)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    Endpoint { name: "fx-e".into(), address, version: "v1".into(), weight: 1 }
}

/// Reads until this ends what came; false at the end of the connection.
async fn read_until(stream: &mut TcpStream, end: &str) -> bool {
    let mut seen = Vec::new();
    while !seen.ends_with(end.as_bytes()) {
        if stream.read_buf(&mut seen).await.unwrap_or(0) == 0 {
            return false;
        }
    }
    true
}

fn forward(snapshot: &mut Snapshot) -> &mut Forward {
    let RouteAction::Forward(forward) = &mut hosts(snapshot)[0].routes[1].action else { unreachable!() };
    forward
}

/// A gateway with detection, so that whoever is blamed five times in a row is ejected, though it is alone.
fn watched(endpoint: Endpoint) -> Snapshot {
    let mut snapshot = plain(endpoint, Direction::Gateway);
    snapshot.clusters[0].outlier = cluster("fx").outlier;
    snapshot.clusters[0].outlier.as_mut().unwrap().max_percent = 100;
    let route = forward(&mut snapshot);
    route.timeout = millis(100);
    route.idle_timeout = Some(Duration::from_secs(20));
    snapshot
}

fn endpoint_of(proxy: &Proxy) -> serde_json::Value {
    proxy.status()["clusters"][0]["endpoints"][0].clone()
}

fn blameless(proxy: &Proxy) {
    let endpoint = endpoint_of(proxy);
    assert_eq!((&endpoint["failures"], &endpoint["ejected"]), (&0.into(), &false.into()), "{endpoint}");
}

/// Sends these bytes, and reads all that comes until the proxy closes or resets.
async fn talk(to: SocketAddr, bytes: &str) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_after_the_timeout_and_ends_when_it_is_silent() {
    let endpoint = endpoint(|mut stream| async move {
        while read_until(&mut stream, "\r\n\r\n").await {
            stream.write_all(HEAD.as_bytes()).await.unwrap();
            for event in 0..4 {
                stream.write_all(format!("2\r\n{event}\n\r\n").as_bytes()).await.unwrap();
                tokio::time::sleep(LONG).await;
            }
        }
    })
    .await;
    let mut snapshot = watched(endpoint);
    forward(&mut snapshot).idle_timeout = Some(Duration::from_secs(2));
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    let streams = join_all((0..6).map(|_| talk(to, "GET /events HTTP/1.1\r\nhost: fx\r\n\r\n"))).await;
    for stream in streams {
        let body = stream.split_once("\r\n\r\n").unwrap().1;
        assert_eq!(body, "2\r\n0\n\r\n2\r\n1\n\r\n2\r\n2\n\r\n2\r\n3\n\r\n", "all events, and no end of the body");
    }
    for line in proxy.log(6) {
        assert_eq!((&line["response_code"], &line["response_flags"]), (&200.into(), &"SI".into()), "{line}");
    }
    blameless(&proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_of_zero_waits_for_the_head_as_long_as_it_takes() {
    let endpoint = endpoint(|mut stream| async move {
        while read_until(&mut stream, "\r\n\r\n").await {
            tokio::time::sleep(LONG).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n").await.unwrap();
            tokio::time::sleep(LONG).await;
            stream.write_all(b"late").await.unwrap();
        }
    })
    .await;
    for (timeout, idle, expected) in [(0, 0, "200"), (0, 20_000, "200"), (0, 100, "504"), (100, 0, "504")] {
        let mut snapshot = watched(endpoint.clone());
        let route = forward(&mut snapshot);
        (route.timeout, route.idle_timeout) = (millis(timeout), Some(millis(idle)));
        let to = snapshot.listeners[0].address;
        let proxy = Proxy::start(&snapshot);
        let answer = talk(to, "GET / HTTP/1.1\r\nhost: fx\r\nconnection: close\r\n\r\n").await;
        assert_eq!(answer.split(' ').nth(1).unwrap(), expected, "{timeout} {idle}");
        assert_eq!(answer.ends_with("late"), expected == "200", "{timeout} {idle}: {answer}");
        let blamed = endpoint_of(&proxy)["failures"].as_u64().unwrap();
        assert_eq!(blamed, u64::from(timeout > 0), "only who had the route's time is to blame");
    }
}

/// A gRPC stream over HTTP/2: what came of it, and how it ended.
async fn grpc_stream(to: SocketAddr, timeout: Option<&'static str>) -> (Vec<u8>, Result<String, h2::Error>) {
    let (mut client, connection) = h2::client::handshake(TcpStream::connect(to).await.unwrap()).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::post("http://fx/watch").header("content-type", "application/grpc").body(()).unwrap();
    if let Some(timeout) = timeout {
        request.headers_mut().insert("grpc-timeout", HeaderValue::from_static(timeout));
    }
    let (response, mut up) = client.send_request(request, false).unwrap();
    up.send_data(Bytes::from_static(b"watch"), true).unwrap();
    let (head, mut body) = response.await.unwrap().into_parts();
    if let Some(status) = head.headers.get("grpc-status") {
        return (Vec::new(), Ok(format!("only headers: {}", status.to_str().unwrap())));
    }
    let mut seen = Vec::new();
    while let Some(data) = body.data().await {
        match data {
            Ok(data) => seen.extend_from_slice(&data),
            Err(error) => return (seen, Err(error)),
        }
    }
    let trailers = body.trailers().await.map(|trailers| trailers.unwrap()["grpc-status"].to_str().unwrap().to_owned());
    (seen, trailers)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_stream_that_does_not_end_itself_ends_in_trailers() {
    // how the endpoint goes on after its first message, the client's deadline, the status, whether the endpoint is to blame
    for (broken, deadline, status, blamed) in
        [(true, None, "14", true), (false, None, "4", false), (false, Some("300m"), "4", false)]
    {
        let endpoint = endpoint(move |mut stream| async move {
            assert!(read_until(&mut stream, "0\r\n\r\n").await, "the call and its body");
            stream.write_all(GRPC_HEAD.as_bytes()).await.unwrap();
            tokio::time::sleep(LONG / 2).await;
            stream.write_all(b"5\r\nhello\r\n").await.unwrap();
            if !broken {
                read_until(&mut stream, "never").await;
            }
        })
        .await;
        let mut snapshot = watched(endpoint);
        if deadline.is_none() {
            forward(&mut snapshot).idle_timeout = Some(Duration::from_secs(1));
        }
        let to = snapshot.listeners[0].address;
        let proxy = Proxy::start(&snapshot);
        let (seen, ended) = grpc_stream(to, deadline).await;
        assert_eq!((&seen[..], ended.unwrap().as_str()), (&b"hello"[..], status), "{broken} {deadline:?}");
        assert_eq!(proxy.log(1)[0]["response_code"], 200);
        assert_eq!(endpoint_of(&proxy)["failures"], u64::from(blamed), "{broken} {deadline:?}");
        assert!(proxy.admin("/metrics").unwrap().1.contains(&format!("grpc_response_status=\"{status}\"")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_stream_that_its_endpoint_resets_over_http2_ends_in_trailers() {
    let endpoint = endpoint(|stream| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            let mut down = respond.send_response(head, false).unwrap();
            down.send_data(Bytes::from_static(b"hello"), false).unwrap();
            tokio::spawn(async move {
                tokio::time::sleep(LONG).await;
                down.send_reset(h2::Reason::INTERNAL_ERROR);
            });
        }
    })
    .await;
    let mut snapshot = watched(endpoint);
    snapshot.clusters[0].protocol = UpstreamProtocol::Http2;
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    let (seen, ended) = grpc_stream(to, None).await;
    assert_eq!((&seen[..], ended.unwrap().as_str()), (&b"hello"[..], "14"));
    assert_eq!(endpoint_of(&proxy)["failures"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_call_without_a_response_in_time_gets_deadline_exceeded_in_its_head() {
    let endpoint = endpoint(|mut stream| async move {
        read_until(&mut stream, "never").await;
    })
    .await;
    for per_try in [None, Some(millis(50))] {
        let mut snapshot = watched(endpoint.clone());
        let policy = xds::snapshot::RetryPolicy { attempts: 1, per_try, ..retry() };
        forward(&mut snapshot).retry = Some(policy);
        let to = snapshot.listeners[0].address;
        let _proxy = Proxy::start(&snapshot);
        let (_, ended) = grpc_stream(to, None).await;
        assert_eq!(ended.unwrap(), "only headers: 4", "{per_try:?}");
    }
}

/// Answers when it has all of a body that ends with `!`.
async fn patient() -> Endpoint {
    endpoint(|mut stream| async move {
        while read_until(&mut stream, "!").await {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nthank").await.unwrap();
        }
    })
    .await
}

/// A gateway whose times are all shorter than an upload takes.
fn hurried(endpoint: Endpoint) -> Snapshot {
    let mut snapshot = watched(endpoint);
    let route = forward(&mut snapshot);
    route.retry = Some(xds::snapshot::RetryPolicy { per_try: Some(millis(50)), ..retry() });
    route.hedge = Some(xds::snapshot::HedgePolicy { at_least: millis(5), at_most: millis(20) });
    snapshot
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_upload_is_not_the_endpoints_fault() {
    let mut snapshot = hurried(patient().await);
    // The endpoint itself answers at once; how busy this machine is says nothing.
    forward(&mut snapshot).timeout = Duration::from_secs(2);
    forward(&mut snapshot).retry.as_mut().unwrap().per_try = Some(Duration::from_secs(1));
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    let slowly = async |method: &str| {
        let mut stream = TcpStream::connect(to).await.unwrap();
        let head = format!("{method} / HTTP/1.1\r\nhost: fx\r\ncontent-length: 10\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        for byte in b"012345678!" {
            tokio::time::sleep(millis(250)).await;
            stream.write_all(&[*byte]).await.unwrap();
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let methods = ["POST", "POST", "POST", "POST", "POST", "POST", "PUT"];
    for answer in join_all(methods.map(slowly)).await {
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("thank"), "{answer}");
    }
    blameless(&proxy);
    assert_eq!(endpoint_of(&proxy)["tries"], 7, "and none was sent twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_upload_over_http2_is_not_the_endpoints_fault() {
    let mut snapshot = hurried(patient().await);
    forward(&mut snapshot).timeout = Duration::from_secs(2);
    forward(&mut snapshot).retry.as_mut().unwrap().per_try = Some(Duration::from_secs(1));
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    let (mut client, connection) = h2::client::handshake(TcpStream::connect(to).await.unwrap()).await.unwrap();
    tokio::spawn(connection);
    let request = Request::put("http://fx/").header("content-length", 10).body(()).unwrap();
    let (response, mut up) = client.send_request(request, false).unwrap();
    for byte in b"012345678!" {
        tokio::time::sleep(millis(250)).await;
        up.send_data(Bytes::copy_from_slice(&[*byte]), *byte == b'!').unwrap();
    }
    assert_eq!(response.await.unwrap().status(), 200);
    blameless(&proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_stops_is_the_callers_fault() {
    let mut snapshot = hurried(patient().await);
    let ListenerProtocol::Http(http) = &mut snapshot.listeners[0].protocol else { unreachable!() };
    http.limits.body_timeout = LONG;
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    let stops = || talk(to, "POST / HTTP/1.1\r\nhost: fx\r\ncontent-length: 10\r\n\r\n012");
    for answer in join_all((0..6).map(|_| stops())).await {
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
    for line in proxy.log(6) {
        assert_eq!((&line["response_code"], &line["response_flags"]), (&408.into(), &"SI".into()), "{line}");
    }
    blameless(&proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_takes_nothing_of_an_upload_is_to_blame() {
    let endpoint = endpoint(|mut stream| async move {
        assert!(read_until(&mut stream, "0").await);
        std::future::pending::<()>().await;
    })
    .await;
    let snapshot = watched(endpoint);
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    let mut stream = TcpStream::connect(to).await.unwrap();
    let length = 64 << 20;
    stream
        .write_all(format!("POST / HTTP/1.1\r\nhost: fx\r\ncontent-length: {length}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let (mut down, mut up) = stream.into_split();
    let sending = tokio::spawn(async move { up.write_all(&vec![b'0'; length]).await });
    let mut answer = [0; 12];
    down.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 504");
    assert_eq!(endpoint_of(&proxy)["failures"], 1);
    sending.abort();
}
