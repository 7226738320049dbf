//! What clients see, on disk as it comes: an attempt whose engine dies is sealed with it.
//!
//! A file of lines for each attempt under way, in `spool/` of the state folder, written by a thread of its own twice a second.
//! Bounded; what goes beyond is left to the record in memory, and said.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufRead, BufReader, BufWriter, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use evidence::record::{Nanos, ProbeRecord, Readback, Sample, Write};
use serde::{Deserialize, Serialize};

use crate::probe::{SharedLog, lock, log::ProbeLog};

/// Between two looks at the logs.
const EVERY: Duration = Duration::from_millis(500);
/// Samples that are not durable yet are no older than this and [`EVERY`].
const SYNC: Duration = Duration::from_secs(1);
/// Largest spool.
const MOST_BYTES: u64 = 2 << 30;
/// Longest line that is read back: a read-back of the most writes that one may list.
const MAX_LINE: u64 = 64 << 20;
/// Requests of one probe beyond this are not believed.
const MOST_REQUESTS: u64 = 50_000_000;
/// Probes beyond this are not believed.
const MOST_PROBES: usize = 1_000;

/// A line of the file.
#[derive(Serialize, Deserialize)]
enum Line {
    /// A probe: name, first due, interval, timeout. In order, before anything else of it.
    Probe(String, Nanos, Nanos, Nanos, bool),
    /// The next name that samples of this probe index.
    Region(usize, String),
    /// A request of this probe has ended: its place, how, and what was written.
    End(usize, u64, Sample, Option<Write>),
    /// Writes were read back.
    Readback(usize, Readback),
}

/// Where the spool of an attempt is.
pub fn path(state: &Path, drill: &str, attempt: u64) -> PathBuf {
    folder(state).join(format!("{drill}-{attempt}.jsonl"))
}

fn folder(state: &Path) -> PathBuf {
    state.join("spool")
}

/// Removes what is spooled: no attempt is open any more.
///
/// # Errors
/// When the file system says no.
pub fn clear(state: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder(state)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes logs down while it lives. Dropped, it writes what has ended until then.
#[derive(Debug)]
pub struct Spooler {
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Spooler {
    /// Begins the spool of these logs.
    ///
    /// # Errors
    /// When the file cannot be made, or there is no thread.
    pub fn start(path: &Path, logs: Vec<SharedLog>) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        let mut writer = Writer {
            file: BufWriter::new(file),
            bytes: 0,
            regions: vec![0; logs.len()],
            readbacks: vec![0; logs.len()],
        };
        for log in &logs {
            let mut log = lock(log);
            log.note_ends();
            let (first, interval, timeout) = log.frame();
            let line = Line::Probe(log.name().to_owned(), first, interval, timeout, log.has_writes());
            drop(log);
            writer.line(&line)?;
        }
        writer.sync()?;
        let stopped = Arc::new(AtomicBool::new(false));
        let flag = stopped.clone();
        let thread = thread::Builder::new().name("spool".into()).spawn(move || {
            let written = writer.follow(&logs, &flag);
            // Nobody asks for ends any more: they must not pile up.
            logs.iter().for_each(|log| lock(log).forget_ends());
            written
        })?;
        Ok(Self { stopped, thread: Some(thread) })
    }

    /// Ends it; gives what went wrong, if anything did.
    ///
    /// # Errors
    /// Why not everything is on disk.
    pub fn stop(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        self.stopped.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.thread().unpark();
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the spooling thread has a defect")))
    }
}

impl Drop for Spooler {
    fn drop(&mut self) {
        // Who drops it has no use for what went wrong.
        let _ = self.end();
    }
}

struct Writer {
    file: BufWriter<File>,
    bytes: u64,
    /// Names and read-backs of each log that are written.
    regions: Vec<usize>,
    readbacks: Vec<usize>,
}

impl Writer {
    fn follow(&mut self, logs: &[SharedLog], stopped: &AtomicBool) -> io::Result<()> {
        let mut synced = Instant::now();
        loop {
            let last = stopped.load(Ordering::Acquire);
            for (probe, log) in logs.iter().enumerate() {
                self.take(probe, log)?;
            }
            self.file.flush()?;
            if last || synced.elapsed() >= SYNC {
                self.sync()?;
                synced = Instant::now();
            }
            if last {
                return Ok(());
            }
            thread::park_timeout(EVERY);
        }
    }

    fn take(&mut self, probe: usize, log: &SharedLog) -> io::Result<()> {
        let (regions, ends, readbacks) = {
            let mut log = lock(log);
            let regions: Vec<String> = log.regions().iter().skip(self.regions[probe]).cloned().collect();
            let readbacks: Vec<Readback> = log.readbacks().iter().skip(self.readbacks[probe]).cloned().collect();
            (regions, log.take_ends(), readbacks)
        };
        self.regions[probe] += regions.len();
        self.readbacks[probe] += readbacks.len();
        for region in regions {
            self.line(&Line::Region(probe, region))?;
        }
        for (sequence, sample, write) in ends {
            self.line(&Line::End(probe, sequence, sample, write))?;
        }
        for readback in readbacks {
            self.line(&Line::Readback(probe, readback))?;
        }
        Ok(())
    }

    fn line(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.bytes += text.len() as u64;
        if self.bytes > MOST_BYTES {
            return Err(io::Error::other(format!("it would have more than {} MiB", MOST_BYTES >> 20)));
        }
        self.file.write_all(&text)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_data()
    }
}

/// What is on disk of an attempt; nothing if it never sent a request. A torn end is left out, and so is what follows a
/// damaged line.
///
/// # Errors
/// When the file cannot be read.
pub fn read(path: &Path) -> io::Result<Vec<ProbeRecord>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut reader = BufReader::new(file);
    let (mut logs, mut text) = (Vec::new(), Vec::new());
    loop {
        text.clear();
        io::Read::take(&mut reader, MAX_LINE).read_until(b'\n', &mut text)?;
        if text.last() != Some(&b'\n') {
            break;
        }
        let Ok(line) = serde_json::from_slice(&text) else { break };
        if admit(&mut logs, line).is_none() {
            break;
        }
    }
    Ok(logs.iter().map(ProbeLog::record).collect())
}

