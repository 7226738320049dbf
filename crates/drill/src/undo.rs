//! Undo commands that are owed: each is on disk before the command that it takes back is started, and stays there until it
//! has been done or a person has said that it is.
//!
//! One file for each in `undo/` of the state folder. Whoever finds one may run it (the engine, the supervisor when the
//! engine's lease lapses, every later start), one at a time: the folder's lock is held while an undo runs. An undo runs at
//! least once, and may run again after a crash, so it must be idempotent.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use evidence::{
    entry::rfc3339,
    ledger::{Ledger, LedgerError},
    record::{Finding, OutstandingUndo, Severity},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::sleep;

use crate::command;

/// Kind of the ledger's entry for an undo that was done after its attempt had been sealed.
pub const DONE: &str = "undoDone";
/// Kind of the ledger's entry for an undo that a person confirmed.
pub const CONFIRMED: &str = "undoConfirmed";
/// Longest record that is read.
const MAX_RECORD: u64 = 1 << 20;
/// Most records that are read.
const MAX_RECORDS: usize = 10_000;
/// Between two tries to take the lock.
const LOOK: Duration = Duration::from_millis(20);

/// An undo that is owed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Undo {
    /// `<drill>-<attempt>-<step>`, the step counted from 1.
    pub id: String,
    /// Name of the step.
    pub name: String,
    /// The drill.
    pub drill: String,
    /// Its attempt.
    pub attempt: u64,
    /// The step in the scenario, from 0.
    pub step: u64,
    /// The plan that the drill tests.
    pub plan: String,
    /// The plan's services: what the step may have touched.
    pub services: Vec<String>,
    /// The lease under which the step was taken.
    pub lease: String,
    /// argv.
    pub command: Vec<String>,
    /// Its environment.
    pub environment: BTreeMap<String, String>,
    /// Its bound, in milliseconds.
    pub timeout_ms: u64,
    /// When it was registered, in nanoseconds since the Unix epoch.
    pub registered: i64,
    /// The last time it was run and failed.
    pub failed: Option<Failed>,
    /// Since it is not owed any more; it is kept until its attempt is sealed.
    pub settled: Option<Settled>,
}

/// An undo was run, and failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Failed {
    /// How often.
    pub tries: u64,
    /// When last, in nanoseconds since the Unix epoch.
    pub time: i64,
    /// Who ran it last.
    pub by: String,
    /// What was seen last.
    pub reason: String,
}

/// An undo is not owed any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settled {
    /// When, in nanoseconds since the Unix epoch.
    pub time: i64,
    /// Who ran it, or who says that it is done.
    pub by: String,
    /// Whether a person says so, rather than the command having succeeded.
    pub confirmed: bool,
}

impl Undo {
    /// Name of an undo's record.
    pub fn id_of(drill: &str, attempt: u64, step: u64) -> String {
        format!("{drill}-{attempt}-{}", step.saturating_add(1))
    }

    /// Bound on its command.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// One sentence for the person who must act.
    pub fn describe(&self) -> String {
        let seen = match &self.failed {
            Some(Failed { tries: 1, reason, .. }) => format!("it failed: {reason}"),
            Some(Failed { tries, reason, .. }) => format!("it failed {tries} times, last: {reason}"),
            None => "it has not been run".to_owned(),
        };
        format!("the undo of {} (drill {}, attempt {}) is outstanding: {seen}", self.name, self.drill, self.attempt)
    }

    /// The gap that it is.
    pub fn finding(&self) -> Finding {
        let id = &self.id;
        Finding {
            severity: Severity::High,
            title: format!("the undo of {} is outstanding", self.name),
            detail: format!(
                "{}. It is tried again at each start, and no drill of a plan with {} starts before it is done.",
                capitalised(&self.describe()),
                self.services.join(", ")
            ),
            fix: format!(
                "Mend what made it fail and run `firedrill undo run {id}`; or undo it by hand, then `firedrill undo confirm \
                 {id} --by NAME`."
            ),
        }
    }

