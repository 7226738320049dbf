//! HTTP/1.1 on the wire, both sides: what is sent and received byte by byte.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread::JoinHandle,
    time::Duration,
};

use xds::snapshot::{Direction, Snapshot};

use crate::support::*;

/// An endpoint that says what it is told to say: one conversation for each connection.
struct Script {
    address: SocketAddr,
    heard: JoinHandle<Vec<String>>,
}

/// Reads until the end of what is expected, then says this.
type Turn = (&'static str, Vec<u8>);

impl Script {
    fn play(connections: Vec<Vec<Turn>>) -> Self {
        let listener = TcpListener::bind(SocketAddr::new(ip(), 8080)).unwrap();
        let address = listener.local_addr().unwrap();
        let heard = std::thread::spawn(move || {
            let mut all = Vec::new();
            for turns in connections {
                let (mut stream, _) = listener.accept().unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                let mut heard = String::new();
                for (until, say) in turns {
                    let from = heard.len();
                    while !heard[from..].contains(until) {
                        let mut buffer = [0; 65536];
                        let count = stream.read(&mut buffer).unwrap();
                        assert!(count > 0, "ended after {heard:?}, before {until:?}");
                        heard.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
                    }
                    stream.write_all(&say).unwrap();
                }
                all.push(heard);
            }
            all
        });
        Self { address, heard }
    }

    fn heard(self) -> Vec<String> {
        self.heard.join().unwrap()
    }

    /// One endpoint, and nothing that would repeat a request.
    fn snapshot(&self) -> Snapshot {
        let stand_in = Origin::start("stand-in");
        let mut snapshot = simple(Direction::Outbound, &[&[&stand_in]]);
        snapshot.endpoints[0].localities[0].endpoints[0].address = self.address;
        snapshot.routes = vec![routes("fx", None, None)];
        snapshot
    }
}

/// Sends this, and reads until the end, or until these words have come.
fn talk(to: SocketAddr, say: &[&str], until: &str) -> String {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    for piece in say {
        stream.write_all(piece.as_bytes()).unwrap();
    }
    let mut heard = String::new();
    let mut buffer = [0; 65536];
    while until.is_empty() || !heard.contains(until) {
        match stream.read(&mut buffer).unwrap() {
            0 => break,
            count => heard.push_str(std::str::from_utf8(&buffer[..count]).unwrap()),
        }
    }
    heard
}

fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

#[test]
fn requests_sent_ahead_are_answered_in_order_over_one_connection() {
    let script = Script::play(vec![vec![("\r\n\r\n", ok("one")), ("\r\n\r\n", ok("two")), ("end", ok("three"))]]);
    let snapshot = script.snapshot();
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::start(&snapshot);
    let ahead = "GET /1 HTTP/1.1\r\nhost: fx\r\n\r\nGET /2 HTTP/1.1\r\nhost: fx\r\n\r\n\
                 POST /3 HTTP/1.1\r\nhost: fx\r\ncontent-length: 3\r\nconnection: close\r\n\r\nend";
    let answers = talk(to, &[ahead], "");
    let places: Vec<_> = ["one", "two", "three"].iter().map(|text| answers.find(text)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{answers}");
    assert_eq!(answers.matches("connection: close").count(), 1, "{answers}");
    let heard = script.heard();
    assert_eq!(heard[0].matches("host: fx\r\n").count(), 3);
    assert!(heard[0].ends_with("\r\n\r\nend") && !heard[0].contains("connection"), "{heard:?}");
}

#[test]
fn a_body_in_chunks_keeps_its_trailers_both_ways() {
    let say = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 6\r\n\r\n".to_vec();
    let script = Script::play(vec![vec![("x-last: 1\r\n\r\n", say), ("\r\n\r\n", ok("still open"))]]);
    let snapshot = script.snapshot();
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::start(&snapshot);
    let head = "POST / HTTP/1.1\r\nhost: fx\r\ntransfer-encoding: chunked\r\n\r\n";
    let next = "GET / HTTP/1.1\r\nhost: fx\r\n\r\n";
    let answer = talk(to, &[head, "5\r\nhello\r\n", "0\r\nx-last: 1\r\n\r\n", next], "still open");
    assert!(answer.contains("\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 6\r\n\r\nHTTP/1.1 200"), "{answer}");
    assert_eq!(answer.matches("transfer-encoding: chunked\r\n").count(), 1, "{answer}");
    let heard = script.heard();
    assert!(heard[0].contains("\r\n5\r\nhello\r\n0\r\nx-last: 1\r\n\r\n"), "{heard:?}");
}

#[test]
fn short_answers_that_may_be_repeated_keep_their_trailers() {
    let say = |body: &str| {
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}0\r\nx-sum: 6\r\n\r\n").into_bytes()
    };
    let turns = [say(""), say("1\r\n0\r\n"), say("3\r\nabc\r\n")].map(|say| ("\r\n\r\n", say));
    let script = Script::play(vec![turns.into()]);
    let mut snapshot = script.snapshot();
    snapshot.routes = vec![routes("fx", Some(retry()), None)];
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::with(&snapshot, None, |options| options.workers = 1);
    for body in ["", "1\r\n0\r\n", "3\r\nabc\r\n"] {
        let answer = talk(to, &["GET / HTTP/1.1\r\nhost: fx\r\n\r\n"], "x-sum: 6\r\n\r\n");
        assert!(answer.ends_with(&format!("\r\n\r\n{body}0\r\nx-sum: 6\r\n\r\n")), "{answer}");
    }
    script.heard();
}

#[test]
fn answers_without_a_body_end_with_their_head() {
    let with_length = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n".to_vec();
    let unchanged = b"HTTP/1.1 304 Not Modified\r\ncontent-length: 1000\r\n\r\n".to_vec();
    let nothing = b"HTTP/1.1 204 No Content\r\n\r\n".to_vec();
    let turns = [with_length, unchanged, nothing, ok("last")].map(|say| ("\r\n\r\n", say));
    let script = Script::play(vec![turns.into()]);
    let snapshot = script.snapshot();
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::start(&snapshot);
    let get = "GET / HTTP/1.1\r\nhost: fx\r\n\r\n";
    let answer = talk(to, &["HEAD / HTTP/1.1\r\nhost: fx\r\n\r\n", get, get, get], "last");
    let statuses: Vec<_> =
        answer.lines().filter(|line| line.starts_with("HTTP/1.1 ")).map(|line| &line[9..12]).collect();
    assert_eq!(statuses, ["200", "304", "204", "200"], "{answer}");
    assert_eq!(answer.matches("content-length: 1000").count(), 2, "{answer}");
    script.heard();
}

#[test]
fn interim_answers_reach_the_caller() {
    let hints =
        b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\nconnection: x-y\r\nx-y: 1\r\n\r\n";
    let say = [&hints[..], &ok("real")].concat();
    let script = Script::play(vec![vec![("\r\n\r\n", say.clone()), ("\r\n\r\n", say)]]);
    let snapshot = script.snapshot();
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::with(&snapshot, None, |options| options.workers = 1);
    let answer = talk(to, &["GET / HTTP/1.1\r\nhost: fx\r\n\r\n"], "real");
    let expected = "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200";
    assert!(answer.starts_with(expected), "{answer}");
    // HTTP/1.0 knows none.
    let answer = talk(to, &["GET / HTTP/1.0\r\nhost: fx\r\n\r\n"], "");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    script.heard();
}

#[test]
fn hints_come_before_the_answer_does() {
    let hint = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".to_vec();
    let script = Script::play(vec![vec![("\r\n\r\n", hint), ("the rest", ok("real"))]]);
    let snapshot = script.snapshot();
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::start(&snapshot);
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(b"PUT / HTTP/1.1\r\nhost: fx\r\ncontent-length: 8\r\nconnection: close\r\n\r\n").unwrap();
    let mut head = [0; 40];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
    stream.write_all(b"the rest").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("real"), "{answer}");
    script.heard();
}

