//! What was sent is sent: a request that may have been acted on runs once, an answer that came is delivered, and only what a
//! kept connection alone cost is asked again.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use xds::snapshot::{Direction, Endpoint, Snapshot, UpstreamProtocol};

use crate::support::*;

/// An endpoint whose connections are given to `serve`, each in a thread of its own, with its number.
struct Listening {
    address: SocketAddr,
    seen: Arc<Mutex<HashMap<String, u32>>>,
}

impl Listening {
    fn start(serve: impl Fn(u32, Talk) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(SocketAddr::new(ip(), 8080)).unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, serve) = (Arc::<Mutex<HashMap<String, u32>>>::default(), Arc::new(serve));
        let shared = seen.clone();
        std::thread::spawn(move || {
            for (number, stream) in (0..).zip(listener.incoming()) {
                let Ok(stream) = stream else { return };
                let (serve, seen) = (serve.clone(), shared.clone());
                std::thread::spawn(move || serve(number, Talk { stream, seen, input: Vec::new() }));
            }
        });
        Self { address, seen }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint { name: "fx".into(), address: self.address, version: "v1".into(), weight: 1 }
    }

    /// How often a request with this first line began.
    fn seen(&self, start: &str) -> u32 {
        self.seen.lock().unwrap().get(start).copied().unwrap_or(0)
    }

    /// Only this endpoint, with the usual repeats.
    fn snapshot(&self) -> Snapshot {
        let mut snapshot = plain(self.endpoint(), Direction::Outbound);
        snapshot.routes = vec![routes("fx", Some(retry()), Some(hedge()))];
        snapshot
    }
}

/// One connection at the endpoint.
struct Talk {
    stream: TcpStream,
    seen: Arc<Mutex<HashMap<String, u32>>>,
    input: Vec<u8>,
}

impl Talk {
    fn more(&mut self) -> bool {
        let mut buffer = [0; 65536];
        match self.stream.read(&mut buffer) {
            Ok(count) if count > 0 => {
                self.input.extend_from_slice(&buffer[..count]);
                true
            }
            _ => false,
        }
    }

    /// The next request's first line and the length of its body; `None` at the end.
    fn head(&mut self) -> Option<(String, usize)> {
        let end = loop {
            match self.input.windows(4).position(|four| four == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None if self.more() => {}
                None => return None,
            }
        };
        let head: Vec<u8> = self.input.drain(..end).collect();
        let head = String::from_utf8(head).unwrap();
        let start = head.lines().next().unwrap().to_owned();
        *self.seen.lock().unwrap().entry(start.clone()).or_default() += 1;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        Some((start, length.unwrap_or(0)))
    }

    /// Reads this much of a body, or as much as comes.
    fn body(&mut self, length: usize) -> bool {
        while self.input.len() < length {
            if !self.more() {
                return false;
            }
        }
        self.input.drain(..length);
        true
    }

    fn say(&mut self, text: &str) {
        let _ = self.stream.write_all(text.as_bytes());
    }

    fn answer(&mut self) {
        self.say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    }

    /// Ends it with a reset.
    fn reset(self) {
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }
}

/// One request, and the answer up to its end.
fn ask(stream: &mut TcpStream, head: &str, pieces: &[&[u8]]) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    for piece in pieces {
        // An answer may have come before all is sent.
        if stream.write_all(piece).is_err() {
            break;
        }
    }
    let mut heard = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&heard).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            if body.len() >= length.unwrap_or(0) {
                return text;
            }
        }
        match stream.read(&mut buffer) {
            Ok(count) if count > 0 => heard.extend_from_slice(&buffer[..count]),
            ended => return format!("{text} and {ended:?}"),
        }
    }
}

const GET: &str = "GET /get HTTP/1.1\r\nhost: fx\r\n\r\n";

#[test]
fn a_body_that_was_sent_in_pieces_is_not_sent_twice() {
    for over in ["reset", "closed"] {
        let listening = Listening::start(move |_, mut talk| {
            while let Some((start, length)) = talk.head() {
                if start.starts_with("POST ") {
                    // As soon as some of it is here, so that what is written next meets the end of the connection.
                    talk.body(length / 100);
                    return if over == "reset" { talk.reset() } else { drop(talk) };
                }
                talk.answer();
            }
        });
        let snapshot = listening.snapshot();
        let _proxy = Proxy::with(&snapshot, None, |options| options.workers = 1);
        let body = [b'x'; 48 * 1024];
        for number in 0..100 {
            let mut stream = TcpStream::connect(snapshot.listeners[0].address).unwrap();
            // A connection to the endpoint is kept from here on.
            assert!(ask(&mut stream, GET, &[]).starts_with("HTTP/1.1 200"));
            let head = format!("POST /{number} HTTP/1.1\r\nhost: fx\r\ncontent-length: 49152\r\n\r\n");
            let answer = ask(&mut stream, &head, &[&body]);
            assert!(answer.starts_with("HTTP/1.1 503"), "{over}: {answer}");
            assert_eq!(listening.seen(&format!("POST /{number} HTTP/1.1")), 1, "{over}");
        }
    }
}