    /// For the sealed record.
    pub fn record(&self) -> OutstandingUndo {
        OutstandingUndo {
            name: self.name.clone(),
            command: Some(self.command.clone()),
            error: self.failed.as_ref().map(|failed| failed.reason.clone()),
            since: self.registered,
        }
    }

    fn body(&self, settled: &Settled) -> serde_json::Value {
        json!({
            "id": self.id,
            "step": self.name,
            "drill": self.drill,
            "attempt": self.attempt,
            "command": self.command,
            "by": settled.by,
            "at": rfc3339(settled.time),
            "lastFailure": self.failed.as_ref().map(|failed| &failed.reason),
        })
    }
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Why undos could not be kept, read or run.
#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    /// The file system said no, or a record is damaged.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What was seen.
        source: io::Error,
    },
    /// The ledger cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// No such undo is owed.
    #[error("no undo `{0}` is outstanding")]
    Unknown(String),
    /// The work was given up.
    #[error("it was given up: {0}")]
    Stopped(String),
}

/// The undos of a state folder. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Undos {
    state: PathBuf,
    folder: PathBuf,
}

/// The right to run undos; one at a time.
#[derive(Debug)]
struct Turn(#[allow(dead_code, reason = "the lock is held as long as the file")] File);

impl Undos {
    /// Those of this state folder.
    pub fn of(state: &Path) -> Self {
        Self { state: state.to_owned(), folder: state.join("undo") }
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    /// Keeps an undo, in place of what was kept under its id; durable when this returns.
    ///
    /// # Errors
    /// If it could not be made durable: the command that it takes back must not be started then.
    pub fn keep(&self, undo: &Undo) -> Result<(), UndoError> {
        let path = self.path(&undo.id);
        let whole = path.with_extension("json.new");
        let write = || {
            if undo.id.contains('/') {
                return Err(io::Error::other("an undo's id is no path"));
            }
            DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&whole)?;
            file.write_all(&serde_json::to_vec(undo)?)?;
            file.sync_all()?;
            fs::rename(&whole, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(|source| UndoError::File { path: path.clone(), source })
    }

    /// Forgets one that is not owed any more, if it is known.
    ///
    /// # Errors
    /// If its record could not be removed.
    pub fn forget(&self, id: &str) -> Result<(), UndoError> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(UndoError::File { path, source }),
            _ => Ok(()),
        }
    }

    /// One, if it is known.
    ///
    /// # Errors
    /// If its record cannot be read.
    pub fn get(&self, id: &str) -> Result<Option<Undo>, UndoError> {
        let path = self.path(id);
        if id.contains('/') {
            return Ok(None);
        }
        match read(&path) {
            Ok(undo) => Ok(Some(undo)),
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(UndoError::File { path, source }),
        }
    }

    /// All that are known, the last registered first: the order in which they are run.
    ///
    /// # Errors
    /// If one cannot be read: what is owed is not known then.
    pub fn all(&self) -> Result<Vec<Undo>, UndoError> {
        let io = |source| UndoError::File { path: self.folder.clone(), source };
        let files = match fs::read_dir(&self.folder) {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io(error)),
        };
        let mut found = Vec::new();
        for file in files.take(MAX_RECORDS) {
            let path = file.map_err(io)?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                match read(&path) {
                    Ok(undo) => found.push(undo),
                    // Forgotten by somebody else meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(source) => return Err(UndoError::File { path, source }),
                }
            }
        }
        found.sort_by_key(|undo| std::cmp::Reverse((undo.registered, undo.step)));
        Ok(found)
    }

    /// Those that are owed, the last registered first.
    ///
    /// # Errors
    /// As [`Undos::all`].
    pub fn owed(&self) -> Result<Vec<Undo>, UndoError> {
        Ok(self.all()?.into_iter().filter(|undo| undo.settled.is_none()).collect())
    }

    /// Those that are owed and may have touched one of these services.
    ///
    /// # Errors
    /// As [`Undos::all`].
    pub fn touching(&self, services: &[String]) -> Result<Vec<Undo>, UndoError> {
        let touches = |undo: &Undo| undo.services.iter().any(|service| services.contains(service));
        Ok(self.owed()?.into_iter().filter(touches).collect())
    }

    /// Why a drill of these services must not start: what may still be broken by an earlier one.
    pub fn objections(&self, services: &[String]) -> Vec<String> {
        match self.touching(services) {
            Err(error) => vec![format!("whether an undo is outstanding cannot be seen: {error}")],
            Ok(owed) => {
                let reason = |undo: &Undo| {
                    let id = &undo.id;
                    format!(
                        "{}; `firedrill undo run {id}` runs it again, `firedrill undo confirm {id} --by NAME` says that it \
                         is done",
                        undo.describe()
                    )
                };
                owed.iter().map(reason).collect()
            }
        }
    }

    /// Waits for the right to run undos.
    async fn turn(&self) -> Result<Turn, UndoError> {
        let path = self.folder.join("lock");
        let io = |source| UndoError::File { path: path.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder).map_err(io)?;
        let options = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = options.map_err(io)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Turn(file)),
                // Whoever has it runs a command whose time is bounded.
                Err(TryLockError::WouldBlock) => sleep(LOOK).await,
                Err(TryLockError::Error(source)) => return Err(io(source)),
            }
        }
    }

    /// Runs an undo that is owed, and keeps what came of it. One that was settled meanwhile is not run again, unless `again`
    /// says so: by the engine, whose own command may have ended after another's undo.
    ///
    /// # Errors
    /// A sentence, when the undo failed. It stays owed.
    pub async fn run(&self, undo: &Undo, by: &str, again: bool, now: impl Fn() -> i64) -> Result<Settled, String> {
        let turn = self.turn().await;
        // What cannot be read or locked is run all the same: twice is allowed, never is not.
        let known = self.get(&undo.id).ok().flatten();
        if let Some(settled) = known.as_ref().and_then(|known| known.settled.clone()).filter(|_| !again) {
            return Ok(settled);
        }
        let result = command::run(&undo.command, &undo.environment, undo.timeout()).await;
        let mut undo = known.unwrap_or_else(|| undo.clone());
        let (time, by) = (now(), by.to_owned());
        let settled = Settled { time, by: by.clone(), confirmed: false };
        match &result {
            Ok(_) => undo.settled = Some(settled.clone()),
            Err(reason) => {
                let tries = undo.failed.as_ref().map_or(0, |failed| failed.tries).saturating_add(1);
                undo.settled = None;
                undo.failed = Some(Failed { tries, time, by, reason: reason.clone() });
            }
        }
        let kept = self.keep(&undo);
        drop(turn);
        match (result, kept) {
            (Err(reason), _) => Err(reason),
            (Ok(_), Err(error)) => Err(format!("it was run, which could not be recorded: {error}")),
            (Ok(_), Ok(())) => Ok(settled),
        }
    }

    /// Runs every undo that is owed, the last registered first: those of one lease, or all. Those of sealed attempts that are
    /// done are recorded in the ledger and forgotten; those of open ones are kept for whoever seals them.
    ///
    /// # Errors
    /// If what is owed cannot be read or recorded.
    pub async fn retry(
        &self,
        of: impl Fn(&Undo) -> bool,
        by: &str,
        now: impl Fn() -> i64,
    ) -> Result<Vec<(Undo, Result<Settled, String>)>, UndoError> {
        let mut tried = Vec::new();
        for undo in self.owed()?.into_iter().filter(of) {
            let result = self.run(&undo, by, false, &now).await;
            tried.push((undo, result));
        }
        if tried.iter().any(|(_, result)| result.is_ok()) {
            self.close(now()).await?;
        }
        Ok(tried)
    }

    /// A person says that an undo has been done: recorded in the ledger, and then not owed any more.
    ///
    /// # Errors
    /// When none is owed under this id, or it cannot be recorded.
    pub async fn confirm(&self, id: &str, by: &str, now: i64) -> Result<Undo, UndoError> {
        let _turn = self.turn().await?;
        let owed = self.get(id)?.filter(|undo| undo.settled.is_none());
        let mut undo = owed.ok_or_else(|| UndoError::Unknown(id.to_owned()))?;
        let settled = Settled { time: now, by: by.to_owned(), confirmed: true };
        self.record(CONFIRMED, &undo, &settled, now).await?;
        undo.settled = Some(settled);
        // Its record stays while the attempt is open: whoever seals it must not run the undo after all.
        if self.is_sealed(&undo).await? {
            self.forget(id)?;
        } else {
            self.keep(&undo)?;
        }
        Ok(undo)
    }

    /// Records and forgets undos that were done after their attempt had been sealed.
    async fn close(&self, now: i64) -> Result<(), UndoError> {
        for undo in self.all()? {
            let Some(settled) = undo.settled.clone() else { continue };
            if !self.is_sealed(&undo).await? {
                continue;
            }
            if !settled.confirmed {
                self.record(DONE, &undo, &settled, now).await?;
            }
            self.forget(&undo.id)?;
        }
        Ok(())
    }

    async fn record(&self, kind: &'static str, undo: &Undo, settled: &Settled, now: i64) -> Result<(), UndoError> {
        let body = undo.body(settled);
        self.with_ledger(move |ledger| ledger.append(kind, now, body).map(drop)).await
    }

    async fn is_sealed(&self, undo: &Undo) -> Result<bool, UndoError> {
        let (drill, attempt) = (undo.drill.clone(), undo.attempt);
        let sealed = move |ledger: &mut Ledger| {
            Ok(ledger.attempts().get(&drill, attempt).is_none_or(|known| known.sealed.is_some()))
        };
        self.with_ledger(sealed).await
    }

    /// The ledger is a blocking interface.
    async fn with_ledger<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Ledger) -> Result<R, LedgerError> + Send + 'static,
    ) -> Result<R, UndoError> {
        let folder = self.state.join("ledger");
        let work = move || Ledger::open(&folder).and_then(|mut ledger| work(&mut ledger));
        let done = tokio::task::spawn_blocking(work).await;
        Ok(done.map_err(|error| UndoError::Stopped(error.to_string()))??)
    }
}