#[test]
fn an_endpoint_that_never_comes_to_the_answer_is_given_up() {
    let endless = b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(300);
    let script = Script::play(vec![vec![("\r\n\r\n", endless)]]);
    let snapshot = script.snapshot();
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::start(&snapshot);
    let answer = talk(to, &["GET / HTTP/1.1\r\nhost: fx\r\nconnection: close\r\n\r\n"], "");
    assert!(answer.contains("HTTP/1.1 502") && answer.ends_with("too many interim responses"), "{answer}");
    script.heard();
}

#[test]
fn whether_a_body_may_come_is_asked_of_the_endpoint() {
    let go_on = b"HTTP/1.1 100 Continue\r\n\r\n".to_vec();
    let no = b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n".to_vec();
    let script = Script::play(vec![vec![("\r\n\r\n", go_on), ("body", ok("done")), ("\r\n\r\n", no)]]);
    let snapshot = script.snapshot();
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::with(&snapshot, None, |options| options.workers = 1);
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let head = "PUT / HTTP/1.1\r\nhost: fx\r\nexpect: 100-continue\r\ncontent-length: 4\r\nconnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"body").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("done"), "{answer}");
    drop(stream);
    // A refusal comes instead of it, and the connection ends: the body may or may not follow.
    let kept = head.replace("connection: close", "x: y");
    let refused = talk(to, &[&kept.replace("host: fx", "host: none")], "");
    assert!(refused.starts_with("HTTP/1.1 404") && refused.contains("connection: close"), "{refused}");
    let refused = talk(to, &[&kept], "");
    assert!(refused.starts_with("HTTP/1.1 417") && refused.contains("connection: close"), "{refused}");
    let heard = script.heard();
    assert_eq!(heard[0].matches("expect: 100-continue\r\n").count(), 2, "{heard:?}");
}

