//! Reading back what a `writes` probe wrote.

use std::time::Duration;

use bytes::Bytes;
use evidence::record::{Outcome, Readback};
use http_body_util::Full;
use hyper::{Method, Request, header};
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};

use super::{ProbeSpec, SharedLog, WritesSpec, client::Client, lock, sender::write_id};
use crate::clock::AttemptClock;

/// A list of stored writes longer than this is refused: about 400 000 writes.
const BODY_BOUND: usize = 32 << 20;
/// One try.
const TRY: Duration = Duration::from_secs(5);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(250);

#[derive(Deserialize)]
struct Stored {
    id: String,
    sequence: u64,
}

/// Sequences of this run's writes, in stored order, duplicates kept.
///
/// # Errors
/// When the body is no JSON array of `{"id", "sequence"}`.
fn parse(body: &[u8], run: &str) -> Result<Vec<u64>, String> {
    let stored: Vec<Stored> = serde_json::from_slice(body).map_err(|e| format!("not a list of writes: {e}"))?;
    Ok(stored.into_iter().filter(|w| w.id == write_id(run, w.sequence)).map(|w| w.sequence).collect())
}

fn path(path: &str, run: &str) -> String {
    let separator = if path.contains('?') { '&' } else { '?' };
    format!("{path}{separator}probe={run}")
}

async fn ask(spec: &ProbeSpec, writes: &WritesSpec) -> Result<Vec<u64>, String> {
    let request = Request::builder()
        .method(Method::from_bytes(writes.get.method.as_bytes()).unwrap_or(Method::GET))
        .uri(path(&writes.get.path, &writes.run))
        .header(header::HOST, &spec.host)
        .header("x-firedrill-probe", &spec.name)
        .body(Full::new(Bytes::new()))
        .map_err(|e| e.to_string())?;
    let client = Client::new(spec.address, 0);
    let answer = timeout(TRY, client.send(request, BODY_BOUND, || ())).await;
    let answer = match answer {
        Err(_) => return Err(format!("no answer within {} s", TRY.as_secs())),
        Ok(Err(Outcome::Connect)) => return Err("cannot connect".to_owned()),
        Ok(Err(_)) => return Err("the connection ended before the answer".to_owned()),
        Ok(Ok(answer)) => answer,
    };
    if answer.cut {
        return Err(format!("the list of writes is longer than {} MiB", BODY_BOUND >> 20));
    }
    if !answer.head.status().is_success() {
        return Err(format!("answered {}", answer.head.status()));
    }
    parse(&answer.body, &writes.run)
}

/// Reads back after `settle`, the time that the store may take to show a write, repeating failures for as long as
/// `patience`, and keeps the result in the log. Only writes that had ended when it began are judged by it.
///
/// # Errors
/// What the last try saw.
pub async fn read_back(
    spec: &ProbeSpec,
    log: &SharedLog,
    clock: AttemptClock,
    phase: &str,
    settle: Duration,
    patience: Duration,
) -> Result<Readback, String> {
    let Some(writes) = &spec.writes else { return Err(format!("{} is no writes probe", spec.name)) };
    let judged = lock(log).ended_below();
    sleep(settle).await;
    let until = Instant::now() + patience;
    loop {
        let time = clock.now();
        match ask(spec, writes).await {
            Ok(found) => {
                let readback = Readback { phase: phase.to_owned(), time, judged, found };
                lock(log).read_back(readback.clone());
                return Ok(readback);
            }
            Err(reason) if Instant::now() >= until => return Err(reason),
            Err(_) => sleep(PAUSE).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_writes_count() {
        let check = |body: &str, expected: Result<&[u64], ()>| {
            assert_eq!(parse(body.as_bytes(), "r").map_err(|_| ()), expected.map(<[u64]>::to_vec), "{body}");
        };
        check("[]", Ok(&[]));
        check(
            r#"[{"id":"r-1","sequence":1},{"id":"x-2","sequence":2},{"id":"r-0","sequence":0,"more":true}]"#,
            Ok(&[1, 0]),
        );
        check(r#"[{"id":"r-1","sequence":1},{"id":"r-1","sequence":1}]"#, Ok(&[1, 1]));
        check(r#"[{"id":"r-1","sequence":7}]"#, Ok(&[]));
        check(r#"{"writes":[]}"#, Err(()));
        check(r#"[{"id":"r-1"}]"#, Err(()));
    }

    #[test]
    fn probe_is_added_to_the_query() {
        assert_eq!(path("/payments", "r-1"), "/payments?probe=r-1");
        assert_eq!(path("/payments?all=1", "r-1"), "/payments?all=1&probe=r-1");
    }
}
