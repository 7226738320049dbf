//! Endpoints that DNS and files name: followed, kept when their source fails, and not taken away by a slip.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use control::api::{ControlEvent, SourceOfEndpoints};
use tokio::net::UdpSocket;
use xds::client::Update;

use super::rig::{MANIFEST, Plane, Proxy, apply, placements};

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const SRV: u16 = 33;

/// Data of records, by name and type.
type Records = BTreeMap<(String, u16), Vec<Vec<u8>>>;

/// Data of a record for a question that the server fails to answer (SERVFAIL).
const FAILS: &[u8] = b"fails";

/// What a name server answers; nothing at all while it is silent.
#[derive(Clone, Default)]
struct Zone(Arc<Mutex<Option<Records>>>);

impl Zone {
    fn say(&self, name: &str, kind: u16, data: Vec<Vec<u8>>) {
        self.0.lock().unwrap().get_or_insert_default().insert((name.to_owned(), kind), data);
    }

    fn addresses(&self, name: &str, last: &[u8]) {
        self.say(name, A, last.iter().map(|last| Ipv4Addr::new(127, 9, 8, *last).octets().to_vec()).collect());
    }

    fn be_silent(&self) {
        *self.0.lock().unwrap() = None;
    }

    /// Serves on a loopback address of its own.
    async fn serve(&self) -> SocketAddr {
        let socket = UdpSocket::bind("127.9.8.1:0").await.unwrap();
        let (address, zone) = (socket.local_addr().unwrap(), self.clone());
        tokio::spawn(async move {
            let mut bytes = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut bytes).await {
                if let Some(answer) = zone.answer(&bytes[..length]) {
                    socket.send_to(&answer, from).await.unwrap();
                }
            }
        });
        address
    }

    /// RFC 1035, 4.1: the question again, and records whose names point at it. TTL 1 s.
    fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let zone = self.0.lock().unwrap();
        let zone = zone.as_ref()?;
        let (mut labels, mut at) = (Vec::new(), 12);
        while query[at] != 0 {
            let end = at + 1 + usize::from(query[at]);
            labels.push(String::from_utf8_lossy(&query[at + 1..end]).into_owned());
            at = end;
        }
        let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
        let records = zone.get(&(labels.join("."), kind)).cloned().unwrap_or_default();
        let mut answer = query[..2].to_vec();
        if records.iter().any(|record| record == FAILS) {
            answer.extend([0x81, 0x82, 0, 1, 0, 0, 0, 0, 0, 0]);
            answer.extend(&query[12..at + 5]);
            return Some(answer);
        }
        if let Some([alias]) = zone.get(&(labels.join("."), CNAME)).map(Vec::as_slice) {
            // The alias lasts 1 s, the addresses behind it 300 s.
            let target = srv(0, 0, 0, std::str::from_utf8(alias).unwrap()).split_off(6);
            let behind = zone.get(&(String::from_utf8_lossy(alias).into_owned(), kind)).cloned().unwrap_or_default();
            answer.extend([0x81, 0x80, 0, 1, 0, u8::try_from(1 + behind.len()).unwrap(), 0, 0, 0, 0]);
            answer.extend(&query[12..at + 5]);
            answer.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 1, 0, u8::try_from(target.len()).unwrap()]);
            answer.extend(&target);
            for record in behind {
                answer.extend(&target);
                answer.extend(kind.to_be_bytes());
                answer.extend([0, 1, 0, 0, 1, 44, 0, u8::try_from(record.len()).unwrap()]);
                answer.extend(record);
            }
            return Some(answer);
        }
        answer.extend([0x81, 0x80, 0, 1, 0, u8::try_from(records.len()).unwrap(), 0, 0, 0, 0]);
        answer.extend(&query[12..at + 5]);
        for record in records {
            answer.extend([0xc0, 12]);
            answer.extend(kind.to_be_bytes());
            answer.extend([0, 1, 0, 0, 0, 1, 0, u8::try_from(record.len()).unwrap()]);
            answer.extend(record);
        }
        Some(answer)
    }
}

fn srv(priority: u16, weight: u16, port: u16, target: &str) -> Vec<u8> {
    let mut data = [priority, weight, port].map(u16::to_be_bytes).concat();
    for label in target.split('.') {
        data.push(u8::try_from(label.len()).unwrap());
        data.extend(label.as_bytes());
    }
    data.push(0);
    data
}

