//! What our proxy holds in memory: idle, for each connection that waits, and after much came and went.

use std::{path::Path, time::Duration};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    failover::Server,
    failure::Failure,
    process::Process,
    rendered::{self, LISTEN, Template},
    table,
};

/// Until what a start leaves behind is given back.
const SETTLE: Duration = Duration::from_secs(5);
/// Connections that wait.
const CONNECTIONS: usize = 2000;

/// Measures and prints a table.
///
/// # Errors
/// When the proxy does not start or does not answer.
pub async fn run(churn: Duration) -> Result<(), Failure> {
    let folder = tempfile::tempdir().map_err(Failure::io("temporary folder"))?;
    let _origin = Server::start("a", [0, 0, 0, 0].into(), Duration::ZERO, &folder.path().join("a")).await?;
    let template = Template::rendered(folder.path())?;
    let path = folder.path().join("snapshot.json");
    let mut rows = vec![row("state", "resident KiB", "note")];

    rendered::write(&template.of_size(10, 5, true), &path)?;
    let proxy = rendered::start(&path, folder.path()).await?;
    tokio::time::sleep(SETTLE).await;
    let small = resident(&proxy);
    rows.push(row("10 clusters, 50 endpoints", &small.to_string(), &parts(&proxy)));
    let waiting = wait(CONNECTIONS).await?;
    tokio::time::sleep(SETTLE).await;
    let each = resident(&proxy).saturating_sub(small) as f64 / CONNECTIONS as f64;
    let note = format!("{CONNECTIONS} of them, each after one request");
    rows.push(row("for an idle connection", &format!("{each:.1}"), &note));
    drop(waiting);
    tokio::time::sleep(SETTLE).await;
    rows.push(row("after they left", &resident(&proxy).to_string(), ""));
    let (first, last, turns) = come_and_go(&proxy, &template, &path, churn).await?;
    let note =
        format!("{} s: {turns} connections, a snapshot each second, faults; {first} KiB at first", churn.as_secs());
    rows.push(row("after coming and going", &last.to_string(), &note));
    drop(proxy);

    rendered::write(&template.of_size(1000, 5, true), &path)?;
    let proxy = rendered::start(&path, folder.path()).await?;
    tokio::time::sleep(SETTLE).await;
    let before = proxy.cpu_micros();
    tokio::time::sleep(SETTLE).await;
    let busy = (proxy.cpu_micros() - before) as f64 / SETTLE.as_micros() as f64 * 100.0;
    let note = format!("{}; checking them takes {busy:.0} % of a core", parts(&proxy));
    rows.push(row("1,000 clusters, 5,000 endpoints", &resident(&proxy).to_string(), &note));
    table::print("memory", &rows);
    Ok(())
}

fn row(state: &str, figure: &str, note: &str) -> Vec<String> {
    vec![state.to_owned(), figure.to_owned(), note.to_owned()]
}

fn resident(proxy: &Process) -> u64 {
    proxy.status_kib("VmRSS")
}

fn parts(proxy: &Process) -> String {
    format!("{} of its own, {} of files", proxy.status_kib("RssAnon"), proxy.status_kib("RssFile"))
}

/// Connections that had one request answered and wait for the next.
async fn wait(count: usize) -> Result<Vec<TcpStream>, Failure> {
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        streams.push(once("keep-alive").await?);
    }
    Ok(streams)
}

async fn once(connection: &str) -> Result<TcpStream, Failure> {
    let asked = async {
        let mut stream = TcpStream::connect(LISTEN).await?;
        let request = format!("GET / HTTP/1.1\r\nhost: s1\r\nconnection: {connection}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut read = Vec::new();
        let mut buffer = [0; 4096];
        // The origin's answers end with its letters.
        while !read.ends_with(b"xxxx") {
            match stream.read(&mut buffer).await? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                n => read.extend_from_slice(&buffer[..n]),
            }
        }
        Ok(stream)
    };
    asked.await.map_err(Failure::io("a request through the proxy"))
}

/// Connections come and go, and snapshots change with their weights and faults, for a while: resident memory at a fifth of
/// it and at its end, and the number of connections.
async fn come_and_go(
    proxy: &Process,
    template: &Template,
    path: &Path,
    span: Duration,
) -> Result<(u64, u64, u64), Failure> {
    let begin = tokio::time::Instant::now();
    let (mut turns, mut first, mut changed) = (0, None, begin);
    let mut snapshot = template.of_size(10, 5, true);
    while begin.elapsed() < span {
        let connection = if turns % 2 == 0 { "close" } else { "keep-alive" };
        once(connection).await?;
        turns += 1;
        if changed.elapsed() > Duration::from_secs(1) {
            changed = tokio::time::Instant::now();
            snapshot["endpoints"][1]["localities"][0]["weight"] = (1 + turns % 7).into();
            let slowed = turns % 2 == 0;
            let faults = json!([{"percent": 10, "action": {"delay": {"fixed": "1ms"}}}]);
            snapshot["routes"][0]["hosts"][1]["routes"][0]["action"]["forward"]["faults"] =
                if slowed { faults } else { json!([]) };
            rendered::write(&snapshot, path)?;
        }
        if first.is_none() && begin.elapsed() > span / 5 {
            first = Some(resident(proxy));
        }
    }
    tokio::time::sleep(SETTLE).await;
    let last = resident(proxy);
    Ok((first.unwrap_or(last), last, turns))
}
