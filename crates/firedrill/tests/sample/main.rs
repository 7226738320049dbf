//! The sample bank as real processes: what replicates, what is lost, who may write.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod mesh;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hyper::Method;
use mesh::{FakeMesh, Sample, ask, free, get, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::watch;

/// Two ledgers behind a mesh.
struct Bank {
    mesh: FakeMesh,
    east: Sample,
    west: Sample,
}

impl Bank {
    async fn start() -> Self {
        let mesh = FakeMesh::start().await;
        let west = Sample::start(&mesh, "west", &["ledger", "--role", "standby"]).await;
        mesh.route("ledger.west", west.address);
        let east = Sample::start(&mesh, "east", &["ledger", "--role", "primary"]).await;
        mesh.route("ledger.east", east.address);
        mesh.route("ledger", east.address);
        until("followed", async || {
            // A standby that knows its primary forwards, and so acknowledges.
            write(west.address, "first").await.0 == 201
        })
        .await;
        Self { mesh, east, west }
    }

    async fn same(&self, ids: &[&str]) {
        until("the same", async || self.east.ids().await == ids && self.west.ids().await == ids).await;
    }
}

async fn write(to: SocketAddr, id: &str) -> (u16, Value) {
    ask(to, Method::POST, "/entries", &json!({"id": id, "sequence": 1})).await
}

fn of(status: &Value) -> (&str, u64) {
    (status["role"].as_str().unwrap(), status["epoch"].as_u64().unwrap())
}

#[tokio::test]
async fn writes_replicate_and_a_standby_passes_them_on() {
    let bank = Bank::start().await;
    assert_eq!(write(bank.east.address, "a").await.0, 201);
    let (status, acknowledged) = write(bank.west.address, "b").await;
    assert_eq!((status, &acknowledged["region"], &acknowledged["epoch"]), (201, &json!("east"), &json!(1)));
    // The same write again is acknowledged and stored once.
    assert_eq!(write(bank.west.address, "b").await.0, 201);
    bank.same(&["first", "a", "b"]).await;
    for ledger in [&bank.east, &bank.west] {
        assert_eq!(get(ledger.address, "/balances/42").await.1["balance"], "9997.00");
    }
}

#[tokio::test]
async fn a_killed_primary_loses_what_it_had_not_passed_on_and_follows_when_it_is_back() {
    let mut bank = Bank::start().await;
    assert_eq!(write(bank.east.address, "a").await.0, 201);
    bank.same(&["first", "a"]).await;
    // Replication stops; what is acknowledged now is known to one region only.
    bank.mesh.cut("ledger.east");
    for id in ["lost-1", "lost-2", "lost-3"] {
        assert_eq!(write(bank.east.address, id).await.0, 201);
    }
    bank.east.kill().await;
    assert_eq!(write(bank.west.address, "refused").await.0, 503, "no primary: no write");

    let (promoted, line) = bank.west.promote().await;
    assert!(promoted && line.contains("epoch 2") && line.contains("by force"), "{line}");
    assert_eq!(write(bank.west.address, "b").await.1["epoch"], 2);
    assert_eq!(bank.west.ids().await, ["first", "a", "b"]);

    bank.mesh.route("ledger.east", bank.east.address);
    bank.east.restart().await;
    bank.same(&["first", "a", "b"]).await;
    assert_eq!(of(&bank.east.status().await), ("standby", 2));
    // And it stays so after the next start: the file knows.
    bank.east.kill().await;
    bank.mesh.cut("ledger.west");
    bank.east.restart().await;
    assert_eq!(of(&bank.east.status().await), ("standby", 2));
    assert_eq!(bank.east.ids().await, ["first", "a", "b"]);
}

#[tokio::test]
async fn a_graceful_promotion_fails_no_write_and_loses_none() {
    let bank = Bank::start().await;
    let (stop, stopped) = watch::channel(false);
    let targets = Arc::new([bank.east.address, bank.west.address]);
    let mut writers = Vec::new();
    for writer in 0..4 {
        let (stopped, targets) = (stopped.clone(), targets.clone());
        writers.push(tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for number in 0.. {
                if *stopped.borrow() {
                    break;
                }
                let id = format!("w{writer}-{number}");
                let (status, body) = write(targets[(writer + number) % 2], &id).await;
                acknowledged.push((status, id, body["epoch"].as_u64(), body["region"].clone()));
            }
            acknowledged
        }));
    }
    until("busy", async || bank.east.status().await["entries"].as_u64() > Some(50)).await;
    let (promoted, line) = bank.west.promote().await;
    assert!(promoted && line.contains("epoch 2") && line.contains("handed over"), "{line}");
    let at = bank.west.status().await["entries"].as_u64().unwrap();
    until("busy again", async || bank.west.status().await["entries"].as_u64() > Some(at + 50)).await;
    stop.send_replace(true);
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    for (status, id, epoch, region) in &acknowledged {
        assert_eq!(*status, 201, "{id}");
        // One writer in each epoch.
        let of_epoch = if region == "east" { 1 } else { 2 };
        assert_eq!(*epoch, Some(of_epoch), "{id} by {region}");
    }
    until("caught up", async || bank.east.ids().await == bank.west.ids().await).await;
    let stored = bank.west.ids().await;
    assert!(acknowledged.iter().all(|(_, id, ..)| stored.contains(id)));
    assert_eq!(of(&bank.east.status().await), ("standby", 2));

    let (again, line) = bank.west.promote().await;
    assert!(again && line.contains("epoch 2") && line.contains("already"), "{line}");
}

