//! What must survive: revisions, placements, and where recovery stands. SQLite, one file.
//!
//! Every change is one transaction under WAL with `synchronous = FULL`: after a kill or a power cut a change is there
//! as a whole or not at all, and what was answered is there.

use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt as _, path::Path, time::Duration};

use sha2::{Digest, Sha256};
use sqlx::{
    Row, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous},
};
use thiserror::Error;

use crate::api::{ManifestFile, Placements, Revision, Stamp};

/// Revisions that a list shows.
const LISTED: i64 = 1000;

/// Steps from an empty file to the present schema; `user_version` counts those done.
const MIGRATIONS: [&str; 1] = ["CREATE TABLE revision (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        author TEXT NOT NULL,
        message TEXT NOT NULL,
        time INTEGER NOT NULL,
        digest TEXT NOT NULL
    ) STRICT;
    CREATE TABLE revision_file (
        revision INTEGER NOT NULL REFERENCES revision (number),
        position INTEGER NOT NULL,
        path TEXT NOT NULL,
        text TEXT NOT NULL,
        PRIMARY KEY (revision, position)
    ) STRICT;
    CREATE TABLE placements (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        body TEXT NOT NULL
    ) STRICT;
    CREATE TABLE recovery (
        plan TEXT PRIMARY KEY,
        body TEXT NOT NULL
    ) STRICT;
    PRAGMA user_version = 1;"];

/// Why the store did not do it.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The database said no.
    #[error("the store failed: {0}; check the disk and the permissions of the state folder")]
    Database(#[from] sqlx::Error),
    /// The file could not be made.
    #[error("the store cannot be opened: {0}")]
    File(#[from] std::io::Error),
    /// Written by a newer program.
    #[error("the store has schema {found}, this program knows up to {known}; use the newer program")]
    TooNew {
        /// Of the file.
        found: i64,
        /// Ours.
        known: usize,
    },
    /// What was stored cannot be read.
    #[error("the store holds {what} that cannot be read: {reason}")]
    Corrupt {
        /// What.
        what: &'static str,
        /// Why.
        reason: String,
    },
}

/// The store. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Store {
    pool: SqlitePool,
}

