//! The JSON access log: one line a request, Envoy's field names. Written by a thread of its own; when the disk cannot
//! follow, lines are dropped and counted rather than requests held up.

use std::{
    fs::OpenOptions,
    io::{self, BufWriter, Write},
    path::Path,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
};

use serde::Serialize;

/// Lines that may wait.
const WAITING: usize = 8192;

/// One request.
#[derive(Debug, Default, Serialize)]
pub struct Line {
    /// Nanoseconds since the Unix epoch.
    pub start_time: i64,
    /// Listener name.
    pub listener: String,
    /// HTTP method.
    pub method: String,
    /// Path with query.
    pub path: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub protocol: String,
    /// Host that was asked for.
    pub authority: String,
    /// HTTP status; 0 if the caller went away before it.
    pub response_code: u16,
    /// Envoy's flags, `-` for none.
    pub response_flags: String,
    /// Body bytes sent to the caller.
    pub bytes_sent: u64,
    /// Milliseconds.
    pub duration: f64,
    /// `x-request-id`.
    pub request_id: String,
    /// Caller's address.
    pub downstream_remote_address: String,
    /// Caller's SPIFFE id.
    pub downstream_peer_uri_san: Option<String>,
    /// Cluster name.
    pub upstream_cluster: Option<String>,
    /// Endpoint address.
    pub upstream_host: Option<String>,
    /// Tries beyond the first.
    pub upstream_request_attempt_count: u32,
    /// Overlays whose faults hit the request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overlays: Vec<String>,
}

/// Hands lines to the writer.
#[derive(Debug)]
pub struct AccessLog {
    lines: SyncSender<Box<Line>>,
    dropped: AtomicU64,
}

impl AccessLog {
    /// Opens the file (`-` is standard output) and starts the writer, which ends with the last handle.
    pub fn open(path: &Path) -> io::Result<Self> {
        let (lines, waiting) = sync_channel(WAITING);
        let to: Box<dyn Write + Send> = if path == Path::new("-") {
            Box::new(io::stdout())
        } else {
            Box::new(OpenOptions::new().create(true).append(true).open(path)?)
        };
        std::thread::Builder::new().name("access-log".into()).spawn(move || write(&waiting, BufWriter::new(to)))?;
        Ok(Self { lines, dropped: AtomicU64::new(0) })
    }

    /// Writes a line, some time soon.
    pub fn line(&self, line: Box<Line>) {
        if self.lines.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

fn write(lines: &Receiver<Box<Line>>, mut to: BufWriter<Box<dyn Write + Send>>) {
    loop {
        let line = match lines.try_recv() {
            Ok(line) => line,
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                // Flushed only when nothing waits.
                if let Err(error) = to.flush() {
                    tracing::error!(%error, "the access log cannot be written; it ends here");
                    return;
                }
                let Ok(line) = lines.recv() else { break };
                line
            }
        };
        let written = serde_json::to_writer(&mut to, &line).map_err(io::Error::from).and_then(|()| to.write_all(b"\n"));
        if let Err(error) = written {
            tracing::error!(%error, "the access log cannot be written; it ends here");
            return;
        }
    }
    if let Err(error) = to.flush() {
        tracing::error!(%error, "the end of the access log could not be written");
    }
}
