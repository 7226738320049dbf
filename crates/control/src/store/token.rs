//! Join tokens: what they are for, when they end, and whose key used one. The tokens themselves are not stored.

use std::time::Duration;

use sqlx::Row as _;

use super::{Dialect, Store, StoreError};
use crate::api::Stamp;

/// A token that ended is forgotten after this time; until then its user is told what is wrong with it.
const KEPT: Duration = Duration::from_secs(24 * 3600);

pub(super) const SCHEMA: &str = "
    CREATE TABLE join_token (
        digest TEXT PRIMARY KEY,
        subject TEXT NOT NULL,
        proxy TEXT,
        expires BIGINT NOT NULL,
        used_by TEXT
    );";

/// What became of a token that somebody showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Redeemed {
    Done,
    Unknown,
    Used,
    Expired,
    /// It is for somebody else.
    Other(String),
}

/// Who shows a token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bearer<'a> {
    /// `service/NAME` or `gateway/NAME`.
    pub subject: &'a str,
    pub proxy: &'a str,
    /// Digest of the public key that is to be certified.
    pub key: &'a str,
}

impl Dialect {
    /// Milliseconds since the Unix epoch by the database's clock: those of instances need not agree.
    fn now_ms(self) -> &'static str {
        match self {
            Self::Sqlite => "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
            Self::Postgres => "now_ms()",
        }
    }
}

impl Store {
    /// Stores a new token by its digest. Answers when it ends.
    pub(crate) async fn add_token(
        &self,
        digest: &str,
        subject: &str,
        proxy: Option<&str>,
        ttl: Duration,
    ) -> Result<Stamp, StoreError> {
        let now = self.dialect.now_ms();
        let mut transaction = self.dialect.begin(&self.pool).await?;
        let sql = sqlx::AssertSqlSafe(format!("DELETE FROM join_token WHERE expires < {now} - $1"));
        sqlx::query(sql).bind(millis(KEPT)).execute(&mut *transaction).await?;
        let sql = sqlx::AssertSqlSafe(format!(
            "INSERT INTO join_token (digest, subject, proxy, expires) VALUES ($1, $2, $3, {now} + $4) RETURNING expires"
        ));
        let query = sqlx::query(sql).bind(digest.to_owned()).bind(subject.to_owned()).bind(proxy.map(str::to_owned));
        let expires: i64 = query.bind(millis(ttl)).fetch_one(&mut *transaction).await?.try_get(0)?;
        transaction.commit().await?;
        Ok(Stamp(expires.saturating_mul(1_000_000)))
    }

    /// Uses a token up, for one key: one statement, so that of several instances one at most lets a key in. The same key
    /// may ask again, since the answer may have been lost.
    pub(crate) async fn redeem_token(&self, digest: &str, bearer: Bearer<'_>) -> Result<Redeemed, StoreError> {
        let now = self.dialect.now_ms();
        let sql = sqlx::AssertSqlSafe(format!(
            "UPDATE join_token SET used_by = $1 WHERE digest = $2 AND subject = $3 AND COALESCE(proxy, $4) = $5
                AND expires > {now} AND COALESCE(used_by, $6) = $7"
        ));
        let Bearer { subject, proxy, key } = bearer;
        let mut query = sqlx::query(sql);
        for value in [key, digest, subject, proxy, proxy, key, key] {
            query = query.bind(value.to_owned());
        }
        if query.execute(&self.pool).await?.rows_affected() == 1 {
            return Ok(Redeemed::Done);
        }
        let sql = "SELECT subject, COALESCE(proxy, '') AS proxy, COALESCE(used_by, '') AS used_by
            FROM join_token WHERE digest = $1";
        let row = sqlx::query(sql).bind(digest.to_owned()).fetch_optional(&self.pool).await?;
        let Some(row) = row else { return Ok(Redeemed::Unknown) };
        let (of, of_proxy): (String, String) = (row.try_get("subject")?, row.try_get("proxy")?);
        if of != subject {
            return Ok(Redeemed::Other(of));
        }
        if !of_proxy.is_empty() && of_proxy != proxy {
            return Ok(Redeemed::Other(format!("proxy {of_proxy}")));
        }
        let used: String = row.try_get("used_by")?;
        Ok(if used.is_empty() || used == key { Redeemed::Expired } else { Redeemed::Used })
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use e2e::postgres::Postgres;

    use super::*;
    use crate::store::StoreAddress;

    async fn holds(address: &StoreAddress) {
        let (one, two) = (Store::open(address).await.unwrap(), Store::open(address).await.unwrap());
        let minute = Duration::from_secs(60);
        let web = Bearer { subject: "service/web", proxy: "web-0", key: "k1" };
        one.add_token("t", "service/web", None, minute).await.unwrap();
        assert_eq!(two.redeem_token("x", web).await.unwrap(), Redeemed::Unknown);
        let fx = Bearer { subject: "service/fx", ..web };
        assert_eq!(two.redeem_token("t", fx).await.unwrap(), Redeemed::Other("service/web".to_owned()));
        // Many at once, over both: one key gets in, as often as it asks.
        let keys: Vec<String> = (0..12).map(|n| format!("key {n}")).collect();
        let asked = keys.iter().map(|key| {
            let store = if key.len() % 2 == 0 { &one } else { &two };
            store.redeem_token("t", Bearer { key, ..web })
        });
        let answers = futures_util::future::join_all(asked).await;
        let in_: Vec<&String> =
            keys.iter().zip(&answers).filter(|(_, a)| *a.as_ref().unwrap() == Redeemed::Done).map(|(k, _)| k).collect();
        assert_eq!(in_.len(), 1, "{answers:?}");
        assert_eq!(answers.iter().filter(|a| *a.as_ref().unwrap() == Redeemed::Used).count(), 11, "{answers:?}");
        assert_eq!(one.redeem_token("t", Bearer { key: in_[0], ..web }).await.unwrap(), Redeemed::Done);
        // One proxy's.
        one.add_token("p", "service/web", Some("web-1"), minute).await.unwrap();
        assert_eq!(two.redeem_token("p", web).await.unwrap(), Redeemed::Other("proxy web-1".to_owned()));
        assert_eq!(two.redeem_token("p", Bearer { proxy: "web-1", ..web }).await.unwrap(), Redeemed::Done);
        // Ended as it was made.
        one.add_token("e", "service/web", None, Duration::ZERO).await.unwrap();
        assert_eq!(two.redeem_token("e", web).await.unwrap(), Redeemed::Expired);
    }

    #[tokio::test]
    async fn a_token_lets_one_key_in_once_in_sqlite() {
        let folder = tempfile::tempdir().unwrap();
        holds(&StoreAddress::File(folder.path().join("control.db"))).await;
    }

    #[tokio::test]
    async fn a_token_lets_one_key_in_once_in_postgresql() {
        let Some(postgres) = Postgres::start() else { return };
        holds(&StoreAddress::Postgres(postgres.database("tokens"))).await;
    }
}
