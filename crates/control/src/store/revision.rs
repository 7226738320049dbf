//! Revisions: every set of manifests that was ever in force, numbered from 1, never changed.

use sha2::{Digest as _, Sha256};
use sqlx::{Any, Row as _, Transaction, any::AnyRow};

use super::{Store, StoreError};
use crate::api::{ManifestFile, Revision, Stamp};

/// Revisions that a list shows.
const LISTED: i64 = 1000;

/// A revision that is to be made.
#[derive(Clone, Debug)]
pub(crate) struct NewRevision<'a> {
    pub files: &'a [ManifestFile],
    pub author: &'a str,
    pub message: &'a str,
    pub commit: Option<&'a str>,
    pub restores: Option<u64>,
    pub time: Stamp,
}

/// What became of it.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// The one in force.
    pub revision: Revision,
    /// Number of the one in force before; 0: none was.
    pub previous: u64,
    /// False if the files are those of the one in force; then none was made.
    pub changed: bool,
}

/// What a change is judged by, inside the transaction that makes it.
pub(crate) struct Before<'a> {
    /// The revision in force.
    pub latest: Option<&'a Revision>,
    /// Plans whose recovery is not normal, each with its row.
    pub recovering: &'a [(String, String)],
}

impl Store {
    /// Stores a revision, unless its files are those of the last one, or `check` refuses; `keep` false takes it back,
    /// once everything was found to be well.
    ///
    /// # Errors
    /// What `check` said, or that it could not be stored; then nothing was.
    pub(crate) async fn apply<E: From<StoreError>>(
        &self,
        new: NewRevision<'_>,
        keep: bool,
        check: impl FnOnce(Before<'_>) -> Result<(), E>,
    ) -> Result<Stored, E> {
        let digest = digest_of(new.files);
        let mut transaction = self.dialect.begin(&self.pool).await.map_err(StoreError::from)?;
        let latest = latest(&mut transaction).await?;
        let recovering = recovering(&mut transaction).await?;
        check(Before { latest: latest.as_ref(), recovering: &recovering })?;
        let previous = latest.as_ref().map_or(0, |latest| latest.number);
        if let Some(revision) = latest.filter(|latest| latest.digest == digest) {
            return Ok(Stored { revision, previous, changed: false });
        }
        let revision = Revision {
            number: previous + 1,
            author: new.author.to_owned(),
            message: new.message.to_owned(),
            time: new.time,
            commit: new.commit.map(str::to_owned),
            restores: new.restores,
            digest,
            files: new.files.to_vec(),
        };
        insert(&mut transaction, &revision).await?;
        if keep {
            transaction.commit().await.map_err(StoreError::from)?;
        }
        Ok(Stored { revision, previous, changed: true })
    }

    /// The last revision, with files.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn latest(&self) -> Result<Option<Revision>, StoreError> {
        latest(&mut self.pool.begin().await?).await
    }

    /// One revision, with files.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn revision(&self, number: u64) -> Result<Option<Revision>, StoreError> {
        let Ok(number) = i64::try_from(number) else { return Ok(None) };
        one(&mut self.pool.begin().await?, number).await
    }

    /// The last revisions, newest first, without files.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn revisions(&self) -> Result<Vec<Revision>, StoreError> {
        let query = sqlx::query("SELECT * FROM revision ORDER BY number DESC LIMIT $1").bind(LISTED);
        query.fetch_all(&self.pool).await?.iter().map(read).collect()
    }
}

async fn latest(transaction: &mut Transaction<'static, Any>) -> Result<Option<Revision>, StoreError> {
    let query = sqlx::query("SELECT * FROM revision ORDER BY number DESC LIMIT 1");
    let row = query.fetch_optional(&mut **transaction).await?;
    with_files(transaction, row).await
}

pub(super) async fn one(
    transaction: &mut Transaction<'static, Any>,
    number: i64,
) -> Result<Option<Revision>, StoreError> {
    let query = sqlx::query("SELECT * FROM revision WHERE number = $1").bind(number);
    let row = query.fetch_optional(&mut **transaction).await?;
    with_files(transaction, row).await
}

async fn recovering(transaction: &mut Transaction<'static, Any>) -> Result<Vec<(String, String)>, StoreError> {
    let rows = sqlx::query("SELECT plan, body FROM recovery ORDER BY plan").fetch_all(&mut **transaction).await?;
    Ok(rows.iter().map(|row| Ok::<_, sqlx::Error>((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, _>>()?)
}

pub(super) async fn insert(transaction: &mut Transaction<'static, Any>, revision: &Revision) -> Result<(), StoreError> {
    let number = signed(revision.number);
    sqlx::query(
        "INSERT INTO revision (number, author, message, time, digest, git_commit, restores)
            VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(number)
    .bind(revision.author.clone())
    .bind(revision.message.clone())
    .bind(revision.time.0)
    .bind(revision.digest.clone())
    .bind(revision.commit.clone())
    .bind(revision.restores.map(signed))
    .execute(&mut **transaction)
    .await?;
    for (position, file) in (0_i64..).zip(&revision.files) {
        sqlx::query("INSERT INTO revision_file (revision, position, path, text) VALUES ($1, $2, $3, $4)")
            .bind(number)
            .bind(position)
            .bind(file.path.clone())
            .bind(file.text.clone())
            .execute(&mut **transaction)
            .await?;
    }
    Ok(())
}

async fn with_files(
    transaction: &mut Transaction<'static, Any>,
    row: Option<AnyRow>,
) -> Result<Option<Revision>, StoreError> {
    let Some(row) = row else { return Ok(None) };
    let mut revision = read(&row)?;
    let files = sqlx::query("SELECT path, text FROM revision_file WHERE revision = $1 ORDER BY position")
        .bind(signed(revision.number))
        .fetch_all(&mut **transaction)
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

fn read(row: &AnyRow) -> Result<Revision, StoreError> {
    Ok(Revision {
        number: row.try_get::<i64, _>("number")?.unsigned_abs(),
        author: row.try_get("author")?,
        message: row.try_get("message")?,
        time: Stamp(row.try_get("time")?),
        commit: row.try_get("git_commit")?,
        restores: row.try_get::<Option<i64>, _>("restores")?.map(i64::unsigned_abs),
        digest: row.try_get("digest")?,
        files: Vec::new(),
    })
}

/// Both databases count in 64 bits with a sign.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
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
