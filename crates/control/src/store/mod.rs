//! What must survive: revisions, placements, and where recovery stands. SQLite in one file, or PostgreSQL for several
//! control planes over one store; the SQL is the same but for a handful of lines in [`Dialect`].
//!
//! Every change is one transaction (SQLite: WAL with `synchronous = FULL`): after a kill or a power cut a change is there
//! as a whole or not at all, and what was answered is there. Writers come one after the other.

mod backup;
mod recovery;
mod revision;
mod shared;
#[cfg(test)]
mod tests;
mod token;

use std::{
    fmt,
    fs::OpenOptions,
    os::unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use sqlx::{
    Any, AnyPool, AssertSqlSafe, Executor as _, Row as _, Transaction,
    any::{AnyPoolOptions, install_default_drivers},
};
use thiserror::Error;

use crate::api::Placements;

pub use backup::Backup;
pub use revision::digest_of;
pub(crate) use revision::{Before, NewRevision};
pub(crate) use shared::{ERRAND_TTL, LEAD_TTL, LeaseRow, Pulse, SharedLease};
pub(crate) use token::{Bearer, Redeemed};

/// Bound on getting a connection, and on waiting for another writer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections to PostgreSQL at most. SQLite has one: its writes are rare and must come one after the other anyway.
const CONNECTIONS: u32 = 4;

/// Steps from an empty store to the present schema: in SQL that both databases take, and what only PostgreSQL has.
const MIGRATIONS: [(&str, &str); 4] = [
    (
        "CREATE TABLE revision (
            number BIGINT PRIMARY KEY,
            author TEXT NOT NULL,
            message TEXT NOT NULL,
            time BIGINT NOT NULL,
            digest TEXT NOT NULL
        );
        CREATE TABLE revision_file (
            revision BIGINT NOT NULL REFERENCES revision (number),
            position BIGINT NOT NULL,
            path TEXT NOT NULL,
            text TEXT NOT NULL,
            PRIMARY KEY (revision, position)
        );
        CREATE TABLE placements (
            \"only\" BIGINT PRIMARY KEY CHECK (\"only\" = 1),
            body TEXT NOT NULL
        );
        CREATE TABLE recovery (
            plan TEXT PRIMARY KEY,
            body TEXT NOT NULL
        );",
        "",
    ),
    (
        "ALTER TABLE revision ADD COLUMN git_commit TEXT;
        ALTER TABLE revision ADD COLUMN restores BIGINT;",
        shared::SCHEMA,
    ),
    (
        "CREATE TABLE restored (
            \"only\" BIGINT PRIMARY KEY CHECK (\"only\" = 1),
            forced BIGINT NOT NULL
        );",
        "",
    ),
    (token::SCHEMA, ""),
];

/// Where a store is.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreAddress {
    /// A SQLite file; made (mode 0600) if it is not there.
    File(PathBuf),
    /// A PostgreSQL database by its URL.
    Postgres(String),
}

impl StoreAddress {
    /// The file in a state folder: what is used where nothing else is said.
    pub fn of_state(state_dir: &Path) -> Self {
        Self::File(state_dir.join("control.db"))
    }
}

impl StoreAddress {
    /// The whole URL, password and all: what [`StoreAddress::from_str`] reads.
    pub fn url(&self) -> String {
        match self {
            Self::File(path) => format!("sqlite:{}", path.display()),
            Self::Postgres(url) => url.clone(),
        }
    }
}

impl FromStr for StoreAddress {
    type Err = String;

    /// `postgres://…` or `sqlite:PATH`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Ok(Self::Postgres(text.to_owned()));
        }
        match text.strip_prefix("sqlite:") {
            Some(path) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => Err("a store is `postgres://USER:PASSWORD@HOST/DATABASE` or `sqlite:FILE`".to_owned()),
        }
    }
}

impl fmt::Display for StoreAddress {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(url) => {
                let (scheme, rest) = url.split_once("://").unwrap_or(("postgres", url));
                // Everything behind `?` may hold a password, too.
                let rest = rest.split_once('?').map_or(rest, |(rest, _)| rest);
                let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
                write!(f, "{scheme}://{place}")
            }
        }
    }
}

impl fmt::Debug for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why the store did not do it.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The database said no.
    #[error("the store failed: {0}; check its disk, its permissions and, for PostgreSQL, that it is up")]
    Database(#[from] sqlx::Error),
    /// The file could not be made.
    #[error("the store cannot be opened: {0}")]
    File(#[from] std::io::Error),
    /// Written by a newer program.
    #[error("the store has schema {found}, this program knows up to {known}; use the newer program")]
    TooNew {
        /// Of the store.
        found: i64,
        /// Ours.
        known: usize,
    },
    /// It is in use.
    #[error("a control plane works on this store")]
    InUse,
    /// Another control plane leads by now.
    #[error("another control plane leads by now")]
    Superseded,
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
    pool: AnyPool,
    dialect: Dialect,
}

/// What the databases say differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    Sqlite,
    Postgres,
}