/// Waits for a snapshot in which the gateway reaches the service at exactly these (address, weight).
async fn reaches(edge: &mut Proxy, wanted: &[(&str, u32)]) {
    edge.wait_for(|update| match update {
        Update::Snapshot { snapshot, .. } => {
            let set = snapshot.endpoints.iter().find(|set| set.cluster == "web")?;
            let endpoints = set.localities.iter().flat_map(|locality| &locality.endpoints);
            let mut have: Vec<_> = endpoints.map(|e| (e.address.to_string(), e.weight)).collect();
            have.sort();
            (have == wanted.iter().map(|(a, w)| ((*a).to_owned(), *w)).collect::<Vec<_>>()).then_some(())
        }
        _ => None,
    })
    .await;
}

fn manifest(east: &str, west: &str) -> String {
    MANIFEST
        .replace("{region: east, run: [web]}", &format!("{{region: east, {east}}}"))
        .replace("{region: west, run: [web]}", &format!("{{region: west, {west}}}"))
}

async fn shop(plane: &Plane, manifest: &str) {
    plane.client.apply(&apply(manifest)).await.unwrap();
    let mut placed = placements();
    placed.proxies.retain(|placement| placement.proxy == "edge");
    plane.client.put_placements(&placed).await.unwrap();
}

async fn source(plane: &Plane, endpoint: &str) -> SourceOfEndpoints {
    plane.client.sources().await.unwrap().into_iter().find(|source| source.endpoint == endpoint).unwrap()
}

#[tokio::test]
async fn dns_is_followed_and_its_last_answer_outlives_it() {
    let zone = Zone::default();
    let server = zone.serve().await;
    zone.addresses("east.test", &[10, 11]);
    // The second priority is not used.
    zone.say("_http._tcp.west.test", SRV, vec![srv(1, 7, 81, "w.test"), srv(2, 1, 82, "spare.test")]);
    zone.addresses("w.test", &[20]);
    let state = tempfile::tempdir().unwrap();
    let plane = Plane::start(state.path()).await;
    let east = format!("dns: {{name: east.test, port: 80, server: \"{server}\"}}");
    let west = format!("dns: {{srv: _http._tcp.west.test, server: \"{server}\"}}");
    shop(&plane, &manifest(&east, &west)).await;
    let mut edge = Proxy::connect(state.path(), "edge").await;
    reaches(&mut edge, &[("127.9.8.10:80", 1), ("127.9.8.11:80", 1), ("127.9.8.20:81", 7)]).await;
    zone.addresses("east.test", &[11, 12]);
    let all = [("127.9.8.11:80", 1), ("127.9.8.12:80", 1), ("127.9.8.20:81", 7)];
    reaches(&mut edge, &all).await;
    let fresh = source(&plane, "web-east-0").await;
    assert_eq!((fresh.failing, fresh.addresses.len(), fresh.source.as_str()), (None, 2, "dns east.test:80"));

    // Nothing is taken away by a server that is gone, nor by one that knows nothing any more.
    zone.be_silent();
    let failing = |event: &ControlEvent| matches!(event, ControlEvent::SourceFailing { endpoint, kept: 2, .. } if endpoint == "web-east-0");
    plane.wait_for(0, failing).await;
    let stale = source(&plane, "web-east-0").await;
    assert!(stale.failing.is_some() && stale.addresses.len() == 2 && stale.age_ms.is_some(), "{stale:?}");
    plane.kill().await;
    zone.addresses("other.test", &[1]);
    let plane = Plane::start(state.path()).await;
    let mut edge = Proxy::connect(state.path(), "edge").await;
    reaches(&mut edge, &all).await;
    plane.wait_for(0, failing).await;
    assert_eq!(source(&plane, "web-east-0").await.addresses.len(), 2);
    zone.addresses("east.test", &[13, 14]);
    zone.say("_http._tcp.west.test", SRV, vec![srv(1, 1, 81, "w.test")]);
    zone.addresses("w.test", &[20]);
    reaches(&mut edge, &[("127.9.8.13:80", 1), ("127.9.8.14:80", 1), ("127.9.8.20:81", 1)]).await;
    plane.stop().await;
}

#[tokio::test]
async fn the_shortest_time_to_live_of_a_chain_counts() {
    let zone = Zone::default();
    let server = zone.serve().await;
    zone.say("east.test", CNAME, vec![b"a.test".to_vec()]);
    zone.addresses("a.test", &[10]);
    let state = tempfile::tempdir().unwrap();
    let plane = Plane::start(state.path()).await;
    let east = format!("dns: {{name: east.test, port: 80, server: \"{server}\"}}");
    shop(&plane, &manifest(&east, "address: \"127.9.8.40:1\"")).await;
    let mut edge = Proxy::connect(state.path(), "edge").await;
    reaches(&mut edge, &[("127.9.8.10:80", 1), ("127.9.8.40:1", 1)]).await;
    // The alias leads elsewhere: that is seen in seconds, not in five minutes.
    zone.say("east.test", CNAME, vec![b"b.test".to_vec()]);
    zone.addresses("b.test", &[11]);
    reaches(&mut edge, &[("127.9.8.11:80", 1), ("127.9.8.40:1", 1)]).await;
    plane.stop().await;
}

