//! What an operator has: the admin interface, the access log, the order of an end, refusals that are told.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use proxy::{Drain, LogFilter};
use serde_json::Value;
use xds::snapshot::Direction;

use crate::{leases::Control, support::*};

static FILTER: Mutex<String> = Mutex::new(String::new());

fn log_filter() -> LogFilter {
    LogFilter {
        get: || FILTER.lock().unwrap().clone(),
        set: |text| {
            if text.contains(' ') {
                return Err(format!("`{text}` is no filter"));
            }
            text.clone_into(&mut FILTER.lock().unwrap());
            Ok(())
        },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_interface_says_what_it_has() {
    let origin = Origin::start("fx-1");
    let snapshot = simple(Direction::Gateway, &[&[&origin]]);
    let proxy = Proxy::with(&snapshot, None, |options| options.log = Some(log_filter()));
    let list = proxy.admin("/").unwrap().1;
    let pages: Vec<(&str, &str)> = list
        .lines()
        .map(|line| {
            let mut words = line.split_whitespace();
            let page = (words.next().unwrap(), words.next().unwrap());
            assert!(words.next().is_some(), "{line}");
            page
        })
        .collect();
    assert_eq!(pages.len(), 13);
    for (method, path) in pages {
        if method == "GET" {
            assert_eq!(proxy.admin(path).unwrap().0, 200, "{path}");
        } else {
            let (status, head, body) = proxy.ask("DELETE", path, "").unwrap();
            assert!(status == 405 && head.contains("allow: ") && body.contains(method), "{path} {head} {body}");
        }
    }
    let (status, text) = proxy.admin("/nowhere").unwrap();
    assert_eq!((status, text.as_str()), (404, "there is no /nowhere here; GET / lists what there is\n"));
    let clusters: Value = serde_json::from_str(&proxy.admin("/clusters").unwrap().1).unwrap();
    assert_eq!((&clusters[0]["name"], &clusters[0]["endpoints"][0]["healthy"]), (&"fx".into(), &true.into()));
    let (_, head, _) = proxy.ask("GET", "/metrics", "").unwrap();
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    let dump: Value = serde_json::from_str(&proxy.admin("/config_dump").unwrap().1).unwrap();
    assert_eq!(dump["snapshot"], serde_json::to_value(&snapshot).unwrap());

    assert_eq!(proxy.ask("PUT", "/logging", "info,proxy=debug\n").unwrap().0, 200);
    assert_eq!(proxy.admin("/logging").unwrap().1, "info,proxy=debug\n");
    let (status, _, text) = proxy.ask("PUT", "/logging", "not one").unwrap();
    assert_eq!((status, text.as_str()), (400, "`not one` is no filter\n"));
    assert_eq!(proxy.ask("PUT", "/logging", &"x".repeat(10_000)).unwrap().0, 400);
    assert_eq!(proxy.admin("/logging").unwrap().1, "info,proxy=debug\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn not_ready_comes_before_no_more_connections() {
    let origin = Origin::start("fx-1");
    let snapshot = simple(Direction::Gateway, &[&[&origin]]);
    let to = snapshot.listeners[0].address;
    let delay = Duration::from_secs(2);
    let mut proxy =
        Proxy::with(&snapshot, None, |options| options.drain = Drain { delay, at_most: Duration::from_secs(5) });
    assert_eq!(proxy.ask("POST", "/drain", "").unwrap().0, 202);
    proxy.until("not ready", |proxy| proxy.admin("/ready").is_some_and(|(status, _)| status == 503));
    // A load balancer that has not asked since is not turned away.
    assert_eq!(http1(to, get("/")).await.unwrap().status, 200);
    assert!(proxy.events().iter().any(|event| event["kind"]["type"] == "draining"));
    proxy.stop_blocking();
    assert!(tokio::net::TcpStream::connect(to).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_has_envoys_names_and_is_opened_again_when_asked() {
    let origin = Origin::start("fx-1");
    let snapshot = simple(Direction::Gateway, &[&[&origin]]);
    let to = snapshot.listeners[0].address;
    let proxy = Proxy::start(&snapshot);
    let path = proxy.folder.path().join("access.log");
    let moved = proxy.folder.path().join("moved.log");
    let lines = |path: &std::path::Path| -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let mut request = get("/a?b=c");
    for (name, value) in [("user-agent", "test"), ("x-request-id", "given")] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    assert_eq!(http1(to, request).await.unwrap().status, 200);
    proxy.until("written", |_| lines(&path).len() == 1);
    let line = lines(&path).remove(0);
    let expected = serde_json::json!({
        "method": "GET", "path": "/a?b=c", "protocol": "HTTP/1.1", "authority": "fx", "response_code": 200,
        "response_flags": "-", "bytes_sent": 5, "user_agent": "test", "upstream_cluster": "fx",
        "upstream_host": origin.address.to_string(), "listener": "main",
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&line[name], value, "{name}: {line}");
    }
    assert!(line["start_time"].as_str().unwrap().ends_with('Z') && line["duration"].as_f64().unwrap() > 0.0, "{line}");
    assert_ne!(line["request_id"], "given", "a stranger's id is not taken over");

    std::fs::rename(&path, &moved).unwrap();
    assert_eq!(proxy.ask("POST", "/reopen_logs", "").unwrap().0, 202);
    proxy.until("opened again", |_| path.exists());
    http1(to, get("/")).await.unwrap();
    proxy.until("written", |_| lines(&path).len() == 1);
    assert_eq!(lines(&moved).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_bound_is_refused_to_the_control_plane_and_tried_again() {
    let origin = Origin::start("fx-1");
    let first = simple(Direction::Gateway, &[&[&origin]]);
    let control = Control::start().await;
    control.server.publish("p1", "1", Arc::new(first.clone())).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::launched(control.options(folder.path()), folder);
    let state = || control.server.proxy("p1").unwrap();
    proxy.until("accepted", |_| state().settled);

    let mut second = first.clone();
    let listener = xds::snapshot::Listener { name: "more".into(), ..listener("more", 15002, Direction::Gateway) };
    let address = listener.address;
    second.listeners.push(listener);
    let taken = std::net::TcpListener::bind(address).unwrap();
    control.server.publish("p1", "2", Arc::new(second)).unwrap();
    proxy.until("refused", |_| state().nack.is_some());
    let refused = state().nack.unwrap();
    assert!(refused.version == "2" && refused.detail.contains(&format!("{address} cannot be bound")), "{refused:?}");
    assert!(!state().settled && proxy.status()["snapshot"] == "1");
    drop(taken);
    proxy.until("in force", |proxy| proxy.status()["snapshot"] == "2");
    proxy.until("accepted after all", |_| state().settled && state().nack.is_none());
    assert_eq!(http1(address, get("/")).await.unwrap().status, 200);
    let rejections = proxy.events().iter().filter(|event| event["kind"]["type"] == "snapshotRejected").count();
    assert_eq!(rejections, 1, "the same refusal is told once");
}
