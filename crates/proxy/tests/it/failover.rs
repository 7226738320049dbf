use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use http::Request;
use http_body_util::Full;
use xds::snapshot::{Direction, HealthCheck};

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn killed_tier_costs_no_idempotent_request() {
    let mut east = [Origin::start("fx-e1"), Origin::start("fx-e2")];
    let west = Origin::start("fx-w1");
    let [e1, e2] = &east;
    let snapshot = simple(Direction::Gateway, &[&[e1, e2], &[&west]]);
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    let seen = load(to, 200, Duration::from_secs(3), |number| {
        if number == 200 {
            east.iter_mut().for_each(Origin::kill);
        }
    })
    .await;
    assert!(seen.failed.is_empty(), "{seen:?}");
    assert_eq!(seen.ok, 600);
    let status = proxy.status();
    assert_eq!(status["clusters"][0]["tierLoad"], serde_json::json!([0, 100]));
    let kinds: Vec<_> = proxy.events().iter().map(|event| event["kind"]["type"].as_str().unwrap().to_owned()).collect();
    assert!(kinds.iter().filter(|kind| *kind == "ejected").count() == 2, "{kinds:?}");
    assert_eq!(kinds.last().map(String::as_str), Some("firstAnswer"), "the standby's first answer: {kinds:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hung_tier_costs_no_idempotent_request_and_no_patience() {
    let east = [Origin::start("fx-e1"), Origin::start("fx-e2")];
    let west = Origin::start("fx-w1");
    let [e1, e2] = &east;
    let snapshot = simple(Direction::Gateway, &[&[e1, e2], &[&west]]);
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    let seen = load(to, 200, Duration::from_secs(3), |number| {
        if number == 200 {
            east.iter().for_each(|origin| origin.does.frozen.store(true, Ordering::SeqCst));
        }
    })
    .await;
    assert!(seen.all_within(Duration::from_millis(1200)), "{seen:?}");
    proxy.until("east is left", |proxy| proxy.status()["clusters"][0]["tierLoad"] == serde_json::json!([0, 100]));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_posts_to_a_hung_tier_only_those_are_lost_that_had_reached_it() {
    let (east, west) = (Origin::start("fx-e"), Origin::start("fx-w"));
    let mut snapshot = simple(Direction::Gateway, &[&[&east], &[&west]]);
    let hedge = xds::snapshot::HedgePolicy { at_least: Duration::from_millis(20), ..hedge() };
    snapshot.routes = vec![routes("fx", Some(retry()), Some(hedge))];
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    let frozen_at = 300;
    let seen = load_of("POST", to, 200, Duration::from_secs(3), |number| {
        if number == frozen_at {
            east.does.frozen.store(true, Ordering::SeqCst);
        }
    })
    .await;
    let reached = seen.failed.len() as u64;
    assert!((5..150).contains(&reached), "found out by the first ones: {seen:?}");
    assert!(seen.failed.iter().all(|failed| failed.starts_with("504")), "{seen:?}");
    let told = |kind: &str| proxy.events().iter().any(|event| event["kind"]["type"] == kind);
    assert!(told("ejected"), "a hang is told");
    assert_eq!(proxy.status()["clusters"][0]["endpoints"][0]["tries"].as_u64(), Some(frozen_at + reached));
    assert_eq!(west.does.requests.load(Ordering::SeqCst), 600 - frozen_at - reached, "none was sent twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_is_not_a_hang() {
    let (east, west) = (Origin::start("fx-e"), Origin::start("fx-w"));
    let snapshot = simple(Direction::Gateway, &[&[&east], &[&west]]);
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    for slow in [0, 400, 0] {
        east.does.slow.store(slow, Ordering::SeqCst);
        for _ in 0..2 {
            assert_eq!(http1(to, get("/")).await.unwrap().status, 200);
        }
    }
    assert_eq!(proxy.status()["clusters"][0]["tierLoad"], serde_json::json!([100, 0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_is_not_repeated_for_a_post() {
    let (east, west) = (Origin::start("fx-e"), Origin::start("fx-w"));
    east.does.break_off.store(true, Ordering::SeqCst);
    let snapshot = simple(Direction::Gateway, &[&[&east], &[&west]]);
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::start(&snapshot);
    let request =
        |method: &str| Request::builder().method(method).uri("/").header("host", "fx").body(Full::from("x")).unwrap();
    assert_eq!(http1(to, request("POST")).await.unwrap().status, 503);
    assert_eq!((east.does.requests.load(Ordering::SeqCst), west.does.requests.load(Ordering::SeqCst)), (1, 0));
    let reply = http1(to, request("PUT")).await.unwrap();
    assert_eq!((reply.status, reply.header("x-origin")), (200, "fx-w"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_is_repeated_even_for_a_post() {
    let (mut east, west) = (Origin::start("fx-e"), Origin::start("fx-w"));
    let snapshot = simple(Direction::Gateway, &[&[&east], &[&west]]);
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::start(&snapshot);
    east.kill();
    let request =
        Request::post("/").header("host", "fx").header("x-firedrill-probe", "p").body(Full::from("x")).unwrap();
    let reply = http1(to, request).await.unwrap();
    assert_eq!((reply.status, reply.header("x-firedrill-answered-by")), (200, "west;fx-w;v1;tries=2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_answers_503_is_ejected_although_it_is_alone_in_its_tier() {
    let (east, west) = (Origin::start("fx-e"), Origin::start("fx-w"));
    east.does.status.store(503, Ordering::SeqCst);
    let snapshot = simple(Direction::Gateway, &[&[&east], &[&west]]);
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    for _ in 0..10 {
        assert_eq!(http1(to, get("/")).await.unwrap().status, 200);
    }
    assert_eq!(east.does.requests.load(Ordering::SeqCst), 5, "istio#34605");
    assert_eq!(proxy.status()["clusters"][0]["endpoints"][0]["ejected"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn active_checks_move_the_load_and_bring_it_back_over_a_ramp() {
    let (east, west) = (Origin::start("fx-e"), Origin::start("fx-w"));
    let mut snapshot = simple(Direction::Gateway, &[&[&east], &[&west]]);
    snapshot.clusters[0].health_check = Some(check(50));
    snapshot.clusters[0].ramp =
        Some(xds::snapshot::Ramp { steps: vec![25, 50, 100], dwell: Duration::from_millis(100) });
    let proxy = Proxy::start(&snapshot);
    east.does.status.store(500, Ordering::SeqCst);
    let load = |proxy: &Proxy| proxy.status()["clusters"][0]["tierLoad"].clone();
    proxy.until("failover", |proxy| load(proxy) == serde_json::json!([0, 100]));
    east.does.status.store(0, Ordering::SeqCst);
    proxy.until("failback", |proxy| load(proxy) == serde_json::json!([100, 0]));
    let shares: Vec<_> = proxy
        .events()
        .iter()
        .filter(|event| event["kind"]["type"] == "tierLoad")
        .map(|event| event["kind"]["percent"][0].as_u64().unwrap())
        .collect();
    assert_eq!(shares, [100, 0, 25, 50, 100]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_left_is_503_at_once() {
    let mut east = Origin::start("fx-e");
    let mut snapshot = simple(Direction::Gateway, &[&[&east]]);
    snapshot.clusters[0].health_check = Some(check(20));
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    east.kill();
    proxy.until("unhealthy", |proxy| proxy.status()["clusters"][0]["endpoints"][0]["healthy"] == false);
    let began = Instant::now();
    let reply = http1(to, get("/")).await.unwrap();
    assert_eq!((reply.status, &reply.body[..]), (503, &b"no healthy endpoint"[..]));
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ejection_that_ends_with_its_detector_is_told() {
    let (mut east, west) = (Origin::start("fx-e"), Origin::start("fx-w"));
    let mut snapshot = simple(Direction::Gateway, &[&[&east], &[&west]]);
    snapshot.clusters[0].outlier.as_mut().unwrap().consecutive_errors = 1;
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    east.kill();
    assert_eq!(http1(to, get("/")).await.unwrap().status, 200);
    let told = |kind: &str| proxy.events().iter().filter(|event| event["kind"]["type"] == kind).count();
    assert_eq!((told("ejected"), told("readmitted")), (1, 0));
    snapshot.clusters[0].outlier = None;
    tokio::task::block_in_place(|| proxy.swap(&snapshot));
    assert_eq!(told("readmitted"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_gets_its_own_time_before_it_is_hedged() {
    let [east, west, north] = ["fx-e", "fx-w", "fx-n"].map(Origin::start);
    east.does.status.store(503, Ordering::SeqCst);
    let mut snapshot = simple(Direction::Gateway, &[&[&east], &[&west], &[&north]]);
    snapshot.clusters[0].outlier = None;
    // The wait before the repeat, 0 to 25 ms, is often longer than this.
    let patience = Duration::from_millis(15);
    let hedge = xds::snapshot::HedgePolicy { at_least: patience, at_most: patience };
    snapshot.routes = vec![routes("fx", Some(retry()), Some(hedge))];
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::start(&snapshot);
    for _ in 0..40 {
        assert_eq!(http1(to, get("/")).await.unwrap().status, 200);
    }
    let hedged = north.does.requests.load(Ordering::SeqCst);
    assert!(hedged <= 6, "the standby's standby got {hedged} of 40, though the standby answers at once");
}

/// Answers every request with the beginning of a response, and ends the connection.
async fn breaks_off(beginning: &'static str) -> (std::net::SocketAddr, std::sync::Arc<std::sync::atomic::AtomicU64>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind((ip(), 8080)).await.unwrap();
    let (address, count) = (listener.local_addr().unwrap(), std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0)));
    let counted = count.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            counted.fetch_add(1, Ordering::SeqCst);
            stream.write_all(beginning.as_bytes()).await.unwrap();
        }
    });
    (address, count)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_response_that_breaks_off_is_asked_for_elsewhere() {
    let west = Origin::start("fx-w");
    for beginning in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let (east, asked) = breaks_off(beginning).await;
        let mut snapshot = simple(Direction::Gateway, &[&[&west], &[&west]]);
        let endpoint = &mut snapshot.endpoints[0].localities[0].endpoints[0];
        (endpoint.address, endpoint.name) = (east, "fx-e".into());
        let to = snapshot.listeners[0].address;
        let _proxy = Proxy::start(&snapshot);
        let reply = http1(to, get("/")).await.unwrap();
        assert_eq!((reply.status, reply.header("x-origin"), &reply.body[..]), (200, "fx-w", &b"hello"[..]));
        let post = Request::post("/").header("host", "fx").body(Full::default()).unwrap();
        assert!(http1(to, post).await.is_err(), "its response breaks off, and it is not repeated");
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_whose_answers_break_off_is_ejected_until_they_do_not() {
    let west = Origin::start("fx-w");
    let (east, asked) = breaks_off("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart").await;
    let mut snapshot = simple(Direction::Gateway, &[&[&west], &[&west]]);
    let endpoint = &mut snapshot.endpoints[0].localities[0].endpoints[0];
    (endpoint.address, endpoint.name) = (east, "fx-e".into());
    // It only connects, which goes well all the time.
    snapshot.clusters[0].health_check = Some(HealthCheck { http_path: None, ..check(20) });
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    let post = || Request::post("/").header("host", "fx").body(Full::default()).unwrap();
    for _ in 0..5 {
        assert!(http1(to, post()).await.is_err());
    }
    let before = asked.load(Ordering::SeqCst);
    tokio::task::block_in_place(|| {
        proxy.until("asked for a proof several times", |_| asked.load(Ordering::SeqCst) > before + 6);
    });
    let status = proxy.status();
    assert_eq!(status["clusters"][0]["endpoints"][0]["ejected"], true, "its answers to our questions break off, too");
    assert_eq!(status["clusters"][0]["endpoints"][0]["tries"], 5);
    assert_eq!(http1(to, post()).await.unwrap().header("x-origin"), "fx-w");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_for_a_connection_as_many_as_may() {
    let east = Origin::start("fx-e");
    east.does.slow.store(100, Ordering::SeqCst);
    let mut snapshot = simple(Direction::Gateway, &[&[&east]]);
    snapshot.routes = vec![routes("fx", None, None)];
    snapshot.clusters[0].breakers.connections = 1;
    snapshot.clusters[0].breakers.pending = 2;
    let to = snapshot.listeners[0].address;
    // One worker: each may have a connection.
    let proxy = Proxy::with(&snapshot, None, |options| options.workers = 1);
    let first = tokio::spawn(http1(to, get("/")));
    tokio::task::block_in_place(|| {
        proxy.until("under way", |_| east.does.requests.load(Ordering::SeqCst) == 1);
    });
    let answers = futures_util::future::join_all((0..5).map(|_| http1(to, get("/")))).await;
    let mut statuses: Vec<u16> = answers.into_iter().map(|answer| answer.unwrap().status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 503, 503, 503], "two wait for the first");
    assert_eq!(first.await.unwrap().unwrap().status, 200);
}

/// Five POSTs that take long where nearly all answers are fast, and nothing else: what becomes of their endpoint, which
/// works on them.
async fn five_slow_posts(hedge: Option<xds::snapshot::HedgePolicy>) -> Vec<(String, String)> {
    let (east, west) = (Origin::start("fx-e"), Origin::start("fx-w"));
    let mut snapshot = simple(Direction::Gateway, &[&[&east], &[&west]]);
    // Checks are as slow as POSTs here, and wait.
    snapshot.clusters[0].health_check = Some(HealthCheck { timeout: Duration::from_secs(20), ..check(50) });
    snapshot.routes = vec![routes("fx", None, hedge)];
    let xds::snapshot::RouteAction::Forward(forward) = &mut hosts(&mut snapshot)[0].routes[1].action else {
        unreachable!()
    };
    forward.timeout = Duration::from_secs(30);
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    east.does.slow.store(5000, Ordering::SeqCst);
    let mut posts = tokio::task::JoinSet::new();
    for number in 1..=5 {
        let request = Request::post("/").header("host", "fx").body(Full::from("x")).unwrap();
        posts.spawn(http1(to, request));
        tokio::task::block_in_place(|| proxy.until("it arrived", |_| east.does.users() >= number));
        // Their pace: together they would be silent for too short a time to be suspect.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // New checks are answered at once from now on; the POSTs are not.
    east.does.slow.store(0, Ordering::SeqCst);
    while let Some(reply) = posts.join_next().await {
        let reply = reply.unwrap().unwrap();
        assert_eq!((reply.status, reply.header("x-origin")), (200, "fx-e"), "whatever is thought of it, it may finish");
    }
    assert_eq!(west.does.users(), 0, "none was sent twice");
    tokio::task::block_in_place(|| {
        proxy.until("back", |proxy| proxy.status()["clusters"][0]["tierLoad"] == serde_json::json!([100, 0]));
    });
    let told = proxy.events().into_iter().map(|event| {
        let word = |field: &str| event["kind"][field].as_str().unwrap_or_default().to_owned();
        (word("type"), word("cause"))
    });
    told.filter(|(kind, _)| kind == "ejected" || kind == "readmitted").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn five_slow_posts_look_like_a_hang_until_the_next_check() {
    let fast = Duration::from_millis(20);
    let told = five_slow_posts(Some(xds::snapshot::HedgePolicy { at_least: fast, at_most: fast })).await;
    assert_eq!(told, [("ejected".into(), "no answer".into()), ("readmitted".into(), String::new())]);
    assert_eq!(five_slow_posts(None).await, [], "without hedging nobody tells silence");
}
