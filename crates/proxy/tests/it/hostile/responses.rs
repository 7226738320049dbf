//! Endpoints that answer against the rules: the caller is told, or notices, and nobody else is harmed.

use std::{net::SocketAddr, sync::Arc};

use tokio::net::TcpListener;
use xds::snapshot::{Direction, Endpoint, UpstreamProtocol};

use super::{
    corpus::{self, Case},
    frames::{END, END_HEADERS, HEADERS, Peer, field, frame},
    recorder::{Recorder, Reply},
    requests::{Cut, talk},
    wire::{self, End, Kind, Message},
};
use crate::support::*;

/// The method that a case's request has, and what is answered.
fn parts(case: &Case) -> (&'static str, &[u8]) {
    case.bytes.strip_prefix(b"HEAD ").map_or(("GET", &case.bytes), |rest| ("HEAD", rest))
}

/// The final response; whether its end came.
fn last(mut input: &[u8], method: &str) -> Result<(Message, bool), String> {
    loop {
        let (message, end) = wire::read(input, Kind::Response(method))?.ok_or("no head")?;
        match end {
            End::At(length) if matches!(message.status(), 100..=199) => input = &input[length..],
            End::At(length) if length < input.len() => return Err("more than one answer".into()),
            end => return Ok((message, end != End::Later)),
        }
    }
}

fn judge(case: &Case, answer: &[u8]) -> Result<(), String> {
    let (message, whole) = last(answer, parts(case).0)?;
    let expected = case.expected.strip_suffix(" alone").unwrap_or(&case.expected);
    let (status, body) = expected.split_once(' ').unwrap_or((expected, ""));
    let right = match status {
        "cut" => !whole,
        // An answer of the proxy's own, with its own text.
        "502" | "503" => whole && status.parse() == Ok(message.status()),
        _ => whole && status.parse() == Ok(message.status()) && message.body == body.as_bytes(),
    };
    right.then_some(()).ok_or_else(|| format!("whole: {whole}, {:?}", message.start))
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_responses_are_told_or_noticed_and_end_their_connection() {
    let cases: Arc<[Case]> = corpus::cases(include_str!("../corpus/responses.txt")).into();
    let script = cases.clone();
    let recorder = Recorder::start(move |request| {
        let number = request.start.split(' ').nth(1).and_then(|path| path.strip_prefix('/')?.parse::<usize>().ok());
        match number.and_then(|number| script.get(number)) {
            Some(case) => Reply { bytes: parts(case).1.to_vec(), close: case.fin },
            None => Reply::ok(request),
        }
    })
    .await;
    let snapshot = plain(recorder.endpoint(), Direction::Gateway);
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::start(&snapshot);
    let mut wrong = Vec::new();
    let mut used = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let request = format!("{} /{number} HTTP/1.1\r\nhost: fx\r\nconnection: close\r\n\r\n", parts(case).0);
        let answer = talk(to, request.as_bytes(), Cut::Whole, false).await;
        if let Err(reason) = answer.as_ref().map_err(Clone::clone).and_then(|answer| judge(case, answer)) {
            let answer = answer.unwrap_or_default();
            let answer: String = String::from_utf8_lossy(&answer).chars().take(300).collect();
            wrong.push(format!("{}\n    {reason}: {answer:?}", case.name()));
        }
        for arrived in recorder.arrived() {
            used.push((arrived.connection, number));
        }
    }
    for (number, case) in cases.iter().enumerate().filter(|(_, case)| case.expected.ends_with("alone")) {
        let (connection, _) = used.iter().find(|(_, of)| *of == number).unwrap();
        if let Some((_, next)) = used.iter().find(|(other, next)| other == connection && *next > number) {
            wrong.push(format!("{}\n    its connection was used for {next}", case.name()));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert_eq!(http1(to, get("/")).await.unwrap().status, 200, "the proxy lives");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_response_that_is_none_is_told() {
    let length = |text| field("content-length", text);
    for fields in [
        field("connection", "close"),
        field("transfer-encoding", "chunked"),
        field("keep-alive", "5"),
        field("X-Upper", "case"),
        [length("0"), length("0")].concat(),
    ] {
        let listener = TcpListener::bind(SocketAddr::new(ip(), 8080)).await.unwrap();
        let endpoint =
            Endpoint { name: "fx".into(), address: listener.local_addr().unwrap(), version: "v1".into(), weight: 1 };
        let answer = [&[0x88][..], &fields].concat();
        tokio::spawn(async move {
            let mut peer = Peer::accepted(listener.accept().await.unwrap().0).await;
            while let Some(asked) = peer.next().await {
                if asked.kind == HEADERS {
                    peer.write(&frame(HEADERS, END | END_HEADERS, asked.stream, &answer)).await;
                }
            }
        });
        let mut snapshot = plain(endpoint, Direction::Outbound);
        snapshot.clusters[0].protocol = UpstreamProtocol::Http2;
        let proxy = Proxy::start(&snapshot);
        let answer = http1(snapshot.listeners[0].address, get("/")).await.unwrap();
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let shown = String::from_utf8_lossy(&fields).into_owned();
        assert_eq!(answer.status, 502, "{shown:?}: {text}");
        assert!(text.starts_with("the endpoint sent a malformed response: "), "{shown:?}: {text}");
        assert_eq!(proxy.log(1)[0]["response_flags"], "UPE", "{shown:?}");
    }
}