impl Dialect {
    /// A transaction that no other writer is beside.
    async fn begin(self, pool: &AnyPool) -> Result<Transaction<'static, Any>, sqlx::Error> {
        match self {
            Self::Sqlite => pool.begin_with("BEGIN IMMEDIATE").await,
            Self::Postgres => {
                let mut transaction = pool.begin().await?;
                // Any number will do that nothing else in this database uses; it is let go at the transaction's end.
                let lock = "SELECT 1 FROM (SELECT pg_advisory_xact_lock(7217474)) AS taken";
                transaction.execute(lock).await?;
                Ok(transaction)
            }
        }
    }

    /// How many migrations were done.
    async fn version(self, transaction: &mut Transaction<'static, Any>) -> Result<i64, sqlx::Error> {
        let sql = match self {
            Self::Sqlite => "PRAGMA user_version",
            Self::Postgres => {
                let table = "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)";
                transaction.execute(table).await?;
                "SELECT COALESCE(MAX(version), 0) FROM schema_version"
            }
        };
        sqlx::query(sql).fetch_one(&mut **transaction).await?.try_get(0)
    }

    async fn set_version(self, transaction: &mut Transaction<'static, Any>, version: usize) -> Result<(), sqlx::Error> {
        let sql = match self {
            Self::Sqlite => format!("PRAGMA user_version = {version}"),
            Self::Postgres => format!("INSERT INTO schema_version (version) VALUES ({version})"),
        };
        transaction.execute(AssertSqlSafe(sql)).await.map(|_| ())
    }
}

impl Store {
    /// Opens the store and brings its schema up to date.
    ///
    /// # Errors
    /// If it cannot be opened, or was written by a newer program.
    pub async fn open(address: &StoreAddress) -> Result<Self, StoreError> {
        install_default_drivers();
        let options = AnyPoolOptions::new().acquire_timeout(PATIENCE);
        let store = match address {
            StoreAddress::File(path) => {
                OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
                let prepare = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
                    PRAGMA busy_timeout = 5000;";
                let options = options.max_connections(1).after_connect(move |connection, _| {
                    Box::pin(async move { connection.execute(sqlx::raw_sql(prepare)).await.map(|_| ()) })
                });
                let pool = options.connect(&sqlite_url(path)?).await?;
                Self { pool, dialect: Dialect::Sqlite }
            }
            StoreAddress::Postgres(url) => {
                let pool = options.max_connections(CONNECTIONS).connect(url).await?;
                Self { pool, dialect: Dialect::Postgres }
            }
        };
        store.migrate().await?;
        Ok(store)
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        let mut transaction = self.dialect.begin(&self.pool).await?;
        let found = self.dialect.version(&mut transaction).await?;
        let known = MIGRATIONS.len();
        let done = usize::try_from(found).ok().filter(|done| *done <= known);
        let Some(done) = done else { return Err(StoreError::TooNew { found, known }) };
        for (number, (both, postgres)) in (1..).zip(MIGRATIONS).skip(done) {
            transaction.execute(sqlx::raw_sql(both)).await?;
            if self.is_shared() && !postgres.is_empty() {
                transaction.execute(sqlx::raw_sql(postgres)).await?;
            }
            self.dialect.set_version(&mut transaction, number).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Closes the connections; SQLite's write-ahead log is folded into the file.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Replaces the placements.
    ///
    /// # Errors
    /// If they could not be stored.
    pub async fn set_placements(&self, placements: &Placements) -> Result<(), StoreError> {
        let body = to_json("placements", placements)?;
        let sql = "INSERT INTO placements (\"only\", body) VALUES (1, $1)
            ON CONFLICT (\"only\") DO UPDATE SET body = excluded.body";
        let mut transaction = self.dialect.begin(&self.pool).await?;
        sqlx::query(sql).bind(body).execute(&mut *transaction).await?;
        Ok(transaction.commit().await?)
    }

    /// The placements; none before the first.
    ///
    /// # Errors
    /// If they cannot be read.
    pub async fn placements(&self) -> Result<Placements, StoreError> {
        let row = sqlx::query("SELECT body FROM placements").fetch_optional(&self.pool).await?;
        row.map_or_else(|| Ok(Placements::default()), |row| of_json("placements", &row.try_get::<String, _>(0)?))
    }
}

fn sqlite_url(path: &Path) -> Result<String, std::io::Error> {
    use std::fmt::Write as _;
    let path = std::path::absolute(path)?;
    let mut url = "sqlite://".to_owned();
    for byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(byte) {
            url.push(char::from(*byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(url, "%{byte:02X}");
        }
    }
    Ok(url)
}

fn to_json(what: &'static str, value: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|e| StoreError::Corrupt { what, reason: e.to_string() })
}

fn of_json<T: serde::de::DeserializeOwned>(what: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|e| StoreError::Corrupt { what, reason: e.to_string() })
}
