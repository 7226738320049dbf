//! Where recovery of plans stands.

use sqlx::{Row as _, any::AnyRow};

use super::{Store, StoreError, of_json, to_json};

impl Store {
    /// Stores where recovery of a plan stands; `None` forgets it (it is normal).
    ///
    /// # Errors
    /// If it could not be stored.
    pub async fn set_recovery<T: serde::Serialize>(&self, plan: &str, state: Option<&T>) -> Result<(), StoreError> {
        let mut transaction = self.dialect.begin(&self.pool).await?;
        match state {
            Some(state) => {
                let sql = "INSERT INTO recovery (plan, body) VALUES ($1, $2)
                    ON CONFLICT (plan) DO UPDATE SET body = excluded.body";
                let body = to_json("recovery", state)?;
                sqlx::query(sql).bind(plan.to_owned()).bind(body).execute(&mut *transaction).await?;
            }
            None => {
                let sql = "DELETE FROM recovery WHERE plan = $1";
                sqlx::query(sql).bind(plan.to_owned()).execute(&mut *transaction).await?;
            }
        }
        Ok(transaction.commit().await?)
    }

    /// Where recovery stands, by plan; plans that are not in it are normal.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn recovery<T: serde::de::DeserializeOwned>(&self) -> Result<Vec<(String, T)>, StoreError> {
        let rows = sqlx::query("SELECT plan, body FROM recovery ORDER BY plan").fetch_all(&self.pool).await?;
        let read = |row: &AnyRow| -> Result<(String, T), StoreError> {
            Ok((row.try_get(0)?, of_json("recovery", &row.try_get::<String, _>(1)?)?))
        };
        rows.iter().map(read).collect()
    }
}