#[test]
fn a_body_until_the_close_is_whole_and_a_cut_one_is_seen_to_be_cut() {
    let until_close = b"HTTP/1.0 200 OK\r\n\r\nall of it".to_vec();
    let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nnot all".to_vec();
    let script = Script::play(vec![
        vec![("\r\n\r\n", until_close.clone())],
        vec![("\r\n\r\n", until_close)],
        vec![("\r\n\r\n", cut)],
    ]);
    let snapshot = script.snapshot();
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::start(&snapshot);
    let answer = talk(to, &["GET / HTTP/1.1\r\nhost: fx\r\n\r\n"], "\r\n0\r\n\r\n");
    assert!(answer.contains("\r\n9\r\nall of it\r\n0\r\n\r\n"), "{answer}");
    let answer = talk(to, &["GET / HTTP/1.0\r\nhost: fx\r\n\r\n"], "");
    assert!(answer.ends_with("\r\n\r\nall of it") && answer.contains("connection: close"), "{answer}");
    let answer = talk(to, &["GET / HTTP/1.1\r\nhost: fx\r\n\r\n"], "");
    assert!(answer.contains("content-length: 100\r\n") && answer.ends_with("not all"), "{answer}");
    script.heard();
}

#[test]
fn an_old_caller_keeps_its_connection_if_it_asks() {
    let script = Script::play(vec![vec![("\r\n\r\n", ok("one")), ("\r\n\r\n", ok("two"))]]);
    let snapshot = script.snapshot();
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::start(&snapshot);
    let kept = "GET / HTTP/1.0\r\nhost: fx\r\nconnection: keep-alive\r\n\r\n";
    let answer = talk(to, &[kept, "GET / HTTP/1.0\r\nhost: fx\r\n\r\n"], "");
    assert_eq!((answer.matches("keep-alive").count(), answer.matches("connection: close").count()), (1, 1), "{answer}");
    assert!(answer.ends_with("two"), "{answer}");
    script.heard();
}

#[test]
fn an_answer_that_comes_before_the_end_of_the_request_is_passed_on() {
    let script = Script::play(vec![vec![("\r\n\r\n", ok("early"))]]);
    let snapshot = script.snapshot();
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::start(&snapshot);
    let part = "x".repeat(100_000);
    let head = "POST / HTTP/1.1\r\nhost: fx\r\ncontent-length: 1000000\r\n\r\n";
    let answer = talk(to, &[head, &part], "early");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("connection: close\r\n"), "nobody says how much of the body will be read: {answer}");
    script.heard();
}

