//! Requests over HTTP/1.1: malformed ones end their connection and reach nobody; odd ones arrive as they were meant.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use xds::snapshot::Direction;

use super::{
    corpus::{self, Case},
    recorder::{Recorder, Reply},
    wire::{self, End, Kind, Message},
};
use crate::support::*;

/// How bytes are cut on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Whole,
    Bytewise,
}

/// Sends the bytes and reads until the proxy closes; what it answered.
pub async fn talk(to: SocketAddr, bytes: &[u8], cut: Cut, fin: bool) -> Result<Vec<u8>, String> {
    let stream = TcpStream::connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let write = async {
        for piece in bytes.chunks(if cut == Cut::Bytewise { 1 } else { bytes.len() }) {
            // A proxy that has heard enough may close before it has heard all.
            if writing.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        if fin {
            let _ = writing.shutdown().await;
        }
        // The other half stays open until the proxy closes.
        writing
    };
    let mut answer = Vec::new();
    let read = async {
        // An error is a reset: closed as well. What came before it is kept.
        let _ = reading.read_to_end(&mut answer).await;
    };
    let both = async { tokio::join!(read, write) };
    let closed = tokio::time::timeout(Duration::from_secs(5), both).await.is_ok();
    if closed { Ok(answer) } else { Err(format!("never closed after {:?}", String::from_utf8_lossy(&answer))) }
}

/// Final responses in a stream of them; the last may end with the connection.
pub fn responses(mut input: &[u8], methods: &[&str]) -> Result<Vec<Message>, String> {
    let mut found = Vec::new();
    let mut methods = methods.iter();
    let mut method = methods.next().copied().unwrap_or("GET");
    while !input.is_empty() {
        let (message, end) = wire::read(input, Kind::Response(method))?.ok_or("a head that broke off")?;
        let interim = matches!(message.status(), 100..=199);
        if !interim {
            found.push(message);
            method = methods.next().copied().unwrap_or("GET");
        }
        match end {
            End::At(length) => input = &input[length..],
            End::Close => break,
            End::Later => return Err("a body that broke off".into()),
        }
    }
    Ok(found)
}

fn statuses(answers: &[Message]) -> Vec<u16> {
    answers.iter().map(Message::status).collect()
}

const FIRST: &[u8] = b"GET /first HTTP/1.1\r\nhost: fx\r\n\r\n";
const SMUGGLED: &[u8] = b"GET /smuggled HTTP/1.1\r\nhost: fx\r\n\r\n";

/// One malformed request: alone, after a good one, and cut into bytes; each time with another request behind it.
async fn refused(case: &Case, to: SocketAddr, recorder: &Recorder) -> Result<(), String> {
    let streamed = case.section == "body";
    let expected: Vec<u16> = case.expected.split('/').filter_map(|status| status.parse().ok()).collect();
    let silence = case.expected.split('/').any(|status| status == "close");
    for (preceded, cut) in [(false, Cut::Whole), (true, Cut::Whole), (true, Cut::Bytewise)] {
        if cut == Cut::Bytewise && case.bytes.len() > 4096 {
            continue;
        }
        let mut bytes = if preceded { FIRST.to_vec() } else { Vec::new() };
        bytes.extend_from_slice(&case.bytes);
        if !case.fin {
            bytes.extend_from_slice(SMUGGLED);
        }
        let context = |text: String| format!("preceded: {preceded}, {cut:?}: {text}");
        let answer = talk(to, &bytes, cut, case.fin).await.map_err(context)?;
        let answers = responses(&answer, &[]).map_err(context)?;
        let mut statuses = statuses(&answers);
        if preceded && (statuses.is_empty() || statuses.remove(0) != 200) {
            return Err(context(format!("the request before got {:?}", String::from_utf8_lossy(&answer))));
        }
        let right = match statuses.as_slice() {
            [] => silence,
            [one] => expected.contains(one),
            _ => false,
        };
        if !right {
            return Err(context(format!("answered {:?}", String::from_utf8_lossy(&answer))));
        }
        let targets: Vec<String> = recorder.arrived().into_iter().map(|arrived| arrived.message.start).collect();
        if targets != vec!["GET /first HTTP/1.1"; usize::from(preceded)] {
            return Err(context(format!("the endpoint saw {targets:?}")));
        }
        let cut = recorder.cut();
        if !streamed && !cut.is_empty() {
            return Err(context(format!("the endpoint saw the beginning {cut:?}")));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_end_their_connection_and_reach_nobody() {
    let cases = corpus::cases(include_str!("../corpus/requests-refused.txt"));
    let recorder = Recorder::start(Reply::ok).await;
    let snapshot = plain(recorder.endpoint(), Direction::Gateway);
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::start(&snapshot);
    let mut wrong = Vec::new();
    for case in &cases {
        if let Err(reason) = refused(case, to, &recorder).await {
            recorder.arrived();
            wrong.push(format!("{}\n    {reason}", case.name()));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() >= 100, "{}", cases.len());
    assert_eq!(http1(to, get("/")).await.unwrap().status, 200, "the proxy lives");
    assert_eq!(recorder.arrived().len(), 1, "nothing came late");
}

/// `METHOD target; header: value; no header; body=text; closes`.
fn compare(expected: &str, message: &Message) -> Result<(), String> {
    let mut parts = expected.split("; ");
    let start = format!("{} HTTP/1.1", parts.next().unwrap());
    if message.start != start {
        return Err(format!("first line {:?}", message.start));
    }
    let mut body = Vec::new();
    for part in parts {
        if let Some(text) = part.strip_prefix("body=") {
            body = corpus::unescape(text);
        } else if let Some(name) = part.strip_prefix("no ") {
            if message.headers.iter().chain(&message.trailers).any(|(key, _)| key == name) {
                return Err(format!("{name} arrived"));
            }
        } else if part != "closes" {
            let (name, value) = part.split_once(':').unwrap();
            let value: String = corpus::unescape(value.trim_start()).into_iter().map(char::from).collect();
            let found = message.all(name);
            if !found.contains(&value.as_str()) {
                return Err(format!("{name} arrived as {found:?}"));
            }
        }
    }
    (message.body == body).then_some(()).ok_or(format!("body {:?}", String::from_utf8_lossy(&message.body)))
}

async fn passed(case: &Case, to: SocketAddr, recorder: &Recorder) -> Result<(), String> {
    let closes = case.expected.ends_with("; closes");
    let method = case.expected.split(' ').next().unwrap();
    for cut in [Cut::Whole, Cut::Bytewise] {
        if cut == Cut::Bytewise && case.bytes.len() > 4096 {
            continue;
        }
        let mut bytes = case.bytes.clone();
        if !closes {
            bytes.extend_from_slice(b"GET /last HTTP/1.1\r\nhost: fx\r\nconnection: close\r\n\r\n");
        }
        let answer = talk(to, &bytes, cut, case.fin).await?;
        let answers = responses(&answer, &[method])?;
        let arrived = recorder.arrived();
        let count = if closes { 1 } else { 2 };
        if statuses(&answers) != vec![200; count] || arrived.len() != count {
            let targets: Vec<_> = arrived.iter().map(|arrived| &arrived.message.start).collect();
            return Err(format!("{cut:?}: {:?}, and the endpoint saw {targets:?}", String::from_utf8_lossy(&answer)));
        }
        compare(&case.expected, &arrived[0].message).map_err(|reason| format!("{cut:?}: {reason}"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_requests_arrive_as_they_were_meant() {
    let cases = corpus::cases(include_str!("../corpus/requests-passed.txt"));
    let recorder = Recorder::start(Reply::ok).await;
    let snapshot = plain(recorder.endpoint(), Direction::Outbound);
    let to = snapshot.listeners[0].address;
    let _proxy = Proxy::start(&snapshot);
    let mut wrong = Vec::new();
    for case in &cases {
        if let Err(reason) = passed(case, to, &recorder).await {
            recorder.arrived();
            wrong.push(format!("{}\n    {reason}", case.name()));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() >= 30, "{}", cases.len());
}
