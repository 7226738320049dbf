//! What several control planes share beside configuration: who leads, leases with their overlays, what the leader said,
//! and what it is asked to do. PostgreSQL only. Times are the database's: clocks of instances need not agree.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use sqlx::{Any, Row as _, Transaction, any::AnyRow};

use super::{Dialect, Store, StoreError, of_json, to_json};
use crate::{
    api::{ControlEvent, LeaseRequest, OverlayRequest, Stamp},
    ca,
};

/// An instance leads for this long after it last said so.
pub(crate) const LEAD_TTL: Duration = Duration::from_secs(3);
/// An errand that nobody did is forgotten after this time.
pub(crate) const ERRAND_TTL: Duration = Duration::from_secs(4);
/// Entries of what leaders said that are kept: who falls further behind has missed some.
const SAID: i64 = 1_000;

/// The part of the schema that only PostgreSQL has. What is unlogged is empty after the database crashed: leases lapse.
pub(super) const SCHEMA: &str = "
    CREATE FUNCTION now_ms() RETURNS BIGINT LANGUAGE sql VOLATILE AS
        'SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::BIGINT';
    CREATE TABLE authority (\"only\" BIGINT PRIMARY KEY CHECK (\"only\" = 1), roots TEXT NOT NULL);
    CREATE TABLE lead (
        \"only\" BIGINT PRIMARY KEY CHECK (\"only\" = 1),
        holder TEXT NOT NULL,
        epoch BIGINT NOT NULL,
        expires BIGINT NOT NULL
    );
    CREATE UNLOGGED TABLE lease (id TEXT PRIMARY KEY, body TEXT NOT NULL, expires BIGINT NOT NULL);
    CREATE UNLOGGED TABLE said (
        sequence BIGSERIAL PRIMARY KEY,
        instance TEXT NOT NULL,
        time BIGINT NOT NULL,
        event TEXT NOT NULL
    );
    CREATE UNLOGGED TABLE errand (
        id TEXT PRIMARY KEY,
        body TEXT NOT NULL,
        answer TEXT,
        expires BIGINT NOT NULL
    );";

/// A lease as it is shared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SharedLease {
    pub request: LeaseRequest,
    pub overlays: BTreeMap<String, OverlayRequest>,
}

/// A lease and what is left of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LeaseRow {
    pub id: String,
    pub lease: SharedLease,
    pub left: Duration,
}

/// What tells an instance that something is not as it knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pulse {
    /// Number of the revision in force.
    pub revision: u64,
    /// Changes with the placements.
    pub placements: String,
    /// Changes with where recovery stands.
    pub recovery: String,
    /// Changes with every lease, overlay and heartbeat.
    pub leases: String,
    /// Number of the last entry that a leader said.
    pub said: i64,
    /// Whether something is asked of the leader.
    pub errands: bool,
}

impl Store {
    /// Whether instances share it.
    pub(crate) fn is_shared(&self) -> bool {
        self.dialect == Dialect::Postgres
    }

