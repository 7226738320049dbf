//! Callers that break HTTP/2: cases after RFC 9113 and RFC 7541, frame by frame.

mod cases;

use cases::{Case, Expect, Expect::*, compression, framing, messages, states};
use xds::snapshot::Direction;

use super::{
    frames::*,
    recorder::{Recorder, Reply},
};
use crate::support::{Proxy, http1, plain};

/// What came of it.
#[derive(Debug, Default)]
struct Seen {
    goaway: Option<u32>,
    reset: Option<u32>,
    status: Option<u16>,
    closed: bool,
}

/// Reads until the case is decided, at the latest when the connection ends.
async fn watch(peer: &mut Peer, expect: Expect) -> Seen {
    let mut seen = Seen::default();
    while let Some(frame) = peer.next().await {
        match frame.kind {
            GOAWAY => seen.goaway = Some(frame.code()),
            // Of many streams that are one too many, the last.
            RST_STREAM if seen.reset.is_none() => seen.reset = Some(frame.code()),
            HEADERS if frame.stream == 1 => seen.status = frame.status(),
            _ => {}
        }
        let decided = match expect {
            Connection(_) => false,
            Stream(_) => seen.reset.is_some(),
            Malformed | Answered => seen.reset.is_some() || seen.status.is_some(),
        };
        if decided && seen.goaway.is_none() {
            return seen;
        }
    }
    seen.closed = !peer.silent;
    seen
}

fn right(expect: Expect, seen: &Seen) -> bool {
    let among = |code: u32, codes: &[u32]| code == PROTOCOL || codes.contains(&code);
    let goaway = |codes: &[u32]| seen.closed && seen.goaway.is_some_and(|code| among(code, codes));
    match expect {
        Connection(codes) => goaway(codes),
        Stream(codes) => goaway(codes) || seen.reset.is_some_and(|code| among(code, codes)),
        Malformed => {
            let refused = matches!(seen.status, Some(400 | 405 | 431 | 501));
            refused || seen.reset == Some(PROTOCOL) || goaway(&[PROTOCOL])
        }
        Answered => seen.status == Some(200) && seen.reset.is_none() && seen.goaway.is_none_or(|code| code == NO_ERROR),
    }
}

/// Each case has an endpoint and a proxy of its own: what an endpoint sees late is never taken for the next case's.
async fn check(cases: Vec<Case>, least: usize) {
    let mut wrong = Vec::new();
    for case in &cases {
        let recorder = Recorder::start(Reply::ok).await;
        let snapshot = plain(recorder.endpoint(), Direction::Gateway);
        let to = snapshot.listeners[0].address;
        let proxy = Proxy::start(&snapshot);
        let mut peer = Peer::greeted(to).await;
        peer.write(&case.bytes).await;
        let seen = watch(&mut peer, case.expect).await;
        if !right(case.expect, &seen) {
            wrong.push(format!("{}: expected {:?}, {seen:?}", case.name, case.expect));
        }
        let alive = http1(to, crate::support::get("/alive")).await.map(|answer| answer.status);
        if !matches!(alive, Ok(200)) {
            wrong.push(format!("{}: the proxy answers {alive:?} afterwards", case.name));
        }
        drop((peer, proxy));
        let mut arrived = recorder.arrived();
        arrived.retain(|arrived| arrived.message.start != "GET /alive HTTP/1.1");
        let whole = matches!(case.expect, Answered);
        if arrived.len() > usize::from(whole || case.begins) {
            wrong.push(format!("{}: the endpoint saw {arrived:?}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() >= least, "{}", cases.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_frames() {
    check(framing(), 25).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_states_settings_and_windows() {
    check(states(), 25).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_messages() {
    check(messages(), 60).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_header_compression() {
    check(compression(), 12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_prefaces() {
    let recorder = Recorder::start(Reply::ok).await;
    let snapshot = plain(recorder.endpoint(), Direction::Gateway);
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::start(&snapshot);
    let wrong = b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec();
    for (name, bytes) in [
        ("3.4: another preface", wrong),
        ("3.4: a preface, and HTTP/1.1", [PREFACE, b"GET / HTTP/1.1\r\nhost: fx\r\n\r\n"].concat()),
    ] {
        let mut peer = Peer::connect(to).await;
        peer.write(&bytes).await;
        // An answer in HTTP/1.1 is read to its end as well.
        let mut rest = Vec::new();
        let ended = tokio::io::AsyncReadExt::read_to_end(&mut peer.stream, &mut rest);
        assert!(tokio::time::timeout(std::time::Duration::from_secs(10), ended).await.is_ok(), "{name}");
        assert!(recorder.arrived().is_empty(), "{name}");
    }
}