#[test]
fn an_answer_that_comes_during_an_upload_is_delivered() {
    let listening = Listening::start(|_, mut talk| {
        while let Some((start, _)) = talk.head() {
            if start.starts_with("POST ") {
                talk.say("HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 4\r\n\r\nmuch");
                return;
            }
            talk.answer();
        }
    });
    let snapshot = listening.snapshot();
    let _proxy = Proxy::with(&snapshot, None, |options| options.workers = 1);
    let part = vec![b'x'; 1_000_000];
    for number in 0..12 {
        let mut stream = TcpStream::connect(snapshot.listeners[0].address).unwrap();
        assert!(ask(&mut stream, GET, &[]).starts_with("HTTP/1.1 200"));
        let head = format!("POST /{number} HTTP/1.1\r\nhost: fx\r\ncontent-length: 20000000\r\n\r\n");
        let answer = ask(&mut stream, &head, &[part.as_slice(); 20]);
        assert!(answer.starts_with("HTTP/1.1 413") && answer.ends_with("much"), "{number}: {answer}");
        assert!(answer.contains("connection: close\r\n"), "{number}: {answer}");
        assert_eq!(listening.seen(&format!("POST /{number} HTTP/1.1")), 1);
    }
}

#[test]
fn only_what_is_safe_is_asked_again_when_a_kept_connection_ends() {
    for over in ["reset", "closed"] {
        let listening = Listening::start(move |_, mut talk| {
            // The second request of each connection meets its end.
            let Some((_, length)) = talk.head() else { return };
            talk.body(length);
            talk.answer();
            if let Some((_, length)) = talk.head() {
                talk.body(length);
                if over == "reset" {
                    talk.reset();
                }
            }
        });
        for policy in [None, Some(retry())] {
            let mut snapshot = listening.snapshot();
            snapshot.listeners[0].address.set_ip(ip());
            snapshot.routes = vec![routes("fx", policy, None)];
            let _proxy = Proxy::with(&snapshot, None, |options| options.workers = 1);
            let to = snapshot.listeners[0].address;
            let before = listening.seen("GET /get HTTP/1.1");
            for number in 0..6 {
                let answer = ask(&mut TcpStream::connect(to).unwrap(), GET, &[]);
                assert!(answer.starts_with("HTTP/1.1 200"), "{over} {number}: {answer}");
            }
            assert_eq!(listening.seen("GET /get HTTP/1.1") - before, 11, "each but the first was asked twice");
            let before = listening.seen("POST /post HTTP/1.1");
            let post = "POST /post HTTP/1.1\r\nhost: fx\r\ncontent-length: 3\r\n\r\nabc";
            let answer = ask(&mut TcpStream::connect(to).unwrap(), post, &[]);
            assert!(answer.starts_with("HTTP/1.1 503"), "{over}: {answer}");
            assert_eq!(listening.seen("POST /post HTTP/1.1") - before, 1, "{over}");
        }
    }
}

/// An endpoint that speaks HTTP/2 ends its connection at the second request of each.
#[tokio::test(flavor = "multi_thread")]
async fn over_http2_a_kept_connection_that_ends_costs_no_safe_request() {
    let listener = tokio::net::TcpListener::bind(SocketAddr::new(ip(), 8080)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let posts = Arc::new(AtomicU32::new(0));
    let count = posts.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let count = count.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                for turn in 0..2 {
                    let Some(Ok((request, mut respond))) = connection.accept().await else { return };
                    count.fetch_add(u32::from(request.method() == http::Method::POST), Ordering::SeqCst);
                    if turn == 0 {
                        respond.send_response(http::Response::new(()), true).unwrap();
                    }
                }
            });
        }
    });
    let endpoint = Endpoint { name: "fx".into(), address, version: "v1".into(), weight: 1 };
    let mut snapshot = plain(endpoint, Direction::Outbound);
    snapshot.clusters[0].protocol = UpstreamProtocol::Http2;
    let _proxy = Proxy::with(&snapshot, None, |options| options.workers = 1);
    let to = snapshot.listeners[0].address;
    for _ in 0..4 {
        assert_eq!(http1(to, get("/")).await.unwrap().status, 200);
    }
    let post = http::Request::post("/").header("host", "fx").body(http_body_util::Full::from("abc")).unwrap();
    assert_eq!(http1(to, post).await.unwrap().status, 503);
    assert_eq!(posts.load(Ordering::SeqCst), 1);
}