impl Store {
    /// Opens the file (made with mode 0600 if it is not there) and brings its schema up to date.
    ///
    /// # Errors
    /// If it cannot be opened, or was written by a newer program.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(5));
        // One connection: writes are rare and must come one after the other anyway.
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
        let store = Self { pool };
        store.migrate().await?;
        Ok(store)
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        let found: i64 = sqlx::query("PRAGMA user_version").fetch_one(&self.pool).await?.try_get(0)?;
        let known = MIGRATIONS.len();
        let done = usize::try_from(found).ok().filter(|done| *done <= known);
        let Some(done) = done else { return Err(StoreError::TooNew { found, known }) };
        for migration in &MIGRATIONS[done..] {
            let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
            sqlx::raw_sql(*migration).execute(&mut *transaction).await?;
            transaction.commit().await?;
        }
        Ok(())
    }

    /// Closes the connections; the write-ahead log is folded into the file.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Stores a revision, unless its files are those of the last one. Answers the revision in force and whether it is
    /// new.
    ///
    /// # Errors
    /// If it could not be stored; then nothing was.
    pub async fn apply(
        &self,
        files: &[ManifestFile],
        author: &str,
        message: &str,
        time: Stamp,
    ) -> Result<(Revision, bool), StoreError> {
        let digest = digest_of(files);
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let last = sqlx::query("SELECT * FROM revision ORDER BY number DESC LIMIT 1")
            .fetch_optional(&mut *transaction)
            .await?
            .map(|row| read_revision(&row))
            .transpose()?;
        if let Some(mut last) = last.filter(|last| last.digest == digest) {
            last.files = files.to_vec();
            return Ok((last, false));
        }
        let number: i64 =
            sqlx::query("INSERT INTO revision (author, message, time, digest) VALUES (?, ?, ?, ?) RETURNING number")
                .bind(author)
                .bind(message)
                .bind(time.0)
                .bind(&digest)
                .fetch_one(&mut *transaction)
                .await?
                .try_get(0)?;
        for (position, file) in (0_i64..).zip(files) {
            sqlx::query("INSERT INTO revision_file (revision, position, path, text) VALUES (?, ?, ?, ?)")
                .bind(number)
                .bind(position)
                .bind(&file.path)
                .bind(&file.text)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        let number = number.unsigned_abs();
        let (author, message) = (author.to_owned(), message.to_owned());
        Ok((Revision { number, author, message, time, digest, files: files.to_vec() }, true))
    }

    /// The last revision, with files.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn latest(&self) -> Result<Option<Revision>, StoreError> {
        let row = sqlx::query("SELECT * FROM revision ORDER BY number DESC LIMIT 1").fetch_optional(&self.pool).await?;
        self.with_files(row).await
    }

    /// One revision, with files.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn revision(&self, number: u64) -> Result<Option<Revision>, StoreError> {
        let Ok(number) = i64::try_from(number) else { return Ok(None) };
        let query = sqlx::query("SELECT * FROM revision WHERE number = ?").bind(number);
        let row = query.fetch_optional(&self.pool).await?;
        self.with_files(row).await
    }

    async fn with_files(&self, row: Option<SqliteRow>) -> Result<Option<Revision>, StoreError> {
        let Some(row) = row else { return Ok(None) };
        let mut revision = read_revision(&row)?;
        let files = sqlx::query("SELECT path, text FROM revision_file WHERE revision = ? ORDER BY position")
            .bind(i64::try_from(revision.number).unwrap_or(i64::MAX))
            .fetch_all(&self.pool)
            .await?;
        for file in files {
            revision.files.push(ManifestFile { path: file.try_get("path")?, text: file.try_get("text")? });
        }
        if digest_of(&revision.files) != revision.digest {
            let reason = format!("the files of revision {} do not have its digest", revision.number);
            return Err(StoreError::Corrupt { what: "a revision", reason });
        }
        Ok(Some(revision))
    }

    /// The last revisions, newest first, without files.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn revisions(&self) -> Result<Vec<Revision>, StoreError> {
        let query = sqlx::query("SELECT * FROM revision ORDER BY number DESC LIMIT ?").bind(LISTED);
        query.fetch_all(&self.pool).await?.iter().map(read_revision).collect()
    }

    /// Replaces the placements.
    ///
    /// # Errors
    /// If they could not be stored.
    pub async fn set_placements(&self, placements: &Placements) -> Result<(), StoreError> {
        let body = to_json("placements", placements)?;
        sqlx::query(
            "INSERT INTO placements (only, body) VALUES (1, ?) ON CONFLICT (only) DO UPDATE SET body = excluded.body",
        )
        .bind(body)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The placements; none before the first.
    ///
    /// # Errors
    /// If they cannot be read.
    pub async fn placements(&self) -> Result<Placements, StoreError> {
        let row = sqlx::query("SELECT body FROM placements").fetch_optional(&self.pool).await?;
        row.map_or_else(|| Ok(Placements::default()), |row| of_json("placements", &row.try_get::<String, _>(0)?))
    }

    /// Stores where recovery of a plan stands; `None` forgets it (it is normal).
    ///
    /// # Errors
    /// If it could not be stored.
    pub async fn set_recovery<T: serde::Serialize>(&self, plan: &str, state: Option<&T>) -> Result<(), StoreError> {
        match state {
            Some(state) => {
                let sql = "INSERT INTO recovery (plan, body) VALUES (?, ?)
                    ON CONFLICT (plan) DO UPDATE SET body = excluded.body";
                sqlx::query(sql).bind(plan).bind(to_json("recovery", state)?).execute(&self.pool).await?;
            }
            None => {
                sqlx::query("DELETE FROM recovery WHERE plan = ?").bind(plan).execute(&self.pool).await?;
            }
        }
        Ok(())
    }

    /// Where recovery stands, by plan; plans that are not in it are normal.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn recovery<T: serde::de::DeserializeOwned>(&self) -> Result<Vec<(String, T)>, StoreError> {
        let rows = sqlx::query("SELECT plan, body FROM recovery ORDER BY plan").fetch_all(&self.pool).await?;
        let read = |row: &SqliteRow| -> Result<(String, T), StoreError> {
            Ok((row.try_get(0)?, of_json("recovery", &row.try_get::<String, _>(1)?)?))
        };
        rows.iter().map(read).collect()
    }
}

