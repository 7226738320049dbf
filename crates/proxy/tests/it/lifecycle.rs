use std::{sync::atomic::Ordering, time::Duration};

use xds::snapshot::Direction;

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn hot_swap_under_load_loses_nothing() {
    let (one, two) = (Origin::start("fx-1"), Origin::start("fx-2"));
    let first = simple(Direction::Gateway, &[&[&one]]);
    let mut second = first.clone();
    second.endpoints = vec![endpoints("fx", &[&[&one, &two]])];
    let mut third = first.clone();
    third.endpoints = vec![endpoints("fx", &[&[&two]])];
    hosts(&mut third)[0].domains.push("fy".into());
    let to = first.listeners[0].address;
    let proxy = Proxy::start(&first);
    let swaps = async {
        for snapshot in [&second, &third, &first, &third] {
            tokio::task::block_in_place(|| proxy.swap(snapshot));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let (seen, ()) = tokio::join!(load(to, 200, Duration::from_secs(3), |_| {}), swaps);
    assert!(seen.failed.is_empty(), "{seen:?}");
    assert!(one.does.requests.load(Ordering::SeqCst) > 0 && two.does.requests.load(Ordering::SeqCst) > 0);
    let digests: Vec<_> = proxy
        .events()
        .iter()
        .filter(|event| event["kind"]["type"] == "snapshotApplied")
        .map(|event| event["kind"]["digest"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(digests.len(), 5);
    assert!(digests[0] == digests[3] && digests[2] == digests[4], "the digest comes back exactly");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_snapshot_changes_nothing() {
    let origin = Origin::start("fx-1");
    let snapshot = simple(Direction::Gateway, &[&[&origin]]);
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    let mut bad = snapshot.clone();
    bad.clusters.clear();
    let path = proxy.folder.path().join("snapshot.json");
    std::fs::write(&path, serde_json::to_vec(&bad).unwrap()).unwrap();
    proxy.until("rejected", |proxy| proxy.events().iter().any(|event| event["kind"]["type"] == "snapshotRejected"));
    let reason = proxy.events().last().unwrap()["kind"]["reason"].clone();
    assert_eq!(reason, "routes[main]: no cluster `fx`");
    assert_eq!(http1(to, get("/")).await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_finishes_what_is_in_flight() {
    let origin = Origin::start("fx-1");
    origin.does.slow.store(300, Ordering::SeqCst);
    let mut snapshot = simple(Direction::Gateway, &[&[&origin]]);
    snapshot.routes = vec![routes("fx", None, None)];
    let to = snapshot.listeners[0].address;
    let mut proxy = Proxy::start(&snapshot);
    let in_flight = tokio::spawn(async move { http1(to, get("/")).await });
    while origin.does.requests.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    proxy.begin_stop();
    let reply = in_flight.await.unwrap().unwrap();
    assert_eq!(reply.status, 200);
    proxy.stop_blocking();
    assert!(tokio::net::TcpStream::connect(to).await.is_err(), "nobody listens any more");
    let log = std::fs::read_to_string(proxy.folder.path().join("access.log"));
    assert!(log.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_has_begun_when_the_drain_comes_is_answered() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let origin = Origin::start("fx-1");
    let snapshot = simple(Direction::Gateway, &[&[&origin]]);
    let to = snapshot.listeners[0].address;
    let mut proxy = Proxy::start(&snapshot);
    let mut begun = Vec::new();
    for _ in 0..16 {
        let mut stream = tokio::net::TcpStream::connect(to).await.unwrap();
        // One letter, which might still become HTTP/2.
        stream.write_all(b"P").await.unwrap();
        begun.push(stream);
    }
    // Whoever came later was served: the workers have these too.
    for _ in 0..40 {
        assert_eq!(http1(to, get("/")).await.unwrap().status, 200);
    }
    proxy.begin_stop();
    tokio::task::block_in_place(|| proxy.until("draining", |_| std::net::TcpStream::connect(to).is_err()));
    for (number, stream) in begun.iter_mut().enumerate() {
        let _ = stream.write_all(b"UT / HTTP/1.1\r\nhost: fx\r\ncontent-length: 0\r\n\r\n").await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{number}: {:?}", String::from_utf8_lossy(&answer));
    }
    proxy.stop_blocking();
}