/// Takes a line in; `None` if it makes no sense.
fn admit(logs: &mut Vec<ProbeLog>, line: Line) -> Option<()> {
    match line {
        Line::Probe(name, first, interval, timeout, writes) => {
            (logs.len() < MOST_PROBES && interval > 0).then_some(())?;
            logs.push(ProbeLog::of_frame(name, (first, interval, timeout), writes));
        }
        Line::Region(probe, name) => logs.get_mut(probe)?.name_region(name),
        Line::End(probe, sequence, sample, write) => {
            (sequence < MOST_REQUESTS).then_some(())?;
            logs.get_mut(probe)?.restore(sequence, sample, write);
        }
        Line::Readback(probe, readback) => logs.get_mut(probe)?.read_back(readback),
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use evidence::record::Outcome;

    use super::*;
    use crate::probe::log::{AnsweredBy, Ended};

    fn ended(time: Nanos, region: &str) -> Ended {
        let answered = Some(AnsweredBy { region: Some(region.into()), tries: 1 });
        Ended { time, outcome: Outcome::Ok, answered, sent: Some(time - 1), epoch: Some(4), store: Some(region.into()) }
    }

    #[test]
    fn what_was_spooled_is_what_was_recorded() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(folder.path(), "lose-east", 3);
        let logs: Vec<SharedLog> = [false, true]
            .map(|writes| Arc::new(Mutex::new(ProbeLog::of_frame("p".into(), (100, 10, 50), writes))))
            .into();
        lock(&logs[1]).end(0, &ended(105, "east"));
        let spooler = Spooler::start(&path, logs.clone()).unwrap();
        for sequence in [2, 0, 1, 4] {
            let region = if sequence == 2 { "west" } else { "east" };
            logs.iter().for_each(|log| lock(log).end(sequence, &ended(200 + sequence as i64, region)));
        }
        let readback = Readback { phase: "recovered".into(), time: 300, judged: 3, found: vec![2, 0] };
        lock(&logs[1]).read_back(readback);
        spooler.stop().unwrap();
        let read_back = read(&path).unwrap();
        let recorded: Vec<ProbeRecord> = logs.iter().map(|log| lock(log).record()).collect();
        assert_eq!(read_back, recorded);
        assert_eq!((read_back[0].samples.len(), read_back[1].writes.as_ref().unwrap().writes.len()), (3, 3));

        // A torn line, damage, and nonsense.
        let whole = fs::read(&path).unwrap();
        for cut in [whole.len() - 5, whole.len() / 2] {
            fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(read(&path).unwrap().len(), 2, "{cut}");
        }
        for line in ["{", "{\"Region\":[7,\"x\"]}", "{\"End\":[0,99999999999,{},null]}"] {
            fs::write(&path, [&whole[..], line.as_bytes(), b"\n"].concat()).unwrap();
            assert_eq!(read(&path).unwrap(), recorded, "{line}");
        }
        clear(folder.path()).unwrap();
        assert_eq!(read(&path).unwrap(), []);
    }

    #[test]
    fn it_is_on_disk_within_two_seconds() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(folder.path(), "d", 1);
        let log: SharedLog = Arc::new(Mutex::new(ProbeLog::of_frame("p".into(), (0, 10, 50), false)));
        let spooler = Spooler::start(&path, vec![log.clone()]).unwrap();
        lock(&log).end(0, &ended(5, "east"));
        let started = Instant::now();
        while read(&path).unwrap()[0].samples.is_empty() {
            assert!(started.elapsed() < Duration::from_secs(20), "it never comes");
            thread::yield_now();
        }
        drop(spooler);
    }
}
