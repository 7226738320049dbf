//! What the endpoint received, byte by byte, of requests that two parties could see end in different places. Behind each
//! case another caller asks for something over the same pool: what it asked must arrive whole, and as its own.

mod cases;

use std::{net::SocketAddr, time::Duration};

use cases::{Case, Said, cases};
use xds::snapshot::{Direction, RouteAction, Snapshot, WeightedCluster};

use super::{
    frames::{GOAWAY, HEADERS, Peer, RST_STREAM},
    recorder::{Arrived, Recorder},
    requests::{Cut, responses, talk},
    wire::Message,
};
use crate::support::*;

/// What the other caller asks for: its bytes would show in any request that swallowed them.
const VICTIM: &str = "POST /victim HTTP/1.1\r\nhost: fx\r\ncontent-length: 7\r\nconnection: close\r\n\r\npayment";

fn snapshot(recorder: &Recorder, case: &Case) -> Snapshot {
    let mut snapshot = plain(recorder.endpoint(), Direction::Gateway);
    let RouteAction::Forward(forward) = &mut hosts(&mut snapshot)[0].routes[1].action else { unreachable!() };
    forward.upgrades = vec!["websocket".into(), "other".into()];
    forward.timeout = Duration::from_secs(5);
    forward.retry = Some(retry());
    if case.name.contains("mirror") {
        forward.mirrors = vec![xds::snapshot::Mirror { cluster: "fx".into(), percent: 100.0 }];
    }
    forward.clusters = vec![WeightedCluster { cluster: "fx".into(), weight: 1 }];
    snapshot
}

/// The statuses that came back; what is in the way of reading them.
async fn say(to: SocketAddr, said: &Said) -> Result<Vec<u16>, String> {
    match said {
        Said::Http1 { bytes, fin } => {
            let answer = talk(to, bytes, Cut::Whole, *fin).await?;
            Ok(responses(&answer, &[]).map_err(|e| format!("{e}: {:?}", String::from_utf8_lossy(&answer)))?)
                .map(|all| all.iter().map(Message::status).collect())
        }
        Said::Http2(bytes) => {
            let mut peer = Peer::greeted(to).await;
            peer.write(bytes).await;
            while let Some(frame) = peer.next().await {
                match frame.kind {
                    HEADERS => match frame.status() {
                        Some(100..200) => {}
                        status => return Ok(status.into_iter().collect()),
                    },
                    RST_STREAM | GOAWAY => return Ok(Vec::new()),
                    _ => {}
                }
            }
            Err("no answer".into())
        }
    }
}

/// `METHOD target body`, as the table has it.
fn told(arrived: &Arrived) -> String {
    let start = arrived.message.start.trim_end_matches(" HTTP/1.1");
    let trailers: String = arrived.message.trailers.iter().map(|(name, value)| format!(" +{name}={value}")).collect();
    format!("{start} {}{trailers}", String::from_utf8_lossy(&arrived.message.body)).trim_end().to_owned()
}

async fn check(case: &Case) -> Result<(), String> {
    let recorder = Recorder::with(case.when, case.reply).await;
    let snapshot = snapshot(&recorder, case);
    let to = snapshot.listeners[0].address;
    // One pool, so that the victim is given whatever connection the case has left behind.
    let proxy = Proxy::with(&snapshot, None, |options| options.workers = 1);
    let statuses = say(to, &case.said).await?;
    if statuses != case.answered {
        return Err(format!("answered {statuses:?} instead of {:?}", case.answered));
    }
    if case.settles {
        tokio::task::block_in_place(|| {
            proxy.until("all copies and tries at rest", |proxy| {
                proxy.status()["clusters"][0]["endpoints"][0]["active"] == 0
            });
        });
    }
    for _ in 0..2 {
        let answer = raw(to, VICTIM.as_bytes()).await;
        if !answer.starts_with("HTTP/1.1 200 ") {
            return Err(format!("the other caller is answered {answer:?}"));
        }
    }
    drop(proxy);
    let arrived = recorder.arrived();
    let victims: Vec<_> = arrived.iter().filter(|a| told(a) == "POST /victim payment").collect();
    let rest: Vec<_> = arrived.iter().filter(|a| told(a) != "POST /victim payment").collect();
    // A mirror sends copies of the victim too.
    let copies = if case.name.contains("mirror") { 4 } else { 2 };
    let seen: Vec<String> = rest.iter().map(|a| told(a)).collect();
    if victims.len() != copies || seen != case.arrives {
        return Err(format!("the endpoint saw {seen:?} and {} of {copies} of the other caller", victims.len()));
    }
    if case.alone && victims.iter().any(|victim| rest.iter().any(|one| one.connection == victim.connection)) {
        return Err("its connection was used again".into());
    }
    let cut: Vec<String> = recorder.cut().into_iter().map(|message| message.start).collect();
    if cut.iter().any(|start| !case.begins.contains(&start.trim_end_matches(" HTTP/1.1"))) {
        return Err(format!("the endpoint saw beginnings {cut:?}"));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_ends_elsewhere_for_the_endpoint_than_for_us() {
    let cases = cases();
    let mut wrong = Vec::new();
    for case in &cases {
        if let Err(reason) = check(case).await {
            wrong.push(format!("{}: {reason}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() >= 30, "{}", cases.len());
}