#[tokio::test]
async fn a_primary_that_was_stopped_meanwhile_takes_no_write_in_its_old_epoch() {
    let bank = Bank::start().await;
    bank.same(&["first"]).await;
    bank.east.signal(Signal::STOP);
    let (promoted, line) = bank.west.promote().await;
    assert!(promoted && line.contains("by force"), "{line}");
    // Waits in the stopped process's socket, and is what it sees first.
    let waiting = tokio::spawn(write_to_owned(bank.east.address, "late"));
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    bank.east.signal(Signal::CONT);
    let (status, acknowledged) = waiting.await.unwrap();
    assert_eq!((status, &acknowledged["epoch"]), (201, &json!(2)), "{acknowledged}");
    bank.same(&["first", "late"]).await;
}

async fn write_to_owned(to: SocketAddr, id: &'static str) -> (u16, Value) {
    write(to, id).await
}

#[tokio::test]
async fn a_primary_cut_off_from_its_peers_steps_down_when_it_hears_of_the_next_epoch() {
    let bank = Bank::start().await;
    bank.same(&["first"]).await;
    bank.mesh.cut("ledger.east");
    bank.mesh.cut("ledger.west");
    assert!(bank.west.promote().await.0);
    assert_eq!(write(bank.east.address, "divergent").await.1["epoch"], 1, "nothing tells it yet");
    bank.mesh.route("ledger.east", bank.east.address);
    bank.mesh.route("ledger.west", bank.west.address);
    bank.same(&["first"]).await;
    assert_eq!(of(&bank.east.status().await), ("standby", 2));
}

#[tokio::test]
async fn a_primary_without_its_data_takes_it_back_from_the_standby() {
    let mut bank = Bank::start().await;
    bank.same(&["first"]).await;
    bank.east.kill().await;
    let fresh = Sample::start(&bank.mesh, "east", &["ledger", "--role", "primary"]).await;
    assert_eq!((fresh.ids().await, of(&fresh.status().await)), (vec!["first".to_owned()], ("primary", 1)));
}

#[tokio::test]
async fn accounts_pass_on_what_the_ledger_says() {
    let bank = Bank::start().await;
    let fx = Sample::start(&bank.mesh, "east", &["fx"]).await;
    bank.mesh.route("fx", fx.address);
    let accounts = Sample::start(&bank.mesh, "east", &["accounts"]).await;
    let (status, account) = get(accounts.address, "/accounts/42").await;
    assert_eq!((status, &account["balance"]), (200, &json!("9999.00")));
    let pay =
        async |id: &str| ask(accounts.address, Method::POST, "/payments", &json!({"id": id, "sequence": 7})).await;
    let (status, payment) = pay("run-1-7").await;
    assert_eq!((status, &payment["epoch"], &payment["sequence"]), (201, &json!(1), &json!(7)));
    let (_, listed) = get(accounts.address, "/payments?probe=run-1").await;
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(listed[0]["rate"], 0.92);

    bank.mesh.cut("fx");
    assert_eq!(pay("run-1-8").await.0, 503, "as the mesh said");
    bank.mesh.route("fx", free());
    assert_eq!(pay("run-1-9").await.0, 503);
    bank.mesh.route("fx", fx.address);
    bank.mesh.cut("ledger");
    assert_eq!(pay("run-1-10").await.0, 503);
    assert_eq!(get(accounts.address, "/accounts/42").await.0, 503);
    for (method, path, status) in
        [(Method::GET, "/", 404), (Method::DELETE, "/payments", 405), (Method::POST, "/payments", 400)]
    {
        assert_eq!(ask(accounts.address, method, path, &Value::Null).await.0, status);
    }
}