#[test]
fn what_an_endpoint_says_wrongly_is_an_answer_of_ours() {
    let wrong: [(&[u8], &str); 9] = [
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            "both content-length and transfer-encoding",
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
            "transfer-encoding twice",
        ),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", "a transfer-encoding other than chunked"),
        (b"HTTP/1.1 200 OK\ncontent-length: 1\r\n\r\n", "a line that does not end in CR LF"),
        (b"HTTP/1.1 999 X\r\ncontent-length: 1\r\n\r\n", "a status that is not between 100 and 599"),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n", "101 to a request that asked for no such upgrade"),
        (b"nonsense\r\n\r\n", "no status line"),
        (b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\n\r\n", "a header without a colon"),
        (b"", ""),
    ];
    let script = Script::play(wrong.iter().map(|(say, _)| vec![("\r\n\r\n", say.to_vec())]).collect());
    let snapshot = script.snapshot();
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    for (say, reason) in wrong {
        let answer = talk(to, &["GET / HTTP/1.1\r\nhost: fx\r\nconnection: close\r\n\r\n"], "");
        let status = if say.is_empty() { "503" } else { "502" };
        let told = answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.ends_with(reason);
        assert!(told, "{:?}: {answer}", String::from_utf8_lossy(say));
    }
    script.heard();
    let path = proxy.folder.path().join("access.log");
    let read = || std::fs::read_to_string(&path).unwrap_or_default();
    proxy.until("logged", |_| read().lines().count() >= wrong.len());
    for (line, (_, reason)) in read().lines().zip(wrong) {
        assert!(line.contains(reason), "{line}");
    }
}

#[test]
fn a_malformed_request_is_told_why() {
    let script = Script::play(vec![]);
    let snapshot = script.snapshot();
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    let wrong = [
        ("GET / HTTP/1.1\nhost: fx\n\n", "a line that does not end in CR LF"),
        ("GET / HTTP/1.1\r\nhost: fx\r\nx y: z\r\n\r\n", "malformed header name"),
        (
            "POST / HTTP/1.1\r\nhost: fx\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
            "both content-length and transfer-encoding",
        ),
        ("POST / HTTP/1.1\r\nhost: fx\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n", "two content-lengths"),
        ("GET / HTTP/1.1\r\n\r\n", "no host"),
        ("GET /a/../b HTTP/1.1\r\nhost: fx\r\n\r\n", "ambiguous path"),
    ];
    for (say, reason) in wrong {
        let answer = talk(to, &[say], "");
        let told = answer.starts_with("HTTP/1.1 400") && answer.ends_with(&format!("\r\n\r\n{reason}"));
        assert!(told && answer.contains("connection: close"), "{say:?}: {answer}");
    }
    let path = proxy.folder.path().join("access.log");
    let read = || std::fs::read_to_string(&path).unwrap_or_default();
    proxy.until("logged", |_| read().lines().count() >= wrong.len());
    for (line, (_, reason)) in read().lines().zip(wrong) {
        assert!(line.contains(&format!("\"response_code_details\":\"{reason}\"")), "{line}");
    }
    script.heard();
}

#[test]
fn what_callers_write_into_a_query_arrives() {
    let script = Script::play(vec![vec![("\r\n\r\n", ok("one")), ("\r\n\r\n", ok("two"))]]);
    let snapshot = script.snapshot();
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::start(&snapshot);
    let query = "GET /q?query=up{job=\"x\"}&a=<b> HTTP/1.1\r\nhost: fx\r\n\r\n";
    let dotted = "GET /dot HTTP/1.1\r\nhost: FX.\r\nconnection: close\r\n\r\n";
    let answer = talk(to, &[query, dotted], "");
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{answer}");
    let heard = script.heard();
    assert!(heard[0].starts_with("GET /q?query=up{job=%22x%22}&a=%3Cb%3E HTTP/1.1\r\n"), "{heard:?}");
}

#[test]
fn a_kept_connection_that_ended_costs_no_request() {
    let once = || vec![("\r\n\r\n", ok("hello"))];
    let script = Script::play((0..5).map(|_| once()).collect());
    let snapshot = script.snapshot();
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    let post = "POST / HTTP/1.1\r\nhost: fx\r\ncontent-length: 1\r\n\r\nx";
    for round in 0..5 {
        let answer = talk(to, &[post], "hello");
        assert!(answer.starts_with("HTTP/1.1 200"), "{round}: {answer}");
        proxy.until("closed by the endpoint", |_| no_connection_waits(script.address));
    }
    script.heard();
}

/// Whether the endpoint's end of its last connection is closed and the proxy's kernel knows it.
fn no_connection_waits(address: SocketAddr) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let std::net::IpAddr::V4(ip) = address.ip() else { unreachable!() };
    let remote = format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port());
    let established = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields.get(2) == Some(&remote.as_str()) && fields.get(3) == Some(&"01")
    };
    !table.lines().any(established)
}
