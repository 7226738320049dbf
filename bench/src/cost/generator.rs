//! Closed-loop load: wrk for HTTP/1.1, h2load for HTTP/2, and what they say.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::process::Command;

use crate::{failure::Failure, machine::LOAD_CORE, process, stats::quantile};

/// Streams on one connection of HTTP/2.
const STREAMS: u32 = 8;

/// What callers saw.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Answers.
    pub requests: u64,
    /// Time that it took, in microseconds.
    pub micros: u64,
    /// Requests without an answer, and answers that are not 200.
    pub errors: u64,
    /// Latency in microseconds.
    pub p50: f64,
    /// The same.
    pub p90: f64,
    /// The same.
    pub p99: f64,
}

/// Whom requests are sent to.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Where.
    pub address: SocketAddr,
    /// Over HTTP/2.
    pub h2: bool,
    /// Another authority than the address; only over HTTP/1.1.
    pub host: Option<&'a str>,
}

/// Sends requests for a while, this many at once.
///
/// # Errors
/// When the generator is not installed, or says what is not understood.
pub async fn run(target: &Target<'_>, at_once: u32, span: Duration, folder: &Path) -> Result<Load, Failure> {
    let url = format!("http://{}/", target.address);
    if target.h2 { h2load(&url, at_once, span, folder).await } else { wrk(&url, target.host, at_once, span).await }
}

async fn wrk(url: &str, host: Option<&str>, connections: u32, span: Duration) -> Result<Load, Failure> {
    let mut arguments = vec![
        "--latency".to_owned(),
        "--threads=1".to_owned(),
        format!("--connections={connections}"),
        format!("--duration={}s", span.as_secs()),
        url.to_owned(),
    ];
    arguments.extend(host.map(|host| format!("--header=Host: {host}")));
    let said = output("wrk", &arguments).await?;
    read_wrk(&said).ok_or_else(|| Failure::Program(format!("wrk said: {said}")))
}

async fn h2load(url: &str, streams: u32, span: Duration, folder: &Path) -> Result<Load, Failure> {
    let log: PathBuf = folder.join("h2load.log");
    match fs::remove_file(&log) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Failure::Io(log.display().to_string(), error));
        }
        _ => {}
    }
    let arguments = [
        "--threads=1".to_owned(),
        format!("--clients={}", streams.div_ceil(STREAMS)),
        format!("--max-concurrent-streams={}", streams.min(STREAMS)),
        format!("--duration={}", span.as_secs()),
        format!("--log-file={}", log.display()),
        url.to_owned(),
    ];
    output("h2load", &arguments).await?;
    let requests = fs::read_to_string(&log).map_err(Failure::io(log.display().to_string()))?;
    Ok(read_h2load(&requests, span))
}

async fn output(program: &str, arguments: &[String]) -> Result<String, Failure> {
    let mut command = process::command(LOAD_CORE, program);
    command.args(arguments);
    let output = Command::from(command).kill_on_drop(true).output().await.map_err(Failure::io(program))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::Program(format!("{program} ended with {}: {errors}{said}", output.status)));
    }
    Ok(said)
}

/// wrk's report: a distribution of latency, the number of requests, and errors if there were any.
fn read_wrk(said: &str) -> Option<Load> {
    let mut load = Load::default();
    for line in said.lines().map(str::trim) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["50%", time] => load.p50 = micros(time)?,
            ["90%", time] => load.p90 = micros(time)?,
            ["99%", time] => load.p99 = micros(time)?,
            [requests, "requests", "in", time, ..] => {
                load.requests = requests.parse().ok()?;
                load.micros = micros(time.trim_end_matches(','))? as u64;
            }
            ["Socket", "errors:", counts @ ..] => {
                load.errors +=
                    counts.iter().filter_map(|word| word.trim_end_matches(',').parse::<u64>().ok()).sum::<u64>();
            }
            ["Non-2xx", "or", "3xx", "responses:", count] => load.errors += count.parse::<u64>().ok()?,
            _ => {}
        }
    }
    (load.micros > 0).then_some(load)
}

fn micros(text: &str) -> Option<f64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.')?);
    let unit = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "m" => 60e6,
        _ => return None,
    };
    number.parse::<f64>().ok().map(|number| number * unit)
}

/// h2load's log: start, status and microseconds of each request.
fn read_h2load(log: &str, span: Duration) -> Load {
    let mut latencies = Vec::new();
    let mut errors = 0;
    for line in log.lines() {
        let mut fields = line.split_whitespace().skip(1);
        let (status, micros) = (fields.next(), fields.next().and_then(|text| text.parse::<f64>().ok()));
        errors += u64::from(status != Some("200"));
        latencies.extend(micros);
    }
    let requests = latencies.len() as u64;
    latencies.sort_by(f64::total_cmp);
    let at = |part| quantile(latencies.iter().copied(), part).unwrap_or_default();
    let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
    Load { requests, micros, errors, p50: at(0.5), p90: at(0.9), p99: at(0.99) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read() {
        let said = "Running 4s test @ http://127.0.2.1:18080/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.32ms  393.70us   9.01ms   83.65%
    Req/Sec    48.89k     3.47k   54.21k    72.50%
  Latency Distribution
     50%    1.24ms
     75%    1.47ms
     90%  890.00us
     99%    2.65s
  194721 requests in 4.00s, 243.61MB read
  Socket errors: connect 0, read 2, write 0, timeout 1
  Non-2xx or 3xx responses: 4
Requests/sec:  48667.92
";
        let expected =
            Load { requests: 194_721, micros: 4_000_000, errors: 7, p50: 1240.0, p90: 890.0, p99: 2_650_000.0 };
        assert_eq!(read_wrk(said), Some(expected));
        assert_eq!(read_wrk("unable to connect"), None);
        let load = read_h2load("1\t200\t30\n2\t200\t10\n3\t503\t20\n", Duration::from_secs(2));
        let expected = Load { requests: 3, micros: 2_000_000, errors: 1, p50: 20.0, p90: 20.0, p99: 20.0 };
        assert_eq!(load, expected);
    }
}