#[tokio::test]
async fn a_question_that_fails_takes_away_nothing_that_another_one_gave() {
    let zone = Zone::default();
    let server = zone.serve().await;
    zone.addresses("east.test", &[10, 11]);
    zone.say("east.test", AAAA, vec![FAILS.to_vec()]);
    let records = vec![srv(1, 1, 81, "w.test"), srv(1, 1, 82, "x.test"), srv(1, 1, 0, "w.test")];
    zone.say("_http._tcp.west.test", SRV, records);
    zone.addresses("w.test", &[20]);
    zone.addresses("x.test", &[21]);
    let state = tempfile::tempdir().unwrap();
    let plane = Plane::start(state.path()).await;
    let east = format!("dns: {{name: east.test, port: 80, server: \"{server}\"}}");
    let west = format!("dns: {{srv: _http._tcp.west.test, server: \"{server}\"}}");
    shop(&plane, &manifest(&east, &west)).await;
    let mut edge = Proxy::connect(state.path(), "edge").await;
    // The record with port 0 is none.
    let west = [("127.9.8.20:81", 1), ("127.9.8.21:82", 1)];
    reaches(&mut edge, &[&[("127.9.8.10:80", 1), ("127.9.8.11:80", 1)], &west[..]].concat()).await;
    // What AAAA says is not known, and A goes on.
    zone.addresses("east.test", &[11, 12]);
    zone.say("x.test", A, vec![FAILS.to_vec()]);
    zone.say("x.test", AAAA, vec![FAILS.to_vec()]);
    reaches(&mut edge, &[&[("127.9.8.11:80", 1), ("127.9.8.12:80", 1)], &west[..]].concat()).await;
    assert_eq!(source(&plane, "web-east-0").await.failing, None);
    // Only port 0: an answer that cannot be used is a failure, and the last one is kept.
    zone.say("_http._tcp.west.test", SRV, vec![srv(1, 1, 0, "w.test")]);
    plane
        .wait_for(
            0,
            |e| matches!(e, ControlEvent::SourceFailing { reason, .. } if reason.contains("no port to connect to")),
        )
        .await;
    plane.stop().await;
}

#[tokio::test]
async fn a_file_is_followed_and_a_slip_in_it_takes_nothing_away() {
    let state = tempfile::tempdir().unwrap();
    let list = state.path().join("web.yaml");
    std::fs::write(&list, "- 127.9.8.30:1\n- 127.9.8.31:1\n- 127.9.8.32:1\n").unwrap();
    let plane = Plane::start(state.path()).await;
    let east = format!("file: {{path: {}}}", list.display());
    shop(&plane, &manifest(&east, "address: \"127.9.8.40:1\"")).await;
    let mut edge = Proxy::connect(state.path(), "edge").await;
    let all = [("127.9.8.30:1", 1), ("127.9.8.31:1", 1), ("127.9.8.32:1", 1), ("127.9.8.40:1", 1)];
    reaches(&mut edge, &all).await;
    std::fs::write(&list, "- 127.9.8.30:1\n- nonsense\n").unwrap();
    let failing = |event: &ControlEvent| matches!(event, ControlEvent::SourceFailing { reason, .. } if reason.contains("web.yaml"));
    let (at, _) = plane.wait_for(0, failing).await;
    std::fs::write(&list, "[\"127.9.8.30:1\"]").unwrap();
    let (at, _) = plane
        .wait_for(at, |event| matches!(event, ControlEvent::EndpointsHeldBack { addresses: 1, kept: 3, .. }))
        .await;
    let held = source(&plane, "web-east-0").await;
    assert_eq!((held.held_back, held.addresses.len(), held.failing), (Some(1), 3, None));
    std::fs::write(&list, "[\"127.9.8.30:1\", \"127.9.8.33:1\"]").unwrap();
    reaches(&mut edge, &[("127.9.8.30:1", 1), ("127.9.8.33:1", 1), ("127.9.8.40:1", 1)]).await;
    plane.wait_for(at, |event| matches!(event, ControlEvent::EndpointsFound { addresses: 2, .. })).await;
    // What is written again needs no source.
    shop(&plane, &manifest("address: \"127.9.8.41:1\"", "address: \"127.9.8.40:1\"")).await;
    reaches(&mut edge, &[("127.9.8.40:1", 1), ("127.9.8.41:1", 1)]).await;
    assert!(plane.client.sources().await.unwrap().is_empty());
    plane.stop().await;
}