fn read(path: &Path) -> io::Result<Undo> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_RECORD).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn undo(step: u64, script: &str) -> Undo {
        Undo {
            id: Undo::id_of("lose-east", 3, step),
            name: format!("stop-{step}"),
            drill: "lose-east".into(),
            attempt: 3,
            step,
            plan: "bank".into(),
            services: vec!["ledger".into()],
            lease: "drill-lose-east-3".into(),
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            environment: BTreeMap::new(),
            timeout_ms: 5_000,
            registered: 7,
            failed: None,
            settled: None,
        }
    }

    #[tokio::test]
    async fn a_failed_undo_stays_until_it_is_done() {
        let state = tempfile::tempdir().unwrap();
        let undos = Undos::of(state.path());
        let (log, mended) = (state.path().join("log"), state.path().join("mended"));
        let script = |word: &str| format!("echo {word} >> {}", log.display());
        undos.keep(&undo(0, &script("first"))).unwrap();
        undos.keep(&undo(1, &format!("{}; test -e {}", script("second"), mended.display()))).unwrap();

        let tried = undos.retry(|_| true, "a start", || 9).await.unwrap();
        let tried: Vec<_> = tried.iter().map(|(undo, result)| (undo.step, result.is_ok())).collect();
        assert_eq!(tried, [(1, false), (0, true)], "the last first");
        assert_eq!(fs::read_to_string(&log).unwrap(), "second\nfirst\n");
        let owed = undos.owed().unwrap();
        let failed = owed[0].failed.as_ref().unwrap();
        assert_eq!((owed.len(), failed.tries, failed.by.as_str()), (1, 1, "a start"));
        assert_eq!(undos.objections(&["fx".to_owned()]), [""; 0]);
        let objections = undos.objections(&["fx".to_owned(), "ledger".to_owned()]);
        assert!(objections[0].contains("the undo of stop-1 (drill lose-east, attempt 3) is outstanding: it failed"));

        undos.retry(|_| true, "a start", || 9).await.unwrap();
        assert_eq!(undos.owed().unwrap()[0].failed.as_ref().unwrap().tries, 2);
        fs::write(&mended, "").unwrap();
        undos.retry(|_| true, "a start", || 10).await.unwrap();
        assert_eq!(undos.owed().unwrap(), []);
        assert_eq!(undos.objections(&["ledger".to_owned()]), [""; 0]);
        // The ledger knows no such open attempt, so it tells what was done, and nothing is kept.
        assert_eq!(undos.all().unwrap(), []);
        let entries = Ledger::open(&state.path().join("ledger")).unwrap().entries(0).unwrap();
        let told: Vec<_> = entries.iter().map(|e| (e.kind.as_str(), e.body["id"].as_str().unwrap())).collect();
        assert_eq!(told, [(DONE, "lose-east-3-1"), (DONE, "lose-east-3-2")]);
    }

    #[tokio::test]
    async fn two_who_find_an_undo_run_it_one_after_the_other() {
        let state = tempfile::tempdir().unwrap();
        let undos = Undos::of(state.path());
        let log = state.path().join("log");
        let slow = undo(0, &format!("echo begin >> {0}; sleep 0.2; echo end >> {0}", log.display()));
        undos.keep(&slow).unwrap();
        let now = || 1;
        let (one, other) = tokio::join!(undos.run(&slow, "one", false, now), undos.run(&slow, "other", false, now));
        assert_eq!(one.unwrap(), other.unwrap(), "the second finds it done");
        assert_eq!(fs::read_to_string(&log).unwrap(), "begin\nend\n");
        undos.run(&slow, "the engine", true, now).await.unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "begin\nend\nbegin\nend\n", "unless it must be sure");
    }

    #[tokio::test]
    async fn a_person_may_confirm_it_once() {
        let state = tempfile::tempdir().unwrap();
        let undos = Undos::of(state.path());
        let owed = undo(0, "exit 1");
        undos.keep(&owed).unwrap();
        assert!(undos.run(&owed, "a start", false, || 1).await.is_err());
        assert!(matches!(undos.confirm("lose-east-3-9", "ann", 2).await, Err(UndoError::Unknown(_))));
        assert!(matches!(undos.confirm("../lock", "ann", 2).await, Err(UndoError::Unknown(_))));
        undos.confirm(&owed.id, "ann", 2).await.unwrap();
        assert!(matches!(undos.confirm(&owed.id, "ann", 2).await, Err(UndoError::Unknown(_))));
        let entries = Ledger::open(&state.path().join("ledger")).unwrap().entries(0).unwrap();
        let body = &entries[0].body;
        assert_eq!((entries.len(), entries[0].kind.as_str(), body["by"].as_str()), (1, CONFIRMED, Some("ann")));
        assert!(body["lastFailure"].as_str().unwrap().contains("exit status: 1"), "{body}");
    }

    #[test]
    fn a_damaged_record_is_no_empty_folder() {
        let state = tempfile::tempdir().unwrap();
        let undos = Undos::of(state.path());
        undos.keep(&undo(0, "true")).unwrap();
        fs::write(state.path().join("undo/lose-east-3-1.json"), "{").unwrap();
        assert!(undos.owed().is_err());
        assert!(undos.objections(&[])[0].contains("cannot be seen"));
    }
}