fn read_revision(row: &SqliteRow) -> Result<Revision, StoreError> {
    Ok(Revision {
        number: row.try_get::<i64, _>("number")?.unsigned_abs(),
        author: row.try_get("author")?,
        message: row.try_get("message")?,
        time: Stamp(row.try_get("time")?),
        digest: row.try_get("digest")?,
        files: Vec::new(),
    })
}

fn to_json(what: &'static str, value: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|e| StoreError::Corrupt { what, reason: e.to_string() })
}

fn of_json<T: serde::de::DeserializeOwned>(what: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|e| StoreError::Corrupt { what, reason: e.to_string() })
}

/// SHA-256 (hex) over paths and texts, each with its length before it.
pub fn digest_of(files: &[ManifestFile]) -> String {
    let mut hash = Sha256::new();
    for text in files.iter().flat_map(|file| [&file.path, &file.text]) {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    crate::secret::hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(text: &str) -> Vec<ManifestFile> {
        let file = |n: u32| ManifestFile { path: format!("{n}.yaml"), text: text.repeat(200) };
        (0..3).map(file).collect()
    }

    /// A process that is killed, or a machine that loses power, leaves some prefix of the write-ahead log behind. From
    /// every prefix the store opens with whole revisions, without gaps, and none of them changed.
    #[tokio::test]
    async fn a_torn_log_never_tears_a_revision() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.db");
        let store = Store::open(&path).await.unwrap();
        for n in 0..8 {
            let (revision, new) = store.apply(&files(&format!("text {n}")), "a", "m", Stamp(n)).await.unwrap();
            assert!(new);
            store.set_recovery("p", Some(&vec![revision.number; 100])).await.unwrap();
        }
        let (db, wal) = (std::fs::read(&path).unwrap(), std::fs::read(folder.path().join("control.db-wal")).unwrap());
        let mut random = fastrand::Rng::with_seed(7);
        let mut seen = std::collections::BTreeSet::new();
        for case in 0..60 {
            let torn = folder.path().join(format!("torn-{case}"));
            std::fs::create_dir(&torn).unwrap();
            let path = torn.join("control.db");
            std::fs::write(&path, &db).unwrap();
            let length = if case == 0 { wal.len() } else { random.usize(0..wal.len()) };
            std::fs::write(torn.join("control.db-wal"), &wal[..length]).unwrap();
            let store = Store::open(&path).await.unwrap();
            let revisions = store.revisions().await.unwrap();
            let last = revisions.len() as u64;
            for number in 1..=last {
                // Reading checks the digest over all files.
                assert_eq!(store.revision(number).await.unwrap().unwrap().number, number);
            }
            let recovery = store.recovery::<Vec<u64>>().await.unwrap();
            let stored = recovery.first().map_or(0, |(_, numbers)| numbers[0]);
            assert!(stored == last || stored + 1 == last, "{stored} {last}");
            seen.insert(last);
            store.close().await;
        }
        assert!(seen.len() > 3, "{seen:?}");
        assert!(seen.contains(&8), "what was answered is there: {seen:?}");
    }

    #[tokio::test]
    async fn a_newer_schema_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.db");
        let store = Store::open(&path).await.unwrap();
        sqlx::raw_sql("PRAGMA user_version = 99").execute(&store.pool).await.unwrap();
        store.close().await;
        assert!(matches!(Store::open(&path).await, Err(StoreError::TooNew { found: 99, known: 1 })));
    }
}
