//! The whole store as one value, that another store (of either kind) can be made of.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sqlx::{Any, Row as _, Transaction, any::AnyRow};

use super::{Dialect, Store, StoreError, of_json, revision, to_json};
use crate::api::{Placements, Revision};

/// What a file of this form says it is.
const FORMAT: &str = "firedrill-backup/1";

/// Everything that a store keeps. Leases are not kept, so they are not in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Backup {
    format: String,
    /// SHA-256 (hex) over the canonical form of the rest.
    digest: String,
    content: Content,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Content {
    /// Oldest first, with files.
    revisions: Vec<Revision>,
    placements: Placements,
    recovery: Vec<(String, Value)>,
}

impl Backup {
    fn of(content: Content) -> Result<Self, StoreError> {
        Ok(Self { format: FORMAT.to_owned(), digest: digest_of(&content)?, content })
    }

    /// Reads a backup and checks that it is whole.
    ///
    /// # Errors
    /// A sentence on what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let backup: Self = serde_json::from_slice(bytes).map_err(|e| format!("it is not a backup: {e}"))?;
        if backup.format != FORMAT {
            return Err(format!("it is `{}`, and this program reads `{FORMAT}`", backup.format));
        }
        let digest = digest_of(&backup.content).map_err(|e| e.to_string())?;
        if digest != backup.digest {
            return Err("it is damaged: its content does not have its digest".to_owned());
        }
        for (expected, revision) in (1..).zip(&backup.content.revisions) {
            if revision.number != expected || revision::digest_of(&revision.files) != revision.digest {
                return Err(format!("it is damaged: revision {} is not what it was", revision.number));
            }
        }
        Ok(backup)
    }

    /// The revision in force in it; 0: none.
    pub fn latest(&self) -> u64 {
        self.content.revisions.last().map_or(0, |revision| revision.number)
    }
}

fn digest_of(content: &Content) -> Result<String, StoreError> {
    // Our types write their fields in one order.
    Ok(crate::secret::hex(&Sha256::digest(to_json("a backup", content)?)))
}

impl Store {
    /// All that is stored, at one moment; the store can be in use.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn backup(&self) -> Result<Backup, StoreError> {
        let begin = match self.dialect {
            Dialect::Sqlite => "BEGIN",
            Dialect::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        };
        let mut transaction = self.pool.begin_with(begin).await?;
        let numbers = sqlx::query("SELECT number FROM revision ORDER BY number").fetch_all(&mut *transaction).await?;
        let mut revisions = Vec::new();
        for number in numbers {
            revisions.extend(revision::one(&mut transaction, number.try_get(0)?).await?);
        }
        let row = sqlx::query("SELECT body FROM placements").fetch_optional(&mut *transaction).await?;
        let placements = match row {
            Some(row) => of_json("placements", &row.try_get::<String, _>(0)?)?,
            None => Placements::default(),
        };
        let rows = sqlx::query("SELECT plan, body FROM recovery ORDER BY plan").fetch_all(&mut *transaction).await?;
        let read = |row: &AnyRow| -> Result<(String, Value), StoreError> {
            Ok((row.try_get(0)?, of_json("recovery", &row.try_get::<String, _>(1)?)?))
        };
        let recovery = rows.iter().map(read).collect::<Result<_, _>>()?;
        Backup::of(Content { revisions, placements, recovery })
    }

    /// Replaces everything by what is in a backup. From then on proxies that hold a newer revision than the one in force
    /// are refused, unless `forced`.
    ///
    /// # Errors
    /// If it could not be stored, or a control plane works on it; then nothing changed.
    pub async fn restore(&self, backup: &Backup, forced: bool) -> Result<(), StoreError> {
        let mut transaction = self.dialect.begin(&self.pool).await?;
        self.check_idle(&mut transaction).await?;
        for table in ["revision_file", "revision", "placements", "recovery", "restored", "join_token"] {
            let sql = sqlx::AssertSqlSafe(format!("DELETE FROM {table}"));
            sqlx::query(sql).execute(&mut *transaction).await?;
        }
        let Content { revisions, placements, recovery } = &backup.content;
        for revision in revisions {
            revision::insert(&mut transaction, revision).await?;
        }
        let sql = "INSERT INTO placements (\"only\", body) VALUES (1, $1)";
        sqlx::query(sql).bind(to_json("placements", placements)?).execute(&mut *transaction).await?;
        for (plan, body) in recovery {
            let query = sqlx::query("INSERT INTO recovery (plan, body) VALUES ($1, $2)").bind(plan.clone());
            query.bind(to_json("recovery", body)?).execute(&mut *transaction).await?;
        }
        let sql = "INSERT INTO restored (\"only\", forced) VALUES (1, $1)";
        sqlx::query(sql).bind(i64::from(forced)).execute(&mut *transaction).await?;
        Ok(transaction.commit().await?)
    }

    /// Several control planes tell by who leads. (One alone is found by its state folder.)
    async fn check_idle(&self, transaction: &mut Transaction<'static, Any>) -> Result<(), StoreError> {
        if !self.is_shared() {
            return Ok(());
        }
        let sql = "SELECT COUNT(*) FROM lead WHERE expires > now_ms()";
        let leads: i64 = sqlx::query(sql).fetch_one(&mut **transaction).await?.try_get(0)?;
        if leads > 0 { Err(StoreError::InUse) } else { Ok(()) }
    }

    /// Whether the store was restored from a backup, and nobody said that newer proxies shall go back with it.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) async fn is_restored(&self) -> Result<bool, StoreError> {
        let row = sqlx::query("SELECT forced FROM restored").fetch_optional(&self.pool).await?;
        row.map_or(Ok(false), |row| Ok(row.try_get::<i64, _>(0)? == 0))
    }
}
