use http::Request;
use http_body_util::{BodyExt, Full};
use xds::snapshot::{Direction, UpstreamProtocol};

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn http1_and_http2_take_one_path() {
    let origin = Origin::start("fx-1");
    let snapshot = simple(Direction::Gateway, &[&[&origin]]);
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);

    let mut request = get("/a/b?c=d");
    for (name, value) in
        [("x-firedrill-probe", "p"), ("x-forwarded-for", "6.6.6.6"), ("connection", "x-secret"), ("x-secret", "1")]
    {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let reply = http1(to, request).await.unwrap();
    assert_eq!((reply.status, &reply.body[..]), (200, &b"hello"[..]));
    assert_eq!(reply.header("seen-uri"), "/a/b?c=d");
    assert_eq!(reply.header("seen-host"), "fx");
    assert_eq!(reply.header("seen-x-forwarded-for"), "127.0.0.1");
    assert_eq!(reply.header("seen-x-secret"), "", "named by connection: between neighbours only");
    assert_eq!(reply.header("seen-x-request-id").len(), 36);
    assert_eq!(reply.header("x-firedrill-answered-by"), "east;fx-1;v1;tries=1");

    let mut sender = http2(to).await;
    let request = Request::get("http://fx/two").body(Full::default()).unwrap();
    let reply = sender.send_request(request).await.unwrap();
    assert_eq!(reply.status(), 200);
    assert_eq!(reply.headers()["seen-host"], "fx");
    assert!(!reply.headers().contains_key("x-firedrill-answered-by"), "nobody asked");

    let counted = |metrics: &str| {
        let line = metrics.lines().find(|line| line.starts_with("istio_requests_total{"));
        line.map(str::to_owned).unwrap_or_default()
    };
    let metrics = || proxy.admin("/metrics").unwrap().1;
    proxy.until("both counted", |_| counted(&metrics()).ends_with("} 2"));
    let metrics = metrics();
    for label in [
        "reporter=\"source\"",
        "source_workload=\"test\"",
        "destination_service=\"fx\"",
        "destination_region=\"east\"",
        "destination_version=\"v1\"",
        "response_code=\"200\"",
        "response_flags=\"-\"",
        "connection_security_policy=\"none\"",
    ] {
        assert!(counted(&metrics).contains(label), "{label}: {metrics}");
    }
    assert!(metrics.contains("firedrill_tier_load_percent{cluster=\"fx\",priority=\"0\"} 100"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_our_own() {
    let origin = Origin::start("fx-1");
    let snapshot = simple(Direction::Outbound, &[&[&origin]]);
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::start(&snapshot);
    let cases = [("fx", "/tea", 418), ("other", "/", 404), ("fx:80", "/", 200), ("FX", "/", 200)];
    for (host, path, status) in cases {
        let request = Request::get(path).header("host", host).body(Full::default()).unwrap();
        assert_eq!(http1(to, request).await.unwrap().status, status, "{host} {path}");
    }
    // As a client with `http_proxy` sends it.
    let answer = raw(to, b"GET http://fx/x HTTP/1.1\r\nhost: ignored\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("seen-uri: /x"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_both_ways() {
    let origin = Origin::start("fx-1");
    let snapshot = simple(Direction::Outbound, &[&[&origin]]);
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::start(&snapshot);

    let stream = tokio::net::TcpStream::connect(to).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let (send, receive) = fed_body();
    let request = Request::post("/echo").header("host", "fx").body(receive).unwrap();
    send.send(b"first".to_vec()).await.unwrap();
    let mut body = sender.send_request(request).await.unwrap().into_body();
    // The answer begins before the request ends: nothing waits for a whole body.
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
    let chunk = vec![7u8; 32 * 1024];
    let mut echoed = 0;
    for _ in 0..64 {
        send.send(chunk.clone()).await.unwrap();
    }
    drop(send);
    while let Some(frame) = body.frame().await {
        echoed += frame.unwrap().into_data().unwrap().len();
    }
    assert_eq!(echoed, 64 * chunk.len());
    assert_eq!(http1(to, get("/big")).await.unwrap().body.len(), 8 * 1024 * 1024);
}

type Chunks = futures_util::stream::BoxStream<'static, Result<hyper::body::Frame<bytes::Bytes>, std::io::Error>>;

/// A body fed through a channel, large enough for the test.
fn fed_body() -> (tokio::sync::mpsc::Sender<Vec<u8>>, http_body_util::StreamBody<Chunks>) {
    let (send, receive) = tokio::sync::mpsc::channel::<Vec<u8>>(128);
    let stream = futures_util::stream::unfold(receive, |mut receive| async move {
        let chunk = receive.recv().await?;
        Some((Ok(hyper::body::Frame::data(chunk.into())), receive))
    });
    (send, http_body_util::StreamBody::new(Box::pin(stream)))
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_upstream_without_tls() {
    // A second proxy is the HTTP/2 server.
    let origin = Origin::start("fx-1");
    let inner = simple(Direction::Outbound, &[&[&origin]]);
    let _inner_proxy = Proxy::start(&inner);
    let mut outer = simple(Direction::Outbound, &[&[&origin]]);
    outer.clusters[0].protocol = UpstreamProtocol::Http2;
    outer.endpoints[0].localities[0].endpoints[0].address = inner.listeners[0].address;
    let _outer_proxy = Proxy::start(&outer);
    let to = outer.listeners[0].address;
    for _ in 0..5 {
        let reply = http1(to, get("/x")).await.unwrap();
        assert_eq!((reply.status, reply.header("seen-host")), (200, "fx"));
    }
    let body = Full::from(vec![1u8; 300_000]);
    let request = Request::post("/echo").header("host", "fx").body(body).unwrap();
    assert_eq!(http1(to, request).await.unwrap().body.len(), 300_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_sends_the_whole_body_or_none_of_it() {
    // Refuses at once, and reads on.
    let (early, sound) = (Origin::start("early"), Origin::start("sound"));
    early.does.status.store(503, std::sync::atomic::Ordering::SeqCst);
    let mut snapshot = simple(Direction::Outbound, &[&[&early], &[&sound]]);
    snapshot.clusters[0].outlier = None;
    snapshot.routes = vec![routes("fx", Some(retry()), None)];
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::start(&snapshot);
    for round in 0..20 {
        let stream = tokio::net::TcpStream::connect(to).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let (send, receive) = fed_body();
        let feeding = tokio::spawn(async move {
            for _ in 0..128 {
                if send.send(vec![7u8; 4096]).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        });
        let request = http::Request::put("/echo").header("host", "fx").body(receive).unwrap();
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        let body = body.collect().await;
        feeding.await.unwrap();
        if head.status == 200 {
            assert_eq!(body.unwrap().to_bytes().len(), 128 * 4096, "round {round}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_head_request_is_no_caller_that_went_away() {
    let origin = Origin::start("fx-1");
    let snapshot = simple(Direction::Outbound, &[&[&origin]]);
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    let request = Request::head("/").header("host", "other").body(Full::default()).unwrap();
    assert_eq!(http1(to, request).await.unwrap().status, 404);
    let metrics = || proxy.admin("/metrics").unwrap().1;
    proxy.until("counted", |_| metrics().contains("response_code=\"404\""));
    assert!(metrics().contains("response_flags=\"NR\""), "{}", metrics());
}