    /// Whether the mesh of this store has one of these roots, which it then takes all; an empty store takes them.
    pub(crate) async fn has_roots(&self, roots: &str) -> Result<bool, StoreError> {
        let mut transaction = self.dialect.begin(&self.pool).await?;
        let sql = "INSERT INTO authority (\"only\", roots) VALUES (1, $1) ON CONFLICT (\"only\") DO NOTHING";
        sqlx::query(sql).bind(roots.to_owned()).execute(&mut *transaction).await?;
        let row = sqlx::query("SELECT roots FROM authority").fetch_one(&mut *transaction).await?;
        let known: String = row.try_get(0)?;
        let has = known == roots || ca::share_a_root(&known, roots);
        if has {
            sqlx::query("UPDATE authority SET roots = $1").bind(roots.to_owned()).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(has)
    }

    /// Notes the roots that the mesh has now.
    pub(crate) async fn set_roots(&self, roots: &str) -> Result<(), StoreError> {
        sqlx::query("UPDATE authority SET roots = $1").bind(roots.to_owned()).execute(&self.pool).await?;
        Ok(())
    }

    /// Leads, or goes on leading, for [`LEAD_TTL`] from now. Answers the epoch, which grows whenever another instance
    /// leads; `None` while another one does.
    pub(crate) async fn lead(&self, instance: &str) -> Result<Option<u64>, StoreError> {
        let sql = "INSERT INTO lead (\"only\", holder, epoch, expires) VALUES (1, $1, 1, now_ms() + $2)
            ON CONFLICT (\"only\") DO UPDATE SET
                holder = excluded.holder,
                epoch = lead.epoch + CASE WHEN lead.holder = excluded.holder THEN 0 ELSE 1 END,
                expires = excluded.expires
            WHERE lead.holder = excluded.holder OR lead.expires < now_ms()
            RETURNING epoch";
        let row = sqlx::query(sql).bind(instance.to_owned()).bind(millis(LEAD_TTL)).fetch_optional(&self.pool).await?;
        row.map(|row| Ok(row.try_get::<i64, _>(0)?.unsigned_abs())).transpose()
    }

    /// Stops leading, so that another instance can at once.
    pub(crate) async fn resign(&self, instance: &str) -> Result<(), StoreError> {
        let sql = "UPDATE lead SET expires = 0 WHERE holder = $1";
        sqlx::query(sql).bind(instance.to_owned()).execute(&self.pool).await?;
        Ok(())
    }

    /// What is there now, as short as it can be told.
    pub(crate) async fn pulse(&self) -> Result<Pulse, StoreError> {
        let sql = "SELECT
            COALESCE((SELECT MAX(number) FROM revision), 0) AS revision,
            COALESCE((SELECT md5(body) FROM placements), '') AS placements,
            COALESCE((SELECT md5(string_agg(plan || ' ' || body, ' ' ORDER BY plan)) FROM recovery), '') AS recovery,
            COALESCE((SELECT md5(string_agg(id || ' ' || expires || ' ' || body, ' ' ORDER BY id)) FROM lease
                WHERE expires > now_ms()), '') AS leases,
            COALESCE((SELECT MAX(sequence) FROM said), 0) AS said,
            (SELECT COUNT(*) FROM errand WHERE answer IS NULL AND expires > now_ms()) AS errands";
        let row = sqlx::query(sql).fetch_one(&self.pool).await?;
        Ok(Pulse {
            revision: row.try_get::<i64, _>("revision")?.unsigned_abs(),
            placements: row.try_get("placements")?,
            recovery: row.try_get("recovery")?,
            leases: row.try_get("leases")?,
            said: row.try_get("said")?,
            errands: row.try_get::<i64, _>("errands")? > 0,
        })
    }

    /// Leases that are held now.
    pub(crate) async fn leases(&self) -> Result<Vec<LeaseRow>, StoreError> {
        held(&mut self.pool.begin().await?).await
    }

    /// Changes leases: `change` is given those that are held and answers those that shall be, each with the time that is
    /// left to it. Those it leaves as they are keep their end.
    pub(crate) async fn change_leases<R, E: From<StoreError>>(
        &self,
        change: impl FnOnce(&[LeaseRow]) -> Result<(R, Vec<LeaseRow>), E>,
    ) -> Result<R, E> {
        let mut transaction = self.dialect.begin(&self.pool).await.map_err(StoreError::from)?;
        let before = held(&mut transaction).await?;
        let (result, after) = change(&before)?;
        write(&mut transaction, &before, &after).await?;
        transaction.commit().await.map_err(StoreError::from)?;
        Ok(result)
    }

    /// Tells the other instances what this one did as the leader.
    pub(crate) async fn say(&self, instance: &str, time: Stamp, event: &ControlEvent) -> Result<(), StoreError> {
        let mut transaction = self.dialect.begin(&self.pool).await?;
        let sql = "INSERT INTO said (instance, time, event) VALUES ($1, $2, $3)";
        let event = to_json("an event", event)?;
        let query = sqlx::query(sql).bind(instance.to_owned()).bind(time.0).bind(event);
        query.execute(&mut *transaction).await?;
        let sql = "DELETE FROM said WHERE sequence <= (SELECT MAX(sequence) FROM said) - $1";
        sqlx::query(sql).bind(SAID).execute(&mut *transaction).await?;
        Ok(transaction.commit().await?)
    }

    /// What other instances said after an entry.
    pub(crate) async fn said(&self, after: i64, instance: &str) -> Result<Vec<(Stamp, ControlEvent)>, StoreError> {
        let sql = "SELECT time, event FROM said WHERE sequence > $1 AND instance <> $2 ORDER BY sequence";
        let rows = sqlx::query(sql).bind(after).bind(instance.to_owned()).fetch_all(&self.pool).await?;
        let read = |row: &AnyRow| -> Result<(Stamp, ControlEvent), StoreError> {
            Ok((Stamp(row.try_get(0)?), of_json("an event", &row.try_get::<String, _>(1)?)?))
        };
        rows.iter().map(read).collect()
    }

    /// Asks something of the leader, whoever that is.
    pub(crate) async fn send_errand(&self, id: &str, errand: &impl Serialize) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM errand WHERE expires < now_ms()").execute(&self.pool).await?;
        let sql = "INSERT INTO errand (id, body, expires) VALUES ($1, $2, now_ms() + $3)";
        let query = sqlx::query(sql).bind(id.to_owned()).bind(to_json("an errand", errand)?);
        query.bind(millis(ERRAND_TTL)).execute(&self.pool).await?;
        Ok(())
    }

    /// Errands that wait for an answer.
    pub(crate) async fn errands<T: serde::de::DeserializeOwned>(&self) -> Result<Vec<(String, T)>, StoreError> {
        let sql = "SELECT id, body FROM errand WHERE answer IS NULL AND expires > now_ms() ORDER BY expires, id";
        let rows = sqlx::query(sql).fetch_all(&self.pool).await?;
        let read = |row: &AnyRow| -> Result<(String, T), StoreError> {
            Ok((row.try_get(0)?, of_json("an errand", &row.try_get::<String, _>(1)?)?))
        };
        rows.iter().map(read).collect()
    }

    /// Answers an errand.
    pub(crate) async fn answer_errand(&self, id: &str, answer: &impl Serialize) -> Result<(), StoreError> {
        let query = sqlx::query("UPDATE errand SET answer = $2 WHERE id = $1").bind(id.to_owned());
        query.bind(to_json("an answer", answer)?).execute(&self.pool).await?;
        Ok(())
    }

    /// The answer to an errand, once it is there.
    pub(crate) async fn errand_answer<T: serde::de::DeserializeOwned>(
        &self,
        id: &str,
    ) -> Result<Option<T>, StoreError> {
        let query = sqlx::query("SELECT answer FROM errand WHERE id = $1 AND answer IS NOT NULL").bind(id.to_owned());
        let row = query.fetch_optional(&self.pool).await?;
        row.map(|row| of_json("an answer", &row.try_get::<String, _>(0)?)).transpose()
    }
}

async fn held(transaction: &mut Transaction<'static, Any>) -> Result<Vec<LeaseRow>, StoreError> {
    let sql = "SELECT id, body, expires - now_ms() AS left_ms FROM lease WHERE expires > now_ms() ORDER BY id";
    let rows = sqlx::query(sql).fetch_all(&mut **transaction).await?;
    let read = |row: &AnyRow| -> Result<LeaseRow, StoreError> {
        let left = row.try_get::<i64, _>("left_ms")?;
        Ok(LeaseRow {
            id: row.try_get("id")?,
            lease: of_json("a lease", &row.try_get::<String, _>("body")?)?,
            left: Duration::from_millis(u64::try_from(left).unwrap_or(0)),
        })
    };
    rows.iter().map(read).collect()
}

async fn write(
    transaction: &mut Transaction<'static, Any>,
    before: &[LeaseRow],
    after: &[LeaseRow],
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM lease WHERE expires <= now_ms()").execute(&mut **transaction).await?;
    for gone in before.iter().filter(|old| !after.iter().any(|new| new.id == old.id)) {
        sqlx::query("DELETE FROM lease WHERE id = $1").bind(gone.id.clone()).execute(&mut **transaction).await?;
    }
    for new in after {
        let old = before.iter().find(|old| old.id == new.id);
        if old == Some(new) {
            continue;
        }
        let body = to_json("a lease", &new.lease)?;
        if old.is_some_and(|old| old.left == new.left) {
            let query = sqlx::query("UPDATE lease SET body = $2 WHERE id = $1").bind(new.id.clone()).bind(body);
            query.execute(&mut **transaction).await?;
            continue;
        }
        let sql = "INSERT INTO lease (id, body, expires) VALUES ($1, $2, now_ms() + $3)
            ON CONFLICT (id) DO UPDATE SET body = excluded.body, expires = excluded.expires";
        let query = sqlx::query(sql).bind(new.id.clone()).bind(body).bind(millis(new.left));
        query.execute(&mut **transaction).await?;
    }
    Ok(())
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
