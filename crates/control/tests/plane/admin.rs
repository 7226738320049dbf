//! What a proxy reports that sees what the test wants it to see.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Query, State},
    routing::get,
};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle};

#[derive(Clone)]
struct Shared {
    events: Arc<Mutex<Vec<Value>>>,
    last: Arc<watch::Sender<u64>>,
}

pub struct Admin {
    shared: Shared,
    task: JoinHandle<()>,
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(serde::Deserialize)]
struct Range {
    after: usize,
    wait_ms: u64,
}

async fn events(State(shared): State<Shared>, Query(range): Query<Range>) -> Json<Value> {
    let mut last = shared.last.subscribe();
    let newer = last.wait_for(|last| *last > range.after as u64);
    let _ = tokio::time::timeout(Duration::from_millis(range.wait_ms), async { newer.await.is_ok() }).await;
    let events: Vec<Value> = shared.events.lock().unwrap().iter().skip(range.after).cloned().collect();
    Json(json!({"boot": "b", "events": events, "dropped": 0}))
}

async fn status() -> Json<Value> {
    let endpoint = |region: &str, priority: u32| {
        json!({"name": format!("web-{region}-0"), "address": "127.9.9.2:15006", "region": region, "version": "v1",
            "priority": priority, "healthy": true, "ejected": false, "active": 0, "tries": 0, "failures": 0})
    };
    Json(json!({"name": "edge", "boot": "b", "program": "0", "digest": "none", "snapshot": "r1", "overlays": [],
        "ready": true, "connected": true, "clusters": [{"name": "web", "service": "web", "tierLoad": [100, 0],
        "endpoints": [endpoint("east", 0), endpoint("west", 1)]}]}))
}

impl Admin {
    /// At the socket of a proxy in the state folder.
    pub fn start(state: &Path, proxy: &str) -> Self {
        let listener = xds::local::listen(&state.join("proxies").join(proxy).join("admin.sock")).unwrap();
        let shared = Shared { events: Arc::default(), last: Arc::new(watch::Sender::new(0)) };
        let router =
            Router::new().route("/events", get(events)).route("/status", get(status)).with_state(shared.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let admin = Self { shared, task };
        admin.push(json!({"type": "started", "version": "0"}));
        admin
    }

    fn push(&self, kind: Value) {
        let mut events = self.shared.events.lock().unwrap();
        let sequence = events.len() as u64 + 1;
        events.push(json!({"sequence": sequence, "time": 1, "kind": kind}));
        self.shared.last.send_replace(sequence);
    }

    /// An active check changes its mind about the endpoint in a region.
    pub fn health(&self, region: &str, healthy: bool) {
        self.push(json!({"type": "health", "cluster": "web", "endpoint": format!("web-{region}-0"), "region": region,
            "healthy": healthy, "cause": "connection refused"}));
    }
}
