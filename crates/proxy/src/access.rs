//! The JSON access log: one line a request, Envoy's field names. Written by a thread of its own; when the disk cannot
//! follow, lines are dropped and counted rather than requests held up.
//!
//! The file is bounded: when it is full it becomes `FILE.1`, in the place of the one before, and a new one is begun. Who
//! rotates by other means renames the file and asks for it to be opened again.

use std::{
    borrow::Cow,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
};

use serde::{Serialize, Serializer};

/// Lines that may wait.
const WAITING: usize = 8192;
/// Bytes that are gathered while more lines wait.
const GATHERED: usize = 64 * 1024;

/// One request.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Line {
    /// Nanoseconds since the Unix epoch; written as RFC 3339.
    #[serde(serialize_with = "time")]
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
    /// Why, in Envoy's words; a proxy of ours says it where an authorization refused, and what was malformed about a request
    /// or a response.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub response_code_details: Cow<'static, str>,
    /// `allow`, `deny`, or `shadow_deny` where a dry run let pass what would have been refused.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub authorization: &'static str,
    /// The permission that let it in, as `allow[0]`; `none` where there is none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub authorization_rule: String,
    /// Body bytes read from the caller.
    pub bytes_received: u64,
    /// Body bytes sent to the caller.
    pub bytes_sent: u64,
    /// Milliseconds.
    pub duration: f64,
    /// `x-request-id`.
    pub request_id: String,
    /// Of the trace that the request belongs to, where traces are made.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub trace_id: String,
    /// `user-agent`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user_agent: String,
    /// `x-forwarded-for`, as it came.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub x_forwarded_for: String,
    /// Caller's address.
    pub downstream_remote_address: String,
    /// Caller's SPIFFE id.
    pub downstream_peer_uri_san: Option<String>,
    /// Cluster name.
    pub upstream_cluster: Option<String>,
    /// Endpoint address.
    pub upstream_host: Option<String>,
    /// How often it was sent to an endpoint.
    pub upstream_request_attempt_count: u32,
    /// Overlays whose faults hit the request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overlays: Vec<String>,
}

fn time<S: Serializer>(nanos: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    let time = jiff::Timestamp::from_nanosecond((*nanos).into()).map_err(serde::ser::Error::custom)?;
    serializer.collect_str(&time)
}

/// Where lines go.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file; `-` is standard output.
    pub path: PathBuf,
    /// Its size at most, in bytes; there may be one older file of the same size beside it.
    pub bytes: u64,
}

enum Message {
    Line(Arc<Line>),
    Reopen,
}

/// Hands lines to the writer.
#[derive(Clone, Debug)]
pub struct AccessLog {
    messages: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

impl AccessLog {
    /// Opens the file and starts the writer, which ends with the last handle.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(options: &Options) -> io::Result<Self> {
        let (messages, waiting) = sync_channel(WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut writer = Writer::open(options, dropped.clone())?;
        std::thread::Builder::new().name("access-log".into()).spawn(move || writer.run(&waiting))?;
        Ok(Self { messages, dropped })
    }

    /// Writes a line, some time soon.
    pub fn line(&self, line: Arc<Line>) {
        if self.messages.try_send(Message::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Has the file opened again, after those lines that wait; false when there are too many of them.
    pub fn reopen(&self) -> bool {
        self.messages.try_send(Message::Reopen).is_ok()
    }

    /// Has the file opened again at each signal.
    pub async fn reopen_on(self, mut signals: tokio::signal::unix::Signal) {
        while signals.recv().await.is_some() {
            if !self.reopen() {
                tracing::error!("too many lines wait for the access log to be opened again now");
            }
        }
    }

    /// Lines that were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

enum Target {
    Output(io::Stdout),
    File { file: File, path: PathBuf, written: u64, most: u64 },
}

struct Writer {
    target: Target,
    gathered: Vec<u8>,
    lines: u64,
    dropped: Arc<AtomicU64>,
    failing: bool,
}

impl Writer {
    fn open(options: &Options, dropped: Arc<AtomicU64>) -> io::Result<Self> {
        let Options { path, bytes } = options;
        let target = if path == Path::new("-") {
            Target::Output(io::stdout())
        } else {
            let file = append(path)?;
            let written = file.metadata()?.len();
            Target::File { file, path: path.clone(), written, most: *bytes }
        };
        Ok(Self { target, gathered: Vec::new(), lines: 0, dropped, failing: false })
    }

    fn run(&mut self, messages: &Receiver<Message>) {
        loop {
            let message = match messages.try_recv() {
                Ok(message) => message,
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) => {
                    // Nothing is held back when nothing more waits.
                    self.write();
                    let Ok(message) = messages.recv() else { break };
                    message
                }
            };
            match message {
                Message::Line(line) => self.gather(&line),
                Message::Reopen => {
                    self.write();
                    if let Err(error) = self.reopen() {
                        tracing::error!(%error, "the access log cannot be opened again; the file at hand is kept");
                    }
                }
            }
        }
        self.write();
    }

    fn gather(&mut self, line: &Line) {
        let before = self.gathered.len();
        if let Err(error) = serde_json::to_writer(&mut self.gathered, line) {
            tracing::error!(%error, "a line of the access log cannot be written as JSON");
            self.gathered.truncate(before);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.gathered.push(b'\n');
        self.lines += 1;
        if self.gathered.len() >= GATHERED {
            self.write();
        }
    }

    /// Writes what is gathered. What the disk does not take is lost, and counted.
    fn write(&mut self) {
        if self.gathered.is_empty() {
            return;
        }
        let result = self.put();
        match result {
            Ok(()) => self.failing = false,
            Err(error) => {
                self.dropped.fetch_add(self.lines, Ordering::Relaxed);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%error, "the access log cannot be written; lines are lost until it can");
                }
            }
        }
        self.gathered.clear();
        self.lines = 0;
    }

    fn put(&mut self) -> io::Result<()> {
        let size = self.gathered.len() as u64;
        if let Target::File { path, written, most, .. } = &self.target
            && *written > 0
            && written.saturating_add(size) > *most
        {
            fs::rename(path, older(path))?;
            self.reopen()?;
        }
        match &mut self.target {
            Target::Output(output) => output.write_all(&self.gathered).and_then(|()| output.flush()),
            Target::File { file, written, .. } => {
                file.write_all(&self.gathered)?;
                *written += size;
                Ok(())
            }
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let Target::File { file, path, written, .. } = &mut self.target {
            let opened = append(path)?;
            *written = opened.metadata()?.len();
            *file = opened;
        }
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn older(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".1");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: u64) -> Line {
        Line { start_time: 1_700_000_000_123_000_000, bytes_sent: number, ..Line::default() }
    }

    fn writer(path: &Path, bytes: u64) -> Writer {
        Writer::open(&Options { path: path.to_owned(), bytes }, Arc::default()).unwrap()
    }

    fn numbers(path: &Path) -> Vec<u64> {
        let text = fs::read_to_string(path).unwrap();
        let read =
            |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["bytes_sent"].as_u64().unwrap();
        text.lines().map(read).collect()
    }

    #[test]
    fn a_full_file_makes_room_for_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let size = serde_json::to_vec(&line(0)).unwrap().len() as u64 + 1;
        let mut writer = writer(&path, size * 2);
        for number in 0..7 {
            writer.gather(&line(number));
            writer.write();
        }
        assert_eq!((numbers(&older(&path)), numbers(&path)), (vec![4, 5], vec![6]));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_renamed_file_is_left_alone_once_it_was_asked_to_be_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("access.log"), folder.path().join("moved"));
        let (messages, waiting) = sync_channel(8);
        let mut writer = writer(&path, 1 << 20);
        messages.send(Message::Line(Arc::new(line(1)))).unwrap();
        fs::rename(&path, &moved).unwrap();
        messages.send(Message::Reopen).unwrap();
        messages.send(Message::Line(Arc::new(line(2)))).unwrap();
        drop(messages);
        writer.run(&waiting);
        assert_eq!((numbers(&moved), numbers(&path)), (vec![1], vec![2]));
    }

    #[test]
    fn what_the_disk_does_not_take_is_counted() {
        let mut writer = writer(Path::new("/dev/full"), u64::MAX);
        (0..3).for_each(|number| writer.gather(&line(number)));
        writer.write();
        assert_eq!(writer.dropped.load(Ordering::Relaxed), 3);
        assert!(writer.gathered.is_empty());
    }

    #[test]
    fn times_are_written_for_people() {
        let text = serde_json::to_string(&line(1)).unwrap();
        assert!(text.starts_with("{\"start_time\":\"2023-11-14T22:13:20.123Z\","), "{text}");
    }
}
